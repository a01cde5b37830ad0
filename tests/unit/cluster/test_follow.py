"""Submitted jobs to their end. A script that prints stands for scontrol."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import draw
from rich.console import Console

from distreid.cluster import follow
from distreid.cluster.follow import Job, State, preempted, reasons, score_lines, slurm_state
from distreid.cluster.rehearsal import rehearse
from distreid.cluster.submit import parse_job
from distreid.host import progress

Answer = Callable[..., None]


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Answer:
    """Makes scontrol say so."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    def says(out: str, err: str = "") -> None:
        file = tmp_path / "scontrol"
        file.write_text(f"#!/bin/sh\necho '{out}'\necho '{err}' >&2\n")
        file.chmod(0o755)

    return says


@pytest.mark.parametrize(
    ("fields", "words", "status"),
    [
        ("JobState=RUNNING Reason=None Restarts=0", "RUNNING", None),
        ("JobState=RUNNING Reason=None", "RUNNING", None),
        ("JobState=RUNNING Reason=None Restarts=2", "RUNNING, attempt 3", None),
        ("JobState=PENDING Reason=Resources Restarts=0", "PENDING (Resources)", None),
        ("JobState=PENDING Reason=BeginTime Restarts=1", "PENDING (BeginTime), attempt 2", None),
        ("JobState=COMPLETED Restarts=0 ExitCode=0:0", "COMPLETED, exit status 0", 0),
        ("JobState=FAILED Restarts=0 ExitCode=2:0", "FAILED, exit status 2", 2),
        ("JobState=CANCELLED Restarts=0 ExitCode=0:15", "CANCELLED, exit status 143", 143),
        ("JobState=TIMEOUT Restarts=1 ExitCode=0:0", "TIMEOUT, attempt 2, exit status 1", 1),
        ("JobState=NODE_FAIL Restarts=0 ExitCode=0:0", "NODE_FAIL", None),
    ],
)
def test_a_jobs_state_is_told_with_its_attempt_and_its_exit_status(
    scontrol: Answer, fields: str, words: str, status: int | None
) -> None:
    scontrol(f"JobId=7 JobName=x {fields}")
    assert slurm_state("7", []) == State(words=words, status=status)


def test_a_job_that_slurm_has_forgotten_is_judged_by_its_folders(
    scontrol: Answer, tmp_path: Path
) -> None:
    scontrol("", "slurm_load_jobs error: Invalid job id specified")
    runs = [tmp_path / "a", tmp_path / "b"]
    for run in runs:
        assert slurm_state("7", runs) == State(words="forgotten by SLURM", status=1)
        run.mkdir()
        (run / "store.h5").touch()
    assert slurm_state("7", runs) == State(words="forgotten by SLURM", status=0)


def test_a_controller_that_does_not_answer_ends_no_job(scontrol: Answer) -> None:
    scontrol("", "Unable to contact slurm controller")
    assert slurm_state("7", []) == State(
        words="SLURM does not answer (Unable to contact slurm controller)"
    )


def test_where_there_is_no_scontrol_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert not preempted("7")
    assert slurm_state("7", []) == State(
        words="SLURM does not answer (scontrol: No such file or directory)"
    )


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("JobState=RUNNING PreemptTime=2026-01-01T00:00:00", True),
        ("JobState=RUNNING PreemptTime=None", False),
        ("JobState=RUNNING", False),
        ("JobState=COMPLETING PreemptTime=2026-01-01T00:00:00", False),
    ],
)
def test_a_job_is_preempted_if_it_runs_and_was_told_to_end(
    scontrol: Answer, fields: str, expected: bool
) -> None:
    scontrol(f"JobId=7 {fields}")
    assert preempted("7") is expected
    assert not preempted(None)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number in range(3):
        draw(tmp_path / "data" / f"{number}.jpg", number)
    return tmp_path / "data"


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


def test_benchmarks_are_told_by_their_own_names(tmp_path: Path) -> None:
    scores = [
        {"benchmark": name, "protocol": {"name": "standard"}, "rank1": share, "mAP": share}
        for name, share in (("ltcc-general", 0.5), ("ltcc-changed-clothes", 0.25))
    ]
    (tmp_path / "store.h5").touch()
    (tmp_path / "metrics.json").write_text(json.dumps({"scores": scores}))
    table = score_lines([("1", tmp_path)])
    assert [str(column.header).partition("\n")[0] for column in table.columns][2::2] == [
        "ltcc-general",
        "ltcc-changed-clothes",
    ]
    assert [list(column.cells) for column in table.columns][2::2] == [["50.00 %"], ["25.00 %"]]
