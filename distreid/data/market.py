"""Market-1501 and what is arranged like it; what Person_reID_baseline_pytorch makes of them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from distreid.data.image_files import (
    FoundRows,
    LayoutRequest,
    check_persons_folders,
    images,
    labels_by,
    named_images,
    subfolders,
)
from distreid.data.manifest import DISTRACTOR, GALLERY, MULTI_QUERY, NO_CAMERA, QUERY, Manifest
from distreid.errors import DataError, printable

# torchreid: `([-\d]+)_c(\d)`. Duke's 0005_c2_f0046985.jpg fits too.
MARKET_NAME = re.compile(rb"(-?\d{1,18})_c(\d{1,18})")  # of 18 digits, which int64 holds
MARKET_EXAMPLE = "0001_c1s1_000151_00.jpg"
DUKE_NAME = re.compile(rb"\d+_c\d_f\d+")
# What Person_reID_baseline_pytorch's prepare*.py write. Its own tests cut: the person to four
# characters, the camera to one digit; here all digits count.
LAYUMI_NAME = re.compile(rb"(-1|\d{1,18})_?(?:[^c]*_)?c(\d{1,18})")
LAYUMI_MSMT_NAME = re.compile(rb"(\d{1,18})_\d{3}_(\d\d)_")
# As its prepare_viper.py names them: ca_001_0.bmp, cb_001_90.bmp.
LAYUMI_VIPER_NAME = re.compile(rb"c([ab])_(\d{1,18})_")
LAYUMI_FOLDER = re.compile(rb"[A-Za-z]?(-1|\d{1,18})")  # its prepare_VeRi.py writes v0002
LAYUMI_CUT = (
    "Person_reID_baseline_pytorch itself reads four digits of the person and one of the camera in "
    "names such as {name}, and so takes several for one; here all digits are read"
)


def market1501(root: Path, asked: LayoutRequest) -> Manifest:
    """`query/` and `bounding_box_test/`; junk (-1) and distractors (0000) are kept as rows."""
    parts = [(QUERY, "query"), (GALLERY, "bounding_box_test")]
    if asked.multi_query:
        parts.append((MULTI_QUERY, "gt_bbox"))
    found = named_images(root, asked, parts, labels_by(MARKET_NAME), MARKET_EXAMPLE)
    read = [folder for _, folder in parts]
    if asked.layout == "market1501_500k":
        more = named_images(root, asked, [(GALLERY, "images")], _distractor, "0000001.jpg")
        for path, camera in zip(more.path, more.camera_id, strict=True):
            found.add(path, DISTRACTOR, camera, GALLERY)
        found.notes += more.notes
        read.append("images")
    _note_unread(root, read, found)
    return found.manifest(root, asked.layout)


def kind(root: Path) -> str:
    """Which of the data sets that are arranged like Market-1501 a folder is."""
    name = root.resolve().name
    if name in ("detected", "labeled"):
        return f"cuhk03_np_{name}"
    if (root / "query").is_dir():
        for path in images(root / "query")[0][:1]:
            if DUKE_NAME.match(os.path.basename(path)):
                return "occluded_duke" if "occluded" in name.lower() else "dukemtmcreid"
    return "market1501"


def layumi(root: Path, asked: LayoutRequest) -> Manifest:
    """`query/PID/`, `gallery/PID/`, `multi-query/PID/`. DataError if a folder and a name in it
    tell different persons."""
    parts = [(QUERY, "query"), (GALLERY, "gallery")]
    if asked.multi_query:
        parts.append((MULTI_QUERY, "multi-query"))
    found = named_images(root, asked, parts, layumi_label, MARKET_EXAMPLE)
    by_folder = "--pattern '(?P<split>query|gallery)/(?P<person>[^/]+)/'"
    persons: set[str] = set()
    for path, person in zip(found.path, found.person_id, strict=True):
        folders = path.split(b"/")[1:-1]
        number = LAYUMI_FOLDER.fullmatch(folders[0]) if folders else None
        if folders and (number is None or int(number[1]) != person):
            raise DataError(
                f"{root / os.fsdecode(path)}: the folder tells person {os.fsdecode(folders[0])}, "
                f"the name {person}; mend one, or go by the folder: {by_folder}"
            )
        persons |= {os.fsdecode(folder) for folder in folders[:1]}
    check_persons_folders(root, persons, by_folder)
    for path, person, camera in zip(found.path, found.person_id, found.camera_id, strict=True):
        name = os.path.basename(path)
        if person > 9999 or (camera > 9 and not LAYUMI_MSMT_NAME.match(name)):
            found.notes.append(LAYUMI_CUT.format(name=os.fsdecode(name)))
            break
    _note_unread(root, [folder for _, folder in parts], found)
    return found.manifest(root, asked.layout)


def _distractor(name: bytes) -> tuple[int, int]:
    """Whatever its name says, nobody in `images/` is in a query."""
    match = MARKET_NAME.match(name)
    return DISTRACTOR, int(match[2]) if match else NO_CAMERA


def layumi_label(name: bytes) -> tuple[int, int] | None:
    """Person and camera."""
    for pattern in (LAYUMI_NAME, LAYUMI_MSMT_NAME):
        if match := pattern.match(name):
            return int(match[1]), int(match[2])
    viper = LAYUMI_VIPER_NAME.match(name)
    return viper and (int(viper[2]), b"ab".index(viper[1]) + 1)


def _note_unread(root: Path, read: list[str], found: FoundRows) -> None:
    if others := [child.name for child in subfolders(root) if child.name not in read]:
        found.notes.append("folders not read: " + ", ".join(map(printable, others)))
