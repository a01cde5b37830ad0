"""Names by the user's own regular expression."""

from pathlib import Path

import pytest
from conftest import touch

from distreid.data.manifest import NO_CAMERA, NO_PERSON
from distreid.data.source import open_data
from distreid.errors import DataError, OptionError


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
        "1 file that is no image, ignored (first: 'Thumbs.db')",
        "1 image ignored that the pattern does not fit ('cover.jpg')",
    )


def test_texts_become_numbers_and_other_groups_columns(tmp_path: Path) -> None:
    touch(tmp_path, "bob@door-a probe 17.jpg", "ann@door-b test 3.jpg", "@door-a mine 4.jpg")
    pattern = r"(?P<person>\w+)?@(?P<camera>\S+) (?P<split>\w+) (?P<frame>\d+)"
    with pytest.raises(DataError, match=r"'mine' \(1 row\) is not known; .* query=mine, among"):
        open_data(str(tmp_path), pattern=pattern)
    manifest = open_data(str(tmp_path), pattern=pattern, split_names={"mine": "none"})
    assert manifest.path.tolist()[0] == b"@door-a mine 4.jpg"
    assert manifest.person_id.tolist() == [NO_PERSON, 0, 1]
    assert manifest.camera_id.tolist() == [0, 1, 0]
    assert manifest.split.tolist() == [b"", b"gallery", b"query"]
    assert sorted(manifest.extra) == ["camera_name", "frame", "person_name"]
    assert manifest.extra["person_name"].tolist() == [b"", b"ann", b"bob"]
    assert manifest.extra["frame"].tolist() == [b"4", b"3", b"17"]
    assert "person: 2 names, numbered in sorted order: 'ann', 'bob'" in manifest.notes


def test_values_of_the_split_are_named_and_mapped(tmp_path: Path) -> None:
    touch(tmp_path, "A/001/1.jpg", "A/002/1.jpg", "B/001/1.jpg", "C/001/1.jpg")
    pattern = r"(?P<split>[ABC])/(?P<person>\d+)/"
    with pytest.raises(DataError, match=r"'A' \(2 rows\), 'B' \(1 row\), 'C' \(1 row\) is not"):
        open_data(str(tmp_path), pattern=pattern)
    split_names = {"A": "gallery", "B": "query", "C": "query"}
    manifest = open_data(str(tmp_path), pattern=pattern, split_names=split_names)
    assert manifest.split.tolist() == [b"gallery"] * 2 + [b"query"] * 2
    assert "the pattern's group split: A is gallery, B is query, C is query" in manifest.notes
    with pytest.raises(DataError, match=r"--split-names: no row has D; there are 'A' \(2\)"):
        open_data(str(tmp_path), pattern=pattern, split_names=split_names | {"D": "query"})


def test_folders_of_any_name_may_be_splits_beside_a_pattern(tmp_path: Path) -> None:
    touch(tmp_path, "probing/1_c1.jpg", "A/1_c2.jpg", "gallery/2_c2.jpg")
    names = {"probing": "query", "A": "gallery", "gallery": "none"}
    manifest = open_data(str(tmp_path), pattern=r"(?P<person>\d)_c", split_names=names)
    assert manifest.split.tolist() == [b"gallery", b"", b"query"]
    with pytest.raises(DataError, match="--split-names: no folder B"):
        open_data(str(tmp_path), pattern=r"(?P<person>\d)_c", split_names={"B": "query"})


def test_a_minus_sign_that_the_pattern_leaves_out_is_said(tmp_path: Path) -> None:
    touch(tmp_path, "query/0001_c1s1.jpg", "gallery/-1_c2s1.jpg", "gallery/day-0001_c2s1.jpg")
    notes = open_data(str(tmp_path), pattern=r"(?P<person>\d+)_c(?P<camera>\d+)").notes
    assert (
        "1 image begins with -, and the pattern takes the digits alone: for junk (-1) write "
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
    with pytest.raises(DataError, match=r"fits none of 1 image \(first: 'day/1_c1\.jpg'\)"):
        open_data(str(touch(tmp_path, "day/1_c1.jpg")), pattern=r"(?P<person>\d+)@")
    with pytest.raises(OptionError, match="--layout pattern: give --pattern REGEX"):
        open_data(str(tmp_path), "pattern")
    with pytest.raises(OptionError, match="--pattern: --layout folder has its own names"):
        open_data(str(tmp_path), "folder", pattern=r"(?P<person>\d+)")
