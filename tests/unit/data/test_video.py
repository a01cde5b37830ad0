"""DukeMTMC-VideoReID and iLIDS-VID, with the names that they really have."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from conftest import touch

from distreid.data.source import open_data
from distreid.data.summary import counts
from distreid.errors import DataError, OptionError


def test_dukemtmc_videoreid_has_tracklets_under_both_names(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "query/0001/0001/0001_C6_F0002_X30823.jpg",
        "query/0001/0001/0001_C6_F0001_X30822.jpg",
        "gallery/0001/0002/0001C2F0001X30823.jpg",
        "gallery/0002/0001/0002C1F0001X30823.jpg",
        "train/0003/0001/0003C1F0001X1.jpg",
    )
    manifest = open_data(str(tmp_path))
    assert manifest.layout == "dukemtmc_videoreid"
    assert manifest.person_id.tolist() == [1, 1, 1, 2]
    assert manifest.camera_id.tolist() == [6, 6, 2, 1]
    assert manifest.extra["tracklet"].tolist() == [
        *[b"query/0001/0001"] * 2,
        b"gallery/0001/0002",
        b"gallery/0002/0001",
    ]
    assert counts(manifest) == {"query": 1, "gallery": 2}
    touch(tmp_path, "gallery/0004/0001/0005C1F0001X30823.jpg")
    with pytest.raises(DataError, match="the folder tells person 0004, the name 5"):
        open_data(str(tmp_path))


def ilids(root: Path, below: str = "") -> Path:
    for camera in (1, 2):
        for person in (3, 7, 9, 20) if camera == 1 else (3, 7, 8, 9, 20):
            folder = f"{below}sequences/cam{camera}/person{person:03d}"
            touch(root, f"{folder}/cam{camera}_person{person:03d}_00317.png")
            touch(root, f"{folder}/cam{camera}_person{person:03d}_00318.png")
    return root


def test_ilids_vid_searches_camera_2_from_camera_1(tmp_path: Path) -> None:
    manifest = open_data(str(ilids(tmp_path, "i-LIDS-VID/")))
    assert manifest.layout == "ilids_vid"
    query, gallery = manifest.rows("query"), manifest.rows("gallery")
    for rows, camera in ((query, 1), (gallery, 2)):
        assert manifest.person_id[rows].tolist() == [3, 3, 7, 7, 9, 9, 20, 20]
        assert set(manifest.camera_id[rows].tolist()) == {camera}
    assert manifest.extra["tracklet"][0] == b"i-LIDS-VID/sequences/cam1/person003"
    assert counts(manifest) == {"query": 4, "gallery": 4}
    assert manifest.notes[-1].startswith("all 4 persons of both cameras: no train-test")


def test_ilids_vid_takes_the_first_half_of_a_split(tmp_path: Path) -> None:
    file = ilids(tmp_path) / "train-test people splits/train_test_splits_ilidsvid.mat"
    file.parent.mkdir()
    scipy.io.savemat(file, {"ls_set": np.array([[4, 1, 2, 3], [2, 3, 1, 4]], np.uint8)})
    assert set(open_data(str(tmp_path)).person_id.tolist()) == {20, 3}
    ilids(tmp_path / "i-LIDS-VID")
    assert set(open_data(str(tmp_path / "i-LIDS-VID")).person_id.tolist()) == {20, 3}
    shutil.rmtree(tmp_path / "i-LIDS-VID")
    assert set(open_data(str(tmp_path), split=1).person_id.tolist()) == {7, 9}
    with pytest.raises(OptionError, match="--split 10: ilids_vid has splits 0 to 9"):
        open_data(str(tmp_path), split=10)
    with pytest.raises(DataError, match=r"ilidsvid\.mat has 2 rows, none is 7"):
        open_data(str(tmp_path), split=7)
    for row in ([1, 2, 3], [1, 1, 1, 1], [1, 2, 3, np.nan]):
        first = [*range(1, len(row) + 1)]
        scipy.io.savemat(file, {"ls_set": np.array([first, row])})
        for layout in ("ilids_vid", "ilids_vid_halves"):
            with pytest.raises(DataError, match="a row is not the numbers of the 4 persons who"):
                open_data(str(tmp_path), layout)
