"""Features in memory, read like a complete run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distreid.store.feature_store import FeatureStore
from distreid.store.plan import Shard


@dataclass(frozen=True, kw_only=True)
class ArrayStore(FeatureStore):
    """Features that are in no run: `run` is the file that they are of, and nothing is written
    there. Its plan has one shard."""

    array: NDArray[np.float32]
    """(N, D), each of L2 norm 1; NaN where the status is not OK."""

    def blocks(self) -> Iterator[tuple[Shard, NDArray[np.floating[Any]]]]:
        """All rows."""
        for shard in self.plan.shards:
            yield shard, self.array[shard.start : shard.stop]
