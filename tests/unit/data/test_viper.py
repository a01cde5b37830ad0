"""VIPeR: halves that are drawn, or those of torchreid's splits.json."""

import json
from pathlib import Path

import pytest
from conftest import touch

from distreid.data.source import open_data
from distreid.errors import DataError, OptionError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    names = [f"{person:03d}_{angle}.bmp" for person, angle in enumerate([0, 45, 90, 135] * 2)]
    touch(tmp_path / "VIPeR/cam_a", *names, "Thumbs.db")
    return touch(tmp_path / "VIPeR", *[f"cam_b/{name.replace('_', '_1')}" for name in names])


def test_viper_draws_half_of_the_persons(root: Path) -> None:
    manifest = open_data(str(root))
    assert manifest.layout == "viper"
    query, gallery = manifest.rows("query"), manifest.rows("gallery")
    # numpy.random.seed(0); numpy.random.permutation(8)[4:], as prepare_viper.py draws.
    assert (
        manifest.person_id[query].tolist() == manifest.person_id[gallery].tolist() == [0, 3, 4, 5]
    )
    assert manifest.path[query].tolist()[1] == b"cam_a/003_135.bmp"
    assert manifest.path[gallery].tolist()[1] == b"cam_b/003_1135.bmp"
    assert manifest.camera_id.tolist() == [1] * 4 + [2] * 4
    assert "has seen some of them" in manifest.notes[0]
    assert manifest.notes[1].startswith("cam_a: 1 file that is no image, ignored")


def test_two_splits_have_the_same_persons_in_both_directions(root: Path) -> None:
    splits = [open_data(str(root), split=number) for number in range(20)]
    persons = [tuple(each.person_id[each.rows("query")].tolist()) for each in splits]
    assert persons[0::2] == persons[1::2]
    assert len(set(persons)) > 5
    assert splits[1].camera_id.tolist() == [2] * 4 + [1] * 4
    with pytest.raises(OptionError, match="--split 20: viper has splits 0 to 19"):
        open_data(str(root), split=20)


@pytest.mark.parametrize("place", [".", ".."])
def test_the_persons_are_those_of_torchreids_splits(root: Path, place: str) -> None:
    def split(persons: list[int]) -> dict[str, list[list[object]]]:
        return {
            "query": [[f"/other/VIPeR/cam_a/{p:03d}_45.bmp", n, 0] for n, p in enumerate(persons)]
        }

    (root / place / "splits.json").write_text(json.dumps([split([1, 6]), split([7])]))
    found = open_data(str(root))
    assert found.person_id.tolist() == [1, 6, 1, 6]
    assert open_data(str(root), split=1).person_id.tolist() == [7, 7]
    assert "splits.json" in found.notes[0]
    with pytest.raises(DataError, match="no splits as torchreid saves them"):
        open_data(str(root), split=2)


def test_two_images_of_a_person_in_one_camera_are_no_viper(tmp_path: Path) -> None:
    names = ["0000_0000.jpg", "0000_0001.jpg", "0001_0000.jpg"]
    touch(tmp_path, *(f"{camera}/{name}" for camera in ("cam_a", "cam_b") for name in names))
    with pytest.raises(DataError, match=r"cam_a/0000_0001\.jpg: person 0 has cam_a/0000_0000\.jpg"):
        open_data(str(tmp_path))
    manifest = open_data(str(tmp_path), pattern=r"(?P<camera>cam_[ab])/(?P<person>\d+)_")
    assert manifest.person_id.tolist() == [0, 0, 1] * 2


def test_a_missing_camera_and_a_strange_name_are_named(root: Path, tmp_path: Path) -> None:
    touch(root, "cam_a/cover.bmp")
    with pytest.raises(DataError, match=r"cam_a/cover\.bmp: the person is 'cover\.bmp'"):
        open_data(str(root))
    touch(tmp_path, "half/cam_a/000_0.bmp")
    with pytest.raises(DataError, match="no folder cam_b, which viper has"):
        open_data(str(tmp_path / "half"))
