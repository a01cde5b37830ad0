"""The verifying reader of a complete run.

`store.h5` can be opened by any HDF5 tool; here the shards are mapped one by one, because a
virtual dataset reads a missing source as NaN without an error.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distreid.data.archives import take_indexes
from distreid.data.manifest import Manifest
from distreid.store.plan import Plan, Shard
from distreid.store.root_file import (
    compare,
    existing_plan,
    no_run,
    read_columns,
    read_plan,
    unfinished_run,
)
from distreid.store.run_copy import local_run
from distreid.store.run_folder import verify
from distreid.store.shards import done_shards, read_shard


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
        """Opens a complete run; StoreError if it is none, or is damaged. One in an object store is
        copied first, and `run` is then its copy's folder.

        Every shard must be there and of this run; its bytes are read and checked too, unless
        the caller has just done so.
        """
        run = local_run(run)
        root = run / "store.h5"
        if not root.exists():
            plan = existing_plan(run) if run.is_dir() else None
            if plan is None:
                raise no_run(run)
            raise unfinished_run(run, len(done_shards(run)), len(plan.shards))
        plan, columns = read_plan(root), read_columns(root)
        # Each mapping holds a file open, and the usual limit is 1,024.
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        take_indexes(run)
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
