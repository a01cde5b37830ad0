"""Features with labels to the scores of each query: who is ranked, and who is left out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distreid.errors import DataError
from distreid.manifest import JUNK, NO_CAMERA, NO_PERSON
from distreid.metrics import (
    QueryScores,
    Ranks,
    ranks_of_matches,
    score_ranks,
    single_shot_first_ranks,
)
from distreid.neighbours import Progress, no_progress
from distreid.protocol import Protocol
from distreid.rerank import RERANKINGS, expand, map_reranked
from distreid.similarity import COSINE, Features, Pieces, Similarity, map_blocks

SINGLE_SHOT_DRAWS = 10  # as torchreid
RANKED_AT_ONCE = 1 << 18  # scores; 1 MiB of fp32, which the second cache of a core holds


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
        stops = np.cumsum([len(piece) for piece in self.pieces])
        parts = np.split(wanted, stops[:-1])
        return Labelled(
            pieces=[piece[part] for piece, part in zip(self.pieces, parts, strict=True)],
            norm=self.norm[wanted],
            person_id=self.person_id[wanted],
            camera_id=self.camera_id[wanted],
        )


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
    ranked = 0
    for more in _ranked_blocks(ranker, query, gallery, protocol, similarity, progress):
        ranked += more
        progress("ranking", ranked, len(query))
    return ranker.result()


def _ranked_blocks(
    ranker: _Ranker,
    query: Labelled,
    gallery: Labelled,
    protocol: Protocol,
    similarity: Similarity,
    progress: Progress,
) -> Iterator[int]:
    """Has every query ranked; gives their number block by block."""
    query_QD = query.features
    if protocol.expand == "aqe":
        query_QD, expanded_GD = expand(query_QD, gallery.pieces, progress=progress)
        gallery = replace(gallery, pieces=[expanded_GD])
    if protocol.rerank != "none":
        reranked = map_reranked(
            lambda first, distance_BG: ranker.rank(first, np.negative(distance_BG, distance_BG)),
            query_QD,
            gallery.pieces,
            RERANKINGS[protocol.rerank],
            progress=progress,
        )
        for _, ranked in reranked:
            yield ranked
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
        # The gallery's rows person by person, ascending; those of a query's are a slice.
        self.by_person = np.argsort(gallery.person_id, kind="stable")
        persons = gallery.person_id[self.by_person]
        self.first_Q = persons.searchsorted(query.person_id)
        self.count_Q = persons.searchsorted(query.person_id, side="right") - self.first_Q
        self.count_Q[(query.person_id == JUNK) | (query.person_id == NO_PERSON)] = 0
        self.junk = np.flatnonzero(gallery.person_id == JUNK)
        self.ranks: list[Ranks] = [np.array([], np.int64)] * len(query)
        self.draws = SINGLE_SHOT_DRAWS if protocol.gallery_shots == "single" else 0
        self.shot_ranks = np.zeros((len(query), self.draws), np.int64)

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

    def result(self) -> tuple[QueryScores, Ranks]:
        """The scores of all queries, and the ranks that the CMC is made of."""
        scores = score_ranks(self.ranks)
        return scores, self.shot_ranks if self.draws else scores.first_rank

    def _rank(self, first: int, scores_BG: NDArray[np.floating[Any]]) -> None:
        """A few queries, whose scores the processor's cache holds."""
        query_M, row_M = self._same_person(first, len(scores_BG))
        camera_M = self.query.camera_id[first + query_M]
        if self.protocol.camera_rule == "none":
            is_left_out = np.zeros(len(row_M), np.bool_)
        else:
            is_left_out = (self.gallery.camera_id[row_M] == camera_M) & (camera_M != NO_CAMERA)
        scores_BG[query_M[is_left_out], row_M[is_left_out]] = np.nan
        if len(self.junk):
            scores_BG[:, self.junk] = np.nan
        query_M, row_M = query_M[~is_left_out], row_M[~is_left_out]
        ranks_M = ranks_of_matches(scores_BG, query_M, row_M)
        limits = query_M.searchsorted(np.arange(len(scores_BG) + 1)).tolist()
        for query, (start, stop) in enumerate(pairwise(limits)):
            self.ranks[first + query] = ranks_M[start:stop]
            if self.draws and start < stop:
                self.shot_ranks[first + query] = self._shots(
                    first + query, scores_BG[query], row_M[start:stop]
                )

    def _same_person(self, first: int, queries: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """(M,) query, from 0 for `first`, and gallery row of each pair of one person."""
        counts = self.count_Q[first : first + queries]
        query_M = np.repeat(np.arange(queries), counts)
        starts = self.first_Q[first : first + queries] - (np.cumsum(counts) - counts)
        return query_M, self.by_person[np.repeat(starts, counts) + np.arange(len(query_M))]

    @cached_property
    def _rows_of(self) -> dict[int, NDArray[np.intp]]:
        """Person → gallery rows, ascending, of all that a ranking may hold."""
        persons, starts = np.unique(self.gallery.person_id[self.by_person], return_index=True)
        rows = np.split(self.by_person, starts[1:])
        pairs = zip(persons.tolist(), rows, strict=len(persons) > 0)
        return {person: rows for person, rows in pairs if person not in (JUNK, NO_PERSON)}

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
        )
