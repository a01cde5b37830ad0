"""The feature store: immutable shards, a root file, and a reader that verifies.

    RUN/plan.h5         while the job runs: the manifest's columns and the identity
    RUN/shards/N.h5     `features` (rows, D), `norm`, `status` (rows,); written aside, renamed
    RUN/store.h5        once every shard is there and verified: the plan's columns, `norm`,
                        `status`, and `features`, a virtual dataset over the shards

A final name means complete. `store.h5` can be opened by any HDF5 tool; our own readers
map the shards, because a virtual dataset reads a missing source as NaN without an error.
"""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from distreid.errors import StoreError
from distreid.files import MEND, check_bytes, check_column, open_hdf5, publish_hdf5
from distreid.manifest import Manifest, Status
from distreid.plan import Plan, Shard, differences, to_json
from distreid.shards import STATUS_TYPE, done_shards, read_shard, shard_file, verify_shard

FORMAT = 2
ROOTS = ("store.h5", "plan.h5")  # either makes a folder a run
COLUMN_KINDS = {"path": "S", "person_id": "i", "camera_id": "i", "split": "S"}


def begin(run: Path, plan: Plan) -> list[Shard]:
    """Starts or continues a run; gives the shards that are still to be computed.

    Called by one process. Raises StoreError if the folder holds a run of another
    identity, naming the fields, or something that is no run.
    """
    try:
        (run / "shards").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{run}: {error.strerror}; check --out") from error
    is_run = any((run / name).exists() for name in ROOTS)
    todo = remaining(run, plan)
    for left_over in (*run.glob("*.tmp"), *(run / "shards").glob("*.tmp")):
        if ".lock." not in left_over.name:  # of another job, which is about to be refused
            left_over.unlink(missing_ok=True)
    if todo or not is_run:
        write_root(run / "plan.h5", plan)
        # A store that has lost a shard must not look complete while it is mended.
        (run / "store.h5").unlink(missing_ok=True)
    return todo


def remaining(run: Path, plan: Plan) -> list[Shard]:
    """What `begin` would give or refuse; changes nothing."""
    present = existing_plan(run)
    done = done_shards(run) if (run / "shards").is_dir() else set()
    if present is None:
        _adopt(run, plan, done)
    else:
        differing = differences(json.loads(to_json(plan.identity)), present.identity)
        if present.shard_rows != plan.shard_rows:
            differing.append(f"shard_rows: {plan.shard_rows}, not {present.shard_rows}")
        if differing:
            raise StoreError(
                f"{run} holds another run ({'; '.join(differing)}); "
                "give another --out, or delete that folder"
            )
    return [shard for shard in plan.shards if shard.index not in done]


def _adopt(run: Path, plan: Plan, done: set[int]) -> None:
    """Takes the shards that are there for this run's, whose plan was lost, if they are."""
    for index in sorted(done):
        try:
            read_shard(run, plan, plan.shards[index])
        except (StoreError, IndexError) as error:
            raise StoreError(
                f"{run}: shards without a plan, and not of this run ({shard_file(run, index).name})"
                "; give another --out"
            ) from error


def existing_plan(run: Path) -> Plan | None:
    """The plan of a run that is complete or under way; None if there is none."""
    for name in ROOTS:
        if (run / name).exists():
            return read_plan(run / name)
    return None


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What the shards say of all N rows beside their features."""

    norm: NDArray[np.float32]
    """(N,) L2 norms before normalisation; NaN where the status is not OK."""
    status: NDArray[np.uint8]
    """(N,) values of `Status`."""


def examine(run: Path, plan: Plan, shards: Sequence[Shard]) -> list[Columns | StoreError]:
    """Reads every byte of these shards, several at a time: what each says, or what is wrong."""

    def look(shard: Shard) -> Columns | StoreError:
        try:
            rows = verify_shard(run, plan, shard)
        except StoreError as error:
            return error
        return Columns(norm=rows.norm, status=rows.status)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(look, shards))


def verify(run: Path, plan: Plan) -> Columns:
    """Reads every byte of every shard; gives what the shards say of each row, in order.

    StoreError names the first shard that is missing, damaged or of another run, or the
    first row whose features do not fit its status.
    """
    parts, errors = [], []
    for found in examine(run, plan, plan.shards):
        if isinstance(found, StoreError):
            errors.append(found)
        else:
            parts.append(found)
    if len(errors) > 1:
        raise StoreError(f"{errors[0]} ({len(errors) - 1:,} more: see distreid verify {run})")
    if errors:
        raise errors[0]
    return join(parts)


def join(parts: Sequence[Columns]) -> Columns:
    """The columns of all shards, from each shard's in order."""
    return Columns(
        norm=np.concatenate([part.norm for part in parts]),
        status=np.concatenate([part.status for part in parts]),
    )


def finish(run: Path, plan: Plan) -> None:
    """Verifies every shard, then writes `store.h5`; StoreError if no image could be read."""
    columns = verify(run, plan)
    if not (columns.status == Status.OK).any():
        rows = len(plan.manifest)
        raise StoreError(f"{run}: none of the {rows:,} images could be read; check --data")
    write_root(run / "store.h5", plan, columns)
    (run / "plan.h5").unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True)
class FeatureStore:
    """A complete run, for reading. Rows are in manifest order."""

    run: Path
    plan: Plan
    norm: NDArray[np.float32]
    """(N,) L2 norms of the features before normalisation."""
    status: NDArray[np.uint8]
    """(N,) values of `Status`."""

    @classmethod
    def open(cls, run: Path, *, checksum: bool = True) -> FeatureStore:
        """Opens a complete run; StoreError if it is none, or is damaged.

        Every shard must be there and of this run; its bytes are read and checked too, unless
        the caller has just done so.
        """
        root = run / "store.h5"
        if not root.exists():
            plan = existing_plan(run) if run.is_dir() else None
            if plan is None:
                raise no_run(run)
            raise StoreError(
                f"{run}: {len(done_shards(run)):,} of {len(plan.shards):,} shards are done; "
                "run the same extraction again to finish it"
            )
        plan, columns = read_plan(root), read_columns(root)
        # Each mapping holds a file open, and the usual limit is 1,024.
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        store = cls(run=run, plan=plan, norm=columns.norm, status=columns.status)
        if checksum:
            compare(root, columns, verify(run, plan))
        else:
            for _ in store.blocks():
                pass
        return store

    @property
    def manifest(self) -> Manifest:
        """The rows."""
        return self.plan.manifest

    def blocks(self) -> Iterator[tuple[Shard, NDArray[np.floating[Any]]]]:
        """Every shard with its features, mapped, in row order."""
        for shard in self.plan.shards:
            yield shard, read_shard(self.run, self.plan, shard).features

    def pieces(self, rows: NDArray[np.intp]) -> list[NDArray[np.floating[Any]]]:
        """The features of ascending rows, a piece from each shard; mapped, not read, where a
        shard's rows are all wanted without a gap."""
        pieces = []
        for shard, features in self.blocks():
            first, last = np.searchsorted(rows, (shard.start, shard.stop))
            if first == last:
                continue
            wanted = rows[first:last] - shard.start
            without_gap = wanted[-1] - wanted[0] + 1 == len(wanted)
            pieces.append(features[wanted[0] : wanted[-1] + 1] if without_gap else features[wanted])
        return pieces

    def features(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        """(len(rows), D) float32, in the order of `rows`, which must ascend."""
        result = np.empty((len(rows), self.plan.dim), dtype=np.float32)
        for shard, features in self.blocks():
            first, last = np.searchsorted(rows, (shard.start, shard.stop))
            result[first:last] = features[rows[first:last] - shard.start]
        return result


def no_run(run: Path) -> StoreError:
    """For a folder that holds none, or several."""
    if inside := sorted({file.parent.name for name in ROOTS for file in run.glob(f"*/{name}")}):
        return StoreError(f"{run}: a folder of runs; give one of them: {', '.join(inside)}")
    return StoreError(f"{run}: no run; --out of the extraction is wanted")


def read_plan(root: Path) -> Plan:
    """The plan in `plan.h5` or `store.h5`; StoreError if it cannot be read or is damaged."""
    check_bytes(root)
    with open_hdf5(root) as file:
        if file.attrs["format"] != FORMAT:
            raise StoreError(
                f"{root}: format {file.attrs['format']}, this distreid reads {FORMAT}; "
                "use the version that wrote it"
            )
        identity, provenance = (json.loads(file.attrs[key]) for key in ("identity", "provenance"))
        rows = len(file["path"])
        columns = {
            name: check_column(file[name], rows, kind)[()] for name, kind in COLUMN_KINDS.items()
        }
        extra = {name: check_column(c, rows, "S")[()] for name, c in file["extra"].items()}
        manifest = Manifest(
            root=Path(os.fsdecode(bytes(file.attrs["root"]))),
            layout=file.attrs["layout"],
            notes=tuple(json.loads(file.attrs["notes"])),
            extra=extra,
            **columns,
        )
        return Plan(
            manifest=manifest,
            identity=identity,
            provenance=provenance,
            dim=int(file.attrs["dim"]),
            dtype=file.attrs["dtype"],
            shard_rows=int(file.attrs["shard_rows"]),
        )


def read_columns(root: Path) -> Columns:
    """What `store.h5` says of the rows beside their features."""
    with open_hdf5(root) as file:
        rows = len(file["path"])
        norm, status = (check_column(file[n], rows, k) for n, k in (("norm", "f"), ("status", "u")))
        return Columns(norm=norm[()], status=status[()].astype(np.uint8))


def compare(root: Path, ours: Columns, theirs: Columns) -> None:
    """StoreError if `store.h5` says something else of a row than its shard."""
    same = np.equal(ours.status, theirs.status)
    same &= np.equal(ours.norm, theirs.norm) | (np.isnan(ours.norm) & np.isnan(theirs.norm))
    if not same.all():
        row = int(np.argmin(same))
        raise StoreError(
            f"{root}: it and the shard of row {row} differ in its status or norm; {MEND}"
        )


def write_root(root: Path, plan: Plan, columns: Columns | None = None) -> None:
    """Writes `plan.h5`, or with what the shards say `store.h5`."""

    def write(file: h5py.File) -> None:
        file.attrs["format"] = FORMAT
        file.attrs["identity"] = to_json(plan.identity)
        file.attrs["provenance"] = to_json(plan.provenance)
        # A folder's name may be no UTF-8, which HDF5's texts are.
        file.attrs["root"] = np.void(os.fsencode(plan.manifest.root))
        file.attrs["layout"] = plan.manifest.layout
        file.attrs["notes"] = to_json(plan.manifest.notes)
        file.attrs["dim"], file.attrs["dtype"] = plan.dim, plan.dtype
        file.attrs["shard_rows"] = plan.shard_rows
        file.create_group("extra")
        for name, column in plan.manifest.columns().items():
            if column.dtype.kind == "S":
                column = column.view(h5py.string_dtype("utf-8", column.dtype.itemsize))
            file.create_dataset(name, data=column)
        if columns is not None:
            file.create_dataset("norm", data=columns.norm)
            file.create_dataset("status", data=columns.status, dtype=STATUS_TYPE)
            shape = (len(plan.manifest), plan.dim)
            layout = h5py.VirtualLayout(shape, dtype=plan.stored_type)
            for shard in plan.shards:
                source = shard_file(Path(), shard.index)  # relative: the folder can be moved
                layout[shard.start : shard.stop] = h5py.VirtualSource(
                    str(source), "features", shape=(len(shard), plan.dim)
                )
            file.create_virtual_dataset("features", layout, fillvalue=np.nan)

    publish_hdf5(root, write)
