"""Features with labels to the scores of each query: who is ranked, and who is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from distreid.data.manifest import JUNK, NO_PERSON
from distreid.errors import DataError, OptionError
from distreid.evaluation.metrics import (
    QueryScores,
    Ranks,
    ranks_of_matches,
    score_ranks,
    single_shot_first_ranks,
)
from distreid.evaluation.protocol import Protocol
from distreid.evaluation.protocols.rule import terms
from distreid.evaluation.rerank import RERANKINGS, expand, map_reranked
from distreid.nearest.neighbours import Progress, no_progress
from distreid.nearest.similarity import COSINE, Features, Pieces, Similarity, map_blocks

T = TypeVar("T")
SINGLE_SHOT_DRAWS = 10  # as torchreid
PERSONS, ONE_OF_EACH = "persons", "one of each person"  # of `Benchmark.cmc`
FILE = "file"  # the column by which a query does not find itself
UNKNOWN = -1  # no camera, no value
ALONE = min(JUNK, NO_PERSON) - 1  # from here down: persons of whom there is one row
GIVEN_AT_ONCE = 1 << 24  # distances of a matrix
RANKED_AT_ONCE = 1 << 18  # scores; 1 MiB of fp32, which the second cache of a core holds


@dataclass(frozen=True, kw_only=True)
class LabelledFeatures:
    """Features with who and where; N rows."""

    pieces: Pieces
    """(N, D) in consecutive pieces, L2-normalised."""
    norm: Features
    """(N,) the norms before."""
    person_id: NDArray[np.int64]
    camera_id: NDArray[np.int64]
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)
    """Further ones (N,), of which `Protocol.exclude_same` and `Benchmark.leaves_out` speak: texts,
    or numbers from 0; empty and below 0 are not known."""
    tracks: NDArray[np.intp] | None = None
    """Where a row is a track that ranks by its nearest feature: of each feature of `pieces`, its
    row, ascending."""

    def __len__(self) -> int:
        return len(self.person_id)

    @property
    def features(self) -> Features:
        """(N, D) float32 in one array."""
        return np.concatenate([np.asarray(piece, np.float32) for piece in self.pieces])

    def only(self, wanted: NDArray[np.bool_]) -> LabelledFeatures:
        """The rows wanted, (N,) bool; all of them without a copy."""
        if wanted.all():
            return self
        with_features = wanted if self.tracks is None else wanted[self.tracks]
        stops = np.cumsum([len(piece) for piece in self.pieces])
        parts = np.split(with_features, stops[:-1]) if self.pieces else []
        place = np.cumsum(wanted) - 1
        return LabelledFeatures(
            pieces=[piece[part] for piece, part in zip(self.pieces, parts, strict=True)],
            norm=self.norm[wanted],
            person_id=self.person_id[wanted],
            camera_id=self.camera_id[wanted],
            columns={name: column[wanted] for name, column in self.columns.items()},
            tracks=None if self.tracks is None else place[self.tracks[with_features]],
        )

    def at(self, rows: NDArray[np.intp]) -> LabelledFeatures:
        """The rows of these places, ascending."""
        wanted = np.zeros(len(self), np.bool_)
        wanted[rows] = True
        return self.only(wanted)

    def labels(self) -> LabelledFeatures:
        """The same without features."""
        return replace(self, pieces=[], tracks=None)


def multi_query(
    query: LabelledFeatures, several: LabelledFeatures, protocol: Protocol
) -> LabelledFeatures:
    """Each query's feature replaced by the mean of the multi-query features of its person and
    camera; the query's own feature where there are none.

    The mean is of normalised features and is not normalised again, as in
    Person_reID_baseline_pytorch; by `features="raw"` it is of features as the model gives them.
    Re-ranking and expansion, which want normalised features, have it normalised.
    """
    features, others = query.features, several.features
    if not protocol.by_cosine:
        features, others = features * query.norm[:, None], others * several.norm[:, None]
    for row in range(len(query)):
        same = (several.person_id == query.person_id[row]) & (
            several.camera_id == query.camera_id[row]
        )
        if same.any():
            features[row] = others[same].mean(axis=0)
    if protocol.by_cosine and (protocol.rerank, protocol.expand) == ("none", "none"):
        return replace(query, pieces=[features])
    norm = np.linalg.norm(features, axis=1)
    features /= np.maximum(norm, np.finfo(np.float32).tiny)[:, None]
    return replace(query, pieces=[features], norm=norm)


def codes(
    query: LabelledFeatures, gallery: LabelledFeatures, names: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(Q,) and (G,): rows that are equal in all of these columns have one number; `UNKNOWN`, where
    one of them is not known, is like no other. DataError for a column that there is not."""
    code = np.zeros(len(query) + len(gallery), np.int64)
    known = np.ones(len(code), np.bool_)
    for name in names:
        values = _column(query, gallery, name)
        known &= (values >= 0) if values.dtype.kind == "i" else (values != b"")
        each = np.unique(values, return_inverse=True)[1]
        code = np.unique(code * (each.max(initial=0) + 1) + each, return_inverse=True)[1]
    code = np.where(known, code, UNKNOWN).astype(np.int64)
    return code[: len(query)], code[len(query) :]


def places(
    query: LabelledFeatures, gallery: LabelledFeatures, protocol: Protocol
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(Q,) and (G,): a gallery row of the query's person and place is left out. A place is the
    camera, or what `exclude_same` names; `UNKNOWN`, where one of these is not known, is like no
    other. DataError for a column that there is not.
    """
    if protocol.camera_rule == "none":
        return (np.full(len(query), UNKNOWN), np.full(len(gallery), UNKNOWN))
    if not protocol.columns:
        return query.camera_id, gallery.camera_id
    return codes(query, gallery, protocol.columns)


def _column(query: LabelledFeatures, gallery: LabelledFeatures, name: str) -> NDArray[Any]:
    if name in ("camera", "camera_id"):
        return np.concatenate([query.camera_id, gallery.camera_id])
    if name in ("person", "person_id"):
        return np.concatenate([query.person_id, gallery.person_id])
    if name not in query.columns or name not in gallery.columns:
        there = ", ".join(["camera", *query.columns])
        raise DataError(f"no column {name}, by which rows are left out; there are {there}")
    return np.concatenate([query.columns[name], gallery.columns[name]])


@dataclass(frozen=True, kw_only=True)
class View:
    """Who asks and who is asked in one draw: places among the queries and in the gallery,
    ascending."""

    queries: NDArray[np.intp]
    rows: NDArray[np.intp]


@dataclass(frozen=True, kw_only=True)
class Found:
    """What Q queries found."""

    scores: QueryScores
    first_ranks: Ranks
    """(Q,), or (Q, draws) on single-shot galleries, of which the CMC is made; 0 for no match."""
    best_Q: NDArray[np.float64]
    """The best score, whoever it is of; -inf unless it was asked for."""
    own_Q: NDArray[np.float64]
    """The best score of a match; -inf where there is none, or unless it was asked for."""


@dataclass(frozen=True, kw_only=True)
class _Rule:
    """What a query does not find: rows equal to it in some columns, and not in others."""

    of_person: bool
    """Only rows of the query's person."""
    same: tuple[NDArray[np.int64], NDArray[np.int64]]
    others: tuple[tuple[NDArray[np.int64], NDArray[np.int64]], ...]

    def holds(self, query_M: NDArray[np.intp], row_M: NDArray[np.intp]) -> NDArray[np.bool_]:
        """(M,) whether it leaves out each of these pairs."""
        same_M = self.same[0][query_M]
        held: NDArray[np.bool_] = (same_M == self.same[1][row_M]) & (same_M != UNKNOWN)
        for code_Q, code_G in self.others:
            other_M, its_M = code_Q[query_M], code_G[row_M]
            held &= (other_M != its_M) & (other_M != UNKNOWN) & (its_M != UNKNOWN)
        return held


def _rules(
    query: LabelledFeatures, gallery: LabelledFeatures, protocol: Protocol, more: Sequence[str]
) -> list[_Rule]:
    rules = [_Rule(of_person=True, same=places(query, gallery, protocol), others=())]
    if FILE in query.columns:
        own = codes(query, gallery, [FILE])
        rules.append(_Rule(of_person=False, same=own, others=()))
    for text in more:
        parts = terms(text)
        same = [name for how, name in parts if how == "same"]
        plain = [name for name in same if name not in ("person", "person_id")]
        rules.append(
            _Rule(
                of_person=len(plain) < len(same),
                same=codes(query, gallery, plain),
                others=tuple(codes(query, gallery, [n]) for how, n in parts if how == "other"),
            )
        )
    return rules


class _Pairs:
    """The pairs of a query and a gallery row that have one code."""

    def __init__(self, code_Q: NDArray[np.int64], code_G: NDArray[np.int64]) -> None:
        self.order = np.argsort(code_G, kind="stable")
        codes = code_G[self.order]
        self.first_Q = codes.searchsorted(code_Q)
        self.count_Q = codes.searchsorted(code_Q, side="right") - self.first_Q
        self.count_Q[code_Q < 0] = 0

    def of(self, first: int, queries: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """(M,) query, from 0 for `first`, and gallery row of each pair."""
        counts = self.count_Q[first : first + queries]
        query_M = np.repeat(np.arange(queries), counts)
        starts = self.first_Q[first : first + queries] - (np.cumsum(counts) - counts)
        return query_M, self.order[np.repeat(starts, counts) + np.arange(len(query_M))]


def score_queries(
    query: LabelledFeatures,
    gallery: LabelledFeatures,
    protocol: Protocol,
    similarity: Similarity = COSINE,
    progress: Progress = no_progress,
    distance_QG: NDArray[Any] | None = None,
) -> tuple[QueryScores, Ranks]:
    """Ranks the gallery for each query; gives its scores, and its first rank or ranks.

    By the features, or by `distance_QG` where the protocol says that distances are given.

    Left out of a ranking: junk, the query's own file (column `FILE`), and by the camera rule
    `cross` the rows of the query's own person and camera, or by `exclude_same` what is equal in
    other columns (`places`). An unknown person is no match, and nobody else's image either: where
    each person counts once, each row of an unknown person does.
    The ranks are (Q,), or (Q, draws) on single-shot galleries; 0 where there is no match.
    """
    found = score_views(
        query,
        gallery,
        protocol,
        similarity=similarity,
        progress=progress,
        distance_QG=distance_QG,
    )[0]
    return found.scores, found.first_ranks


def score_views(
    query: LabelledFeatures,
    gallery: LabelledFeatures,
    protocol: Protocol,
    views: Sequence[View] = (),
    *,
    leaves_out: Sequence[str] = (),
    cmc: str = "images",
    similarity: Similarity = COSINE,
    progress: Progress = no_progress,
    distance_QG: NDArray[Any] | None = None,
    wants_best: bool = False,
) -> list[Found]:
    """`score_queries` of several draws from one matrix product: what the queries of each view
    found. Without views, all queries in all of the gallery.

    `leaves_out` and `cmc` are as in `Benchmark`. Re-ranking and expansion look at one gallery at a
    time, so they take as long as there are views.
    """
    moved = (protocol.rerank, protocol.expand) != ("none", "none")
    if moved and gallery.tracks is not None:
        raise OptionError("--rerank and --expand: not where a track ranks by its nearest image")
    if moved and views:
        return [
            score_views(
                query.at(view.queries),
                gallery.at(view.rows),
                protocol,
                leaves_out=leaves_out,
                cmc=cmc,
                similarity=similarity,
                progress=progress,
                wants_best=wants_best,
            )[0]
            for view in views
        ]
    if moved and protocol.junk == "dropped":
        gallery = gallery.only(gallery.person_id != JUNK)
    seen = views or [View(queries=np.arange(len(query)), rows=np.arange(len(gallery)))]
    rankers = [
        Ranker(
            query.labels().at(view.queries),
            gallery.labels().at(view.rows),
            protocol,
            leaves_out,
            cmc,
            wants_best,
        )
        for view in seen
    ]

    def rank(first: int, scores_BG: NDArray[np.floating[Any]]) -> int:
        scores_BG = by_track(gallery, scores_BG)
        if not views:
            return rankers[0].rank(first, scores_BG)
        for view, ranker in zip(views, rankers, strict=True):
            start, stop = view.queries.searchsorted([first, first + len(scores_BG)])
            if start < stop:
                own = np.ix_(view.queries[start:stop] - first, view.rows)
                ranker.rank(int(start), scores_BG[own])
        return len(scores_BG)

    ranked = 0
    if protocol.distance == "given":
        if distance_QG is None:
            raise OptionError("--distance given: give --distance-matrix FILE")
        blocks = _given_blocks(rank, distance_QG)
    else:
        in_order = cmc == ONE_OF_EACH
        blocks = _ranked_blocks(rank, query, gallery, protocol, similarity, progress, in_order)
    for more in blocks:
        ranked += more
        progress("ranking", ranked, len(query))
    return [ranker.result() for ranker in rankers]


def first_kept(scores_G: NDArray[np.floating[Any]], k: int) -> NDArray[np.intp]:
    """The places of a query's k greatest scores, ties in order; NaN is what is left out."""
    kept = np.flatnonzero(~np.isnan(scores_G))
    if 0 < k < len(kept):
        least = np.partition(scores_G[kept], len(kept) - k)[len(kept) - k]
        kept = kept[scores_G[kept] >= least]
    return kept[np.argsort(-scores_G[kept], kind="stable")][:k]


def by_track(
    gallery: LabelledFeatures, scores_BG: NDArray[np.floating[Any]]
) -> NDArray[np.floating[Any]]:
    """Scores of the gallery's rows, where a row is a track that ranks by its nearest feature."""
    if gallery.tracks is None:
        return scores_BG
    starts = np.flatnonzero(np.diff(gallery.tracks, prepend=-1))
    best: NDArray[np.floating[Any]] = np.maximum.reduceat(scores_BG, starts, axis=1)
    return best


Rank = Callable[[int, NDArray[np.floating[Any]]], int]
"""Ranks consecutive queries by their scores, which it may overwrite; gives how many they are."""


def _given_blocks(rank: Rank, distance_QG: NDArray[Any]) -> Iterator[int]:
    """Ranks by distances, a block of the matrix at a time; gives how many queries each has."""
    at_once = max(1, GIVEN_AT_ONCE // max(1, distance_QG.shape[1]))
    for first in range(0, len(distance_QG), at_once):
        block = np.asarray(distance_QG[first : first + at_once])
        # Of whole numbers and half floats, a type that holds them and has a NaN.
        yield rank(first, -block.astype(np.result_type(block.dtype, np.float32)))


def _ranked_blocks(
    rank: Rank,
    query: LabelledFeatures,
    gallery: LabelledFeatures,
    protocol: Protocol,
    similarity: Similarity,
    progress: Progress,
    in_order: bool,
) -> Iterator[int]:
    """Has every query ranked; gives their number block by block. `in_order`: one after another,
    not by the threads that computed them."""
    if in_order:
        blocks = scored_blocks(
            lambda first, scores_BG: scores_BG.copy(),
            query,
            gallery,
            protocol,
            similarity,
            progress,
        )
        yield from (rank(first, scores_BG) for first, scores_BG in blocks)
    else:
        ranked = scored_blocks(rank, query, gallery, protocol, similarity, progress)
        yield from (count for _, count in ranked)


def scored_blocks(
    work: Callable[[int, NDArray[np.floating[Any]]], T],
    query: LabelledFeatures,
    gallery: LabelledFeatures,
    protocol: Protocol,
    similarity: Similarity = COSINE,
    progress: Progress = no_progress,
) -> Iterator[tuple[int, T]]:
    """(first query, work(first query, scores (B, G))) of consecutive queries, in order, by the
    protocol's distance, re-ranked and expanded where it says so. The work may overwrite the scores,
    and is done by several threads."""
    query_QD = query.features
    if protocol.expand == "aqe":
        query_QD, expanded_GD = expand(
            query_QD, gallery.pieces, progress=progress, device=similarity.device
        )
        gallery = replace(gallery, pieces=[expanded_GD])
    if protocol.rerank != "none":
        return map_reranked(
            lambda first, distance_BG: work(first, np.negative(distance_BG, distance_BG)),
            query_QD,
            gallery.pieces,
            RERANKINGS[protocol.rerank],
            progress=progress,
            device=similarity.device,
        )
    return map_blocks(
        work,
        query_QD,
        gallery.pieces,
        replace(similarity, name="cosine" if protocol.by_cosine else "euclidean"),
        query_norm_Q=query.norm,
        gallery_norm_G=gallery.norm,
    )


class Ranker:
    """Turns blocks of scores into the ranks of each query's matches; threads share one."""

    def __init__(
        self,
        query: LabelledFeatures,
        gallery: LabelledFeatures,
        protocol: Protocol,
        leaves_out: Sequence[str] = (),
        cmc: str = "images",
        wants_best: bool = False,
    ) -> None:
        self.query, self.gallery, self.protocol, self.cmc = query, gallery, protocol, cmc
        rules = _rules(query, gallery, protocol, leaves_out)
        self.of_person = [rule for rule in rules if rule.of_person]
        self.of_anyone = [(rule, _Pairs(*rule.same)) for rule in rules if not rule.of_person]
        person_Q = np.where(query.person_id < 0, UNKNOWN, query.person_id)
        # Each unknown row is somebody else.
        own = ALONE - np.arange(len(gallery))
        self.person_G = np.where(gallery.person_id == NO_PERSON, own, gallery.person_id)
        self.persons = _Pairs(person_Q, self.person_G)
        self.junk, self.alone = (
            np.flatnonzero(gallery.person_id == nobody) for nobody in (JUNK, NO_PERSON)
        )
        self.ranks: list[Ranks] = [np.array([], np.int64)] * len(query)
        one_of_each = protocol.gallery_shots == "single" or cmc == ONE_OF_EACH
        self.draws = SINGLE_SHOT_DRAWS if one_of_each else 0
        self.shot_ranks = np.zeros((len(query), self.draws), np.int64)
        self.person_ranks = np.zeros(len(query), np.int64)
        self.wants_best = wants_best
        self.best_Q, self.own_Q = np.full((2, len(query)), -np.inf)
        self.random = np.random.RandomState(protocol.seed)  # its numbers never change

    def rank(self, first: int, scores_BG: NDArray[np.floating[Any]]) -> int:
        """Takes the scores of consecutive queries, to overwrite; gives how many they are."""
        # One feature that is not finite spoils its whole row or column.
        if not (np.isfinite(scores_BG[0]).all() and np.isfinite(scores_BG[:, :1]).all()):
            raise DataError(
                f"queries {first} to {first + len(scores_BG) - 1}: a score is not finite; features "
                "must be, extract them again"
            )
        queries, rows = len(scores_BG), len(self.gallery)
        at_once = max(1, RANKED_AT_ONCE // max(1, rows))
        for start in range(0, queries, at_once):
            self._rank(first + start, scores_BG[start : start + at_once])
        return queries

    def result(self) -> Found:
        """What all queries found."""
        scores = score_ranks(self.ranks)
        ranks = self.person_ranks if self.cmc == PERSONS else scores.first_rank
        if self.draws:
            ranks = self.shot_ranks
        return Found(scores=scores, first_ranks=ranks, best_Q=self.best_Q, own_Q=self.own_Q)

    def matches(self, first: int, queries: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The query, from 0 for `first`, and the gallery row of each (M,) match that is not left
        out."""
        query_M, row_M = self.persons.of(first, queries)
        is_left_out = np.zeros(len(query_M), np.bool_)
        for rule in (*self.of_person, *(rule for rule, _ in self.of_anyone)):
            is_left_out |= rule.holds(first + query_M, row_M)
        return query_M[~is_left_out], row_M[~is_left_out]

    def leave_out(
        self, first: int, scores_BG: NDArray[np.floating[Any]]
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """NaN in place of what each query does not find; gives the query, from 0 for `first`, and
        the gallery row of each (M,) match that is left."""
        query_M, row_M = self.persons.of(first, len(scores_BG))
        is_left_out = np.zeros(len(query_M), np.bool_)
        for rule in self.of_person:
            is_left_out |= rule.holds(first + query_M, row_M)
        scores_BG[query_M[is_left_out], row_M[is_left_out]] = np.nan
        if len(self.junk):
            scores_BG[:, self.junk] = np.nan
        for rule, pairs in self.of_anyone:
            query_P, row_P = pairs.of(first, len(scores_BG))
            held = rule.holds(first + query_P, row_P)
            scores_BG[query_P[held], row_P[held]] = np.nan
        if self.of_anyone:
            is_left_out = np.isnan(scores_BG[query_M, row_M])
        return query_M[~is_left_out], row_M[~is_left_out]

    def left_out(self, first: int, queries: int) -> NDArray[np.bool_]:
        """(B, G) what each of some queries does not find."""
        nothing_BG = np.zeros((queries, len(self.gallery)), np.float32)
        self.leave_out(first, nothing_BG)
        return np.isnan(nothing_BG)

    def _rank(self, first: int, scores_BG: NDArray[np.floating[Any]]) -> None:
        """A few queries, whose scores the processor's cache holds."""
        query_M, row_M = self.leave_out(first, scores_BG)
        if self.wants_best:
            block = slice(first, first + len(scores_BG))
            np.fmax.reduce(scores_BG, axis=1, initial=-np.inf, out=self.best_Q[block])
            np.maximum.at(self.own_Q, first + query_M, scores_BG[query_M, row_M])
        ranks_M = ranks_of_matches(scores_BG, query_M, row_M)
        if self.cmc == PERSONS:
            self._rank_persons(first, scores_BG, np.unique(query_M))
        limits = query_M.searchsorted(np.arange(len(scores_BG) + 1)).tolist()
        for query, (start, stop) in enumerate(pairwise(limits)):
            self.ranks[first + query] = ranks_M[start:stop]
            if start == stop:
                continue
            if self.draws:
                shots = self._torchreid_shots if self.cmc == ONE_OF_EACH else self._shots
                self.shot_ranks[first + query] = shots(
                    first + query, scores_BG[query], row_M[start:stop]
                )

    def _rank_persons(
        self, first: int, scores_BG: NDArray[np.floating[Any]], queries: NDArray[np.intp]
    ) -> None:
        """The rank of the person of each of these queries, which have a match, where each person
        has the best of its rows; of two whose best are equal, that of the smaller row first."""
        if not len(queries):
            return
        scores_QG = np.where(np.isnan(scores_BG[queries]), -np.inf, scores_BG[queries])
        person_G = self.person_G[self.persons.order]
        starts = np.flatnonzero(np.diff(person_G, prepend=person_G[0] - 1))
        best_QP = np.maximum.reduceat(scores_QG[:, self.persons.order], starts, axis=1)
        person_Q = self.query.person_id[first + queries]
        own = person_G[starts].searchsorted(person_Q)
        own_Q1 = best_QP[np.arange(len(queries)), own][:, None]
        ranks_Q = 1 + (best_QP > own_Q1).sum(axis=1)
        for place in np.flatnonzero((best_QP == own_Q1).sum(axis=1) > 1):
            equal_R = np.flatnonzero(scores_QG[place] == own_Q1[place])
            persons, first_R = np.unique(self.person_G[equal_R], return_index=True)
            is_best = best_QP[place, person_G[starts].searchsorted(persons)] == own_Q1[place]
            mine = first_R[persons == person_Q[place]]
            ranks_Q[place] += (first_R[is_best] < mine).sum()
        self.person_ranks[first + queries] = ranks_Q

    def _torchreid_shots(
        self, row: int, scores_G: NDArray[np.floating[Any]], matches: NDArray[np.intp]
    ) -> Ranks:
        """(draws,) as torchreid's eval_cuhk03 draws: of each person, in the order in which they
        come in the ranking, one row, by one generator for all queries."""
        kept = np.flatnonzero(~np.isnan(scores_G))
        person_R = self.person_G[kept[np.argsort(-scores_G[kept], kind="stable")]]
        persons, first_P, which_R, count_P = np.unique(
            person_R, return_index=True, return_inverse=True, return_counts=True
        )
        order = np.argsort(first_P)
        count_P = count_P[order]
        starts = np.cumsum(count_P) - count_P
        place_R = np.argsort(np.argsort(order)[which_R], kind="stable")  # person by person
        # One call gives the numbers that a call for each person and draw would.
        picks = self.random.randint(0, np.tile(count_P, self.draws)).reshape(self.draws, -1)
        chosen = place_R[starts + picks]
        own = chosen[:, persons[order] == self.query.person_id[row]]
        ranks: Ranks = 1 + (chosen < own).sum(axis=1)
        return ranks

    @cached_property
    def _rows_of(self) -> dict[int, NDArray[np.intp]]:
        """Known person → gallery rows, ascending."""
        known = self.persons.order[self.person_G[self.persons.order] >= 0]
        persons, starts = np.unique(self.person_G[known], return_index=True)
        rows = np.split(known, starts[1:])
        return dict(zip(persons.tolist(), rows, strict=len(persons) > 0))

    def _shots(
        self, row: int, scores_G: NDArray[np.floating[Any]], matches: NDArray[np.intp]
    ) -> Ranks:
        person = int(self.query.person_id[row])
        persons = self._rows_of | {person: matches}
        return single_shot_first_ranks(
            scores_G,
            list(persons.values()),
            list(persons).index(person),
            self.draws,
            # One generator for each query: the draws do not depend on who ranks it, or when.
            np.random.default_rng([self.protocol.seed, row]),
            self.alone,
        )
