"""The loops of exact search, which numba turns into machine code.

N rows, of which a filter may permit some; W bytes of a code; D dimensions; K rows wanted. Rows are
looked at in blocks of `BLOCK`. A block's bound is the largest of its rows'.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, TypeVar

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

BLOCK = 32  # rows: their largest bound is kept, 4 bytes
ROUGH = 2.0**-23  # a score near 1 differs by less from itself rounded, and added in another order
BLOCKS_AHEAD = 3  # whose codes are fetched while a block's are multiplied

Function = TypeVar("Function", bound=Callable[..., Any])


def _compiled(function: Function, **how: Any) -> Function:
    """In machine code, when it is first called; kept beside this file or in the user's cache."""
    how |= {"nogil": True, "boundscheck": False}
    try:
        made: Function = numba.njit(cache=True, **how)(function)
    except RuntimeError:  # no folder to keep it in
        made = numba.njit(**how)(function)
    return made


def _pointer_to(kind: Any) -> Any:
    @intrinsic
    def at(typing: Any, address: Any) -> Any:
        pointer = types.CPointer(kind)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(pointer))

        return pointer(address), generate

    return at


def _prefetching(typing: Any, address: Any) -> Any:
    """Has the processor read the line of memory at an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte = ir.IntType(8).as_pointer()
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        name = "llvm.prefetch.p0i8"
        prefetch = cgutils.get_or_insert_function(builder.module, kind, name)
        at = builder.inttoptr(arguments[0], byte)
        builder.call(prefetch, [at, *(ir.Constant(number, n) for n in (0, 3, 1))])
        return context.get_dummy_value()

    return types.void(address), generate


_prefetch: Any = intrinsic(_prefetching)
_floats_at, _halves_at = _pointer_to(types.float32), _pointer_to(types.uint16)
_bytes_at = _pointer_to(types.int8)


@functools.cache
def half_values() -> np.ndarray[Any, np.dtype[np.float64]]:
    """(65536,) the value of every float16, by its bits."""
    return np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float64)


@_compiled
def _score(address: Any, is_half: bool, half: Any, query_D: Any) -> Any:
    """The float64 inner product of a stored row and a query, as float32.

    Eight sums of every eighth product, added up in one order: equal rows have equal scores, and
    every machine the same.
    """
    d = len(query_D)
    eighth = d - d % 8
    a0 = a1 = a2 = a3 = a4 = a5 = a6 = a7 = 0.0
    if is_half:
        h = _halves_at(address)
        for j in range(0, eighth, 8):
            a0 += half[h[j]] * query_D[j]
            a1 += half[h[j + 1]] * query_D[j + 1]
            a2 += half[h[j + 2]] * query_D[j + 2]
            a3 += half[h[j + 3]] * query_D[j + 3]
            a4 += half[h[j + 4]] * query_D[j + 4]
            a5 += half[h[j + 5]] * query_D[j + 5]
            a6 += half[h[j + 6]] * query_D[j + 6]
            a7 += half[h[j + 7]] * query_D[j + 7]
        for j in range(eighth, d):
            a0 += half[h[j]] * query_D[j]
    else:
        x = _floats_at(address)
        for j in range(0, eighth, 8):
            a0 += np.float64(x[j]) * query_D[j]
            a1 += np.float64(x[j + 1]) * query_D[j + 1]
            a2 += np.float64(x[j + 2]) * query_D[j + 2]
            a3 += np.float64(x[j + 3]) * query_D[j + 3]
            a4 += np.float64(x[j + 4]) * query_D[j + 4]
            a5 += np.float64(x[j + 5]) * query_D[j + 5]
            a6 += np.float64(x[j + 6]) * query_D[j + 6]
            a7 += np.float64(x[j + 7]) * query_D[j + 7]
        for j in range(eighth, d):
            a0 += np.float64(x[j]) * query_D[j]
    return np.float32(((a0 + a1) + (a2 + a3)) + ((a4 + a5) + (a6 + a7)))


def _rough(address: Any, query_D: Any) -> Any:
    """`_score` of float32, before its rounding, with sums in any order: for the compiler's vector
    instructions."""
    total, x = 0.0, _floats_at(address)
    for j in range(len(query_D)):
        total += np.float64(x[j]) * query_D[j]
    return total


_rough = _compiled(_rough, fastmath={"reassoc", "contract"})


@_compiled
def _is_worse(score: Any, row: Any, than_score: Any, than_row: Any) -> Any:
    """Whether it stands behind in an answer: a smaller score, or an equal one and a later id."""
    return score < than_score or (score == than_score and row > than_row)


@_compiled
def _offer(score: Any, row: Any, place: Any, scores_K: Any, rows_K: Any, places_K: Any) -> None:
    """Puts a row in for the worst of a heap, whose root that is, if it is better."""
    if not _is_worse(scores_K[0], rows_K[0], score, row):
        return
    k, i = len(scores_K), 0
    while True:
        child = 2 * i + 1
        if child >= k:
            break
        if child + 1 < k and _is_worse(
            scores_K[child + 1], rows_K[child + 1], scores_K[child], rows_K[child]
        ):
            child += 1
        if not _is_worse(scores_K[child], rows_K[child], score, row):
            break
        scores_K[i], rows_K[i], places_K[i] = scores_K[child], rows_K[child], places_K[child]
        i = child
    scores_K[i], rows_K[i], places_K[i] = score, row, place


@_compiled
def _merge(
    scores_QK: Any,
    rows_QK: Any,
    places_QK: Any,
    scored_Q: Any,
    into_scores_QK: Any,
    into_rows_QK: Any,
    into_places_QK: Any,
    into_scored_Q: Any,
) -> None:
    """Offers what is in the heaps of some queries to others of the same queries."""
    for q in range(len(scores_QK)):
        into_scored_Q[q] += scored_Q[q]
        for k in range(scores_QK.shape[1]):
            if places_QK[q, k] >= 0:
                _offer(
                    scores_QK[q, k],
                    rows_QK[q, k],
                    places_QK[q, k],
                    into_scores_QK[q],
                    into_rows_QK[q],
                    into_places_QK[q],
                )


@_compiled
def _block_bounds(codes_NW: Any, vector_W: Any, first: Any, last: Any, bounds: Any) -> None:
    """Into `bounds`, for blocks `first` to `last` − 1: the largest product of a row's code and
    the query's vector, int32."""
    n, w = codes_NW.shape
    for block in range(first, last):
        r, stop = block * BLOCK, min(block * BLOCK + BLOCK, n)
        best = np.int32(-(2**31))
        while r + 4 <= stop:
            a0 = a1 = a2 = a3 = np.int32(0)
            for j in range(w):
                v = np.int32(vector_W[j])
                a0 += np.int32(codes_NW[r, j]) * v
                a1 += np.int32(codes_NW[r + 1, j]) * v
                a2 += np.int32(codes_NW[r + 2, j]) * v
                a3 += np.int32(codes_NW[r + 3, j]) * v
            best = max(best, max(max(a0, a1), max(a2, a3)))
            r += 4
        while r < stop:
            a0 = np.int32(0)
            for j in range(w):
                a0 += np.int32(codes_NW[r, j]) * np.int32(vector_W[j])
            best = max(best, a0)
            r += 1
        bounds[block] = best


@_compiled
def _block_bounds_of(
    codes_NW: Any, live: Any, vector_W: Any, first: Any, last: Any, bounds: Any
) -> None:
    """`_block_bounds` of blocks of the rows `live`."""
    n, w = len(live), codes_NW.shape[1]
    for block in range(first, last):
        r, stop = block * BLOCK, min(block * BLOCK + BLOCK, n)
        best = np.int32(-(2**31))
        while r + 4 <= stop:
            x0, x1, x2, x3 = live[r], live[r + 1], live[r + 2], live[r + 3]
            a0 = a1 = a2 = a3 = np.int32(0)
            for j in range(w):
                v = np.int32(vector_W[j])
                a0 += np.int32(codes_NW[x0, j]) * v
                a1 += np.int32(codes_NW[x1, j]) * v
                a2 += np.int32(codes_NW[x2, j]) * v
                a3 += np.int32(codes_NW[x3, j]) * v
            best = max(best, max(max(a0, a1), max(a2, a3)))
            r += 4
        while r < stop:
            a0, x0 = np.int32(0), live[r]
            for j in range(w):
                a0 += np.int32(codes_NW[x0, j]) * np.int32(vector_W[j])
            best = max(best, a0)
            r += 1
        bounds[block] = best


@_compiled
def _look_at(
    place: Any,
    address: Any,
    is_half: Any,
    half: Any,
    row: Any,
    base: Any,
    query_D: Any,
    scores_K: Any,
    rows_K: Any,
    places_K: Any,
) -> None:
    """Scores a row, and puts it into the heap if it belongs there."""
    # Sums in another order differ by far less.
    if is_half or _rough(address, query_D) >= scores_K[0] - ROUGH:
        score = _score(address, is_half, half, query_D)
        _offer(score, row, base + place, scores_K, rows_K, places_K)


@_compiled
def _place(live: Any, is_all: Any, at: Any) -> Any:
    """Where the row of this number among those that are looked at stands."""
    return np.int64(at) if is_all else np.int64(live[at])


@_compiled
def _fetch_codes(codes: Any, w: Any, live: Any, is_all: Any, n: Any, block: Any) -> None:
    """Has the processor read a block's codes."""
    first, last = block * BLOCK, min(block * BLOCK + BLOCK, n)
    if is_all:
        for line in range(first * w, last * w, 64):
            _prefetch(codes + line)
    else:
        for at in range(first, last):
            row = codes + np.int64(live[at]) * w
            for line in range(0, w, 64):
                _prefetch(row + line)


@_compiled
def _row_products(
    codes: Any, w: Any, live: Any, is_all: Any, n: Any, block: Any, vector_W: Any, totals: Any
) -> Any:
    """Into `totals` (BLOCK,) the products of a block's rows with the query's vector, four at once;
    gives how many rows it has."""
    first = block * BLOCK
    count, i = min(BLOCK, n - first), 0
    while i + 4 <= count:
        x0 = _bytes_at(codes + _place(live, is_all, first + i) * w)
        x1 = _bytes_at(codes + _place(live, is_all, first + i + 1) * w)
        x2 = _bytes_at(codes + _place(live, is_all, first + i + 2) * w)
        x3 = _bytes_at(codes + _place(live, is_all, first + i + 3) * w)
        a0 = a1 = a2 = a3 = np.int32(0)
        for j in range(w):
            v = np.int32(vector_W[j])
            a0 += np.int32(x0[j]) * v
            a1 += np.int32(x1[j]) * v
            a2 += np.int32(x2[j]) * v
            a3 += np.int32(x3[j]) * v
        totals[i], totals[i + 1], totals[i + 2], totals[i + 3] = a0, a1, a2, a3
        i += 4
    while i < count:
        x0 = _bytes_at(codes + _place(live, is_all, first + i) * w)
        a0 = np.int32(0)
        for j in range(w):
            a0 += np.int32(x0[j]) * np.int32(vector_W[j])
        totals[i] = a0
        i += 1
    return count


@_compiled
def _passing(bounds: Any, least: Any, first: Any, last: Any) -> Any:
    """The blocks from `first` to `last` − 1 whose bound is not below this."""
    found, count = np.empty(last - first + 1, np.int32), 0
    for block in range(first, last):
        found[count] = block
        count += bounds[block] >= least
    return found[:count]


@_compiled
def _best_blocks(bounds: Any, count: Any) -> Any:
    """At least so many blocks with the largest bounds."""
    stretches = -(-len(bounds) // 8)
    if stretches <= count:
        return _passing(bounds, -np.inf, 0, len(bounds))
    largest = np.empty(stretches, bounds.dtype)
    for stretch in range(stretches):
        most = bounds[8 * stretch]
        for block in range(8 * stretch + 1, min(8 * stretch + 8, len(bounds))):
            most = max(most, bounds[block])
        largest[stretch] = most
    least = np.partition(largest, stretches - count)[stretches - count]
    return _passing(bounds, least, 0, len(bounds))


@_compiled
def _address(stored: Any, addresses: Any, piece_rows: Any, row_bytes: Any) -> Any:
    """Where the bytes of a stored row lie."""
    return addresses[stored // piece_rows] + (stored % piece_rows) * row_bytes


@_compiled
def _look_at_blocks(
    todo: Any,
    bounds: Any,
    more: Any,
    codes_NW: Any,
    live: Any,
    is_all: Any,
    vector_W: Any,
    unit: Any,
    constant: Any,
    totals: Any,
    addresses: Any,
    piece_rows: Any,
    row_bytes: Any,
    is_half: Any,
    half: Any,
    source_N: Any,
    id_N: Any,
    base: Any,
    query_D: Any,
    scores_K: Any,
    rows_K: Any,
    places_K: Any,
) -> Any:
    """Scores the rows of these blocks that may belong to a heap, and gives how many. `more` is what
    is to be added to `bounds`."""
    n, w = codes_NW.shape[0] if is_all else len(live), codes_NW.shape[1]
    codes, scored = codes_NW.ctypes.data, 0
    # A row is scored when the next one is found, and meanwhile its memory is fetched.
    waiting, waiting_at = np.int64(-1), np.int64(0)
    for i in range(len(todo)):
        if i + BLOCKS_AHEAD < len(todo):
            _fetch_codes(codes, w, live, is_all, n, np.int64(todo[i + BLOCKS_AHEAD]))
        block = np.int64(todo[i])
        if bounds[block] + more < scores_K[0]:
            continue
        count = _row_products(codes, w, live, is_all, n, block, vector_W, totals)
        for r in range(count):
            if totals[r] * unit + constant < scores_K[0]:
                continue
            place = _place(live, is_all, block * BLOCK + r)
            address = _address(source_N[place], addresses, piece_rows, row_bytes)
            for line in range(0, row_bytes, 64):
                _prefetch(address + line)
            if waiting >= 0:
                _look_at(
                    waiting,
                    waiting_at,
                    is_half,
                    half,
                    id_N[waiting],
                    base,
                    query_D,
                    scores_K,
                    rows_K,
                    places_K,
                )
            waiting, waiting_at = place, address
            scored += 1
    if waiting >= 0:
        _look_at(
            waiting,
            waiting_at,
            is_half,
            half,
            id_N[waiting],
            base,
            query_D,
            scores_K,
            rows_K,
            places_K,
        )
    return scored


@_compiled
def _refine(
    best_blocks: Any,
    stretch: Any,
    first_query: Any,
    last_query: Any,
    bounds_QB: Any,
    slack_Q: Any,
    codes_NW: Any,
    live: Any,
    is_all: Any,
    vector_QW: Any,
    unit_Q: Any,
    constant_Q: Any,
    addresses: Any,
    piece_rows: Any,
    row_bytes: Any,
    is_half: Any,
    half: Any,
    source_N: Any,
    id_N: Any,
    base: Any,
    query_QD: Any,
    scores_QK: Any,
    rows_QK: Any,
    places_QK: Any,
    scored_Q: Any,
) -> None:
    """Brings the heaps of queries `first_query` to `last_query` − 1 up to date with these rows, in
    two turns: with `best_blocks` of each query's best blocks, then, told 0, with all others.
    Afterwards no row that is not in a heap can belong there. Adds to `scored_Q` how many rows were
    scored.

    `bounds_QB` + `slack_Q` + `constant_Q` are upper bounds of the blocks' scores; those of blocks
    that were looked at are overwritten. A row's own is `unit_Q` × (code · vector) + `constant_Q`.
    All queries look at one stretch of so many blocks after the other, so that its codes are read
    from memory once.
    """
    totals = np.empty(BLOCK, np.int32)
    blocks = bounds_QB.shape[1]
    if best_blocks or last_query - first_query == 1:
        stretch = blocks
    for begin in range(0, blocks, stretch):
        for q in range(first_query, last_query):
            bounds, more = bounds_QB[q], slack_Q[q] + constant_Q[q]
            if best_blocks:
                todo = _best_blocks(bounds, best_blocks)
            else:
                least = scores_QK[q, 0] - more
                todo = _passing(bounds, least, begin, min(begin + stretch, blocks))
            scored_Q[q] += _look_at_blocks(
                todo,
                bounds,
                more,
                codes_NW,
                live,
                is_all,
                vector_QW[q],
                unit_Q[q],
                constant_Q[q],
                totals,
                addresses,
                piece_rows,
                row_bytes,
                is_half,
                half,
                source_N,
                id_N,
                base,
                query_QD[q],
                scores_QK[q],
                rows_QK[q],
                places_QK[q],
            )
            if best_blocks:
                for block in todo:
                    bounds[block] = np.nan  # not below, not above: never again


@_compiled
def _score_rows(
    live: Any,
    addresses: Any,
    piece_rows: Any,
    row_bytes: Any,
    is_half: Any,
    half: Any,
    source_N: Any,
    id_N: Any,
    base: Any,
    query_D: Any,
    scores_K: Any,
    rows_K: Any,
    places_K: Any,
) -> None:
    """Brings a heap of the best rows up to date with the rows `live`, each of which is scored."""
    for i in range(len(live)):
        place = live[i]
        address = _address(source_N[place], addresses, piece_rows, row_bytes)
        row = id_N[place]
        _look_at(place, address, is_half, half, row, base, query_D, scores_K, rows_K, places_K)


loops = SimpleNamespace(
    block_bounds=_block_bounds,
    block_bounds_of=_block_bounds_of,
    merge=_merge,
    refine=_refine,
    score_rows=_score_rows,
)
