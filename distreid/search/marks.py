"""Hits that somebody marked right or wrong: a file that `distreid evaluate` and `calibrate` take.

`G/labels/GENERATION.npz` holds the features of the queries and of the rows that were marked, with
numbers of persons that follow from the marks. Q queries, K rows, M marks, D dimensions.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distreid.errors import StoreError
from distreid.host.atomic_files import publish_bytes
from distreid.search.generation import Generation

NO_ROW = -1  # of a query that is no row of the gallery


@dataclass(frozen=True, kw_only=True)
class Labels:
    """All marks of a gallery."""

    query_features: NDArray[np.float32]
    """(Q, D) unit features."""
    query_row: NDArray[np.int64]
    """(Q,) which row of the gallery was searched with, or `NO_ROW`."""
    gallery_features: NDArray[np.float32]
    """(K, D) of the rows that were marked."""
    gallery_row: NDArray[np.int64]
    """(K,) their ids, ascending."""
    known_person: NDArray[np.int64]
    """(K,) who they were in the gallery when they were marked."""
    mark_query: NDArray[np.int64]
    """(M,) places of queries."""
    mark_hit: NDArray[np.int64]
    """(M,) places of rows."""
    mark_right: NDArray[np.bool_]
    """(M,) whether the row shows the query's person."""


@dataclass(frozen=True, kw_only=True)
class Marks:
    """What is said of one query's hits."""

    feature: NDArray[np.float32]
    """(D,)."""
    row: int | None
    """Of the query, where it is one of the gallery's."""
    right: Sequence[int]
    wrong: Sequence[int]
    unmarked: Sequence[int] = ()
    """Rows whose mark is taken back."""


def no_labels(dim: int) -> Labels:
    """Before the first mark."""
    ids, features = np.empty(0, np.int64), np.empty((0, dim), np.float32)
    return Labels(
        query_features=features,
        query_row=ids,
        gallery_features=features,
        gallery_row=ids,
        known_person=ids,
        mark_query=ids,
        mark_hit=ids,
        mark_right=np.empty(0, bool),
    )


def read_labels(file: Path) -> Labels:
    """From a file of `write_labels`; StoreError if it is missing or damaged."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            labels = Labels(**{name: arrays[name] for name in Labels.__annotations__})
            if len(arrays["query_ids"]) != len(labels.query_row):
                raise ValueError("of other lengths")
            return labels
    except Exception as error:  # damaged archives raise nearly anything
        raise StoreError(f"{file}: missing or damaged ({error}); restore it") from error


def write_labels(gallery: Path, generation: int, labels: Labels) -> str | None:
    """The entry of the gallery that holds them, synced; None where there is none."""
    if not len(labels.mark_right):
        return None
    query_ids, gallery_ids = persons_of(labels)
    stream = io.BytesIO()
    arrays = vars(labels) | {"query_ids": query_ids, "gallery_ids": gallery_ids}
    np.savez(stream, **arrays)
    (gallery / "labels").mkdir(exist_ok=True)
    entry = f"labels/{generation:08d}.npz"
    publish_bytes(gallery / entry, stream.getvalue())
    return entry


def marked(
    labels: Labels, marks: Marks, features: NDArray[np.float32], persons: NDArray[np.int64]
) -> Labels:
    """The labels with these marks, which replace those of the same query and row.

    `features` (n, D) and `persons` (n,) are those of `[*right, *wrong]`.
    """
    alike = labels.query_row == marks.row
    if marks.row is None:
        is_same = (labels.query_features == marks.feature).all(axis=1)
        alike = (labels.query_row == NO_ROW) & is_same
    queries, query_row = labels.query_features, labels.query_row
    query = int(np.argmax(alike)) if alike.any() else len(queries)
    if query == len(queries):
        queries = np.concatenate([queries, marks.feature[None]])
        query_row = np.append(query_row, NO_ROW if marks.row is None else marks.row)
    rows = np.array([*marks.right, *marks.wrong], np.int64)
    hits, place = np.unique(np.concatenate([labels.gallery_row, rows]), return_inverse=True)
    hit_features = np.empty((len(hits), queries.shape[1]), np.float32)
    hit_persons = np.empty(len(hits), np.int64)
    hit_features[place] = np.concatenate([labels.gallery_features, features])
    hit_persons[place] = np.concatenate([labels.known_person, persons])
    known = len(labels.gallery_row)
    again = np.concatenate([rows, np.array(marks.unmarked, np.int64)])
    stays = (labels.mark_query != query) | ~np.isin(labels.gallery_row[labels.mark_hit], again)
    is_right = np.arange(len(rows)) < len(marks.right)
    return _tidy(
        Labels(
            query_features=queries,
            query_row=query_row,
            gallery_features=hit_features,
            gallery_row=hits,
            known_person=hit_persons,
            mark_query=np.append(labels.mark_query[stays], np.full(len(rows), query)),
            mark_hit=np.append(place[:known][labels.mark_hit[stays]], place[known:]),
            mark_right=np.append(labels.mark_right[stays], is_right),
        )
    )


def labels_without(
    gallery: Path, current: Generation, following: int, rows: NDArray[np.int64]
) -> str | None:
    """The next generation's file, without the marks of these rows and the queries that are these
    rows; a query that has no mark left goes with its last one."""
    if current.labels is None:
        return None
    labels = read_labels(gallery / current.labels)
    stays = ~np.isin(labels.gallery_row[labels.mark_hit], rows)
    stays &= ~np.isin(labels.query_row[labels.mark_query], rows)
    if stays.all():
        return current.labels
    kept = Labels(
        **vars(labels)
        | {
            "mark_query": labels.mark_query[stays],
            "mark_hit": labels.mark_hit[stays],
            "mark_right": labels.mark_right[stays],
        }
    )
    return write_labels(gallery, following, _tidy(kept))


def persons_of(labels: Labels) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers (Q,) and (K,), from 1, equal where the marks say the same person.

    A right mark joins query and row. So does a person of the gallery join its rows, unless a query
    has marks of both kinds among them: then the gallery is mistaken about that person.
    """
    of_person: dict[int, list[int]] = {}
    for place, person in enumerate(labels.known_person.tolist()):
        if person > 0:
            of_person.setdefault(person, []).append(place)
    said: dict[tuple[int, int], set[bool]] = {}
    mistaken: set[int] = set()
    leads = [*range(len(labels.query_row) + len(labels.gallery_row))]

    def first(node: int) -> int:
        while leads[node] != node:
            leads[node] = leads[leads[node]]
            node = leads[node]
        return node

    count = len(labels.query_row)
    marks = zip(labels.mark_query, labels.mark_hit, labels.mark_right, strict=True)
    for query, hit, right in ((int(q), int(h), bool(r)) for q, h, r in marks):
        person = int(labels.known_person[hit])
        kinds = said.setdefault((query, person), set())
        kinds.add(right)
        if len(kinds) == 2:
            mistaken.add(person)
        if right:
            leads[first(query)] = first(count + hit)
    for person, places in of_person.items():
        for place in places[1:] if person not in mistaken else ():
            leads[first(count + place)] = first(count + places[0])
    place_of = {row: place for place, row in enumerate(labels.gallery_row.tolist())}
    for query, row in enumerate(labels.query_row.tolist()):
        if row in place_of:
            leads[first(query)] = first(count + place_of[row])
    _, numbers = np.unique([first(node) for node in range(len(leads))], return_inverse=True)
    ids = numbers.astype(np.int64) + 1
    return ids[:count], ids[count:]


def _tidy(labels: Labels) -> Labels:
    """Without queries and rows that no mark names."""
    queries, mark_query = np.unique(labels.mark_query, return_inverse=True)
    hits, mark_hit = np.unique(labels.mark_hit, return_inverse=True)
    return Labels(
        query_features=labels.query_features[queries],
        query_row=labels.query_row[queries],
        gallery_features=labels.gallery_features[hits],
        gallery_row=labels.gallery_row[hits],
        known_person=labels.known_person[hits],
        mark_query=mark_query.astype(np.int64),
        mark_hit=mark_hit.astype(np.int64),
        mark_right=labels.mark_right,
    )
