"""A store scored by a benchmark: its rows, its draws, its figures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distreid.data.locators import plain_paths
from distreid.data.manifest import (
    CAMERA_NAME,
    GALLERY,
    JUNK,
    NO_CAMERA,
    NO_PERSON,
    QUERY,
    TRACKLET,
    Manifest,
    Status,
)
from distreid.data.tracklet_rows import owners
from distreid.errors import DataError, OptionError
from distreid.evaluation.conditions import (
    LOCATION,
    NUMBERED,
    need_column,
    rows_where,
    texts,
)
from distreid.evaluation.draws import views_of
from distreid.evaluation.protocol import Protocol
from distreid.evaluation.protocols.rule import Benchmark, terms
from distreid.evaluation.ranking import (
    FILE,
    Found,
    LabelledFeatures,
    View,
    score_views,
)
from distreid.evaluation.tracklets import first_rows, pool
from distreid.nearest.neighbours import Progress, no_progress
from distreid.nearest.similarity import COSINE, Similarity
from distreid.store import FeatureStore

PERSON_COLUMNS = ("person", "person_id")
CAMERA_COLUMNS = ("camera", "camera_id")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Who asks and who is asked, as manifest rows; of a tracklet, its first row."""

    queries: NDArray[np.intp]
    gallery: NDArray[np.intp]
    query_images: NDArray[np.intp]
    """All rows of the queries' tracklets; the queries themselves without tracklets."""
    gallery_images: NDArray[np.intp]
    views: list[View]
    """Of each draw; none without draws."""


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """What a benchmark's queries found; of each draw, those of its view."""

    benchmark: Benchmark
    asked: Asked
    query: LabelledFeatures
    gallery: LabelledFeatures
    found: list[Found]


def ask(store: FeatureStore, benchmark: Benchmark, *, labelled: bool = True) -> Asked:
    """The rows, without features. DataError names the column that lacks, or what fits no row.
    Unless they must be `labelled`, rows of unknown persons ask too, and nothing is drawn."""
    manifest, who = store.manifest, benchmark.name
    if labelled:
        need_column(manifest, "person", who)
    columns = {name for rule in benchmark.leaves_out for _, name in terms(rule)}
    if benchmark.counting.camera_rule == "cross":
        columns |= {*benchmark.counting.columns} or {"camera"}
    for name in sorted(columns - ({LOCATION} if benchmark.places else set())):
        need_column(manifest, name, who)
    readable = store.status == Status.OK
    somebody = manifest.person_id != JUNK
    if labelled:
        somebody &= manifest.person_id != NO_PERSON
    asks = rows_where(manifest, benchmark.asks, "asks", who) & readable & somebody
    asked = rows_where(manifest, benchmark.asked, "asked", who) & readable
    for what, rows in (("asks", asks), ("is asked", asked)):
        if not rows.any():
            raise DataError(f"{store.run}: {who}: no image that could be read, of a person, {what}")
    query_images, gallery_images = np.flatnonzero(asks), np.flatnonzero(asked)
    column = tracklet_column(manifest, benchmark)
    if column is None and benchmark.gallery_unit != "image" != benchmark.query_unit:
        column = ""  # rows that are tracklets already
    if column is None and (benchmark.query_unit, benchmark.gallery_unit) != ("image", "image"):
        need_column(manifest, benchmark.tracklets[0], who)
    queries, gallery = query_images, gallery_images
    if column and benchmark.query_unit == "tracklet":
        queries = first_rows(store, query_images, column)
    if column and benchmark.gallery_unit != "image":
        gallery = first_rows(store, gallery_images, column)
    return Asked(
        queries=queries,
        gallery=gallery,
        query_images=query_images,
        gallery_images=gallery_images,
        views=views_of(manifest, benchmark, queries, gallery) if labelled else [],
    )


def tracklet_column(manifest: Manifest, benchmark: Benchmark) -> str | None:
    """The column that says which rows are one tracklet; None if there is none."""
    return next((name for name in benchmark.tracklets if name in manifest.extra), None)


def rank(
    store: FeatureStore,
    benchmark: Benchmark,
    asked: Asked,
    similarity: Similarity = COSINE,
    progress: Progress = no_progress,
    distance_QG: NDArray[Any] | None = None,
) -> Ranked:
    """Ranks by the benchmark's rule; `distance_QG` are of all query rows to all gallery rows."""
    query, gallery = labelled_by(store, benchmark, asked)
    found = score_views(
        query,
        gallery,
        effective_counting(benchmark),
        asked.views,
        leaves_out=benchmark.leaves_out,
        cmc=benchmark.cmc,
        similarity=similarity,
        progress=progress,
        distance_QG=None if distance_QG is None else _of_rows(store, benchmark, asked, distance_QG),
        wants_best=benchmark.open_set,
    )
    return Ranked(benchmark=benchmark, asked=asked, query=query, gallery=gallery, found=found)


def labelled_by(
    store: FeatureStore, benchmark: Benchmark, asked: Asked
) -> tuple[LabelledFeatures, LabelledFeatures]:
    """Queries and gallery with the columns by which the benchmark leaves out."""
    sides = (
        (benchmark.query_unit, asked.queries, asked.query_images),
        (benchmark.gallery_unit, asked.gallery, asked.gallery_images),
    )
    files = own_files(store.manifest, asked.queries, asked.gallery)
    made = []
    for (unit, rows, images), file in zip(sides, files, strict=True):
        columns = _columns(store.manifest, benchmark, rows)
        if file is not None:
            columns[FILE] = file
        made.append(_features(store, benchmark, unit, rows, images, columns))
    query, gallery = made
    if benchmark.tracklet_length == "kept" and benchmark.counting.features == "normalised":
        query = replace(query, norm=np.ones(len(query), np.float32))
    return query, gallery


def own_files(
    manifest: Manifest, queries: NDArray[np.intp], gallery: NDArray[np.intp]
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | tuple[None, None]:
    """(Q,) and (G,): what is one image has one number, if any is in both; else nothing. An image
    is told by its path, or where a side has paths twice, by its row."""
    paths = [manifest.path[rows] for rows in (queries, gallery)]
    plain = plain_paths(manifest.root, np.concatenate(paths).tolist())
    sides = np.split(np.array(plain, np.bytes_), [len(queries)])
    if any(len(np.unique(side)) < len(side) for side in sides):
        if not np.isin(queries, gallery).any():
            return None, None
        return queries.astype(np.int64), gallery.astype(np.int64)
    if not np.isin(sides[0], sides[1]).any():
        return None, None
    numbers = np.unique(np.concatenate(sides), return_inverse=True)[1].astype(np.int64)
    return numbers[: len(queries)], numbers[len(queries) :]


def _features(
    store: FeatureStore,
    benchmark: Benchmark,
    unit: str,
    rows: NDArray[np.intp],
    images: NDArray[np.intp],
    columns: dict[str, NDArray[Any]],
) -> LabelledFeatures:
    column = tracklet_column(store.manifest, benchmark)
    tracks = None
    if unit == "nearest" and column is not None:
        track = owners(store.manifest, images, column)[1]
        order = np.argsort(track, kind="stable")
        tracks = track[order]
        pieces, norm = [store.features(images)[order]], store.norm[rows]
    elif unit == "tracklet" and column is not None:
        kept = benchmark.tracklet_length == "kept" and benchmark.counting.features == "normalised"
        features, norm = pool(store, images, column, raw=not kept)
        pieces = [features]
    else:
        pieces, norm = store.pieces(rows), store.norm[rows]
    return LabelledFeatures(
        pieces=pieces,
        norm=norm,
        person_id=store.manifest.person_id[rows],
        camera_id=store.manifest.camera_id[rows],
        columns=columns,
        tracks=tracks,
    )


def _columns(
    manifest: Manifest, benchmark: Benchmark, rows: NDArray[np.intp]
) -> dict[str, NDArray[Any]]:
    names = {name for rule in benchmark.leaves_out for _, name in terms(rule)}
    names |= {*benchmark.counting.columns}
    columns: dict[str, NDArray[Any]] = {}
    for name in names - {*PERSON_COLUMNS, *CAMERA_COLUMNS}:
        if name == LOCATION and benchmark.places:
            columns[name] = _locations(manifest, dict(benchmark.places))[rows]
        else:
            columns[name] = texts(manifest, name)[rows]
    return columns


def _locations(manifest: Manifest, shared: dict[str, str]) -> NDArray[np.bytes_]:
    """(N,) the camera, or the one whose location it shares."""
    cameras, which = np.unique(manifest.camera_id, return_inverse=True)
    named = _as_places_name(manifest, shared)
    said = [shared.get(named[camera], named[camera]) for camera in cameras.tolist()]
    return np.array([text.encode() for text in said])[which]


def _as_places_name(manifest: Manifest, shared: dict[str, str]) -> dict[int, str]:
    """Camera → its name as `places` writes it, which may be its number alone, 3 for cam3; else its
    own; empty where it is not known."""
    written, own = {*shared, *shared.values()}, manifest.names(CAMERA_NAME)
    found = {}
    for camera in np.unique(manifest.camera_id).tolist():
        text = own.get(camera, str(camera))
        number = NUMBERED.fullmatch(text)
        as_number = str(int(number[1])) if number else text
        found[camera] = as_number if text not in written and as_number in written else text
        if camera == NO_CAMERA:
            found[camera] = ""
    return found


def notes_on(manifest: Manifest, benchmark: Benchmark) -> list[str]:
    """What a benchmark speaks of and the data has not, and what was guessed."""
    notes = []
    shared = dict(benchmark.places)
    named = {*_as_places_name(manifest, shared).values()} if shared else set()
    if absent := sorted({*shared, *shared.values()} - named):
        notes.append(f"{benchmark.name}: places: no row is of camera {', '.join(absent)}")
    units = (benchmark.query_unit, benchmark.gallery_unit)
    if "image" not in units and tracklet_column(manifest, benchmark) is None:
        wanted = " or ".join(benchmark.tracklets)
        notes.append(f"{benchmark.name}: no column {wanted}: each row is taken for a tracklet")
    return notes


def effective_counting(benchmark: Benchmark) -> Protocol:
    """As it is ranked: means that keep their length, by Euclidean distance."""
    counting = benchmark.counting
    if benchmark.tracklet_length == "kept" and counting.distance != "given":
        return replace(counting, distance="sqeuclidean", features="raw")
    return counting


def refuse_distances_of_tracklets(manifest: Manifest) -> None:
    """OptionError where several rows are one tracklet: a matrix has the distances of rows."""
    names = manifest.extra.get(TRACKLET, np.zeros(0, "S1"))
    named = names[names != b""]
    if len(np.unique(named)) < len(named):
        raise OptionError(
            "--distance-matrix: its rows are images, and by the column tracklet several are one; "
            "give distances of tracklets with a row for each, or leave the column out"
        )


def _of_rows(
    store: FeatureStore, benchmark: Benchmark, asked: Asked, distance_QG: NDArray[Any]
) -> NDArray[Any]:
    """The part of a matrix of query × gallery rows that a benchmark asks for."""
    if "tracklet" in (benchmark.query_unit, benchmark.gallery_unit):
        refuse_distances_of_tracklets(store.manifest)
    for axis, (split, rows) in enumerate(((QUERY, asked.queries), (GALLERY, asked.gallery))):
        there = store.manifest.rows(split)
        if not np.isin(rows, there).all():
            raise OptionError(
                "--distance-matrix: its rows are those of query and gallery, and this protocol "
                "asks others; leave out --protocol, or --distance-matrix"
            )
        place = np.searchsorted(there, rows)
        if len(place) < distance_QG.shape[axis]:
            distance_QG = distance_QG.take(place, axis)
    return distance_QG
