"""Frames with boxes to a Manifest: a row for each box, those of a frame one after another."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path

from distreid.data.archive_tree import ShardFolder
from distreid.data.box_files import (
    ID_COLUMN,
    FoundBoxes,
    add_tracks,
    is_mot_text,
    read_boxes,
    read_motchallenge,
    sequences,
)
from distreid.data.box_request import BoxRequest, Corners
from distreid.data.image_files import LayoutRequest, in_order
from distreid.data.image_table import manifest_of
from distreid.data.locators import VIDEO, kind_of, locate, with_box
from distreid.data.manifest import Manifest
from distreid.data.table_text import Table
from distreid.data.video_frames import numbers_of
from distreid.errors import DataError, OptionError

BOX, SCORE, CLASS = "box", "score", "class"  # extra columns
LARGEST = 999_999_999  # pixels, of a corner


def frames(root: Path, asked: LayoutRequest) -> Manifest:
    """Any frames with a file of boxes, see `box_files.read_boxes`; of videos also a file of
    MOTChallenge's form for each."""
    if asked.boxes.file is None:
        raise OptionError("--layout frames: give --boxes FILE")
    boxes = Path(asked.boxes.file)
    found = _boxes_of_videos(root, boxes, asked)
    return manifest_of_boxes(found or read_boxes(boxes, root), root, "frames", asked)


def _boxes_of_videos(root: Path, boxes: Path, asked: LayoutRequest) -> FoundBoxes | None:
    """Of one video, or of a folder of them with a folder of files that are named as they are;
    None if it is neither."""
    with_ids = ID_COLUMN in asked.columns.values()
    if isinstance(root, ShardFolder):
        videos = [video for video in root.archives if kind_of(video) == VIDEO]
        files = {video: boxes / f"{video.stem}.txt" for video in videos}
        if not any(map(is_mot_text, files.values())):
            return None
        found = FoundBoxes()
        for video, file in files.items():
            if file.is_file():
                name = numbers_of(video, f"{video.name}#/")
                add_tracks(found, file, video, name, with_ids=with_ids)
            else:
                found.notes.append(f"{video.name}: no boxes, as there is no {file}")
        return found
    video = locate(Path(os.fspath(root))).file
    if kind_of(video) != VIDEO:
        return None
    name = numbers_of(video)
    if is_mot_text(boxes):
        found = FoundBoxes()
        add_tracks(found, boxes, video, name, with_ids=with_ids)
        return found
    found = read_boxes(boxes, root)
    found.frame = [*map(name, found.frame)]
    return found


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
    for name, given in ((SCORE, [_score(found.score[i]) for i in kept]), (BOX, texts)):
        if any(given):
            if name in columns:
                columns[f"{name}_in_table"] = columns.pop(name)
            columns[name] = given
    if any(found.category[i] for i in kept):
        columns[CLASS] = [found.category[i] for i in kept]
    table = Table(
        file=Path(asked.boxes.file or root),
        header=["path", *columns],
        columns=[paths, *columns.values()],
        places=[found.places[i].rpartition(", ")[2] for i in kept],
        notes=[*found.notes, *notes],
    )
    manifest = manifest_of(table, asked, twice=True)
    frames_read = len(dict.fromkeys(found.frame[i] for i in kept))
    said = f"{len(kept):,} boxes in {frames_read:,} frames"
    return replace(manifest, root=root, layout=layout, notes=(said, *manifest.notes))


def chosen_boxes(found: FoundBoxes, asked: BoxRequest) -> tuple[list[int], list[str]]:
    """The boxes that are asked for, and what is said of the others."""
    kept, notes = list(range(len(found.frame))), []

    def keep(rows: list[int], why: str) -> list[int]:
        if len(rows) < len(kept):
            notes.append(f"{len(kept) - len(rows):,} boxes left out: {why}")
        return rows

    if asked.min_score is not None:
        rows = [i for i in kept if not found.score[i] < asked.min_score]
        kept = keep(rows, f"score below {asked.min_score:g}")
    if asked.classes:
        rows = [i for i in kept if found.category[i] in asked.classes]
        kept = keep(rows, f"not of {', '.join(asked.classes)}")
        if not kept:
            there = ", ".join(sorted(set(found.category))[:10])
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
