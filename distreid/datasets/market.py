"""Market-1501 and what is arranged like it; what Person_reID_baseline_pytorch makes of them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from distreid.datasets.files import Asked, Found, images, labels_by, named_images, subfolders
from distreid.errors import printable
from distreid.manifest import DISTRACTOR, GALLERY, MULTI_QUERY, NO_CAMERA, QUERY, Manifest

# torchreid: `([-\d]+)_c(\d)`. Duke's 0005_c2_f0046985.jpg fits too.
MARKET_NAME = re.compile(rb"(-?\d{1,18})_c(\d{1,18})")  # of 18 digits, which int64 holds
MARKET_EXAMPLE = "0001_c1s1_000151_00.jpg"
DUKE_NAME = re.compile(rb"\d+_c\d_f\d+")
# Person_reID_baseline_pytorch: the first four characters, and the digit after the first "c".
LAYUMI_NAME = re.compile(rb"(-1|\d{4})[^c]*c(\d)")
# Its test_MSMT.py: the first four, and two digits of the third word.
LAYUMI_MSMT_NAME = re.compile(rb"(\d{4})_[^_]*_(\d\d)")
# As its prepare_viper.py names them: ca_001_0.bmp, cb_001_90.bmp.
LAYUMI_VIPER_NAME = re.compile(rb"c([ab])_(\d{1,18})_")
LONG_CAMERA = re.compile(rb"\d{4}_c\d{2,}_")
LAYUMI_RULE = (
    "camera_id is one digit, as Person_reID_baseline_pytorch reads names such as {name}; "
    "the raw folder keeps all of them"
)


def market1501(root: Path, asked: Asked) -> Manifest:
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


def layumi(root: Path, asked: Asked) -> Manifest:
    """`query/PID/`, `gallery/PID/`, `multi-query/PID/`, by the rules of that project's tests."""
    parts = [(QUERY, "query"), (GALLERY, "gallery")]
    if asked.multi_query:
        parts.append((MULTI_QUERY, "multi-query"))
    found = named_images(root, asked, parts, _layumi_label, MARKET_EXAMPLE)
    names = map(os.path.basename, found.path)
    if shortened := next((name for name in names if LONG_CAMERA.match(name)), None):
        found.notes.append(LAYUMI_RULE.format(name=os.fsdecode(shortened)))
    _note_unread(root, [folder for _, folder in parts], found)
    return found.manifest(root, asked.layout)


def _distractor(name: bytes) -> tuple[int, int]:
    """Whatever its name says, nobody in `images/` is in a query."""
    match = MARKET_NAME.match(name)
    return DISTRACTOR, int(match[2]) if match else NO_CAMERA


def _layumi_label(name: bytes) -> tuple[int, int] | None:
    for pattern in (LAYUMI_NAME, LAYUMI_MSMT_NAME):
        if match := pattern.match(name):
            return int(match[1]), int(match[2])
    viper = LAYUMI_VIPER_NAME.match(name)
    return viper and (int(viper[2]), b"ab".index(viper[1]) + 1)


def _note_unread(root: Path, read: list[str], found: Found) -> None:
    if others := [child.name for child in subfolders(root) if child.name not in read]:
        found.notes.append("folders not read: " + ", ".join(map(printable, others)))
