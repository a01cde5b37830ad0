"""What a file of boxes says, whatever its form."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from distreid.data.box_request import Corners
from distreid.errors import DataError

TRACK_COLUMN, PERSON_COLUMN, CAMERA_COLUMN, TIME_COLUMN = (
    *("tracklet", "person_id", "camera_id", "time"),
)
FRAME_COLUMN = "frame"  # a frame's number in its video, from 1
ID_COLUMN = "id"  # a tracker's number alone, for those who ask for it


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
        /,  # columns may have these names, too
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


def number(text: str, where: str, what: str) -> float:
    """A finite number as it is written; DataError names the place of any other text."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{where}: {what} is {text!r}; it must be a number")
    return value
