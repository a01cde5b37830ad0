"""One shard, one file: written whole by one rank, mapped and verified by every reader.

A shard file holds `features` (rows, D), contiguous, little-endian and page-aligned, and
`norm` and `status` (rows,); as attributes the digest of the plan's identity, the first and
the last row. Nothing that varies between two equal runs is written to it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from distreid.data.manifest import Status
from distreid.errors import StoreError
from distreid.host.atomic_files import (
    MEND,
    check_bytes,
    check_column,
    damaged_if_unreadable,
    open_hdf5,
    publish_hdf5,
)
from distreid.store.plan import Plan, Shard, short

STATUS_TYPE = h5py.enum_dtype({s.name.lower(): s.value for s in Status}, basetype="u1")
NORM_TYPE = np.dtype("<f4")
# Of a float's type on the disk: its bits as unsigned, without the sign, and those of infinity.
MAGNITUDES = {"<f4": ("<u4", 0x7FFF_FFFF, 0x7F80_0000), "<f2": ("<u2", 0x7FFF, 0x7C00)}
CHECKED_BYTES = 1 << 19  # of features at once: they stay in the cache
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

    def fit(self) -> NDArray[np.bool_]:
        """(n,) whether a row is what its status says: if OK a finite feature that is not zero,
        else none."""
        unsigned, magnitude, infinity = MAGNITUDES[self.features.dtype.str]
        # Without its sign bit, a float's bits order as its size does, and NaN is the largest.
        largest = (self.features.view(unsigned) & magnitude).max(axis=1)
        usable = (largest > 0) & (largest < infinity) & np.isfinite(self.norm)
        fits: NDArray[np.bool_] = usable == (self.status == Status.OK)
        return fits


def shard_file(run: Path, index: int) -> Path:
    """Where a shard lies once it is complete."""
    return run / "shards" / f"{index:06d}.h5"


def done_shards(run: Path) -> set[int]:
    """The indices of the shards that have their final name."""
    try:
        names = {entry.name for entry in os.scandir(run / "shards")}
    except OSError as error:
        raise StoreError(f"{run}/shards: {error.strerror}; check the folder") from error
    indices = (int(match[1]) for match in map(SHARD_NAME.fullmatch, names) if match)
    return {index for index in indices if shard_file(run, index).name in names}


def bad_images_in(file: Path) -> int:
    """How many rows of a shard, or of `store.h5`, have no image; nothing is verified."""
    with open_hdf5(file) as hdf5:
        status = check_column(hdf5["status"], len(hdf5["status"]), "u")
        return int(np.count_nonzero(status[()] != Status.OK))


class ShardWriter:
    """Collects the rows of one shard at a time; a thread publishes it while the next one fills."""

    def __init__(
        self, run: Path, plan: Plan, published: Callable[[Path], None] | None = None
    ) -> None:
        """`published` gets each shard's file, in that thread."""
        self.run = run
        self.plan = plan
        self._published = published
        self._shard: Shard | None = None
        self._collected = 0
        self._thread = ThreadPoolExecutor(1)
        self._writing: tuple[Shard, Future[None]] | None = None

    @property
    def pending(self) -> int:
        """Rows taken that are not yet on the disk."""
        writing = self._writing
        return self._collected + (len(writing[0]) if writing and not writing[1].done() else 0)

    def add(self, rows: range, values: Rows) -> None:
        """Takes consecutive rows of one shard, from its first; its last begins the publishing.

        Raises what went wrong with the shard before.
        """
        if self._shard is None:
            self._shard = self.plan.shards[rows.start // self.plan.shard_rows]
            self._rows = Rows(
                features=np.empty((len(self._shard), self.plan.dim), self.plan.stored_type),
                norm=np.empty(len(self._shard), NORM_TYPE),
                status=np.empty(len(self._shard), np.uint8),
            )
        shard = self._shard
        place = slice(rows.start - shard.start, rows.stop - shard.start)
        assert place.start == self._collected and place.stop <= len(shard), (rows, shard)
        self._rows.features[place] = values.features
        self._rows.norm[place] = values.norm
        self._rows.status[place] = values.status
        self._collected += len(rows)
        if self._collected == len(shard):
            self.wait()
            written = self._thread.submit(self._publish, shard, self._rows)
            self._shard, self._collected, self._writing = None, 0, (shard, written)

    def wait(self) -> None:
        """Until every full shard is published; raises what went wrong with it."""
        if self._writing:
            self._writing[1].result()
            self._writing = None

    def _publish(self, shard: Shard, rows: Rows) -> None:
        write_shard(self.run, self.plan, shard, rows)
        if self._published:
            self._published(shard_file(self.run, shard.index))


def write_shard(run: Path, plan: Plan, shard: Shard, rows: Rows) -> None:
    """Writes a whole shard under a temporary name, syncs it, and gives it its final name."""

    def write(file: h5py.File) -> None:
        file.attrs["identity"] = np.bytes_(plan.digest.encode())
        file.attrs["row"] = np.array([shard.start, shard.stop - 1], dtype="<i8")
        file.create_dataset("features", data=rows.features)
        file.create_dataset("norm", data=rows.norm)
        file.create_dataset("status", data=rows.status, dtype=STATUS_TYPE)

    publish_hdf5(shard_file(run, shard.index), write)


def verify_shard(run: Path, plan: Plan, shard: Shard) -> Rows:
    """Reads every byte of a shard; gives its rows as `read_shard` does.

    StoreError names what is wrong with the file, or the first row that does not fit its status.
    """
    path = shard_file(run, shard.index)
    check_bytes(path)
    rows = read_shard(run, plan, shard)
    with damaged_if_unreadable(path):
        fits = np.concatenate([part.fit() for part in _reread(path, rows)])
    if not fits.all():
        row = shard.start + int(np.argmin(fits))
        raise StoreError(f"{path}: the features of row {row} do not fit its status; {MEND}")
    return rows


def _reread(path: Path, rows: Rows) -> Iterator[Rows]:
    """The rows part by part, their features read instead of mapped: that takes no page faults,
    and is an error and not a signal if the disk fails."""
    mapped = rows.features
    assert isinstance(mapped, np.memmap)
    step = max(1, CHECKED_BYTES // mapped[0].nbytes)
    with path.open("rb") as stream:
        stream.seek(mapped.offset)
        for first in range(0, len(mapped), step):
            part = slice(first, min(first + step, len(mapped)))
            count = (part.stop - first) * mapped.shape[1]
            features = np.fromfile(stream, mapped.dtype, count).reshape(-1, mapped.shape[1])
            yield Rows(features=features, norm=rows.norm[part], status=rows.status[part])


def read_shard(run: Path, plan: Plan, shard: Shard) -> Rows:
    """A shard's rows, the features mapped and not yet read. StoreError if the file is not there,
    is cut, or holds something else than the plan says."""
    path = shard_file(run, shard.index)
    with open_hdf5(path) as file:
        features, norm, status = file["features"], file["norm"], file["status"]
        found = {
            "identity": file.attrs["identity"].decode(),
            "row": file.attrs["row"].tolist(),
            "features": _form(features),
            "norm": _form(norm),
            "status": _form(status),
        }
        expected = {
            "identity": plan.digest,
            "row": [shard.start, shard.stop - 1],
            "features": f"{len(shard)} × {plan.dim} {plan.stored_type}",
            "norm": f"{len(shard)} {NORM_TYPE}",
            "status": f"{len(shard)} uint8",
        }
        for name, value in expected.items():
            if found[name] != value:
                raise StoreError(
                    f"{path}: its {name} is {short(found[name])}, the plan says "
                    f"{short(value)}; {MEND}"
                )
        offset = features.id.get_offset()
        if offset is None:
            raise StoreError(f"{path}: its features cannot be mapped; {MEND}")
        return Rows(
            # "c": writable for torch's sake; what is written never reaches the file.
            features=np.memmap(path, plan.stored_type, "c", offset, (len(shard), plan.dim)),
            norm=norm[()],
            status=status[()].astype(np.uint8),
        )


def _form(dataset: h5py.Dataset) -> str:
    """Of an array: `32 × 16 float32`."""
    return f"{' × '.join(map(str, dataset.shape))} {dataset.dtype}"
