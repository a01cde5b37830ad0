import os

import numpy as np
import pytest
import torch

from distreid.errors import OptionError
from distreid.nearest import similarity
from distreid.nearest.similarity import (
    LEAST_ROWS,
    TILE_ROWS,
    Similarity,
    block_rows,
    map_blocks,
    memory_needed,
    score_blocks,
    seconds_needed,
    threads_for,
)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(OptionError, match="--device cuda: torch sees no GPU"):
        Similarity(device="cuda")


@pytest.mark.parametrize(("rows", "threads"), [(100, 1), (520_000, 1)])
def test_the_blocks_in_work_stay_within_the_memory_allowed(rows: int, threads: int) -> None:
    assert threads_for(rows) >= threads
    assert memory_needed(10_000, rows) <= 600 << 20
    assert 1 <= block_rows(rows) <= 256
    assert seconds_needed(10, rows, 8) > 0


@pytest.mark.parametrize("count", [1, 3])
def test_the_number_of_threads_does_not_change_a_bit_of_the_scores(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    generator = np.random.default_rng(0)
    query, gallery = (generator.standard_normal((n, 96), dtype=np.float32) for n in (700, 3000))
    reference = [scores.copy() for _, scores in score_blocks(query, gallery)]
    monkeypatch.setattr(similarity, "threads_for", lambda rows: count)
    for ours, theirs in zip(score_blocks(query, gallery), reference, strict=True):
        assert ours[1].tobytes() == theirs.tobytes()


@pytest.mark.parametrize("queries", [1, 3, 9, 150])
def test_equal_rows_have_equal_scores_wherever_they_stand(queries: int) -> None:
    rows = np.random.default_rng(0).standard_normal((queries + 1, 96)).astype(np.float32)
    sizes = [1, 3, 0, 513, 7, 64, 1030, 2, 300, 5, 5, 1]
    pieces = [np.repeat(rows[:1], size, axis=0) for size in sizes]
    for _, scores_BG in score_blocks(rows[1:], pieces):
        assert (scores_BG == scores_BG[:, :1]).all()


def test_the_number_of_queries_does_not_change_a_bit_of_the_scores() -> None:
    rows = np.random.default_rng(0).standard_normal((2000, 96)).astype(np.float32)
    ((_, all_BG),) = score_blocks(rows[:100], rows)
    for some in (slice(1), slice(20, 27)):
        ((_, scores_BG),) = score_blocks(rows[some], rows)
        assert scores_BG.tobytes() == all_BG[some].tobytes()


def test_each_block_is_one_threads_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarity, "threads_for", lambda rows: 2)
    before, threads = torch.get_num_threads(), []
    torch.set_num_threads(3)
    rows = np.ones((20 * block_rows(3000), 96), np.float32)
    try:
        running = len(os.listdir("/proc/self/task"))
        for _ in map_blocks(
            lambda *_: threads.append(len(os.listdir("/proc/self/task"))), rows, rows[:3000]
        ):
            pass
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert max(threads) <= running + 2  # a product that is shared has helpers of its own


@pytest.mark.parametrize(
    "sizes",
    [[5, 5, 1], [1000, 3], [3, 1000], [40, 40, 40], [LEAST_ROWS, LEAST_ROWS - 1], [0, 2000, 0, 1]],
)
def test_no_product_has_few_rows_of_the_gallery_unless_there_are_no_more(sizes: list[int]) -> None:
    pieces = [np.full((size, 4), number, np.float32) for number, size in enumerate(sizes)]
    tiles = similarity._tiles(pieces)
    assert torch.equal(torch.cat(tiles), torch.from_numpy(np.concatenate(pieces)))
    assert min(map(len, tiles)) >= min(LEAST_ROWS, sum(sizes))
    assert max(map(len, tiles)) <= TILE_ROWS + 2 * LEAST_ROWS


@pytest.mark.parametrize("rows", [3, LEAST_ROWS, TILE_ROWS])
def test_a_gallery_of_one_small_piece_is_not_copied(rows: int) -> None:
    piece = np.zeros((rows, 4), np.float32)
    (tile,) = similarity._tiles([piece])
    assert tile.data_ptr() == piece.ctypes.data
