"""The commands of the README's first cluster and of slurm/README.md, on a real SLURM of two
nodes.

Ranks are stalled (SIGSTOP) where a test needs the job to be in the middle of its work; SLURM
wakes them with the signals that it sends, or kills them.
"""

from __future__ import annotations

import csv
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
from conftest import REPOSITORY, Pack
from real_slurm import LIMIT_S, Cluster, Job, beside, shards, start_cluster, wait_for

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


@pytest.mark.usefixtures("time_limits")  # which waits for SLURM while other tests run
def test_two_nodes_write_the_bytes_of_one_process(
    cluster: Cluster, job: Options, reference: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = documented(
        "README.md",
        "distreid submit",
        {
            "--gpus-per-node 8 --cpus-per-task 8 --partition gpu": "--gpus-per-node 2",
            "--data DIR --checkpoint FILE": written(*job, *ON_CPU),
            "--out DIR": written("--out", out),
        },
    )
    shown = cluster.run(*command[:2], "--dry-run", *command[2:])
    assert not out.exists()
    said = cluster.run(*command)
    assert shards(out) == reference
    assert "150 of 150 images to do, 38 of 38 shards" in said
    assert "COMPLETED, exit status 0" in said
    assert "mAP" in said
    (log,) = (out / "jobs").glob("*_0_log.out")
    assert "4 processes" in log.read_text()
    assert FeatureStore.open(out).plan.provenance["host"] == "n1"
    (submitted,) = (out / "jobs").glob("*_submission.sh")
    assert submitted.read_text() in shown


@pytest.fixture(scope="module")
def time_limits(
    job: Options, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Future[tuple[Job, Job]]]:
    """A job that reached its time limit twice, and one that finished no shard in its.

    SLURM announces a limit up to a minute early, so the limit is two minutes: a job on a busy
    machine still has one for its first shard. This goes on beside other tests, on a cluster of its
    own.
    """
    root = tmp_path_factory.mktemp("limits")

    def reach(cluster: Cluster) -> tuple[Job, Job]:
        limit = ("--time", "2", "--signal-delay", "1")
        # One shard of all images, which is not finished.
        hopeless = cluster.submit(root / "hopeless", *limit, job=(*job, "--shard-rows", "150"))
        wait_for(lambda: (hopeless.out / "plan.h5").exists(), "the plan")
        hopeless.stall(shards=0)
        long = cluster.submit(root / "run", *limit, "--gpus-per-node", "2", job=job)
        for restarts in (0, 1):
            long.waits_for_start(restarts)
            long.stall()
        long.waits_for_start(2)
        return long, hopeless

    with start_cluster(root / "cluster") as own:
        yield beside(lambda: reach(own))


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
        cluster.make_room()
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


def test_a_job_that_is_killed_or_cancelled_ends_and_the_same_command_continues_it(
    cluster: Cluster, job: Options, reference: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = ("distreid", "submit", "--wait", "--", *job, *ON_CPU, "--out", out)

    def submitted(*options: str) -> tuple[Job, subprocess.Popen[str]]:
        before = set((out / "jobs").glob("*_submitted.pkl"))
        waiting = cluster.start(*command[:2], *options, *command[2:])
        (file,) = wait_for(
            lambda: set((out / "jobs").glob("*_submitted.pkl")) - before, "the submission"
        )
        return Job(cluster, file.name.partition("_")[0], out, out / "jobs"), waiting

    killed, waiting = submitted("--tasks-per-node", "2")
    killed.stall()
    killed.kill(rank=1)
    killed.wake()
    said = waiting.communicate(timeout=LIMIT_S)[1]
    assert waiting.returncode == 137, said
    assert re.search(r"rank 1 on n1 has not been heard .*; run the same command again", said)
    cancelled, waiting = submitted()
    cancelled.stall()
    cluster.run("scancel", cancelled.id)
    said = waiting.communicate(timeout=LIMIT_S)[1]
    assert waiting.returncode not in (0, 2), said
    assert f"job {cancelled.id}: CANCELLED" in said
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
    first.stall()
    second = cluster.submit(tmp_path / "run", job=job)
    assert (second.show("JobState"), second.show("Reason")) == ("PENDING", "Dependency")
    first.wake()
    assert (first.ends(), second.ends()) == ("COMPLETED", "COMPLETED")
    assert "38 of 38 shards are done already" in second.log


@pytest.mark.parametrize(
    ("script", "theirs", "ours", "processes"),
    [
        ("extract", " --nodes=1 --partition=gpu", "--nodes=1 --ntasks-per-node=2", 2),
        ("extract-torchrun", "", "--nodes=2", 4),
    ],
    ids=("extract", "extract-torchrun"),
)
def test_a_batch_script_does_the_same(
    cluster: Cluster,
    job: Options,
    reference: dict[str, bytes],
    tmp_path: Path,
    script: str,
    theirs: str,
    ours: str,
    processes: int,
) -> None:
    here = f"--wait {ours} --gpus-per-node=2 --cpus-per-task=1 --output={tmp_path}/log"
    command = documented(
        "slurm/README.md",
        f"sbatch{theirs} slurm/{script}.sbatch",
        {
            f"sbatch{theirs} slurm": f"sbatch {here} slurm",
            "--data DIR --checkpoint FILE": written(*job, *ON_CPU),
            "--out DIR": written("--out", tmp_path / "run"),
        },
    )
    with cluster.first_ports_taken():
        assert "Submitted batch job" in cluster.run(*command)
    assert f"{processes} processes" in (tmp_path / "log").read_text()
    assert shards(tmp_path / "run") == reference


def test_the_preemptible_batch_script_continues_while_there_is_progress(
    cluster: Cluster, job: Options, reference: dict[str, bytes], tmp_path: Path
) -> None:
    def submitted(name: str, *more: str) -> Job:
        out, sbatch = tmp_path / name, "sbatch --nodes=1 --gpus-per-node=1 --ntasks-per-node=1"
        command = documented(
            "slurm/README.md",
            "sbatch slurm/preemptible.sbatch",
            {
                "sbatch slurm": f"{sbatch} --cpus-per-task=1 --output={tmp_path}/{name}.log slurm",
                " OUT ": f" {out} ",
                "--data DIR --checkpoint FILE": written(*job, *ON_CPU, *more),
            },
        )
        number = cluster.run(*command).split()[-1]
        submitted = Job(cluster, number, out, tmp_path, command=f"--out\0{out}")
        wait_for(lambda: (out / "plan.h5").exists(), "the plan")
        submitted.stall(shards=0)
        return submitted

    def limit_comes(submitted: Job) -> None:
        cluster.run("scancel", "--batch", "--signal=USR2", submitted.id)

    hopeless = submitted("hopeless", "--shard-rows", "150")
    limit_comes(hopeless)
    log = tmp_path / "hopeless.log"
    wait_for(lambda: "no shard was finished in this attempt" in log.read_text(), "the message")
    hopeless.wake()
    assert (hopeless.ends(), hopeless.show("Restarts")) == ("FAILED", "0")

    preempted = submitted("run")
    for shard in (preempted.out / "shards").iterdir():  # as if before its first
        shard.unlink()
    cluster.make_room()
    preempted.waits_for_start(1)
    preempted.stall()
    limit_comes(preempted)
    assert preempted.ends() == "COMPLETED", (tmp_path / "run.log").read_text()
    assert preempted.show("Restarts") == "2"
    assert shards(preempted.out) == reference


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
    assert "sbatch refuses the job: invalid partition specified: nosuch; Batch job" in said
    assert "the partitions are main, urgent" in said
    said = cluster.run(*waiting, *here, status=2)
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
    expected = r"rank 0 on n1 and rank 1 on n2 differ in distreid: [\w.]+, not 0.0.9; install"
    assert re.search(expected, submitted.log), submitted.log


def test_a_job_of_many_time_limits_goes_on_while_there_is_progress(
    time_limits: Future[tuple[Job, Job]], reference: dict[str, bytes]
) -> None:
    long, hopeless = time_limits.result()
    assert long.ends() == "COMPLETED"
    # A busy machine may need a further minute for the rest.
    assert int(long.show("Restarts")) >= 2
    assert shards(long.out) == reference
    assert hopeless.ends() == "FAILED"
    assert (hopeless.show("Restarts"), hopeless.show("ExitCode")) == ("0", "2:0")
    assert "no shard was finished in" in hopeless.log
    assert "Traceback" not in hopeless.log + long.log


def written(*options: str | Path) -> str:
    return shlex.join(map(str, options))


def documented(readme: str, start: str, changes: dict[str, str]) -> list[str]:
    """A command of a README, with what is another's there changed to what is here."""
    text = (REPOSITORY / readme).read_text()
    (command,) = re.findall(rf"^(?:\$ )?({re.escape(start)} .*)$", text, flags=re.MULTILINE)
    for theirs, ours in changes.items():
        assert theirs in command
        command = command.replace(theirs, ours)
    return shlex.split(command)


def _python(folder: Path, line: str) -> Path:
    """A Python that does something first."""
    file = folder / "python"
    file.write_text(f'#!/bin/sh\n{line}\nexec {sys.executable} "$@"\n')
    file.chmod(0o755)
    return file
