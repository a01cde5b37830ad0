"""The rows with the largest scores, proven to be: what brute force answers, mostly without it.

A score is the float64 inner product of a stored row and a unit query, rounded to float32; rows are
ordered by it, the larger first, equal ones by their ids. Q queries, K rows wanted, N rows of a
part.

Where a part has codes, every row's upper bound is computed from them, the rows with the largest are
scored, and then every other row whose bound reaches the K-th score so far. So a row that was not
scored cannot belong to the answer. Without codes all rows are multiplied in float32, and the error
of that is the bound.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distreid.nearest.block_bounds import Bounds, has_exact_int8_products, multiplied, scanned
from distreid.nearest.codes import BLOCK, Codes, QueryVector, U, gamma, query_vectors
from distreid.nearest.gpu_bounds import codes_on, multiplied_on_device
from distreid.nearest.scan_loops import Asked, Coded, Heaps, Stored, half_values, loops
from distreid.nearest.side_by_side import Cut, cuts, for_each, threads

Places = NDArray[np.int32]

FEW, FEW_IN_INT8 = 12, 5  # queries: fewer read the codes each alone, more are multiplied together
QUERIES_AT_ONCE = 1024
BOUND_BYTES = 256 << 20  # of the blocks' bounds of so many queries
FIRST_BLOCKS = 64  # a query looks at first, so that few rows of the rest are candidates
STRETCH_BYTES = 1 << 20  # of codes, which stay in the cache while many queries look at them
MULTIPLIED_ROWS = 2048  # in one product without codes
NO_ROW = -1
BFLOAT_ROUNDOFF = 2.0**-8  # of products for which the user lets torch round to bfloat16
NOT_CODED = np.empty((0, 0), np.int16), np.empty(0), np.empty(0)  # queries where no codes are read


@dataclass(frozen=True, kw_only=True)
class StoredRows:
    """N rows as they are stored, in memory or mapped."""

    pieces: Sequence[NDArray[np.floating[Any]]]
    """(n, D) each, of float32 or float16, contiguous; all of one length, but for the last."""
    source: NDArray[np.int64]
    """(N,) which stored row each is, counted over the pieces."""

    def __post_init__(self) -> None:
        kinds = {piece.dtype.str for piece in self.pieces}
        if len(kinds) != 1 or not kinds <= {"<f4", "<f2"}:
            raise ValueError(f"rows of {', '.join(sorted(kinds)) or 'nothing'}")
        if not all(piece.flags.c_contiguous for piece in self.pieces):
            raise ValueError("rows that do not lie in one piece")
        if len({len(piece) for piece in self.pieces[:-1]}) > 1:
            raise ValueError("pieces of several lengths")

    @property
    def dim(self) -> int:
        """D."""
        return int(self.pieces[0].shape[1])

    @functools.cached_property
    def addresses(self) -> NDArray[np.int64]:
        """Of the pieces, in memory."""
        return np.array([piece.ctypes.data for piece in self.pieces], np.int64)

    def take(self, places: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """(n, D) float32 of these places, a copy."""
        stored = self.source[places]
        size = max(1, len(self.pieces[0]))
        index, row = np.divmod(stored, size)
        taken = np.empty((len(stored), self.dim), np.float32)
        for piece in np.unique(index):
            of_piece = index == piece
            taken[of_piece] = self.pieces[piece][row[of_piece]]
        return taken


@dataclass(frozen=True, kw_only=True)
class Part:
    """N rows that are searched."""

    rows: StoredRows
    ids: NDArray[np.int64]
    """(N,) of each row, the same for life; no two are equal."""
    codes: Codes | None
    """None: its rows are multiplied."""
    live: Places | None = None
    """Ascending places of the rows that may be found; None: all."""

    def __len__(self) -> int:
        return len(self.ids) if self.live is None else len(self.live)

    def stored(self, base: int) -> Stored:
        """Where its rows lie; they are counted from `base`."""
        pieces = self.rows.pieces
        is_half = pieces[0].dtype.itemsize == 2
        return Stored(
            addresses=self.rows.addresses,
            piece_rows=max(1, len(pieces[0])),
            row_bytes=self.rows.dim * pieces[0].dtype.itemsize,
            is_half=is_half,
            half=half_values() if is_half else np.empty(0),
            source=self.rows.source,
            ids=self.ids,
            base=base,
        )

    @functools.cached_property
    def places(self) -> Places:
        """`live`, or every place."""
        return np.arange(len(self.ids), dtype=np.int32) if self.live is None else self.live


@dataclass(frozen=True, kw_only=True)
class Found:
    """Answers to Q queries, best row first. K is the number wanted, or of rows if that is less."""

    ids: NDArray[np.int64]
    """(Q, K)."""
    scores: NDArray[np.float32]
    """(Q, K)."""
    place: NDArray[np.int64]
    """(Q, K) where a row stands among those of all parts, one part after the other."""
    scored: NDArray[np.int64]
    """(Q,) how many rows were scored beside those whose bound said enough."""


def _empty_heaps(queries: int, k: int) -> Heaps:
    shape = (queries, k)
    return Heaps(
        np.full(shape, -np.inf, np.float32),
        np.full(shape, np.iinfo(np.int64).max, np.int64),
        np.full(shape, NO_ROW, np.int64),
        np.zeros(queries, np.int64),
    )


def _beside(heaps: Heaps) -> Heaps:
    """Heaps without rows, for those that belong into these ones: what is worse than their worst
    does not."""
    other = _empty_heaps(*heaps.scores.shape)
    other.scores[:] = heaps.scores[:, :1]
    return other


def unit_queries(features: NDArray[Any]) -> NDArray[np.float64]:
    """(Q, D) float64 of L2 norm 1, of finite features that are not zero."""
    doubles = np.asarray(features, np.float64)
    # By its largest value first, so that no square is infinite or zero.
    doubles = doubles / np.abs(doubles).max(axis=1, keepdims=True)
    unit: NDArray[np.float64] = doubles / np.linalg.norm(doubles, axis=1, keepdims=True)
    return unit


def search(
    parts: Sequence[Part], query_QD: NDArray[np.float64], top: int, device: str = "cpu"
) -> Found:
    """The `top` best rows over all parts for each unit query, float64. `device` multiplies the
    codes, such as `cuda`, where they stay for the next search; OptionError if it cannot."""
    k = min(top, sum(map(len, parts)))
    best = _empty_heaps(len(query_QD), k)
    if k:
        query_QD = np.ascontiguousarray(query_QD)
        blocks = max(map(len, parts)) // BLOCK + 1
        at_once = max(FEW, min(QUERIES_AT_ONCE, BOUND_BYTES // (4 * blocks)))
        for first in range(0, len(query_QD), at_once):
            chosen = range(first, min(first + at_once, len(query_QD)))
            before = np.cumsum([0, *(len(part.ids) for part in parts)]).tolist()
            # The largest part first: it leaves the least to do in others.
            for part, base in sorted(zip(parts, before, strict=False), key=lambda p: -len(p[0])):
                if len(part):
                    if part.codes is None:
                        _multiply(part, base, query_QD, chosen, best)
                    else:
                        _by_bounds(part, base, query_QD, chosen, best, device)
    return _in_order(best)


def best_among(
    parts: Sequence[Part],
    query_QD: NDArray[np.float64],
    place_QC: NDArray[np.int64],
    top: int,
) -> Found:
    """The `top` best of C rows that are given for each unit query, by their places among the rows
    of all parts, none twice, `NO_ROW` where there are fewer. The answer has C rows if that is less;
    `NO_ROW` with the score −∞ stands at the end where there were fewer."""
    best = _empty_heaps(len(query_QD), min(top, place_QC.shape[1]))
    asked = Asked(np.ascontiguousarray(query_QD), *NOT_CODED, *NOT_CODED)
    ordered_QC = np.sort(place_QC)  # as they lie in the files
    before = np.cumsum([0, *(len(part.ids) for part in parts)]).tolist()

    def score(queries: Cut) -> None:
        for part, base in zip(parts, before, strict=False):
            loops.score_given(*queries, ordered_QC, len(part.ids), part.stored(base), asked, best)

    for_each(score, cuts(len(query_QD)))
    best.scored[:] = (place_QC != NO_ROW).sum(axis=1)
    return _in_order(best)


def _in_order(best: Heaps) -> Found:
    order = np.lexsort((best.rows, -best.scores), axis=1)
    return Found(
        ids=np.take_along_axis(best.rows, order, 1),
        scores=np.take_along_axis(best.scores, order, 1),
        place=np.take_along_axis(best.places, order, 1),
        scored=best.scored,
    )


def _by_bounds(
    part: Part,
    base: int,
    query_QD: NDArray[np.float64],
    chosen: range,
    best: Heaps,
    device: str,
) -> None:
    """Brings the heaps of the chosen queries up to date with a part that has codes; its rows are
    counted from `base`."""
    codes = part.codes
    assert codes is not None
    roundoff = U if torch.get_float32_matmul_precision() == "highest" else BFLOAT_ROUNDOFF
    vectors = query_vectors(codes, query_QD[chosen.start : chosen.stop], roundoff)
    bounds_QB, slack_Q = _bounds(codes, part.live, vectors, device)
    some = slice(chosen.start, chosen.stop)
    own = Heaps(*(array[some] for array in best))  # what is changed there is changed here
    asked = _asked(query_QD[some], vectors, codes.finer)
    everything = part.stored(base)
    rest = np.empty((len(codes), 0), np.int8) if codes.finer is None else codes.finer.code

    def refine(best_blocks: int, queries: Cut, blocks: Cut, heaps: Heaps) -> None:
        rows = slice(blocks[0] * BLOCK, blocks[1] * BLOCK)
        is_all = part.live is None
        # Of all rows, those of the blocks; with a filter the places are of the whole part.
        cut = rows if is_all else slice(None)
        loops.refine(
            best_blocks,
            max(1, STRETCH_BYTES // (BLOCK * codes.directions.width)),
            *queries,
            bounds_QB[:, slice(*blocks)],
            slack_Q,
            Coded(
                code=codes.code[cut],
                rest=rest[cut],
                live=np.empty(0, np.int32) if part.live is None else part.live[rows],
                is_all=is_all,
            ),
            everything._replace(
                source=part.rows.source[cut],
                ids=part.ids[cut],
                base=base + rows.start if is_all else base,
            ),
            asked,
            heaps,
        )

    count = bounds_QB.shape[1]
    best_blocks = max(FIRST_BLOCKS, 2 * best.scores.shape[1] // BLOCK)
    of_queries = cuts(len(vectors))
    stretches = cuts(count, most=-(-threads() // len(vectors)))
    for_each(lambda cut: refine(best_blocks, cut, (0, count), own), of_queries)
    # Few queries share the threads: each has several heaps, for a stretch of the rows each.
    heaps = [own, *(_beside(own) for _ in stretches[1:])]
    tasks = [(cut, *each) for cut in of_queries for each in zip(stretches, heaps, strict=True)]
    for_each(lambda task: refine(0, *task), tasks)
    for other in heaps[1:]:
        loops.merge(other, own)


def _bounds(
    codes: Codes, live: Places | None, vectors: Sequence[QueryVector], device: str
) -> Bounds:
    """The fastest way to the blocks' bounds."""
    if device != "cpu":
        held = codes.on_devices
        if device not in held:
            held[device] = codes_on(device, codes.code)
        return multiplied_on_device(held[device], live, vectors, codes.longest)
    few = FEW_IN_INT8 if has_exact_int8_products() else FEW
    look = scanned if len(vectors) < few else multiplied
    return look(codes.code, live, vectors)


def _asked(
    query_QD: NDArray[np.float64], vectors: Sequence[QueryVector], finer: Codes | None
) -> Asked:
    """What the loops want to know of some queries."""

    def columns(of: Sequence[QueryVector]) -> tuple[NDArray[Any], ...]:
        return (
            np.stack([vector.vector for vector in of]),
            np.array([vector.unit for vector in of]),
            np.array([vector.constant for vector in of]),
        )

    of_finer = NOT_CODED if finer is None else columns(query_vectors(finer, query_QD))
    return Asked(query_QD, *columns(vectors), *of_finer)


def _multiply(
    part: Part, base: int, query_QD: NDArray[np.float64], chosen: range, best: Heaps
) -> None:
    """`_by_bounds` of a part without codes."""
    is_rounded = torch.get_float32_matmul_precision() != "highest"
    roundoff = BFLOAT_ROUNDOFF if is_rounded else gamma(part.rows.dim + 2)
    queries = torch.from_numpy(query_QD[chosen.start : chosen.stop].astype(np.float32))
    asked, stored = Asked(query_QD, *NOT_CODED, *NOT_CODED), part.stored(base)
    for first in range(0, len(part), MULTIPLIED_ROWS):
        places = part.places[first : first + MULTIPLIED_ROWS]
        rows = torch.from_numpy(part.rows.take(places))
        product_QN = (queries @ rows.T).numpy()
        slack = 2 * roundoff * float(torch.linalg.vector_norm(rows, dim=1).max()) + 4 * U
        kth = len(places) - min(best.scores.shape[1], len(places))
        least_Q = np.partition(product_QN, kth, axis=1)[:, kth] - np.float32(2 * slack)
        least_Q = np.maximum(least_Q, best.scores[chosen.start : chosen.stop, 0] - slack)
        for query, product_N, least in zip(chosen, product_QN, least_Q, strict=True):
            candidates = places[product_N >= least]
            best.scored[query] += len(candidates)
            loops.score_rows(candidates, stored, asked, best, query)
