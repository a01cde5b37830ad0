"""For each query, and each block of rows, the largest bound of a row: by their codes alone.

Few queries read the codes each alone, many are multiplied with tiles of them. Where the processor
multiplies whole numbers of 8 bits several times as fast as float32, they are: a query's vector of
16 bits as two such numbers. Else in float32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distreid.host.machine import cpu_kind
from distreid.nearest.codes import BLOCK, LARGEST, LARGEST_16, QueryVector, U
from distreid.nearest.scan_loops import loops
from distreid.nearest.side_by_side import Cut, cuts, for_each
from distreid.nearest.similarity import one_thread_each

Bounds = tuple[NDArray[np.float32], NDArray[np.float64]]
"""(Q, blocks) upper bounds without the queries' constants, and (Q,) what is to be added to them."""
Code = NDArray[np.int8]
Live = NDArray[np.int32]

# Blocks and values of one product at most: few calls, all in the cache.
FLOAT_TILE, INT8_TILE = (256, 1 << 19), (2048, 1 << 20)
GATHERED_BLOCKS = 2048
SIDE_BY_SIDE = 32  # queries
HIGH = 256  # what the higher of two numbers of 8 bits counts


def scanned(code: Code, live: Live | None, vectors: Sequence[QueryVector]) -> Bounds:
    """Each query reads the codes (N, W); of the rows `live`, or all."""
    count = len(code) if live is None else len(live)
    blocks = -(-count // BLOCK)
    products_QB = np.empty((len(vectors), blocks), np.int32)

    def scan(task: tuple[int, int, int]) -> None:
        query, first, last = task
        bounds = products_QB[query]
        if live is None:
            loops.block_bounds(code, vectors[query].vector, first, last, bounds)
        else:
            loops.block_bounds_of(code, live, vectors[query].vector, first, last, bounds)

    for_each(scan, [(q, *cut) for q in range(len(vectors)) for cut in cuts(blocks)])
    unit_Q = np.array([vector.unit for vector in vectors])
    bounds_QB = (products_QB * unit_Q[:, None]).astype(np.float32)
    # The rounding to float32 of the largest of them.
    return bounds_QB, 2 * U * np.abs(bounds_QB).max(axis=1).astype(np.float64)


def multiplied(code: Code, live: Live | None, vectors: Sequence[QueryVector]) -> Bounds:
    """The same, by products of tiles of codes with all queries."""
    count, queries = len(code) if live is None else len(live), len(vectors)
    blocks = -(-count // BLOCK)
    bounds_QB = np.empty((queries, blocks), np.float32)
    whole_numbers = has_exact_int8_products()
    product_of = _int8_products if whole_numbers else _float_products
    most_blocks, most_values = INT8_TILE if whole_numbers else FLOAT_TILE
    at_once = max(1, min(most_blocks, most_values // (BLOCK * queries)))
    unit_Q = torch.tensor([[vector.unit] for vector in vectors], dtype=torch.float32)

    def multiply(cut: Cut) -> None:
        product = product_of(vectors, at_once * BLOCK)
        # A row of the bounds for each query is far from the next: several tiles are put there at
        # once.
        gathered_GQ = torch.empty(GATHERED_BLOCKS, queries)
        for start in range(*cut, GATHERED_BLOCKS):
            stop = min(start + GATHERED_BLOCKS, cut[1])
            for first in range(start, stop, at_once):
                last = min(first + at_once, stop)
                rows = slice(first * BLOCK, min(last * BLOCK, count))
                tile = code[rows] if live is None else code[live[rows]]
                _put_largest(product(tile), gathered_GQ[first - start : last - start])
            gathered_QG = gathered_GQ[: stop - start].T
            if whole_numbers:
                gathered_QG *= unit_Q
            torch.from_numpy(bounds_QB[:, start:stop]).copy_(gathered_QG)

    with one_thread_each():
        for_each(multiply, cuts(blocks, GATHERED_BLOCKS))
    # Which is more than the roundings of whole numbers to float32, and of what they are times the
    # unit.
    return bounds_QB, np.array([vector.slack for vector in vectors])


def _put_largest(product_RQ: Tensor, into_BQ: Tensor) -> None:
    """Of each block's rows, of which the last may have fewer."""
    (count, queries), whole = product_RQ.shape, len(product_RQ) // BLOCK
    # torch finds the largest of a block faster where its rows lie side by side, if there are few
    # queries.
    if product_RQ.stride(1) == 1:
        into_BQ[:whole] = product_RQ[: whole * BLOCK].view(whole, BLOCK, queries).amax(1)
    else:
        folded = product_RQ.T[:, : whole * BLOCK].view(queries, whole, BLOCK)
        into_BQ[:whole] = folded.amax(2).T
    if whole * BLOCK < count:
        into_BQ[whole] = product_RQ[whole * BLOCK :].amax(0)


def _float_products(vectors: Sequence[QueryVector], rows: int) -> Callable[[Code], Tensor]:
    """Products (R, Q) float32 of up to so many codes with the vectors; the next call's are put in
    the same memory: the system clears fresh memory, which would take as long as the products."""
    queries = len(vectors)
    vector_QW = torch.from_numpy(np.stack([vector.exact for vector in vectors]))
    vector_WQ = vector_QW.T.contiguous()
    memory, floats = torch.empty(rows * queries), torch.empty(rows, vector_QW.shape[1])

    def product(tile: Code) -> Tensor:
        floats.numpy()[: len(tile)] = tile  # which may be read-only, as torch would warn
        tile_RW, bound = floats[: len(tile)], memory[: len(tile) * queries]
        if queries < SIDE_BY_SIDE:
            return torch.mm(vector_QW, tile_RW.T, out=bound.view(queries, -1)).T
        return torch.mm(tile_RW, vector_WQ, out=bound.view(-1, queries))

    return product


def _int8_products(vectors: Sequence[QueryVector], rows: int) -> Callable[[Code], Tensor]:
    """The same with the vectors' 16 bits, in units of each: exact, int32."""
    queries = len(vectors)
    vector_QW = np.stack([vector.vector for vector in vectors]).astype(np.int32)
    high_QW = (vector_QW + HIGH // 2) // HIGH
    high_WQ, low_WQ = (
        torch.from_numpy(half.astype(np.int8)).T.contiguous()
        for half in (high_QW, vector_QW - HIGH * high_QW)
    )
    memory = torch.empty(2, rows * queries, dtype=torch.int32)
    codes = torch.empty(rows, vector_QW.shape[1], dtype=torch.int8)

    def product(tile: Code) -> Tensor:
        codes.numpy()[: len(tile)] = tile
        high_RQ, low_RQ = (half[: len(tile) * queries].view(-1, queries) for half in memory)
        torch._int_mm(codes[: len(tile)], high_WQ, out=high_RQ)
        torch._int_mm(codes[: len(tile)], low_WQ, out=low_RQ)
        added: Tensor = low_RQ.add_(high_RQ, alpha=HIGH)
        return added

    return product


@functools.cache
def has_exact_int8_products() -> bool:
    """Whether torch multiplies whole numbers of 8 bits faster here than float32, and every product
    is right. Without instructions for it (VNNI) a processor adds pairs of them in 16 bits, which
    may not hold the largest."""
    if "avx512_vnni" not in cpu_kind():
        return False
    extreme = np.array([LARGEST, -LARGEST, -LARGEST - 1, 1], np.int8)
    codes = np.stack([np.roll(np.resize(extreme, 64), shift) for shift in range(64)])
    codes[:3] = extreme[:3, None]
    largest = np.resize([LARGEST_16, -LARGEST_16], 64).astype(np.int16)
    vectors = [
        QueryVector(vector=each, unit=1.0, exact=np.empty(0, np.float32), constant=0.0, slack=0.0)
        for each in (largest, np.abs(largest), -np.abs(largest), np.arange(64, dtype=np.int16))
    ]
    try:
        found = _int8_products(vectors, 64)(codes).numpy()
    except (AttributeError, TypeError, RuntimeError):  # torch promises no such function
        return False
    expected: NDArray[Any] = codes.astype(np.int64) @ np.stack(
        [vector.vector for vector in vectors]
    ).T.astype(np.int64)
    return bool((found == expected).all())
