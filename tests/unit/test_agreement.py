"""Two processes that stand for two hosts: each sees its own files under one name."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import multiprocessing as mp

from distreid.agreement import check_files, shared_plan
from distreid.distributed import Group, World, process_group
from distreid.errors import FailedElsewhere, UserError
from distreid.manifest import Manifest, build_manifest
from distreid.plan import Plan
from distreid.store import begin

Look = Callable[[Group, Path], None]


def manifest_in(folder: Path) -> Manifest:
    paths = [b"%d.jpg" % number for number in range(5)]
    return build_manifest(root=folder, layout="folder", path=paths)


def look_at_run(group: Group, folder: Path) -> None:
    shared_plan(group, folder / "run")


def look_at_images(group: Group, folder: Path) -> None:
    check_files(group, manifest_in(folder))


def _rank(rank: int, port: int, look: Look, folder: Path, said: mp.SimpleQueue[str]) -> None:
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    try:
        with process_group(World(rank=rank, world_size=2, has_group=True)) as group:
            look(group, folder / str(rank))
    except FailedElsewhere:
        return
    except UserError as error:
        said.put(f"rank {rank}: {error}")


def on_two_ranks(look: Look, folder: Path) -> list[str]:
    """What they complain about."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = int(probe.getsockname()[1])
    said = mp.get_context("spawn").SimpleQueue()
    mp.spawn(_rank, (port, look, folder, said), nprocs=2)  # type: ignore[attr-defined, no-untyped-call]
    complaints = []
    while not said.empty():
        complaints.append(said.get())
    return complaints


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """`0` and `1`, what the two ranks see: a run's plan and five images, alike."""
    for number in range(5):
        (tmp_path / "0").mkdir(exist_ok=True)
        (tmp_path / "0" / f"{number}.jpg").write_bytes(b"image")
    manifest = manifest_in(tmp_path / "0")
    plan = Plan(
        manifest=manifest,
        identity={"manifest": manifest.fingerprint()},
        provenance={},
        dim=4,
        dtype="float32",
        shard_rows=2,
    )
    begin(tmp_path / "0" / "run", plan)
    shutil.copytree(tmp_path / "0", tmp_path / "1")
    return tmp_path


def test_one_folder_is_agreed_upon_and_left_as_it_was(folders: Path) -> None:
    shutil.rmtree(folders / "1" / "run")
    (folders / "1" / "run").symlink_to(folders / "0" / "run")
    assert on_two_ranks(look_at_run, folders) == []
    assert not list((folders / "0" / "run").glob("*.tmp"))


def test_an_equal_plan_in_another_folder_of_the_same_name_is_not_taken_for_it(
    folders: Path,
) -> None:
    (said,) = on_two_ranks(look_at_run, folders)
    assert said.startswith("rank 1: ")
    assert "does not see what rank 0 writes there; --out must be a folder" in said


def test_equal_images_are_agreed_upon(folders: Path) -> None:
    assert on_two_ranks(look_at_images, folders) == []


def test_the_first_image_that_differs_is_named_with_what_each_host_sees(folders: Path) -> None:
    (folders / "1" / "3.jpg").write_bytes(b"other image")
    (folders / "1" / "4.jpg").unlink()
    (said,) = on_two_ranks(look_at_images, folders)
    assert f"rank 1: row 3, {folders}/1/3.jpg: 11 bytes on " in said
    assert "5 bytes on " in said
    assert said.endswith("rank 0's host (2 of 5 compared differ); all must see one --data")
