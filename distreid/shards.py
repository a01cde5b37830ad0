"""One shard, one file: written whole by one rank, mapped and verified by every reader.

A shard file holds `features` (rows, D), contiguous, little-endian and page-aligned, and
`status` (rows,); as attributes the digest of the plan's identity, the first and last row,
and a CRC-32 of the bytes. Nothing that varies between two equal runs is written to it.
"""

from __future__ import annotations

import os
import re
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from distreid.errors import StoreError
from distreid.files import MEND, damaged_if_unreadable, publish_hdf5
from distreid.manifest import Status
from distreid.plan import Plan, short
from distreid.sampler import Shard

STATUS_TYPE = h5py.enum_dtype({s.name.lower(): s.value for s in Status}, basetype="u1")
SHARD_NAME = re.compile(r"(\d{6,})\.h5")


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

    def add(self, rows: range, features: NDArray[np.float32], status: NDArray[np.uint8]) -> None:
        """Takes consecutive rows of one shard, from its first; publishes it with its last."""
        if self._shard is None:
            index = rows.start // self.plan.shard_rows
            self._shard = self.plan.shards[index]
            self._features = np.empty((len(self._shard), self.plan.dim), self.plan.stored_type)
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

    publish_hdf5(shard_file(run, shard.index), write)


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
                f"{path}: its {name} is {short(attributes[name])}, the plan says "
                f"{short(value)}; {MEND}"
            )
    if features.shape != (len(shard), plan.dim) or status.shape != (len(shard),):
        raise StoreError(
            f"{path}: features of shape {features.shape}, the plan says "
            f"{(len(shard), plan.dim)}; {MEND}"
        )
    if features.dtype != np.dtype(plan.dtype):
        raise StoreError(f"{path}: {features.dtype}, the plan says {plan.dtype}; {MEND}")
    if checksum and _checksum(features, status) != attributes["crc32"]:
        raise StoreError(f"{path}: its bytes do not fit their checksum; {MEND}")
    return features, status


def _open_shard(
    path: Path,
) -> tuple[NDArray[np.floating[Any]], NDArray[np.uint8], dict[str, Any]]:
    if not path.exists():
        raise StoreError(f"{path}: missing; run the extraction again")
    with damaged_if_unreadable(path), h5py.File(path, "r") as file:
        dataset = file["features"]
        offset = dataset.id.get_offset()
        if offset is None:
            raise StoreError(f"{path}: its features cannot be mapped; {MEND}")
        features = np.memmap(path, dataset.dtype, "r", offset, dataset.shape)
        status = file["status"][()].astype(np.uint8)
        attributes = {name: file.attrs[name] for name in ("identity", "row", "crc32")}
    return features, status, attributes


def _checksum(features: NDArray[Any], status: NDArray[Any]) -> int:
    return zlib.crc32(status.tobytes(), zlib.crc32(np.ascontiguousarray(features).data))
