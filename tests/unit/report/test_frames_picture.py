"""Boxes drawn in their frames: around what was cut out, bounded, and coloured as they are right."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from conftest import opened
from PIL import Image, ImageColor

from distreid.errors import ImageError
from distreid.report.frames_picture import CELL, framed, frames_gallery
from distreid.report.plots import BLUE, GREEN
from distreid.report.ranking_picture import RankedImage, RankedQuery


@pytest.fixture
def frame(tmp_path: Path) -> Path:
    Image.new("RGB", (300, 200), "#808080").save(tmp_path / "a.png")
    return tmp_path / "a.png"


def boxed(frame: Path, *corners: int) -> Path:
    return Path(f"{frame}#xyxy={','.join(map(str, corners))}")


def test_a_box_is_drawn_around_what_is_cut(frame: Path) -> None:
    pixels = np.asarray(framed(boxed(frame, 100, 50, 140, 150)))
    blue = (pixels == ImageColor.getrgb(BLUE)).all(axis=-1)
    rows, columns = np.flatnonzero(blue.any(axis=1)), np.flatnonzero(blue.any(axis=0))
    assert rows.min() == 47 and rows.max() == 152  # a line of three pixels outside the box
    assert columns.min() == 97 and columns.max() == 142
    assert (pixels[55:145, 105:135] == 128).all() and (pixels[:40] == 128).all()


def test_frames_are_bounded_and_the_box_goes_along(frame: Path) -> None:
    small = framed(boxed(frame, 200, 50, 260, 150), GREEN, 150, 1000)
    assert small.size == (150, 100)
    green = (np.asarray(small) == ImageColor.getrgb(GREEN)).all(axis=-1)
    columns = np.flatnonzero(green.any(axis=0))
    assert 97 <= columns.min() <= 100 and 129 <= columns.max() <= 132
    assert framed(boxed(frame, 0, 0, 9, 9), GREEN, 1000, 50).size == (75, 50)
    assert framed(boxed(frame, -90, -90, 900, 900)).size == (300, 200)
    assert (np.asarray(framed(frame)) == 128).all()  # no box: the image
    with pytest.raises(ImageError, match="no area inside its frame"):
        framed(boxed(frame, 300, 0, 320, 50))


def test_the_frames_of_hits_stand_beside_the_query_s(frame: Path) -> None:
    def hit(image: Path, correct: bool | None) -> RankedImage:
        return RankedImage(image=image, person=1, camera=1, score=0.5, correct=correct)

    def row(image: Path, *hits: RankedImage) -> RankedQuery:
        return RankedQuery(image=image, person=1, camera=1, ap=math.nan, ranked=hits)

    assert frames_gallery([row(frame, hit(frame, True))]) is None
    shown = boxed(frame, 100, 50, 140, 150)
    missing = boxed(frame.with_name("gone.png"), 1, 1, 9, 9)
    png = frames_gallery([row(frame), row(shown, hit(shown, True), hit(missing, False))])
    assert png is not None
    picture = np.asarray(opened(png).convert("RGB"))[60:]
    assert picture.shape[1] == 1768
    for place, colour in ((0, BLUE), (1, GREEN)):
        left = 20 + place * (CELL[0] + 16)
        cell = picture[:, left : left + CELL[0]].reshape(-1, 3).astype(int)
        near = abs(cell - ImageColor.getrgb(colour)).sum(axis=-1) < 30
        assert near.sum() > 500, place
