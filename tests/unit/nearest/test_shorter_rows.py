"""Neighbours found by products of fewer dimensions are those of whole products."""

from __future__ import annotations

import numpy as np
import pytest

from distreid.nearest import neighbours, shorter_rows
from distreid.nearest.neighbours import nearest
from distreid.nearest.shorter_rows import _main_directions, _of, shortened
from distreid.nearest.similarity import Features

K = 21


def rows_in_few_directions(count: int, dim: int = 256, directions: int = 8) -> Features:
    """Most of each lies in some directions, a tenth of it anywhere; every hundredth is zero, and
    every ninth equal to the one before."""
    random = np.random.default_rng(count)
    persons = random.standard_normal((count // 20 + 1, directions))
    looks = persons[random.integers(len(persons), size=count)]
    looks += 0.7 * random.standard_normal(looks.shape)
    rows = looks @ random.standard_normal((directions, dim))
    rows += 0.2 * random.standard_normal(rows.shape)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows[::100] = 0
    rows[9::9] = rows[8:-1:9]
    return rows.astype(np.float32)


@pytest.mark.parametrize("directions", [1, 8, 32])
def test_products_of_fewer_dimensions_bound_every_distance(directions: int) -> None:
    rows = rows_in_few_directions(200)
    exact = rows.astype(np.float64)
    distance = ((exact[:, None] - exact[None]) ** 2).sum(2)
    shorter = _of(rows, _main_directions(exact, directions))
    least = shorter.asking_NM.astype(np.float64) @ shorter.asked_NM.T.astype(np.float64)
    least += (exact**2).sum(1)[:, None]
    assert (least <= distance + 1e-6).all()
    assert (distance <= least + shorter.gap_N[:, None] + 1e-6).all()
    assert (distance - least).max() > 1e-4  # they are not the distances themselves


def test_the_neighbours_are_those_of_whole_products(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_in_few_directions(5000)
    assert shortened(rows, K) is not None
    found = nearest(rows, K)
    monkeypatch.setattr(neighbours, "shortened", lambda rows, k: None)
    whole = nearest(rows, K)
    np.testing.assert_array_equal(found.rank_NK, whole.rank_NK)
    np.testing.assert_allclose(found.farthest_N, whole.farthest_N, rtol=2e-6)


def test_a_block_whose_bounds_say_too_little_is_multiplied_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = rows_in_few_directions(5000)
    blunt = shortened(rows, K)
    assert blunt is not None
    blunt.gap_N[:] = 10.0  # every row may be the farthest
    monkeypatch.setattr(neighbours, "shortened", lambda rows, k: blunt)
    monkeypatch.setattr(neighbours, "MOST_CANDIDATES", 100_000)  # a block has 640,000 pairs
    found = nearest(rows, K)
    monkeypatch.setattr(neighbours, "shortened", lambda rows, k: None)
    whole = nearest(rows, K)
    np.testing.assert_array_equal(found.rank_NK, whole.rank_NK)
    np.testing.assert_allclose(found.farthest_N, whole.farthest_N, rtol=2e-6)


def test_directions_are_not_used_where_they_say_little_or_rows_are_few() -> None:
    random = np.random.default_rng(0)
    anywhere = random.standard_normal((5000, 64)).astype(np.float32)
    anywhere /= np.linalg.norm(anywhere, axis=1, keepdims=True)
    assert shortened(anywhere, K) is None
    assert shortened(rows_in_few_directions(shorter_rows.LEAST_ROWS - 1), K) is None
    assert shortened(np.zeros((5000, 8), np.float32), K) is None
