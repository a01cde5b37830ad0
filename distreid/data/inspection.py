"""A dry run over a manifest: what would hurt a score, found before a feature is computed."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distreid.data.archives import read_member, stored_size
from distreid.data.layouts import LAYOUTS
from distreid.data.locators import locate
from distreid.data.manifest import (
    CAMERA_NAME,
    GALLERY,
    NO_CAMERA,
    NO_PERSON,
    PERSON_NAME,
    QUERY,
    TRACKLET,
    Integers,
    Manifest,
)
from distreid.data.mat_images import in_mat
from distreid.data.summary import counts, describe, different_counts, known_persons
from distreid.data.tracklet_rows import check_tracklets, owners
from distreid.errors import DataError, ImageError
from distreid.host.counts import counted

SHOWN = 3
READ_LIMIT = 1 << 30  # bytes of an archive's member


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What a dry run found, as rows of the manifest."""

    manifest: Manifest
    missing: list[int]
    """Rows whose file is not there."""
    duplicates: list[tuple[int, int]]
    """Query rows, each with the first gallery row of the same bytes."""
    without_match: dict[str, list[int]]
    """Why → the query rows that will have no match."""

    def lines(self) -> list[str]:
        """For people."""
        lines = describe(self.manifest)
        for split in (QUERY, GALLERY):
            lines += _by_camera(self.manifest, split) + _by_person(self.manifest, split)
        lines += _published(self.manifest)
        lacking = [split for split in (QUERY, GALLERY) if not len(self.manifest.rows(split))]
        for why, rows in self.without_match.items():
            lines.append(f"queries that {why}: {len(rows):,}, {self._some(rows)}")
        if lacking:
            lines.append(f"no {' and no '.join(lacking)} images, so no score")
        elif not self.without_match:
            lines.append("every query has a match")
        lines += _of_tracklets(self.manifest)
        if self.missing:
            files = counted(len(self.missing), "file is", "files are")
            lines.append(f"{files} not there: {self._some(self.missing)}")
        if self.duplicates:
            queries = [query for query, _ in self.duplicates]
            images = counted(len(queries), "query image is", "query images are")
            lines.append(f"{images} in the gallery, byte for byte: {self._some(queries)}")
        elif not lacking:
            lines.append("no query image is in the gallery, byte for byte")
        return lines

    def to_json(self) -> dict[str, Any]:
        """Plain values; an image is its path."""
        manifest = self.manifest
        return {
            "root": str(manifest.root),
            "layout": manifest.layout,
            "splits": {
                split.decode("utf-8", "replace"): _split_json(manifest, manifest.split == split)
                for split in dict.fromkeys(manifest.split.tolist())
            },
            "counts": counts(manifest),
            "published": dict(LAYOUTS[manifest.layout].counts),
            "without_match": {
                why: [_path(manifest, row) for row in rows]
                for why, rows in self.without_match.items()
            },
            "missing": [_path(manifest, row) for row in self.missing],
            "duplicates": [[_path(manifest, row) for row in pair] for pair in self.duplicates],
            "notes": list(manifest.notes),
        }

    def _some(self, rows: list[int]) -> str:
        names = [repr(os.fsdecode(self.manifest.path[row])) for row in rows[:SHOWN]]
        return ", ".join(names) + (", …" if len(rows) > SHOWN else "")


def inspect(manifest: Manifest) -> Inspection:
    """Reads the sizes of all files, and the bytes of those that may be twice in the data."""
    sizes = file_sizes(manifest)
    return Inspection(
        manifest=manifest,
        missing=[row for row, size in enumerate(sizes) if size is None],
        duplicates=duplicates(manifest, sizes),
        without_match=without_match(manifest),
    )


def file_sizes(manifest: Manifest) -> list[int | None]:
    """The bytes of each row's file or member, None if it is not there; where they are not known
    without reading it, as in a .mat file, 0."""
    sizes: list[int | None] = []
    for row in range(len(manifest)):
        file = manifest.file(row)
        try:
            sizes.append(0 if in_mat(file) else stored_size(file))
        except OSError:
            sizes.append(None)
    return sizes


def duplicates(manifest: Manifest, sizes: list[int | None]) -> list[tuple[int, int]]:
    """Each query row with the first other gallery row of the same bytes, where there is one.

    Only files of a size that both splits have are read. Images in a .mat file are compared by
    their place in it.
    """
    by_size: dict[int, list[int]] = defaultdict(list)
    for row in manifest.rows(GALLERY).tolist():
        if sizes[row] is not None:
            by_size[sizes[row]].append(row)
    first: dict[bytes, list[int]] = defaultdict(list)
    hashed: set[int] = set()
    pairs = []
    for query in manifest.rows(QUERY).tolist():
        size = sizes[query]
        if size is None or size not in by_size:
            continue
        if size not in hashed:
            hashed.add(size)
            for row in by_size[size]:
                first[_digest(manifest.file(row))].append(row)
        same = [row for row in first[_digest(manifest.file(query))][:2] if row != query]
        if same:
            pairs.append((query, same[0]))
    return pairs


def without_match(manifest: Manifest) -> dict[str, list[int]]:
    """Why → the query rows that have no match in the gallery for that reason; empty without a
    gallery."""
    query, gallery = manifest.rows(QUERY), manifest.rows(GALLERY)
    if not len(gallery):
        return {}
    cameras_of: dict[int, set[int]] = defaultdict(set)
    pairs = np.stack([manifest.person_id[gallery], manifest.camera_id[gallery]])
    for person, camera in np.unique(pairs, axis=1).T.tolist():
        cameras_of[person].add(camera)
    persons, counts = np.unique(manifest.person_id[gallery], return_counts=True)
    images_of = dict(zip(persons.tolist(), counts.tolist(), strict=True))
    in_gallery = set(gallery.tolist())
    found: dict[str, list[int]] = defaultdict(list)
    for row in query.tolist():
        person, camera = int(manifest.person_id[row]), int(manifest.camera_id[row])
        if person == NO_PERSON:
            found["have no person"].append(row)
        elif person not in cameras_of:
            found["show a person who is not in the gallery"].append(row)
        elif row in in_gallery and images_of[person] == 1:
            found["are their person's only image"].append(row)
        elif camera != NO_CAMERA and cameras_of[person] == {camera}:
            found["have matches in their own camera only"].append(row)
    return dict(found)


def _of_tracklets(manifest: Manifest) -> list[str]:
    """What is wrong with them, if something is."""
    if TRACKLET not in manifest.extra:
        return []
    rows = np.arange(len(manifest))
    try:
        check_tracklets(manifest, rows, *owners(manifest, rows))
    except DataError as error:
        return [f"tracklets: {error}"]
    return []


def _by_camera(manifest: Manifest, split: str) -> list[str]:
    each = _images_by(manifest.camera_id[manifest.rows(split)])
    each.pop(NO_CAMERA, None)
    names = manifest.names(CAMERA_NAME)
    text = ", ".join(f"{names.get(c, c)}: {images:,}" for c, images in each.items())
    return [f"{split} images by camera: {text}"] if each else []


def _by_person(manifest: Manifest, split: str) -> list[str]:
    persons = manifest.person_id[manifest.rows(split)]
    known = known_persons(manifest, persons)
    each = [images for person, images in _images_by(persons).items() if person in known]
    if not each:
        return []
    return [f"{split} images by person: {min(each):,} to {max(each):,}, median {np.median(each):g}"]


def _images_by(ids: Integers) -> dict[int, int]:
    values, images = np.unique(ids, return_counts=True)
    return dict(zip(values.tolist(), images.tolist(), strict=True))


def _split_json(manifest: Manifest, rows: NDArray[np.bool_]) -> dict[str, Any]:
    return {
        "images": int(rows.sum()),
        "by_camera": _named(_images_by(manifest.camera_id[rows]), manifest.names(CAMERA_NAME)),
        "by_person": _named(_images_by(manifest.person_id[rows]), manifest.names(PERSON_NAME)),
    }


def _named(each: dict[int, int], names: dict[int, str]) -> dict[int | str, int]:
    return {names.get(number, number): images for number, images in each.items()}


def _published(manifest: Manifest) -> list[str]:
    if not LAYOUTS[manifest.layout].counts:
        return []
    differing = different_counts(manifest)
    if not differing:
        return ["as many images as published"]
    return [f"not as many images as {manifest.layout} was published with: {differing}"]


def _digest(file: Path) -> bytes:
    if in_mat(file):
        return os.fsencode(file)
    place = locate(file)
    if place.box is not None:
        return os.fsencode(file)
    if place.member is None:
        return hashlib.sha256(file.read_bytes()).digest()
    try:
        return hashlib.sha256(read_member(place.file, place.member, READ_LIMIT)).digest()
    except ImageError:  # it is no other image's equal
        return os.fsencode(file)


def _path(manifest: Manifest, row: int) -> str:
    text: str = manifest.path[row].decode("utf-8", "backslashreplace")
    return text
