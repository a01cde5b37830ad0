"""Killed at a few chosen points; `tests/stress/crashes.py` does it at random, a hundred times."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "tests/stress"))

from crashes import SLOWER, Crashes, children, differences, left_over, wait_for_none


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The job with a pause after each batch."""
    file = tmp_path_factory.mktemp("job") / "slower.py"
    file.write_text(SLOWER)
    return file


@pytest.fixture(scope="module")
def reference(script: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process writes that nobody disturbs."""
    run = tmp_path_factory.mktemp("reference") / "run"
    assert Crashes(run, script, random.Random(0)).start(1).wait(120) == 0
    return run


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def said(log: Path) -> list[str]:
    return [line for line in log.read_text().splitlines() if line.startswith("distreid: ")]


def test_killed_on_3_processes_and_on_1_and_finished_on_2_it_has_the_same_bytes(
    reference: Path, script: Path, tmp_path: Path
) -> None:
    crashes = Crashes(tmp_path / "run", script, random.Random(0))
    for processes, target in ((3, "one rank"), (1, "everything"), (2, "torchrun")):
        enough = crashes.shards() + 4
        job = crashes.start(processes)
        wait_until(lambda enough=enough: crashes.shards() >= enough)  # type: ignore[misc]
        assert crashes.disturb(job, target, 0)
        wait_for_none(crashes.run)
        crashes.check_published()
        assert not (crashes.run / "store.h5").exists()
    assert crashes.start(2).wait(120) == 0
    crashes.check_published()
    assert differences(crashes.run, reference) == []
    (lost,) = said(tmp_path / "run.1.log")
    assert "has not been heard for 3 s; its last row was " in lost
    assert set(said(tmp_path / "run.3.log")) == {
        f"distreid: error: torchrun on {os.uname().nodename} has ended; "
        "run the same command again to continue"
    }


def test_torchrun_restarts_a_rank_that_died_and_the_job_completes_by_itself(
    reference: Path, script: Path, tmp_path: Path
) -> None:
    crashes = Crashes(tmp_path / "run", script, random.Random(0))
    job = crashes.start(2, "--max-restarts=3")
    wait_until(lambda: crashes.shards() >= 4)
    os.kill(children(job.pid)[1], signal.SIGKILL)
    assert job.wait(120) == 0
    assert differences(crashes.run, reference) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR2])
def test_a_signal_to_the_whole_process_group_is_one_line(
    script: Path, tmp_path: Path, number: signal.Signals
) -> None:
    # A terminal's Ctrl-C and SLURM's signals reach the decoding processes too.
    crashes = Crashes(tmp_path / "run", script, random.Random(0))
    job = crashes.start(0)
    wait_until(lambda: crashes.shards() >= 2)
    os.killpg(job.pid, number)
    assert job.wait(60) == 128 + number
    log = (tmp_path / "run.1.log").read_text()
    assert log.splitlines()[-1] == (
        f"distreid: stopped by {number.name}; run the same command again to continue"
    )
    assert "Traceback" not in log
    assert not left_over(crashes.run)


def test_a_signal_ends_a_rank_that_waits_for_others(tmp_path: Path) -> None:
    waiting = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    job = subprocess.Popen(
        [
            *(sys.executable, "-m", "distreid.extract", "--data", "sample"),
            *("--checkpoint", "sample", "--out", str(tmp_path / "run")),
        ],
        env=os.environ | waiting | {"MASTER_ADDR": "localhost", "MASTER_PORT": "0"},
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: caught(job, signal.SIGTERM))
    time.sleep(1)
    job.send_signal(signal.SIGTERM)
    _, text = job.communicate(timeout=60)
    assert job.returncode == 128 + signal.SIGTERM
    assert text.splitlines()[-1] == (
        "distreid: stopped by SIGTERM; run the same command again to continue"
    )


def test_a_signal_during_the_evaluation_says_how_to_continue(tmp_path: Path) -> None:
    script = tmp_path / "evaluating.py"
    script.write_text(
        "import sys, time\nfrom distreid import job\nfrom distreid.extract import main\n"
        "job.evaluate_aloud = lambda *values: time.sleep(100)\nsys.exit(main())\n"
    )
    crashes = Crashes(tmp_path / "run", script, random.Random(0))
    job = crashes.start(0)
    wait_until((crashes.run / "store.h5").exists)
    time.sleep(1)
    job.send_signal(signal.SIGTERM)
    assert job.wait(60) == 128 + signal.SIGTERM
    assert said(tmp_path / "run.1.log") == [
        "distreid: stopped by SIGTERM; run the same command again to continue"
    ]


def caught(job: subprocess.Popen[str], number: signal.Signals) -> bool:
    """Whether the process has a handler for this signal."""
    status = Path(f"/proc/{job.pid}/status").read_text().splitlines()
    (mask,) = (line.split()[1] for line in status if line.startswith("SigCgt"))
    return bool(int(mask, 16) >> (number - 1) & 1)
