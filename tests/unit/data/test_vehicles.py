"""VeRi-776, VehicleID and VeRi-Wild."""

from pathlib import Path

import pytest
from conftest import touch

from distreid.data.manifest import NO_CAMERA
from distreid.data.source import open_data
from distreid.errors import DataError, OptionError


def test_veri776_has_cameras_of_three_digits(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "image_query/0002_c002_00030600_0.jpg",
        "image_test/0002_c012_00030640_1.jpg",
        "image_test/0776_c020_00030640_1.jpg",
        "image_test/Thumbs.db",
        "image_train/0001_c001_00016450_0.jpg",
    )
    touch(tmp_path, "name_query.txt", "jk_index.txt")
    manifest = open_data(str(tmp_path))
    assert manifest.layout == "veri776"
    assert manifest.person_id.tolist() == [2, 2, 776]
    assert manifest.camera_id.tolist() == [2, 12, 20]
    assert manifest.split.tolist() == [b"query", b"gallery", b"gallery"]
    assert "as in fast-reid" in manifest.notes[-1]


def test_veri776_without_its_gallery_says_so(tmp_path: Path) -> None:
    touch(tmp_path, "image_query/0002_c002_00030600_0.jpg")
    with pytest.raises(DataError, match="no folder image_test, which veri776 has"):
        open_data(str(tmp_path))


def vehicleid(root: Path) -> Path:
    touch(root, "image/0000001.jpg", "attribute/img2vid.txt")
    (root / "train_test_split").mkdir()
    for vehicles in (800, 1600, 2400):
        (root / f"train_test_split/test_list_{vehicles}.txt").write_text(
            f"0000007 {vehicles}\n0000009 3\r\n0000003 {vehicles}\n0000005 {vehicles} \n0000008 3\n"
        )
    return root


def test_vehicleid_takes_the_first_image_listed_of_each_vehicle(tmp_path: Path) -> None:
    manifest = open_data(str(vehicleid(tmp_path)))
    assert manifest.layout == "vehicleid_small"
    assert [path.decode() for path in manifest.path] == [
        f"image/000000{number}.jpg" for number in (3, 5, 8, 7, 9)
    ]
    assert manifest.person_id.tolist() == [800, 800, 3, 800, 3]
    assert manifest.split.tolist() == [b"query"] * 3 + [b"gallery"] * 2
    assert set(manifest.camera_id.tolist()) == {NO_CAMERA}
    assert "vehicleid_medium, vehicleid_large" in manifest.notes[-1]
    for name, vehicles in (("vehicleid_medium", 1600), ("vehicleid_large", 2400)):
        assert open_data(str(tmp_path), name).person_id.max() == vehicles


def test_the_other_splits_of_vehicleid_are_drawn_and_stay_the_same(tmp_path: Path) -> None:
    root = str(vehicleid(tmp_path))
    drawn = [open_data(root, split=split) for split in range(11)]
    galleries = [tuple(each.path[each.rows("gallery")].tolist()) for each in drawn]
    assert len(set(galleries)) == 6  # 3 images of one vehicle, 2 of the other: every way
    for each in drawn:
        assert sorted(each.person_id[each.rows("gallery")].tolist()) == [3, 800]
        assert len(set(each.path.tolist())) == 5
    assert "drawn, as TransReID does, with seed 4" in drawn[4].notes[0]
    # Written out, so that another numpy shall not draw otherwise unseen.
    assert galleries[1] == (b"image/0000007.jpg", b"image/0000008.jpg")
    with pytest.raises(OptionError, match="--split 11: vehicleid_small has splits 0 to 10"):
        open_data(root, split=11)


def test_vehicleid_as_person_reid_baseline_prepares_it(tmp_path: Path) -> None:
    touch(tmp_path, "query800/p12/0000002.jpg", "gallery800/p12/0000001.jpg", "train/p1/3.jpg")
    manifest = open_data(str(tmp_path))
    assert manifest.layout == "vehicleid_small"
    assert manifest.path.tolist() == [b"query800/p12/0000002.jpg", b"gallery800/p12/0000001.jpg"]
    assert manifest.person_id.tolist() == [12, 12]
    with pytest.raises(OptionError, match="has been split already"):
        open_data(str(tmp_path), split=1)


def test_an_image_stands_in_a_list_once(tmp_path: Path) -> None:
    with (vehicleid(tmp_path) / "train_test_split/test_list_800.txt").open("a") as stream:
        stream.write("0000009 3\n")
    with pytest.raises(DataError, match=r"800\.txt, line 6: '0000009' stands in the list already"):
        open_data(str(tmp_path))


def test_a_missing_part_of_vehicleid_is_named(tmp_path: Path) -> None:
    (vehicleid(tmp_path) / "image/0000001.jpg").unlink()
    (tmp_path / "image").rmdir()
    with pytest.raises(DataError, match="no folder image, which vehicleid_small has"):
        open_data(str(tmp_path))


def veriwild(root: Path, ending: str = "") -> Path:
    touch(root, "images/00042/000001.jpg")
    lists = root / "train_test_split"
    lists.mkdir()
    (lists / "vehicle_info.txt").write_text(
        "id/image;camera id;time;model;type;color\n"
        "00042/000001;7;2018-03-11 05:39:53;Skoda;SUV;white\n"
        "00042/000002;163;2018-03-11 05:40:00;Skoda;SUV;white\n"
        "00050/000009;7;2018-03-11 05:41:00;?;?;?\n"
    )
    for vehicles in (3000, 5000, 10000):
        (lists / f"test_{vehicles}{ending}.txt").write_text("00050/000009\n00042/000002.jpg 42\n")
        (lists / f"test_{vehicles}{ending}_query.txt").write_text("00042/000001\n")
    return root


@pytest.mark.parametrize("ending", ["", "_id"])  # fast-reid's names, and the authors' own
@pytest.mark.parametrize("size", ["auto", "veriwild_medium", "veriwild_large"])
def test_veriwild_has_cameras_from_its_list(tmp_path: Path, ending: str, size: str) -> None:
    manifest = open_data(str(veriwild(tmp_path, ending)), size)
    assert manifest.layout == ("veriwild_small" if size == "auto" else size)
    assert manifest.path.tolist() == [
        b"images/00042/000001.jpg",
        b"images/00042/000002.jpg",
        b"images/00050/000009.jpg",
    ]
    assert manifest.person_id.tolist() == [42, 42, 50]
    assert manifest.camera_id.tolist() == [7, 163, 7]
    assert manifest.split.tolist() == [b"query", b"gallery", b"gallery"]


def test_the_size_of_veriwild_says_which_list_is_read(tmp_path: Path) -> None:
    lists = veriwild(tmp_path) / "train_test_split"
    (lists / "test_5000_query.txt").write_text("00050/000009\n")
    assert open_data(str(tmp_path), "veriwild_medium").person_id[0] == 50
    (lists / "test_10000_query.txt").unlink()
    with pytest.raises(DataError, match=r"no file train_test_split/test_10000_query\.txt"):
        open_data(str(tmp_path), "veriwild_large")


def test_an_image_without_a_camera_is_named(tmp_path: Path) -> None:
    lists = veriwild(tmp_path) / "train_test_split"
    (lists / "test_3000.txt").write_text("00042/000002\n00042/000077\n")
    with pytest.raises(DataError, match=r"line 2: '00042/000077' is not in vehicle_info\.txt"):
        open_data(str(tmp_path))
