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

from distreid.datasets.layouts import LAYOUTS
from distreid.datasets.summary import counts, describe, different_counts, known_persons
from distreid.manifest import GALLERY, NO_CAMERA, NO_PERSON, QUERY, Integers, Manifest
from distreid.mat_images import in_mat

SHOWN = 3


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
            lines.append(f"{len(rows):,} queries {why}: {self._some(rows)}")
        if lacking:
            lines.append(f"no {' and no '.join(lacking)} images, so no score")
        elif not self.without_match:
            lines.append("every query has a match")
        if self.missing:
            lines.append(f"{len(self.missing):,} files are not there: {self._some(self.missing)}")
        if self.duplicates:
            queries = [query for query, _ in self.duplicates]
            lines.append(
                f"{len(queries):,} query images are in the gallery, byte for byte: "
                f"{self._some(queries)}"
            )
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
    found: dict[str, list[int]] = defaultdict(list)
    for row in query.tolist():
        person, camera = int(manifest.person_id[row]), int(manifest.camera_id[row])
        if person == NO_PERSON:
            found["have no person"].append(row)
        elif person not in cameras_of:
            found["show a person who is not in the gallery"].append(row)
        elif camera != NO_CAMERA and cameras_of[person] == {camera}:
            found["have matches in their own camera only"].append(row)
    return dict(found)


def _by_camera(manifest: Manifest, split: str) -> list[str]:
    each = _images_by(manifest.camera_id[manifest.rows(split)])
    each.pop(NO_CAMERA, None)
    text = ", ".join(f"{camera}: {images:,}" for camera, images in each.items())
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
        "by_camera": _images_by(manifest.camera_id[rows]),
        "by_person": _images_by(manifest.person_id[rows]),
    }


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
    return hashlib.sha256(file.read_bytes()).digest()


def _path(manifest: Manifest, row: int) -> str:
    text: str = manifest.path[row].decode("utf-8", "backslashreplace")
    return text
