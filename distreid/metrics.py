"""CMC, AP and mINP from scores. Arrays in, values out.

A query's ranking lists the gallery by descending score; ties are broken by gallery row,
the smaller first, always. What a ranking does not contain (junk, the query's own camera)
is left out before ranks are counted. A match is a gallery row of the query's person.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ranks = NDArray[np.int64]
Floats = NDArray[np.float64]


def ranks_of_matches(
    scores_G: NDArray[np.floating[Any]],
    match_rows: NDArray[np.intp],
    left_out_rows: NDArray[np.intp],
) -> Ranks:
    """The ranks, from 1 and ascending, of the matches in a ranking of all other rows.

    A match's rank is 1 + the number of rows that outrank it. Only scores that reach the
    lowest match's can, so only these are sorted, by value alone: no argsort, whose order
    among ties would depend on the machine. The rows left out are few, and are subtracted.
    """
    own, left_out = scores_G[match_rows], scores_G[left_out_rows]
    reaching = scores_G[scores_G >= own.min(initial=np.inf)]
    reaching.sort()
    at_least, above = reaching.searchsorted(own), reaching.searchsorted(own, side="right")
    ranks: Ranks = len(reaching) + 1 - above
    if len(left_out):
        ranks -= (left_out > own[:, None]).sum(axis=1)
    for place in (above - at_least > 1).nonzero()[0]:
        row, score = match_rows[place], own[place]
        ranks[place] += np.count_nonzero(scores_G[:row] == score)
        ranks[place] -= np.count_nonzero(left_out[left_out_rows < row] == score)
    ranks.sort()
    return ranks


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
