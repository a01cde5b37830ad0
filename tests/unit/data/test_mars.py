"""MARS: tracklets by its evaluation files."""

from pathlib import Path

import numpy as np
import pytest
import scipy.io
from conftest import touch

from distreid.data.source import open_data
from distreid.data.summary import counts, describe
from distreid.errors import DataError

NAMES = [
    "00-1C1T0001F001.jpg",
    "0000C1T0001F001.jpg",
    "0002C2T0003F001.jpg",
    "0002C2T0003F002.jpg",
    "0002C1T0001F001.jpg",
    "0002C1T0001F002.jpg",
    "0002C1T0001F003.jpg",
]
# First and last image, person, camera; from 1, as MATLAB counts.
TRACKS = [[1, 1, -1, 1], [2, 2, 0, 1], [3, 4, 2, 2], [5, 7, 2, 1]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    touch(tmp_path, *[f"bbox_test/{name[:4]}/{name}" for name in NAMES], "bbox_train/Thumbs.db")
    info = tmp_path / "info"
    info.mkdir()
    (info / "test_name.txt").write_text("\r\n".join(NAMES) + "\r\n")
    scipy.io.savemat(info / "tracks_test_info.mat", {"track_test_info": np.array(TRACKS, np.int32)})
    scipy.io.savemat(info / "query_IDX.mat", {"query_IDX": np.array([[4]], np.uint16)})
    return tmp_path


def test_mars_is_read_by_tracklets(root: Path) -> None:
    manifest = open_data(str(root))
    assert manifest.layout == "mars"
    assert manifest.path.tolist() == [
        f"bbox_test/{NAMES[place][:4]}/{NAMES[place]}".encode() for place in (4, 5, 6, 1, 2, 3)
    ]
    assert manifest.person_id.tolist() == [2, 2, 2, 0, 2, 2]
    assert manifest.camera_id.tolist() == [1, 1, 1, 1, 2, 2]
    assert manifest.split.tolist() == [b"query"] * 3 + [b"gallery"] * 3
    assert manifest.extra["tracklet"].tolist() == [b"4", b"4", b"4", b"2", b"3", b"3"]
    assert counts(manifest) == {"query": 1, "gallery": 2}
    assert describe(manifest) == [
        "query: 3 in 1 tracklet, 1 person, 1 camera",
        "gallery: 3 in 2 tracklets, 1 person, 2 cameras, 1 distractor (0000)",
        "1 junk tracklets (-1) left out, as torchreid does",
    ]
    assert all(manifest.file(row).exists() for row in range(len(manifest)))


@pytest.mark.parametrize(
    "part", ["info/test_name.txt", "info/query_IDX.mat", "info/tracks_test_info.mat"]
)
def test_a_missing_part_of_mars_is_named(root: Path, part: str) -> None:
    (root / part).unlink()
    with pytest.raises(DataError, match=f"no file {part}, which mars has"):
        open_data(str(root))


def test_lists_of_mars_that_do_not_fit_each_other_are_named(root: Path) -> None:
    (root / "info/test_name.txt").write_text("\n".join(NAMES[:-1]))
    with pytest.raises(DataError, match=r"names images that test_name\.txt, of 6, has not"):
        open_data(str(root))
    (root / "info/test_name.txt").write_text("\n".join([*NAMES, "0002C1T0002F001.jpg"]))
    assert "1 image of test_name.txt in no tracklet: left out" in open_data(str(root)).notes
    scipy.io.savemat(root / "info/query_IDX.mat", {"query": [1]})
    with pytest.raises(DataError, match=r"query_IDX\.mat: it has no matrix query_IDX"):
        open_data(str(root))


@pytest.mark.parametrize(
    ("tracks", "queries", "message"),
    [
        ([*TRACKS[:3], [7, 5, 2, 1]], [4], "tracklet 4 ends before it begins; copy it again"),
        ([*TRACKS[:3], [4, 7, 2, 1]], [4], "image 4 is of tracklets 3 and 4; copy it again"),
        ([*TRACKS[:3], [5, 7, 2, np.nan]], [4], "no matrix of four columns of whole numbers"),
        ([track[:3] for track in TRACKS], [4], "no matrix of four columns of whole numbers"),
        (TRACKS, [4, 99], r"query_IDX\.mat: asks with tracklet 99, and .*info\.mat has 4; copy"),
        (TRACKS, [0], r"query_IDX\.mat: asks with tracklet 0, and"),
    ],
)
def test_damaged_matrices_of_mars_are_named(
    root: Path, tracks: list[list[float]], queries: list[int], message: str
) -> None:
    scipy.io.savemat(root / "info/tracks_test_info.mat", {"track_test_info": np.array(tracks)})
    scipy.io.savemat(root / "info/query_IDX.mat", {"query_IDX": np.array([queries])})
    with pytest.raises(DataError, match=message):
        open_data(str(root))
