"""Two threads that stand for two hosts: each sees its own files under one name."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from distreid.data.manifest import Manifest, build_manifest
from distreid.errors import FailedElsewhere, UserError
from distreid.job import agreement
from distreid.job.agreement import check_files, check_versions, shared_plan
from distreid.ranks.group import Group, World, process_group
from distreid.store.plan import Plan
from distreid.store.root_file import existing_plan
from distreid.store.run_folder import begin

Look = Callable[[Group, Path], None]


def manifest_in(folder: Path) -> Manifest:
    paths = [b"%d.jpg" % number for number in range(5)]
    return build_manifest(root=folder, layout="folder", path=paths)


def look_at_run(group: Group, folder: Path) -> None:
    shared_plan(group, folder / "run")


def look_at_images(group: Group, folder: Path) -> None:
    check_files(group, manifest_in(folder))


def _rank(rank: int, look: Look, folder: Path) -> str:
    try:
        with process_group(World(rank=rank, world_size=2, has_group=True)) as group:
            look(group, folder / str(rank))
    except FailedElsewhere:
        return ""
    except UserError as error:
        return f"rank {rank}: {error}"
    return ""


def on_two_ranks(look: Look, folder: Path) -> list[str]:
    """What they complain about."""
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as ranks:
        with socket.create_server(("localhost", 0)) as probe:
            patch.setenv("MASTER_PORT", str(probe.getsockname()[1]))
        patch.setenv("MASTER_ADDR", "localhost")
        said = [ranks.submit(_rank, rank, look, folder) for rank in (0, 1)]
        return [complaint.result() for complaint in said if complaint.result()]


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


def test_other_rows_than_rank_0_has_written_are_refused(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As the cache of a network disk may give, in the folder that is the right one.
    manifest = build_manifest(root=folders / "1", layout="folder", path=[b"1.jpg"])
    shutil.rmtree(folders / "1" / "run")
    (folders / "1" / "run").symlink_to(folders / "0" / "run")
    plan = existing_plan(folders / "0" / "run")
    assert plan
    stale = replace(plan, manifest=manifest, identity={"manifest": manifest.fingerprint()})
    monkeypatch.setattr(
        agreement, "existing_plan", lambda run: stale if run.parent.name == "1" else plan
    )
    assert on_two_ranks(look_at_run, folders) == [
        f"rank 1: {folders}/1/run: rank 1 on {socket.gethostname()} reads other rows there than "
        "rank 0 has written"
    ]


def test_other_versions_of_the_libraries_are_refused(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = iter(["2.8", "2.9"])
    monkeypatch.setattr(agreement, "library_versions", lambda: {"torch": next(versions)})
    (said,) = on_two_ranks(lambda group, folder: check_versions(group), folders)
    assert said.startswith("rank 0: rank 0 on ")
    assert " differ in torch: 2." in said
    assert said.endswith("; install the same on every host")


def test_equal_images_are_agreed_upon(folders: Path) -> None:
    assert on_two_ranks(look_at_images, folders) == []


def test_the_first_image_that_differs_is_named_with_what_each_host_sees(folders: Path) -> None:
    (folders / "1" / "3.jpg").write_bytes(b"other image")
    (folders / "1" / "4.jpg").unlink()
    (said,) = on_two_ranks(look_at_images, folders)
    assert f"rank 1: row 3, {folders}/1/3.jpg: 11 bytes on " in said
    assert "5 bytes on " in said
    assert said.endswith("rank 0's host (2 of 5 compared differ); all must see one --data")
