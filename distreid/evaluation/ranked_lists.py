"""What each query finds, best first: a list for each, with labels or without."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distreid.data.manifest import CAMERA_NAME, JUNK, NO_CAMERA, TRACKLET
from distreid.errors import DataError, OptionError
from distreid.evaluation.by_benchmark import ask, effective_counting, labelled_by
from distreid.evaluation.protocol import Protocol
from distreid.evaluation.protocols.rule import Benchmark
from distreid.evaluation.ranking import Ranker, by_track, first_kept, scored_blocks
from distreid.nearest.neighbours import Progress, no_progress
from distreid.nearest.similarity import COSINE, Similarity
from distreid.store import FeatureStore


@dataclass(frozen=True, kw_only=True)
class RankedList:
    """What one query finds."""

    query: int
    """Its manifest row."""
    rows: NDArray[np.intp]
    """(K,) manifest rows, best first, ties by row; fewer where fewer are left."""
    scores: NDArray[np.floating[Any]]
    """(K,) the greater, the more alike."""


@dataclass(frozen=True, kw_only=True)
class Rankings:
    """The lists of all queries, made as they are asked for."""

    queries: int
    gallery: NDArray[np.intp]
    """The manifest rows that may be found, ascending."""
    lists: Iterator[RankedList]
    """In the order of the manifest."""


def rankings(
    store: FeatureStore,
    protocol: Protocol | Benchmark,
    top: int,
    similarity: Similarity = COSINE,
    progress: Progress = no_progress,
) -> Rankings:
    """The first `top` of each query's ranking, by a protocol's distance and what it leaves out.

    A benchmark's draws are not made: the whole of what is asked is ranked. Without labels nothing
    is left out but the query's own file. DataError if there is no query or no gallery.
    """
    if top < 1:
        raise OptionError(f"--top must be at least 1, got {top}")
    counting = protocol.counting if isinstance(protocol, Benchmark) else protocol
    if counting.query == "multi":
        raise OptionError("--query multi: lists are of single queries")
    benchmark = protocol if isinstance(protocol, Benchmark) else _of_all(store, protocol)
    if benchmark.frames:
        raise OptionError(f"--protocol {benchmark.name}: of person search there are no lists")
    asked = ask(store, benchmark, labelled=False)
    query, gallery = labelled_by(store, benchmark, asked)
    counting = effective_counting(benchmark)
    rows = asked.gallery
    moved = (counting.rerank, counting.expand) != ("none", "none")
    if moved and counting.junk == "dropped":
        rows = rows[gallery.person_id != JUNK]
        gallery = gallery.only(gallery.person_id != JUNK)
    ranker = Ranker(query.labels(), gallery.labels(), counting, benchmark.leaves_out)
    if counting.rerank != "none" and gallery.tracks is not None:
        raise OptionError("--rerank: not where a track ranks by its nearest image")

    def best(first: int, scores_BG: NDArray[np.floating[Any]]) -> list[RankedList]:
        if not (np.isfinite(scores_BG[0]).all() and np.isfinite(scores_BG[:, :1]).all()):
            raise DataError(f"query {first}: a score is not finite; extract the features again")
        scores_BG = by_track(gallery, scores_BG)
        ranker.leave_out(first, scores_BG)
        found = []
        for place, scores_G in enumerate(scores_BG, first):
            order = first_kept(scores_G, top)
            row = int(asked.queries[place])
            found.append(RankedList(query=row, rows=rows[order], scores=scores_G[order].copy()))
        return found

    def lists() -> Iterator[RankedList]:
        blocks = scored_blocks(best, query, gallery, counting, similarity, progress)
        for first, found in blocks:
            yield from found
            progress("ranking", first + len(found), len(query))

    return Rankings(queries=len(asked.queries), gallery=rows, lists=lists())


def _of_all(store: FeatureStore, protocol: Protocol) -> Benchmark:
    """All query rows in all gallery rows."""
    manifest = store.manifest
    has_cameras = (manifest.camera_id != NO_CAMERA).any() or CAMERA_NAME in manifest.extra
    if not has_cameras and not protocol.exclude_same:
        protocol = replace(protocol, camera_rule="none")
    unit = "tracklet" if TRACKLET in manifest.extra else "image"
    return Benchmark(name="all", query_unit=unit, gallery_unit=unit, counting=protocol)
