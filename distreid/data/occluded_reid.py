"""Data sets in which images of a part of a person search for images of the whole."""

from __future__ import annotations

import os
import re
from pathlib import Path

from distreid.data.image_files import (
    FoundRows,
    LayoutRequest,
    images,
    labels_by,
    named_images,
    need,
    persons_by,
    whole,
)
from distreid.data.manifest import GALLERY, NO_CAMERA, QUERY, Manifest
from distreid.errors import DataError

OCCLUDED, PARTIAL, WHOLE = "occluded_body_images", "partial_body_images", "whole_body_images"
DUKE_NAME = re.compile(rb"(\d{1,18})_c(\d{1,18})")
PARTIAL_NAME = re.compile(rb"(\d{1,18})_\d+\.")
PROBE_NAME = re.compile(rb"(\d{1,18})\.")


def occluded_reid(root: Path, asked: LayoutRequest) -> Manifest:
    """A folder for each person, the same number in both; there are no cameras."""
    found = FoundRows()
    for split, name in ((QUERY, OCCLUDED), (GALLERY, WHOLE)):
        paths, notes = images(need(root, name + "/", asked.layout))
        found.notes += [f"{name}: {note}" for note in notes]
        for path in paths:
            where = str(root / name / os.fsdecode(path))
            person = whole(os.fsdecode(path).split("/")[0], where, "person's folder")
            found.add(os.fsencode(name) + b"/" + path, person, NO_CAMERA, split)
    return found.manifest(root, asked.layout)


def p_dukemtmc(root: Path, asked: LayoutRequest) -> Manifest:
    """The images of `test/`, named as DukeMTMC-reID's, in a folder for each person."""
    parts = [(QUERY, f"test/{OCCLUDED}"), (GALLERY, f"test/{WHOLE}")]
    example = "0005_c2_f0046985.jpg"
    return named_images(root, asked, parts, labels_by(DUKE_NAME), example).manifest(
        root, asked.layout
    )


def partial_reid(root: Path, asked: LayoutRequest) -> Manifest:
    """The person begins the file's name; there are no cameras."""
    parts = [(QUERY, PARTIAL), (GALLERY, WHOLE)]
    return named_images(root, asked, parts, persons_by(PARTIAL_NAME), "001_001.jpg").manifest(
        root, asked.layout
    )


def partial_ilids(root: Path, asked: LayoutRequest) -> Manifest:
    """One image of each person in `Probe/` and one in `Gallery/`, of one name. DataError for an
    image in a folder of those."""
    parts = [(QUERY, "Probe"), (GALLERY, "Gallery")]
    found = named_images(root, asked, parts, persons_by(PROBE_NAME), "001.jpg")
    for path in found.path:
        if path.count(b"/") > 1:
            raise DataError(
                f"{root / os.fsdecode(path)}: in a folder, which {asked.layout} has not; where "
                "that is the person, give --layout split_folders"
            )
    return found.manifest(root, asked.layout)
