"""A run's root file: its rows, its identity, and once it is complete what became of each row.

    RUN/plan.h5         while the job runs: the manifest's columns and the identity
    RUN/store.h5        once every shard is there and verified: the plan's columns, `norm`,
                        `status`, and `features`, a virtual dataset over the shards

Either makes a folder a run. A final name means complete.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from distreid.data.locators import path_of
from distreid.data.manifest import Manifest
from distreid.errors import StoreError
from distreid.host.atomic_files import MEND, check_bytes, check_column, open_hdf5, publish_hdf5
from distreid.host.counts import counted
from distreid.store.plan import Plan, to_json
from distreid.store.shards import STATUS_TYPE, shard_file

FORMAT = 2
ROOTS = ("store.h5", "plan.h5")  # either makes a folder a run
COLUMN_KINDS = {"path": "S", "person_id": "i", "camera_id": "i", "split": "S"}


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What the shards say of all N rows beside their features."""

    norm: NDArray[np.float32]
    """(N,) L2 norms before normalisation; NaN where the status is not OK."""
    status: NDArray[np.uint8]
    """(N,) values of `Status`."""


def existing_plan(run: Path) -> Plan | None:
    """The plan of a run that is complete or under way; None if there is none."""
    for name in ROOTS:
        if (run / name).exists():
            return read_plan(run / name)
    return None


def no_run(run: Path) -> StoreError:
    """For a folder that holds none, or several."""
    if inside := sorted({file.parent.name for name in ROOTS for file in run.glob(f"*/{name}")}):
        return StoreError(f"{run}: a folder of runs; give one of them: {', '.join(inside)}")
    if (run / "gallery.json").exists():
        return StoreError(f"{run}: a gallery, no run; see distreid gallery verify, open_gallery")
    return StoreError(f"{run}: no run; give the folder that was --out of an extraction")


def unfinished_run(run: str | Path, done: int, shards: int) -> StoreError:
    """For a run without its `store.h5`, of which so many shards are there."""
    if done < shards:
        how = f"{done:,} of {counted(shards, 'shard')} are done"
        return StoreError(f"{run}: {how}; run the same extraction again to finish it")
    return StoreError(
        f"{run}: all shards are done, and the run was not finished; run the same extraction again, "
        "which finishes it or says why it cannot"
    )


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
            root=path_of(os.fsdecode(bytes(file.attrs["root"]))),
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
