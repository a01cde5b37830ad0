"""The loops of exact search, which numba turns into machine code.

N rows, of which a filter may permit some; W bytes of a code; D dimensions; K rows wanted. Rows are
looked at in blocks of `BLOCK`. A block's bound is the largest of its rows'.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeVar

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from distreid.nearest.codes import BLOCK

ROUGH = 2.0**-23  # a score near 1 differs by less from itself rounded, and added in another order
STRETCH = 32  # blocks, of which only the best one counts where the best ones of all are looked for
BLOCKS_AHEAD = 3  # whose codes are fetched while a block's are multiplied

Function = TypeVar("Function", bound=Callable[..., Any])


class Stored(NamedTuple):
    """Where N rows lie, and what they are."""

    addresses: Any
    """Of the pieces of rows, int64."""
    piece_rows: int
    row_bytes: int
    is_half: bool
    half: Any
    """`half_values`, if they are float16."""
    source: Any
    """(N,) int64, which stored row each is."""
    ids: Any
    """(N,) int64."""
    base: int
    """Added to the places of rows that are found."""


class Coded(NamedTuple):
    """The codes of N rows."""

    code: Any
    """(N, W) int8."""
    rest: Any
    """(N, V) int8, what the finer codes have besides the first W − 2 of `code`; V = 0: nothing."""
    live: Any
    """int32, the places that are looked at; unless `is_all`."""
    is_all: bool


class Asked(NamedTuple):
    """Q queries, as rows and as codes want them: see `codes.QueryVector`."""

    exact: Any
    """(Q, D) float64, of norm 1."""
    vector: Any
    """(Q, W) int16."""
    unit: Any
    constant: Any
    """(Q,) float64."""
    finer_vector: Any
    """(Q, W − 2 + V) int16."""
    finer_unit: Any
    finer_constant: Any


class Heaps(NamedTuple):
    """The best rows of Q queries, K each, the worst at the root."""

    scores: Any
    """(Q, K) float32."""
    rows: Any
    places: Any
    """(Q, K) int64."""
    scored: Any
    """(Q,) int64."""


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
def _offer(score: Any, row: Any, place: Any, heaps: Any, q: Any) -> None:
    """Puts a row in for the worst of a query's heap, whose root that is, if it is better."""
    scores_K, rows_K, places_K = heaps.scores[q], heaps.rows[q], heaps.places[q]
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
def _merge(heaps: Any, into: Any) -> None:
    """Offers what is in the heaps of some queries to others of the same queries."""
    for q in range(len(heaps.scores)):
        into.scored[q] += heaps.scored[q]
        for k in range(heaps.scores.shape[1]):
            if heaps.places[q, k] >= 0:
                _offer(heaps.scores[q, k], heaps.rows[q, k], heaps.places[q, k], into, q)


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
def _look_at(place: Any, stored: Any, asked: Any, heaps: Any, q: Any) -> None:
    """Scores a row for a query, and puts it into its heap if it belongs there."""
    address = _address(stored, place)
    query_D = asked.exact[q]
    # Sums in another order differ by far less.
    if stored.is_half or _rough(address, query_D) >= heaps.scores[q, 0] - ROUGH:
        score = _score(address, stored.is_half, stored.half, query_D)
        _offer(score, stored.ids[place], stored.base + place, heaps, q)


@_compiled
def _address(stored: Any, place: Any) -> Any:
    """Where the bytes of a row lie."""
    piece, row = divmod(stored.source[place], stored.piece_rows)
    return stored.addresses[piece] + row * stored.row_bytes


@_compiled
def _fetch(address: Any, count: Any) -> None:
    """Has the processor read so many bytes."""
    for line in range(0, count, 64):
        _prefetch(address + line)
    _prefetch(address + count - 1)


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
    stretches = -(-len(bounds) // STRETCH)
    if stretches <= count:
        return _passing(bounds, -np.inf, 0, len(bounds))
    largest = np.empty(stretches, bounds.dtype)
    for stretch in range(stretches):
        first = STRETCH * stretch
        most = bounds[first]
        for block in range(first + 1, min(first + STRETCH, len(bounds))):
            most = max(most, bounds[block])
        largest[stretch] = most
    least = np.partition(largest, stretches - count)[stretches - count]
    return _passing(bounds, least, 0, len(bounds))


@_compiled
def _finer_allows(place: Any, coded: Any, asked: Any, heaps: Any, q: Any) -> Any:
    """Whether a row may belong into a query's heap, by its finer code."""
    vector, first = asked.finer_vector[q], coded.code.shape[1] - 2
    code, rest, total = coded.code[place], coded.rest[place], np.int32(0)
    for j in range(first):
        total += np.int32(code[j]) * np.int32(vector[j])
    for j in range(len(rest)):
        total += np.int32(rest[j]) * np.int32(vector[first + j])
    return not total * asked.finer_unit[q] + asked.finer_constant[q] < heaps.scores[q, 0]


@_compiled
def _look_at_blocks(
    todo: Any,
    bounds: Any,
    more: Any,
    coded: Any,
    stored: Any,
    asked: Any,
    heaps: Any,
    q: Any,
    totals: Any,
) -> Any:
    """Scores the rows of these blocks that may belong to a query's heap, and gives how many. `more`
    is what is to be added to `bounds`."""
    live, is_all, w = coded.live, coded.is_all, coded.code.shape[1]
    n = len(coded.code) if is_all else len(live)
    codes, scored, width = coded.code.ctypes.data, 0, coded.rest.shape[1]
    rests = coded.rest.ctypes.data
    vector_W, unit, constant = asked.vector[q], asked.unit[q], asked.constant[q]
    # A row's finer code is looked at, and later the row itself, when the next one is found: in the
    # meantime its memory is fetched.
    at_rest = at_row = np.int64(-1)
    for i in range(len(todo) + 2):
        # Twice more, without a block, for the rows that wait at the end.
        count, block = 1, np.int64(-1)
        if i < len(todo):
            if i + BLOCKS_AHEAD < len(todo):
                _fetch_codes(codes, w, live, is_all, n, np.int64(todo[i + BLOCKS_AHEAD]))
            block = np.int64(todo[i])
            if bounds[block] + more < heaps.scores[q, 0]:
                continue
            count = _row_products(codes, w, live, is_all, n, block, vector_W, totals)
        for r in range(count):
            place = np.int64(-1)
            if block >= 0:
                if totals[r] * unit + constant < heaps.scores[q, 0]:
                    continue
                place = _place(live, is_all, block * BLOCK + r)
            if width:
                if place >= 0:
                    _fetch(rests + place * width, width)
                place, at_rest = at_rest, place
                if place >= 0 and not _finer_allows(place, coded, asked, heaps, q):
                    place = np.int64(-1)
            if place >= 0:
                _fetch(_address(stored, place), stored.row_bytes)
                scored += 1
            if at_row >= 0:
                _look_at(at_row, stored, asked, heaps, q)
            at_row = place
    return scored


@_compiled
def _refine(
    best_blocks: Any,
    stretch: Any,
    first_query: Any,
    last_query: Any,
    bounds_QB: Any,
    slack_Q: Any,
    coded: Any,
    stored: Any,
    asked: Any,
    heaps: Any,
) -> None:
    """Brings the heaps of queries `first_query` to `last_query` − 1 up to date with these rows, in
    two turns: with `best_blocks` of each query's best blocks, then, told 0, with all others.
    Afterwards no row that is not in a heap can belong there. Counts how many rows were scored.

    `bounds_QB` + `slack_Q` + the queries' constants are upper bounds of the blocks' scores; those
    of blocks that were looked at are overwritten. All queries look at one stretch of so many blocks
    after the other, so that its codes are read from memory once.
    """
    totals = np.empty(BLOCK, np.int32)
    blocks = bounds_QB.shape[1]
    if best_blocks or last_query - first_query == 1:
        stretch = blocks
    for begin in range(0, blocks, stretch):
        for q in range(first_query, last_query):
            bounds, more = bounds_QB[q], slack_Q[q] + asked.constant[q]
            if best_blocks:
                todo = _best_blocks(bounds, best_blocks)
            else:
                least = heaps.scores[q, 0] - more
                todo = _passing(bounds, least, begin, min(begin + stretch, blocks))
            heaps.scored[q] += _look_at_blocks(
                todo, bounds, more, coded, stored, asked, heaps, q, totals
            )
            if best_blocks:
                for block in todo:
                    bounds[block] = np.nan  # not below, not above: never again


@_compiled
def _score_rows(live: Any, stored: Any, asked: Any, heaps: Any, q: Any) -> None:
    """Brings a query's heap up to date with the rows `live`, each of which is scored."""
    for i in range(len(live)):
        _look_at(np.int64(live[i]), stored, asked, heaps, q)


@_compiled
def _score_given(
    first: Any, last: Any, places: Any, count: Any, stored: Any, asked: Any, heaps: Any
) -> None:
    """The same for the queries from `first` to before `last` and the places (Q, C) that each gives,
    of which it takes those of the `count` rows from `stored.base` on."""
    for q in range(first, last):
        for i in range(places.shape[1]):
            row = places[q, i] - stored.base
            if 0 <= row < count:
                _look_at(row, stored, asked, heaps, q)


loops = SimpleNamespace(
    block_bounds=_block_bounds,
    block_bounds_of=_block_bounds_of,
    merge=_merge,
    refine=_refine,
    score_given=_score_given,
    score_rows=_score_rows,
)
