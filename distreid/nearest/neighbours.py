"""Exact nearest neighbours among the rows of a matrix, in blocks: no N × N matrix.

N rows of D dimensions; B rows of a block; K neighbours; P pairs of rows.

The squared distance of two rows is the float32 sum of (a − b)², taken pair by pair. It does
not depend on where the rows stand or how they are blocked, as a matrix product's last bits
do: equal rows are at equal distances, and equal distances are ordered by row, the smaller
first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from distreid.errors import DataError
from distreid.nearest.shorter_rows import shortened
from distreid.nearest.similarity import (
    Features,
    Pieces,
    Scores,
    Similarity,
    in_pieces,
    map_blocks,
)

Rows = NDArray[np.int32]
Progress = Callable[[str, int, int], None]
"""Called after each block with what is being done, how much of it is done, and of how much."""

BLOCK_BYTES = 64 << 20  # of distances held at once
PAIR_BYTES = 2 << 20  # of differences held at once: they stay in the cache
MOST_CANDIDATES = 4 << 20  # in one block: distances that float32 products cannot tell apart
GROUP = 16  # columns of which the nearest is taken, to find how far the k nearest may be
SIGMAS = 8  # a rounding error that large has a probability below 1e-10


def no_progress(step: str, done: int, total: int) -> None:
    """Nobody watches."""


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """Of each of N rows."""

    rank_NK: Rows
    """The K nearest rows, nearest first. A row is its own nearest, or one of equal rows."""
    farthest_N: NDArray[np.float32]
    """The largest squared distance to any row; infinity where a matrix product cannot tell it
    from 0, so that a distance divided by it is 0."""


def joined(query_QD: Features, gallery: Features | Pieces) -> Features:
    """(N, D) float32, a copy: the queries, then the gallery, whole or in pieces.

    DataError, which names the feature, if one is not finite; and if the dimensions differ.
    """
    pieces = in_pieces(gallery)
    for piece_GD in pieces:
        if query_QD.shape[1] != piece_GD.shape[1]:
            raise DataError(
                f"query features have {query_QD.shape[1]} dimensions, gallery features "
                f"{piece_GD.shape[1]}: extract both with one model"
            )
    rows_ND = np.concatenate([query_QD, *pieces], dtype=np.float32)
    for start, stop in blocks(*rows_ND.shape):
        bad = start + np.flatnonzero(~np.isfinite(rows_ND[start:stop]).all(axis=1))
        if len(bad):
            row = int(bad[0])
            side, row = ("query", row) if row < len(query_QD) else ("gallery", row - len(query_QD))
            raise DataError(
                f"{side} feature {row} (from 0) holds NaN or infinity: "
                "leave the row out or extract it again"
            )
    return rows_ND


def squared_distances(
    rows_ND: Features, left_P: NDArray[np.integer], right_P: NDArray[np.integer]
) -> NDArray[np.float32]:
    """(P,) float32: between row `left_P[p]` and row `right_P[p]`."""
    distance_P = np.empty(len(left_P), np.float32)
    step = max(1, PAIR_BYTES // (4 * max(1, rows_ND.shape[1])))
    for start in range(0, len(left_P), step):
        part = slice(start, start + step)
        difference = rows_ND[left_P[part]]
        difference -= rows_ND[right_P[part]]
        np.einsum("pd,pd->p", difference, difference, out=distance_P[part])
    return distance_P


def nearest(
    rows_ND: Features, k: int, progress: Progress = no_progress, *, device: str = "cpu"
) -> Neighbours:
    """The k nearest rows of each row, itself among them; all N where k is larger. `device`
    multiplies.

    A matrix product gives every distance but for a rounding error of known size, or where the
    rows allow it, in fewer dimensions, bounds of every distance. Only the rows that may be among
    the k nearest, given that, are compared exactly.
    DataError where that leaves too many: the rows are all but the same.
    """
    count, k = len(rows_ND), min(k, len(rows_ND))
    norm_N = torch.linalg.vector_norm(torch.from_numpy(rows_ND), dim=1)
    square_N = norm_N**2
    slack_N = _rounding(rows_ND.shape[1]) * (norm_N + norm_N.max()) ** 2
    found = Neighbours(
        rank_NK=np.empty((count, k), np.int32), farthest_N=np.empty(count, np.float32)
    )
    shorter = shortened(rows_ND, k) if device == "cpu" else None  # a GPU multiplies fast enough
    similarity = Similarity(device=device)

    def whole(start: int, product_BN: Scores) -> int:
        """Of a block of rows, by their products with all."""
        stop = start + len(product_BN)
        own = slice(start, stop)
        # Without the row's own norm, which changes nothing in its order.
        distance_BN = torch.from_numpy(product_BN).mul_(-2).add_(square_N)
        near_P = _places(distance_BN <= _reach(distance_BN, k) + 2 * slack_N[own, None])
        if len(near_P) > MOST_CANDIDATES:
            raise DataError(
                f"features {start:,} to {stop - 1:,} (queries first) have no nearest neighbours: "
                "too many features are the same; was the checkpoint trained?"
            )
        found.rank_NK[own], _ = _first_k(rows_ND, start, near_P, k)
        put_farthest(own, distance_BN.amax(1) + square_N[own])
        return stop

    def bounded(start: int, product_BN: Scores) -> int:
        """The same by products that say how near the rows are at least."""
        assert shorter is not None
        stop = start + len(product_BN)
        own = slice(start, stop)
        least_BN = torch.from_numpy(product_BN)
        slack_B, gap_B = slack_N[own], torch.from_numpy(shorter.gap_N[own])
        _, kth_B = _first_k(rows_ND, start, _places(least_BN <= _reach(least_BN, k)), k)
        reach_B = torch.from_numpy(kth_B) - square_N[own] + 2 * slack_B
        near_P = _places(least_BN <= reach_B[:, None])
        first_far_B = least_BN.argmax(1).numpy()
        far_B = squared_distances(rows_ND, np.arange(start, stop), first_far_B)
        above_B = torch.from_numpy(far_B) - square_N[own] - gap_B - 2 * slack_B
        far_P = _places(least_BN >= above_B[:, None])
        if len(near_P) + len(far_P) > MOST_CANDIDATES:
            product = torch.from_numpy(rows_ND[own]) @ torch.from_numpy(rows_ND).T
            return whole(start, product.numpy())
        found.rank_NK[own], _ = _first_k(rows_ND, start, near_P, k)
        left_P, right_P = np.divmod(far_P, count)
        np.maximum.at(far_B, left_P, squared_distances(rows_ND, left_P + start, right_P))
        put_farthest(own, torch.from_numpy(far_B))
        return stop

    def put_farthest(own: slice, farthest_B: torch.Tensor) -> None:
        farthest_B[farthest_B <= slack_N[own]] = torch.inf
        found.farthest_N[own] = farthest_B.numpy()

    done_blocks = (
        map_blocks(whole, rows_ND, rows_ND, similarity)
        if shorter is None
        else map_blocks(bounded, shorter.asking_NM, shorter.asked_NM)
    )
    for _, done in done_blocks:
        progress("neighbours", done, count)
    return found


def _places(chosen_BN: torch.Tensor) -> NDArray[np.int64]:
    """(P,) where it is true, counted through the rows."""
    return np.flatnonzero(chosen_BN.numpy())


def blocks(rows: int, columns: int) -> Iterator[tuple[int, int]]:
    """(first, last + 1) of consecutive rows, of which (B, columns) float32 may be held."""
    step = max(1, BLOCK_BYTES // (4 * max(1, columns)))
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


def _reach(distance_BN: torch.Tensor, k: int) -> torch.Tensor:
    """(B, 1) a distance that at least k columns, and hardly any more, do not exceed: the k-th
    smallest among the minima of groups of columns, which are found faster than the k-th."""
    size = max(1, min(GROUP, distance_BN.shape[1] // (4 * k)))
    grouped = distance_BN.shape[1] // size * size
    minimum_BM = distance_BN[:, :grouped].view(len(distance_BN), size, -1).amin(1)
    return minimum_BM.topk(k, largest=False, sorted=False).values.amax(1, keepdim=True)


def _first_k(
    rows_ND: Features, first: int, candidate_P: NDArray[np.int64], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """(B, k) of the candidates, which are places in (B, N), ascending, at least k in each row; and
    (B,) the squared distance of the last of them."""
    left_P, right_P = np.divmod(candidate_P, len(rows_ND))
    distance_P = squared_distances(rows_ND, left_P + first, right_P)
    order_P = np.lexsort((distance_P, left_P))  # stable: ties stay in the order of the rows
    count_B = np.bincount(left_P)
    place_P = np.arange(len(left_P)) - np.repeat(np.cumsum(count_B) - count_B, count_B)
    chosen_P = order_P[place_P < k]
    return right_P[chosen_P].reshape(-1, k), distance_P[chosen_P].reshape(-1, k)[:, -1]


def _rounding(dimensions: int) -> float:
    """The largest error of a float32 squared distance by a matrix product, relative to
    (|a| + |b|)², with near certainty: it grows with √D (Higham and Mary, "A new approach to
    probabilistic rounding error analysis", SIAM J. Sci. Comput. 41(5), 2019, theorem 2.4)."""
    return float(SIGMAS * np.sqrt(dimensions + 4) * 2.0**-24)
