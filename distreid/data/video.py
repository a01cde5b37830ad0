"""DukeMTMC-VideoReID and iLIDS-VID: tracklets. Each image is a row; a tracklet is one feature."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from distreid.data.cross_modality import TRIALS
from distreid.data.image_files import (
    FoundRows,
    LayoutRequest,
    has,
    images,
    matrices,
    named_images,
    need,
    whole,
)
from distreid.data.manifest import GALLERY, QUERY, TRACKLET, Manifest
from distreid.errors import DataError

# Both ways in which the frames were named, as torchreid's class tells them apart.
DUKE_FRAME = re.compile(rb"(\d{4})_?C(\d)_?F\d")
ILIDS_SPLITS = "train-test people splits/train_test_splits_ilidsvid.mat"
HALVES = "ilids_vid_halves"  # the layout of all ten
ILIDS_CAMERAS = {QUERY: "cam1", GALLERY: "cam2"}
CameraRows = dict[str, list[tuple[bytes, int, int]]]
"""Of each split, the path, person and camera of each image."""


def duke_label(name: bytes) -> tuple[int, int] | None:
    """Person and camera of a frame, as `0001_C6_F0001_X30823.jpg` tells them."""
    match = DUKE_FRAME.match(name)
    return match and (int(match[1]), int(match[2]))


def dukemtmc_videoreid(root: Path, asked: LayoutRequest) -> Manifest:
    """`query/PERSON/TRACKLET/` and `gallery/…`. `extra/tracklet` is the folder. DataError if a
    folder and a name in it tell different persons."""
    parts = [(QUERY, "query"), (GALLERY, "gallery")]
    example = "0001_C6_F0001_X30823.jpg"
    found = named_images(root, asked, parts, duke_label, example)
    for path, person in zip(found.path, found.person_id, strict=True):
        where, folders = str(root / os.fsdecode(path)), os.fsdecode(path).split("/")
        if len(folders) != 4:
            raise DataError(f"{where}: not in a folder PERSON/TRACKLET; check --layout")
        if whole(folders[1], where, "person's folder") != person:
            raise DataError(f"{where}: the folder tells person {folders[1]}, the name {person}")
    tracklets = [os.fsdecode(os.path.dirname(path)) for path in found.path]
    return found.manifest(root, asked.layout, extra={TRACKLET: tracklets})


def ilids_vid(root: Path, asked: LayoutRequest) -> Manifest:
    """`sequences/cam1/` is query, `cam2/` gallery: a folder `person001` of each is a tracklet.

    The persons are those of the first half of a row of `ls_set` in the data set's own .mat file,
    as in torchreid; without the file all of them. As `ilids_vid_halves` it is all persons, and
    `extra/trials` has the numbers, from 1, of the rows whose first half a person is in.
    """
    trials: dict[int, list[str]] = {}
    nested = "i-LIDS-VID/" if has(root, "i-LIDS-VID/") else ""
    found = FoundRows()
    folders = {split: f"{nested}sequences/{name}" for split, name in ILIDS_CAMERAS.items()}
    rows = tracklets_of_cameras(root, asked, folders, "person", found)
    persons = sorted({row[1] for row in rows[QUERY]} & {row[1] for row in rows[GALLERY]})
    splits = next((each for each in (root, root.parent) if has(each, ILIDS_SPLITS)), None)
    if splits is not None:
        order = matrices(splits / ILIDS_SPLITS, "ls_set")[0]
        everybody = np.arange(1, len(persons) + 1)
        if order.shape[1:] != everybody.shape or np.any(np.sort(order) != everybody):
            raise DataError(
                f"{splits / ILIDS_SPLITS}: a row is not the numbers of the {len(persons)} persons "
                "who are in both cameras; copy the data again"
            )
        if asked.split >= len(order):
            raise DataError(f"{splits / ILIDS_SPLITS} has {len(order)} rows, none is {asked.split}")
        places = order[asked.split, : order.shape[1] // 2].astype(np.int64) - 1
        if asked.layout == HALVES:
            half = order[:, : order.shape[1] // 2].astype(np.int64) - 1
            for trial, places in enumerate(half, start=1):
                for place in places:
                    trials.setdefault(persons[place], []).append(str(trial))
            found.notes.append("all persons, with the ten halves that each is in")
        else:
            persons = [persons[place] for place in places]
            halves = f"split {asked.split} of 0 to {len(order) - 1}"
            found.notes.append(f"{halves}, the first half of its persons")
    elif asked.layout == HALVES:
        raise DataError(f"{root}: no {ILIDS_SPLITS}, which tells the ten halves; copy it there")
    else:
        found.notes.append(f"all {len(persons):,} persons of both cameras: no {ILIDS_SPLITS}")
    with_trials = trials if asked.layout == HALVES else None
    return manifest_of_tracklets(root, asked, found, rows, set(persons), with_trials)


def tracklets_of_cameras(
    root: Path, asked: LayoutRequest, folders: Mapping[str, str], prefix: str, found: FoundRows
) -> CameraRows:
    """The images of two cameras, from 1 in the order of `folders`, a split to its folder; in it a
    folder of `prefix` and a number is a person's tracklet. `found` notes what is ignored."""
    rows: CameraRows = {}
    for camera, (split, folder) in enumerate(folders.items(), start=1):
        paths, notes = images(need(root, folder + "/", asked.layout))
        found.notes += [f"{folder}: {note}" for note in notes]
        rows[split] = []
        for path in paths:
            name, where = os.fsdecode(path).split("/")[0], str(root / folder / os.fsdecode(path))
            person = whole(name.removeprefix(prefix), where, "person's folder")
            rows[split].append((os.fsencode(folder) + b"/" + path, person, camera))
    return rows


def manifest_of_tracklets(
    root: Path,
    asked: LayoutRequest,
    found: FoundRows,
    rows: CameraRows,
    persons: set[int],
    trials: Mapping[int, Sequence[str]] | None,
) -> Manifest:
    """The rows of these persons, each folder a tracklet; with `trials`, the draws that a person is
    in."""
    for split, of_camera in rows.items():
        found.add_all([row for row in of_camera if row[1] in persons], split)
    extra = {TRACKLET: [os.fsdecode(os.path.dirname(path)) for path in found.path]}
    if trials is not None:
        extra[TRIALS] = [" ".join(trials.get(person, [])) for person in found.person_id]
    return found.manifest(root, asked.layout, extra=extra)
