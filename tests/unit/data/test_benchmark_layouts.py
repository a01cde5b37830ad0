"""Layouts that bring a benchmark: which rows, columns and protocols they have."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from conftest import touch
from scipy.io import savemat

from distreid.data.source import open_data
from distreid.errors import DataError
from distreid.evaluation.protocols.known import of_layout


def brought(root: Path) -> tuple[str, list[str]]:
    manifest = open_data(str(root))
    return manifest.layout, [benchmark.name for benchmark in of_layout(manifest)]


def sysu(root: Path) -> Path:
    """Row 27: the folders of the cameras, and the test persons."""
    touch(root, *(f"cam{camera}/{person}/0001.jpg" for camera in range(1, 7)
                  for person in ("0001", "0007", "0009")))  # fmt: skip
    (root / "exp").mkdir()
    (root / "exp/test_id.txt").write_text("1,7\n")
    return root


def test_sysu_mm01_has_its_test_persons_and_its_protocols(tmp_path: Path) -> None:
    manifest = open_data(str(sysu(tmp_path)))
    assert manifest.layout == "sysu_mm01"
    assert set(manifest.person_id.tolist()) == {1, 7}
    infrared = np.isin(manifest.camera_id, (3, 6))
    assert (manifest.split[infrared] == b"query").all()
    assert (manifest.split[~infrared] == b"gallery").all()
    assert (manifest.extra["modality"][infrared] == b"infrared").all()
    assert brought(tmp_path)[1] == [
        f"sysu-mm01-{mode}-{shots}" for mode in ("all", "indoor") for shots in ("single", "multi")
    ]
    (tmp_path / "exp/test_id.txt").write_text("1,x\n")
    with pytest.raises(DataError, match=r"test_id\.txt: the person is 'x'; it must be a whole"):
        open_data(str(tmp_path))


def test_permutations_that_do_not_fit_are_named(tmp_path: Path) -> None:
    root = sysu(tmp_path)
    cells = np.empty((6, 1), object)
    for camera in range(6):
        persons = np.empty((1, 9), object)
        for person in range(9):
            persons[0, person] = np.array([[2.0]])  # of another image than the only one
        cells[camera, 0] = persons
    savemat(root / "exp/rand_perm_cam.mat", {"rand_perm_cam": cells})
    with pytest.raises(DataError, match="no permutations of the 1 images of person"):
        open_data(str(root))
    savemat(root / "exp/rand_perm_cam.mat", {"other": np.eye(2)})
    with pytest.raises(DataError, match="it has no cells rand_perm_cam"):
        open_data(str(root))
    (root / "exp/rand_perm_cam.mat").write_bytes(b"no file of MATLAB")
    with pytest.raises(DataError, match="no MATLAB file up to version 7"):
        open_data(str(root))


def test_regdb_has_the_halves_of_its_lists(tmp_path: Path) -> None:
    names = [f"{part}/{person}/{part[0].lower()}_{person}.bmp" for part in ("Visible", "Thermal")
             for person in (1, 2, 30)]  # fmt: skip
    touch(tmp_path, *names)
    (tmp_path / "idx").mkdir()
    for trial in range(1, 11):
        persons = (1, 2) if trial % 2 else (2, 30)
        for part in ("Visible", "Thermal"):
            lines = [
                f"{part}/{person}/{part[0].lower()}_{person}.bmp {place}"
                for place, person in enumerate(persons)
            ]
            (tmp_path / f"idx/test_{part.lower()}_{trial}.txt").write_text("\n".join(lines))
    manifest = open_data(str(tmp_path))
    assert manifest.person_id.tolist() == [1, 2, 30] * 2
    assert manifest.extra["trials"].tolist()[:3] == [
        b"1 3 5 7 9", b"1 2 3 4 5 6 7 8 9 10", b"2 4 6 8 10"
    ]  # fmt: skip
    assert manifest.extra["modality"].tolist() == [b"visible"] * 3 + [b"thermal"] * 3
    assert brought(tmp_path) == (
        "regdb", ["regdb-visible-to-thermal", "regdb-thermal-to-visible"]
    )  # fmt: skip
    (tmp_path / "idx/test_thermal_4.txt").unlink()
    with pytest.raises(DataError, match=r"no file idx/test_thermal_4\.txt, which regdb has"):
        open_data(str(tmp_path))


def test_llcm(tmp_path: Path) -> None:
    touch(tmp_path, "test_nir/cam1/0003/a.jpg", "test_vis/cam3/0003/b.jpg")
    touch(tmp_path, "test_vis/cam3/0004/c.jpg", "idx/train_id.txt")
    (tmp_path / "idx/test_id.txt").write_text("3")
    manifest = open_data(str(tmp_path))
    assert manifest.split.tolist() == [b"query", b"gallery"]
    assert manifest.camera_id.tolist() == [1, 3]
    assert brought(tmp_path)[1] == ["llcm-visible-to-infrared", "llcm-infrared-to-visible"]


@pytest.mark.parametrize("below", ["rgb/test", "test", "prcc/rgb/test"])
def test_prcc_has_cameras_by_name_and_clothes(tmp_path: Path, below: str) -> None:
    """Row 29: A, B and C need no pattern."""
    touch(tmp_path, *(f"{below}/{camera}/003/x{camera}.jpg" for camera in "ABC"))
    manifest = open_data(str(tmp_path))
    assert manifest.layout == "prcc"
    rows = dict(zip(manifest.extra["camera_name"].tolist(), range(3), strict=True))
    assert manifest.split[rows[b"A"]] == b"gallery"
    assert manifest.split[rows[b"B"]] == manifest.split[rows[b"C"]] == b"query"
    clothes = manifest.extra["clothes"]
    assert clothes[rows[b"A"]] == clothes[rows[b"B"]] != clothes[rows[b"C"]]
    assert brought(tmp_path)[1] == ["prcc-same-clothes", "prcc-changed-clothes"]


def test_vc_clothes_deepchange_and_last(tmp_path: Path) -> None:
    vc, deep, last = (tmp_path / name for name in ("vc", "deep", "last"))
    touch(vc, "query/0001-02-03-04.jpg", "gallery/0001-03-03-00.jpg")
    manifest = open_data(str(vc))
    assert manifest.camera_id.tolist() == [2, 3]
    assert manifest.extra["clothes"].tolist() == [b"0001_03"] * 2
    assert brought(vc)[1][0] == "vc-clothes-general"
    touch(deep, "test-set-query/P1_C2_a.jpg", "test-set-gallery/P1_C2_b.jpg")
    (deep / "test-set-query-bbox.txt").write_text("P1_C2_a.jpg,17,1,2,3,4\n")
    (deep / "test-set-gallery-bbox.txt").write_text("P1_C2_b.jpg,18\n")
    manifest = open_data(str(deep))
    assert manifest.extra["track"].tolist() == [b"17", b"18"]
    assert (manifest.person_id.tolist(), manifest.camera_id.tolist()) == ([1, 1], [2, 2])
    assert brought(deep) == ("deepchange", ["deepchange"])
    (deep / "test-set-query-bbox.txt").write_text("1.jpg,17\n")
    with pytest.raises(DataError, match=r"line 1: '1\.jpg' is not named like P1_C1_"):
        open_data(str(deep))
    touch(last, "test/query/000123_a_1.jpg", "test/gallery/000123/000123_b_2.jpg")
    touch(last, "train/1/000001_a_1.jpg", "val/query/000002_a_1.jpg")
    manifest = open_data(str(last))
    assert manifest.layout == "last" and manifest.person_id.tolist() == [123, 123]
    assert brought(last)[1] == ["last"]


def test_crops_of_tracked_persons_are_each_query_and_gallery(tmp_path: Path) -> None:
    touch(tmp_path, "imgs/MOT17_1/000000.jpg", "imgs/MOT17_1/000001.jpg", "imgs/MOT17_2/000000.jpg")
    manifest = open_data(str(tmp_path))
    assert manifest.split.tolist() == [b"query+gallery"] * 3
    assert manifest.person_id.tolist() == [0, 0, 1]
    assert len(manifest.rows("query")) == len(manifest.rows("gallery")) == 3
    assert brought(tmp_path) == ("reid_imgs", ["leave-one-out"])


def test_veri_776_has_tracks_of_the_gallery_alone(tmp_path: Path) -> None:
    """Row 31."""
    touch(tmp_path, "image_query/0002_c002_00030600_0.jpg", "image_test/0002_c003_00030640_1.jpg")
    touch(tmp_path, "image_test/0002_c003_00030641_1.jpg")
    assert "veri-776-track" not in brought(tmp_path)[1]
    (tmp_path / "test_track.txt").write_text(
        "0002_c003_t1 0002_c003_00030640_1.jpg 0002_c003_00030641_1.jpg \n"
    )
    manifest = open_data(str(tmp_path))
    assert manifest.extra["track"].tolist() == [b"", b"0002_c003_t1", b"0002_c003_t1"]
    assert "tracks by test_track.txt" in manifest.notes
    assert brought(tmp_path)[1] == ["veri-776", "veri-776-standard", "veri-776-track"]


def test_ilids_vid_has_all_ten_halves_of_one_extraction(tmp_path: Path) -> None:
    for person in (3, 7, 9, 20):
        for camera in (1, 2):
            folder = f"sequences/cam{camera}/person{person:03d}"
            touch(tmp_path, f"{folder}/cam{camera}_person{person:03d}_00001.png")
    with pytest.raises(DataError, match=re.escape("which tells the ten halves; copy it there")):
        open_data(str(tmp_path), "ilids_vid_halves")
    splits = tmp_path / "train-test people splits"
    splits.mkdir()
    orders = np.array([[4, 1, 2, 3], [2, 3, 1, 4]], np.uint8)
    savemat(splits / "train_test_splits_ilidsvid.mat", {"ls_set": orders})
    manifest = open_data(str(tmp_path), "ilids_vid_halves")
    trials = dict(zip(manifest.person_id.tolist(), manifest.extra["trials"].tolist(), strict=True))
    assert trials == {20: b"1", 3: b"1", 7: b"2", 9: b"2"}
    assert [each.name for each in of_layout(manifest)] == ["ilids-vid"]
