"""Persons in folders or names, below folders named query, gallery, test, train, …"""

from pathlib import Path

import pytest
from conftest import touch

from distreid.data.manifest import NO_CAMERA, NO_PERSON
from distreid.data.source import open_data
from distreid.errors import DataError, OptionError


def test_names_that_begin_with_the_person_need_no_cameras(tmp_path: Path) -> None:
    touch(tmp_path, "query/0001_0003.jpg", "gallery/0001_0001.jpg", "gallery/12345_0002.jpg")
    manifest = open_data(str(tmp_path))
    assert manifest.layout == "split_folders"
    assert manifest.person_id.tolist() == [1, 1, 12345]
    assert set(manifest.camera_id.tolist()) == {NO_CAMERA}
    assert manifest.split.tolist() == [b"query", b"gallery", b"gallery"]
    assert manifest.notes == ("person: the number that names begin with; --pattern says otherwise",)


def test_a_folder_in_that_of_the_split_is_a_person(tmp_path: Path) -> None:
    touch(tmp_path, "probe/anna/x.jpg", "probe/cow 17/deep/er.jpg", "Gallery/anna/7_8.png")
    manifest = open_data(str(tmp_path))
    assert manifest.path.tolist()[-1] == b"Gallery/anna/7_8.png"
    assert manifest.person_id.tolist() == [0, 1, 0]
    assert manifest.names("person_name") == {0: "anna", 1: "cow 17"}
    assert manifest.split.tolist() == [b"query", b"query", b"gallery"]
    assert "person: 2 names, numbered in sorted order: 'anna', 'cow 17'" in manifest.notes


def test_all_images_of_a_folder_are_of_one_person(tmp_path: Path) -> None:
    """Also those whose names tell nothing, where others tell a number."""
    for folder in ("probe/p12", "probe/p13", "gallery/p13"):
        touch(tmp_path, *(f"{folder}/{folder[-2:]}_c{camera}_1.jpg" for camera in (1, 2)))
    touch(tmp_path, "probe/p12/extra.jpg", "gallery/p12/more.jpg")
    manifest = open_data(str(tmp_path))
    assert manifest.layout == "split_folders"
    assert dict(zip(manifest.path.tolist(), manifest.person_id.tolist(), strict=True)) == {
        path: 12 if b"/p12/" in path else 13 for path in manifest.path.tolist()
    }


def test_two_folders_of_one_number_are_not_one_person(tmp_path: Path) -> None:
    touch(tmp_path, "query/ab1/1_c1_x.jpg", "query/cd1/1_c1_x.jpg", "gallery/ab01/1_c2_x.jpg")
    message = r"folders ab01 and cd1 are both person 1 by the names in them; .*query\|gallery"
    with pytest.raises(DataError, match=message):
        open_data(str(tmp_path))
    (tmp_path / "query/cd1/1_c1_x.jpg").unlink()
    assert open_data(str(tmp_path)).person_id.tolist() == [1, 1]


def test_train_val_test_are_splits_and_no_persons(tmp_path: Path) -> None:
    touch(tmp_path, "train/7/a.jpg", "val/8/b.jpg", "test/0009/c.jpg")
    manifest = open_data(str(tmp_path))
    assert manifest.layout == "split_folders"
    assert dict(zip(manifest.split.tolist(), manifest.person_id.tolist(), strict=True)) == {
        b"train": 7,
        b"val": 8,
        b"gallery": 9,
    }
    with pytest.raises(DataError, match="folder test, train, val is no person; give --layout"):
        open_data(str(tmp_path), "imagefolder")


def test_with_query_and_gallery_nothing_else_is_read(tmp_path: Path) -> None:
    touch(tmp_path, "query/1/a.jpg", "gallery/1/b.jpg", "train/2/c.jpg", "multi-query/1/d.jpg")
    manifest = open_data(str(tmp_path))
    assert len(manifest) == 2
    assert manifest.notes[0] == "folders not read: multi-query, train"
    assert open_data(str(tmp_path), multi_query=True).rows("multi-query").tolist() == [2]


def test_cameras_in_names_are_read_and_must_be_of_the_folders_person(tmp_path: Path) -> None:
    touch(tmp_path, "query/anna/3_c7.jpg", "gallery/anna/5_c012_1.jpg")
    manifest = open_data(str(tmp_path))
    assert manifest.names("person_name") == {0: "anna"}
    assert manifest.camera_id.tolist() == [7, 12]
    touch(tmp_path, "gallery/p0006/5_c2.jpg")
    with pytest.raises(DataError, match=r"p0006/5_c2.jpg: the folder tells person 6, the name 5"):
        open_data(str(tmp_path))


def test_folders_of_cameras_are_asked_for(tmp_path: Path) -> None:
    touch(tmp_path, "queue/cam01_person01_frame5.jpg", "gallery/cam01/person01_1.jpg")
    with pytest.raises(DataError, match=r"gallery: folders such as cam01 look like cameras") as e:
        open_data(str(tmp_path))
    assert "--pattern '(?P<split>query|gallery)/(?P<camera>[^/]+)/(?P<person>[^/_]+)'" in str(
        e.value
    )
    pattern = r"(?P<split>queue|gallery)/(?P<camera>cam\d+)[_/](?P<person>person\d+)_"
    with pytest.raises(DataError, match=r"'queue' \(1 row\) is not known; .*query=queue"):
        open_data(str(tmp_path), pattern=pattern)
    manifest = open_data(str(tmp_path), pattern=pattern, split_names={"queue": "query"})
    assert manifest.split.tolist() == [b"gallery", b"query"]
    assert manifest.names("camera_name") == {0: "cam01"}


def test_of_two_folders_the_person_is_asked_for_unless_one_is_a_camera(tmp_path: Path) -> None:
    touch(tmp_path, "query/001/cam2/a.jpg", "gallery/001/cam10/b.jpg", "gallery/2/cam2/c.jpg")
    manifest = open_data(str(tmp_path))
    assert manifest.person_id.tolist() == [1, 1, 2]
    assert manifest.names("camera_name") == {0: "cam10", 1: "cam2"}
    assert manifest.camera_id.tolist() == [1, 0, 1]
    touch(tmp_path / "b", "train/001/a.jpg", "test/A/001/a.jpg", "test/B/001/b.jpg")
    with pytest.raises(DataError, match=r"a\.jpg: of two folders, either could be the person") as e:
        open_data(str(tmp_path / "b"))
    assert "'(?P<split>query|test)/[^/]+/(?P<person>[^/]+)/'" in str(e.value)
    second = open_data(str(tmp_path / "b"), pattern="(?P<split>test)/[^/]+/(?P<person>[^/]+)/")
    assert second.person_id.tolist() == [1, 1]


def test_folders_of_any_name_are_splits_if_that_is_said(tmp_path: Path) -> None:
    touch(tmp_path, "Winter/anna/1.jpg", "Summer/anna/2.jpg", "Autumn/x/3.jpg")
    names = {"Winter": "query", "Summer": "gallery"}
    manifest = open_data(str(tmp_path), split_names=names)
    assert manifest.path.tolist() == [b"Winter/anna/1.jpg", b"Summer/anna/2.jpg"]
    assert manifest.split.tolist() == [b"query", b"gallery"]
    with pytest.raises(DataError, match="--split-names: no folder Spring"):
        open_data(str(tmp_path), split_names=names | {"Spring": "query"})
    with pytest.raises(OptionError, match="--split-names: --layout folder has none"):
        open_data(str(tmp_path), "folder", split_names=names)


def test_two_folders_of_one_split_are_asked_for(tmp_path: Path) -> None:
    touch(tmp_path, "query/1/a.jpg", "test/1/b.jpg", "database/1/c.jpg")
    with pytest.raises(DataError, match="database and test are both gallery; say which: --split"):
        open_data(str(tmp_path))
    named = open_data(str(tmp_path), split_names={"test": "gallery"})
    assert named.path.tolist() == [b"query/1/a.jpg", b"test/1/b.jpg"]
    touch(tmp_path, "gallery/1/d.jpg")  # by its own name
    assert open_data(str(tmp_path)).path.tolist() == [b"query/1/a.jpg", b"gallery/1/d.jpg"]


def test_a_test_set_without_labels_has_its_splits(tmp_path: Path) -> None:
    touch(tmp_path, "image_query/000001.jpg", "image_test/000001.jpg", "image_test/000002.jpg")
    manifest = open_data(str(tmp_path))
    assert manifest.split.tolist() == [b"query", b"gallery", b"gallery"]
    assert set(manifest.person_id.tolist()) == {NO_PERSON}
    assert manifest.notes[0] == (
        "image_query: names tell no persons, so no labels; --pattern says otherwise"
    )


@pytest.mark.parametrize("stem", ["img_1", "c3_1", "frame-17"])
def test_a_word_that_names_nobody_is_no_person(tmp_path: Path, stem: str) -> None:
    manifest = open_data(str(touch(tmp_path, f"query/{stem}.jpg", f"gallery/{stem}.jpg")))
    assert manifest.person_id.tolist() == [NO_PERSON] * 2


def test_one_word_before_a_number_is_a_person_and_two_are_asked_for(tmp_path: Path) -> None:
    touch(tmp_path, "query/anna_1.jpg", "query/bert-2.jpg", "gallery/anna_22.jpg")
    assert open_data(str(tmp_path)).person_id.tolist() == [0, 1, 0]
    touch(tmp_path / "cows", "query/cow_17_a.jpg", "gallery/cow_18_b.jpg")
    with pytest.raises(DataError, match=r"cow_17_a.jpg: its name tells the person in a way that"):
        open_data(str(tmp_path / "cows"))


@pytest.mark.parametrize(
    ("person", "names"),
    [
        ("12_1.jpg", ["20260131_120000.jpg", "20260131_120001.jpg", "20260201_070000.jpg"]),
        ("12-1.jpg", ["2025-12-31-12.jpg", "2026-01-01-12.jpg", "2026-01-02-12.jpg"]),
    ],
)
def test_a_date_is_no_person(person: str, names: list[str], tmp_path: Path) -> None:
    touch(tmp_path, *(f"{split}/{name}" for split in ("query", "gallery") for name in names))
    with pytest.raises(DataError, match=r"jpg: names begin with a date, which is no person; say"):
        open_data(str(tmp_path))
    touch(tmp_path, f"gallery/{person}")
    assert 12 in open_data(str(tmp_path)).person_id


def test_that_all_images_are_one_person_is_asked_for(tmp_path: Path) -> None:
    for number in range(3):
        touch(tmp_path, f"query/person_00{number}.jpg", f"gallery/person_00{number}.jpg")
    message = r"query/person_000\.jpg: all images would be one person, person; say how names tell"
    with pytest.raises(DataError, match=message):
        open_data(str(tmp_path))
    manifest = open_data(str(tmp_path), pattern=r"_(?P<person>\d+)")
    assert manifest.person_id.tolist() == [0, 1, 2] * 2
    touch(tmp_path, "gallery/anna_7.jpg")
    assert open_data(str(tmp_path)).layout == "split_folders"


def test_folders_that_are_text_stay_apart(tmp_path: Path) -> None:
    touch(tmp_path, "query/012/a.jpg", "gallery/12/b.jpg", "gallery/-1/c.jpg")
    numbers = open_data(str(tmp_path))
    assert numbers.person_id.tolist() == [12, -1, 12]
    assert "person: 012 and 12 are taken for one number; --ids text keeps them apart" in (
        numbers.notes
    )
    texts = open_data(str(tmp_path), ids="text")
    assert texts.person_id.tolist() == [0, -1, 1]
    assert texts.names("person_name") == {0: "012", 1: "12"}


def test_market1501s_folders_with_other_names_are_read_by_their_names(tmp_path: Path) -> None:
    touch(tmp_path, "query/anna_1.jpg", "bounding_box_test/anna_2.jpg", "bounding_box_train/x.jpg")
    manifest = open_data(str(tmp_path))
    assert manifest.layout == "split_folders"
    assert manifest.split.tolist() == [b"query", b"gallery"]


def test_a_person_is_never_named_like_a_split(tmp_path: Path) -> None:
    touch(tmp_path, "data/query/1/a.jpg", "data/gallery/1/b.jpg", "gallery/query/1.jpg")
    with pytest.raises(DataError, match=r"gallery: folder query is no person; give --data"):
        open_data(str(tmp_path))


def test_what_looks_like_a_known_data_set_but_is_none_is_not_advised(tmp_path: Path) -> None:
    touch(tmp_path, "all_shots/cam_a/person_0001/0001.png", "all_shots/cam_b/person_0001/1.png")
    assert open_data(str(tmp_path)).layout == "folder"
