"""A complete store to scores, in the conventions that papers quote."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distreid.confidence import Confidence, QueryValues, bootstrap, query_values
from distreid.errors import DataError
from distreid.manifest import (
    GALLERY,
    JUNK,
    MULTI_QUERY,
    NO_CAMERA,
    NO_PERSON,
    QUERY,
    TRACKLET,
    Status,
)
from distreid.metrics import QueryScores, Ranks, cmc
from distreid.neighbours import Progress, no_progress
from distreid.protocol import PRESETS, Protocol, preset_of
from distreid.ranking import Labelled, multi_query, score_queries
from distreid.similarity import COSINE, Pieces, Similarity
from distreid.store import FeatureStore
from distreid.tracklets import first_rows, pool

SAME_FEATURE = 1e-6  # cosine distance under which all gallery features count as one
NORM_SLACK = 1e-2  # of float16, the coarsest that a store holds
SAME_CAMERA = "; with --camera-rule none they count"
SIDE_BY_SIDE = ("torchreid", "fastreid", "layumi")  # transreid ranks and counts as fastreid does


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The figures of one protocol, shares in 0..1; NaN where no query can be scored."""

    protocol: Protocol
    cmc: NDArray[np.float64]
    """(depth,) Rank-1, Rank-2, …"""
    mAP: float
    mINP: float
    queries: int
    """How many queries the sums were divided by."""
    per_query: QueryScores
    first_ranks: Ranks
    """(Q,), or (Q, draws) on single-shot galleries; 0 where there is no match."""
    values: QueryValues
    """What the intervals and comparisons of rank1, mAP and mINP are made of."""

    @cached_property
    def confidence(self) -> Confidence:
        """95 % intervals over persons; computed when asked for."""
        return bootstrap(self.values)

    def rank(self, k: int) -> float:
        """Rank-k; beyond the depth it is that of the depth."""
        return float(self.cmc[min(k, len(self.cmc)) - 1])


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Every score of a store, and what it was computed from."""

    scores: list[Scores]
    counts: dict[str, int]
    """queries, valid_queries, queries_without_match, gallery, junk, distractors (gallery rows
    of persons in no query), bad_queries, bad_gallery, unlabelled_queries."""
    diagnosis: list[str] = field(default_factory=list)
    """What is wrong with the data, in words, if the scores mean little."""

    @property
    def of_a_search(self) -> Scores:
        """Of the protocols side by side, the one that ranks as a search does: by cosine, each query
        that can be found counting once. fastreid and transreid are the same."""
        return next(s for s in self.scores if s.protocol.name in ("fastreid", "transreid"))

    def to_json(self) -> dict[str, Any]:
        """Plain values; a score that does not exist is null."""
        return {
            "scores": [
                {
                    "protocol": asdict(scores.protocol),
                    "queries": scores.queries,
                    "rank1": _value(scores.rank(1)),
                    "rank5": _value(scores.rank(5)),
                    "rank10": _value(scores.rank(10)),
                    "mAP": _value(scores.mAP),
                    "mINP": _value(scores.mINP),
                    "cmc": [_value(share) for share in scores.cmc],
                    "confidence": scores.confidence.to_json(),
                }
                for scores in self.scores
            ],
            "counts": self.counts,
            "diagnosis": self.diagnosis,
        }


def summarise(
    per_query: QueryScores, first_ranks: Ranks, protocol: Protocol, person_id: NDArray[np.int64]
) -> Scores:
    """The figures of a protocol from the scores of all its queries, and whom they show."""
    values = query_values(person_id, per_query, first_ranks, protocol)
    valid = per_query.matches > 0
    queries = int(valid.sum()) if protocol.denominator == "valid" else len(valid)
    ap = per_query.ap if protocol.ap == "standard" else per_query.ap_trapezoid
    draws = first_ranks.size // max(1, len(first_ranks))
    return Scores(
        protocol=protocol,
        cmc=cmc(first_ranks, queries * draws, protocol.depth),
        mAP=float(ap.sum() / queries) if queries else math.nan,
        mINP=float(per_query.inp.sum() / queries) if queries else math.nan,
        queries=queries,
        per_query=per_query,
        first_ranks=first_ranks,
        values=values,
    )


def evaluate(
    store: FeatureStore,
    protocols: Sequence[Protocol] | None = None,
    similarity: Similarity = COSINE,
    progress: Progress = no_progress,
) -> Evaluation:
    """Scores the query rows of a store against its gallery rows, by each protocol.

    `similarity` says in which precision and where. Without protocols, those of `SIDE_BY_SIDE`,
    and the origin system's multi-query score if the store has such rows. Rows whose image
    could not be read, and queries without a person, are left out and counted. DataError,
    which says why, if the rows have no query, no gallery, or no persons, or a protocol wants
    multi-query rows and there are none.
    """
    if why := cannot_evaluate(store):
        raise DataError(f"{store.run}: not evaluated: {why}")
    protocols = protocols or side_by_side(store)
    if any(each.query == "multi" for each in protocols) and not len(
        usable_rows(store, MULTI_QUERY)
    ):
        raise DataError(
            f"{store.run}: not evaluated: no multi-query image with a person; "
            "extract with --multi-query, or evaluate with --query single"
        )
    query, gallery = labelled(store, QUERY), labelled(store, GALLERY)
    has_cameras = (query.camera_id != NO_CAMERA).any() and (gallery.camera_id != NO_CAMERA).any()
    if not has_cameras:
        protocols = [replace(protocol, camera_rule="none") for protocol in protocols]
    passes: dict[tuple[object, ...], tuple[QueryScores, Ranks]] = {}
    scores = []
    for protocol in protocols:
        key = _ranking_of(protocol)
        if key not in passes:
            asked = query
            if protocol.query == "multi":
                asked = multi_query(query, labelled(store, MULTI_QUERY))
            passes[key] = score_queries(asked, gallery, protocol, similarity, progress)
        scores.append(summarise(*passes[key], protocol, query.person_id))
    return Evaluation(
        scores=scores,
        counts=_counts(store, query, gallery, scores[0].per_query),
        diagnosis=_diagnose(query, gallery, scores[0].per_query),
    )


def side_by_side(store: FeatureStore) -> list[Protocol]:
    """The protocols that are shown unless others are asked for; first that of the project which
    the checkpoint is of, if it has one."""
    preset = preset_of(store.plan.provenance.get("peer"))
    own = preset and preset.name
    same = "fastreid" if own == "transreid" else own
    names = ([own] if own else []) + [name for name in SIDE_BY_SIDE if name != same]
    names += ["layumi-multi"] if len(usable_rows(store, MULTI_QUERY)) else []
    return [PRESETS[name] for name in names]


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
        if len(usable_rows(store, split)) == 0:
            return f"no {split} image that could be read has a person id"
    return ""


def labelled(store: FeatureStore, split: str) -> Labelled:
    """The rows of a split that can be used: readable, and of a query, with a person.

    Where the data has tracklets, a row here is the mean of one."""
    rows = usable_rows(store, split)
    if TRACKLET in store.manifest.extra:
        features, norm = pool(store, _usable_images(store, split))
        pieces: Pieces = [features]
    else:
        pieces, norm = store.pieces(rows), store.norm[rows]
    return Labelled(
        pieces=pieces,
        norm=norm,
        person_id=store.manifest.person_id[rows],
        camera_id=store.manifest.camera_id[rows],
    )


def usable_rows(store: FeatureStore, split: str) -> NDArray[np.intp]:
    """The manifest rows that `labelled` takes, in its order; of a tracklet, its first."""
    return first_rows(store, _usable_images(store, split))


def _usable_images(store: FeatureStore, split: str) -> NDArray[np.intp]:
    rows = store.manifest.rows(split)
    usable = store.status[rows] == Status.OK
    if split != GALLERY:
        usable &= store.manifest.person_id[rows] != NO_PERSON
    wanted: NDArray[np.intp] = rows[usable]
    return wanted


def _ranking_of(protocol: Protocol) -> tuple[object, ...]:
    """Protocols that are equal in this share one ranking."""
    shots = (protocol.gallery_shots, protocol.seed if protocol.gallery_shots == "single" else 0)
    moved = (protocol.rerank, protocol.expand)
    junk = protocol.junk if moved != ("none", "none") else ""
    return protocol.by_cosine, protocol.camera_rule, protocol.query, shots, moved, junk


def _counts(
    store: FeatureStore, query: Labelled, gallery: Labelled, scores: QueryScores
) -> dict[str, int]:
    valid = int((scores.matches > 0).sum())
    queries, in_gallery = store.manifest.rows(QUERY), store.manifest.rows(GALLERY)
    junk = gallery.person_id == JUNK
    unlabelled = store.manifest.person_id[queries] == NO_PERSON
    return {
        "queries": len(query),
        "valid_queries": valid,
        "queries_without_match": len(query) - valid,
        "gallery": len(gallery),
        "junk": int(junk.sum()),
        "distractors": int((~np.isin(gallery.person_id, query.person_id) & ~junk).sum()),
        "bad_queries": int((store.status[queries] != Status.OK).sum()),
        "bad_gallery": int((store.status[in_gallery] != Status.OK).sum()),
        "unlabelled_queries": int(unlabelled.sum()),
    }


def _diagnose(query: Labelled, gallery: Labelled, scores: QueryScores) -> list[str]:
    found = []
    if not (scores.matches > 0).any():
        shared = np.isin(query.person_id, gallery.person_id).sum()
        text = f"0 of {len(query):,} queries have a match"
        cameras = np.unique(np.concatenate([query.camera_id, gallery.camera_id]))
        if shared and len(cameras) == 1:
            text += f" in another camera: all camera ids are equal{SAME_CAMERA}"
        elif shared:
            text += f" in another camera: every match is in the query's own{SAME_CAMERA}"
        else:
            text += ": query and gallery have no person in common"
        found.append(text)
    cosine_G = np.concatenate([piece @ query.features[0] for piece in gallery.pieces])
    if cosine_G.min() > 1 - SAME_FEATURE:
        found.append("all gallery features are the same: was the checkpoint trained?")
    if cosine_G.max() > 1 + NORM_SLACK:
        found.append("a similarity is above 1: the features are not L2-normalised")
    return found


def _value(share: float) -> float | None:
    return None if math.isnan(share) else float(share)
