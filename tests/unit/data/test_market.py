"""Market-1501 and what is arranged like it, each with the names that it really has."""

from pathlib import Path

import pytest
from conftest import touch

from distreid.data.source import open_data
from distreid.data.summary import describe
from distreid.errors import DataError, OptionError

DUKE = (
    "query/0005_c2_f0046985.jpg",
    "bounding_box_test/0005_c8_f0046985.jpg",
    "bounding_box_test/0002_c1_f0044158.jpg",
    "bounding_box_test/Thumbs.db",
    "bounding_box_train/0001_c2_f0046182.jpg",
)


def test_duke_is_told_from_market1501_by_its_names(tmp_path: Path) -> None:
    manifest = open_data(str(touch(tmp_path, *DUKE)))
    assert manifest.layout == "dukemtmcreid"
    assert manifest.path.tolist()[1:] == [
        b"bounding_box_test/0002_c1_f0044158.jpg",
        b"bounding_box_test/0005_c8_f0046985.jpg",
    ]
    assert manifest.person_id.tolist() == [5, 2, 5]
    assert manifest.camera_id.tolist() == [2, 1, 8]


def test_occluded_duke_is_told_by_the_name_of_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = touch(tmp_path / "Occluded_Duke", *DUKE)
    assert open_data(str(root)).layout == "occluded_duke"
    monkeypatch.chdir(root)
    assert open_data(".").layout == "occluded_duke"
    with pytest.raises(DataError, match="folder Occluded_Duke looks like a occluded_duke"):
        open_data(str(tmp_path))


@pytest.mark.parametrize("boxes", ["detected", "labeled"])
def test_cuhk03_np_is_told_by_the_name_of_its_folder(tmp_path: Path, boxes: str) -> None:
    root = touch(
        tmp_path / "cuhk03-np" / boxes, "query/0003_c1_1.png", "bounding_box_test/0003_c2_6.png"
    )
    manifest = open_data(str(root))
    assert manifest.layout == f"cuhk03_np_{boxes}"
    assert manifest.person_id.tolist() == [3, 3]
    assert manifest.camera_id.tolist() == [1, 2]


def test_the_500k_distractors_are_nobody_whatever_they_are_called(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "query/0001_c1s1_000151_01.jpg",
        "bounding_box_test/0001_c2s1_000151_01.jpg",
        "images/0000_c5s3_000001_01.jpg",
        "images/0001_c5s3_000001_02.jpg",
        "images/0012345.jpg",
    )
    alone = open_data(str(tmp_path))
    assert (alone.layout, len(alone)) == ("market1501", 2)
    assert alone.notes == ("folders not read: images",)
    more = open_data(str(tmp_path), "market1501_500k")
    assert more.person_id.tolist() == [1, 1, 0, 0, 0]
    assert more.camera_id.tolist() == [1, 2, 5, 5, -1]
    assert more.split.tolist() == [b"query"] + [b"gallery"] * 4
    assert describe(more)[1] == "gallery: 4, 1 person, 2 cameras, 3 distractors (0000)"


def test_a_missing_part_of_market1501_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "bounding_box_test/0001_c2s1_000151_01.jpg")
    with pytest.raises(DataError, match="no folder query, which market1501 has"):
        open_data(str(tmp_path))
    touch(tmp_path, "query/0001_c1s1_000151_01.jpg")
    with pytest.raises(DataError, match="no folder images, which market1501_500k has"):
        open_data(str(tmp_path), "market1501_500k")
    with pytest.raises(DataError, match="no folder gt_bbox, which market1501 has"):
        open_data(str(tmp_path), multi_query=True)


def test_the_multi_query_images_of_market1501_come_last(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "query/0001_c1s1_000151_00.jpg",
        "bounding_box_test/0001_c2s1_000151_01.jpg",
        "gt_bbox/0001_c1s1_000201_00.jpg",
    )
    manifest = open_data(str(tmp_path), multi_query=True)
    assert manifest.split.tolist() == [b"query", b"gallery", b"multi-query"]


@pytest.mark.parametrize(
    ("name", "person", "camera"),
    [
        ("0000/0000_000_01_0303morning_0008_0.jpg", 0, 1),  # prepare_MSMT.py, test_MSMT.py
        ("0012/0012_003_15_0113noon_1022_2_ex.jpg", 12, 15),
        ("v0002/0002_c012_00030600_0.jpg", 2, 12),  # prepare_VeRi.py
        ("00012/00012_c1_000001.jpg", 12, 1),
        ("005/ca_005_45.bmp", 5, 1),  # prepare_viper.py
        ("005/cb_005_90.bmp", 5, 2),
        ("0005/0005_c2_f0046985.jpg", 5, 2),  # prepare_Duke.py
    ],
)
def test_what_the_prepare_scripts_write_is_read(
    tmp_path: Path, name: str, person: int, camera: int
) -> None:
    manifest = open_data(str(touch(tmp_path, f"query/{name}", f"gallery/{name}")))
    assert manifest.layout == "layumi"
    assert manifest.person_id.tolist() == [person] * 2
    assert manifest.camera_id.tolist() == [camera] * 2
    said = [note for note in manifest.notes if "itself reads four digits of the person" in note]
    assert bool(said) == (name in ("v0002/0002_c012_00030600_0.jpg",))


def test_ids_of_five_digits_and_cameras_of_three_are_not_cut(tmp_path: Path) -> None:
    for person in ("00012", "00013", "10012"):
        touch(
            tmp_path, f"query/{person}/{person}_c001_1.jpg", f"gallery/{person}/{person}_c012.jpg"
        )
    manifest = open_data(str(tmp_path))
    assert manifest.layout == "layumi"
    assert manifest.person_id.tolist() == [12, 13, 10012] * 2
    assert manifest.camera_id.tolist() == [1] * 3 + [12] * 3
    assert "names such as 10012_c001_1.jpg, and so takes several for one" in manifest.notes[-1]


def test_a_folder_and_a_name_that_tell_different_persons_are_refused(tmp_path: Path) -> None:
    touch(
        tmp_path, "query/0001/0001_c1.jpg", "gallery/0001/0001_c2.jpg", "gallery/0002/0003_c2.jpg"
    )
    message = "gallery/0002/0003_c2.jpg: the folder tells person 0002, the name 3; mend one, or"
    with pytest.raises(DataError, match=message) as caught:
        open_data(str(tmp_path))
    pattern = str(caught.value).split("--pattern '")[1][:-1]
    assert open_data(str(tmp_path), pattern=pattern).person_id.tolist() == [1, 2, 1]


def test_two_folders_of_one_number_are_not_one_person(tmp_path: Path) -> None:
    names = [f"{sex}1/1_c{{}}_{sex}.jpg" for sex in "mf"]
    touch(tmp_path, *(f"query/{name.format(1)}" for name in names))
    touch(tmp_path, *(f"gallery/{name.format(2)}" for name in names))
    message = "folders f1 and m1 are both person 1 by the names in them; mend one, or give --patt"
    with pytest.raises(DataError, match=message) as caught:
        open_data(str(tmp_path), "layumi")
    pattern = str(caught.value).split("--pattern '")[1][:-1]
    assert open_data(str(tmp_path), pattern=pattern).person_id.tolist() == [0, 1, 0, 1]


def test_person_0_of_a_query_is_no_distractor(tmp_path: Path) -> None:
    name = "0000/0000_000_01_0303morning_0008_0.jpg"
    manifest = open_data(str(touch(tmp_path, f"query/{name}", f"gallery/{name}")))
    assert describe(manifest)[1] == "gallery: 1, 1 person, 1 camera"


def test_what_a_layout_does_not_have_is_refused(tmp_path: Path) -> None:
    root = str(touch(tmp_path, *DUKE))
    with pytest.raises(OptionError, match="--multi-query: dukemtmcreid has no multi-query images"):
        open_data(root, multi_query=True)
    with pytest.raises(OptionError, match="--split 1: dukemtmcreid has splits 0 to 0"):
        open_data(root, split=1)
    with pytest.raises(OptionError, match="--pattern: --layout dukemtmcreid has its own names"):
        open_data(root, "dukemtmcreid", pattern="(?P<person>.)")
