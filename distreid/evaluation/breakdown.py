"""Where a score comes from: camera pairs, persons, single queries and what they found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distreid.data.manifest import NO_CAMERA, Text
from distreid.evaluation.evaluate import Scores
from distreid.evaluation.metrics import Floats
from distreid.evaluation.person_search import question
from distreid.evaluation.protocol import Protocol
from distreid.evaluation.protocols.rule import Benchmark
from distreid.evaluation.ranking import (
    LabelledFeatures,
    Ranker,
    by_track,
    first_kept,
    score_views,
    scored_blocks,
)
from distreid.nearest.neighbours import Progress, no_progress
from distreid.store import FeatureStore


@dataclass(frozen=True, kw_only=True)
class CameraPairs:
    """Query camera × gallery camera; a query counts where it has a match in that camera."""

    cameras: list[int]
    mAP_CC: NDArray[np.float64]
    """NaN where no query has a match."""
    rank1_CC: NDArray[np.float64]
    queries_CC: NDArray[np.int64]

    def to_json(self) -> dict[str, Any]:
        """Plain values; a pair without a query is null."""

        def plain(values_CC: NDArray[np.float64]) -> list[list[float | None]]:
            return [[None if v != v else float(v) for v in row] for row in values_CC]

        return {
            "cameras": self.cameras,
            "mAP": plain(self.mAP_CC),
            "rank1": plain(self.rank1_CC),
            "queries": self.queries_CC.tolist(),
        }


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a query's ranking begins with, best first; K rows of the gallery, or fewer."""

    query: int
    rows: NDArray[np.intp]
    scores: NDArray[np.floating[Any]]
    is_match: NDArray[np.bool_]


def camera_pairs(
    query: LabelledFeatures,
    gallery: LabelledFeatures,
    protocol: Protocol,
    progress: Progress = no_progress,
    leaves_out: Sequence[str] = (),
) -> CameraPairs:
    """Each query ranked against one gallery camera at a time, as `protocol` ranks.

    Costs one matrix product over all cameras together. `progress` counts the queries anew
    for each camera.
    """
    known = set(query.camera_id.tolist()) | set(gallery.camera_id.tolist())
    cameras = sorted(known - {NO_CAMERA})
    mAP, rank1 = np.full((2, len(cameras), len(cameras)), np.nan)
    counts = np.zeros((len(cameras), len(cameras)), np.int64)
    for column, other in enumerate(cameras):
        part = gallery.only(gallery.camera_id == other)
        (found,) = score_views(query, part, protocol, leaves_out=leaves_out, progress=progress)
        scores = found.scores
        for row, camera in enumerate(cameras):
            counted = (query.camera_id == camera) & (scores.matches > 0)
            counts[row, column] = counted.sum()
            if counted.any():
                mAP[row, column] = scores.ap_by(protocol.ap)[counted].mean()
                rank1[row, column] = (scores.first_rank[counted] == 1).mean()
    return CameraPairs(cameras=cameras, mAP_CC=mAP, rank1_CC=rank1, queries_CC=counts)


def person_scores(query: LabelledFeatures, scores: Scores) -> list[tuple[int, int, float]]:
    """(person, queries that are counted, their mean AP), the worst person first, ties by id."""
    counted, ap, weight = _counted_ap(scores)
    persons, places = np.unique(query.person_id[counted], return_inverse=True)
    counts = np.bincount(places, minlength=len(persons))
    sums = [np.bincount(places, values, minlength=len(persons)) for values in (ap * weight, weight)]
    means = sums[0] / sums[1]
    order = np.lexsort((persons, means))
    return [(int(persons[i]), int(counts[i]), float(means[i])) for i in order]


def column_scores(values: Text, scores: Scores) -> list[tuple[str, int, float]]:
    """(value, queries that are counted, their mean AP) by the values of a column (Q,) of the
    queries."""
    counted, ap, weight = _counted_ap(scores)
    values = values[counted]
    found = []
    for value in np.unique(values):
        own = values == value
        mean = float(np.average(ap[own], weights=weight[own]))
        found.append((value.decode(), int(own.sum()), mean))
    return found


def _counted_ap(scores: Scores) -> tuple[NDArray[np.bool_], Floats, Floats]:
    """Which queries the mAP is made of; of these their APs, over all draws, and how much they
    weigh."""
    values = scores.values
    weight = np.ones(len(values.counted)) if values.weight is None else values.weight
    return values.counted, values.values["mAP"][values.counted], weight[values.counted]


def worst_queries(scores: Scores, count: int) -> NDArray[np.intp]:
    """The queries with a match whose `Scores.ap` is lowest, the worst first, ties by row."""
    valid = np.flatnonzero(scores.per_query.matches > 0)
    return valid[np.argsort(scores.ap[valid], kind="stable")[:count]]


def first_ranked(
    query: LabelledFeatures,
    gallery: LabelledFeatures,
    protocol: Protocol,
    queries: NDArray[np.intp],
    k: int,
    leaves_out: Sequence[str] = (),
) -> list[Found]:
    """The first k of the evaluator's own ranking for some queries: junk and what the rules leave
    out are not in it, ties are in gallery order. Without re-ranking and expansion."""
    protocol = replace(protocol, rerank="none", expand="none")
    asked = query.at(queries)
    ranker = Ranker(asked.labels(), gallery.labels(), protocol, leaves_out)

    def best(first: int, scores_BG: NDArray[np.floating[Any]]) -> list[Found]:
        scores_BG = by_track(gallery, scores_BG)
        ranker.leave_out(first, scores_BG)
        found = []
        for place, scores_G in enumerate(scores_BG, first):
            row = int(queries[place])
            order = first_kept(scores_G, k)
            is_match = gallery.person_id[order] == query.person_id[row]
            found.append(
                Found(query=row, rows=order, scores=scores_G[order].copy(), is_match=is_match)
            )
        return found

    blocks = scored_blocks(best, asked, gallery, protocol)
    return [found for _, block in blocks for found in block]


def first_detections(
    store: FeatureStore, benchmark: Benchmark, queries: NDArray[np.intp], k: int
) -> list[Found]:
    """The first k of the detections that some of the Q queries rank, in `search_frames`' order:
    `rows` are the manifest's, a match is a detection that counts as right."""
    asked = question(store, benchmark)
    gallery = asked.gallery
    features_D = store.features(gallery.detections)
    found = []
    for query in queries.tolist():
        row = int(asked.queries[query])
        similarity_D = features_D @ store.features(asked.queries[query : query + 1])[0]
        wanted_F = asked.wanted(row)
        right, _ = gallery.right_ones(similarity_D, int(gallery.person_N[row]), wanted_F)
        kept = np.flatnonzero(wanted_F[gallery.frame_D])
        order = kept[np.argsort(-similarity_D[kept], kind="stable")[:k]]
        found.append(
            Found(
                query=query,
                rows=gallery.detections[order],
                scores=similarity_D[order],
                is_match=np.isin(order, right),
            )
        )
    return found
