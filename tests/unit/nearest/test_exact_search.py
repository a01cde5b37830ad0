"""What is proven is brute force's answer: ties, duplicates, any spectrum, any filter."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from distreid.nearest import block_bounds, exact_search, gpu_bounds, side_by_side
from distreid.nearest.block_bounds import has_exact_int8_products
from distreid.nearest.codes import BLOCK, Codes, Directions, encode, learn, query_vectors
from distreid.nearest.exact_search import (
    NO_ROW,
    Found,
    Part,
    StoredRows,
    best_among,
    search,
    unit_queries,
)


def brute_force(
    rows_ND: NDArray[np.floating], ids: NDArray[np.int64], query_D: NDArray[np.float64], top: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """By the definition, with numpy alone."""
    # Not by BLAS, for which equal rows may have other last bits.
    scores = (rows_ND.astype(np.float64) * query_D).sum(axis=1).astype(np.float32)
    order = np.lexsort((ids, -scores))[:top]
    return ids[order], scores[order]


def agrees(found: Found, query: int, ids: NDArray[np.int64], scores: NDArray[np.float32]) -> None:
    assert found.ids[query].tolist() == ids.tolist()
    # numpy adds in another order, which may be another float32.
    np.testing.assert_allclose(found.scores[query], scores, rtol=0, atol=2e-7)


def directions_of(rows: NDArray[np.floating], width: int, scanned: int | None = None) -> Directions:
    rows = rows.astype(np.float32)
    _, vectors = np.linalg.eigh((rows.T @ rows).astype(np.float64))
    basis = np.ascontiguousarray(vectors[:, ::-1][:, : width - 2], np.float32)
    step = np.maximum(np.abs(rows @ basis).max(axis=0) / 127, 1e-6)
    return Directions(basis=basis, step=step.astype(np.float32), scanned=scanned)


@st.composite
def galleries(draw: st.DrawFn) -> tuple[NDArray[np.floating], NDArray[np.float64], int, int]:
    """Unit rows with a spectrum of any decay and some duplicates, unit queries, a code's width
    and how many rows are wanted."""
    seed, count = (
        draw(st.integers(0, 2**32 - 1)),
        draw(st.one_of(st.integers(1, 60), st.integers(600, 1500))),
    )
    dim, decay = draw(st.integers(2, 40)), draw(st.sampled_from([0.0, 0.5, 1.5, 4.0]))
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((count, dim)) * np.arange(1, dim + 1) ** -decay
    rows = rows[rng.integers(0, draw(st.integers(1, count)), count)]  # duplicates
    if draw(st.booleans()):
        rows = np.where(np.abs(rows) > 0.5, np.sign(rows), 0)  # many exact ties
    rows[~rows.any(axis=1), 0] = 1
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    near = rows[rng.integers(0, count, 9)] + 0.1 * rng.standard_normal((9, dim))
    dtype = draw(st.sampled_from([np.float32, np.float16]))
    width = draw(st.integers(3, dim + 2))
    return rows.astype(dtype), unit_queries(near), width, draw(st.integers(1, 60))


@given(galleries(), st.data())
def test_the_answer_is_brute_forces(
    gallery: tuple[NDArray[np.floating], NDArray[np.float64], int, int], data: st.DataObject
) -> None:
    rows, queries, width, top = gallery
    rng = np.random.default_rng(len(rows))
    ids = rng.permutation(10 * len(rows))[: len(rows)].astype(np.int64)
    cut = data.draw(st.integers(0, len(rows)), "rows of the first part")
    live = rng.random(len(rows)) < data.draw(st.sampled_from([0.0, 0.2, 1.0]), "share that may be")
    filtered = data.draw(st.booleans(), "filtered")
    learnt_of = rows[: data.draw(st.integers(1, len(rows)), "rows learnt of")]
    directions = None
    if data.draw(st.booleans(), "codes"):
        scanned = data.draw(st.one_of(st.none(), st.integers(1, width - 2)), "directions scanned")
        directions = directions_of(learnt_of, width, scanned)
    parts = []
    for own in (np.arange(0, cut), np.arange(cut, len(rows))):
        if not len(own):
            continue
        codes = encode(directions, [rows[own].astype(np.float32)]) if directions else None
        size = 37
        stored = StoredRows(
            pieces=[np.ascontiguousarray(rows[i : i + size]) for i in range(0, len(rows), size)],
            source=own.astype(np.int64),
        )
        allowed = np.flatnonzero(live[own]).astype(np.int32) if filtered else None
        parts.append(Part(rows=stored, ids=ids[own], codes=codes, live=allowed))
    placed = np.concatenate([part.ids for part in parts])
    kept = live if filtered else np.ones(len(rows), bool)
    # So small that a few hundred rows are many.
    sizes: dict[str, Any] = {"FIRST_BLOCKS": 1, "FEW": 4, "FEW_IN_INT8": 4}
    sizes["STRETCH_BYTES"] = data.draw(st.integers(1, 5000), "bytes of a stretch")
    in_int8 = has_exact_int8_products() and data.draw(st.booleans(), "products of 8 bits")
    cores = data.draw(st.sampled_from([1, 2, 5]), "threads")
    # By its number the processor is taken for a device that multiplies float16.
    device = data.draw(st.sampled_from(["cpu", "cpu:0"]), "device")
    for few in (slice(0, 1), slice(0, 2), slice(0, 9)):
        with (
            patch.multiple(exact_search, **sizes, threads=lambda: cores),
            patch.object(side_by_side, "threads", lambda: cores),
            patch.object(block_bounds, "has_exact_int8_products", lambda: in_int8),
        ):
            found = search(parts, queries[few], top, device)
        assert found.ids.shape == (len(queries[few]), min(top, kept.sum()))
        assert (placed[found.place] == found.ids).all()
        for number, query in enumerate(queries[few]):
            agrees(found, number, *brute_force(rows[kept], ids[kept], query, top))


@given(galleries(), st.integers(0, 2**32 - 1))
def test_no_bound_is_below_a_score(
    gallery: tuple[NDArray[np.floating], NDArray[np.float64], int, int], seed: int
) -> None:
    """Also for directions that have nothing to do with the rows, and are not even orthogonal."""
    rows, queries, width, _ = gallery
    rng = np.random.default_rng(seed)
    scanned = int(rng.integers(1, width - 1)) if width > 3 else None
    arbitrary = Directions(
        basis=rng.standard_normal((rows.shape[1], width - 2)).astype(np.float32),
        step=rng.uniform(1e-4, 1e-1, width - 2).astype(np.float32),
        scanned=scanned,
    )
    for directions in (directions_of(rows, width, scanned), arbitrary):
        codes = encode(directions, [rows.astype(np.float32)])
        scores_QN = (queries @ rows.T.astype(np.float64)).astype(np.float32)
        levels = [(codes, codes.code)]
        if codes.finer is not None:
            whole = np.concatenate((codes.code[:, :-2], codes.finer.code), axis=1)
            assert whole.shape[1] == width
            levels.append((codes.finer, whole))
        for level, code in levels:
            for vector, scores_N in zip(query_vectors(level, queries), scores_QN, strict=True):
                product = code.astype(np.int64) @ vector.vector.astype(np.int64)
                assert np.abs(product).max() < 2**31
                assert (product * vector.unit + vector.constant >= scores_N).all()
                floats = code.astype(np.float32) @ vector.exact
                assert (floats + np.float32(vector.slack) + vector.constant >= scores_N).all()


@given(galleries(), st.integers(1, 4), st.booleans())
def test_no_bound_of_a_block_in_float16_is_below_a_score(
    gallery: tuple[NDArray[np.floating], NDArray[np.float64], int, int],
    blocks_at_once: int,
    filtered: bool,
) -> None:
    rows, queries, width, _ = gallery
    codes = encode(directions_of(rows, width), [rows.astype(np.float32)])
    vectors = query_vectors(codes, queries)
    live = np.arange(0, len(rows), 3, dtype=np.int32) if filtered else None
    at_once = blocks_at_once * BLOCK * len(queries)
    with patch.object(gpu_bounds, "VALUES_AT_ONCE", at_once):
        bounds_QB, slack_Q = gpu_bounds.multiplied_on_device(
            gpu_bounds.codes_on("cpu", codes.code), live, vectors, codes.longest
        )
    scores_QN = (queries @ rows.T.astype(np.float64)).astype(np.float32)
    scores_QN = scores_QN if live is None else scores_QN[:, live]
    constant_Q = np.array([vector.constant for vector in vectors])
    for block in range(bounds_QB.shape[1]):
        best_Q = scores_QN[:, BLOCK * block : BLOCK * (block + 1)].max(axis=1)
        assert (bounds_QB[:, block] + slack_Q + constant_Q >= best_Q).all()
    assert slack_Q.max() < 0.01  # and it says something


def spectrum(count: int, dim: int, decay: float) -> NDArray[np.float32]:
    rng = np.random.default_rng(5)
    rows = rng.standard_normal((count, dim)) * np.arange(1, dim + 1) ** -decay
    unit: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit.astype(np.float32)


def part_of(rows: NDArray[np.float32], codes: Codes | None) -> Part:
    stored = StoredRows(pieces=[rows], source=np.arange(len(rows)))
    return Part(rows=stored, ids=np.arange(len(rows)), codes=codes)


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_few_rows_are_scored_where_the_bound_is_sharp(decay: float) -> None:
    rows = spectrum(6000, 64, decay)
    near = rows[::200] + 0.02 * np.random.default_rng(1).standard_normal((30, 64))
    queries = unit_queries(near)
    threshold = np.sort((queries @ rows.T).astype(np.float32), axis=1)[:, -10]
    directions, tried = learn(rows[::2], queries.astype(np.float32), threshold, len(rows))
    assert directions.width in tried
    codes = encode(directions, [rows])
    found = search([part_of(rows, codes)], queries, 10)
    assert found.scored.mean() < 0.25 * len(rows)
    everything = search([part_of(rows, None)], queries, 10)
    assert (found.ids == everything.ids).all()
    assert (found.scores == everything.scores).all()


def test_all_that_threads_score_for_one_query_is_counted() -> None:
    rows = spectrum(20_000, 64, 0.0)
    part = part_of(rows, encode(directions_of(rows, 4), [rows]))  # codes that say nothing
    with (
        patch.multiple(exact_search, threads=lambda: 4, FIRST_BLOCKS=1),
        patch.object(side_by_side, "threads", lambda: 4),
    ):
        found = search([part], unit_queries(rows[:1]), 100)
    assert found.scored[0] > 0.9 * len(rows)


def test_a_flat_spectrum_takes_wide_codes_and_a_steep_one_narrow_ones() -> None:
    widths = []
    for decay in (0.0, 2.0):
        rows = spectrum(20_000, 64, decay)
        queries = rows[:40]
        threshold = np.sort(queries @ rows.T, axis=1)[:, -10]
        widths.append(learn(rows, queries, threshold, 1_000_000)[0].width)
    assert widths[0] > widths[1]


def test_products_that_torch_may_round_to_bfloat16_prove_as_much() -> None:
    rows = spectrum(3000, 32, 0.5)
    queries = unit_queries(rows[:20])
    expected = search([part_of(rows, None)], queries, 7)
    torch.set_float32_matmul_precision("medium")
    try:
        for codes in (None, encode(directions_of(rows, 16), [rows])):
            found = search([part_of(rows, codes)], queries, 7)
            assert (found.ids == expected.ids).all()
    finally:
        torch.set_float32_matmul_precision("highest")


def test_many_queries_are_answered_as_one_is() -> None:
    rows = spectrum(5000, 48, 1.0)
    codes = encode(directions_of(rows, 16), [rows])
    queries = unit_queries(rows[: 2 * exact_search.QUERIES_AT_ONCE + 3])
    together = search([part_of(rows, codes)], queries, 5)
    for number in (0, exact_search.QUERIES_AT_ONCE, len(queries) - 1):
        alone = search([part_of(rows, codes)], queries[number : number + 1], 5)
        assert (alone.ids == together.ids[number]).all()
        assert (alone.scores == together.scores[number]).all()


def test_a_query_of_any_length_is_a_direction() -> None:
    rows = np.array([[3e200, 4e200], [3e-200, 4e-200], [-3, 4]])
    assert np.allclose(unit_queries(rows), [[0.6, 0.8], [0.6, 0.8], [-0.6, 0.8]])


def test_rows_of_another_kind_are_refused() -> None:
    rows = spectrum(10, 8, 1.0)
    for pieces in ([rows.astype(np.float64)], [rows[:, ::2]], [rows[:3], rows[3:5], rows[5:]], []):
        with pytest.raises(ValueError, match=r"rows of|one piece|lengths"):
            StoredRows(pieces=pieces, source=np.arange(10))


def test_products_of_8_bits_that_are_wrong_or_not_there_are_not_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(block_bounds, "cpu_kind", lambda: "a CPU (avx512_vnni)")
    before = has_exact_int8_products.__wrapped__

    def saturating(a: torch.Tensor, b: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
        return torch.clamp(a.int() @ b.int(), -(2**15), 2**15 - 1, out=out)

    def right(a: torch.Tensor, b: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
        return torch.mm(a.int(), b.int(), out=out)

    def missing(*_: object, **__: object) -> torch.Tensor:
        raise RuntimeError("not implemented on this device")

    for product, expected in ((right, True), (saturating, False), (missing, False)):
        monkeypatch.setattr(torch, "_int_mm", product)
        assert before() is expected
    monkeypatch.setattr(block_bounds, "cpu_kind", lambda: "a CPU (avx2)")
    monkeypatch.setattr(torch, "_int_mm", right)
    assert before() is False


@given(galleries(), st.data())
def test_the_best_among_given_rows_are_brute_forces(
    gallery: tuple[NDArray[np.floating], NDArray[np.float64], int, int], data: st.DataObject
) -> None:
    rows, queries, _, top = gallery
    rng = np.random.default_rng(len(rows))
    ids = rng.permutation(10 * len(rows))[: len(rows)].astype(np.int64)
    cut = data.draw(st.integers(0, len(rows)), "rows of the first part")
    count = data.draw(st.integers(0, min(50, len(rows))), "rows given")
    parts = [
        Part(
            rows=StoredRows(pieces=[np.ascontiguousarray(rows)], source=own.astype(np.int64)),
            ids=ids[own],
            codes=None,
        )
        for own in (np.arange(0, cut), np.arange(cut, len(rows)))
    ]
    places = np.full((len(queries), 50), NO_ROW)
    for of_query in places:
        where = rng.choice(50, count, replace=False)
        of_query[where] = rng.choice(len(rows), count, replace=False)
    found = best_among(parts, queries, places, top)
    assert found.ids.shape == (len(queries), min(top, 50))
    for query, of_query in enumerate(places):
        own = of_query[of_query != NO_ROW]
        wanted, scores = brute_force(rows[own], ids[own], queries[query], top)
        full = len(wanted)
        assert found.ids[query, :full].tolist() == wanted.tolist()
        np.testing.assert_allclose(found.scores[query, :full], scores, rtol=0, atol=2e-7)
        assert ids[found.place[query, :full]].tolist() == wanted.tolist()
        assert (found.place[query, full:] == NO_ROW).all()
        assert found.scored[query] == count
