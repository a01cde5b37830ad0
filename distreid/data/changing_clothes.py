"""PRCC, VC-Clothes, DeepChange, LaST and Celeb-reID: persons who change their clothes."""

from __future__ import annotations

import os
import re
from pathlib import Path

from distreid.data.image_files import (
    FoundRows,
    LayoutRequest,
    has,
    images,
    lines,
    named_images,
    need,
    persons_by,
    whole,
)
from distreid.data.labels import begins_with_date
from distreid.data.ltcc import CLOTHES
from distreid.data.manifest import CAMERA_NAME, GALLERY, NO_CAMERA, QUERY, Manifest
from distreid.errors import DataError

PRCC_CAMERAS = {"A": GALLERY, "B": QUERY, "C": QUERY}
PRCC_FOLDERS = ("rgb/test", "test", "prcc/rgb/test")
VC_NAME = re.compile(rb"(\d{1,18})-(\d{1,18})-\d+-\d+")
CELEB_NAME = re.compile(rb"(\d{1,18})_\d+_0\.")
DEEPCHANGE_NAME = re.compile(r"P(\d{1,18})_C(\d{1,18})_[^.]*")
TRACK = "track"


def prcc(root: Path, asked: LayoutRequest) -> Manifest:
    """`rgb/test/A/PERSON/` is gallery, `B` (the same clothes) and `C` (others) are query. Cameras
    are numbered from 0 and named; `extra/clothes` is the person in A and B, or in C."""
    folder = next((name for name in PRCC_FOLDERS if has(root, name + "/A/")), None)
    if folder is None:
        raise DataError(f"{root}: no folder {PRCC_FOLDERS[0]}/A, which prcc has; check --layout")
    found = FoundRows()
    names: list[str] = []
    clothes: list[str] = []
    for camera, (name, split) in sorted(
        enumerate(PRCC_CAMERAS.items()), key=lambda each: each[1][1] != QUERY
    ):
        part = f"{folder}/{name}"
        paths, notes = images(need(root, part + "/", asked.layout))
        found.notes += [f"{part}: {note}" for note in notes]
        for path in paths:
            where = str(root / part / os.fsdecode(path))
            person = whole(os.fsdecode(path).split("/")[0], where, "person's folder")
            found.add(os.fsencode(part) + b"/" + path, person, camera, split)
            names.append(name)
            clothes.append(f"{person}_{'C' if name == 'C' else 'AB'}")
    return found.manifest(root, asked.layout, extra={CAMERA_NAME: names, CLOTHES: clothes})


def vc_label(name: bytes) -> tuple[int, int] | None:
    """Person and camera of a name that is no date, such as 2026-01-31-12.jpg."""
    match = VC_NAME.match(name)
    is_named = match and not begins_with_date(os.fsdecode(name))
    return (int(match[1]), int(match[2])) if match and is_named else None


def vc_clothes(root: Path, asked: LayoutRequest) -> Manifest:
    """`query/` and `gallery/` with names such as `0001-01-02-03.jpg`: person, camera, clothes."""
    parts = [(QUERY, "query"), (GALLERY, "gallery")]
    found = named_images(root, asked, parts, vc_label, "0001-01-02-03.jpg")
    words = [os.fsdecode(os.path.basename(path)).split("-") for path in found.path]
    clothes = [f"{person}_{its}" for person, _, its, *_ in words]
    return found.manifest(root, asked.layout, extra={CLOTHES: clothes})


def celeb_reid(root: Path, asked: LayoutRequest) -> Manifest:
    """`query/` and `gallery/` with names such as `1_1_0.jpg`, which begin with the person; there
    are no cameras, and no clothes are told."""
    parts = [(QUERY, "query"), (GALLERY, "gallery")]
    return named_images(root, asked, parts, persons_by(CELEB_NAME), "1_1_0.jpg").manifest(
        root, asked.layout
    )


def deepchange(root: Path, asked: LayoutRequest) -> Manifest:
    """`test-set-query-bbox.txt` and `test-set-gallery-bbox.txt`, lines of a name and its track,
    over `test-set-query/` and `test-set-gallery/`; `extra/track` is the track."""
    found = FoundRows()
    tracks: list[str] = []
    for split in (QUERY, GALLERY):
        folder = f"test-set-{split}"
        need(root, folder + "/", asked.layout)
        for where, line in lines(need(root, f"{folder}-bbox.txt", asked.layout)):
            name, _, rest = line.partition(",")
            match = DEEPCHANGE_NAME.match(name)
            if match is None:
                raise DataError(f"{where}: {name!r} is not named like P1_C1_…")
            found.add(os.fsencode(f"{folder}/{name}"), int(match[1]), int(match[2]), split)
            tracks.append(str(whole(rest.split(",")[0].strip(), where, "track")))
    return found.manifest(root, asked.layout, extra={TRACK: tracks})


def last(root: Path, asked: LayoutRequest) -> Manifest:
    """`test/query/` and `test/gallery/PERSON/`; the person is the name's first number, and there
    are no cameras."""
    found = FoundRows()
    for split in (QUERY, GALLERY):
        folder = f"test/{split}"
        paths, notes = images(need(root, folder + "/", asked.layout))
        found.notes += [f"{folder}: {note}" for note in notes]
        for path in paths:
            name = os.fsdecode(os.path.basename(path))
            person = whole(name.split("_")[0], str(root / folder / os.fsdecode(path)), "person")
            found.add(os.fsencode(folder) + b"/" + path, person, NO_CAMERA, split)
    return found.manifest(root, asked.layout)


def last_label(name: bytes) -> tuple[int, int] | None:
    """The person of a name such as `000001_cam_1_0000.jpg`; its camera is not known."""
    match = re.match(rb"(\d{6})_", name)
    return match and (int(match[1]), 0)
