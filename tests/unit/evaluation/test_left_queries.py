"""What protocols leave of the queries by labels alone is what their scores count."""

from __future__ import annotations

import pytest
from test_protocols import random_rows, scored, store_of

from distreid.evaluation.left_queries import left_queries


@pytest.mark.parametrize("seed", range(3))
def test_the_counts_are_those_of_the_scores(seed: int) -> None:
    store = store_of(random_rows(seed, 80, 12, ("query", "gallery", "gallery")))
    found = {each.protocol: each for each in left_queries(store.manifest)}
    # Clothes, sequences, tracks and trials are there.
    assert {"ltcc-changed-clothes", "deepchange", "leave-one-out-sequence"} <= found.keys()
    assert {"regdb-visible-to-thermal", "cross-camera", "leave-one-out"} <= found.keys()
    assert "mars" not in found and "celeb-reid" not in found  # others' names for the same
    for name in ("ltcc-changed-clothes", "deepchange", "cross-camera", "leave-one-out"):
        per_query = scored(store, name).per_query
        assert found[name].with_match == (per_query.matches > 0).sum()
        assert found[name].queries == len(per_query.matches)
