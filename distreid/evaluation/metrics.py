"""CMC, AP and mINP from scores. Arrays in, values out.

A query's ranking lists the gallery by descending score; ties are broken by gallery row,
the smaller first, always. What a ranking does not contain (junk, the query's own camera)
is left out before ranks are counted. A match is a gallery row of the query's person.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ranks = NDArray[np.int64]
Floats = NDArray[np.float64]


def ranks_of_matches(
    scores_BG: NDArray[np.floating[Any]],
    query_M: NDArray[np.intp],
    row_M: NDArray[np.intp],
) -> Ranks:
    """(M,) ranks, from 1, of the M matches of B queries; each query's ascend.

    `query_M`, which ascends, and `row_M` say which scores are matches. A NaN is left out of
    its ranking. A match's rank is 1 + the number of rows that outrank it. Only scores that
    reach the query's lowest match can, so only these are sorted, by value alone: no argsort,
    whose order among ties would depend on the machine.
    """
    queries, rows = scores_BG.shape
    own_M = scores_BG[query_M, row_M]
    lowest_B = np.full(queries, np.inf, scores_BG.dtype)
    np.minimum.at(lowest_B, query_M, own_M)
    place_R = np.flatnonzero(scores_BG >= lowest_B[:, None])
    reaching_R = scores_BG.ravel()[place_R]
    limits = place_R.searchsorted(np.arange(queries + 1) * rows)
    matches = query_M.searchsorted(np.arange(queries + 1)).tolist()
    above_M = np.empty(len(own_M), np.int64)  # where the scores above a match's begin
    for query, (start, stop) in enumerate(pairwise(limits.tolist())):
        reaching_R[start:stop].sort()
        own = slice(matches[query], matches[query + 1])
        above_M[own] = start + reaching_R[start:stop].searchsorted(own_M[own], side="right")
    ranks = limits[query_M + 1] + 1 - above_M
    # A match is among the scores that reach it; one more of its value is a tie.
    is_tie = (above_M - limits[query_M] > 1) & (reaching_R[above_M - 2] == own_M)
    for match in is_tie.nonzero()[0]:
        above_in_gallery = scores_BG[query_M[match], : row_M[match]]
        ranks[match] += np.count_nonzero(above_in_gallery == own_M[match])
    by_query = query_M * (rows + 1)
    ascending: Ranks = np.sort(by_query + ranks) - by_query
    return ascending


def single_shot_first_ranks(
    scores_G: NDArray[np.floating[Any]],
    candidates: list[NDArray[np.intp]],
    own: int,
    draws: int,
    generator: np.random.Generator,
    alone: NDArray[np.intp],
) -> Ranks:
    """(draws,) ranks of the query's person among one random row of each person.

    `candidates` are the rows of each person, none empty; `own` is the query's among them. `alone`
    are rows each of which is in every draw: those of unknown persons, and NaN is none.
    """
    counts = np.array([len(rows) for rows in candidates])
    rows = np.concatenate(candidates)
    starts = np.cumsum(counts) - counts
    picks = rows[starts + (generator.random((draws, len(counts))) * counts).astype(np.intp)]
    scores = scores_G[picks]
    mine = scores[:, own : own + 1]
    outrank = (scores > mine) | ((scores == mine) & (picks < picks[:, own : own + 1]))
    its, others = picks[:, own : own + 1], scores_G[alone]
    more = (others > mine) | ((others == mine) & (alone < its))
    ranks: Ranks = 1 + outrank.sum(axis=1) + more.sum(axis=1)
    return ranks


@dataclass(frozen=True, kw_only=True)
class QueryScores:
    """Per query; Q rows. A query without a match has 0 everywhere."""

    matches: NDArray[np.int64]
    """How many gallery rows match."""
    first_rank: NDArray[np.int64]
    """The rank of the first match, from 1."""
    ap: Floats
    """0..1, the mean of the precisions at the matches: torchreid, fast-reid, TransReID."""
    ap_trapezoid: Floats
    """0..1, the area under the precision-recall curve by trapezoids: the Oxford 5k protocol
    (Philbin et al., CVPR 2007) that Person_reID_baseline_pytorch follows. Before each match
    the precision is that of the rank above it, or 1 at rank 1."""
    inp: Floats
    """0..1, matches / rank of the last one (Ye et al., TPAMI 2021, arXiv:2001.04193)."""

    def ap_by(self, way: str) -> Floats:
        """As `Protocol.ap` says."""
        return self.ap if way == "standard" else self.ap_trapezoid


def score_ranks(ranks_of_queries: Sequence[Ranks]) -> QueryScores:
    """The scores of Q queries from the ranks of their matches, ascending; empty for no match."""
    matches = np.array([len(ranks) for ranks in ranks_of_queries], np.int64)
    valid = np.flatnonzero(matches)
    scores = QueryScores(
        matches=matches,
        first_rank=np.zeros(len(matches), np.int64),
        ap=np.zeros(len(matches)),
        ap_trapezoid=np.zeros(len(matches)),
        inp=np.zeros(len(matches)),
    )
    if len(valid) == 0:
        return scores
    # All queries' ranks in one array: found[i] is how many matches a query has up to rank i.
    ranks, counts = (
        np.concatenate([ranks for ranks in ranks_of_queries if len(ranks)]),
        matches[valid],
    )
    ends = np.cumsum(counts)
    starts = ends - counts
    found = np.arange(1, len(ranks) + 1) - np.repeat(starts, counts)
    precision = found / ranks
    before = np.divide(found - 1, ranks - 1, out=np.ones(len(ranks)), where=ranks > 1)
    scores.first_rank[valid] = ranks[starts]
    scores.ap[valid] = np.add.reduceat(precision, starts) / counts
    scores.ap_trapezoid[valid] = np.add.reduceat((before + precision) / 2, starts) / counts
    scores.inp[valid] = counts / ranks[ends - 1]
    return scores


def cmc(first_rank: NDArray[np.int64], denominator: float, depth: int) -> Floats:
    """(depth,) share of the queries whose first match is within the first 1, 2, … ranks.

    `first_rank` holds a rank for each query, or each draw of each query; 0 is no match.
    `denominator` is the number of these to divide by; 0 gives NaN: there is no score.
    """
    if denominator == 0:
        return np.full(depth, np.nan)
    found = first_rank[(first_rank > 0) & (first_rank <= depth)]
    return np.cumsum(np.bincount(found - 1, minlength=depth)) / denominator
