"""A run is continued by the names of its images, and not by other images of these names."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import draw
from small_runs import make_run

from distreid.data.source import open_data
from distreid.errors import StoreError
from distreid.job.same_images import SIZES, check_same_images, sizes_of
from distreid.store import FeatureStore


def test_a_moved_folder_is_said_and_other_images_are_refused(tmp_path: Path) -> None:
    for number in range(3):
        draw(tmp_path / f"a/{number}.jpg", number)
        draw(tmp_path / f"b/{number}.jpg", number + 10)
    manifest = open_data(str(tmp_path / "a"))
    plan = FeatureStore.open(make_run(tmp_path / "run", 1)).plan
    begun = replace(plan, manifest=manifest, provenance={SIZES: sizes_of(manifest)})
    run = tmp_path / "run"
    assert check_same_images(run, None, manifest) == check_same_images(run, begun, manifest) == []
    shutil.copytree(tmp_path / "a", tmp_path / "moved")
    said = f"begun below {tmp_path}/a: these images are taken for the same"
    assert check_same_images(run, begun, open_data(str(tmp_path / "moved"))) == [said]
    other = open_data(str(tmp_path / "b"))
    with pytest.raises(StoreError, match=f"below {tmp_path}/b have other sizes; give another"):
        check_same_images(run, begun, other)
    old = replace(begun, provenance={})  # of an earlier version
    assert check_same_images(run, old, other) == [said]


def test_what_has_stamps_of_its_own_has_no_sizes(tmp_path: Path) -> None:
    draw(tmp_path / "a/0.jpg", 1)
    shutil.make_archive(str(tmp_path / "x"), "zip", tmp_path / "a")
    assert sizes_of(open_data(str(tmp_path / "x.zip"))) == ""
    before = sizes_of(open_data(str(tmp_path / "a")))
    (tmp_path / "a/0.jpg").write_bytes(b"")
    assert before and sizes_of(open_data(str(tmp_path / "a"))) != before
