"""VIPeR: two cameras, one image of each person in each, ten random halves, both directions."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np

from distreid.data.image_files import (
    FoundRows,
    LayoutRequest,
    images,
    need,
    torchreid_queries,
    whole,
)
from distreid.data.manifest import GALLERY, QUERY, Manifest
from distreid.errors import DataError

CAMERAS = {"cam_a": 1, "cam_b": 2}
SPLITS = "splits.json"
BY_NAME = r"--pattern '(?P<camera>cam_[ab])/(?P<person>\d+)_', or another --layout"


def viper(root: Path, asked: LayoutRequest) -> Manifest:
    """`cam_a/` and `cam_b/`; of the persons of a half, one camera is query, the other gallery.

    As in torchreid, splits 2n and 2n + 1 have the same persons, and the query in camera a or
    in b. The persons are those of torchreid's splits.json, in the folder or above it, if there
    is one; else the second half of a permutation of the sorted persons with seed n, which for
    n = 0 is that of Person_reID_baseline_pytorch's prepare_viper.py.
    """
    found = FoundRows()
    image_of = {name: _images(root, name, asked.layout, found) for name in CAMERAS}
    persons = sorted(set(image_of["cam_a"]) & set(image_of["cam_b"]))
    split_file = next((file for file in _split_files(root) if file.is_file()), None)
    if split_file:
        names = torchreid_queries(split_file, asked.split)
        tested = {whole(name.split("_")[0], str(split_file), "person") for name in names}
        note = f"persons of {split_file}"
    else:
        order = np.random.RandomState(asked.split // 2).permutation(len(persons))
        tested = {persons[place] for place in order[len(persons) // 2 :]}
        note = (
            f"persons drawn with seed {asked.split // 2}, for there is no {SPLITS}: a checkpoint "
            "that was trained on another draw has seen some of them"
        )
    query, gallery = CAMERAS if asked.split % 2 == 0 else reversed(CAMERAS)
    found.notes.insert(0, f"split {asked.split} of 0 to 19, query in {query}; {note}")
    for split, name in ((QUERY, query), (GALLERY, gallery)):
        rows = [
            (path, person, CAMERAS[name])
            for person, path in image_of[name].items()
            if person in tested
        ]
        found.add_sorted(rows, split)
    return found.manifest(root, asked.layout)


def label(name: bytes) -> tuple[int, int] | None:
    """Person and viewing angle, as `000_45.bmp` tells them."""
    match = re.match(rb"(\d{1,18})_(\d{1,18})\.", name)
    return match and (int(match[1]), int(match[2]))


def _images(root: Path, camera: str, layout: str, found: FoundRows) -> dict[int, bytes]:
    """Person → image; a name is `000_45.bmp`, person and viewing angle. `found` notes what is
    ignored. DataError for a second image of a person."""
    folder = need(root, camera + "/", layout)
    paths, ignored = images(folder)
    found.notes += [f"{camera}: {note}" for note in ignored]
    image_of: dict[int, bytes] = {}
    for path in paths:
        name = os.fsdecode(path)
        person = whole(name.split("_")[0], str(folder / name), "person")
        image = os.fsencode(camera) + b"/" + path
        if (other := image_of.setdefault(person, image)) != image:
            raise DataError(
                f"{folder / name}: person {person} has {os.fsdecode(other)}, too, and VIPeR one "
                f"image in each camera; give {BY_NAME}"
            )
    return image_of


def _split_files(root: Path) -> list[Path]:
    return [root / SPLITS, root.parent / SPLITS]
