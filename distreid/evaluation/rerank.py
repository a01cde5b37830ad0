"""k-reciprocal re-ranking (Zhong et al., CVPR 2017, arXiv:1701.08398) and query expansion.

Queries and gallery together are the N rows of one graph; Q queries come first, then G gallery
rows; D dimensions; B queries of a block. The caller decides who is in the graph: rows given,
junk or not, are.

A row's k-reciprocal neighbours are the rows among its k nearest that have it among theirs
(eq. 3). They are extended by the k/2-reciprocal neighbours of each of them, if more than two
thirds of those are among them already (eq. 4, where two thirds suffice). Each row becomes a
vector of weights over its extended neighbours, which add up to 1 (eq. 8), then the mean of the
vectors of its k2 nearest rows (eq. 11). The re-ranked distance of a query and a gallery row is
1 − Σ min / Σ max of their vectors (eq. 10), mixed with the distance itself (eq. 12).

Few of the weights are not 0, so sparse matrices hold them, and nothing of N × N or Q × G is held.
Equal distances are ordered by row, the smaller first; the projects that the presets are named
after use an unstable sort, so with exact ties their order depends on the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
import scipy  # whose parts come when they are first used: a start need not wait for scipy.sparse
from numpy.typing import NDArray

from distreid.errors import OptionError
from distreid.host.memory import check_memory
from distreid.nearest import shorter_rows
from distreid.nearest.neighbours import (
    Neighbours,
    Progress,
    Rows,
    blocks,
    joined,
    nearest,
    no_progress,
    squared_distances,
)
from distreid.nearest.similarity import (
    Features,
    Pieces,
    Scores,
    Similarity,
    in_pieces,
    map_blocks,
    memory_needed,
    threads_for,
)

T = TypeVar("T")
Floats: TypeAlias = NDArray[np.float32]
Sparse: TypeAlias = Any  # scipy's CSR matrix; scipy has no types

FLOPS_PER_THREAD = 60e9  # of a float32 matrix product, on a server's core
ENCODED_ROWS = 4096  # whose neighbours are extended at once


@dataclass(frozen=True, kw_only=True)
class Reranking:
    """How rows are re-ranked; OptionError if a value cannot be meant."""

    k1: int = 20
    """How many nearest rows are looked at. With more than there are, all are."""
    k2: int = 6
    """Over how many nearest rows, itself among them, a row's vector is averaged; 1: none."""
    weight: float = 0.3
    """Of the distance itself in the mixture, λ in the paper: 1 is no re-ranking, 0 that alone."""
    counts_itself: bool = False
    """A row is one of its own k1 nearest; otherwise it comes in addition."""
    power: int = 1
    """Of the squared distance: 2 squares it again."""
    relative: bool = True
    """Distances are divided by the largest one of the same row. Otherwise vectors are weighted
    by the squared distance, and half of it, 1 − cosine, is mixed in."""

    def __post_init__(self) -> None:
        if not 1 <= self.k2 <= self.k1:
            raise OptionError(f"k1 = {self.k1}, k2 = {self.k2}: 1 ≤ k2 ≤ k1 is needed")
        if not 0 <= self.weight <= 1:
            raise OptionError(f"weight = {self.weight}: it must be between 0 and 1")


ZHONG = Reranking(power=2)
TRANSREID = Reranking(k1=50, k2=15)
FASTREID = Reranking(counts_itself=True, relative=False)

RERANKINGS = {"zhong": ZHONG, "transreid": TRANSREID, "fastreid": FASTREID}
"""`zhong`: torchreid and Person_reID_baseline_pytorch, which are the same for L2-normalised
features. `transreid`: TransReID and CLIP-ReID, without their half precision. `fastreid`."""


@dataclass(frozen=True, kw_only=True)
class Need:
    """What a re-ranking takes, roughly."""

    bytes: int
    """Of memory beside the features given; a copy of them is most of it."""
    seconds: float
    """On the cores that this process may use."""


def map_reranked(
    work: Callable[[int, Features], T],
    query_QD: Features,
    gallery: Features | Pieces,
    how: Reranking = ZHONG,
    *,
    progress: Progress = no_progress,
    device: str = "cpu",
) -> Iterator[tuple[int, T]]:
    """(first query, work(first query, re-ranked distances (B, G) float32)) of consecutive queries;
    the work is done by the thread that has the block, and may overwrite it, as in `map_blocks`.
    `device`, such as `cuda`, multiplies the features; it must have room for them.

    The features are arrays or memory maps, L2-normalised; a feature of zeros is at squared
    distance 1 from all but its like. For no query nothing comes, for no gallery (B, 0). Of
    more than k1 equal rows the last are no one's neighbours: their vectors are empty and at
    distance 1 from all.

    At once: UserError if more memory is needed than can be had, DataError if a feature is not
    finite or the dimensions differ. The work itself starts with the first block; DataError then
    if the features are all but the same.
    """
    queries, rows = len(query_QD), sum(map(len, in_pieces(gallery)))
    if queries and rows:
        need = estimate(queries, rows, query_QD.shape[1], how)
        what = f"re-ranking {queries:,} queries and {rows:,} gallery rows"
        check_memory(what, need.bytes)
    rows_ND = joined(query_QD, gallery)
    return _distance_blocks(work, rows_ND, queries, how, progress, device)


def expand(
    query_QD: Features,
    gallery: Features | Pieces,
    *,
    k: int = 5,
    alpha: float = 3.0,
    progress: Progress = no_progress,
    device: str = "cpu",
) -> tuple[Features, Features]:
    """Query and gallery features, each the mean of its k nearest, itself among them, over query
    and gallery together, weighted by cosine ** alpha; L2-normalised.

    α-weighted query expansion (Radenović et al., TPAMI 2019, arXiv:1711.02512, section 3.3),
    applied to the database too, as fast-reid does; its result differs by the length of the
    features only. A neighbour with a negative cosine counts nothing (fast-reid subtracts it). A
    feature of zeros stays one. The features given must be L2-normalised; errors as for
    `map_reranked`.
    """
    if k < 1:
        raise OptionError(f"k = {k}: at least 1 is needed")
    rows = len(query_QD) + sum(map(len, in_pieces(gallery)))
    dimensions = query_QD.shape[1]
    check_memory(f"expanding {rows:,} features", expansion_bytes(rows, dimensions))
    rows_ND = joined(query_QD, gallery)
    expanded_ND = np.empty_like(rows_ND)
    if len(rows_ND):
        rank_NK = nearest(rows_ND, k, progress, device=device).rank_NK
        for start, stop in blocks(len(rows_ND), k * rows_ND.shape[1]):
            near_BKD = rows_ND[rank_NK[start:stop]]
            cosine_BK = np.einsum("bd,bkd->bk", rows_ND[start:stop], near_BKD)
            weight_BK = np.maximum(cosine_BK, 0) ** np.float32(alpha)
            mean_BD = np.einsum("bk,bkd->bd", weight_BK, near_BKD)
            norm_B1 = np.linalg.norm(mean_BD, axis=1, keepdims=True)
            expanded_ND[start:stop] = mean_BD / np.where(norm_B1 > 0, norm_B1, 1)
    return expanded_ND[: len(query_QD)], expanded_ND[len(query_QD) :]


def estimate(queries: int, gallery: int, dimensions: int, how: Reranking = ZHONG) -> Need:
    """What `map_reranked` takes for so many rows: a few additions, no work. Measured on features
    with tens of images to a person, by whole products: those of fewer dimensions take a third of
    the time. It may be off by a factor of three on other machines."""
    rows = queries + gallery
    width = min(how.k1 + 1, rows)
    extended = min(2 * width, rows)  # weights of a row
    averaged = min(extended * (how.k2 + 1) // 2, rows)
    graph = rows * (8 * width + 16 * extended + 16 * averaged)
    products = 2.0 * dimensions * (rows * rows + queries * gallery)
    threads = threads_for(rows)
    return Need(
        bytes=4 * rows * dimensions + _search_bytes(rows, dimensions) + graph,
        seconds=products / (FLOPS_PER_THREAD * threads)
        + 4e-9 * rows * rows / threads
        + 1e-9 * rows * (width + extended) * dimensions
        + 1e-8 * queries * averaged**2 / threads,
    )


def expansion_bytes(rows: int, dimensions: int) -> int:
    """Of memory that `expand` takes beside the features given: a copy of them and its result,
    and what the search for neighbours holds."""
    return 8 * rows * dimensions + _search_bytes(rows, dimensions)


def _search_bytes(rows: int, dimensions: int) -> int:
    """What `nearest` holds: blocks of distances, half as much to choose among them, and rows in
    fewer dimensions."""
    return 3 * memory_needed(rows, rows) // 2 + shorter_rows.bytes_needed(rows, dimensions)


def jaccard_distances(
    rows_ND: Features, how: Reranking, *, progress: Progress = no_progress
) -> Iterator[NDArray[np.float64]]:
    """Of each of N rows in turn, its (N,) Jaccard distances to all rows, in 0..1, without the
    distance itself. The features are as `map_reranked` takes them, and so are the errors, all at
    once."""
    check_memory(
        f"the neighbours of {len(rows_ND):,} rows",
        estimate(0, len(rows_ND), rows_ND.shape[1], how).bytes,
    )
    near = nearest(rows_ND, how.k1 + (not how.counts_itself), progress)
    weights_NN = _averaged(_encoded(rows_ND, near, how, progress), near, how).tocsr()
    transposed_NN = weights_NN.T.tocsr()
    return (_jaccard(row, weights_NN, transposed_NN) for row in range(len(rows_ND)))


def _distance_blocks(
    work: Callable[[int, Features], T],
    rows_ND: Features,
    queries: int,
    how: Reranking,
    progress: Progress,
    device: str,
) -> Iterator[tuple[int, T]]:
    """Builds the graph, then yields what `map_reranked` promises."""
    if not queries:
        return
    near = nearest(rows_ND, how.k1 + (not how.counts_itself), progress, device=device)
    weights_NN = _averaged(_encoded(rows_ND, near, how, progress), near, how)
    weights_QN, weights_NG = weights_NN[:queries], weights_NN[queries:].T.tocsr()
    del weights_NN
    norm_N = np.einsum("nd,nd->n", rows_ND, rows_ND)
    # Half of a squared distance is 1 − cosine.
    weight = np.float32(how.weight if how.relative else how.weight / 2)

    def distances(first: int, product_BG: Scores) -> T:
        for row, distance_G in enumerate(product_BG, first):
            distance_G *= -2
            distance_G += norm_N[row] + norm_N[queries:]
            distance_G.clip(min=0, out=distance_G)
            _distance(distance_G, near.farthest_N[row], how)
            distance_G *= weight
            distance_G += (1 - how.weight) * _jaccard(row, weights_QN, weights_NG)
        return work(first, product_BG)

    yield from map_blocks(
        distances, rows_ND[:queries], rows_ND[queries:], Similarity(device=device)
    )


def _encoded(rows_ND: Features, near: Neighbours, how: Reranking, progress: Progress) -> Sparse:
    """(N, N): of each row, the weights of its extended neighbours."""
    rank_NK, count = near.rank_NK, len(rows_ND)
    reciprocal_NN = _reciprocal(rank_NK)
    # Half of k1 rounds to even; the row itself is in addition, whatever counts_itself says.
    half_NN = _reciprocal(rank_NK[:, : round(how.k1 / 2) + 1])
    half_N = np.diff(half_NN.indptr)
    parts = []
    for start in range(0, count, ENCODED_ROWS):
        own_BN = reciprocal_NN[start : start + ENCODED_ROWS]
        # Of each neighbour, how many of its half neighbours are neighbours: half_NN is symmetric.
        joins_BN = own_BN.multiply(own_BN @ half_NN).tocsr()
        joins_BN.data = (3 * joins_BN.data > 2 * half_N[joins_BN.indices]).astype(np.int32)
        joins_BN.eliminate_zeros()
        weights_BN = (own_BN + joins_BN @ half_NN).astype(np.float32)
        weights_BN.sort_indices()
        row_P = np.repeat(np.arange(own_BN.shape[0]), np.diff(weights_BN.indptr))
        squared_P = squared_distances(rows_ND, row_P + start, weights_BN.indices)
        weight_P = np.exp(-_distance(squared_P, near.farthest_N[row_P + start], how))
        weights_BN.data = (weight_P / np.bincount(row_P, weight_P)[row_P]).astype(np.float32)
        parts.append(weights_BN)
        progress("encoding", start + len(own_BN.indptr) - 1, count)
    return scipy.sparse.vstack(parts, format="csr")


def _reciprocal(rank_NK: Rows) -> Sparse:
    """(N, N): 1 where two rows have each other among their neighbours. Symmetric."""
    nearest_NN = _marked(rank_NK, np.int32)
    return nearest_NN.multiply(nearest_NN.T).tocsr()


def _averaged(weights_NN: Sparse, near: Neighbours, how: Reranking) -> Sparse:
    """(N, N): of each row, the mean weights of its k2 nearest rows."""
    if how.k2 == 1:
        return weights_NN
    rank_NK = near.rank_NK[:, : how.k2]
    return (_marked(rank_NK, np.float32) / np.float32(rank_NK.shape[1])) @ weights_NN


def _marked(rank_NK: Rows, dtype: type) -> Sparse:
    """(N, N) of `dtype`: 1 at the K columns given for each row."""
    count, k = rank_NK.shape
    start_N = np.arange(0, rank_NK.size + 1, k)
    marks: Any = (np.ones(rank_NK.size, dtype), rank_NK.ravel(), start_N)
    return scipy.sparse.csr_matrix(marks, shape=(count, count))


def _distance(squared: Floats, farthest: Floats | np.float32, how: Reranking) -> Floats:
    """What weighs and mixes, from squared distances and the largest of each row; in place."""
    if how.relative:
        squared /= farthest
        squared **= how.power
    return squared


def _jaccard(row: int, weights_QN: Sparse, weights_NG: Sparse) -> NDArray[np.float64]:
    """(G,) 1 − Σ min / Σ max over N, where each vector's sum is 1: Σ max = 2 − Σ min."""
    own = slice(*weights_QN.indptr[row : row + 2])  # weights_QN[row] takes longer than the rest
    near_KG = weights_NG[weights_QN.indices[own]]
    own_P = np.repeat(weights_QN.data[own], np.diff(near_KG.indptr))
    shared_G = np.bincount(
        near_KG.indices, np.minimum(near_KG.data, own_P), minlength=weights_NG.shape[1]
    )
    return 1 - shared_G / (2 - shared_G)
