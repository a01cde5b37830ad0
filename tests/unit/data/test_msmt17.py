"""MSMT17: list files, in both versions."""

from pathlib import Path

import pytest
from conftest import touch

from distreid.data.source import open_data
from distreid.data.summary import describe
from distreid.errors import DataError


def msmt17(root: Path, folder: str) -> Path:
    touch(root, f"{folder}/0000/0000_000_01_0303morning_0008_0.jpg", f"{folder}/Thumbs.db")
    (root / "list_query.txt").write_text(
        "0001/0001_000_15_0303noon_0008_0.jpg 1 \r\n\r\n0000/0000_000_01_0303morning_0008_0.jpg 0\n"
    )
    (root / "list_gallery.txt").write_text(
        "0000/0000_002_04_0303morning 2_0008_0.jpg 0\n0000/0000_001_03_0303morning_0008_0.jpg 0"
    )
    (root / "list_train.txt").write_text("0009/0009_000_01_0303morning_0008_0.jpg 9\n")
    return root


@pytest.mark.parametrize(("folder", "version"), [("test", "V1"), ("mask_test_v2", "V2")])
def test_msmt17_is_read_by_its_lists(tmp_path: Path, folder: str, version: str) -> None:
    manifest = open_data(str(msmt17(tmp_path, folder)))
    assert manifest.layout == "msmt17"
    # Sorted, whatever the lists' order, and a name may hold a space.
    assert manifest.path.tolist() == [
        f"{folder}/0000/0000_000_01_0303morning_0008_0.jpg".encode(),
        f"{folder}/0001/0001_000_15_0303noon_0008_0.jpg".encode(),
        f"{folder}/0000/0000_001_03_0303morning_0008_0.jpg".encode(),
        f"{folder}/0000/0000_002_04_0303morning 2_0008_0.jpg".encode(),
    ]
    assert manifest.person_id.tolist() == [0, 1, 0, 0]
    assert manifest.camera_id.tolist() == [1, 15, 3, 4]
    assert manifest.split.tolist() == [b"query"] * 2 + [b"gallery"] * 2
    assert manifest.notes[0].startswith(f"MSMT17 {version}")
    # Its person 0 is a person.
    assert describe(manifest)[:2] == [
        "query: 2, 2 persons, 2 cameras",
        "gallery: 2, 1 person, 2 cameras",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0000/0000_000_01_x_0.jpg 0\n0000.jpg\n", "list_query.txt, line 2: '0000.jpg' is no name"),
        ("0000/0000_000_01_x_0.jpg one\n", "line 1: the last word is 'one'"),
        ("0000/cover.jpg 0\n", "line 1: '0000/cover.jpg' is not named like 0000/0000_000_01"),
        ("0000/0000_000_c1_x_0.jpg 0\n", "line 1: the camera is 'c1'"),
        ("0000/0000_000_01_x_0.jpg 0\n" * 2, "0_000_01_x_0.jpg: listed twice for query; leave out"),
        (
            "0000/0000_001_03_0303morning_0008_0.jpg 5\n",
            "0_001_03_0303morning_0008_0.jpg: listed as person 5 and as 0; mend the list",
        ),
        ("\n", "list_query.txt: no line in it; copy it again"),
    ],
)
def test_a_broken_list_names_the_line(tmp_path: Path, text: str, message: str) -> None:
    (msmt17(tmp_path, "test") / "list_query.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        open_data(str(tmp_path))


def test_a_missing_part_of_msmt17_is_named(tmp_path: Path) -> None:
    (msmt17(tmp_path, "elsewhere") / "list_gallery.txt").unlink()
    with pytest.raises(DataError, match=r"no folder test \(V1\) or mask_test_v2 \(V2\)"):
        open_data(str(tmp_path))
    touch(tmp_path, "test/1.jpg")
    with pytest.raises(DataError, match=r"no file list_gallery\.txt, which msmt17 has"):
        open_data(str(tmp_path))
