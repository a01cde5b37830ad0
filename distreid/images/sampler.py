"""Which shards are whose, and which of their rows are computed together.

A rank takes whole shards, so a row's neighbours, its batch and its bytes are the same for
any number of processes, nothing is padded and nothing is computed twice.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset, DistributedSampler

from distreid.data.locators import frame_of
from distreid.store.plan import Shard


class ShardSampler(DistributedSampler[int]):
    """The rows of this rank's share of the shards: `todo[rank::world_size]`, in order.

    It has the interface of torch's DistributedSampler, without its padding: the ranks'
    rows together are each row of `todo` exactly once. There are no epochs and no
    shuffling; `set_epoch` changes nothing.

    Rank and world size are arguments; nothing is read from the process group.
    """

    def __init__(self, todo: Sequence[Shard], *, rank: int, world_size: int) -> None:
        # The base class asks for a data set of known length only.
        rows: Dataset[int] = range(sum(map(len, todo)))  # type: ignore[assignment]
        super().__init__(rows, num_replicas=world_size, rank=rank, shuffle=False)
        self.shards = list(todo[rank::world_size])

    def __iter__(self) -> Iterator[int]:
        for shard in self.shards:
            yield from range(shard.start, shard.stop)

    def __len__(self) -> int:
        return sum(map(len, self.shards))


class ShardBatches:
    """A sampler's rows in batches that never cross the end of a shard.

    The last batch of a shard may be smaller. So a batch does not depend on the world size.

    With `frame_starts`, batches end before frames that would not fit whole, which are then decoded
    once; a frame with more boxes than a batch has rows is decoded in each of its batches.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        batch_size: int,
        frame_starts: NDArray[np.bool_] | None = None,
        *,
        skipped: int = 0,
    ) -> None:
        """Without the first `skipped` batches."""
        self.shards = shards
        self.batch_size = batch_size
        self.frame_starts = frame_starts
        self.skipped = skipped
        self._count: int | None = None

    def __iter__(self) -> Iterator[range]:
        return itertools.islice(self._all(), self.skipped, None)

    def _all(self) -> Iterator[range]:
        for shard in self.shards:
            start = shard.start
            while start < shard.stop:
                stop = self._stop(start, shard.stop)
                yield range(start, stop)
                start = stop

    def _stop(self, start: int, end: int) -> int:
        stop = min(start + self.batch_size, end)
        if self.frame_starts is None or stop == end:
            return stop
        fitting = np.flatnonzero(self.frame_starts[start + 1 : stop + 1])
        return start + 1 + int(fitting[-1]) if len(fitting) else stop

    def __len__(self) -> int:
        if self._count is None:
            self._count = sum(1 for _ in self)
        return self._count

    @property
    def largest(self) -> int:
        """The most rows of a batch."""
        return min(self.batch_size, max(map(len, self.shards), default=0))


def frame_starts(path: NDArray[np.bytes_]) -> NDArray[np.bool_] | None:
    """(N,) which rows show another frame than the row before; None if no path is that of a box."""
    if not len(path) or not (np.char.find(path, b"#xyxy=") >= 0).any():
        return None
    frames = [frame_of(each) for each in path.tolist()]
    return np.array([True, *(a != b for a, b in itertools.pairwise(frames))])
