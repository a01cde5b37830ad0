"""Rows that are frames of videos: which of them are wanted, and when they were."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distreid.data.archives import archives_of, index_of
from distreid.data.found_boxes import FRAME_COLUMN
from distreid.data.locators import VIDEO, kind_of, locate
from distreid.data.manifest import TIME, Manifest, text_column
from distreid.data.video_files import digits_of, frame_times
from distreid.errors import OptionError


def videos_of(manifest: Manifest) -> list[Path]:
    """The videos that a manifest's rows lie in."""
    return [archive for archive in archives_of(manifest) if kind_of(archive) == VIDEO]


def chosen(manifest: Manifest, every: str = "") -> Manifest:
    """Of each video the frames that `every` asks for: `0.5s` the first at or after each half
    second, `10` each tenth from the first on, nothing all. Rows of videos get the extra columns
    `FRAME_COLUMN` and `TIME`, seconds since the first frame, unless they have them; other rows have
    neither. OptionError for what cannot be meant."""
    videos = videos_of(manifest)
    step = _step(every)
    if not videos:
        if every:
            raise OptionError(f"--every {every}: of videos; {manifest.root} is none")
        return manifest
    rows_of: dict[Path, list[tuple[int, int]]] = {video: [] for video in videos}
    indexes = {video: index_of(video) for video in videos}
    for row in range(len(manifest)):
        place = locate(manifest.file(row))
        if place.file in indexes:
            frame = indexes[place.file].find(os.fsencode(place.member or ""))
            if frame is not None:  # else it is found to be missing when it is read
                rows_of[place.file].append((row, frame))
    frames, seconds = [""] * len(manifest), [""] * len(manifest)
    wanted = np.ones(len(manifest), bool)
    for video, rows in rows_of.items():
        times = frame_times(video, indexes[video])
        taken = None if step is None else _taken(times, *step)
        for row, frame in rows:
            frames[row], seconds[row] = str(frame + 1), f"{round(times[frame], 6):.10g}"
            if taken is not None:
                wanted[row] = taken[frame]
    extra = dict(manifest.extra)
    for name, values in ((FRAME_COLUMN, frames), (TIME, seconds)):
        if name not in extra:
            extra[name] = text_column([value.encode() for value in values])
    notes = manifest.notes
    if step is not None:
        notes = (*notes, f"{wanted.sum():,} of {len(wanted):,} rows taken: every {every}")
    return replace(manifest, extra=extra, notes=notes).take(np.flatnonzero(wanted))


def numbers_of(video: Path, before: str = "") -> Callable[[str], str]:
    """What makes of a frame's number, as a tracker writes it, its name in the video, with
    something before it; other texts stay as they are."""
    digits = digits_of(len(index_of(video)))

    def name(text: str) -> str:
        return f"{before}{int(text):0{digits}d}.ppm" if text.strip().isdecimal() else text

    return name


def _step(every: str) -> tuple[float, bool] | None:
    """The number, and whether it is in seconds."""
    if not every:
        return None
    in_seconds = every.endswith("s")
    try:
        value = float(every.removesuffix("s")) if in_seconds else int(every)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise OptionError(
            f"--every {every}: seconds such as 0.5s, or a number of frames such as 10"
        )
    return value, in_seconds


def _taken(times: NDArray[np.float64], value: float, in_seconds: bool) -> NDArray[np.bool_]:
    """(F,) bool."""
    if not in_seconds:
        each: NDArray[np.bool_] = np.arange(len(times)) % int(value) == 0
        return each
    # A time stamp is rounded: one that is short by it belongs to the next interval already.
    interval = np.floor(times / value + 1e-6)
    return np.concatenate([[True], interval[1:] > interval[:-1]])
