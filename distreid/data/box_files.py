"""Files of boxes, as detectors, trackers and data sets write them."""

from __future__ import annotations

import configparser
import csv
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from distreid.data.archives import read_member
from distreid.data.box_request import Corners
from distreid.data.image_files import images, subfolders
from distreid.data.image_table import SYNONYMS, plain_name
from distreid.data.locators import locate
from distreid.data.table_files import read_table
from distreid.errors import DataError

# The columns of a table, compared as those of `image_table`.
FIRST = {"x": ("x", "left", "bbleft", "bboxleft"), "y": ("y", "top", "bbtop", "bboxtop")}
SIZE = {
    "w": ("w", "width", "bbwidth", "bboxwidth"),
    "h": ("h", "height", "bbheight", "bboxheight"),
}
TWO_CORNERS = {
    "x1": ("x1", "xmin", "left"),
    "y1": ("y1", "ymin", "top"),
    "x2": ("x2", "xmax", "right"),
    "y2": ("y2", "ymax", "bottom"),
}
TOGETHER = "bbox"  # one column with `[x, y, w, h]`, as COCO and wildlife-datasets write a box
SCORE_NAMES = ("score", "conf", "confidence")
CLASS_NAMES = ("class", "category", "categoryid", "cls", "classid")
TRACK_COLUMN, PERSON_COLUMN, CAMERA_COLUMN, TIME_COLUMN = (
    *("tracklet", "person_id", "camera_id", "time"),
)
ID_COLUMN = "id"  # a tracker's number alone, for those who ask for it

SEQUENCE = "seqinfo.ini"
MOT_FILES = ("gt/gt.txt", "det/det.txt")  # the first that is there
MOT_FIELDS = 6  # at least: frame, id, x, y, w, h; then a flag or score, a class, …
FRAME_LIMIT = 1 << 30  # bytes


@dataclass(kw_only=True)
class FoundBoxes:
    """N boxes, column by column."""

    frame: list[str] = field(default_factory=list)
    """The path of each box's frame, below the folder of frames."""
    corners: list[Corners | None] = field(default_factory=list)
    """None: the whole frame is meant."""
    score: list[float] = field(default_factory=list)
    """NaN where there is none."""
    category: list[str] = field(default_factory=list)
    """The class's name or number; empty where there is none."""
    columns: dict[str, list[str]] = field(default_factory=dict)
    """What else is said, as columns of a table."""
    places: list[str] = field(default_factory=list)
    """What each box is called in messages."""
    notes: list[str] = field(default_factory=list)

    def add(
        self,
        place: str,
        frame: str,
        corners: Corners | None,
        score: float = math.nan,
        category: str = "",
        **columns: str,
    ) -> None:
        """A box more."""
        before = len(self.frame)
        self.places.append(place)
        self.frame.append(frame)
        self.corners.append(corners)
        self.score.append(score)
        self.category.append(category)
        for name in columns.keys() - self.columns.keys():
            self.columns[name] = [""] * before
        for name, values in self.columns.items():
            values.append(columns.get(name, ""))


def read_boxes(boxes: Path, frames: Path) -> FoundBoxes:
    """The boxes of a file or folder, by what it is: a table (CSV, Parquet, …) with a column of
    paths, COCO's JSON, a folder of YOLO's text files. DataError if it is none of these."""
    if boxes.is_dir():
        return _yolo(boxes, frames)
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
    for folder in sequences(root):
        before = "" if folder == root else f"{folder.name}/"
        info = _sequence(folder / SEQUENCE)
        names = [boxes] if boxes else [name for name in MOT_FILES if (folder / name).is_file()]
        if not names or not (folder / names[0]).is_file():
            raise DataError(f"{folder}: no {boxes or ' or '.join(MOT_FILES)}; check --boxes")
        file = folder / names[0]
        is_truth = names[0] == MOT_FILES[0]
        ignored = 0
        for line, values in _numbers(file):
            number, track = int(values[0]), int(values[1])
            x, y, w, h = values[2:6]
            flag = values[6] if len(values) > 6 else math.nan
            if is_truth and flag == 0:
                ignored += 1
                continue
            told: dict[str, str] = {CAMERA_COLUMN: folder.name}
            if track >= 0:
                told |= dict.fromkeys((PERSON_COLUMN, TRACK_COLUMN), f"{folder.name}_{track}")
            if info.rate:
                told[TIME_COLUMN] = repr(round((number - 1) / info.rate, 6))
            found.add(
                f"{file}, line {line}",
                f"{before}{info.images}/{number:06d}{info.ending}",
                (x, y, x + w, y + h),
                math.nan if is_truth else flag,
                f"{values[7]:g}" if is_truth and len(values) > 7 else "",
                **told,
            )
        if ignored:
            found.notes.append(
                f"{folder.name}: {ignored:,} boxes left out that {file.name} ignores"
            )
        found.notes.append(f"{folder.name}: boxes of {names[0]}")
    return found


def is_mot_text(file: Path) -> bool:
    """Whether a file's first line is MOTChallenge's: numbers alone, at least `MOT_FIELDS`."""
    try:
        with file.open(encoding="utf-8-sig") as stream:
            values = [float(value) for value in stream.readline().split(",")]
    except (OSError, ValueError):
        return False
    return len(values) >= MOT_FIELDS


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

    def taken(names: Sequence[str]) -> list[str] | None:
        header = next((plain[name] for name in names if name in plain), None)
        return None if header is None else columns.pop(header)

    paths = taken((*SYNONYMS["path"], "frame"))
    together = taken((TOGETHER,)) if not any(name in plain for name in FIRST["x"]) else None
    two = all(any(name in plain for name in names) for names in TWO_CORNERS.values())
    wanted = TWO_CORNERS if two else FIRST | SIZE
    sides = [taken(names) for names in wanted.values()] if together is None else []
    if paths is None or any(side is None for side in sides):
        raise DataError(
            f"{file}, line 1: columns path and x, y, w, h or x1, y1, x2, y2 or bbox are wanted; "
            f"the header has {table.header}"
        )
    scores, categories = taken(SCORE_NAMES), taken(CLASS_NAMES)
    found = FoundBoxes(notes=[*table.notes])
    for row, path in enumerate(paths):
        where = table.where(row)
        corners: Corners | None
        if together is not None:
            corners = _together(together[row], where)
        else:
            a, b, c, d = (
                _number(side[row], where, name) for side, name in zip_sides(sides, wanted)
            )
            corners = (a, b, c, d) if two else (a, b, a + c, b + d)
        found.add(
            where,
            path,
            corners,
            _number(scores[row], where, "score") if scores and scores[row].strip() else math.nan,
            categories[row].strip() if categories else "",
        )
    if whole := found.corners.count(None):
        found.notes.append(f"{whole:,} rows without a box are whole images")
    found.columns = columns
    return found


def _together(text: str, where: str) -> Corners | None:
    """The corners of `[x, y, w, h]`; None where there is nothing, or wildlife-datasets' NaN."""
    fields = text.strip().strip("[]()").replace(",", " ").split()
    if not fields or {field.lower() for field in fields} == {"nan"}:
        return None
    if len(fields) != 4:
        raise DataError(f"{where}: {TOGETHER} is {text!r}; it must be [x, y, w, h]")
    x, y, w, h = (_number(each, where, TOGETHER) for each in fields)
    return x, y, x + w, y + h


def zip_sides(
    sides: Sequence[list[str] | None], names: Iterable[str]
) -> Iterable[tuple[list[str], str]]:
    """The columns of a box with their names."""
    return ((side, name) for side, name in zip(sides, names, strict=True) if side is not None)


def _number(text: str, where: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{where}: {what} is {text!r}; it must be a number")
    return value


def _coco(file: Path, frames: Path) -> FoundBoxes:
    """Images, annotations and categories, or a list of detections: their frames are those named by
    the image's number."""
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: no JSON ({' '.join(str(error).split())}); mend it") from error
    whole = isinstance(content, dict)
    entries = content.get("annotations") if whole else content
    if not isinstance(entries, list):
        raise DataError(f"{file}: neither COCO's annotations nor a list of detections")
    try:
        if whole:
            names = {str(each["id"]): str(each["file_name"]) for each in content["images"]}
            classes = {str(c["id"]): str(c["name"]) for c in content.get("categories", ())}
        else:
            names, classes = _by_number(frames), {}
        found = FoundBoxes()
        for number, each in enumerate(entries):
            where = f"{file}, annotation {number}"
            image = str(each["image_id"])
            if image not in names:
                raise DataError(f"{where}: no image {image}; check --data")
            x, y, w, h = (float(value) for value in each["bbox"])
            category = str(each.get("category_id", ""))
            found.add(
                where,
                names[image],
                (x, y, x + w, y + h),
                float(each.get("score", math.nan)),
                classes.get(category, category),
                **_single_values(each),
            )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"{file}: not as COCO writes it ({reason}); mend it") from error
    return found


COCO_OWN = ("id", "image_id", "bbox", "category_id", "score", "area", "iscrowd", "segmentation")


def _single_values(entry: Mapping[str, Any]) -> dict[str, str]:
    return {
        str(key): "" if value is None else str(value)
        for key, value in entry.items()
        if key not in COCO_OWN and not isinstance(value, (list, dict))
    }


def _by_number(frames: Path) -> dict[str, str]:
    """Frames by their names without the ending, and by the numbers that these are."""
    names: dict[str, str] = {}
    for path in map(os.fsdecode, images(frames)[0]):
        stem = Path(path).stem
        names[stem] = path
        if stem.isdigit():
            names[str(int(stem))] = path
    return names


def _yolo(folder: Path, frames: Path) -> FoundBoxes:
    """A text file for each frame: class, middle, size as shares of the frame, and where they are
    there a score and the number of a track."""
    found = FoundBoxes()
    without = 0
    for frame in map(os.fsdecode, images(frames)[0]):
        file = folder / Path(frame).with_suffix(".txt")
        if not file.is_file():
            file = folder / f"{Path(frame).stem}.txt"
        if not file.is_file():
            without += 1
            continue
        size: tuple[int, int] | None = None
        for line, text in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), start=1):
            if not (fields := text.split()):
                continue
            where = f"{file}, line {line}"
            if not 5 <= len(fields) <= 7:
                raise DataError(f"{where}: class, x, y, w, h, score, track are wanted")
            x, y, w, h = (_number(value, where, "box") for value in fields[1:5])
            size = size or _size(frames / frame)
            corners = (
                (x - w / 2) * size[0],
                (y - h / 2) * size[1],
                (x + w / 2) * size[0],
                (y + h / 2) * size[1],
            )
            score = _number(fields[5], where, "score") if len(fields) > 5 else math.nan
            track = {TRACK_COLUMN: fields[6]} if len(fields) > 6 else {}
            found.add(where, frame, corners, score, fields[0], **track)
    if without:
        found.notes.append(f"{without:,} frames without a text file in {folder}")
    return found


def _size(frame: Path) -> tuple[int, int]:
    """Width and height; of a frame that cannot be read none, so that its boxes are bad images."""
    place = locate(frame)
    try:
        data = (
            frame.read_bytes()
            if place.member is None
            else read_member(place.file, place.member, FRAME_LIMIT)
        )
        with Image.open(io.BytesIO(data)) as image:
            return image.width, image.height
    except Exception:  # Pillow raises nearly anything on damaged bytes
        return 0, 0
