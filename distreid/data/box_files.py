"""Files of boxes, as detectors, trackers and data sets write them."""

from __future__ import annotations

import configparser
import csv
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distreid.data import json_text
from distreid.data.box_columns import FIRST, SIZE, TOGETHER, TWO_CORNERS
from distreid.data.box_request import Corners
from distreid.data.found_boxes import (
    CAMERA_COLUMN,
    FRAME_COLUMN,
    ID_COLUMN,
    PERSON_COLUMN,
    TIME_COLUMN,
    TRACK_COLUMN,
    FoundBoxes,
    number,
)
from distreid.data.image_files import images, subfolders
from distreid.data.image_table import SYNONYMS, plain_name
from distreid.data.table_files import read_table
from distreid.data.yolo_files import read_yolo
from distreid.errors import DataError
from distreid.host.counts import counted

# Further columns of a table of boxes.
SCORE_NAMES = ("score", "conf", "confidence")
FRAME_NAMES = ("frame", "frameid", "frameno", "framenumber")
CLASS_NAMES = ("class", "category", "categoryid", "cls", "classid")

SEQUENCE = "seqinfo.ini"
MOT_FILES = ("gt/gt.txt", "det/det.txt")  # the first that is there
DETECTOR = re.compile(r"(.+)-(?:DPM|FRCNN|SDP)")  # MOT17 has each sequence once for each detector
MOT_FIELDS = 6  # at least: frame, id, x, y, w, h; then a flag or score, a class, …


def read_boxes(boxes: Path, frames: Path, *, with_ids: bool = False) -> FoundBoxes:
    """The boxes of a file or folder, by what it is: a table (CSV, Parquet, …) with a column of
    paths, COCO's JSON, a folder of YOLO's text files (`with_ids` as in `read_yolo`). DataError if
    it is none of these."""
    if boxes.is_dir():
        return read_yolo(boxes, frames, with_ids=with_ids)
    if boxes.suffix.lower() == ".json":
        return _coco(boxes, frames)
    if not boxes.is_file():
        raise DataError(f"{boxes}: no such file or folder; check --boxes")
    return _table(boxes)


def sequences(root: Path) -> list[Path]:
    """The folders with a `seqinfo.ini`, as MOTChallenge has them: the root itself, or in it."""
    if (root / SEQUENCE).is_file():
        return [root]
    if not root.is_dir():
        return []
    return [child for child in subfolders(root) if (child / SEQUENCE).is_file()]


def read_motchallenge(root: Path, boxes: str | None = None) -> FoundBoxes:
    """Every sequence of MOTChallenge below a root. `boxes` is a file of each sequence; None: its
    ground truth, else its detections. An id is of its sequence alone; a sequence is a camera; time
    is in seconds from a sequence's first frame, where its rate is told."""
    found = FoundBoxes()
    truths: set[tuple[str, bytes]] = set()
    same: list[str] = []
    for folder in sequences(root):
        before = "" if folder == root else f"{folder.name}/"
        info = _sequence(folder / SEQUENCE)
        names = [boxes] if boxes else [name for name in MOT_FILES if (folder / name).is_file()]
        if not names or not (folder / names[0]).is_file():
            raise DataError(f"{folder}: no {boxes or ' or '.join(MOT_FILES)}; check --boxes")
        file = folder / names[0]
        is_truth = names[0] == MOT_FILES[0]
        if is_truth and (match := DETECTOR.fullmatch(folder.name)):
            truth = match[1], file.read_bytes()
            if truth in truths:
                same.append(folder.name)
                continue
            truths.add(truth)
        ignored = 0
        for line, values in _numbers(file):
            frame, track = int(values[0]), int(values[1])
            x, y, w, h = values[2:6]
            flag = values[6] if len(values) > 6 else math.nan
            if is_truth and flag == 0:
                ignored += 1
                continue
            told: dict[str, str] = {CAMERA_COLUMN: folder.name}
            if track >= 0:
                told |= dict.fromkeys((PERSON_COLUMN, TRACK_COLUMN), f"{folder.name}_{track}")
            if info.rate:
                told[TIME_COLUMN] = repr(round((frame - 1) / info.rate, 6))
            found.add(
                f"{file}, line {line}",
                f"{before}{info.images}/{frame:06d}{info.ending}",
                (x, y, x + w, y + h),
                math.nan if is_truth else flag,
                f"{values[7]:g}" if is_truth and len(values) > 7 else "",
                **told,
            )
        if ignored:
            found.notes.append(
                f"{folder.name}: {counted(ignored, 'box', 'boxes')} left out that {file.name} "
                "ignores"
            )
        found.notes.append(f"{folder.name}: boxes of {names[0]}")
    if same:
        found.notes.append(
            "left out, as frames and persons are those of a sequence with another detector: "
            + ", ".join(same)
        )
    return found


def is_mot_text(file: Path) -> bool:
    """Whether a file begins as MOTChallenge's do: with numbers, which no table does."""
    try:
        with file.open(encoding="utf-8-sig") as stream:
            values = [float(value) for value in stream.readline().split(",")]
    except (OSError, ValueError):
        return False
    return len(values) > 1


def add_tracks(
    found: FoundBoxes, file: Path, video: Path, name: Callable[[str], str], *, with_ids: bool
) -> None:
    """Adds what a tracker's file in MOTChallenge's form has of one video, which is a camera; `name`
    makes a frame's path of its number. An id is of its video alone; `with_ids`, the bare numbers
    are a column, too."""
    camera = video.stem
    for line, values in _numbers(file):
        track, (x, y, w, h) = int(values[1]), values[2:6]
        told = {CAMERA_COLUMN: camera}
        if track >= 0:
            told[TRACK_COLUMN] = f"{camera}_{track}"
            if with_ids:
                told[ID_COLUMN] = str(track)
        score = values[6] if len(values) > 6 else math.nan
        place = f"{file}, line {line}"
        found.add(place, name(f"{values[0]:.0f}"), (x, y, x + w, y + h), score, **told)


@dataclass(frozen=True)
class _SequenceInfo:
    images: str
    ending: str
    rate: float


def _sequence(file: Path) -> _SequenceInfo:
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(file.read_text(encoding="utf-8-sig"))
        section = parser["Sequence"]
        return _SequenceInfo(
            section.get("imDir", "img1"),
            section.get("imExt", ".jpg"),
            section.getfloat("frameRate", 0.0),
        )
    except (configparser.Error, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{file}: no description of a sequence ({reason}); mend it") from error


def _numbers(file: Path) -> Iterable[tuple[int, list[float]]]:
    text = file.read_text(encoding="utf-8-sig", errors="surrogateescape")
    for line, fields in enumerate(csv.reader(text.splitlines()), start=1):
        if not fields:
            continue
        try:
            values = [float(value) for value in fields]
        except ValueError:
            values = []
        if len(values) < MOT_FIELDS or not all(map(math.isfinite, values[:MOT_FIELDS])):
            raise DataError(f"{file}, line {line}: frame, id, x, y, w, h are wanted; mend the line")
        if values[0] % 1 or values[1] % 1:
            raise DataError(f"{file}, line {line}: frame and id are whole numbers; mend the line")
        yield line, values


def _table(file: Path) -> FoundBoxes:
    table = read_table(file)
    if not table.has_header:
        raise DataError(
            f"{file}, line 1: a header is wanted: path,x,y,w,h or path,x1,y1,x2,y2, and as you "
            "have them score, class, person_id, camera_id, time, track"
        )
    plain = {plain_name(name): name for name in table.header}
    columns = dict(zip(table.header, table.columns, strict=True))

    def taken(names: Sequence[str], *, alone: bool = False) -> list[str] | None:
        found = [plain[name] for name in names if name in plain]
        if alone and len(found) > 1:
            raise DataError(
                f"{file}, line 1: {' and '.join(found)} could be {names[0]}; rename the one that "
                "is not"
            )
        return columns.pop(found[0]) if found else None

    paths = taken((*SYNONYMS["path"], "video"))
    numbers = taken(FRAME_NAMES)
    if paths is None:  # of one video, or frames by their names
        paths, numbers = numbers, None
    together = taken((TOGETHER,)) if not any(name in plain for name in FIRST["x"]) else None
    two = all(any(name in plain for name in names) for names in TWO_CORNERS.values())
    wanted = TWO_CORNERS if two else FIRST | SIZE
    sides = [taken(names, alone=True) for names in wanted.values()] if together is None else []
    if paths is None or any(side is None for side in sides):
        raise DataError(
            f"{file}, line 1: columns path and x, y, w, h or x1, y1, x2, y2 or bbox are wanted; "
            f"the header has {table.header}"
        )
    scores, categories = taken(SCORE_NAMES, alone=True), taken(CLASS_NAMES)
    found = FoundBoxes(notes=[*table.notes])
    for row, path in enumerate(paths):
        where = table.where(row)
        corners: Corners | None
        if together is not None:
            corners = _together(together[row], where)
        else:
            a, b, c, d = (number(side[row], where, name) for side, name in zip_sides(sides, wanted))
            corners = (a, b, c, d) if two else (a, b, a + c, b + d)
        found.add(
            where,
            path,
            corners,
            number(scores[row], where, "score") if scores and scores[row].strip() else math.nan,
            categories[row].strip() if categories else "",
        )
    if whole := found.corners.count(None):
        found.notes.append(f"without a box, and so whole: {counted(whole, 'image')}")
    found.columns = columns | ({FRAME_COLUMN: numbers} if numbers else {})
    return found


def _together(text: str, where: str) -> Corners | None:
    """The corners of `[x, y, w, h]`; None where there is nothing, or wildlife-datasets' NaN."""
    fields = text.strip().strip("[]()").replace(",", " ").split()
    if not fields or {field.lower() for field in fields} == {"nan"}:
        return None
    if len(fields) != 4:
        raise DataError(f"{where}: {TOGETHER} is {text!r}; it must be [x, y, w, h]")
    x, y, w, h = (number(each, where, TOGETHER) for each in fields)
    return x, y, x + w, y + h


def zip_sides(
    sides: Sequence[list[str] | None], names: Iterable[str]
) -> Iterable[tuple[list[str], str]]:
    """The columns of a box with their names."""
    return ((side, name) for side, name in zip(sides, names, strict=True) if side is not None)


def _coco(file: Path, frames: Path) -> FoundBoxes:
    """Images, annotations and categories, or a list of detections: their frames are those named by
    the image's number."""
    try:
        content = json_text.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: no JSON ({' '.join(str(error).split())}); mend it") from error
    whole = isinstance(content, dict)
    entries = content.get("annotations") if whole else content
    if not isinstance(entries, list):
        raise DataError(f"{file}: neither COCO's annotations nor a list of detections")
    where = str(file)
    try:
        if whole:
            names = _named_images(file, content["images"])
            classes = {str(c["id"]): str(c["name"]) for c in content.get("categories", ())}
            twice: dict[str, str] = {}
        else:
            (names, twice), classes = _by_number(frames), {}
        found = FoundBoxes()
        crowds = 0
        for place, each in enumerate(entries):
            where = f"{file}, annotation {place}"
            if each.get("iscrowd") in (1, "1"):  # a box of several, which is nobody's
                crowds += 1
                continue
            image = str(each["image_id"])
            if image in twice:
                raise DataError(
                    f"{where}: image {image} may be {names[image]} or {twice[image]}; give a file "
                    "with its list of images"
                )
            if image not in names:
                raise DataError(f"{where}: no image {image}; check --data")
            x, y, w, h = _four_numbers(where, each["bbox"])
            category = str(each.get("category_id", ""))
            score = each.get("score")
            found.add(
                where,
                names[image],
                (x, y, x + w, y + h),
                math.nan if score is None else float(score),
                classes.get(category, category),
                **_single_values(each),
            )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        missing = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise DataError(f"{where}: not as COCO writes it ({missing}); mend it") from error
    if crowds:
        found.notes.append(f"{counted(crowds, 'box', 'boxes')} left out: of crowds (iscrowd)")
    return found


def _named_images(file: Path, entries: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Names of files by the images' numbers; DataError for a number that two have."""
    names: dict[str, str] = {}
    for each in entries:
        image, name = str(each["id"]), str(each["file_name"])
        if (other := names.setdefault(image, name)) != name:
            raise DataError(
                f"{file}: image {image} is {other} and {name}; give each a number of its own"
            )
    return names


def _four_numbers(where: str, box: Any) -> Corners:
    try:
        x, y, w, h = (float(value) for value in box)
    except (TypeError, ValueError):
        raise DataError(
            f"{where}: bbox is {str(box)[:40]}; [x, y, width, height] is wanted"
        ) from None
    return x, y, w, h


COCO_OWN = ("id", "image_id", "bbox", "category_id", "score", "area", "iscrowd", "segmentation")


def _single_values(entry: Mapping[str, Any]) -> dict[str, str]:
    return {
        str(key): "" if value is None else str(value)
        for key, value in entry.items()
        if key not in COCO_OWN and not isinstance(value, (list, dict))
    }


def _by_number(frames: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Frames by their names without the ending, and by the numbers that these are; and of what
    means two frames, the second."""
    names: dict[str, str] = {}
    twice: dict[str, str] = {}
    for path in map(os.fsdecode, images(frames)[0]):
        stem = Path(path).stem
        for name in {stem, str(int(stem)) if stem.isdecimal() else stem}:
            if names.setdefault(name, path) != path:
                twice[name] = path
    return names, twice
