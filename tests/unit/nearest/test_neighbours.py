import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from distreid.nearest.neighbours import _reach, nearest
from distreid.nearest.similarity import Features


@pytest.mark.parametrize("spread", [1e-3, 1e-5])
def test_neighbours_that_a_matrix_product_cannot_tell_apart_are_exact(spread: float) -> None:
    random = np.random.default_rng(0)
    rows = 1 + spread * random.normal(size=(200, 32))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    exact = ((rows[:, None].astype(np.float64) - rows[None]) ** 2).sum(axis=2)
    found = nearest(rows, 20).rank_NK
    np.testing.assert_array_equal(
        exact[np.arange(200)[:, None], found].astype(np.float32),
        np.sort(exact, axis=1)[:, :20].astype(np.float32),
    )


@settings(deadline=None)
@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 20), st.just(2)), elements=st.integers(-2, 2)),
    st.integers(1, 25),
)
def test_neighbours_at_equal_distances_are_ordered_by_row(rows: Features, k: int) -> None:
    squared = ((rows[:, None] - rows[None]) ** 2).sum(axis=2)
    found = nearest(rows, k)
    np.testing.assert_array_equal(
        found.rank_NK, np.argsort(squared, axis=1, kind="stable")[:, : min(k, len(rows))]
    )
    farthest = squared.max(axis=1)
    farthest[farthest == 0] = np.inf
    np.testing.assert_allclose(found.farthest_N, farthest, rtol=1e-5)


@pytest.mark.parametrize("columns", [1, 7, 64, 1000, 1003])
@pytest.mark.parametrize("k", [1, 3, 20, 251, 1000])
def test_at_least_k_columns_are_in_reach_and_hardly_any_more(columns: int, k: int) -> None:
    k = min(k, columns)
    generator = torch.Generator().manual_seed(0)
    distance_BN = torch.rand(200, columns, generator=generator)
    within_B = (distance_BN <= _reach(distance_BN, k)).sum(dim=1)
    assert within_B.min() >= k
    # The k nearest may share a group, and columns that make no whole group are not looked at.
    assert within_B.float().mean() <= 1.2 * k + 1
