"""Is it the same person, and is the person in the gallery at all: scores against a threshold.

A pair is a query and a gallery row. It is a *match* if both show one person (where the data
has cameras: from two cameras), a *non-match* if they show two. Left out: junk, rows without a
person id, and pairs of one person from one camera. A pair is *accepted* if its score is at
least the threshold. The share of accepted matches is the true-positive rate (TPR), that of
accepted non-matches the false-positive rate (FPR). fast-reid's ROC labels the non-matches as
1, so what it prints as TPR at an FPR is 1 − FPR at a 1 − TPR.

A threshold holds for data like that it was found on; other cameras need their own.

In names: Q queries, G gallery rows, B queries of a block, N scores, T thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distreid.data.manifest import JUNK, NO_CAMERA, NO_PERSON
from distreid.errors import DataError
from distreid.evaluation.metrics import Floats
from distreid.nearest.neighbours import Progress, no_progress

Scores = NDArray[np.floating[Any]]
LeftOut = Callable[[int, int], NDArray[np.bool_]]
"""(first query, how many) → (B, G) the pairs that do not count."""

# A power of two: edges and bin numbers are exact in float32, so a threshold accepts exactly
# the scores that were counted above it.
BINS = 1 << 15
RESOLUTION = 2 / BINS
EDGES_T = np.arange(BINS, dtype=np.float64) * RESOLUTION - 1  # the thresholds tried
SLACK = 0.01  # by which rounding, that of float16 above all, may take a cosine out of [-1, 1]
DRAWN_BINS = 256

WISHED = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
EXPECTED = 10  # false positives at a wished rate, below which its threshold would be luck


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Person and camera of some rows, as in the manifest."""

    person_id: NDArray[np.int64]
    camera_id: NDArray[np.int64]


class Distribution:
    """Scores counted in 32,768 bins over [-1, 1], each 2^-14 wide and with its lower edge.

    Scores that rounding took outside are counted in the end bins.
    """

    def __init__(self) -> None:
        self.counts: NDArray[np.int64] = np.zeros(BINS, np.int64)
        self.low, self.high = math.inf, -math.inf  # exact, of all scores added

    def add(self, scores_N: Scores) -> None:
        """Counts finite scores; none is fine."""
        bins_N = np.floor(scores_N * (BINS / 2)).astype(np.intp) + BINS // 2
        self.counts += np.bincount(bins_N.clip(0, BINS - 1), minlength=BINS)
        self.low = float(scores_N.min(initial=self.low))
        self.high = float(scores_N.max(initial=self.high))

    @property
    def total(self) -> int:
        """How many scores were added."""
        return int(self.counts.sum())

    def accepted(self, of: int) -> Floats:
        """(T,) scores that reach each of EDGES_T, as a share `of` some number; NaN for 0."""
        reaching_T = self.counts[::-1].cumsum()[::-1]
        return reaching_T / of if of else np.full(BINS, np.nan)

    def to_json(self) -> dict[str, Any]:
        """The total, the extremes, and the counts of 256 bins over [-1, 1], to be drawn."""
        return {
            "total": self.total,
            "low": self.low if self.total else None,
            "high": self.high if self.total else None,
            "counts": self.counts.reshape(DRAWN_BINS, -1).sum(axis=1).tolist(),
        }


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """The smallest threshold whose false rate is at most the one wished; see `_points`."""

    wished: float
    threshold: float | None = None
    false_rate: float | None = None
    """What the threshold achieves: the FPR, or the false-alarm rate (FAR)."""
    true_rate: float | None = None
    """The TPR, or the detection and identification rate (DIR)."""


class TopScores:
    """The best scores of Q queries among the pairs that count; -inf where a query has none."""

    def __init__(self, queries: int) -> None:
        self.match_Q: Floats = np.full(queries, -np.inf)
        self.nonmatch_Q = self.match_Q.copy()
        self.is_first_Q = np.zeros(queries, np.bool_)  # a match ranks first; ties by row

    def alarms(self) -> tuple[Distribution, str]:
        """The scores that give false alarms, and whose they are, in words.

        Those of the queries without a match. If every query has one: of all queries, as if
        their matches were not in the gallery.
        """
        can_alarm_Q = self.nonmatch_Q > -np.inf
        unmated_Q = can_alarm_Q & (self.match_Q == -np.inf)
        asked_Q, whose = unmated_Q, "queries without a match"
        if not unmated_Q.any():
            asked_Q, whose = can_alarm_Q, "all queries, without their matches"
        alarms = Distribution()
        alarms.add(self.nonmatch_Q[asked_Q])
        return alarms, whose

    def identified(self) -> Floats:
        """(T,) of the queries with a match, those where one ranks first and is accepted."""
        hits = Distribution()
        hits.add(self.match_Q[self.is_first_Q])
        return hits.accepted(int((self.match_Q > -np.inf).sum()))


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What a threshold does, over pairs and over queries."""

    matches: Distribution
    nonmatches: Distribution
    tops: TopScores

    def roc(self) -> tuple[Floats, Floats]:
        """(T,) FPR and TPR at EDGES_T, both falling from 1; NaN for no pair of the kind."""
        matches, nonmatches = self.matches, self.nonmatches
        return nonmatches.accepted(nonmatches.total), matches.accepted(matches.total)

    def auc(self) -> float | None:
        """The chance that a match scores above a non-match; those of one bin count half.

        None without a match or a non-match.
        """
        if not (pairs := self.matches.total * self.nonmatches.total):
            return None
        below_T = self.nonmatches.counts.cumsum() - self.nonmatches.counts / 2
        return float(self.matches.counts @ below_T) / pairs

    def eer(self) -> float | None:
        """The rate where FPR = 1 − TPR, on a straight line between two thresholds, or None."""
        if not (self.matches.total and self.nonmatches.total):
            return None
        fpr, tpr = (np.append(rate_T, 0.0) for rate_T in self.roc())
        surplus = 1 - tpr - fpr  # rises from -1 to 1
        after = int(np.argmax(surplus >= 0))
        part = surplus[after - 1] / (surplus[after - 1] - surplus[after])
        return float(fpr[after - 1] + part * (fpr[after] - fpr[after - 1]))

    def verification(self) -> list[OperatingPoint]:
        """Over pairs: TPR at the wished FPRs."""
        return _points(self.nonmatches, self.roc()[1])

    def identification(self) -> list[OperatingPoint]:
        """Over queries: DIR at the wished FARs (Phillips, Grother and Micheals, chapter 14 of
        the Handbook of Face Recognition, 2005)."""
        return _points(self.tops.alarms()[0], self.tops.identified())

    def to_json(self) -> dict[str, Any]:
        """Plain values; what does not exist is null."""
        alarms, whose = self.tops.alarms()
        return {
            "resolution": RESOLUTION,
            "matches": self.matches.to_json(),
            "nonmatches": self.nonmatches.to_json(),
            "auc": self.auc(),
            "eer": self.eer(),
            "verification": [vars(point) for point in self.verification()],
            "identification": [vars(point) for point in self.identification()],
            "queries_with_match": int((self.tops.match_Q > -np.inf).sum()),
            "alarm_queries": alarms.total,
            "alarms_from": whose,
        }


def calibrate(
    blocks: Iterable[tuple[int, Scores]],
    query: Labels,
    gallery: Labels,
    *,
    cross_camera: bool,
    left_out: LeftOut | None = None,
    progress: Progress = no_progress,
) -> Calibration:
    """Counts every pair once, holding one block, the counts, and three values per query.

    `blocks` are the (first query, scores (B, G)) of `similarity.score_blocks`, cosines, which
    together have every query (ValueError). With `cross_camera`, pairs of one person from one
    camera are left out; an unknown camera is like no other. What `left_out` says is left out too,
    such as a query's own file. DataError names a score that is NaN, or outside [-1, 1] by more
    than rounding.
    """
    found = Calibration(
        matches=Distribution(), nonmatches=Distribution(), tops=TopScores(len(query.person_id))
    )
    known_G = _known(gallery.person_id)
    known_Q = _known(query.person_id)
    seen = 0
    for first, scores_BG in blocks:
        seen += len(scores_BG)
        out_BG = left_out(first, len(scores_BG)) if left_out else None
        for row, scores_G in enumerate(scores_BG, start=first):
            _refuse_no_cosine(scores_G, row)
            if not known_Q[row]:
                continue
            match_G = gallery.person_id == query.person_id[row]
            nonmatch_G = known_G & ~match_G
            if cross_camera and query.camera_id[row] != NO_CAMERA:
                match_G &= gallery.camera_id != query.camera_id[row]
            if out_BG is not None:
                match_G &= ~out_BG[row - first]
                nonmatch_G &= ~out_BG[row - first]
            _add(found, row, scores_G, match_G, nonmatch_G)
        progress("counting", seen, len(known_Q))
    if seen != len(known_Q):
        raise ValueError(f"the blocks have {seen} queries, not {len(known_Q)}")
    return found


def _add(
    found: Calibration,
    row: int,
    scores_G: Scores,
    match_G: NDArray[np.bool_],
    nonmatch_G: NDArray[np.bool_],
) -> None:
    """Counts one query's pairs."""
    matches, nonmatches = scores_G[match_G], scores_G[nonmatch_G]
    found.matches.add(matches)
    found.nonmatches.add(nonmatches)
    found.tops.match_Q[row] = matches.max(initial=-np.inf)
    found.tops.nonmatch_Q[row] = nonmatches.max(initial=-np.inf)
    if len(matches):
        ranked_G = np.where(match_G | nonmatch_G, scores_G, -np.inf)
        found.tops.is_first_Q[row] = match_G[ranked_G.argmax()]  # the first of equals


def _points(false: Distribution, true_T: Floats) -> list[OperatingPoint]:
    """The threshold for each of WISHED, rounded up to an edge: the achieved rate is no higher.

    None where the rate would leave fewer than 10 of the false scores, or the last edge still
    accepts more than wished.
    """
    false_T = false.accepted(false.total)
    points = []
    for wished in WISHED:
        place = int(np.argmax(false_T <= wished))  # 0 if nowhere
        if false.total * wished < EXPECTED or false_T[place] > wished:
            points.append(OperatingPoint(wished=wished))
            continue
        points.append(
            OperatingPoint(
                wished=wished,
                threshold=float(EDGES_T[place]),
                false_rate=float(false_T[place]),
                true_rate=None if math.isnan(true_T[place]) else float(true_T[place]),
            )
        )
    return points


def _known(person_id: NDArray[np.int64]) -> NDArray[np.bool_]:
    return ~np.isin(person_id, (JUNK, NO_PERSON))


def _refuse_no_cosine(scores_G: Scores, row: int) -> None:
    low, high = scores_G.min(initial=0), scores_G.max(initial=0)
    if low >= -1 - SLACK and high <= 1 + SLACK:  # false for NaN
        return
    column = int(np.flatnonzero(~(np.abs(scores_G) <= 1 + SLACK))[0])
    raise DataError(
        f"query {row}, gallery row {column}: the score is {scores_G[column]:.4g} and should be a "
        "cosine; extract finite, L2-normalised features"
    )
