"""What queries find first, as one picture: image beside image, framed right or wrong.

Drawn with Pillow alone; the colours are those of the other pictures.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from distreid.data.manifest import DISTRACTOR, JUNK, NO_CAMERA, NO_PERSON
from distreid.errors import ImageError, printable
from distreid.images.preprocess import pixels_of
from distreid.report.plots import BLUE, GREEN, INK, NO_VALUE, percent


@dataclass(frozen=True, kw_only=True)
class RankedImage:
    """A gallery image in a query's ranking."""

    image: Path
    person: int
    camera: int
    person_name: str = ""
    camera_name: str = ""
    """Where they have names, these are written."""
    score: float
    correct: bool | None
    """Whether it shows the query's person; None if that is not known."""


@dataclass(frozen=True, kw_only=True)
class RankedQuery:
    """A query and what was found for it."""

    image: Path
    person: int
    camera: int
    person_name: str = ""
    camera_name: str = ""
    ap: float
    """Its average precision in 0..1; NaN if it has no match."""
    above: str = ""
    """Written above it instead of that."""
    ranked: Sequence[RankedImage]
    """Best first, without what the protocol leaves out."""


# Of the ranking gallery, in pixels of a screen of double density.
RANKS = 10
PHOTO, FRAME, GAP, MARGIN, QUERY_GAP = (128, 256), 8, 16, 20, 44
CELL = (PHOTO[0] + 2 * FRAME, PHOTO[1] + 2 * FRAME)
WIDEST_ABOVE = CELL[0] + QUERY_GAP - FRAME  # so that it ends before the next cell
ABOVE, BELOW, LEGEND = 36, 76, 56
RED = "#cc3311"
FRAMES = {True: GREEN, False: RED, None: "#999999"}
MEANINGS = {BLUE: "query", GREEN: "same person", RED: "another person"}


def ranking_gallery(rows: Sequence[RankedQuery]) -> bytes:
    """A row for each query: its image framed blue, then its first ten, framed green if they
    show the same person, red if another, grey if that is not known.

    1,812 px wide; 76 px high, and 384 more for each query. An image that cannot be read any
    more is a grey box that says so. Needs no matplotlib.
    """
    width = 2 * MARGIN + (RANKS + 1) * CELL[0] + (RANKS - 1) * GAP + QUERY_GAP
    row_height = ABOVE + CELL[1] + BELOW
    canvas = with_legend(width, LEGEND + len(rows) * row_height + MARGIN)
    for place, row in enumerate(rows):
        top = LEGEND + place * row_height
        above = "no match" if math.isnan(row.ap) else f"AP {percent(row.ap)}"
        _cell(canvas, (MARGIN, top), row, BLUE, [row.above or above])
        for rank, found in enumerate(row.ranked[:RANKS], start=1):
            left = MARGIN + rank * (CELL[0] + GAP) + QUERY_GAP - GAP
            above_found = [str(rank), f"{found.score:.3f}"]
            _cell(canvas, (left, top), found, FRAMES[found.correct], above_found)
    return png(canvas)


def with_legend(width: int, height: int) -> Image.Image:
    """White, with the meanings of the colours in its first `LEGEND` pixels."""
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    left = MARGIN
    for colour, meaning in MEANINGS.items():
        draw.rectangle((left, 22, left + 15, 37), fill=colour)
        draw.text((left + 26, 30), meaning, fill=INK, font=font(24), anchor="lm")
        left += 26 + round(draw.textlength(meaning, font=font(24))) + 40
    return canvas


def png(picture: Image.Image) -> bytes:
    """As a file's bytes."""
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def _cell(
    canvas: Image.Image,
    corner: tuple[int, int],
    shown: RankedQuery | RankedImage,
    colour: str,
    above: list[str],
) -> None:
    """One framed image: the first text above it at the left, the last one at the right."""
    left, top = corner[0], corner[1] + ABOVE
    right, bottom = left + CELL[0] - 1, top + CELL[1] - 1
    draw = ImageDraw.Draw(canvas)
    size = next(n for n in range(26, 0, -1) if font(n).getlength(above[0]) <= WIDEST_ABOVE)
    draw.text((left, top - 8), above[0], fill=INK, font=font(size), anchor="ls")
    for text in above[1:]:
        draw.text((right, top - 8), text, fill=INK, font=font(26), anchor="rs")
    draw.rectangle((left, top, right, bottom), fill=colour)
    canvas.paste(_photo(shown.image), (left + FRAME, top + FRAME))
    for place, text in enumerate(below(shown)):
        text = shortened(printable(text), CELL[0], font(23))
        draw.text((left, bottom + 8 + 27 * place), text, fill="#555555", font=font(23))


def below(shown: RankedQuery | RankedImage) -> tuple[str, str]:
    """What is written below an image: the person and the camera."""
    camera = "no camera" if shown.camera == NO_CAMERA else f"camera {shown.camera}"
    return shown.person_name or _person(shown.person), shown.camera_name or camera


def _photo(file: Path) -> Image.Image:
    """The pixels that the model was given, letterboxed to PHOTO; or a box that says it cannot."""
    try:
        image = Image.fromarray(pixels_of(file))
    except (ImageError, OSError):
        box = Image.new("RGB", PHOTO, NO_VALUE)
        middle = (PHOTO[0] // 2, PHOTO[1] // 2)
        text = "cannot\nbe read"
        ImageDraw.Draw(box).text(middle, text, fill=INK, font=font(24), anchor="mm", align="center")
        return box
    return ImageOps.pad(image, PHOTO, Image.Resampling.BICUBIC, color="#f4f4f4")


def _person(person: int) -> str:
    names = {JUNK: "junk", DISTRACTOR: "distractor", NO_PERSON: "unknown"}
    return names.get(person, f"person {person}")


def shortened(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Its beginning, if the whole is wider."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own."""
    return ImageFont.load_default(size_px)
