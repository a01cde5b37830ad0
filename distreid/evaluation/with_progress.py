"""A complete run scored, compared, calibrated: what that takes is said before it starts, and how
far it is meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape

from distreid.data.manifest import (
    CAMERA_NAME,
    GALLERY,
    NO_CAMERA,
    PERSON_NAME,
    QUERY,
    TRACKLET,
)
from distreid.errors import DataError, OptionError, StoreError, printable
from distreid.evaluation.by_benchmark import ask, labelled_by
from distreid.evaluation.confidence import Comparison, compare
from distreid.evaluation.evaluate import (
    NO_CAMERA_RULE,
    WANTED,
    Evaluation,
    cannot_evaluate,
    evaluate,
    labelled,
    side_by_side,
    usable_rows,
    with_own_files,
)
from distreid.evaluation.openset import Calibration, Labels, LeftOut, calibrate
from distreid.evaluation.protocol import PRESETS, Protocol
from distreid.evaluation.protocols.known import of_layout
from distreid.evaluation.protocols.rule import Benchmark
from distreid.evaluation.ranking import FILE, LabelledFeatures, Ranker
from distreid.evaluation.rerank import RERANKINGS, estimate, expansion_bytes
from distreid.host.counts import counted
from distreid.host.progress import Steps, duration
from distreid.nearest.similarity import (
    COSINE,
    Similarity,
    memory_needed,
    score_blocks,
    seconds_needed,
)
from distreid.store import FeatureStore


def evaluate_run(
    store: FeatureStore,
    log: Console,
    protocols: Sequence[Protocol | Benchmark] | None = None,
    similarity: Similarity = COSINE,
    distance_QG: NDArray[Any] | None = None,
) -> Evaluation:
    """`evaluate` with its need said before it starts, and progress on `log`."""
    if protocols is None and cannot_evaluate(store):
        return evaluate(store)  # which says why not
    if distance_QG is not None:
        return evaluate(store, protocols, similarity, distance_QG=distance_QG)
    protocols = protocols or side_by_side(store)
    if _known_by_others(store, protocols):
        known = ", ".join(each.name for each in of_layout(store.manifest))
        log.print(f"this data is known as {store.manifest.layout}, which is scored by {known}")
    sizes = {_size(store, protocol) for protocol in protocols}
    queries, rows = max(sizes, key=lambda size: size[0] * size[1])
    need = memory_needed(queries, rows, similarity)
    seconds = seconds_needed(queries, rows, store.plan.dim)
    log.print(
        f"scoring {counted(queries, 'query', 'queries')} × {counted(rows, 'image')}: about "
        f"{duration(seconds)} for each way to rank, {decimal(need)} of memory beside the features"
    )
    countings = [each.counting if isinstance(each, Benchmark) else each for each in protocols]
    draws = [
        each.draw.times if isinstance(each, Benchmark) and each.draw else 1 for each in protocols
    ]
    for name in sorted({counting.rerank for counting in countings} - {"none"}):
        reranking = estimate(queries, rows, store.plan.dim, RERANKINGS[name])
        times = max(n for n, each in zip(draws, countings, strict=True) if each.rerank == name)
        each_draw = f" for each of {times} draws" if times > 1 else ""
        log.print(
            f"re-ranking ({name}): up to {duration(reranking.seconds)} more{each_draw}, "
            f"{decimal(reranking.bytes)} of memory beside the features"
        )
    if any(counting.expand != "none" for counting in countings):
        total = queries + rows
        log.print(
            f"expansion: {decimal(expansion_bytes(total, store.plan.dim))} of memory beside the "
            "features"
        )
    with Steps(log) as steps:
        return evaluate(store, protocols, similarity, steps)


def _size(store: FeatureStore, protocol: Protocol | Benchmark) -> tuple[int, int]:
    """How many queries and gallery rows it has; none where it cannot be scored."""
    if isinstance(protocol, Benchmark):
        asked = ask(store, protocol)
        return len(asked.queries), len(asked.gallery)
    if why := cannot_evaluate(store):
        raise DataError(f"{store.run}: not evaluated: {why}; {WANTED}")
    return len(usable_rows(store, QUERY)), len(usable_rows(store, GALLERY))


def _known_by_others(store: FeatureStore, protocols: Sequence[Protocol | Benchmark]) -> bool:
    """Whether the data set has rules of its own, and none of these is one."""
    own = {each.name for each in of_layout(store.manifest)}
    return bool(own) and not any(
        isinstance(each, Benchmark) and each.name in own for each in protocols
    )


def compare_runs(
    a: FeatureStore, b: FeatureStore, protocol: Protocol | Benchmark, log: Console
) -> Comparison:
    """B − A by one protocol, paired by query; the gallery is the same too.

    What it takes is said before it starts, and how far it is, on `log`.

    StoreError, which says how they differ, unless both runs are of the same rows and left
    out the same images.
    """
    if not _same_rows(a, b):
        raise StoreError(
            f"{a.run} ({counted(len(a.manifest), 'row')} of {a.manifest.root}) and {b.run} "
            f"({counted(len(b.manifest), 'row')} of {b.manifest.root}) are not of the same images: "
            "their rows differ; compare runs of the same --data"
        )
    if len({TRACKLET in store.manifest.extra for store in (a, b)}) == 2:
        by_tracklets, by_images = (a, b) if TRACKLET in a.manifest.extra else (b, a)
        raise StoreError(
            f"{by_tracklets.run} is scored by its column tracklet, {by_images.run} has none; "
            "compare runs of the same --data"
        )
    for ours, theirs in zip(_rows(a, protocol), _rows(b, protocol), strict=True):
        if not np.array_equal(ours, theirs):
            row = np.setxor1d(ours, theirs)[0]
            raise StoreError(
                f"{a.run} and {b.run}: row {row} has features in one of them only; "
                "mend the image and extract again"
            )
    scores = []
    for name, store in (("A", a), ("B", b)):
        log.print(f"{name} {escape(printable(str(store.run)))}")
        scores.append(evaluate_run(store, log, [protocol]).scores[-1])
    if scores[0].protocol.name == NO_CAMERA_RULE:
        log.print("the camera rule leaves no match: compared without it")
    # The same persons, which may be numbered in two ways.
    values = replace(scores[1].values, person_id=scores[0].values.person_id)
    rows = usable_rows(a, QUERY) if scores[0].rows is None else scores[0].rows
    return compare(scores[0].values, values, rows)


def _rows(store: FeatureStore, protocol: Protocol | Benchmark) -> list[NDArray[np.intp]]:
    """Those who ask and those who are asked."""
    if isinstance(protocol, Benchmark):
        asked = ask(store, protocol)
        return [asked.query_images, asked.gallery_images]
    return [usable_rows(store, QUERY), usable_rows(store, GALLERY)]


def _same_rows(a: FeatureStore, b: FeatureStore) -> bool:
    """By the columns that both have: some were added by later versions. Names decide where both
    have them, and not how these are numbered."""
    if a.plan.identity["manifest"] == b.plan.identity["manifest"]:
        return True
    ours, theirs = a.manifest.columns(), b.manifest.columns()
    common = ours.keys() & theirs.keys()
    for number, name in (("person_id", PERSON_NAME), ("camera_id", CAMERA_NAME)):
        if f"extra/{name}" in common:
            # Junk and what is not known have no name.
            ours[number], theirs[number] = (np.minimum(each[number], 0) for each in (ours, theirs))
    return all(np.array_equal(ours[name], theirs[name]) for name in common)


def calibrate_run(
    store: FeatureStore, log: Console, benchmark: Benchmark | None = None
) -> Calibration:
    """Counts every query–gallery pair by its cosine, of all query and gallery rows or of those
    whom a benchmark asks, without what it leaves out; DataError if there is nothing to count. Draws
    are not made.

    Says what it takes before it starts, and how far it is, on `log`.
    """
    left_out: LeftOut | None = None
    if benchmark is not None and benchmark.frames:
        raise OptionError(
            f"--protocol {benchmark.name}: pairs of person search are not counted; leave it out"
        )
    if benchmark is not None:
        query, gallery = labelled_by(store, benchmark, ask(store, benchmark))
        if gallery.tracks is not None:
            raise OptionError(f"--protocol {benchmark.name}: nearest images are not counted")
        counting, crossing = benchmark.counting, False
        left_out = Ranker(query.labels(), gallery.labels(), counting, benchmark.leaves_out).left_out
    elif why := cannot_evaluate(store):
        raise DataError(f"{store.run}: not calibrated: {why}; {WANTED}")
    else:
        query, gallery = labelled(store, QUERY), labelled(store, GALLERY)
        crossing = _some_cross(query, gallery)
        query, gallery = with_own_files(store, query, gallery)
        if FILE in query.columns:
            counting = replace(PRESETS["fastreid"], camera_rule="none")
            left_out = Ranker(query.labels(), gallery.labels(), counting).left_out
    seconds = seconds_needed(len(query), len(gallery), store.plan.dim)
    need = 2 * memory_needed(len(query), len(gallery))  # blocks that wait to be counted
    log.print(
        f"counting {len(query):,} × {len(gallery):,} pairs: about {duration(seconds)}, "
        f"{decimal(need)} of memory beside the features"
    )
    if benchmark is None and not crossing and (query.camera_id != NO_CAMERA).any():
        log.print("no person is in two cameras: pairs of one camera count as matches too")
    with Steps(log) as steps:
        return calibrate(
            score_blocks(query.features, gallery.pieces),
            Labels(person_id=query.person_id, camera_id=query.camera_id),
            Labels(person_id=gallery.person_id, camera_id=gallery.camera_id),
            cross_camera=crossing,
            left_out=left_out,
            progress=steps,
        )


def _some_cross(query: LabelledFeatures, gallery: LabelledFeatures) -> bool:
    """Whether a query has a match in another camera than its own, which is known."""
    cameras_of: dict[int, set[int]] = {}
    for person, camera in _pairs(gallery):
        cameras_of.setdefault(person, set()).add(camera)
    return any(
        camera != NO_CAMERA and cameras_of.get(person, {camera}) - {camera}
        for person, camera in _pairs(query)
    )


def _pairs(rows: LabelledFeatures) -> list[tuple[int, int]]:
    pairs = np.unique(np.stack([rows.person_id, rows.camera_id]), axis=1)
    return [(int(person), int(camera)) for person, camera in pairs.T if person >= 0]
