import math
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import opened, pixel
from PIL import Image, ImageColor, ImageDraw

from distreid.data.manifest import DISTRACTOR, JUNK, NO_CAMERA, NO_PERSON
from distreid.report.plots import BLUE, GREEN, NO_VALUE
from distreid.report.ranking_picture import RED, RankedImage, RankedQuery, ranking_gallery

COLOURS = ["#ff0000", "#00ff00", "#0000ff", "#ffff00", "#00ffff", "#ff00ff"] * 2


@pytest.fixture
def query(tmp_path: Path) -> RankedQuery:
    """Twelve one-coloured gallery images; the second and the fifth are right."""
    for name, colour in enumerate(["#808080", *COLOURS]):
        Image.new("RGB", (64, 128), colour).save(tmp_path / f"{name}.png")
    ranked = [
        RankedImage(
            image=tmp_path / f"{rank}.png",
            person=7 if rank in (2, 5) else 100 + rank,
            camera=rank,
            score=1 - rank / 100,
            correct=rank in (2, 5),
        )
        for rank in range(1, 13)
    ]
    return RankedQuery(
        image=tmp_path / "0.png", person=7, camera=3, ap=0.4567, ranked=tuple(ranked)
    )


def frame(png: bytes, place: int, row: int = 0) -> tuple[int, ...]:
    """The frame's colour at place 0 (the query), 1, … of a row."""
    return pixel(png, left(place) + 2, 300 + 384 * row)


def inside(png: bytes, place: int, row: int = 0) -> tuple[int, ...]:
    """The colour of the middle of an image."""
    return pixel(png, left(place) + 72, 200 + 384 * row)


def left(place: int) -> int:
    return 20 if place == 0 else 20 + 160 * place + 28


def test_the_query_is_framed_blue_the_right_green_and_the_wrong_red(query: RankedQuery) -> None:
    png = ranking_gallery([query, replace(query, ranked=query.ranked[1:])])
    assert opened(png).size == (1812, 76 + 2 * 384)
    blue, green, red = map(ImageColor.getrgb, (BLUE, GREEN, RED))
    right = [place in (2, 5) for place in range(1, 12)]
    for row, expected in enumerate((right[:10], right[1:])):
        assert frame(png, 0, row) == blue
        assert [frame(png, place, row) for place in range(1, 11)] == [
            green if is_right else red for is_right in expected
        ]


def test_every_image_stands_at_its_rank_and_only_ten_are_drawn(query: RankedQuery) -> None:
    png = ranking_gallery([query])
    assert inside(png, 0) == (128, 128, 128)
    assert [inside(png, place) for place in range(1, 11)] == [
        ImageColor.getrgb(colour) for colour in COLOURS[:10]
    ]


def test_rank_score_person_camera_and_ap_are_written(
    query: RankedQuery, monkeypatch: pytest.MonkeyPatch
) -> None:
    special = [
        replace(query.ranked[0], person=person, camera=NO_CAMERA)
        for person in (JUNK, DISTRACTOR, NO_PERSON)
    ]
    written: list[str] = []
    monkeypatch.setattr(
        ImageDraw.ImageDraw, "text", lambda _, xy, text, **style: written.append(text)
    )
    ranking_gallery([replace(query, ranked=[*query.ranked[:2], *special], ap=0.4567)])
    ranking_gallery([replace(query, ranked=[], ap=math.nan)])
    assert written == [
        *("query", "same person", "another person"),
        *("AP 45.7 %", "person 7", "camera 3"),
        *("1", "0.990", "person 101", "camera 1"),
        *("2", "0.980", "person 7", "camera 2"),
        *("3", "0.990", "junk", "no camera"),
        *("4", "0.990", "distractor", "no camera"),
        *("5", "0.990", "unknown", "no camera"),
        *("query", "same person", "another person"),
        *("no match", "person 7", "camera 3"),
    ]


def test_names_are_written_and_shortened_to_the_width_of_the_image(
    query: RankedQuery, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "entrance of the northern building"
    written: list[str] = []
    monkeypatch.setattr(
        ImageDraw.ImageDraw, "text", lambda _, xy, text, **style: written.append(text)
    )
    ranking_gallery([replace(query, ranked=[], person_name="cow\n17", camera_name=long)])
    person, camera = written[-2:]
    assert person == "cow\\n17"
    assert camera.endswith("…") and long.startswith(camera[:-1]) and 5 < len(camera) < 20


def test_an_image_that_cannot_be_read_is_a_grey_box_with_words(
    query: RankedQuery, tmp_path: Path
) -> None:
    (tmp_path / "2.png").write_bytes(b"no image")
    (tmp_path / "3.png").unlink()
    png = ranking_gallery([query])
    grey = ImageColor.getrgb(NO_VALUE)
    for place in (2, 3):
        box = opened(png).convert("RGB").crop((left(place) + 8, 100, left(place) + 136, 356))
        colours = {colour for _, colour in box.getcolors(1 << 16) or []}
        assert grey in colours
        assert len(colours) > 1, "the words"
        assert box.getpixel((5, 5)) == grey
    assert inside(png, 4) == ImageColor.getrgb(COLOURS[3])
    assert frame(png, 2) == ImageColor.getrgb(GREEN)


def test_images_keep_their_shape_in_the_middle_of_their_box(
    query: RankedQuery, tmp_path: Path
) -> None:
    Image.new("RGB", (300, 100), "#ff0000").save(tmp_path / "1.png")
    png = ranking_gallery([query])
    box = opened(png).convert("RGB").crop((left(1) + 8, 100, left(1) + 136, 356))
    rows = [y for y in range(256) if box.getpixel((64, y)) == (255, 0, 0)]
    assert 40 <= len(rows) <= 44  # 128 / 3
    assert abs(rows[0] - (255 - rows[-1])) <= 1


def test_what_is_not_known_to_be_right_or_wrong_is_framed_grey(query: RankedQuery) -> None:
    png = ranking_gallery([replace(query, ranked=[replace(query.ranked[0], correct=None)])])
    red, green, blue = frame(png, 1)
    assert red == green == blue == 0x99
    assert frame(png, 2) == (255, 255, 255)


def test_the_same_rankings_give_the_same_bytes(query: RankedQuery) -> None:
    assert ranking_gallery([query]) == ranking_gallery([query])
