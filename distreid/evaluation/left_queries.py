"""What each protocol would leave of a data set's queries, by labels alone, before any feature."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from distreid.data.manifest import Manifest
from distreid.errors import DataError
from distreid.evaluation.by_benchmark import ask, labelled_by
from distreid.evaluation.conditions import OWN
from distreid.evaluation.protocols.known import BENCHMARKS, of_layout
from distreid.evaluation.protocols.rule import Benchmark, alternatives, terms
from distreid.evaluation.ranking import Ranker
from distreid.store.array_store import ArrayStore
from distreid.store.plan import Plan

GENERIC = ("cross-camera", "closed-set", "leave-one-out")
AT_ONCE = 1 << 10  # queries


@dataclass(frozen=True, kw_only=True)
class LeftQueries:
    """How many queries a protocol has, and how many of them have a match; of draws, the first."""

    protocol: str
    queries: int
    with_match: int
    gallery: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def left_queries(manifest: Manifest) -> list[LeftQueries]:
    """For the data set's own benchmarks, the generic ones, and those whose further columns are
    there; those that fit no row are left out."""
    own = {benchmark.name for benchmark in of_layout(manifest)}
    found = []
    for name, benchmark in BENCHMARKS.items():
        if benchmark.frames:  # what is right is told by the detections' places, not by labels
            continue
        if name in own or name in GENERIC or _has_its_columns(manifest, benchmark):
            found += list(_left(manifest, benchmark))
    return found


def _has_its_columns(manifest: Manifest, benchmark: Benchmark) -> bool:
    """Whether it wants columns that only some data have, and they are there."""
    wanted = {name for rule in benchmark.leaves_out for _, name in terms(rule)}
    wanted |= {part.column for part in alternatives(benchmark.asks, "asks")[0]}
    if benchmark.draw and benchmark.draw.how == "listed":
        wanted |= {benchmark.draw.listed}
        wanted |= {*benchmark.tracklets} if benchmark.query_unit == "tracklet" else set()
    special = wanted - {*OWN, *OWN.values(), "split"}
    return bool(special) and special <= manifest.extra.keys()


def _left(manifest: Manifest, benchmark: Benchmark) -> Iterator[LeftQueries]:
    """One, or none where it fits no row."""
    rows = len(manifest)
    plan = Plan(
        manifest=manifest, identity={}, provenance={}, dim=1, dtype="float32", shard_rows=rows
    )
    store = ArrayStore(
        run=manifest.root,
        plan=plan,
        norm=np.ones(rows, np.float32),
        status=np.zeros(rows, np.uint8),
        array=np.ones((rows, 1), np.float32),
    )
    try:
        asked = ask(store, benchmark)
        query, gallery = labelled_by(store, benchmark, asked)
        if asked.views:
            view = asked.views[0]
            query, gallery = query.at(view.queries), gallery.labels().at(view.rows)
        ranker = Ranker(query.labels(), gallery.labels(), benchmark.counting, benchmark.leaves_out)
    except DataError:
        return
    has_match = np.zeros(len(query), np.bool_)
    for first in range(0, len(query), AT_ONCE):
        query_M, _ = ranker.matches(first, min(AT_ONCE, len(query) - first))
        has_match[first + query_M] = True
    yield LeftQueries(
        protocol=benchmark.name,
        queries=len(query),
        with_match=int(has_match.sum()),
        gallery=len(gallery),
    )
