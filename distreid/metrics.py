"""CMC, AP and mINP from scores. Arrays in, values out.

A query's ranking lists the gallery by descending score; ties are broken by gallery row,
the smaller first, always. What a ranking does not contain (junk, the query's own camera)
is left out before ranks are counted. A match is a gallery row of the query's person.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ranks = NDArray[np.int64]
Floats = NDArray[np.float64]

CMC_DEPTH = 50  # as torchreid and fast-reid report it


def ranks_of_matches(scores_G: NDArray[np.float32], is_match_G: NDArray[np.bool_]) -> Ranks:
    """The ranks, from 1 and ascending, of the matches among the gallery rows given.

    A match's rank is 1 + the number of rows that outrank it: no argsort of the gallery,
    whose order among ties would depend on the machine.
    """
    rows = np.flatnonzero(is_match_G)
    own = scores_G[rows]
    ascending = np.sort(scores_G)
    higher = len(ascending) - np.searchsorted(ascending, own, side="right")
    equal = len(ascending) - np.searchsorted(ascending, own, side="left") - higher
    earlier = np.zeros(len(rows), dtype=np.int64)
    for place in np.flatnonzero(equal > 1):
        earlier[place] = np.count_nonzero(scores_G[: rows[place]] == own[place])
    return np.sort(1 + higher + earlier)


def average_precision(ranks: Ranks) -> float:
    """The mean of the precisions at the matches: torchreid, fast-reid, TransReID. In 0..1."""
    return float(np.mean(np.arange(1, len(ranks) + 1) / ranks))


def average_precision_trapezoid(ranks: Ranks) -> float:
    """The area under the precision-recall curve by trapezoids: the Oxford 5k protocol
    (Philbin et al., CVPR 2007) that Person_reID_baseline_pytorch follows. In 0..1.

    Before each match the precision is that of the rank above it, or 1 at rank 1.
    """
    found = np.arange(1, len(ranks) + 1)
    before = np.divide(found - 1, ranks - 1, out=np.ones(len(ranks)), where=ranks > 1)
    return float(np.mean((before + found / ranks) / 2))


def inverse_negative_penalty(ranks: Ranks) -> float:
    """Matches / rank of the last one (Ye et al., TPAMI 2021, arXiv:2001.04193). In 0..1."""
    return float(len(ranks) / ranks[-1])


@dataclass(frozen=True, kw_only=True)
class QueryScores:
    """Per query; Q rows. A query without a match has 0 everywhere."""

    matches: NDArray[np.int64]
    """How many gallery rows match."""
    first_rank: NDArray[np.int64]
    """The rank of the first match, from 1."""
    ap: Floats
    ap_trapezoid: Floats
    inp: Floats


class QueryScorer:
    """Fills the QueryScores of Q queries one by one."""

    def __init__(self, queries: int) -> None:
        self.scores = QueryScores(
            matches=np.zeros(queries, np.int64),
            first_rank=np.zeros(queries, np.int64),
            ap=np.zeros(queries),
            ap_trapezoid=np.zeros(queries),
            inp=np.zeros(queries),
        )

    def add(self, query: int, ranks: Ranks) -> None:
        """Takes the ranks of a query's matches, ascending; none if it has no match."""
        if len(ranks) == 0:
            return
        self.scores.matches[query] = len(ranks)
        self.scores.first_rank[query] = ranks[0]
        self.scores.ap[query] = average_precision(ranks)
        self.scores.ap_trapezoid[query] = average_precision_trapezoid(ranks)
        self.scores.inp[query] = inverse_negative_penalty(ranks)


def cmc(first_rank_Q: NDArray[np.int64], denominator: int, depth: int = CMC_DEPTH) -> Floats:
    """(depth,) share of the queries whose first match is within the first 1, 2, … ranks.

    `denominator` is the number of queries to divide by; 0 gives NaN: there is no score.
    """
    if denominator == 0:
        return np.full(depth, np.nan)
    found = first_rank_Q[(first_rank_Q > 0) & (first_rank_Q <= depth)]
    return np.cumsum(np.bincount(found - 1, minlength=depth)) / denominator
