"""Names by the user's own regular expression."""

from pathlib import Path

import pytest
from conftest import touch

from distreid.datasets import open_data
from distreid.errors import DataError, OptionError
from distreid.manifest import NO_CAMERA, NO_PERSON


def test_groups_tell_person_and_camera_and_folders_the_split(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "Query/12_c3.jpg",
        "gallery/day 2/0012_c11.png",
        "gallery/-1_c4.jpg",
        "train/7_c1.jpg",
        "cover.jpg",
        "Thumbs.db",
    )
    manifest = open_data(str(tmp_path), pattern=r"(?P<person>-1|\d+)_c(?P<camera>\d+)")
    assert manifest.layout == "pattern"
    assert manifest.path.tolist() == [
        b"Query/12_c3.jpg",
        b"gallery/-1_c4.jpg",
        b"gallery/day 2/0012_c11.png",
        b"train/7_c1.jpg",
    ]
    assert manifest.person_id.tolist() == [12, -1, 12, 7]
    assert manifest.camera_id.tolist() == [3, 4, 11, 1]
    assert manifest.split.tolist() == [b"query", b"gallery", b"gallery", b""]
    assert manifest.extra == {}
    assert manifest.notes[:2] == (
        "1 files ignored that are no images (first: 'Thumbs.db')",
        "1 images ignored that the pattern does not fit ('cover.jpg')",
    )


def test_texts_become_numbers_and_other_groups_columns(tmp_path: Path) -> None:
    touch(tmp_path, "bob@door-a probe 17.jpg", "ann@door-b test 3.jpg", "@door-a mine 4.jpg")
    pattern = r"(?P<person>\w+)?@(?P<camera>\S+) (?P<split>\w+) (?P<frame>\d+)"
    manifest = open_data(str(tmp_path), pattern=pattern)
    assert manifest.path.tolist()[0] == b"@door-a mine 4.jpg"
    assert manifest.person_id.tolist() == [NO_PERSON, 0, 1]
    assert manifest.camera_id.tolist() == [0, 1, 0]
    assert manifest.split.tolist() == [b"mine", b"gallery", b"query"]
    assert sorted(manifest.extra) == ["camera", "frame", "person"]
    assert manifest.extra["person"].tolist() == [b"", b"ann", b"bob"]
    assert manifest.extra["frame"].tolist() == [b"4", b"3", b"17"]
    assert "person_id holds the places in sorted order of the group person" in manifest.notes


def test_a_minus_sign_that_the_pattern_leaves_out_is_said(tmp_path: Path) -> None:
    touch(tmp_path, "query/0001_c1s1.jpg", "gallery/-1_c2s1.jpg", "gallery/day-0001_c2s1.jpg")
    notes = open_data(str(tmp_path), pattern=r"(?P<person>\d+)_c(?P<camera>\d+)").notes
    assert (
        "1 images begin with -, and the pattern takes the digits alone: for junk (-1) write "
        r"(?P<person>-1|\d+)"
    ) in notes
    junk = open_data(str(tmp_path), pattern=r"(?P<person>-1|\d+)_c(?P<camera>\d+)")
    assert junk.person_id.tolist() == [-1, 1, 1]
    assert not any("begin with -" in note for note in junk.notes)
    assert (
        open_data(str(tmp_path), pattern=r"c(?P<camera>\d)").person_id.tolist() == [NO_PERSON] * 3
    )


def test_a_pattern_without_camera_leaves_it_unknown(tmp_path: Path) -> None:
    manifest = open_data(str(touch(tmp_path, "p1.jpg")), pattern=r"p(?P<person>\d)")
    assert manifest.camera_id.tolist() == [NO_CAMERA]
    assert manifest.split.tolist() == [b""]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (r"(?P<person>\d+", "missing \\), unterminated subpattern"),
        (r"\d+_c\d", "no named group; write for example"),
    ],
)
def test_a_pattern_that_is_none_is_refused(tmp_path: Path, pattern: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        open_data(str(touch(tmp_path, "1_c1.jpg")), pattern=pattern)


def test_a_pattern_that_fits_nothing_shows_a_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"fits none of 1 images \(first: 'day/1_c1\.jpg'\)"):
        open_data(str(touch(tmp_path, "day/1_c1.jpg")), pattern=r"(?P<person>\d+)@")
    with pytest.raises(OptionError, match="a pattern goes with --layout pattern"):
        open_data(str(tmp_path), "pattern")
