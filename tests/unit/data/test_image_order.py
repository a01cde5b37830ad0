"""The images of a folder come in one order, whatever the file system gives."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distreid.data.image_files import images, in_order

# Characters on both sides of `/` and `.`, so that sorting by whole paths would be another order.
NAMES = st.text("-.0a", min_size=1, max_size=3).filter(lambda name: not name.startswith("."))
PATHS = st.lists(st.lists(NAMES, min_size=1, max_size=3), max_size=12)


@given(PATHS)
def test_paths_are_sorted_folder_by_folder(
    tmp_path_factory: pytest.TempPathFactory, paths: list[list[str]]
) -> None:
    root = tmp_path_factory.mktemp("tree")
    wanted = set()
    for *folders, name in paths:
        place = root.joinpath(*(f"{folder}d" for folder in folders))
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{name}.jpg").touch()
        wanted.add(os.fsencode((place / f"{name}.jpg").relative_to(root)))
    found, notes = images(root)
    assert found == sorted(wanted, key=in_order)
    assert notes == ()


def test_a_tree_deeper_than_pythons_stack_is_read(tmp_path: Path) -> None:
    depth, here = 1100, os.getcwd()
    os.chdir(tmp_path)
    try:
        for _ in range(depth):
            os.mkdir("d")
            os.chdir("d")
        Path("x.jpg").touch()
        os.chdir(here)
        found, _ = images(tmp_path)
    finally:
        os.chdir(here)
        # pytest, which would remove it some runs later, cannot.
        subprocess.run(["rm", "-r", tmp_path / "d"], check=True)
    assert found == [b"d/" * depth + b"x.jpg"]


def test_a_link_that_leads_back_ends(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.jpg").touch()
    (tmp_path / "a/back").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "round").symlink_to(tmp_path / "round")
    found, notes = images(tmp_path)
    assert found == [b"a/1.jpg"]
    assert notes == (
        "1 file that is no image, ignored (first: 'round')",
        "2 folders left out that links lead to once more (first: 'a/back')",
    )
