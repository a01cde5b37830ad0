"""Rows to persons where nobody says who they are: clusters of features.

Two rows that one camera sees at one time are two persons, and never come into one group.
In names: N units (rows or tracklets), P pairs of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse import csr_matrix

from distreid.data.manifest import NO_CAMERA
from distreid.errors import OptionError
from distreid.evaluation.rerank import Reranking, jaccard_distances
from distreid.host.memory import check_memory
from distreid.nearest.similarity import Features

AVERAGE, COMPLETE, JACCARD = "average", "complete", "jaccard"
METHODS = (AVERAGE, COMPLETE, JACCARD)
NEIGHBOURS = Reranking(k1=30, k2=6, weight=0, relative=False)
"""As unsupervised ReID does (SpCL, Ge et al., NeurIPS 2020, arXiv:2006.02713, section 4.1)."""
EPS, MIN_SAMPLES = 0.6, 4
"""Of DBSCAN on these distances, likewise."""
APART = 1e9
"""The distance of two that cannot be one person: no mean over a group outweighs it."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Where and when N units were seen; arrays (N,)."""

    camera: NDArray[np.int64]
    """`NO_CAMERA` where that is not known."""
    first: NDArray[np.float64]
    """Of an interval, both ends of which belong to it; NaN where the time is not known."""
    last: NDArray[np.float64]

    def together(self, unit: int) -> NDArray[np.bool_]:
        """Which of the units after this one its camera sees while it sees this one."""
        later = slice(unit + 1, None)
        same: NDArray[np.bool_] = (
            (self.camera[later] == self.camera[unit])
            & (self.camera[unit] != NO_CAMERA)
            & (self.first[later] <= self.last[unit])
            & (self.last[later] >= self.first[unit])
        )
        return same


def link(
    features_ND: Features,
    seen: Seen | None,
    *,
    method: str = AVERAGE,
    threshold: float | None = None,
    eps: float = EPS,
) -> NDArray[np.int64]:
    """The group of each unit, (N,), numbered from 0 by their first units.

    By average or complete linkage, two groups are joined while the mean (or the least) cosine
    between their units is at least `threshold`. `JACCARD` is DBSCAN on the distances of re-ranking
    (`NEIGHBOURS`, within `eps`), where who has too few neighbours is a group alone; what one
    camera sees at one time is divided afterwards, by complete linkage. The features are finite and
    L2-normalised. UserError if memory is short, OptionError for options that cannot be meant.
    """
    if method not in METHODS:
        raise OptionError(f"--method {method}: choose one of {', '.join(METHODS)}")
    if method == JACCARD:
        if not 0 < eps <= 1:
            raise OptionError(f"--eps {eps}: a distance above 0 and up to 1")
        groups = _dbscan(features_ND, eps)
        return _numbered(groups if seen is None else _divided(features_ND, seen, groups))
    if threshold is None or not -1 <= threshold <= 1:
        raise OptionError(f"--threshold {threshold}: a cosine from -1 to 1")
    return _numbered(_linked(features_ND, seen, method, 1 - threshold))


def _linked(
    features_ND: Features, seen: Seen | None, method: str, most: float
) -> NDArray[np.int64]:
    """Groups within which the mean or the greatest distance, 1 − cosine, is at most `most`."""
    count = len(features_ND)
    if count < 2:
        return np.zeros(count, np.int64)
    # The distances, and what SciPy copies of them.
    check_memory(f"linking {count:,} units", 2 * 8 * count * (count - 1) // 2)
    distances_P = np.empty(count * (count - 1) // 2)
    place = 0
    for unit in range(count - 1):
        stop = place + count - 1 - unit
        own = 1 - (features_ND[unit + 1 :] @ features_ND[unit]).astype(np.float64)
        np.maximum(own, 0, out=own)  # of equal features rounding may leave less
        if seen is not None:
            own[seen.together(unit)] = APART
        distances_P[place:stop] = own
        place = stop
    tree = linkage(distances_P, method)
    groups: NDArray[np.int64] = fcluster(tree, most, criterion="distance").astype(np.int64)
    return groups


def _dbscan(features_ND: Features, eps: float) -> NDArray[np.int64]:
    try:
        from sklearn.cluster import DBSCAN
    except ImportError as error:
        raise OptionError(
            "--method jaccard: scikit-learn is not installed; pip install 'distreid[link]'"
        ) from error
    count = len(features_ND)
    near, lengths, distances = [], [0], []
    for distance_N in jaccard_distances(features_ND, NEIGHBOURS) if count else ():
        columns = np.flatnonzero(distance_N <= eps)
        near.append(columns)
        # A stored zero would be no distance to scikit-learn.
        distances.append(np.maximum(distance_N[columns], np.finfo(np.float64).tiny))
        lengths.append(lengths[-1] + len(columns))
    if not count:
        return np.empty(0, np.int64)
    matrix = csr_matrix(
        (np.concatenate(distances), np.concatenate(near), np.array(lengths)), shape=(count, count)
    )
    found: NDArray[np.int64] = np.asarray(
        DBSCAN(eps=eps, min_samples=MIN_SAMPLES, metric="precomputed").fit_predict(matrix)
    ).astype(np.int64)
    alone = found < 0
    found[alone] = found.max(initial=-1) + 1 + np.arange(alone.sum())
    return found


def _divided(features_ND: Features, seen: Seen, groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """The groups, of which those that hold two who were seen together become several."""
    divided: NDArray[np.int64] = groups.copy()
    following = int(groups.max(initial=-1)) + 1
    for group in np.unique(groups):
        units = np.flatnonzero(groups == group)
        here = Seen(camera=seen.camera[units], first=seen.first[units], last=seen.last[units])
        if any(here.together(unit).any() for unit in range(len(units))):
            parts = _linked(features_ND[units], here, COMPLETE, 2.0)
            divided[units] = following + parts
            following += int(parts.max())  # they are counted from 1
    return divided


def _numbered(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same groups, by the order of their first units."""
    _, first, which = np.unique(groups, return_index=True, return_inverse=True)
    number = np.empty(len(first), np.int64)
    number[np.argsort(first)] = np.arange(len(first))
    numbered: NDArray[np.int64] = number[which]
    return numbered
