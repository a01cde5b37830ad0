"""One shard, one file: written whole by one rank, mapped and verified by every reader.

A shard file holds `features` (rows, D), contiguous, little-endian and page-aligned, and
`norm` and `status` (rows,); as attributes the digest of the plan's identity, the first and
the last row, and a CRC-32 of the bytes. Nothing that varies between two equal runs is
written to it.
"""

from __future__ import annotations

import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from distreid.errors import StoreError
from distreid.files import MEND, damaged_if_unreadable, publish_hdf5
from distreid.manifest import Status
from distreid.plan import Plan, Shard, short

STATUS_TYPE = h5py.enum_dtype({s.name.lower(): s.value for s in Status}, basetype="u1")
SHARD_NAME = re.compile(r"(\d{6,})\.h5")


@dataclass(frozen=True, kw_only=True)
class Rows:
    """n consecutive rows of a shard."""

    features: NDArray[np.floating[Any]]
    """(n, D), each of L2 norm 1; NaN where the status is not OK."""
    norm: NDArray[np.float32]
    """(n,) the L2 norm of the feature before it was normalised: norm × feature is the
    model's own output, which torchreid ranks by."""
    status: NDArray[np.uint8]
    """(n,) values of `Status`."""

    def checksum(self) -> int:
        """CRC-32 of all bytes."""
        crc = zlib.crc32(np.ascontiguousarray(self.features).data)
        return zlib.crc32(self.status.tobytes(), zlib.crc32(self.norm.tobytes(), crc))


def shard_file(run: Path, index: int) -> Path:
    """Where a shard lies once it is complete."""
    return run / "shards" / f"{index:06d}.h5"


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

    def add(self, rows: range, values: Rows) -> None:
        """Takes consecutive rows of one shard, from its first; publishes it with its last."""
        if self._shard is None:
            self._shard = self.plan.shards[rows.start // self.plan.shard_rows]
            self._rows = Rows(
                features=np.empty((len(self._shard), self.plan.dim), self.plan.stored_type),
                norm=np.empty(len(self._shard), "<f4"),
                status=np.empty(len(self._shard), np.uint8),
            )
        shard = self._shard
        assert rows.start == shard.start + self.pending and rows.stop <= shard.stop, (rows, shard)
        place = slice(rows.start - shard.start, rows.stop - shard.start)
        self._rows.features[place] = values.features
        self._rows.norm[place] = values.norm
        self._rows.status[place] = values.status
        self.pending += len(rows)
        if self.pending == len(shard):
            write_shard(self.run, self.plan, shard, self._rows)
            self._shard, self.pending = None, 0


def write_shard(run: Path, plan: Plan, shard: Shard, rows: Rows) -> None:
    """Writes a whole shard under a temporary name, syncs it, and gives it its final name."""

    def write(file: h5py.File) -> None:
        file.attrs["identity"] = np.bytes_(plan.digest.encode())
        file.attrs["row"] = np.array([shard.start, shard.stop - 1], dtype="<i8")
        file.attrs["crc32"] = np.uint32(rows.checksum())
        file.create_dataset("features", data=rows.features)
        file.create_dataset("norm", data=rows.norm)
        file.create_dataset("status", data=rows.status, dtype=STATUS_TYPE)

    publish_hdf5(shard_file(run, shard.index), write)


def read_shard(run: Path, plan: Plan, shard: Shard, *, checksum: bool) -> Rows:
    """A shard's rows, the features mapped. StoreError names what is wrong with the file."""
    path = shard_file(run, shard.index)
    rows, attributes = _open_shard(path)
    expected = {
        "identity": np.bytes_(plan.digest.encode()),
        "row": [shard.start, shard.stop - 1],
    }
    for name, value in expected.items():
        if not np.array_equal(attributes[name], value):
            raise StoreError(
                f"{path}: its {name} is {short(attributes[name])}, the plan says "
                f"{short(value)}; {MEND}"
            )
    shapes = (rows.features.shape, rows.norm.shape, rows.status.shape)
    if shapes != ((len(shard), plan.dim), (len(shard),), (len(shard),)):
        raise StoreError(
            f"{path}: arrays of shape {shapes}, the plan says {len(shard)} × {plan.dim}; {MEND}"
        )
    if rows.features.dtype != plan.stored_type:
        raise StoreError(f"{path}: {rows.features.dtype}, the plan says {plan.dtype}; {MEND}")
    if checksum and rows.checksum() != attributes["crc32"]:
        raise StoreError(f"{path}: its bytes do not fit their checksum; {MEND}")
    return rows


def _open_shard(path: Path) -> tuple[Rows, dict[str, Any]]:
    if not path.exists():
        raise StoreError(f"{path}: missing; run the extraction again")
    with damaged_if_unreadable(path), h5py.File(path, "r") as file:
        dataset = file["features"]
        offset = dataset.id.get_offset()
        if offset is None:
            raise StoreError(f"{path}: its features cannot be mapped; {MEND}")
        rows = Rows(
            # "c": writable for torch's sake; what is written never reaches the file.
            features=np.memmap(path, dataset.dtype, "c", offset, dataset.shape),
            norm=file["norm"][()],
            status=file["status"][()].astype(np.uint8),
        )
        attributes = {name: file.attrs[name] for name in ("identity", "row", "crc32")}
    return rows, attributes
