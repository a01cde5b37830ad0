from pathlib import Path

import pytest
from conftest import touch

from distreid.data.manifest import NO_CAMERA
from distreid.data.source import open_data
from distreid.errors import DataError


def test_occluded_images_search_for_whole_ones(tmp_path: Path) -> None:
    touch(tmp_path, "occluded_body_images/001/001_01.tif", "whole_body_images/001/001_01.tif")
    touch(tmp_path, "whole_body_images/002/002_05.tif")
    manifest = open_data(str(tmp_path))
    assert manifest.layout == "occluded_reid"
    assert manifest.person_id.tolist() == [1, 1, 2]
    assert manifest.split.tolist() == [b"query", b"gallery", b"gallery"]
    assert set(manifest.camera_id.tolist()) == {NO_CAMERA}
    touch(tmp_path, "whole_body_images/cover/1.tif")
    with pytest.raises(DataError, match=r"1\.tif: the person's folder is 'cover'"):
        open_data(str(tmp_path))


@pytest.mark.parametrize(
    ("layout", "query", "gallery", "ids"),
    [
        (
            "p_dukemtmc",
            "test/occluded_body_images/0005/0005_c2_f0046985.jpg",
            "test/whole_body_images/0005/0005_c5_f0051341.jpg",
            ([5, 5], [2, 5]),
        ),
        (
            "partial_reid",
            "partial_body_images/012_001.jpg",
            "whole_body_images/012_003.jpg",
            ([12, 12], [NO_CAMERA, NO_CAMERA]),
        ),
        ("partial_ilids", "Probe/007.jpg", "Gallery/007.jpg", ([7, 7], [NO_CAMERA, NO_CAMERA])),
        (
            "celeb_reid",
            "query/31_1_0.jpg",
            "gallery/31_12_0.jpg",
            ([31, 31], [NO_CAMERA, NO_CAMERA]),
        ),
    ],
)
def test_data_sets_of_parts_and_of_changed_clothes_are_recognised(
    layout: str, query: str, gallery: str, ids: tuple[list[int], list[int]], tmp_path: Path
) -> None:
    touch(tmp_path, query, gallery)
    manifest = open_data(str(tmp_path))
    assert manifest.layout == layout
    assert manifest.path.tolist() == [query.encode(), gallery.encode()]
    assert (manifest.person_id.tolist(), manifest.camera_id.tolist()) == ids
    assert manifest.split.tolist() == [b"query", b"gallery"]


@pytest.mark.parametrize(
    ("query", "gallery"),
    [("Probe/12/1.jpg", "Gallery/13/1.jpg"), ("Probe/0012_c1_1.jpg", "Gallery/0013_c2_1.jpg")],
)
def test_probe_and_gallery_of_other_data_are_folders_of_splits(
    query: str, gallery: str, tmp_path: Path
) -> None:
    touch(tmp_path, query, gallery)
    manifest = open_data(str(tmp_path))
    assert manifest.layout == "split_folders"
    assert manifest.person_id.tolist() == [12, 13]
    with pytest.raises(DataError, match=r"Probe.*(in a folder, which|no image named like)"):
        open_data(str(tmp_path), "partial_ilids")


def test_partial_reid_is_told_by_its_third_folder(tmp_path: Path) -> None:
    folders = ("occluded_body_images", "partial_body_images", "whole_body_images")
    touch(tmp_path, *(f"{folder}/012_001.jpg" for folder in folders))
    manifest = open_data(str(tmp_path))
    assert manifest.layout == "partial_reid"
    assert manifest.path.tolist() == [f"{folder}/012_001.jpg".encode() for folder in folders[1:]]


def test_a_name_of_another_kind_is_told(tmp_path: Path) -> None:
    touch(tmp_path, "partial_body_images/one.jpg", "whole_body_images/001_001.jpg")
    with pytest.raises(DataError, match=r"001_001\.jpg"):
        open_data(str(tmp_path), "partial_reid")
