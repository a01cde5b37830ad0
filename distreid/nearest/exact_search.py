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
import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from distreid.nearest.codes import Codes, QueryVector, U, gamma, query_vectors
from distreid.nearest.scan_loops import BLOCK, half_values, loops
from distreid.nearest.similarity import one_thread_each

T = TypeVar("T")
Places = NDArray[np.int32]
Cut = tuple[int, int]
"""From the first to before the last."""

FEW = 12  # queries: fewer read the codes each alone; as many or more are multiplied together
QUERIES_AT_ONCE = 1024
BOUND_BYTES = 256 << 20  # of the blocks' bounds of so many queries
TILE_BLOCKS, TILE_VALUES = 128, 1 << 19  # of one product at most: few calls, all in the cache
SIDE_BY_SIDE = 32  # queries
FIRST_BLOCKS = 64  # a query looks at first, so that few rows of the rest are candidates
STRETCH_BYTES = 1 << 20  # of codes, which stay in the cache while many queries look at them
MULTIPLIED_ROWS = 2048  # in one product without codes
NO_ROW = -1
BFLOAT_ROUNDOFF = 2.0**-8  # of products for which the user lets torch round to bfloat16


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
    def where(self) -> tuple[Any, ...]:
        """What the loops want to know: addresses, rows of a piece, bytes of a row, kind."""
        addresses = np.array([piece.ctypes.data for piece in self.pieces], np.int64)
        is_half = self.pieces[0].dtype.itemsize == 2
        half = half_values() if is_half else np.empty(0)
        return (
            addresses,
            max(1, len(self.pieces[0])),
            self.dim * self.pieces[0].dtype.itemsize,
            is_half,
            half,
        )

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


@dataclass(frozen=True)
class _Best:
    """The best rows so far, of each query a heap with the worst at its root."""

    scores: NDArray[np.float32]
    ids: NDArray[np.int64]
    place: NDArray[np.int64]
    scored: NDArray[np.int64]

    @classmethod
    def empty(cls, queries: int, k: int) -> _Best:
        shape = (queries, k)
        return cls(
            np.full(shape, -np.inf, np.float32),
            np.full(shape, np.iinfo(np.int64).max, np.int64),
            np.full(shape, NO_ROW, np.int64),
            np.zeros(queries, np.int64),
        )

    def heap(self, query: int) -> tuple[Any, Any, Any]:
        return self.scores[query], self.ids[query], self.place[query]

    def of(self, queries: range) -> _Best:
        """Those of some queries; what is changed there is changed here."""
        some = slice(queries.start, queries.stop)
        return _Best(self.scores[some], self.ids[some], self.place[some], self.scored[some])

    def beside(self) -> _Best:
        """Heaps without rows, for those that belong into these ones: what is worse than their
        worst does not."""
        other = _Best.empty(*self.scores.shape)
        other.scores[:] = self.scores[:, :1]
        return other


def unit_queries(features: NDArray[Any]) -> NDArray[np.float64]:
    """(Q, D) float64 of L2 norm 1, of finite features that are not zero."""
    doubles = np.asarray(features, np.float64)
    # By its largest value first, so that no square is infinite or zero.
    doubles = doubles / np.abs(doubles).max(axis=1, keepdims=True)
    unit: NDArray[np.float64] = doubles / np.linalg.norm(doubles, axis=1, keepdims=True)
    return unit


def search(parts: Sequence[Part], query_QD: NDArray[np.float64], top: int) -> Found:
    """The `top` best rows over all parts for each unit query, float64."""
    k = min(top, sum(map(len, parts)))
    best = _Best.empty(len(query_QD), k)
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
                    look = _multiply if part.codes is None else _by_bounds
                    look(part, base, query_QD, chosen, best)
    return _in_order(best)


def _in_order(best: _Best) -> Found:
    order = np.lexsort((best.ids, -best.scores), axis=1)
    return Found(
        ids=np.take_along_axis(best.ids, order, 1),
        scores=np.take_along_axis(best.scores, order, 1),
        place=np.take_along_axis(best.place, order, 1),
        scored=best.scored,
    )


def _by_bounds(
    part: Part, base: int, query_QD: NDArray[np.float64], chosen: range, best: _Best
) -> None:
    """Brings the heaps of the chosen queries up to date with a part that has codes; its rows are
    counted from `base`."""
    codes = part.codes
    assert codes is not None
    roundoff = U if torch.get_float32_matmul_precision() == "highest" else BFLOAT_ROUNDOFF
    vectors = query_vectors(codes, query_QD[chosen.start : chosen.stop], roundoff)
    bounds_QB, slack_Q = (_scanned if len(vectors) < FEW else _multiplied)(part, vectors)
    own = best.of(chosen)
    vector_QW = np.stack([vector.vector for vector in vectors])
    unit_Q, constant_Q = (
        np.array([getattr(vector, name) for vector in vectors]) for name in ("unit", "constant")
    )

    def refine(best_blocks: int, queries: Cut, blocks: Cut, heaps: _Best) -> None:
        first, last = blocks
        rows = slice(first * BLOCK, last * BLOCK)
        is_all = part.live is None
        # Of all rows, those of the blocks; with a filter the places are of the whole part.
        cut = rows if is_all else slice(None)
        loops.refine(
            best_blocks,
            max(1, STRETCH_BYTES // (BLOCK * codes.directions.width)),
            *queries,
            bounds_QB[:, first:last],
            slack_Q,
            codes.code[cut],
            np.empty(0, np.int32) if part.live is None else part.live[rows],
            is_all,
            vector_QW,
            unit_Q,
            constant_Q,
            *part.rows.where,
            part.rows.source[cut],
            part.ids[cut],
            base + rows.start if is_all else base,
            query_QD[chosen.start : chosen.stop],
            heaps.scores,
            heaps.ids,
            heaps.place,
            heaps.scored,
        )

    count = bounds_QB.shape[1]
    best_blocks = max(FIRST_BLOCKS, 2 * best.scores.shape[1] // BLOCK)
    cuts, stretches = _cuts(len(vectors)), _cuts(count, most=-(-threads() // len(vectors)))
    for_each(lambda cut: refine(best_blocks, cut, (0, count), own), cuts)
    # Few queries share the threads: each has several heaps, for a stretch of the rows each.
    heaps = [own, *(own.beside() for _ in stretches[1:])]
    tasks = [(cut, *each) for cut in cuts for each in zip(stretches, heaps, strict=True)]
    for_each(lambda task: refine(0, *task), tasks)
    for other in heaps[1:]:
        loops.merge(
            *(other.scores, other.ids, other.place, other.scored),
            *(own.scores, own.ids, own.place, own.scored),
        )


def _scanned(
    part: Part, vectors: Sequence[QueryVector]
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """(Q, blocks) upper bounds without their constants, and (Q,) what is to be added to them; each
    query reads the codes."""
    assert part.codes is not None
    code, blocks = part.codes.code, -(-len(part) // BLOCK)
    products_QB = np.empty((len(vectors), blocks), np.int32)

    def scan(task: tuple[int, int, int]) -> None:
        query, first, last = task
        bounds = products_QB[query]
        if part.live is None:
            loops.block_bounds(code, vectors[query].vector, first, last, bounds)
        else:
            loops.block_bounds_of(code, part.live, vectors[query].vector, first, last, bounds)

    for_each(scan, [(q, *cut) for q in range(len(vectors)) for cut in _cuts(blocks)])
    unit_Q = np.array([vector.unit for vector in vectors])
    bounds_QB = (products_QB * unit_Q[:, None]).astype(np.float32)
    # The rounding to float32 of the largest of them.
    return bounds_QB, 2 * U * np.abs(bounds_QB).max(axis=1).astype(np.float64)


def _multiplied(
    part: Part, vectors: Sequence[QueryVector]
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """As `_scanned`, by products of tiles of codes with all queries."""
    assert part.codes is not None
    code, blocks, queries = part.codes.code, -(-len(part) // BLOCK), len(vectors)
    vector_QW = torch.from_numpy(np.stack([vector.exact for vector in vectors]))
    vector_WQ = vector_QW.T.contiguous()
    bounds_QB = np.empty((queries, blocks), np.float32)
    at_once = max(1, min(TILE_BLOCKS, TILE_VALUES // (BLOCK * queries)))

    def multiply(cut: Cut) -> None:
        # Once: the system clears fresh memory, which would take as long as the products.
        memory = torch.empty(at_once * BLOCK * queries)
        floats = torch.empty(at_once * BLOCK, code.shape[1])
        for first in range(*cut, at_once):
            last = min(first + at_once, cut[1])
            rows = slice(first * BLOCK, min(last * BLOCK, len(part)))
            tile = code[rows] if part.live is None else code[part.live[rows]]
            floats.numpy()[: len(tile)] = tile  # which may be read-only, as torch would warn
            tile_RW = floats[: len(tile)]
            whole = len(tile) // BLOCK
            bound = memory[: len(tile) * queries]
            into_QB = torch.from_numpy(bounds_QB[:, first:last])
            # Of few queries, torch finds the largest of a block faster where its rows lie side by
            # side.
            if queries < SIDE_BY_SIDE:
                bound_QR = torch.mm(vector_QW, tile_RW.T, out=bound.view(queries, -1))
                folded = bound_QR[:, : whole * BLOCK].view(queries, whole, BLOCK)
                into_QB[:, :whole] = folded.amax(2)
                rest_QR = bound_QR[:, whole * BLOCK :]
            else:
                bound_RQ = torch.mm(tile_RW, vector_WQ, out=bound.view(-1, queries))
                folded = bound_RQ[: whole * BLOCK].view(whole, BLOCK, queries)
                into_QB[:, :whole] = folded.amax(1).T
                rest_QR = bound_RQ[whole * BLOCK :].T
            if whole < last - first:
                into_QB[:, whole] = rest_QR.amax(1)

    with one_thread_each():
        for_each(multiply, _cuts(blocks, at_once))
    return bounds_QB, np.array([vector.slack for vector in vectors])


def _multiply(
    part: Part, base: int, query_QD: NDArray[np.float64], chosen: range, best: _Best
) -> None:
    """`_by_bounds` of a part without codes."""
    is_rounded = torch.get_float32_matmul_precision() != "highest"
    roundoff = BFLOAT_ROUNDOFF if is_rounded else gamma(part.rows.dim + 2)
    queries = torch.from_numpy(query_QD[chosen.start : chosen.stop].astype(np.float32))
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
            loops.score_rows(
                candidates,
                *part.rows.where,
                part.rows.source,
                part.ids,
                base,
                query_QD[query],
                *best.heap(query),
            )


def _cuts(count: int, unit: int = 1, most: int | None = None) -> list[Cut]:
    """A range of blocks or queries for each thread, of whole units; `most` ranges at most."""
    units = -(-count // unit)
    edges = np.linspace(0, units, min(most or threads(), units) + 1).astype(int) * unit
    edges[-1] = count
    return [(int(a), int(b)) for a, b in itertools.pairwise(edges)]


def threads() -> int:
    """Of a search."""
    return len(os.sched_getaffinity(0))


@functools.cache
def _pool(process: int) -> ThreadPoolExecutor:
    """Of this process; a fork has no threads of its parent's."""
    return ThreadPoolExecutor(threads(), initializer=torch.set_num_threads, initargs=(1,))


def for_each(work: Callable[[T], None], tasks: Iterable[T]) -> None:
    """Every task, several at a time; raises what the first that fails raised."""
    tasks = list(tasks)
    if len(tasks) < 2:
        for task in tasks:
            work(task)
        return
    for _ in _pool(os.getpid()).map(work, tasks):
        pass
