"""Is the person in the gallery at all, and who is it: identification at false accept rates.

In names: U queries whose person is not in the gallery, K whose person is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distreid.evaluation.metrics import Floats
from distreid.evaluation.ranking import Found

RATES = (0.01, 0.05, 0.1, 0.2, 0.3)
RANKS = (1, 5, 10)


@dataclass(frozen=True, kw_only=True)
class Identification:
    """What a threshold does that accepts few of those who are not in the gallery."""

    asked: float
    """The false accept rate that was asked for."""
    reached: float
    threshold: float
    """-inf where everybody is in the gallery."""
    identified: Mapping[int, float]
    """r → the share of the K whose own score reaches the threshold and who stand among the
    first r (DIR)."""
    balanced_known: float
    """The mean over persons in the gallery of their queries that are accepted and found first:
    BAKS of wildlife-datasets."""
    balanced_unknown: float
    """The mean over persons who are not of their queries that are refused: BAUS."""

    def to_json(self) -> dict[str, Any]:
        """Plain values; null for none."""
        values = {
            "asked_far": self.asked,
            "far": self.reached,
            "threshold": self.threshold,
            "baks": self.balanced_known,
            "baus": self.balanced_unknown,
        }
        plain = {name: _plain(value) for name, value in values.items()}
        return plain | {"dir": {str(r): _plain(share) for r, share in self.identified.items()}}


def identifications(found: Found, person_id_Q: NDArray[np.int64]) -> list[Identification]:
    """At each of `RATES`. The threshold for a rate F of U queries is the round(F × U)-th largest of
    their best scores; where that is 0, just above the largest (Probabilistic-Face-Embeddings
    23191e9, `evaluation/metrics.py`, DIR_FAR)."""
    known_Q = found.scores.matches > 0
    falling_U: Floats = np.sort(found.best_Q[~known_Q])[::-1]
    own_K, rank_K = found.own_Q[known_Q], found.first_ranks[known_Q]
    made = []
    for rate in RATES:
        accepted = round(rate * len(falling_U))
        threshold = -math.inf
        if len(falling_U):
            threshold = float(falling_U[accepted - 1] if accepted else falling_U[0] + 1e-8)
        reaching_K = own_K >= threshold
        made.append(
            Identification(
                asked=rate,
                reached=_mean(falling_U >= threshold),
                threshold=threshold,
                identified={r: _mean(reaching_K & (rank_K <= r)) for r in RANKS},
                balanced_known=by_person(reaching_K & (rank_K == 1), person_id_Q[known_Q]),
                balanced_unknown=by_person(
                    found.best_Q[~known_Q] < threshold, person_id_Q[~known_Q]
                ),
            )
        )
    return made


def mean_of_draws(draws: Sequence[Sequence[Identification]]) -> list[Identification]:
    """At each rate the mean over the draws of each figure, also of the threshold."""

    def mean(each: Sequence[Identification], figure: Callable[[Identification], float]) -> float:
        return float(np.mean([figure(one) for one in each]))

    return [
        Identification(
            asked=each[0].asked,
            reached=mean(each, lambda one: one.reached),
            threshold=mean(each, lambda one: one.threshold),
            identified={
                r: float(np.mean([one.identified[r] for one in each])) for r in each[0].identified
            },
            balanced_known=mean(each, lambda one: one.balanced_known),
            balanced_unknown=mean(each, lambda one: one.balanced_unknown),
        )
        for each in zip(*draws, strict=True)
    ]


def by_person(right_Q: NDArray[np.bool_], person_id_Q: NDArray[np.int64]) -> float:
    """The mean over persons of the share of their queries that are right; NaN without queries."""
    if not len(right_Q):
        return math.nan
    _, which_Q = np.unique(person_id_Q, return_inverse=True)
    return float((np.bincount(which_Q, right_Q) / np.bincount(which_Q)).mean())


def _mean(hits: NDArray[np.bool_]) -> float:
    return float(hits.mean()) if len(hits) else math.nan


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
