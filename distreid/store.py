"""The feature store: immutable shards, a root file, and a reader that verifies.

    RUN/plan.h5         while the job runs: the manifest's columns and the identity
    RUN/shards/N.h5     `features` (rows, D), `status` (rows,); written aside and renamed
    RUN/store.h5        once every shard is there and verified: the plan's columns, `status`,
                        and `features`, a virtual dataset over the shards

A final name means complete. `store.h5` can be opened by any HDF5 tool; our own readers
map the shards, because a virtual dataset reads a missing source as NaN without an error.
Nothing that varies between two equal runs is written to a shard: its bytes are the same.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import socket
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from distreid.errors import StoreError
from distreid.manifest import Manifest, Status
from distreid.sampler import Shard, plan_shards

FORMAT = 1
PAGE = 4096  # features start at a multiple of this, so that they can be mapped
UNALIGNED_BELOW = 1024  # HDF5's own small records need no page each
STATUS_TYPE = h5py.enum_dtype({s.name.lower(): s.value for s in Status}, basetype="u1")
SHARD_NAME = re.compile(r"(\d{6,})\.h5")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will hold: its rows, what they are computed with, and the shards."""

    manifest: Manifest
    identity: dict[str, Any]
    """What the features depend on; JSON values. Two stores that differ in it do not mix."""
    provenance: dict[str, Any]
    """Recorded for people, never compared: host, device, command, versions, time."""
    dim: int
    dtype: str
    """`float32` or `float16`."""
    shard_rows: int

    @functools.cached_property
    def shards(self) -> list[Shard]:
        """All shards, in row order."""
        return plan_shards(len(self.manifest), self.shard_rows)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the identity; every shard carries it."""
        return hashlib.sha256(_json(self.identity).encode()).hexdigest()


def differences(ours: dict[str, Any], theirs: dict[str, Any], prefix: str = "") -> list[str]:
    """The fields in which two identities differ, as `field: ours, not theirs`."""
    found = []
    for key in sorted(ours.keys() | theirs.keys()):
        a, b = ours.get(key), theirs.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key}: {_short(a)}, not {_short(b)}")
    return found


def shard_file(run: Path, index: int) -> Path:
    """Where a shard lies once it is complete."""
    return run / "shards" / f"{index:06d}.h5"


def begin(run: Path, plan: Plan) -> list[Shard]:
    """Starts or continues a run; gives the shards that are still to be computed.

    Called by one process. Raises StoreError if the folder holds a run of another
    identity, naming the fields, or something that is no run.
    """
    try:
        (run / "shards").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{run}: {error.strerror}; check --out") from error
    present = existing_plan(run)
    if present is None:
        if stray := next((run / "shards").iterdir(), None):
            raise StoreError(f"{run}: shards without a plan ({stray.name}); give another --out")
    else:
        differing = differences(_json_values(plan.identity), present.identity)
        if present.shard_rows != plan.shard_rows:
            differing.append(f"shard_rows: {plan.shard_rows}, not {present.shard_rows}")
        if differing:
            raise StoreError(
                f"{run} holds another run ({'; '.join(differing)}); "
                "give another --out, or delete that folder"
            )
    for left_over in (run / "shards").glob("*.tmp"):
        left_over.unlink(missing_ok=True)
    done = done_shards(run)
    todo = [shard for shard in plan.shards if shard.index not in done]
    if todo or present is None:
        _write_root(run / "plan.h5", plan)
        # A store that has lost a shard must not look complete while it is mended.
        (run / "store.h5").unlink(missing_ok=True)
    return todo


def existing_plan(run: Path) -> Plan | None:
    """The plan of a run that is complete or under way; None if there is none."""
    for name in ("store.h5", "plan.h5"):
        if (run / name).exists():
            return read_plan(run / name)
    return None


def done_shards(run: Path) -> set[int]:
    """The indices of the shards that have their final name."""
    names = (SHARD_NAME.fullmatch(entry.name) for entry in os.scandir(run / "shards"))
    return {int(match[1]) for match in names if match}


class ShardWriter:
    """Collects the rows of one shard at a time, and publishes it when it is full."""

    def __init__(self, run: Path, plan: Plan) -> None:
        self.run = run
        self.plan = plan
        self._shard: Shard | None = None
        self.pending = 0
        """Rows taken that are not yet on the disk."""

    def add(self, rows: range, features: NDArray[np.float32], status: NDArray[np.uint8]) -> None:
        """Takes consecutive rows of one shard, from its first; publishes it with its last."""
        if self._shard is None:
            index = rows.start // self.plan.shard_rows
            self._shard = self.plan.shards[index]
            self._features = np.empty((len(self._shard), self.plan.dim), f"<{_code(self.plan)}")
            self._status = np.empty(len(self._shard), np.uint8)
        shard = self._shard
        assert rows.start == shard.start + self.pending and rows.stop <= shard.stop, (rows, shard)
        place = slice(rows.start - shard.start, rows.stop - shard.start)
        self._features[place] = features
        self._status[place] = status
        self.pending += len(rows)
        if self.pending == len(shard):
            write_shard(self.run, self.plan, shard, self._features, self._status)
            self._shard, self.pending = None, 0


def write_shard(
    run: Path,
    plan: Plan,
    shard: Shard,
    features: NDArray[np.floating[Any]],
    status: NDArray[np.uint8],
) -> None:
    """Writes a whole shard under a temporary name, syncs it, and gives it its final name."""

    def write(file: h5py.File) -> None:
        file.attrs["identity"] = np.bytes_(plan.digest.encode())
        file.attrs["row"] = np.array([shard.start, shard.stop - 1], dtype="<i8")
        file.attrs["crc32"] = np.uint32(_checksum(features, status))
        file.create_dataset("features", data=features)
        file.create_dataset("status", data=status, dtype=STATUS_TYPE)

    _publish_hdf5(shard_file(run, shard.index), write)


def read_shard(
    run: Path, plan: Plan, shard: Shard, *, checksum: bool
) -> tuple[NDArray[np.floating[Any]], NDArray[np.uint8]]:
    """A shard's features, mapped, and its statuses. StoreError names what is wrong with it."""
    path = shard_file(run, shard.index)
    features, status, attributes = _open_shard(path)
    expected = {
        "identity": np.bytes_(plan.digest.encode()),
        "row": [shard.start, shard.stop - 1],
    }
    for name, value in expected.items():
        if not np.array_equal(attributes[name], value):
            raise StoreError(
                f"{path}: its {name} is {_short(attributes[name])}, the plan says "
                f"{_short(value)}; {_MEND}"
            )
    if features.shape != (len(shard), plan.dim) or status.shape != (len(shard),):
        raise StoreError(
            f"{path}: features of shape {features.shape}, the plan says "
            f"{(len(shard), plan.dim)}; {_MEND}"
        )
    if features.dtype != np.dtype(plan.dtype):
        raise StoreError(f"{path}: {features.dtype}, the plan says {plan.dtype}; {_MEND}")
    if checksum and _checksum(features, status) != attributes["crc32"]:
        raise StoreError(f"{path}: its bytes do not fit their checksum; {_MEND}")
    return features, status


def verify(run: Path, plan: Plan) -> NDArray[np.uint8]:
    """Reads every byte of every shard; gives the statuses of all rows, in order.

    StoreError names the first shard that is missing, damaged or of another run, or the
    first row whose features do not fit its status.
    """
    statuses = []
    for shard in plan.shards:
        features, status = read_shard(run, plan, shard, checksum=True)
        doubtful = np.isfinite(features).all(axis=1) != (status == Status.OK)
        if doubtful.any():
            row = shard.start + int(np.flatnonzero(doubtful)[0])
            raise StoreError(
                f"{shard_file(run, shard.index)}: the features of row {row} do not fit its "
                f"status; {_MEND}"
            )
        statuses.append(status)
    return np.concatenate(statuses)


def finish(run: Path, plan: Plan) -> None:
    """Verifies every shard, then writes `store.h5`; StoreError if no image could be read."""
    status = verify(run, plan)
    if not (status == Status.OK).any():
        raise StoreError(f"{run}: none of the {len(status):,} images could be read; check --data")
    _write_root(run / "store.h5", plan, status)
    (run / "plan.h5").unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True)
class FeatureStore:
    """A complete run, for reading. Rows are in manifest order."""

    run: Path
    plan: Plan
    status: NDArray[np.uint8]
    """(N,) values of `Status`."""

    @classmethod
    def open(cls, run: Path) -> FeatureStore:
        """Opens a complete run; StoreError if it is none."""
        root = run / "store.h5"
        if not root.exists():
            plan = existing_plan(run) if run.is_dir() else None
            if plan is None:
                raise StoreError(f"{run}: no run; --out of the extraction is wanted")
            raise StoreError(
                f"{run}: {len(done_shards(run)):,} of {len(plan.shards):,} shards are done; "
                "run the same extraction again to finish it"
            )
        plan = read_plan(root)
        with _damaged_if_unreadable(root), h5py.File(root, "r") as file:
            status = file["status"][()].astype(np.uint8)
        return cls(run=run, plan=plan, status=status)

    @property
    def manifest(self) -> Manifest:
        """The rows."""
        return self.plan.manifest

    def blocks(self, *, checksum: bool = True) -> Iterator[tuple[Shard, NDArray[np.floating[Any]]]]:
        """Every shard with its features, mapped, in row order; each verified as it is opened."""
        for shard in self.plan.shards:
            yield shard, read_shard(self.run, self.plan, shard, checksum=checksum)[0]

    def features(self, rows: NDArray[np.intp], *, checksum: bool = True) -> NDArray[np.float32]:
        """(len(rows), D) float32, in the order of `rows`, which must ascend."""
        result = np.empty((len(rows), self.plan.dim), dtype=np.float32)
        for shard, features in self.blocks(checksum=checksum):
            first, last = np.searchsorted(rows, (shard.start, shard.stop))
            result[first:last] = features[rows[first:last] - shard.start]
        return result


def read_plan(root: Path) -> Plan:
    """The plan in `plan.h5` or `store.h5`; StoreError if it cannot be read."""
    with _damaged_if_unreadable(root), h5py.File(root, "r") as file:
        if file.attrs["format"] != FORMAT:
            raise StoreError(
                f"{root}: format {file.attrs['format']}, this distreid reads {FORMAT}; "
                "use the version that wrote it"
            )
        identity, provenance = (json.loads(file.attrs[key]) for key in ("identity", "provenance"))
        columns = {name: file[name][()] for name in ("path", "person_id", "camera_id", "split")} | {
            "extra": {name: column[()] for name, column in file["extra"].items()}
        }
        manifest = Manifest(
            root=Path(os.fsdecode(bytes(file.attrs["root"]))),
            layout=file.attrs["layout"],
            notes=tuple(json.loads(file.attrs["notes"])),
            **columns,
        )
        plan = Plan(
            manifest=manifest,
            identity=identity,
            provenance=provenance,
            dim=int(file.attrs["dim"]),
            dtype=file.attrs["dtype"],
            shard_rows=int(file.attrs["shard_rows"]),
        )
    if plan.identity["manifest"] != manifest.fingerprint():
        raise StoreError(f"{root}: its rows do not fit their fingerprint; {_MEND}")
    return plan


def publish(file: Path, write: Callable[[Path], None]) -> None:
    """Writes a file aside, syncs it and renames it, so that `file` is never half-written."""
    aside = file.with_name(f"{file.name}.{socket.gethostname()}-{os.getpid()}.tmp")
    try:
        write(aside)
        _sync(aside)
        os.replace(aside, file)
        _sync(file.parent)
    except OSError as error:
        # h5py reports a full disk without its errno, in a text of several lines.
        reason = error.strerror or " ".join(str(error).split())
        raise StoreError(f"{file}: {reason}; make room, or check the folder") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def publish_text(file: Path, text: str) -> None:
    """`publish` for a UTF-8 text."""

    def write(aside: Path) -> None:
        aside.write_text(text, encoding="utf-8")

    publish(file, write)


_MEND = "delete it and run the extraction again"


def _publish_hdf5(file: Path, write: Callable[[h5py.File], None]) -> None:
    def write_aside(aside: Path) -> None:
        with h5py.File(
            aside, "w", alignment_threshold=UNALIGNED_BELOW, alignment_interval=PAGE
        ) as hdf5:
            write(hdf5)

    publish(file, write_aside)


def _write_root(root: Path, plan: Plan, status: NDArray[np.uint8] | None = None) -> None:
    """Writes `plan.h5`, or with the statuses of all rows `store.h5`."""

    def write(file: h5py.File) -> None:
        file.attrs["format"] = FORMAT
        file.attrs["identity"] = _json(plan.identity)
        file.attrs["provenance"] = _json(plan.provenance)
        # A folder's name may be no UTF-8, which HDF5's texts are.
        file.attrs["root"] = np.void(os.fsencode(plan.manifest.root))
        file.attrs["layout"] = plan.manifest.layout
        file.attrs["notes"] = _json(plan.manifest.notes)
        file.attrs["dim"], file.attrs["dtype"] = plan.dim, plan.dtype
        file.attrs["shard_rows"] = plan.shard_rows
        file.create_group("extra")
        for name, column in plan.manifest.columns().items():
            if column.dtype.kind == "S":
                column = column.astype(h5py.string_dtype("utf-8", column.dtype.itemsize))
            file.create_dataset(name, data=column)
        if status is not None:
            file.create_dataset("status", data=status, dtype=STATUS_TYPE)
            shape = (len(plan.manifest), plan.dim)
            layout = h5py.VirtualLayout(shape, dtype=np.dtype(f"<{_code(plan)}"))
            for shard in plan.shards:
                source = shard_file(Path(), shard.index)  # relative: the folder can be moved
                layout[shard.start : shard.stop] = h5py.VirtualSource(
                    str(source), "features", shape=(len(shard), plan.dim)
                )
            file.create_virtual_dataset("features", layout, fillvalue=np.nan)

    _publish_hdf5(root, write)


def _open_shard(
    path: Path,
) -> tuple[NDArray[np.floating[Any]], NDArray[np.uint8], dict[str, Any]]:
    if not path.exists():
        raise StoreError(f"{path}: missing; run the extraction again")
    with _damaged_if_unreadable(path), h5py.File(path, "r") as file:
        dataset = file["features"]
        offset = dataset.id.get_offset()
        if offset is None:
            raise StoreError(f"{path}: its features cannot be mapped; {_MEND}")
        features = np.memmap(path, dataset.dtype, "r", offset, dataset.shape)
        status = file["status"][()].astype(np.uint8)
        attributes = {name: file.attrs[name] for name in ("identity", "row", "crc32")}
    return features, status, attributes


@contextlib.contextmanager
def _damaged_if_unreadable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise StoreError(f"{path}: damaged, or no file of distreid ({reason}); {_MEND}") from error


def _checksum(features: NDArray[Any], status: NDArray[Any]) -> int:
    return zlib.crc32(status.tobytes(), zlib.crc32(np.ascontiguousarray(features).data))


def _code(plan: Plan) -> str:
    return {"float32": "f4", "float16": "f2"}[plan.dtype]


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _json_values(value: dict[str, Any]) -> dict[str, Any]:
    """As it comes back from a file: tuples are lists."""
    return json.loads(_json(value))  # type: ignore[no-any-return]


def _short(value: Any, length: int = 40) -> str:
    text = value.decode() if isinstance(value, bytes) else str(value)
    return text if len(text) <= length else text[:12] + "…"
