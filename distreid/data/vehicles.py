"""VeRi-776, VehicleID and VeRi-Wild. A person of the manifest is a vehicle here."""

from __future__ import annotations

import os
import re
from itertools import islice
from pathlib import Path

import numpy as np

from distreid.data.image_files import (
    FoundRows,
    LayoutRequest,
    has,
    images,
    labels_by,
    lines,
    name_and_number,
    named_images,
    need,
    whole,
)
from distreid.data.manifest import GALLERY, NO_CAMERA, QUERY, Manifest
from distreid.errors import DataError, OptionError

# fast-reid: `([\d]+)_c(\d\d\d)`. A camera of more digits is not cut.
VERI_NAME = re.compile(rb"(\d{1,18})_c(\d{3,18})")

# How many vehicles a test list is about, and so what its file is called.
VEHICLES = {
    "vehicleid_small": 800,
    "vehicleid_medium": 1600,
    "vehicleid_large": 2400,
    "veriwild_small": 3000,
    "veriwild_medium": 5000,
    "veriwild_large": 10000,
}
LISTS = "train_test_split"
TRACKS = "test_track.txt"
TRACK = "track"
LIST_PLACE = "list_place"  # the extra column of a row's place in the list, by which draws are made


def veri776(root: Path, asked: LayoutRequest) -> Manifest:
    """VeRi-776: `image_query/` and `image_test/`, cameras of three digits; every image counts.
    `extra/track` of the gallery is by `test_track.txt`, where that is there."""
    parts = [(QUERY, "image_query"), (GALLERY, "image_test")]
    example = "0002_c002_00030600_0.jpg"
    found = named_images(root, asked, parts, labels_by(VERI_NAME), example)
    extra = {}
    if has(root, TRACKS):
        tracks = _tracks(root / TRACKS)
        names = [os.path.basename(path) for path in found.path]
        pairs = zip(names, found.split, strict=True)
        extra[TRACK] = [tracks.get(name, "") if split == GALLERY else "" for name, split in pairs]
        found.notes.append(f"tracks by {TRACKS}")
    found.notes.append(
        "every image is kept, as in fast-reid; TransReID and CLIP-ReID leave out those that "
        "their lists of viewpoints do not name"
    )
    return found.manifest(root, asked.layout, extra=extra)


def _tracks(file: Path) -> dict[bytes, str]:
    """An image's name → its track: each line has a track and its images."""
    tracks: dict[bytes, str] = {}
    for _, line in lines(file):
        track, *names = line.split()
        tracks |= dict.fromkeys(map(os.fsencode, names), track)
    return tracks


def vehicleid(root: Path, asked: LayoutRequest) -> Manifest:
    """VehicleID: one image of each vehicle of a test list is the gallery, the others query.

    Split 0 takes the first one listed, as Person_reID_baseline_pytorch; splits 1 to 10 draw
    it, as TransReID and CLIP-ReID do ten times over, here with the split's number as seed.
    There are no cameras. What its prepare_VehicleID.py writes, `query800/` and `gallery800/`
    with a folder `p12/` for vehicle 12, is read too. `extra/list_place` is the place in the list,
    by which the protocols draw anew, whatever the split.
    """
    if has(root, f"gallery{VEHICLES[asked.layout]}/"):
        return _prepared(root, asked)
    name = f"{LISTS}/test_list_{VEHICLES[asked.layout]}.txt"
    need(root, "image/", asked.layout)
    images_of: dict[int, list[bytes]] = {}
    listed_at: dict[bytes, int] = {}
    for where, line in lines(need(root, name, asked.layout)):
        image, vehicle = name_and_number(where, line)
        path = b"image/" + image + b".jpg"
        if path in listed_at:  # it could be query and gallery
            raise DataError(
                f"{where}: {os.fsdecode(image)!r} stands in the list already; leave out one"
            )
        images_of.setdefault(vehicle, []).append(path)
        listed_at[path] = len(listed_at)
    # RandomState: numpy promises that its numbers never change.
    draw = np.random.RandomState(asked.split)
    rows: dict[str, list[tuple[bytes, int, int]]] = {QUERY: [], GALLERY: []}
    for vehicle in sorted(images_of):
        listed = images_of[vehicle]
        chosen = int(draw.randint(len(listed))) if asked.split else 0
        for place, path in enumerate(listed):
            rows[GALLERY if place == chosen else QUERY].append((path, vehicle, NO_CAMERA))
    how = (
        f"drawn, as TransReID does, with seed {asked.split}"
        if asked.split
        else "the first one listed, as Person_reID_baseline_pytorch takes"
    )
    found = FoundRows(notes=[f"gallery: of each vehicle one image, {how}; --split 0 to 10"])
    for split in (QUERY, GALLERY):
        found.add_sorted(rows[split], split)
    extra = {LIST_PLACE: [str(listed_at[path]) for path in found.path]}
    return found.manifest(root, asked.layout, extra=extra)


def _prepared(root: Path, asked: LayoutRequest) -> Manifest:
    if asked.split:
        raise OptionError(f"--split {asked.split}: {root} has been split already")
    found = FoundRows()
    for split in (QUERY, GALLERY):
        folder = f"{split}{VEHICLES[asked.layout]}"
        paths, notes = images(need(root, folder + "/", asked.layout))
        found.notes += notes
        for path in paths:
            where = str(root / folder / os.fsdecode(path))
            vehicle = whole(os.fsdecode(path).split("/")[0].removeprefix("p"), where, "vehicle")
            found.add(os.fsencode(folder) + b"/" + path, vehicle, NO_CAMERA, split)
    return found.manifest(root, asked.layout)


def veriwild(root: Path, asked: LayoutRequest) -> Manifest:
    """VeRi-Wild: test lists over `images/VEHICLE/IMAGE.jpg`; cameras from `vehicle_info.txt`."""
    need(root, "images/", asked.layout)
    camera_of = _cameras(need(root, f"{LISTS}/vehicle_info.txt", asked.layout))
    found = FoundRows()
    for split, ending in ((QUERY, "_query"), (GALLERY, "")):
        rows = []
        for where, line in lines(_veriwild_list(root, asked.layout, ending)):
            image = line.split()[0].removesuffix(".jpg")
            if image not in camera_of:
                raise DataError(f"{where}: {image!r} is not in vehicle_info.txt")
            vehicle = whole(image.split("/")[0], where, "vehicle")
            rows.append((os.fsencode(f"images/{image}.jpg"), vehicle, camera_of[image]))
        found.add_sorted(rows, split)
    return found.manifest(root, asked.layout)


def _veriwild_list(root: Path, layout: str, ending: str) -> Path:
    """The list by fast-reid's name, or by that of the authors' own release."""
    for name in (f"test_{VEHICLES[layout]}{ending}.txt", f"test_{VEHICLES[layout]}_id{ending}.txt"):
        if has(root, f"{LISTS}/{name}"):
            return root / LISTS / name
    return need(root, f"{LISTS}/test_{VEHICLES[layout]}{ending}.txt", layout)


def _cameras(file: Path) -> dict[str, int]:
    """`vehicle/image` → camera; the first line is a heading."""
    camera_of = {}
    for where, line in islice(lines(file), 1, None):
        image, _, rest = line.partition(";")
        camera_of[image.removesuffix(".jpg")] = whole(rest.split(";")[0], where, "camera")
    return camera_of
