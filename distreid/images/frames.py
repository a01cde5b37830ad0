"""Boxes cut out of frames, each frame decoded once for boxes that follow each other."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distreid.data.locators import Box, Locator
from distreid.errors import ImageError

Pixels = NDArray[np.uint8]
"""(h, w, 3) RGB."""
NO_AREA = "the box has no area inside its frame"


def cut(frame: Pixels, box: Box) -> Pixels:
    """What of a box lies in its frame, the second corner exclusive: a view, which keeps the whole
    frame in memory. ImageError if nothing does."""
    height, width = frame.shape[:2]
    x1, y1, x2, y2 = box
    x1, y1, x2, y2 = max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)
    if x1 >= x2 or y1 >= y2:
        raise ImageError(f"{NO_AREA} of {width}×{height} pixels")
    return frame[y1:y2, x1:x2]


def as_png(pixels: Pixels) -> bytes:
    """The same pixels as a file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


class LastFrame:
    """Decodes frames, and keeps the last one, or why it could not be decoded."""

    def __init__(self, load: Callable[[Path], Pixels]) -> None:
        self.load = load
        self._of: tuple[Path, str | None] | None = None
        self._frame: Pixels | ImageError | FileNotFoundError

    def cut(self, place: Locator, box: Box) -> Pixels:
        """The pixels of a box; raises what `load` raises, and ImageError as `cut`."""
        of = place.file, place.member
        if of != self._of:
            try:
                self._frame = self.load(place.frame)
            except (ImageError, FileNotFoundError) as error:
                self._frame = error
            self._of = of
        if isinstance(self._frame, Exception):
            raise self._frame
        return cut(self._frame, box)
