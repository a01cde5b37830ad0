"""The commands of the README's page "On a cluster", on a real SLURM of two nodes.

Ranks are stalled (SIGSTOP) where a test needs the job to be in the middle of its work; SLURM
wakes them with the signals that it sends, or kills them.
"""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import REPOSITORY, Pack
from real_slurm import Cluster, Job, shards, start_cluster, wait_for

from distreid.store import FeatureStore

Options = tuple[str | Path, ...]
BOTH_NODES = ("--nodes", "2", "--slurm", "exclusive")
ON_CPU = ("--device", "cpu", "--num-workers", "0")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with start_cluster(tmp_path_factory.mktemp("cluster")) as started:
        yield started


@pytest.fixture(scope="module")
def job(market: Path, osnet_file: Path) -> Options:
    """The main job's options: 150 images in 38 shards, four views of each for a few seconds."""
    views = ("--flip", "--scales", "1,1.1")
    return ("--data", market, "--checkpoint", osnet_file, "--shard-rows", "4", *views)


@pytest.fixture(scope="module")
def reference(job: Options, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The shards that one process writes."""
    out = tmp_path_factory.mktemp("reference") / "run"
    command = (sys.executable, "-m", "distreid.extract", *map(str, job), "--out", str(out))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return shards(out)


def test_two_nodes_write_the_bytes_of_one_process(
    cluster: Cluster, job: Options, reference: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    said = cluster.run(
        "distreid", "submit", "--nodes", "2", "--gpus-per-node", "2", "--time", "30", "--wait",
        "--", *job, *ON_CPU, "--out", out,
    )  # fmt: skip
    assert shards(out) == reference
    assert "150 of 150 images to do, 38 of 38 shards" in said
    assert "COMPLETED, exit status 0" in said
    assert "mAP" in said
    (log,) = (out / "jobs").glob("*_0_log.out")
    assert "4 processes" in log.read_text()
    assert FeatureStore.open(out).plan.provenance["host"] == "n1"


def test_a_job_requeued_in_the_middle_continues(
    cluster: Cluster, job: Options, reference: dict[str, bytes], tmp_path: Path
) -> None:
    submitted = cluster.submit(tmp_path / "run", "--gpus-per-node", "2", job=job)
    submitted.stall()
    cluster.run("scontrol", "requeue", submitted.id)
    assert submitted.ends() == "COMPLETED"
    assert submitted.show("Restarts") == "1"
    assert "shards are done already" in submitted.log
    assert shards(submitted.out) == reference


def test_a_job_of_many_time_limits_goes_on_while_there_is_progress(
    cluster: Cluster, job: Options, reference: dict[str, bytes], tmp_path: Path
) -> None:
    limit = ("--time", "1", "--signal-delay", "1")
    # One shard of all images, which is not finished.
    hopeless = cluster.submit(tmp_path / "hopeless", *limit, job=(*job, "--shard-rows", "150"))
    wait_for(lambda: (hopeless.out / "plan.h5").exists(), "the plan")
    hopeless.stall(shards=0)
    long = cluster.submit(tmp_path / "run", *limit, "--gpus-per-node", "2", job=job)
    for restarts in (0, 1):
        long.waits_for_start(restarts)
        long.stall()
    assert long.ends() == "COMPLETED"
    assert long.show("Restarts") == "2"
    assert shards(long.out) == reference
    assert hopeless.ends() == "FAILED"
    assert (hopeless.show("Restarts"), hopeless.show("ExitCode")) == ("0", "2:0")
    assert "no shard was finished in" in hopeless.log
    assert "Traceback" not in hopeless.log + long.log


@pytest.mark.parametrize("announced_by", ["SIGUSR2", "SIGTERM"])
def test_a_preempted_job_makes_room_and_continues(
    cluster: Cluster,
    job: Options,
    reference: dict[str, bytes],
    tmp_path: Path,
    announced_by: str,
) -> None:
    with cluster.configured("preempt_send_user_signal", announced_by == "SIGUSR2"):
        submitted = cluster.submit(tmp_path / "run", *BOTH_NODES, job=job)
        submitted.stall()
        cluster.run(
            "sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null",
            "--wrap=true",
        )  # fmt: skip
        wait_for(lambda: submitted.show("PreemptTime") != "None", "the preemption")
        submitted.wake()
        assert submitted.ends() == "COMPLETED"
    assert submitted.show("Restarts") == "1"
    assert "shards done since the start; queued again" in submitted.log
    assert shards(submitted.out) == reference


def test_a_job_survives_a_node_that_dies_and_ranks_left_behind(
    cluster: Cluster, job: Options, reference: dict[str, bytes], tmp_path: Path
) -> None:
    submitted = cluster.submit(tmp_path / "run", "--nodes", "2", job=job)
    submitted.stall()
    cluster.run("sh", "-c", f"kill -9 $(cat {cluster.state}/slurmd.n2.pid)")
    wait_for(lambda: submitted.show("JobState") == "PENDING", "SLURM to queue it again")
    cluster.start_node("n2")
    submitted.waits_for_start(1)
    submitted.wake()
    assert submitted.ends() == "COMPLETED"
    assert shards(submitted.out) == reference


def test_a_cancelled_job_ends_and_the_same_command_continues_it(
    cluster: Cluster, job: Options, reference: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = ("distreid", "submit", "--wait", "--", *job, *ON_CPU, "--out", out)
    waiting = cluster.start(*command)
    wait_for(lambda: list((out / "shards").glob("*.h5")), "a shard")
    (file,) = (out / "jobs").glob("*_submitted.pkl")
    cancelled = Job(cluster, file.name.partition("_")[0], out, out / "jobs")
    cancelled.stall(shards=0)
    cluster.run("scancel", cancelled.id)
    said = waiting.communicate(timeout=120)
    assert waiting.returncode not in (0, 2), said
    assert f"job {cancelled.id}: CANCELLED" in said[1]
    assert "COMPLETED, exit status 0" in cluster.run(*command)
    assert shards(out) == reference


def test_an_array_of_three_checkpoints_ends_in_one_table(
    cluster: Cluster, market: Path, osnet_file: Path, pack: Callable[[str], Pack], tmp_path: Path
) -> None:
    other = pack("torchreid/osnet_x1_0").save(tmp_path / "other")
    with (tmp_path / "sweep.csv").open("w") as stream:
        writer = csv.writer(stream)
        writer.writerow(["checkpoint", "out"])
        for name, checkpoint in (("a", "sample"), ("b", osnet_file), ("c", other)):
            writer.writerow([checkpoint, tmp_path / name])
    said = cluster.run(
        "distreid", "submit", "--array", tmp_path / "sweep.csv", "--max-parallel", "2", "--wait",
        "--", "--data", market, *ON_CPU, COLUMNS="200",
    )  # fmt: skip
    for name in "abc":
        figures = (tmp_path / name / "metrics.json").read_text()
        assert '"mAP"' in figures
        assert re.search(rf"│ \d+_\d │ {tmp_path}/{name} +│ +[\d.]+ % │", said), said


def test_the_same_output_folder_submitted_twice_is_computed_once(
    cluster: Cluster, job: Options, tmp_path: Path
) -> None:
    first = cluster.submit(tmp_path / "run", job=job)
    second = cluster.submit(tmp_path / "run", job=job)
    first.stall()
    assert (second.show("JobState"), second.show("Reason")) == ("PENDING", "Dependency")
    first.wake()
    assert (first.ends(), second.ends()) == ("COMPLETED", "COMPLETED")
    assert "38 of 38 shards are done already" in second.log


@pytest.mark.parametrize("script", ["extract", "extract-torchrun"])
def test_a_batch_script_does_the_same(
    cluster: Cluster,
    job: Options,
    reference: dict[str, bytes],
    tmp_path: Path,
    script: str,
) -> None:
    tasks = ("--ntasks-per-node=2",) if script == "extract" else ()
    said = cluster.run(
        "sbatch", "--wait", "--gpus-per-node=2", "--cpus-per-task=1", *tasks,
        f"--output={tmp_path}/log", f"slurm/{script}.sbatch", *job, *ON_CPU,
        "--out", tmp_path / "run",
    )  # fmt: skip
    assert "Submitted batch job" in said
    assert "4 processes" in (tmp_path / "log").read_text()
    assert shards(tmp_path / "run") == reference


def test_the_preemptible_batch_script_continues(
    cluster: Cluster, job: Options, reference: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    said = cluster.run(
        "sbatch", "--exclusive", "--gpus-per-node=2", "--ntasks-per-node=1", "--cpus-per-task=1",
        f"--output={tmp_path}/log", "slurm/preemptible.sbatch", out, *job, *ON_CPU,
    )  # fmt: skip
    submitted = Job(cluster, said.split()[-1], out, tmp_path, command=f"--out\0{out}")
    submitted.stall()
    cluster.run("scancel", "--batch", "--signal=USR2", submitted.id)
    assert submitted.ends() == "COMPLETED", (tmp_path / "log").read_text()
    assert submitted.show("Restarts") == "1"
    assert shards(out) == reference


def test_every_host_reads_the_images_below_its_own_root(
    cluster: Cluster, job: Options, market: Path, reference: dict[str, bytes], tmp_path: Path
) -> None:
    listing = tmp_path / "listing"
    for file in market.rglob("*.*"):
        (listing / file.relative_to(market)).parent.mkdir(parents=True, exist_ok=True)
        (listing / file.relative_to(market)).touch()
    for node in ("n1", "n2"):
        shutil.copytree(market, tmp_path / node / "images")
    python = _python(tmp_path, f"export LOCAL={tmp_path}/$(hostname)")
    submitted = cluster.submit(
        tmp_path / "run", "--nodes", "2", "--python", python,
        job=(*job, "--data", listing, "--data-root", "$LOCAL/images"),
    )  # fmt: skip
    assert submitted.ends() == "COMPLETED", submitted.log
    assert shards(submitted.out) == reference


def test_what_a_cluster_has_not_is_said(cluster: Cluster, job: Options, tmp_path: Path) -> None:
    waiting = ("distreid", "submit", "--wait")
    here = ("--", *job, "--out", tmp_path / "run")
    said = cluster.run(*waiting, "--partition", "nosuch", *here, status=2)
    assert "invalid partition specified: nosuch" in said
    assert "the partitions are main, urgent" in said
    said = cluster.run(*waiting, "--gpus-per-node", "2", *here, status=2)
    assert "--device cuda: torch sees no GPU on n1; ask the cluster for GPUs" in said
    said = cluster.run(*waiting, "--python", "/no/python", *here, status=127)
    assert "the node has no such Python" in said
    assert "Traceback" not in said


def test_hosts_with_different_versions_are_named(
    cluster: Cluster, job: Options, tmp_path: Path
) -> None:
    shutil.copytree(REPOSITORY / "distreid", tmp_path / "other/distreid")
    (tmp_path / "other/distreid/__init__.py").write_text('__version__ = "0.0.9"\n')
    python = _python(tmp_path, f'[ $(hostname) = n1 ] || export PYTHONPATH="{tmp_path}/other"')
    options = ("--nodes", "2", "--python", python, "--slurm", "chdir=/")
    submitted = cluster.submit(tmp_path / "run", *options, job=job)
    assert submitted.ends() == "FAILED", submitted.log
    expected = r"rank 0 on n1 and rank 1 on n2 differ in distreid: [\d.]+, not 0.0.9; install"
    assert re.search(expected, submitted.log), submitted.log


def test_what_a_dry_run_prints_is_what_is_submitted(
    cluster: Cluster, job: Options, tmp_path: Path
) -> None:
    options = ("--time", "00:05:00", "--setup", "echo ready", "--slurm", "hold")
    command = ("distreid", "submit", *options, "--", *job, *ON_CPU, "--out", tmp_path / "run")
    shown = cluster.run(*command[:2], "--dry-run", *command[2:])
    assert not (tmp_path / "run").exists()
    submitted = cluster.submit(tmp_path / "run", *options, job=job)
    cluster.run("scancel", submitted.id)
    file = submitted.logs / f"{submitted.id}_submission.sh"
    assert file.read_text() in shown


def _python(folder: Path, line: str) -> Path:
    """A Python that does something first."""
    file = folder / "python"
    file.write_text(f'#!/bin/sh\n{line}\nexec {sys.executable} "$@"\n')
    file.chmod(0o755)
    return file
