"""What is asked of boxes, and the rule by which they are cut out of their frames.

A box is widened as asked (`aspect` first, then `margin`), both corners are rounded to whole pixels,
half to even, and clipped to the frame when it is read; the second corner is exclusive. A box
without an area then is an image that cannot be read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from distreid.errors import OptionError

Corners = tuple[float, float, float, float]
"""x and y of the first corner, x and y of the second, as they are written."""
RULE = "corners rounded half to even, clipped, the second exclusive"


@dataclass(frozen=True, kw_only=True)
class BoxRequest:
    """What the user asked for of boxes."""

    file: str | None = None
    """A file or folder of boxes; of MOTChallenge a file in each sequence."""
    min_score: float | None = None
    min_size: int | None = None
    """Pixels of width and of height."""
    classes: tuple[str, ...] = ()
    """Names or numbers; none: all."""
    origin: int = 0
    """What the first pixel is counted as."""
    margin: float = 0.0
    """The share of a box's width and height that is added on each side."""
    aspect: float | None = None
    """Width divided by height; the width is made so, around the middle, as DeepSORT does."""

    def check(self) -> None:
        """OptionError if it cannot be meant."""
        if self.origin not in (0, 1):
            raise OptionError(f"--box-origin {self.origin}: 0 or 1")
        if not -0.5 < self.margin < math.inf:
            raise OptionError(f"--box-margin {self.margin}: a share such as 0.1, more than -0.5")
        if self.aspect is not None and not 0 < self.aspect < math.inf:
            raise OptionError(f"--box-aspect {self.aspect}: width / height, such as 0.5")
        if self.min_size is not None and self.min_size < 0:
            raise OptionError(f"--min-size {self.min_size}: pixels, 0 or more")
        if self.min_score is not None and math.isnan(self.min_score):
            raise OptionError("--min-score nan: a number is wanted")

    @property
    def is_asked(self) -> bool:
        """Whether anything is."""
        return self != BoxRequest()

    def identity(self) -> dict[str, Any]:
        """How boxes become pixels, for a run's identity."""
        return {
            "rule": RULE,
            "origin": self.origin,
            "margin": self.margin,
            "aspect": self.aspect,
        }

    def corners(self, box: Corners) -> Corners:
        """A box as written to the one that is cut, not yet rounded, counted from 0."""
        x1, y1, x2, y2 = (value - self.origin for value in box)
        if self.aspect is not None:
            middle, half = (x1 + x2) / 2, self.aspect * (y2 - y1) / 2
            x1, x2 = middle - half, middle + half
        if self.margin:
            dx, dy = self.margin * (x2 - x1), self.margin * (y2 - y1)
            x1, y1, x2, y2 = x1 - dx, y1 - dy, x2 + dx, y2 + dy
        return x1, y1, x2, y2
