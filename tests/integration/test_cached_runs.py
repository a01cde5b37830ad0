"""--cache by the real command line: the same bytes with it, and nothing decoded twice."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import GOLDEN, Pack, Run, draw, needs_mounts, wait_until

from distreid.store import FeatureStore
from distreid.store.shards import shard_file

EXTRACT = ("distreid", "extract")


def shards(run: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((run / "shards").iterdir())}


@pytest.fixture(scope="module")
def data(market: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Market's images and two that cannot be read."""
    root = tmp_path_factory.mktemp("data") / "market"
    shutil.copytree(market, root)
    (root / "query" / "0001_c1s1_000001_00.jpg").write_text("no image")
    draw(root / "cut.jpg", 1)
    image = (root / "cut.jpg").read_bytes()
    (root / "cut.jpg").unlink()
    (root / "bounding_box_test" / "0002_c2s1_000001_01.jpg").write_bytes(image[: len(image) // 2])
    return root


@pytest.fixture(scope="module")
def options(data: Path, osnet_file: Path) -> list[str]:
    return [
        *EXTRACT, "--data", str(data), "--checkpoint", str(osnet_file),
        "--on-bad-image", "record", "--no-evaluate", "--num-workers", "1",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def reference(options: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without a cache."""
    out = tmp_path_factory.mktemp("reference") / "run"
    command = [sys.executable, "-m", *options, "--out", str(out)]
    subprocess.run(command, capture_output=True, check=True)
    return out


@pytest.fixture(scope="module")
def filled(
    options: list[str], reference: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A cache that two processes have filled."""
    folder = tmp_path_factory.mktemp("filled")
    torchrun = Path(sys.executable).parent / "torchrun"
    job = ("-m", "distreid.extract", *options[len(EXTRACT) :])
    done = subprocess.run(
        [torchrun, "--nproc_per_node=2", *job, "--cache", folder, "--out", folder / "run"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ": 0 bytes, may take 15.5 MB more of " in done.stderr
    assert "of these images" not in done.stderr
    assert shards(folder / "run") == shards(reference)
    (before,) = folder.glob("*.u8")
    written = before.stat().st_mtime_ns
    yield folder
    assert before.stat().st_mtime_ns == written  # nothing was decoded again


def test_from_a_cache_the_same_bytes_in_other_batches(
    options: list[str], reference: Path, filled: Path, tmp_path: Path, run_here: Run
) -> None:
    more = ("--cache", filled, "--batch-size", "48", "--out", tmp_path / "run")
    done = run_here(*options, *more)
    assert "gave 149 of these images" in done.stderr, done.stderr
    assert shards(tmp_path / "run") == shards(reference)
    store, plain = FeatureStore.open(tmp_path / "run"), FeatureStore.open(reference)
    assert store.status.tolist() == plain.status.tolist()
    assert (store.status != 0).sum() == 2
    # Recorded, but no part of what the run is: it may be continued without.
    assert store.plan.provenance["cache"] == str(filled)
    assert store.plan.identity == plain.plan.identity


def test_another_checkpoint_finds_the_images_in_other_shards(
    options: list[str], osnet_file: Path, filled: Path, tmp_path: Path, run_here: Run
) -> None:
    state = Pack(GOLDEN / "torchreid/osnet_x0_25").state
    state["fc.0.bias"] += 1
    torch.save(state, tmp_path / "other.pth")
    changed = [str(tmp_path / "other.pth") if o == str(osnet_file) else o for o in options]
    more = ("--cache", filled, "--shard-rows", "7", "--out", tmp_path / "run")
    done = run_here(*changed, *more)
    assert "gave 149 of these images" in done.stderr, done.stderr
    assert FeatureStore.open(tmp_path / "run").plan.shard_rows == 7


def test_a_killed_job_leaves_a_cache_that_gives_no_wrong_image(
    options: list[str], reference: Path, tmp_path: Path, run_here: Run
) -> None:
    command = [*options, "--cache", str(tmp_path / "cache"), "--batch-size", "8"]
    line = [sys.executable, "-m", *command, "--out", str(tmp_path / "run")]
    job = subprocess.Popen(line, stderr=subprocess.DEVNULL)
    wait_until(shard_file(tmp_path / "run", 0).exists, job)
    job.send_signal(signal.SIGKILL)
    job.wait()
    again = run_here(*command, "--out", tmp_path / "again")
    assert "of these images" in again.stderr, again.stderr
    assert shards(tmp_path / "again") == shards(reference)


def test_a_bad_image_ends_the_job_by_default_with_a_cache_too(
    options: list[str], filled: Path, tmp_path: Path, run_here: Run
) -> None:
    strict = ["fail" if option == "record" else option for option in options]
    command = (*strict, "--cache", filled, "--out", tmp_path / "run")
    done = run_here(*command)
    assert done.returncode == 2
    assert "distreid: error: row 0, " in done.stderr
    assert "0001_c1s1_000001_00.jpg: no image of a known kind" in done.stderr


def test_a_disk_that_fills_up_costs_a_line(
    options: list[str], reference: Path, tmp_path: Path, run_command: Run
) -> None:
    command = (*options, "--cache", tmp_path / "cache", "--out", tmp_path / "run")
    # No file beyond 2 MB: the cache's wants 15.
    limited = 'ulimit -f 2000; exec "$@"'
    done = run_command("bash", "-c", limited, "bash", sys.executable, "-m", *command)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if "the job went on without" in line]
    assert lines == ["cache  gave 0 of these images; the job went on without: File too large"]
    assert shards(tmp_path / "run") == shards(reference)


@needs_mounts
def test_a_disk_with_too_little_room_is_refused_and_a_read_only_one_is_read(
    options: list[str], reference: Path, tmp_path: Path, run_here: Run
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=14m", "cache", disk], check=True)
    try:
        command = (*options, "--cache", disk / "cache", "--out", tmp_path / "run")
        refused = run_here(*command)
        assert refused.returncode == 2
        why = "151 images may take 15.5 MB, the disk has 14.7 MB; make room, or go without it"
        assert refused.stderr.splitlines()[-1].endswith(why), refused.stderr
        subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
        assert run_here(*command).returncode == 0
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        shutil.rmtree(tmp_path / "run")
        done = run_here(*command)
        assert "read-only: nothing is added" in done.stderr
        assert "gave 149 of these images" in done.stderr
        assert shards(tmp_path / "run") == shards(reference)
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
