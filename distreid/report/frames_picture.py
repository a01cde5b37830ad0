"""Boxes in their frames: one as a picture of its own, and those of queries side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps

from distreid.data.locators import locate
from distreid.errors import ImageError, printable
from distreid.images.frames import cut
from distreid.images.preprocess import pixels_of
from distreid.report.plots import BLUE, INK, NO_VALUE
from distreid.report.ranking_picture import (
    FRAMES,
    RankedImage,
    RankedQuery,
    below,
    font,
    png,
    shortened,
    with_legend,
)

SHOWN = 3
"""Hits of a query."""
CELL, GAP, MARGIN, LEGEND, ABOVE, BELOW = (420, 316), 16, 20, 56, 34, 36  # pixels
EDGE = "#ffffff"  # beside the line of a box, so that it is seen on any ground


def framed(
    file: Path, colour: str = BLUE, width: int | None = None, height: int | None = None
) -> Image.Image:
    """The frame of a box with the box drawn in it, not wider and higher than said; of an image
    that is no box, the image.

    ImageError if the frame cannot be read, or nothing of the box lies in it; FileNotFoundError.
    """
    place = locate(file)
    frame = pixels_of(place.frame)
    picture = Image.fromarray(frame)
    sides = ((picture.width, width), (picture.height, height))
    scale = min([1.0, *(most / side for side, most in sides if most)])
    if scale < 1:
        picture = picture.resize([max(1, round(side * scale)) for side in picture.size])
    if place.box is not None:
        cut(frame, place.box)  # or nothing of it can be seen
        _draw(picture, [round(value * scale) for value in place.box], colour)
    return picture


def _draw(picture: Image.Image, box: list[int], colour: str) -> None:
    """Around the box rather than on it, and never out of sight."""
    line = max(2, round(max(picture.size) / 110))
    x1, y1, x2, y2 = box
    right, bottom = picture.width - 1, picture.height - 1
    corners = (
        min(max(0, x1 - line), max(0, right - 2 * line)),
        min(max(0, y1 - line), max(0, bottom - 2 * line)),
        max(min(right, x2 + line - 1), min(right, 2 * line)),
        max(min(bottom, y2 + line - 1), min(bottom, 2 * line)),
    )
    draw = ImageDraw.Draw(picture)
    draw.rectangle(corners, outline=EDGE, width=line + 1)
    draw.rectangle(corners, outline=colour, width=line)


def has_box(shown: RankedQuery | RankedImage) -> bool:
    """Whether an image is a box of a frame."""
    return locate(shown.image).box is not None


def frames_gallery(rows: Sequence[RankedQuery]) -> bytes | None:
    """A PNG with a row for each query that has a box, or finds one: its frame, and those of the
    first it finds, the boxes coloured as in `ranking_gallery`. None where no row has a box.

    1,768 px wide; 76 px high, and 386 more for each query.
    """
    rows = [row for row in rows if has_box(row) or any(map(has_box, row.ranked[:SHOWN]))]
    if not rows:
        return None
    row_height = ABOVE + CELL[1] + BELOW
    width = 2 * MARGIN + (SHOWN + 1) * CELL[0] + SHOWN * GAP
    canvas = with_legend(width, LEGEND + len(rows) * row_height + MARGIN)
    for number, row in enumerate(rows):
        top = LEGEND + number * row_height
        _cell(canvas, (MARGIN, top), row, BLUE, row.above.strip() or "query")
        for rank, found in enumerate(row.ranked[:SHOWN], start=1):
            corner = (MARGIN + rank * (CELL[0] + GAP), top)
            _cell(canvas, corner, found, FRAMES[found.correct], f"{rank}   {found.score:.3f}")
    return png(canvas)


def _cell(
    canvas: Image.Image,
    corner: tuple[int, int],
    shown: RankedQuery | RankedImage,
    colour: str,
    above: str,
) -> None:
    left, top = corner[0], corner[1] + ABOVE
    draw = ImageDraw.Draw(canvas)
    draw.text((left, top - 8), shortened(above, CELL[0], font(24)), fill=INK, font=font(24),
              anchor="ls")  # fmt: skip
    canvas.paste(_fitted(shown.image, colour), (left, top))
    text = ", ".join(filter(str.strip, (*below(shown), _frame_name(shown.image))))
    text = shortened(printable(text), CELL[0], font(22))
    draw.text((left, top + CELL[1] + 6), text, fill="#555555", font=font(22))


def _frame_name(file: Path) -> str:
    place = locate(file)
    return Path(place.member).stem if place.member else place.file.name


def _fitted(file: Path, colour: str) -> Image.Image:
    """The frame within a cell; or a box that says that it cannot be read."""
    try:
        picture = framed(file, colour, *CELL)
    except (ImageError, OSError):
        picture = Image.new("RGB", CELL, NO_VALUE)
        middle = (CELL[0] // 2, CELL[1] // 2)
        ImageDraw.Draw(picture).text(
            middle, "cannot be read", fill=INK, font=font(24), anchor="mm", align="center"
        )
    return ImageOps.pad(picture, CELL, Image.Resampling.BICUBIC, color="#f4f4f4")
