"""LS-VID, by its lists."""

from pathlib import Path

import h5py
import pytest
from conftest import touch

from distreid.data.source import open_data
from distreid.data.summary import counts
from distreid.errors import DataError

TRACKLETS = (  # how its images' paths begin, person; the second is junk
    ("tracklet_test/0003/0003_0001_12_", 3),
    ("tracklet_test/0004/0004_0001_01_", -1),
    ("tracklet_test/0003/0003_0002_07_", 3),
    ("tracklet_test/0005/0005_0010_07_", 5),
)


def ls_vid(root: Path, *queries: int, below: str = "", beside: str = "test/") -> Path:
    (root / f"{below}list_sequence").mkdir(parents=True)
    (root / f"{beside}data").mkdir(parents=True)
    listed = "".join(f"{prefix} {person}\n" for prefix, person in TRACKLETS)
    (root / f"{below}list_sequence/list_seq_test.txt").write_text(listed)
    with h5py.File(root / f"{beside}data/info_test.mat", "w") as file:
        file["query"] = [[float(each)] for each in queries]
    for prefix, _ in TRACKLETS:
        touch(root, *(f"{prefix}{frame:07d}.jpg" for frame in (2, 1)))
    return root


@pytest.mark.parametrize(("below", "beside"), [("", "test/"), ("info/", "info/")])
def test_a_line_is_a_tracklet_and_its_number_may_ask(
    tmp_path: Path, below: str, beside: str
) -> None:
    manifest = open_data(str(ls_vid(tmp_path, 4, 1, below=below, beside=beside)))
    assert manifest.layout == "ls_vid"
    assert manifest.extra["tracklet"].tolist() == [b"1", b"1", b"4", b"4", b"3", b"3"]
    assert manifest.split.tolist() == [*[b"query"] * 4, *[b"gallery"] * 2]
    assert manifest.person_id.tolist() == [3, 3, 5, 5, 3, 3]
    assert manifest.camera_id.tolist() == [12, 12, 7, 7, 7, 7]
    assert manifest.path[0].endswith(b"0003_0001_12_0000001.jpg")
    assert counts(manifest) == {"query": 2, "gallery": 1}
    assert manifest.notes == ("1 junk tracklets (-1) left out",)


def test_lists_that_do_not_fit_are_told(tmp_path: Path) -> None:
    root = ls_vid(tmp_path, 5)
    with pytest.raises(DataError, match=r"asks with lines 5 to 5, and .* has 4"):
        open_data(str(root))
    (root / "test/data/info_test.mat").write_bytes(b"MATLAB 5.0")
    with pytest.raises(DataError, match=r"info_test\.mat: no MATLAB file of version 7\.3"):
        open_data(str(root))
    with h5py.File(root / "test/data/info_test.mat", "w") as file:
        file["query"] = [[1.0]]
    listed = root / "list_sequence/list_seq_test.txt"
    whole = listed.read_text()
    listed.write_text(whole + "tracklet_test/0003/0003_0001_12_0000001 7\n")
    with pytest.raises(DataError, match=r"line 5: .*0000001\.jpg' is of line 1 too"):
        open_data(str(root))
    listed.write_text(whole + "tracklet_test/0009/0009_ 7\n")
    with pytest.raises(DataError, match=r"line 5: no image begins with 'tracklet_test/0009/0009_'"):
        open_data(str(root))
    touch(root, "tracklet_test/0009/0009_camera.jpg")
    with pytest.raises(DataError, match="tells no camera; names are such as"):
        open_data(str(root))
