"""Which shards are whose, and which of their rows are computed together.

A rank takes whole shards, so a row's neighbours, its batch and its bytes are the same for
any number of processes, nothing is padded and nothing is computed twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch.utils.data import Dataset, DistributedSampler

from distreid.plan import Shard


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

    @property
    def largest(self) -> int:
        """The most rows of a batch."""
        return min(self.batch_size, max(map(len, self.shards), default=0))
