"""Killed at a few chosen points; `tests/stress/crashes.py` does it at random, a hundred times."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import REPOSITORY

from distreid import extract

sys.path.insert(0, str(REPOSITORY / "tests/stress"))

from crashes import SLOWER, Crashes, children, differences, left_over, wait_for_none

SHARD_ROWS = 3
CONTINUE = "run the same command again to continue"


@pytest.fixture
def crashes(market: Path, tmp_path: Path) -> Crashes:
    """The job in 50 shards, with a longer pause after each than that of a hundred kills."""
    script = tmp_path / "slower.py"
    script.write_text(SLOWER.replace("0.1", "0.5"))
    return Crashes(tmp_path / "run", script, random.Random(0), str(market), SHARD_ROWS)


@pytest.fixture
def reference(market: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What one process writes that nobody disturbs."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    run = tmp_path / "reference"
    line = ["--data", market, "--checkpoint", "sample", "--out", run]
    assert (
        extract.main([*map(str, line), "--num-workers", "0", "--shard-rows", str(SHARD_ROWS)]) == 0
    )
    return run


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def wait_for_shards(crashes: Crashes, more: int = 4) -> None:
    enough = crashes.shards() + more
    wait_until(lambda: crashes.shards() >= enough)


def said(crashes: Crashes) -> list[str]:
    """By the last attempt."""
    log = crashes.run.with_name(f"run.{crashes.attempts}.log").read_text()
    return [line for line in log.splitlines() if line.startswith("distreid: ")]


def test_killed_on_3_processes_on_1_and_on_2_and_then_restarted_by_torchrun_it_has_the_same_bytes(
    crashes: Crashes, reference: Path
) -> None:
    said_of = {}
    # So long after the first shards, every rank has said which row it has reached.
    for processes, target, after_s in (
        (3, "one rank", 2.5),
        (0, "everything", 0),
        (2, "torchrun", 0),
    ):
        job = crashes.start(processes)
        wait_for_shards(crashes)
        assert crashes.disturb(job, target, after_s)
        wait_for_none(crashes.run)
        crashes.check_published()
        assert not (crashes.run / "store.h5").exists()
        said_of[target] = said(crashes)
    job = crashes.start(2, "--max-restarts=3")
    wait_for_shards(crashes)
    os.kill(children(job.pid)[1], signal.SIGKILL)
    assert job.wait(120) == 0
    crashes.check_published()
    assert differences(crashes.run, reference) == []
    (lost,) = said_of["one rank"]
    assert "has not been heard for 3 s; its last row was " in lost
    assert set(said_of["torchrun"]) == {
        f"distreid: error: torchrun on {os.uname().nodename} has ended; {CONTINUE}"
    }


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR2])
def test_a_signal_to_the_whole_process_group_is_one_line(
    crashes: Crashes, tmp_path: Path, number: signal.Signals
) -> None:
    # A terminal's Ctrl-C and SLURM's signals reach the decoding processes too.
    job = crashes.start(0)
    wait_for_shards(crashes, 2)
    os.killpg(job.pid, number)
    assert job.wait(60) == 128 + number
    log = (tmp_path / "run.1.log").read_text()
    assert log.splitlines()[-1] == f"distreid: stopped by {number.name}; {CONTINUE}"
    assert "Traceback" not in log
    assert not left_over(crashes.run)


def test_a_signal_while_torch_is_loaded_says_how_to_continue(crashes: Crashes) -> None:
    # Raised in the midst of it, an exception may abort the process.
    job = crashes.start(0)
    wait_until(lambda: "libc10.so" in Path(f"/proc/{job.pid}/maps").read_text())
    job.send_signal(signal.SIGUSR2)
    assert job.wait(60) == 128 + signal.SIGUSR2
    assert said(crashes) == [f"distreid: stopped by SIGUSR2; {CONTINUE}"]


def test_a_signal_ends_a_rank_that_waits_for_others(tmp_path: Path) -> None:
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    waiting = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    job = subprocess.Popen(
        [
            *(sys.executable, "-m", "distreid.extract", "--data", "sample"),
            *("--checkpoint", "sample", "--out", str(tmp_path / "run")),
        ],
        env=os.environ | waiting | {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)},
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: answers(port))
    job.send_signal(signal.SIGTERM)
    _, text = job.communicate(timeout=60)
    assert job.returncode == 128 + signal.SIGTERM
    assert text.splitlines()[-1] == f"distreid: stopped by SIGTERM; {CONTINUE}"


def answers(port: int) -> bool:
    """Whether somebody listens there."""
    with contextlib.suppress(OSError), socket.create_connection(("localhost", port)):
        return True
    return False


def test_a_signal_during_the_evaluation_says_how_to_continue(crashes: Crashes) -> None:
    crashes.script.write_text(
        "import sys, time\nfrom distreid import job\nfrom distreid.extract import main\n"
        "job.evaluate_aloud = lambda *values: time.sleep(100)\n"
        "sys.exit(main())\n"
    )
    job = crashes.start(0)
    wait_until((crashes.run / "store.h5").exists)
    time.sleep(1)
    job.send_signal(signal.SIGTERM)
    assert job.wait(60) == 128 + signal.SIGTERM
    assert said(crashes) == [f"distreid: stopped by SIGTERM; {CONTINUE}"]
