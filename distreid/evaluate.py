"""A complete store to scores, in the conventions that papers quote."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distreid.errors import DataError
from distreid.manifest import GALLERY, JUNK, MULTI_QUERY, NO_CAMERA, NO_PERSON, QUERY, Status
from distreid.metrics import QueryScorer, QueryScores, cmc, ranks_of_matches
from distreid.similarity import Features, score_blocks
from distreid.store import FeatureStore

SAME_FEATURE = 1e-6  # cosine distance under which the gallery counts as one single point


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Features with who and where; N rows."""

    features: Features
    """(N, D) float32, L2-normalised."""
    person_id: NDArray[np.int64]
    camera_id: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a score is computed; it goes with every figure."""

    name: str
    as_in: str
    """The projects whose numbers it reproduces."""
    ap: str
    """`standard`: the mean of the precisions at the matches. `trapezoid`: see `metrics`."""
    denominator: str
    """`valid`: queries with a match. `all`: all queries; one without a match counts as 0."""
    query: str = "single"
    """`multi`: the mean of the multi-query features of the query's person and camera."""


STANDARD = Protocol(
    name="standard", as_in="torchreid, fast-reid, TransReID", ap="standard", denominator="valid"
)
BASELINE = Protocol(
    name="baseline", as_in="Person_reID_baseline_pytorch", ap="trapezoid", denominator="all"
)
BASELINE_MULTI = Protocol(
    name="baseline_multi_query",
    as_in="Person_reID_baseline_pytorch --multi",
    ap="trapezoid",
    denominator="all",
    query="multi",
)


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The figures of one protocol, shares in 0..1; NaN where no query can be scored."""

    protocol: Protocol
    cmc: NDArray[np.float64]
    """(50,) Rank-1 to Rank-50."""
    mAP: float
    mINP: float
    queries: int
    """How many queries the sums were divided by."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Every score of a store, and what it was computed from."""

    scores: list[Scores]
    counts: dict[str, int]
    """queries, valid_queries, queries_without_match, gallery, junk, bad_queries, bad_gallery."""
    camera_rule: str
    """`cross`: gallery rows of the query's person and camera are left out. `none`: they are not,
    because the data has no cameras."""
    per_query: QueryScores
    diagnosis: list[str] = field(default_factory=list)
    """What is wrong with the data, in words, if the scores mean little."""

    def to_json(self) -> dict[str, Any]:
        """Plain values; a score that does not exist is null."""
        return {
            "scores": [
                {
                    "protocol": asdict(scores.protocol)
                    | {"camera_rule": self.camera_rule, "similarity": "cosine"},
                    "queries": scores.queries,
                    "rank1": _value(scores.cmc[0]),
                    "rank5": _value(scores.cmc[4]),
                    "rank10": _value(scores.cmc[9]),
                    "mAP": _value(scores.mAP),
                    "mINP": _value(scores.mINP),
                    "cmc": [_value(share) for share in scores.cmc],
                }
                for scores in self.scores
            ],
            "counts": self.counts,
            "diagnosis": self.diagnosis,
        }


def score_queries(query: Labelled, gallery: Labelled, *, cross_camera: bool) -> QueryScores:
    """Ranks the gallery for each query. Junk is left out, and with `cross_camera` also the
    gallery rows of the query's own person and camera. An unknown camera is like no other."""
    scorer = QueryScorer(len(query))
    not_junk = gallery.person_id != JUNK
    for first, scores_BG in score_blocks(query.features, gallery.features):
        for place, scores_G in enumerate(scores_BG):
            row = first + place
            is_match = gallery.person_id == query.person_id[row]
            kept = not_junk
            if cross_camera and query.camera_id[row] != NO_CAMERA:
                kept = kept & ~(is_match & (gallery.camera_id == query.camera_id[row]))
            scorer.add(row, ranks_of_matches(scores_G[kept], is_match[kept]))
    return scorer.scores


def summarise(per_query: QueryScores, protocol: Protocol) -> Scores:
    """The figures of a protocol from the scores of all its queries."""
    valid = per_query.matches > 0
    queries = int(valid.sum()) if protocol.denominator == "valid" else len(valid)
    ap = per_query.ap if protocol.ap == "standard" else per_query.ap_trapezoid
    return Scores(
        protocol=protocol,
        cmc=cmc(per_query.first_rank, queries),
        mAP=float(ap.sum() / queries) if queries else math.nan,
        mINP=float(per_query.inp.sum() / queries) if queries else math.nan,
        queries=queries,
    )


def evaluate(store: FeatureStore) -> Evaluation:
    """Scores the query rows of a store against its gallery rows.

    Rows whose image could not be read are left out and counted. DataError, which says
    why, if the rows have no query, no gallery, or no persons.
    """
    if why := cannot_evaluate(store):
        raise DataError(f"{store.run}: not evaluated: {why}")
    query, bad_queries = _labelled(store, QUERY)
    gallery, bad_gallery = _labelled(store, GALLERY)
    known = (query.camera_id != NO_CAMERA).any() and (gallery.camera_id != NO_CAMERA).any()
    per_query = score_queries(query, gallery, cross_camera=bool(known))
    scores = [summarise(per_query, STANDARD), summarise(per_query, BASELINE)]
    if len(store.manifest.rows(MULTI_QUERY)):
        multi = multi_query(query, _labelled(store, MULTI_QUERY)[0])
        scores.append(
            summarise(score_queries(multi, gallery, cross_camera=bool(known)), BASELINE_MULTI)
        )
    valid = int((per_query.matches > 0).sum())
    return Evaluation(
        scores=scores,
        counts={
            "queries": len(query),
            "valid_queries": valid,
            "queries_without_match": len(query) - valid,
            "gallery": len(gallery),
            "junk": int((gallery.person_id == JUNK).sum()),
            "bad_queries": bad_queries,
            "bad_gallery": bad_gallery,
        },
        camera_rule="cross" if known else "none",
        per_query=per_query,
        diagnosis=_diagnose(query, gallery, valid),
    )


def cannot_evaluate(store: FeatureStore) -> str:
    """Why a store has no scores; empty if it has."""
    for split in (QUERY, GALLERY):
        rows = store.manifest.rows(split)
        if len(rows) == 0:
            return f"no row is marked as {split}"
        if (store.manifest.person_id[rows] == NO_PERSON).all():
            return f"the {split} rows have no person ids"
        if (store.status[rows] != Status.OK).all():
            return f"none of the {split} images could be read"
    return ""


def multi_query(query: Labelled, several: Labelled) -> Labelled:
    """Each query's feature replaced by the mean of the multi-query features of its person and
    camera, not normalised again, as Person_reID_baseline_pytorch does; the query's own
    feature where there are none."""
    features = query.features.copy()
    for row in range(len(query)):
        same = (several.person_id == query.person_id[row]) & (
            several.camera_id == query.camera_id[row]
        )
        if same.any():
            features[row] = several.features[same].mean(axis=0)
    return Labelled(features=features, person_id=query.person_id, camera_id=query.camera_id)


def _labelled(store: FeatureStore, split: str) -> tuple[Labelled, int]:
    """The readable rows of a split, and how many were not."""
    rows = store.manifest.rows(split)
    good = rows[store.status[rows] == Status.OK]
    labelled = Labelled(
        features=store.features(good),
        person_id=store.manifest.person_id[good],
        camera_id=store.manifest.camera_id[good],
    )
    return labelled, len(rows) - len(good)


def _diagnose(query: Labelled, gallery: Labelled, valid: int) -> list[str]:
    found = []
    if valid == 0:
        shared = np.isin(query.person_id, gallery.person_id).sum()
        text = f"0 of {len(query):,} queries have a match"
        cameras = np.unique(np.concatenate([query.camera_id, gallery.camera_id]))
        if shared and len(cameras) == 1:
            text += " in another camera: all camera ids are equal"
        elif shared:
            text += " in another camera: every match is in the query's own"
        else:
            text += ": query and gallery have no person in common"
        found.append(text)
    if len(gallery) > 1 and (gallery.features @ gallery.features[0]).min() > 1 - SAME_FEATURE:
        found.append("all gallery features are the same: was the checkpoint trained?")
    return found


def _value(share: float) -> float | None:
    return None if math.isnan(share) else float(share)
