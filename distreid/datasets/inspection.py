"""A dry run over a manifest: what would hurt a score, found before a feature is computed."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distreid.datasets import LAYOUTS
from distreid.datasets.summary import describe, different_counts, known_persons
from distreid.manifest import GALLERY, NO_CAMERA, NO_PERSON, QUERY, Manifest
from distreid.mat_images import in_mat

SHOWN = 3


def inspect(manifest: Manifest) -> list[str]:
    """What was found, by split, camera and person, and what is wrong with it.

    Reads the sizes of all files, and the bytes of those that may be twice in the data.
    """
    lines = describe(manifest)
    for split in (QUERY, GALLERY):
        lines += _by_camera(manifest, split) + _by_person(manifest, split)
    lines += _published(manifest) + _unmatched(manifest)
    sizes = file_sizes(manifest)
    if missing := [row for row, size in enumerate(sizes) if size is None]:
        lines.append(f"{len(missing):,} files are not there: {_some(manifest, missing)}")
    pairs = duplicates(manifest, sizes)
    if pairs:
        shown = ", ".join(f"{_name(manifest, q)} = {_name(manifest, g)}" for q, g in pairs[:SHOWN])
        lines.append(
            f"{len(pairs):,} queries are in the gallery, byte for byte: {shown}{_more(len(pairs))}"
        )
    elif _both(manifest):
        lines.append("no query is in the gallery, byte for byte")
    return lines


def file_sizes(manifest: Manifest) -> list[int | None]:
    """The bytes of each row's file, None if it is not there; of an image in a .mat file, 0."""
    sizes: list[int | None] = []
    for row in range(len(manifest)):
        file = manifest.file(row)
        try:
            sizes.append(0 if in_mat(file) else os.stat(file).st_size)
        except OSError:
            sizes.append(None)
    return sizes


def duplicates(manifest: Manifest, sizes: list[int | None]) -> list[tuple[int, int]]:
    """Each query row with the first gallery row of the same bytes, where there is one.

    Only files of a size that both splits have are read. Images in a .mat file are compared by
    their place in it.
    """
    by_size: dict[int, list[int]] = defaultdict(list)
    for row in manifest.rows(GALLERY).tolist():
        if sizes[row] is not None:
            by_size[sizes[row]].append(row)
    first: dict[bytes, int] = {}
    hashed: set[int] = set()
    pairs = []
    for query in manifest.rows(QUERY).tolist():
        size = sizes[query]
        if size is None or size not in by_size:
            continue
        if size not in hashed:
            hashed.add(size)
            for row in by_size[size]:
                first.setdefault(_digest(manifest.file(row)), row)
        same = first.get(_digest(manifest.file(query)))
        if same is not None:
            pairs.append((query, same))
    return pairs


def without_match(manifest: Manifest) -> dict[str, NDArray[np.intp]]:
    """Why → the query rows that have no match in the gallery for that reason."""
    query, gallery = manifest.rows(QUERY), manifest.rows(GALLERY)
    cameras_of: dict[int, set[int]] = defaultdict(set)
    pairs = np.stack([manifest.person_id[gallery], manifest.camera_id[gallery]])
    for person, camera in np.unique(pairs, axis=1).T.tolist():
        cameras_of[person].add(camera)
    found: dict[str, list[int]] = defaultdict(list)
    for row in query.tolist():
        person, camera = int(manifest.person_id[row]), int(manifest.camera_id[row])
        if person == NO_PERSON:
            found["have no person"].append(row)
        elif person not in cameras_of:
            found["show a person who is not in the gallery"].append(row)
        elif camera != NO_CAMERA and cameras_of[person] == {camera}:
            found["have matches in their own camera only"].append(row)
    return {why: np.array(rows, np.intp) for why, rows in found.items()}


def _unmatched(manifest: Manifest) -> list[str]:
    if not _both(manifest):
        return []
    lines = [
        f"{len(rows):,} queries {why}: {_some(manifest, rows.tolist())}"
        for why, rows in without_match(manifest).items()
    ]
    return lines or ["every query has a match"]


def _by_camera(manifest: Manifest, split: str) -> list[str]:
    cameras = manifest.camera_id[manifest.rows(split)]
    cameras = cameras[cameras != NO_CAMERA]
    if not len(cameras):
        return []
    each = zip(*np.unique(cameras, return_counts=True), strict=True)
    return [f"{split} by camera: " + ", ".join(f"{camera}: {count:,}" for camera, count in each)]


def _by_person(manifest: Manifest, split: str) -> list[str]:
    persons = manifest.person_id[manifest.rows(split)]
    persons = persons[np.isin(persons, list(known_persons(manifest, persons)))]
    if not len(persons):
        return []
    images = np.unique(persons, return_counts=True)[1]
    return [
        f"{split} by person: {images.min():,} to {images.max():,} images each, "
        f"in the middle {np.median(images):g}"
    ]


def _published(manifest: Manifest) -> list[str]:
    if not LAYOUTS[manifest.layout].counts:
        return []
    differing = different_counts(manifest)
    return [f"counts not as published: {differing}" if differing else "counts as published"]


def _both(manifest: Manifest) -> bool:
    return bool(len(manifest.rows(QUERY)) and len(manifest.rows(GALLERY)))


def _digest(file: Path) -> bytes:
    if in_mat(file):
        return os.fsencode(file)
    return hashlib.sha256(file.read_bytes()).digest()


def _some(manifest: Manifest, rows: list[int]) -> str:
    return ", ".join(_name(manifest, row) for row in rows[:SHOWN]) + _more(len(rows))


def _more(count: int) -> str:
    return ", …" if count > SHOWN else ""


def _name(manifest: Manifest, row: int) -> str:
    return repr(os.fsdecode(manifest.path[row]))
