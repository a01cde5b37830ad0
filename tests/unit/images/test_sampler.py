import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DistributedSampler

from distreid.images.sampler import ShardBatches, ShardSampler
from distreid.store.plan import plan_shards, shard_rows_for


@given(st.integers(0, 2000), st.integers(1, 300), st.integers(1, 17))
def test_the_ranks_rows_are_each_row_exactly_once(rows: int, shard_rows: int, world: int) -> None:
    shards = plan_shards(rows, shard_rows)
    samplers = [ShardSampler(shards, rank=rank, world_size=world) for rank in range(world)]
    assert sorted(row for sampler in samplers for row in sampler) == list(range(rows))
    assert [len(list(sampler)) for sampler in samplers] == [len(sampler) for sampler in samplers]


@given(st.integers(0, 2000), st.integers(1, 300), st.integers(1, 99), st.integers(1, 5))
def test_batches_cover_the_rows_and_stay_inside_a_shard_whatever_the_world_size(
    rows: int, shard_rows: int, batch_size: int, world: int
) -> None:
    shards = plan_shards(rows, shard_rows)
    alone = list(ShardBatches(shards, batch_size))
    shared = [
        batch for rank in range(world) for batch in ShardBatches(shards[rank::world], batch_size)
    ]
    assert sorted(shared, key=lambda batch: batch.start) == alone
    assert [row for batch in alone for row in batch] == list(range(rows))
    assert len(ShardBatches(shards, batch_size)) == len(alone)
    rest = ShardBatches(shards, batch_size, skipped=world)
    assert list(rest) == alone[world:] and len(rest) == len(alone[world:])
    for batch in alone:
        assert batch.start // shard_rows == batch[-1] // shard_rows
        assert len(batch) <= batch_size


def test_it_has_the_interface_of_torchs_sampler_and_an_epoch_changes_nothing() -> None:
    sampler = ShardSampler(plan_shards(100, 10), rank=1, world_size=3)
    assert isinstance(sampler, DistributedSampler)
    before = list(sampler)
    sampler.set_epoch(5)
    assert list(sampler) == before
    assert before[:10] == list(range(10, 20))
    assert (sampler.rank, sampler.num_replicas) == (1, 3)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [(0, 64), (1, 64), (4096, 64), (4097, 128), (19_281, 320), (93_820, 1472), (10**7, 8192)],
)
def test_shards_grow_with_the_rows_and_with_nothing_else(rows: int, expected: int) -> None:
    assert shard_rows_for(rows) == expected
