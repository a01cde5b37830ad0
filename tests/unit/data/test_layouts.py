import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import draw, touch

from distreid.data.manifest import NO_CAMERA, NO_PERSON
from distreid.data.source import open_data
from distreid.data.summary import describe
from distreid.errors import DataError


def test_market1501_reads_person_and_camera_from_the_names_and_sorts_them(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "query/0002_c3s1_000001_00.jpg",
        "query/0001_c6s1_000001_00.jpg",
        "bounding_box_test/0001_c1s1_000001_00.jpg",
        "bounding_box_test/0000_c2s1_000001_00.jpg",
        "bounding_box_test/-1_c4s1_000001_00.jpg",
        "bounding_box_test/Thumbs.db",
        "bounding_box_test/._0001_c1s1_000001_00.jpg",
        "bounding_box_test/cover.jpg",
        "bounding_box_train/0003_c1s1_000001_00.jpg",
    )
    manifest = open_data(str(tmp_path))
    assert manifest.layout == "market1501"
    assert manifest.path.tolist() == [
        b"query/0001_c6s1_000001_00.jpg",
        b"query/0002_c3s1_000001_00.jpg",
        b"bounding_box_test/-1_c4s1_000001_00.jpg",
        b"bounding_box_test/0000_c2s1_000001_00.jpg",
        b"bounding_box_test/0001_c1s1_000001_00.jpg",
    ]
    assert manifest.person_id.tolist() == [1, 2, -1, 0, 1]
    assert manifest.camera_id.tolist() == [6, 3, 4, 2, 1]
    assert manifest.split.tolist() == [b"query"] * 2 + [b"gallery"] * 3
    assert describe(manifest) == [
        "query: 2, 2 persons, 2 cameras",
        "gallery: 3, 1 person, 3 cameras, 1 junk (-1), 1 distractor (0000)",
        "junk is in no ranking, as in all projects; in re-ranking's graph it is with "
        "Person_reID_baseline_pytorch alone, whose data sets keep it",
        "bounding_box_test: 2 files that are no images, ignored "
        "(first: '._0001_c1s1_000001_00.jpg')",
        "bounding_box_test: 1 image ignored, whose names are not like "
        "0001_c1s1_000151_00.jpg (first: 'cover.jpg')",
        "folders not read: bounding_box_train",
    ]


def test_layumi_reads_the_folders_of_the_persons(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "query/0002/0002_c3s1_000001_00.jpg",
        "gallery/-1/-1_c4s1_000001_00.jpg",
        "gallery/0002/0002_c2_f0001.jpg",
        "multi-query/0002/0002_c3s1_000009_00.jpg",
    )
    manifest = open_data(str(tmp_path))
    assert manifest.layout == "layumi"
    assert manifest.person_id.tolist() == [2, -1, 2]
    assert manifest.camera_id.tolist() == [3, 4, 2]
    assert manifest.notes == ("folders not read: multi-query",)
    both = open_data(str(tmp_path), multi_query=True)
    assert both.rows("multi-query").tolist() == [3]


def test_an_imagefolder_numbers_persons_by_sorted_name(tmp_path: Path) -> None:
    touch(tmp_path, "bob/2.jpg", "alice/1.png", "bob/10.jpg")
    manifest = open_data(str(tmp_path))
    assert manifest.layout == "imagefolder"
    assert manifest.path.tolist() == [b"alice/1.png", b"bob/10.jpg", b"bob/2.jpg"]
    assert manifest.person_id.tolist() == [0, 1, 1]
    assert manifest.extra["class"].tolist() == [b"alice", b"bob", b"bob"]
    assert set(manifest.camera_id.tolist()) == {NO_CAMERA}


def test_an_imagefolder_of_numbers_keeps_them(tmp_path: Path) -> None:
    touch(tmp_path, "0007/a.jpg", "-1/b.jpg")
    assert open_data(str(tmp_path)).person_id.tolist() == [-1, 7]


def test_any_other_tree_is_a_folder_without_labels(tmp_path: Path) -> None:
    touch(tmp_path, "x/y/1.jpg", "2.JPEG", "x/3.webp", ".hidden/4.jpg", "notes.txt")
    manifest = open_data(str(tmp_path))
    assert manifest.layout == "folder"
    assert manifest.path.tolist() == [b"2.JPEG", b"x/3.webp", b"x/y/1.jpg"]
    assert set(manifest.person_id.tolist()) == {NO_PERSON}


def test_files_are_sorted_folder_by_folder_not_by_the_text_of_the_path(tmp_path: Path) -> None:
    touch(tmp_path, "a/z.jpg", "a-b/a.jpg", "top.jpg")
    assert open_data(str(tmp_path)).path.tolist() == [b"a/z.jpg", b"a-b/a.jpg", b"top.jpg"]


def test_a_name_that_is_no_utf8_is_kept(tmp_path: Path) -> None:
    name = b"caf\xe9 \n'.jpg"
    draw(tmp_path / "x.jpg", 1)
    os.rename(tmp_path / "x.jpg", os.path.join(os.fsencode(tmp_path), name))
    manifest = open_data(str(tmp_path))
    assert manifest.path.tolist() == [name]
    assert manifest.file(0).exists()


def test_a_link_that_leads_back_ends(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert open_data(str(tmp_path), "folder").path.tolist() == [b"a/1.jpg"]


def test_the_parent_of_a_known_data_set_is_not_taken_for_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, "Market/query/1_c1.jpg", "Market/bounding_box_test/1_c2.jpg")
    with pytest.raises(DataError, match=r"looks like a market1501 data set; give --data .*Market"):
        open_data(str(tmp_path))
    assert open_data(str(tmp_path), "folder").path.shape == (2,)


@pytest.mark.parametrize(
    ("names", "layout", "message"),
    [
        ([], "auto", "no image in this folder"),
        (["readme.txt"], "auto", "no image in this folder; check --data; 1 file that is no image"),
        (["query/1.jpg", "bounding_box_test/1.jpg"], "market1501", "no image named like 0001_c1"),
        (["query/0001_c1s1_000001_00.jpg"], "market1501", "no folder bounding_box_test"),
        (["1.jpg"], "csv", "--layout csv reads a table's file"),
    ],
)
def test_a_folder_without_usable_images_says_why(
    tmp_path: Path, names: list[str], layout: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        open_data(str(touch(tmp_path, *names)), layout)


def test_a_folder_that_is_not_there_is_named() -> None:
    with pytest.raises(DataError, match=r"ftp://x/y: an address of s3, .*, https is wanted"):
        open_data("ftp://x/y")
    with pytest.raises(DataError, match="/no/such: no such file or folder"):
        open_data("/no/such")


def test_a_folder_that_cannot_be_listed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a/1.jpg", "b/2.jpg")
    scandir = os.scandir

    def refuse(place: bytes) -> Iterator[os.DirEntry[bytes]]:
        if os.fsencode(place).endswith(b"/b"):  # the superuser may list everything
            raise PermissionError(13, "Permission denied", os.fsdecode(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="/b: Permission denied; check its permissions"):
        open_data(str(tmp_path))


def test_numbers_that_no_column_holds_are_no_person_and_no_camera(tmp_path: Path) -> None:
    many = "9" * 30
    touch(tmp_path, f"query/{many}_c1s1.jpg", f"query/0001_c{many}s1.jpg", "query/0001_c1s1.jpg")
    touch(tmp_path, "bounding_box_test/0001_c2s1.jpg")
    assert open_data(str(tmp_path)).path.shape == (2 + 1,)
    assert open_data(str(tmp_path)).camera_id.max() < 2**63
    touch(tmp_path / "folders", f"{many}/a.jpg", "1/a.jpg")
    assert open_data(str(tmp_path / "folders")).person_id.tolist() == [0, 1]


def test_of_several_links_to_one_folder_the_first_by_name_is_taken(tmp_path: Path) -> None:
    for group in range(9):  # in no order that a file system lists, all come first by chance
        touch(tmp_path, f"z{group}/1.jpg")
        for name in "cab":
            (tmp_path / f"{name}{group}").symlink_to(f"z{group}")
    found = open_data(str(tmp_path), "folder").path.tolist()
    assert found == [f"a{group}/1.jpg".encode() for group in range(9)]


def test_a_folder_that_is_not_read_cannot_command_the_terminal(tmp_path: Path) -> None:
    touch(tmp_path, "query/0001_c1s1.jpg", "bounding_box_test/0001_c2s1.jpg", "\x1b[2J\udcff/a.txt")
    assert open_data(str(tmp_path)).notes == ("folders not read: \\x1b[2J\\udcff",)
