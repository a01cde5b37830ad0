"""PRID2011: which persons are tested, and what the ten halves say."""

import json
from pathlib import Path

import pytest
from conftest import touch

from distreid.data.source import open_data
from distreid.data.summary import counts
from distreid.errors import DataError
from distreid.evaluation.protocols.known import of_layout


def prid(root: Path) -> Path:
    for camera, persons in (("a", (1, 2, 3, 4, 9)), ("b", (1, 2, 3, 4, 8))):
        for person in persons:
            for frame in (1, 2):
                touch(
                    root, f"prid_2011/multi_shot/cam_{camera}/person_{person:04d}/{frame:04d}.png"
                )
    return root


def with_splits(root: Path, *halves: tuple[int, ...]) -> Path:
    entries = [{"train": [], "test": [f"person_{n:04d}" for n in half]} for half in halves]
    (prid(root) / "splits_prid2011.json").write_text(json.dumps(entries))
    return root


def test_without_the_list_all_persons_of_both_cameras_are_tested(tmp_path: Path) -> None:
    manifest = open_data(str(prid(tmp_path)))
    assert manifest.layout == "prid2011"
    for split, camera in (("query", 1), ("gallery", 2)):
        rows = manifest.rows(split)
        assert manifest.person_id[rows].tolist() == [1, 1, 2, 2, 3, 3, 4, 4]
        assert set(manifest.camera_id[rows].tolist()) == {camera}
    assert manifest.extra["tracklet"][0] == b"prid_2011/multi_shot/cam_a/person_0001"
    assert counts(manifest) == {"query": 4, "gallery": 4}
    assert manifest.notes[-1].startswith("all 4 persons of both cameras: no splits_prid2011")


def test_a_split_of_the_list_says_who_is_tested(tmp_path: Path) -> None:
    with_splits(tmp_path, (1, 2), (2, 4))
    assert set(open_data(str(tmp_path)).person_id.tolist()) == {1, 2}
    assert set(open_data(str(tmp_path), split=1).person_id.tolist()) == {2, 4}
    with pytest.raises(DataError, match="has 2 entries, none is 5"):
        open_data(str(tmp_path), split=5)


def test_all_halves_of_one_extraction(tmp_path: Path) -> None:
    manifest = open_data(str(with_splits(tmp_path, (1, 2), (2, 4))), "prid2011_halves")
    trials = dict(zip(manifest.person_id.tolist(), manifest.extra["trials"].tolist(), strict=True))
    assert trials == {1: b"1", 2: b"1 2", 4: b"2"}
    assert [each.name for each in of_layout(manifest)] == ["prid2011"]


def test_a_list_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with_splits(tmp_path, (1, 9))
    with pytest.raises(DataError, match="person 9 is tested, and is not in both cameras"):
        open_data(str(tmp_path))
    (tmp_path / "splits_prid2011.json").write_text("[1")
    with pytest.raises(DataError, match=r"splits_prid2011\.json: damaged"):
        open_data(str(tmp_path))
    (tmp_path / "splits_prid2011.json").write_text("[]")
    with pytest.raises(DataError, match=r"splits_prid2011\.json: damaged"):
        open_data(str(tmp_path))
    (tmp_path / "splits_prid2011.json").unlink()
    with pytest.raises(DataError, match="which tells the ten halves"):
        open_data(str(tmp_path), "prid2011_halves")
