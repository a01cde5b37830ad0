from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import GOLDEN
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from distreid.errors import DataError, OptionError, UserError
from distreid.evaluation import rerank as module
from distreid.evaluation.rerank import (
    FASTREID,
    RERANKINGS,
    TRANSREID,
    ZHONG,
    Reranking,
    estimate,
    expand,
    expansion_bytes,
    map_reranked,
)
from distreid.host import memory
from distreid.host.memory import available_memory
from distreid.nearest import neighbours, similarity

Array = NDArray[Any]
TRANSREID_20_6 = replace(TRANSREID, k1=20, k2=6)


def joined(blocks: Iterator[tuple[int, Array]]) -> Array:
    """The blocks in one piece; each must start where the one before ended."""
    parts: list[Array] = []
    for first, part in blocks:
        assert first == sum(map(len, parts))
        assert part.dtype == np.float32
        parts.append(part)
    return np.concatenate(parts)


def textbook(query: Array, gallery: Array, how: Reranking, dtype: Any = np.float32) -> Array:
    """The paper's formulas on dense matrices and sets, row by row; eq. 4 with > for ≥.

    `dtype` is that of the vectors and of the sums over them.
    """
    rows = np.concatenate([query, gallery]).astype(np.float64)
    squared = ((rows[:, None] - rows[None]) ** 2).sum(axis=2)
    distance = squared.copy()
    if how.relative:
        farthest = squared.max(axis=1, keepdims=True)
        distance = (squared / np.where(farthest > 0, farthest, 1)) ** how.power
    order = np.argsort(squared.astype(np.float32), axis=1, kind="stable")
    k1 = how.k1 + (0 if how.counts_itself else 1)
    half = min(k1, int(np.around(how.k1 / 2)) + 1)

    def reciprocal(row: int, k: int) -> set[int]:
        return {other for other in order[row, :k] if row in order[other, :k]}

    near = [reciprocal(row, k1) for row in range(len(rows))]
    half_near = [reciprocal(row, half) for row in range(len(rows))]
    vectors = np.zeros(squared.shape, dtype)
    for row in range(len(rows)):
        extended = set(near[row])
        for other in near[row]:
            if len(near[row] & half_near[other]) > 2 / 3 * len(half_near[other]):
                extended |= half_near[other]
        places = sorted(extended)
        weights = np.exp(-distance[row, places])
        vectors[row, places] = weights / weights.sum()
    if how.k2 > 1:
        vectors = np.stack([vectors[order[row, : how.k2]].mean(axis=0) for row in range(len(rows))])
    jaccard = np.zeros((len(query), len(rows)), dtype)
    for row in range(len(query)):
        shared = np.zeros(len(rows), dtype)
        for place in np.flatnonzero(vectors[row]):
            shared += np.minimum(vectors[row, place], vectors[:, place])
        jaccard[row] = 1 - shared / (2 - shared)
    itself = distance if how.relative else distance / 2
    mixed = (1 - how.weight) * jaccard + how.weight * itself[: len(query)]
    return np.asarray(mixed[:, len(query) :])


def scenario(name: str, *, junk: bool = False) -> tuple[dict[str, Array], dict[str, Array]]:
    """Normalised features with their ids and cameras; the peers' arrays."""
    with np.load(GOLDEN / "eval" / f"{name}.inputs.npz") as arrays:
        given = {key: arrays[key] for key in arrays}
    with np.load(GOLDEN / "eval" / f"{name}.outputs.npz") as arrays:
        theirs = {key: arrays[key] for key in arrays}
    kept = (given["gallery_ids"] != -1) | junk
    for key in ("gallery_features", "gallery_ids", "gallery_cams"):
        given[key] = given[key][kept]
    for key in ("query_features", "gallery_features"):
        given[key] = normalised(given[key])
    return given, theirs


def normalised(features: Array) -> Array:
    return np.asarray(features / np.linalg.norm(features, axis=1, keepdims=True))


def rerank(
    query_QD: Array, gallery: Array | Sequence[Array], how: Reranking = ZHONG, **options: Any
) -> Iterator[tuple[int, Array]]:
    """(first query, distances) of each block."""
    return map_reranked(lambda _, block_BG: block_BG.copy(), query_QD, gallery, how, **options)


def reranked(given: dict[str, Array], how: Reranking) -> Array:
    return joined(rerank(given["query_features"], given["gallery_features"], how))


def clustered(rows: int, persons: int, dimensions: int = 16, seed: int = 0) -> Array:
    random = np.random.default_rng(seed)
    centres = random.normal(size=(persons, dimensions))
    noisy = centres[np.arange(rows) % persons] + 0.7 * random.normal(size=(rows, dimensions))
    return normalised(noisy).astype(np.float32)


PLAIN = ["s1_plain_50x300", "s2_junk_distractors_100x800", "s6_one_camera_50x300"]


@pytest.mark.parametrize("name", PLAIN)
def test_zhong_gives_the_distances_of_torchreid_and_of_the_baseline(name: str) -> None:
    given, theirs = scenario(name)
    ours = reranked(given, ZHONG)
    np.testing.assert_allclose(ours, theirs["T_rerank_distance"], atol=2e-6)
    given, _ = scenario(name, junk=True)  # the baseline keeps junk in the graph
    ours = reranked(given, ZHONG)
    np.testing.assert_allclose(ours, theirs["L_rerank_distance"], atol=2e-6)


# Even with exact ties: that peer's search breaks them by row too.
@pytest.mark.parametrize("name", [*PLAIN, "s4_exact_ties_100x600"])
def test_fastreid_gives_the_jaccard_distances_of_fastreid(name: str) -> None:
    given, theirs = scenario(name)
    ours = reranked(given, replace(FASTREID, weight=0.0))
    np.testing.assert_allclose(ours, theirs["F_jaccard_distance"], atol=2e-6)


@pytest.mark.parametrize("name", ["s1_plain_50x300", "s6_one_camera_50x300"])
@pytest.mark.parametrize(
    ("key", "how", "limit"),
    [
        ("R_rerank_distance_k20_6", TRANSREID_20_6, 0.004),
        ("R_rerank_distance_k50_15", TRANSREID, 0.012),
    ],
)
def test_transreid_differs_from_transreid_by_its_half_precision_alone(
    name: str, key: str, how: Reranking, limit: float
) -> None:
    given, theirs = scenario(name)
    both = given["query_features"], given["gallery_features"]
    ours = reranked(given, how)
    np.testing.assert_allclose(ours, theirs[key], atol=limit)
    np.testing.assert_allclose(ours, textbook(*both, how), atol=2e-6)
    halved = textbook(*both, how, np.float16)
    np.testing.assert_allclose(halved, theirs[key], atol=5e-4)


hows = st.builds(
    lambda k1, k2, weight, counts_itself, relative, power: Reranking(
        k1=k1,
        k2=min(k1, k2),
        weight=weight,
        counts_itself=counts_itself,
        relative=relative,
        power=power if relative else 1,
    ),
    st.integers(1, 12),
    st.integers(1, 5),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([1, 2]),
)


@settings(deadline=None, max_examples=150)
@given(
    # Whole numbers: many exact ties, duplicates and zeros, and no rounding in the textbook.
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(2, 24), st.integers(1, 4)),
        elements=st.integers(-2, 2),
    ),
    st.integers(1, 8),
    hows,
)
def test_any_rows_have_the_distances_of_the_textbook(
    rows: Array, queries: int, how: Reranking
) -> None:
    queries = min(queries, len(rows) - 1)
    ours = joined(rerank(rows[:queries], rows[queries:], how))
    np.testing.assert_allclose(ours, textbook(rows[:queries], rows[queries:], how), atol=2e-6)


@pytest.mark.parametrize("name", RERANKINGS)
@pytest.mark.parametrize(("queries", "gallery"), [(1, 90), (30, 60), (1, 1), (1, 8), (30, 1)])
def test_few_rows_have_the_distances_of_the_textbook(name: str, queries: int, gallery: int) -> None:
    rows = clustered(queries + gallery, persons=9)
    both, how = (rows[:queries], rows[queries:]), RERANKINGS[name]
    np.testing.assert_allclose(joined(rerank(*both, how)), textbook(*both, how), atol=2e-6)


@pytest.mark.parametrize("k1", [3, 5, 7, 11])
@pytest.mark.parametrize("counts_itself", [False, True])
def test_half_of_an_odd_k1_is_the_textbooks(k1: int, counts_itself: bool) -> None:
    rows = clustered(120, persons=12)
    how = Reranking(k1=k1, k2=3, counts_itself=counts_itself)
    both = rows[:40], rows[40:]
    np.testing.assert_allclose(joined(rerank(*both, how)), textbook(*both, how), atol=2e-6)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = clustered(300, persons=20)
    whole = joined(rerank(rows[:50], rows[50:]))
    monkeypatch.setattr(similarity, "BLOCK_ROWS", 8)
    monkeypatch.setattr(similarity, "TILE_ROWS", 7)
    monkeypatch.setattr(neighbours, "PAIR_BYTES", 100)
    monkeypatch.setattr(module, "ENCODED_ROWS", 11)
    pieces = [rows[50:60], rows[60:160], rows[160:]]
    blocks = list(rerank(rows[:50], pieces))
    assert [first for first, _ in blocks] == list(range(0, 50, 8))
    np.testing.assert_allclose(joined(iter(blocks)), whole, atol=1e-6)


def test_the_number_of_threads_does_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = clustered(700, persons=30)
    found = []
    for threads in (1, 3):
        monkeypatch.setattr(similarity, "threads_for", lambda rows, threads=threads: threads)
        found.append(joined(rerank(rows[:300], rows[300:])))
    assert found[0].tobytes() == found[1].tobytes()


def test_memory_maps_and_half_precision_are_taken(tmp_path: Path) -> None:
    rows = clustered(60, persons=6).astype(np.float16)
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    ours = joined(rerank(mapped[:10], mapped[10:]))
    np.testing.assert_allclose(ours, textbook(rows[:10], rows[10:], ZHONG), atol=2e-6)


@pytest.mark.parametrize("name", RERANKINGS)
def test_an_empty_side_gives_no_distance(name: str) -> None:
    rows, none = clustered(5, persons=2), np.empty((0, 16), np.float32)
    assert list(rerank(none, rows, RERANKINGS[name])) == []
    assert list(rerank(none, none, RERANKINGS[name])) == []
    (only,) = rerank(rows, none, RERANKINGS[name])
    assert only[0] == 0 and only[1].shape == (5, 0)


def test_a_feature_that_is_not_finite_is_refused_by_name() -> None:
    rows = clustered(30, persons=3)
    bad = rows.copy()
    bad[7, 3] = np.nan
    with pytest.raises(DataError, match="query feature 7 "):
        rerank(bad, rows)
    bad[7, 3] = np.inf
    with pytest.raises(DataError, match="gallery feature 7 "):
        expand(rows, bad)


def test_features_of_two_models_are_refused() -> None:
    with pytest.raises(DataError, match="16 dimensions, gallery features 8"):
        rerank(clustered(5, 2), clustered(5, 2, dimensions=8))


@pytest.mark.parametrize("name", RERANKINGS)
def test_zero_features_are_near_each_other_and_far_from_the_rest(name: str) -> None:
    # Of norm 1 exactly: a feature of zeros is as far from all, and rounding breaks no tie.
    rows = np.sign(clustered(80, persons=8)) / np.float32(4)
    rows[[3, 40, 41, 42]] = 0
    both, how = (rows[:10], rows[10:]), RERANKINGS[name]
    ours = joined(rerank(*both, how))
    np.testing.assert_allclose(ours, textbook(*both, how), atol=2e-6)
    assert set(np.argsort(ours[3], kind="stable")[:3]) == {30, 31, 32}


@pytest.mark.parametrize("name", RERANKINGS)
def test_duplicates_are_ordered_by_row(name: str) -> None:
    rows = clustered(40, persons=4).repeat(3, axis=0)
    both, how = (rows[:10], rows[10:]), RERANKINGS[name]
    np.testing.assert_allclose(joined(rerank(*both, how)), textbook(*both, how), atol=2e-6)


@pytest.mark.parametrize("value", [0.0, 0.25, 0.1])
@pytest.mark.parametrize("name", RERANKINGS)
def test_rows_that_are_all_the_same_have_no_distance_themselves(name: str, value: float) -> None:
    rows = np.full((100, 16), value, np.float32)
    both, how = (rows[:10], rows[10:]), RERANKINGS[name]
    assert np.abs(joined(rerank(*both, replace(how, weight=1.0)))).max() < 1e-6
    # Of more than k1 equal rows, the later ones have no neighbours.
    np.testing.assert_allclose(joined(rerank(*both, how)), textbook(*both, how), atol=2e-6)


def test_too_many_rows_that_are_the_same_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "MOST_CANDIDATES", 9_999)
    rows = np.full((100, 16), 0.25, np.float32)
    with pytest.raises(DataError, match="too many features are the same"):
        list(rerank(rows[:10], rows[10:]))


def test_work_that_does_not_fit_is_refused_before_it_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = np.full((20, 4), np.nan, np.float32)  # which would be refused if they were read
    need = estimate(10, 10, 4).bytes
    monkeypatch.setattr(memory, "available_memory", lambda: need - 1)
    with pytest.raises(UserError, match=r"10 queries and 10 gallery rows needs about 0\.\d GB"):
        rerank(rows[:10], rows[10:])
    monkeypatch.setattr(memory, "available_memory", lambda: need)
    with pytest.raises(DataError, match="NaN"):
        rerank(rows[:10], rows[10:])


def test_an_expansion_that_does_not_fit_is_refused_before_it_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = clustered(20, persons=2)
    need = expansion_bytes(20, rows.shape[1])
    monkeypatch.setattr(memory, "available_memory", lambda: need - 1)
    with pytest.raises(UserError, match=r"expanding 20 features needs about 0\.\d GB"):
        expand(rows[:10], rows[10:])
    monkeypatch.setattr(memory, "available_memory", lambda: need)
    assert len(expand(rows[:10], rows[10:])[0]) == 10


def test_market_needs_less_than_a_gigabyte_and_msmt17_less_than_four() -> None:
    assert estimate(3_368, 15_913, 512).bytes < 1e9
    assert estimate(11_659, 82_161, 2048).bytes < 4e9
    assert 0 < available_memory() < 1 << 50


@pytest.mark.parametrize(
    ("queries", "gallery", "dimensions", "how", "threads", "seconds", "in_bytes"),
    [
        (3_368, 15_913, 512, ZHONG, 1, 10.096, 140_944_110),  # Market-1501; mostly products
        (3_368, 15_913, 512, ZHONG, 4, 2.9905, 185_367_534),
        (11_659, 82_161, 2048, ZHONG, 1, 716.12, 1_406_361_800),  # MSMT17
        (1, 10, 100_000, ZHONG, 1, 0.024638, 4_413_354),  # mostly exact distances
        (2_000, 2_000, 0, TRANSREID, 1, 13.381, 66_552_000),  # mostly neighbourhoods in common
        (2_000, 2_000, 0, TRANSREID, 2, 6.6906, 69_624_000),
    ],
)
def test_the_time_and_the_memory_of_a_re_ranking_are_estimated_from_its_operations(
    monkeypatch: pytest.MonkeyPatch,
    queries: int,
    gallery: int,
    dimensions: int,
    how: Reranking,
    threads: int,
    seconds: float,
    in_bytes: int,
) -> None:
    for each in (module, similarity):
        monkeypatch.setattr(each, "threads_for", lambda rows: threads)
    need = estimate(queries, gallery, dimensions, how)
    assert need.seconds == pytest.approx(seconds, rel=1e-4)
    assert need.bytes == in_bytes


@pytest.mark.parametrize("values", [{"k2": 0}, {"k1": 5, "k2": 6}, {"weight": 1.5}])
def test_impossible_values_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=f"{next(iter(values))} = "):
        Reranking(**values)


def test_expansion_over_no_neighbour_is_refused() -> None:
    with pytest.raises(OptionError, match="k = 0"):
        expand(clustered(5, 2), clustered(5, 2), k=0)


def test_progress_reaches_the_whole_of_each_part() -> None:
    rows, seen = clustered(60, persons=6), []
    blocks = rerank(rows[:10], rows[10:], progress=lambda *step: seen.append(step))
    assert seen == []
    list(blocks)
    assert seen == [("neighbours", 60, 60), ("encoding", 60, 60)]


@pytest.mark.parametrize("name", PLAIN)
def test_expanded_features_are_those_of_fastreid(name: str) -> None:
    given, theirs = scenario(name)
    query, gallery = expand(given["query_features"], given["gallery_features"], k=5, alpha=3.0)
    np.testing.assert_allclose(query, normalised(theirs["F_aqe_query_features"]), atol=1e-6)
    np.testing.assert_allclose(gallery, normalised(theirs["F_aqe_gallery_features"]), atol=1e-6)


def test_expansion_ignores_zero_and_opposite_features() -> None:
    rows = np.array([[1, 0], [-1, 0], [0, 0], [0, 0]], np.float32)
    query, gallery = expand(rows[:1], rows[1:], k=4, alpha=2.5)
    np.testing.assert_array_equal(np.concatenate([query, gallery]), rows)
    query, gallery = expand(rows[:0], rows[:0])
    assert query.shape == gallery.shape == (0, 2)
