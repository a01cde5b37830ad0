"""CMC, AP and mINP from scores. Arrays in, values out.

A query's ranking lists the gallery by descending score; ties are broken by gallery row,
the smaller first, always. What a ranking does not contain (junk, the query's own camera)
is left out before ranks are counted. A match is a gallery row of the query's person.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distreid.errors import DataError

Ranks = NDArray[np.int64]
Floats = NDArray[np.float64]


def ranks_of_matches(
    scores_G: NDArray[np.floating[Any]],
    match_rows: NDArray[np.intp],
    left_out_rows: NDArray[np.intp],
) -> Ranks:
    """The ranks, from 1 and ascending, of the matches in a ranking of all other rows.

    A match's rank is 1 + the number of rows that outrank it. All scores are sorted, by value
    alone; no argsort, whose order among ties would depend on the machine, and no copy of the
    gallery without the rows left out: they are few, and are subtracted.
    """
    own, left_out = scores_G[match_rows], scores_G[left_out_rows]
    ascending = np.sort(scores_G)
    if np.isnan(ascending[-1:]).any():  # NaN is sorted behind every number
        raise DataError("a score is NaN: features must be finite; extract them again")
    higher = len(ascending) - np.searchsorted(ascending, own, side="right")
    equal = len(ascending) - np.searchsorted(ascending, own, side="left") - higher
    ranks = 1 + higher - (left_out > own[:, None]).sum(axis=1)
    for place in np.flatnonzero(equal > 1):
        row, score = match_rows[place], own[place]
        ranks[place] += np.count_nonzero(scores_G[:row] == score)
        ranks[place] -= np.count_nonzero(left_out[left_out_rows < row] == score)
    return np.sort(ranks)


def single_shot_first_ranks(
    scores_G: NDArray[np.floating[Any]],
    candidates: list[NDArray[np.intp]],
    own: int,
    draws: int,
    generator: np.random.Generator,
) -> Ranks:
    """(draws,) ranks of the query's person among one random row of each person.

    `candidates` are the rows of each person, none empty; `own` is the query's among them.
    """
    counts = np.array([len(rows) for rows in candidates])
    rows = np.concatenate(candidates)
    starts = np.cumsum(counts) - counts
    picks = rows[starts + (generator.random((draws, len(counts))) * counts).astype(np.intp)]
    scores = scores_G[picks]
    mine = scores[:, own : own + 1]
    outrank = (scores > mine) | ((scores == mine) & (picks < picks[:, own : own + 1]))
    ranks: Ranks = 1 + outrank.sum(axis=1)
    return ranks


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

    @classmethod
    def zeros(cls, queries: int) -> QueryScores:
        """Of so many queries without a match; `fill` gives them their ranks."""
        return cls(
            matches=np.zeros(queries, np.int64),
            first_rank=np.zeros(queries, np.int64),
            ap=np.zeros(queries),
            ap_trapezoid=np.zeros(queries),
            inp=np.zeros(queries),
        )

    def fill(self, query: int, ranks: Ranks) -> None:
        """Takes the ranks of a query's matches, ascending; none if it has no match."""
        if len(ranks) == 0:
            return
        self.matches[query] = len(ranks)
        self.first_rank[query] = ranks[0]
        self.ap[query] = average_precision(ranks)
        self.ap_trapezoid[query] = average_precision_trapezoid(ranks)
        self.inp[query] = inverse_negative_penalty(ranks)


def cmc(first_rank: NDArray[np.int64], denominator: float, depth: int) -> Floats:
    """(depth,) share of the queries whose first match is within the first 1, 2, … ranks.

    `first_rank` holds a rank for each query, or each draw of each query; 0 is no match.
    `denominator` is the number of these to divide by; 0 gives NaN: there is no score.
    """
    if denominator == 0:
        return np.full(depth, np.nan)
    found = first_rank[(first_rank > 0) & (first_rank <= depth)]
    return np.cumsum(np.bincount(found - 1, minlength=depth)) / denominator
