"""Which rows are computed together, and by whom.

Rows are cut into shards: fixed, contiguous ranges that depend on the number of rows
alone. A rank takes whole shards, so a row's neighbours, its batch and its bytes are the
same for any number of processes, nothing is padded and nothing is computed twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch.utils.data import Dataset, DistributedSampler

SHARDS_WANTED = 64  # enough to keep 8 processes within a few percent of one another
SHARD_UNIT = 64  # a shard is a multiple of this, so that usual batches fit whole
SHARD_ROWS_LIMIT = 8192  # lost at most by an interruption: seconds of a GPU's work


@dataclass(frozen=True)
class Shard:
    """Rows `start` to `stop - 1`, the `index`-th range of the plan."""

    index: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


def shard_rows_for(rows: int) -> int:
    """The usual number of rows per shard: about 1/64 of the rows, between 64 and 8192."""
    units = -(-rows // (SHARDS_WANTED * SHARD_UNIT))
    return min(max(units, 1) * SHARD_UNIT, SHARD_ROWS_LIMIT)


def plan_shards(rows: int, shard_rows: int) -> list[Shard]:
    """The rows 0 to `rows - 1` in ranges of `shard_rows`; the last one may be shorter."""
    starts = range(0, rows, shard_rows)
    return [Shard(i, start, min(start + shard_rows, rows)) for i, start in enumerate(starts)]


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
    """

    def __init__(self, shards: Sequence[Shard], batch_size: int) -> None:
        self.shards = shards
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[range]:
        for shard in self.shards:
            for start in range(shard.start, shard.stop, self.batch_size):
                yield range(start, min(start + self.batch_size, shard.stop))

    def __len__(self) -> int:
        return sum(-(-len(shard) // self.batch_size) for shard in self.shards)
