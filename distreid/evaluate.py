"""A complete store to scores, in the conventions that papers quote."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
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
from distreid.metrics import (
    QueryScores,
    Ranks,
    cmc,
    ranks_of_matches,
    score_ranks,
    single_shot_first_ranks,
)
from distreid.protocol import PRESETS, Protocol
from distreid.rerank import RERANKINGS, expand, rerank_scores
from distreid.similarity import COSINE, Features, Pieces, Similarity, map_blocks
from distreid.store import FeatureStore
from distreid.tracklets import first_rows, pool

SINGLE_SHOT_DRAWS = 10  # as torchreid
SAME_FEATURE = 1e-6  # cosine distance under which all gallery features count as one
NO_ROWS: NDArray[np.intp] = np.array([], np.intp)
NORM_SLACK = 1e-2  # of float16, the coarsest that a store holds
SIDE_BY_SIDE = ("torchreid", "fastreid", "layumi")  # transreid ranks and counts as fastreid does

Progress = Callable[[int], None]
"""Called with the number of queries ranked since the last call."""


def no_progress(queries: int) -> None:
    """Nobody watches."""


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Features with who and where; N rows."""

    pieces: Pieces
    """(N, D) in consecutive pieces, L2-normalised."""
    norm: Features
    """(N,) the norms before."""
    person_id: NDArray[np.int64]
    camera_id: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.person_id)

    @property
    def features(self) -> Features:
        """(N, D) float32 in one array."""
        return np.concatenate([np.asarray(piece, np.float32) for piece in self.pieces])

    def only(self, wanted: NDArray[np.bool_]) -> Labelled:
        """The rows wanted, (N,) bool; all of them without a copy."""
        if wanted.all():
            return self
        return Labelled(
            pieces=[self.features[wanted]],
            norm=self.norm[wanted],
            person_id=self.person_id[wanted],
            camera_id=self.camera_id[wanted],
        )


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


def score_queries(
    query: Labelled,
    gallery: Labelled,
    protocol: Protocol,
    similarity: Similarity = COSINE,
    progress: Progress = no_progress,
) -> tuple[QueryScores, Ranks]:
    """Ranks the gallery for each query; gives its scores, and its first rank or ranks.

    Left out of a ranking: junk, and by the camera rule `cross` the rows of the query's own
    person and camera. An unknown camera is like no other; an unknown person is no match.
    The ranks are (Q,), or (Q, draws) on single-shot galleries; 0 where there is no match.
    """
    if (protocol.rerank, protocol.expand) != ("none", "none") and protocol.junk == "dropped":
        gallery = gallery.only(gallery.person_id != JUNK)
    ranker = _Ranker(query, gallery, protocol)
    for ranked in _ranked_blocks(ranker, query, gallery, protocol, similarity):
        progress(ranked)
    return ranker.result()


def _ranked_blocks(
    ranker: _Ranker,
    query: Labelled,
    gallery: Labelled,
    protocol: Protocol,
    similarity: Similarity,
) -> Iterator[int]:
    """Has every query ranked; gives their number block by block."""
    query_QD = query.features
    if protocol.expand == "aqe":
        query_QD, expanded_GD = expand(query_QD, gallery.features)
        gallery = replace(gallery, pieces=[expanded_GD])
    if protocol.rerank != "none":
        how = RERANKINGS[protocol.rerank]
        for first, scores_BG in rerank_scores(query_QD, gallery.features, how):
            yield ranker.rank(first, scores_BG)
        return
    blocks = map_blocks(
        ranker.rank,
        query_QD,
        gallery.pieces,
        replace(similarity, name="cosine" if protocol.by_cosine else "euclidean"),
        query_norm_Q=query.norm,
        gallery_norm_G=gallery.norm,
    )
    for _, ranked in blocks:
        yield ranked


class _Ranker:
    """Turns blocks of scores into the ranks of each query's matches; threads share one."""

    def __init__(self, query: Labelled, gallery: Labelled, protocol: Protocol) -> None:
        self.query, self.gallery, self.protocol = query, gallery, protocol
        self.rows_of = _rows_by_person(gallery.person_id)
        self.junk = self.rows_of.pop(JUNK, NO_ROWS)
        self.rows_of.pop(NO_PERSON, None)
        self.ranks: list[Ranks] = [np.array([], np.int64)] * len(query)
        self.draws = SINGLE_SHOT_DRAWS if protocol.gallery_shots == "single" else 0
        self.shot_ranks = np.zeros((len(query), self.draws), np.int64)

    def rank(self, first: int, scores_BG: NDArray[np.floating[Any]]) -> int:
        """Takes the scores of consecutive queries; gives how many they are."""
        if np.isnan(scores_BG.min(initial=0)):
            raise DataError(
                f"queries {first} to {first + len(scores_BG) - 1}: a score is NaN; features must "
                "be finite, extract them again"
            )
        for row, scores_G in enumerate(scores_BG, start=first):
            matches, same_camera = self._matches(row)
            if len(matches):
                left_out = np.concatenate([self.junk, same_camera])
                self.ranks[row] = ranks_of_matches(scores_G, matches, left_out)
                if self.draws:
                    self.shot_ranks[row] = self._shots(row, scores_G, matches)
        return len(scores_BG)

    def result(self) -> tuple[QueryScores, Ranks]:
        """The scores of all queries, and the ranks that the CMC is made of."""
        scores = score_ranks(self.ranks)
        return scores, self.shot_ranks if self.draws else scores.first_rank

    def _matches(self, row: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The gallery rows that match, and those that the camera rule leaves out."""
        rows = self.rows_of.get(int(self.query.person_id[row]), NO_ROWS)
        camera = self.query.camera_id[row]
        if self.protocol.camera_rule == "none" or camera == NO_CAMERA:
            return rows, NO_ROWS
        is_same = self.gallery.camera_id[rows] == camera
        return rows[~is_same], rows[is_same]

    def _shots(
        self, row: int, scores_G: NDArray[np.floating[Any]], matches: NDArray[np.intp]
    ) -> Ranks:
        person = int(self.query.person_id[row])
        persons = self.rows_of | {person: matches}
        return single_shot_first_ranks(
            scores_G,
            list(persons.values()),
            list(persons).index(person),
            self.draws,
            # One generator for each query: the draws do not depend on who ranks it, or when.
            np.random.default_rng([self.protocol.seed, row]),
        )


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
    which says why, if the rows have no query, no gallery, or no persons.
    """
    if why := cannot_evaluate(store):
        raise DataError(f"{store.run}: not evaluated: {why}")
    query, gallery = labelled(store, QUERY), labelled(store, GALLERY)
    has_cameras = (query.camera_id != NO_CAMERA).any() and (gallery.camera_id != NO_CAMERA).any()
    protocols = protocols or side_by_side(store)
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
    """The protocols that are shown unless others are asked for."""
    names = list(SIDE_BY_SIDE)
    names += ["layumi-multi"] if len(store.manifest.rows(MULTI_QUERY)) else []
    return [PRESETS[name] for name in names]


def rankings(protocols: Sequence[Protocol]) -> int:
    """How many times the gallery is ranked: protocols that rank alike share one ranking."""
    return len(set(map(_ranking_of, protocols)))


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


def multi_query(query: Labelled, several: Labelled) -> Labelled:
    """Each query's feature replaced by the mean of the multi-query features of its person and
    camera, not normalised again, as Person_reID_baseline_pytorch does; the query's own
    feature where there are none."""
    features, others = query.features, several.features
    for row in range(len(query)):
        same = (several.person_id == query.person_id[row]) & (
            several.camera_id == query.camera_id[row]
        )
        if same.any():
            features[row] = others[same].mean(axis=0)
    return replace(query, pieces=[features])


def _ranking_of(protocol: Protocol) -> tuple[object, ...]:
    """Protocols that are equal in this share one ranking."""
    shots = (protocol.gallery_shots, protocol.seed if protocol.gallery_shots == "single" else 0)
    moved = (protocol.rerank, protocol.expand)
    junk = protocol.junk if moved != ("none", "none") else ""
    return protocol.by_cosine, protocol.camera_rule, protocol.query, shots, moved, junk


def _rows_by_person(person_id: NDArray[np.int64]) -> dict[int, NDArray[np.intp]]:
    """Person → its rows, ascending."""
    order = np.argsort(person_id, kind="stable")
    persons, starts = np.unique(person_id[order], return_index=True)
    return dict(zip(persons.tolist(), np.split(order, starts[1:]), strict=len(persons) > 0))


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
            text += " in another camera: all camera ids are equal"
        elif shared:
            text += " in another camera: every match is in the query's own"
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
