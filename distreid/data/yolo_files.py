"""YOLO's text files of boxes: one for each frame, as its trainers read them and ultralytics'
`save_txt` writes them."""

from __future__ import annotations

import io
import math
import os
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from distreid.data.archives import read_member
from distreid.data.found_boxes import CAMERA_COLUMN, ID_COLUMN, TRACK_COLUMN, FoundBoxes, number
from distreid.data.image_files import images
from distreid.data.locators import VIDEO, kind_of, locate
from distreid.errors import DataError
from distreid.host.counts import counted

FRAME_LIMIT = 1 << 30  # bytes
LEAST, MOST = 5, 7  # fields: class, middle, size; then a score, a track, or both


@dataclass(frozen=True)
class _Line:
    where: str
    frame: str
    fields: list[str]
    size: tuple[int, int]
    video: Path | None


def read_yolo(folder: Path, frames: Path, *, with_ids: bool) -> FoundBoxes:
    """The boxes of a folder of text files: a line has class, middle and size as shares of the
    frame, and where they are there a score and the number of a track.

    A frame's file is `a/1.txt` or `1.txt` for `a/1.jpg`, and `shop_12.txt` for the twelfth of
    `shop.mp4`. A sixth field without a seventh may be either: it is a track where all of them are
    whole numbers, which is said. An id is of its video alone; `with_ids`, the bare numbers are a
    column, too.
    """
    lines, without = _lines(folder, frames)
    sixth = [line.fields[5] for line in lines if len(line.fields) == LEAST + 1]
    is_track = bool(sixth) and all(text.isdecimal() for text in sixth)
    found = FoundBoxes()
    for line in lines:
        x, y, w, h = (number(text, line.where, "box") for text in line.fields[1:5])
        width, height = line.size
        corners = (
            (x - w / 2) * width,
            (y - h / 2) * height,
            (x + w / 2) * width,
            (y + h / 2) * height,
        )
        more = line.fields[LEAST:]
        track = more.pop() if len(more) == 2 or (more and is_track) else ""
        told = {}
        if line.video is not None:
            told[CAMERA_COLUMN] = line.video.stem
        if track:
            told[TRACK_COLUMN] = f"{line.video.stem}_{track}" if line.video else track
            if with_ids:
                told[ID_COLUMN] = track
        score = number(more[0], line.where, "score") if more else math.nan
        found.add(line.where, line.frame, corners, score, line.fields[0], **told)
    if is_track:
        found.notes.append("the sixth field is taken for a track: it is a whole number throughout")
    if without:
        found.notes.append(f"{counted(without, 'frame')} without a text file in {folder}")
    return found


def _lines(folder: Path, frames: Path) -> tuple[list[_Line], int]:
    """Of all frames; and how many frames have no file."""
    lines: list[_Line] = []
    without = 0
    sizes: dict[Path, tuple[int, int]] = {}  # a video's frames have one
    frame_of: dict[Path, str] = {}
    for frame in map(os.fsdecode, images(frames)[0]):
        archive = locate(frames / frame).file
        video = archive if kind_of(archive) == VIDEO else None
        file = _text_file(folder, frame, video)
        if file is None:
            without += 1
            continue
        if (other := frame_of.setdefault(file, frame)) != frame:
            raise DataError(
                f"{file}: of {other}, or of {frame}? give a text file for each, in folders as the "
                "frames are"
            )
        content = file.read_text(encoding="utf-8-sig", errors="replace")
        for at, text in enumerate(content.splitlines(), start=1):
            if not (fields := text.split()):
                continue
            where = f"{file}, line {at}"
            if not LEAST <= len(fields) <= MOST:
                raise DataError(f"{where}: class, x, y, w, h, score, track are wanted")
            key = video or frames / frame
            if key not in sizes:
                sizes[key] = _size(frames / frame)
            lines.append(_Line(where, frame, fields, sizes[key], video))
    return lines, without


def _text_file(folder: Path, frame: str, video: Path | None) -> Path | None:
    if video is not None:
        names = [f"{video.stem}_{int(Path(frame).stem)}.txt"]
    else:
        names = [os.fspath(Path(frame).with_suffix(".txt")), f"{Path(frame).stem}.txt"]
    return next((folder / name for name in names if (folder / name).is_file()), None)


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
