"""Frames with boxes to a Manifest: a row for each box, those of a frame one after another."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from distreid.data.archive_tree import ShardFolder
from distreid.data.box_files import (
    add_tracks,
    is_mot_text,
    read_boxes,
    read_motchallenge,
    sequences,
)
from distreid.data.box_request import BoxRequest, Corners
from distreid.data.found_boxes import FRAME_COLUMN, ID_COLUMN, FoundBoxes
from distreid.data.image_files import LayoutRequest, in_order
from distreid.data.image_table import manifest_of
from distreid.data.locators import VIDEO, kind_of, locate, with_box
from distreid.data.manifest import Manifest
from distreid.data.table_text import Table
from distreid.data.video_frames import numbers_of
from distreid.errors import DataError, OptionError
from distreid.host.counts import counted

BOX, SCORE, CLASS = "box", "score", "class"  # extra columns
LARGEST = 999_999_999  # pixels, of a corner


def frames(root: Path, asked: LayoutRequest) -> Manifest:
    """Any frames with a file of boxes, see `box_files.read_boxes`; of videos also a file of
    MOTChallenge's form for each, or a table that names the video and the frame's number."""
    if asked.boxes.file is None:
        raise OptionError("--layout frames: give --boxes FILE")
    boxes = Path(asked.boxes.file)
    with_ids = ID_COLUMN in asked.columns.values()
    videos = _videos(root)
    if boxes.is_dir():
        _check_stems(videos)
    found = _tracks(videos, boxes, with_ids=with_ids)
    if found is None:
        found = read_boxes(boxes, root, with_ids=with_ids)
        _name_frames(found, videos, root)
    return manifest_of_boxes(found, root, "frames", asked)


def _videos(root: Path) -> dict[Path, str]:
    """Those that the root is, or holds, and what stands before a frame's name in each."""
    if isinstance(root, ShardFolder):
        return {each: f"{each.name}#/" for each in root.archives if kind_of(each) == VIDEO}
    file = locate(Path(os.fspath(root))).file
    return {file: ""} if kind_of(file) == VIDEO else {}


def _check_stems(videos: Iterable[Path]) -> None:
    """DataError for videos whose files of boxes would be one file."""
    seen: dict[str, Path] = {}
    for video in videos:
        other = seen.setdefault(video.stem, video)
        if other != video:
            raise DataError(
                f"{other} and {video.name}: their boxes would have one name, {video.stem}; rename "
                "one of them, or give a table of boxes"
            )


def _tracks(videos: Mapping[Path, str], boxes: Path, *, with_ids: bool) -> FoundBoxes | None:
    """Of a tracker's file in MOTChallenge's form: of one video, or in a folder for each, named as
    it is; None if there is none."""
    files = {video: boxes / f"{video.stem}.txt" if boxes.is_dir() else boxes for video in videos}
    if not any(map(is_mot_text, files.values())):
        return None
    if not boxes.is_dir() and len(videos) > 1:
        raise DataError(
            f"{boxes}: boxes of one video, and --data has {len(videos)}; give a folder with a "
            "file for each, named as it is"
        )
    found = FoundBoxes()
    for video, file in files.items():
        before = len(found.frame)
        if file.is_file():
            add_tracks(found, file, video, numbers_of(video, videos[video]), with_ids=with_ids)
        if len(found.frame) == before:
            why = f"{file} is empty" if file.is_file() else f"there is no {file}"
            found.notes.append(f"{video.name}: no boxes, as {why}")
    return found


def _name_frames(found: FoundBoxes, videos: Mapping[Path, str], root: Path) -> None:
    """Makes frames' paths of their numbers: in the one video, or in that of the row's path."""
    if not videos:
        return
    numbers = found.columns.pop(FRAME_COLUMN, None)
    if numbers is None:
        if len(videos) == 1 and "" in videos.values():
            found.frame = [*map(numbers_of(next(iter(videos))), found.frame)]
        return
    stems = Counter(video.stem for video in videos)
    names = {video.stem: video for video in videos if stems[video.stem] == 1}
    names |= {video.name: video for video in videos}
    naming = {video: numbers_of(video, before) for video, before in videos.items()}
    for i, (path, number) in enumerate(zip(found.frame, numbers, strict=True)):
        video = names.get(Path(path).name)
        if video is None:
            there = ", ".join(sorted(video.name for video in videos)[:5])
            raise DataError(f"{found.places[i]}: no video {path} in {root}; there is {there}")
        if not number.strip().isdecimal():
            raise DataError(f"{found.places[i]}: frame is {number!r}; it must be a number from 1")
        found.frame[i] = naming[video](number)


def motchallenge(root: Path, asked: LayoutRequest) -> Manifest:
    """MOTChallenge's sequences with the boxes in each, see `box_files.read_motchallenge`."""
    if not sequences(root):
        raise DataError(f"{root}: no sequence with a seqinfo.ini; check --layout")
    found = read_motchallenge(root, asked.boxes.file)
    return manifest_of_boxes(found, root, "motchallenge", asked)


def manifest_of_boxes(found: FoundBoxes, root: Path, layout: str, asked: LayoutRequest) -> Manifest:
    """The boxes that are asked for as rows, frame by frame; DataError for one of no picture."""
    kept, notes = chosen_boxes(found, asked.boxes)
    kept.sort(key=lambda i: in_order(os.fsencode(found.frame[i])))  # stable: a frame's stay so
    paths, texts = [], []
    for i in kept:
        place, box = found.places[i], found.corners[i]
        if box is None:
            paths.append(found.frame[i])
            texts.append("")
            continue
        cut = asked.boxes.corners(box)
        if not all(abs(value) < LARGEST for value in cut):
            raise DataError(f"{place}: a box {box} is of no picture; mend it")
        x1, y1, x2, y2 = map(round, cut)
        paths.append(os.fsdecode(with_box(os.fsencode(found.frame[i]), (x1, y1, x2, y2))))
        texts.append(",".join(f"{value - asked.boxes.origin:.10g}" for value in box))
    columns = {name: [values[i] for i in kept] for name, values in found.columns.items()}
    scores, classes = [_score(found.score[i]) for i in kept], [found.category[i] for i in kept]
    if "path" in columns:
        columns["path_in_table"] = columns.pop("path")
    for name, given in ((SCORE, scores), (BOX, texts), (CLASS, classes)):
        if any(given):
            if name in columns:
                columns[f"{name}_in_table"] = columns.pop(name)
            columns[name] = given
    table = Table(
        file=Path(asked.boxes.file or root),
        header=["path", *columns],
        columns=[paths, *columns.values()],
        places=[found.places[i].rpartition(", ")[2] for i in kept],
        notes=[*found.notes, *notes],
    )
    manifest = manifest_of(table, asked, twice=True)
    frames_read = len(dict.fromkeys(found.frame[i] for i in kept))
    said = f"{counted(len(kept), 'box', 'boxes')} in {counted(frames_read, 'frame')}"
    return replace(manifest, root=root, layout=layout, notes=(said, *manifest.notes))


def chosen_boxes(found: FoundBoxes, asked: BoxRequest) -> tuple[list[int], list[str]]:
    """The boxes that are asked for, and what is said of the others."""
    kept, notes = list(range(len(found.frame))), []

    def keep(rows: list[int], why: str) -> list[int]:
        if len(rows) < len(kept):
            notes.append(f"{counted(len(kept) - len(rows), 'box', 'boxes')} left out: {why}")
        return rows

    if asked.min_score is not None:
        rows = [i for i in kept if not found.score[i] < asked.min_score]
        kept = keep(rows, f"score below {asked.min_score:g}")
    if asked.classes:
        rows = [i for i in kept if found.category[i] in asked.classes]
        kept = keep(rows, f"not of {', '.join(asked.classes)}")
        if not kept:
            there = ", ".join(sorted({*found.category} - {""})[:10]) or "no classes"
            raise OptionError(
                f"--classes {','.join(asked.classes)}: no such box; there are {there}"
            )
    if asked.min_size is not None:
        least = asked.min_size
        rows = [i for i in kept if _has_size(found.corners[i], least)]
        kept = keep(rows, f"less than {least} pixels wide or high")
    return kept, notes


def _has_size(box: Corners | None, least: float) -> bool:
    """Whether a box is so wide and high; what is no box stays."""
    return box is None or (box[2] - box[0] >= least and box[3] - box[1] >= least)


def _score(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.10g}"
