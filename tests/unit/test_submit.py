"""Submission without a cluster: options, sweep files, the sbatch text, what is checked before."""

from __future__ import annotations

import argparse
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
from rich.console import Console

from distreid import cli, extract, follow, progress
from distreid.cluster_options import ClusterOptions, add_cluster_options, parse_cluster_options
from distreid.distributed import World
from distreid.errors import OptionError, Stopped
from distreid.follow import Job, State, reasons, score_lines
from distreid.rehearsal import rehearse
from distreid.submit import Extraction, _stop, dry_run, parse_job
from distreid.sweep import read_sweep

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
#SBATCH --mem=128G
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
        ({"images_per_second": 0.0}, "--images-per-second must be positive"),
        ({"cluster": "local", "nodes": 2}, "--cluster local: one node only, got --nodes 2"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        replace(ClusterOptions(), **change)


def test_a_sweep_file_is_a_job_for_each_line(tmp_path: Path) -> None:
    table = tmp_path / "sweep.csv"
    table.write_text("checkpoint,out,batch_size\na.pth,runs/a,\nb.pth,runs/b,32\n")
    expected = [
        ["--checkpoint", "a.pth", "--out", "runs/a"],
        ["--checkpoint", "b.pth", "--out", "runs/b", "--batch-size", "32"],
    ]
    assert read_sweep(table) == expected
    listed = tmp_path / "sweep.yaml"
    listed.write_text("- {checkpoint: [a, b], flip: false, mat: true, batch_size: 8}\n")
    expected = [["--checkpoint", "a", "b", "--no-flip", "--mat", "--batch-size", "8"]]
    assert read_sweep(listed) == expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("sweep.csv", "", "no job in it"),
        ("sweep.csv", "out\n", "no job in it"),
        ("sweep.csv", "out,data\na\n", "job 1 does not fit the header"),
        ("sweep.csv", "out\na,b\n", "job 1 does not fit the header"),
        ("sweep.yaml", "out: a", "no job in it"),
        ("sweep.yaml", "- a\n", "job 1 does not fit the header"),
        ("sweep.yaml", "- {", "cannot be read"),
    ],
)
def test_a_sweep_file_that_is_no_table_is_refused(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(OptionError, match=message):
        read_sweep(tmp_path / name)


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
    assert (status, "holds another run (precision: bf16, not fp32" in said) == (2, True), said


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


def test_what_the_logs_of_a_job_mean_is_said(images: Path, tmp_path: Path) -> None:
    logs = [tmp_path / f"7_{rank}_log.out" for rank in range(12)]
    options = ["--data", str(images), "--checkpoint", "sample", "--out", str(tmp_path)]
    plan = rehearse(parse_job(options)).plan
    running = State(words="RUNNING")
    job = Job(id="7", look=lambda: running, log=logs[0], plan=plan, out=tmp_path, runs=[])
    assert "is --logs a folder that the nodes share?" in reasons(job)[0]
    logs[0].write_text("hello\n-: 1: exec: /no/python: not found\nsrun: error: exit code 127\n")
    said = reasons(job)
    assert said[0].startswith("srun: error: exit code 127")
    assert "give --python" in said[1]
    start = "submitit INFO (2026) - Starting with JobEnvironment(job_id=7)\n"
    before = "distreid: stopped by SIGTERM; run the same command again to continue\n"
    logs[10].write_text(f"{start}{before}{start}distreid: error: row 7: no image\n")
    logs[2].write_text("distreid: error: row 5: no image\n")
    said = reasons(job)
    assert said[:2] == [f"distreid: error: row {row}: no image" for row in (5, 7)]
    assert said[-2:] == [f"see {logs[2]}", f"see {logs[10]}"]


def test_the_progress_shown_is_of_the_work_alone(
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Neither of the time in the queue, which would spoil the rate, nor of that of the scores.
    monkeypatch.setattr(follow, "INTERVAL_S", 0.1)
    monkeypatch.setattr(progress, "LINE_INTERVAL_S", 0.01)
    out = tmp_path / "run"
    options = ["--data", str(images), "--checkpoint", "sample", "--out", str(out)]
    plan = rehearse(parse_job(options)).plan
    words = ["PENDING (Resources)", "PENDING (Priority)", "RUNNING", "RUNNING, attempt 2"]
    words += ["RUNNING, attempt 3", "COMPLETED"]
    looks = iter(words)

    def look() -> State:
        word = next(looks)
        if word == "RUNNING, attempt 2":
            (out / "shards").mkdir(parents=True)
            (out / "shards/000000.h5").touch()
        return State(words=word, status=0 if word == "COMPLETED" else None)

    job = Job(id="7", look=look, log=tmp_path / "7_0_log.out", plan=plan, out=out, runs=[out])
    assert follow.follow([job], Console(stderr=True)) == 0
    lines = capsys.readouterr().err.splitlines()
    states = [number for number, line in enumerate(lines) if line.startswith("job 7: ")]
    assert [lines[number] for number in states] == [f"job 7: {word}" for word in words]
    shown = [number for number, line in enumerate(lines) if " of 3 images" in line]
    assert states[2] < min(shown) <= max(shown) < states[4]


def test_a_run_without_scores_has_dashes_and_leaves_the_others_theirs(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/store.h5").touch()
    (tmp_path / "a/metrics.json").write_text(
        '{"scores": [{"protocol": {"name": "fastreid"}, "rank1": 0.5, "mAP": null}]}'
    )
    table = score_lines([("1", tmp_path / "a"), ("2", tmp_path / "b")])
    assert [list(column.cells) for column in table.columns][2:] == [["50.00 %", "–"], ["–", "–"]]


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
