"""The commands of the README's page "On a cluster", on a real SLURM of two nodes.

Ranks are stalled (SIGSTOP) where a test needs the job to be in the middle of its work; SLURM
wakes them with the signals that it sends, or kills them.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_slurm import Cluster, shards, start_cluster

from distreid.store import FeatureStore


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with start_cluster(tmp_path_factory.mktemp("cluster")) as started:
        yield started


@pytest.fixture(scope="module")
def job(market: Path, osnet_file: Path) -> tuple[str | Path, ...]:
    """The main job's options: 150 images in 38 shards."""
    return ("--data", market, "--checkpoint", osnet_file, "--shard-rows", "4")


@pytest.fixture(scope="module")
def reference(
    job: tuple[str | Path, ...], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """The shards that one process writes."""
    out = tmp_path_factory.mktemp("reference") / "run"
    command = (sys.executable, "-m", "distreid.extract", *map(str, job), "--out", str(out))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return shards(out)


def test_two_nodes_write_the_bytes_of_one_process(
    cluster: Cluster, job: tuple[str | Path, ...], reference: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    said = cluster.run(
        "distreid", "submit", "--nodes", "2", "--gpus-per-node", "2", "--time", "30", "--wait",
        "--", *job, "--device", "cpu", "--num-workers", "0", "--out", out,
    )  # fmt: skip
    assert shards(out) == reference
    assert "150 of 150 images to do, 38 of 38 shards" in said
    assert "COMPLETED, exit status 0" in said
    assert "mAP" in said
    (log,) = (out / "jobs").glob("*_0_log.out")
    assert "4 processes" in log.read_text()
    assert FeatureStore.open(out).plan.provenance["host"] == "n1"
