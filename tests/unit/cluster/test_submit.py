"""Submission without a cluster: options, sweep files, the sbatch text, what is checked before."""

from __future__ import annotations

import argparse
import math
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, draw

from distreid import cli, extract
from distreid.cluster import follow
from distreid.cluster.cluster_options import (
    ClusterOptions,
    add_cluster_options,
    parse_cluster_options,
)
from distreid.cluster.submit import Extraction, _stop, dry_run
from distreid.errors import OptionError, Stopped
from distreid.ranks.group import World

SBATCH = """\
#!/bin/bash

# Parameters
#SBATCH --account=vision
#SBATCH --constraint=a100
#SBATCH --cpus-per-task=8
#SBATCH --dependency=singleton
#SBATCH --exclusive
#SBATCH --gpus-per-node=4
#SBATCH --job-name=distreid-market-7d4534
#SBATCH --mail-type=END
#SBATCH --mem=131072M
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --open-mode=append
#SBATCH --output=/logs/%j_0_log.out
#SBATCH --partition=gpu
#SBATCH --qos=long
#SBATCH --requeue
#SBATCH --signal=USR2@300
#SBATCH --time=90
#SBATCH --wckey=submitit

# setup
module load cuda

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /logs/%j_%t_log.out --kill-on-bad-exit=1 --cpus-per-task=8 \
sh -c 'trap "" USR2 && exec "$@"' - /opt/python -u -m submitit.core._submit /logs

# what each task of it runs
# distreid extract --data d --checkpoint c --out /runs/market"""


def parsed(*arguments: str) -> ClusterOptions:
    parser = argparse.ArgumentParser()
    add_cluster_options(parser)
    return parse_cluster_options(parser.parse_args(arguments))


def test_the_sbatch_file_is_as_ever() -> None:
    cluster = parsed(
        "--nodes", "2", "--gpus-per-node", "4", "--cpus-per-task", "8", "--mem-gb", "128",
        "--time", "01:30:00", "--partition", "gpu", "--account", "vision", "--qos", "long",
        "--constraint", "a100", "--slurm", "mail-type=END", "--slurm", "exclusive",
        "--setup", "module load cuda", "--python", "/opt/python", "--signal-delay", "300",
    )  # fmt: skip
    command = ["--data", "d", "--checkpoint", "c", "--out", "/runs/market"]
    assert dry_run(cluster, Path("/logs"), [command]) == SBATCH


def test_an_array_is_one_sbatch_file() -> None:
    commands = [["--data", "d", "--checkpoint", "c", "--out", name] for name in "abc"]
    text = dry_run(parsed("--max-parallel", "2"), Path("/logs"), commands)
    assert "#SBATCH --array=0-2%2\n" in text
    assert "#SBATCH --output=/logs/%A_%a_0_log.out\n" in text
    assert "singleton" not in text
    assert text.splitlines()[-1] == "# distreid extract --data d --checkpoint c --out c"


def test_the_defaults_of_the_command_line_are_those_of_the_class() -> None:
    assert parsed() == ClusterOptions()
    assert parsed("--slurm", "a=b", "--", "--data", "d") == ClusterOptions(slurm=("a=b",))


@pytest.mark.parametrize(
    ("time", "minutes"),
    [("90", 90), ("00:30", 1), ("01:30:00", 90), ("1-12", 2160), ("2-00:00:01", 2881), ("5:30", 6)],
)
def test_a_time_limit_is_read_as_slurm_does(time: str, minutes: int) -> None:
    assert ClusterOptions(time=time, signal_delay=1).minutes == minutes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nodes": 0}, "--nodes must be at least 1, got 0"),
        ({"gpus_per_node": -1}, "--gpus-per-node must be at least 0"),
        ({"time": "soon"}, "--time soon: give minutes"),
        ({"time": "0"}, "--time 0: must be more than nothing"),
        ({"time": "2"}, "--time 2: no longer than the 120 s of --signal-delay"),
        ({"images_per_second": 0.0}, "--images-per-second must be a number of at least 0.001"),
        ({"images_per_second": math.nan}, "--images-per-second must be a number .*, got nan"),
        ({"images_per_second": 1e-320}, "--images-per-second must be a number"),
        ({"mem_gb": math.nan}, "--mem-gb must be a number"),
        ({"mem_gb": math.inf}, "--mem-gb must be a number"),
        ({"mem_gb": -4.0}, "--mem-gb must be a number"),
        ({"mem_gb": 0.0}, "--mem-gb must be a number"),
        ({"slurm": ("nodes=4",)}, "--slurm nodes=4: give --nodes instead"),
        ({"slurm": ("--gpus_per_node=4",)}, "--slurm --gpus_per_node=4: give --gpus-per-node"),
        ({"slurm": ("mem=4G",)}, "--slurm mem=4G: give --mem-gb instead"),
        ({"slurm": ("=x",)}, "--slurm =x: give NAME=VALUE, or NAME alone"),
        ({"cluster": "local", "nodes": 2}, "--cluster local: one node only, got --nodes 2"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        replace(ClusterOptions(), **change)


def test_memory_is_asked_for_in_whole_megabytes() -> None:
    for asked, said in ((1.5, "1536M"), (0.0011, "2M"), (3, "3072M")):
        assert parsed("--mem-gb", str(asked)).slurm_parameters("a", 1)["mem"] == said


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number in range(3):
        draw(tmp_path / "data" / f"{number}.jpg", number)
    return tmp_path / "data"


Submit = Callable[..., tuple[int, str]]

# Its debug executor does not close its logs.
SUBMITITS_FILES = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


@pytest.fixture
def submit(
    tmp_path: Path,
    images: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Submit:
    """`distreid submit` in this process, on three images; its status and what it prints."""
    monkeypatch.setattr(follow, "INTERVAL_S", 0.1)
    monkeypatch.setattr(sys, "argv", sys.argv)  # which a debug job changes
    monkeypatch.setenv("COLUMNS", "200")

    def go(*arguments: str | Path) -> tuple[int, str]:
        line = list(map(str, arguments))
        split = line.index("--") if "--" in line else len(line)
        options = ["--data", images, "--checkpoint", "sample", "--num-workers", "0"]
        job = [*map(str, options), "--out", str(tmp_path / "run"), *line[split + 1 :]]
        try:
            status = cli.main(["submit", *line[:split], "--", *job])
        except SystemExit as end:
            status = int(end.code or 0)
        out, err = capfd.readouterr()
        return status, out + err

    return go


def test_what_the_job_would_refuse_is_refused_before(submit: Submit, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for change, message in (
        (("--data", tmp_path / "nothing"), "nothing: no such file or folder; check --data"),
        (("--checkpoint", tmp_path / "no.pth"), "no.pth: no such file; check --checkpoint"),
        (("--layout", "market1501"), "market1501"),
        (("--out", tmp_path / "data/0.jpg/run"), "0.jpg cannot be written to; check --out"),
    ):
        status, said = submit("--cluster", "local", "--", *change)
        assert (status, run.exists()) == (2, False), said
        assert message in said
        assert "Traceback" not in said


def test_of_several_jobs_the_wrong_one_is_named(submit: Submit, tmp_path: Path) -> None:
    table = tmp_path / "jobs.csv"
    table.write_text(f"out,batch_sise\n{tmp_path}/a,\n{tmp_path}/b,8\n")
    status, said = submit("--dry-run", "--array", str(table), "--", "--device", "cpu")
    assert status == 2
    assert f"--array {table}: job 2: unrecognized arguments: --batch-sise 8; near it:" in said


def test_without_slurm_it_is_said(
    submit: Submit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    status, said = submit("--", "--device", "cpu")
    assert status == 2
    assert "there is no srun here; submit from a login node, or use --cluster local" in said


def test_a_dry_run_tells_what_is_to_do_and_writes_nothing(submit: Submit, tmp_path: Path) -> None:
    rate = ("--images-per-second", "0.01", "--time", "4")
    status, said = submit("--dry-run", *rate, "--", "--shard-rows", "1")
    assert status == 0
    assert "3 of 3 images to do, 3 of 3 shards" in said
    assert "about 5 min 00 s at 0.01 images/s for each of 1, then" in said
    assert "3 time limits, so queued again 2 times by itself" in said
    exactly = submit("--dry-run", *rate, "--signal-delay", "90", "--", "--shard-rows", "1")[1]
    assert "2 time limits, so queued again 1 time by itself" in exactly
    # Asked for a GPU: a job that finds none must not crawl.
    assert "--shard-rows 1 --device cuda\n" in said
    assert not (tmp_path / "run").exists()


@SUBMITITS_FILES
def test_the_debug_executor_runs_at_once(submit: Submit) -> None:
    status, said = submit("--cluster", "debug", "--", "--device", "cpu")
    assert status == 0, said
    assert "3 rows, each exactly once" in said
    assert "ENDED, exit status 0" in said
    status, said = submit("--dry-run", "--", "--device", "cpu")
    assert "nothing is left but to verify and score" in said


def test_a_run_of_another_kind_is_refused_before(submit: Submit, images: Path) -> None:
    job = ("--", "--device", "cpu", "--num-workers", "0")
    command = ["--data", str(images), "--checkpoint", "sample", "--out", str(images.parent / "run")]
    assert extract.main([*command, *job[1:]]) == 0
    status, said = submit("--dry-run", *job, "--no-flip", "--precision", "bf16")
    assert status == 2, said
    assert "holds another run (precision: it has fp32, asked for is bf16)" in said


def test_two_local_processes_do_the_job_and_their_status_is_the_commands(
    submit: Submit, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-none, such")
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\necho "sees $CUDA_VISIBLE_DEVICES"\nexec {shlex.quote(sys.executable)} "$@"\n'
    )
    python.chmod(0o755)
    two = ("--cluster", "local", "--tasks-per-node", "2", "--python", python, "--wait", "--")
    status, said = submit(*two, "--shard-rows", "1", "--device", "cpu")
    assert status == 0, said
    assert "ENDED, exit status 0" in said
    log = Path(re.findall("  log     (.*)", said)[0])
    assert "2 processes" in log.read_text()
    assert "sees GPU-none, such\n" in log.read_text()
    # Its row is the second process's, which has a log of its own.
    (images / "1.jpg").write_text("no image")
    out = tmp_path / "other"
    status, said = submit(*two, "--shard-rows", "1", "--device", "cpu", "--out", out)
    assert status == 2, said
    assert "distreid: error: row 1" in said
    assert re.search("see .*_1_log.out", said)


@SUBMITITS_FILES
def test_an_array_runs_every_line_and_ends_in_one_table(submit: Submit, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep.csv"
    array = ("--cluster", "debug", "--array", sweep, "--", "--device", "cpu")
    sweep.write_text(f"out,batch_size\n{tmp_path}/a,1\n{tmp_path}/a,2\n")
    status, said = submit(*array)
    assert (status, "more than one job has --out" in said) == (2, True)
    sweep.write_text(f"out,batch_size\n{tmp_path}/a,1\n{tmp_path}/b,2\n")
    status, said = submit(*array)
    assert status == 0, said
    assert [f"{tmp_path}/{name} │" in said for name in "ab"] == [True, True]


def test_a_job_that_makes_no_progress_is_not_queued_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--data", "d", "--checkpoint", "c", "--out", str(tmp_path)]
    job = Extraction(command, limit_s=3600, signal_delay_s=120)
    job.started = time.time() - 3600
    (tmp_path / "shards").mkdir()
    with pytest.raises(SystemExit) as end:
        job.checkpoint()
    assert end.value.code == 2
    assert "no shard was finished in" in capsys.readouterr().err
    job.barren, job.started = 0, time.time() - 60
    for _ in range(3):  # stopped early
        assert job.checkpoint().function is job
    with pytest.raises(SystemExit):
        job.checkpoint()
    (tmp_path / "shards/000000.h5").touch()
    assert job.checkpoint().function is job
    assert "1 shards done since the start; queued again" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_a_rank_that_is_stopped_leaves_the_status_to_rank_0(number: int) -> None:
    # Any other status makes srun kill rank 0, maybe before it has the job queued again.
    with pytest.raises(SystemExit) as end:
        _stop(World(rank=1, world_size=2), Stopped(number))
    assert end.value.code == 0
    with pytest.raises(Stopped):  # no SLURM here that preempts
        _stop(World(), Stopped(signal.SIGTERM))


def test_only_submit_imports_submitit() -> None:
    found = [
        file.name
        for folder in ("distreid", "launch")
        for file in (REPOSITORY / folder).rglob("*.py")
        if re.search(r"^\s*(import|from) submitit", file.read_text(), flags=re.MULTILINE)
    ]
    assert set(found) == {"submit.py"}


def test_help_answers_without_submitit() -> None:
    code = (
        "import sys, distreid.cli as m\n"
        "try: m.main(['submit', '--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert not {'torch', 'submitit', 'rich'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
