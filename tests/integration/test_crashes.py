"""Killed at a few chosen points; `tests/stress/crashes.py` does it at random, a hundred times."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import LIMIT_S, REPOSITORY, wait_until

from distreid import extract

sys.path.insert(0, str(REPOSITORY / "tests/stress"))

from crashes import SLOWER, Crashes, children, differences, left_over, wait_for_none

SHARD_ROWS = 3
CONTINUE = "run the same command again to continue"


# Each rank leaves a file `heard-RANK` once those that it listens to have said their row.
TELLING = """
from pathlib import Path
from distreid.ranks.heartbeat import Connection

listen = Connection._listen

def telling(self, watched):
    listen(self, watched)
    if all(peer.row >= 0 for peer in watched):
        Path(__file__).with_name(f"heard-{self.rank}").touch()

Connection._listen = telling
"""


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


def wait_for_shards(crashes: Crashes, job: subprocess.Popen[bytes], more: int = 4) -> None:
    enough = crashes.shards() + more
    wait_until(lambda: crashes.shards() >= enough, job)


def messages(crashes: Crashes) -> list[str]:
    """What the last attempt said of itself."""
    log = crashes.run.with_name(f"run.{crashes.attempts}.log").read_text()
    return [line for line in log.splitlines() if line.startswith("distreid: ")]


def test_killed_on_3_processes_on_1_and_on_2_and_then_restarted_by_torchrun_it_has_the_same_bytes(
    crashes: Crashes, reference: Path, tmp_path: Path
) -> None:
    crashes.script.write_text(TELLING + crashes.script.read_text())
    said_of = {}
    for processes, target in ((3, "one rank"), (0, "everything"), (2, "torchrun")):
        job = crashes.start(processes)
        wait_for_shards(crashes, job)
        if target == "one rank":
            heard = [tmp_path / f"heard-{rank}" for rank in range(3)]
            wait_until(lambda: all(file.exists() for file in heard), job)  # noqa: B023
        assert crashes.disturb(job, target, 0)
        wait_for_none(crashes.run)
        crashes.check_published()
        assert not (crashes.run / "store.h5").exists()
        said_of[target] = messages(crashes)
    job = crashes.start(2, "--max-restarts=3")
    wait_for_shards(crashes, job)
    os.kill(children(job.pid)[1], signal.SIGKILL)
    assert job.wait(LIMIT_S) == 0
    crashes.check_published()
    assert differences(crashes.run, reference) == []
    (lost,) = said_of["one rank"]
    # At least 3 s: torchrun may take longer to end the others.
    assert re.search(r"has not been heard for ([3-9]|\d\d+) s; its last row was \d+", lost)
    assert set(said_of["torchrun"]) == {
        f"distreid: error: torchrun on {os.uname().nodename} has ended; {CONTINUE}"
    }


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR2])
def test_a_signal_to_the_whole_process_group_is_one_line(
    crashes: Crashes, tmp_path: Path, number: signal.Signals
) -> None:
    # A terminal's Ctrl-C and SLURM's signals reach the decoding processes too.
    job = crashes.start(0)
    wait_for_shards(crashes, job, 2)
    os.killpg(job.pid, number)
    assert job.wait(LIMIT_S) == 128 + number
    log = (tmp_path / "run.1.log").read_text()
    assert log.splitlines()[-1] == f"distreid: stopped by {number.name}; {CONTINUE}"
    assert "Traceback" not in log
    assert not left_over(crashes.run)


def test_a_signal_while_torch_is_loaded_says_how_to_continue(crashes: Crashes) -> None:
    # Raised in the midst of it, an exception may abort the process.
    job = crashes.start(0)
    wait_until(lambda: "libc10.so" in Path(f"/proc/{job.pid}/maps").read_text())
    job.send_signal(signal.SIGUSR2)
    assert job.wait(LIMIT_S) == 128 + signal.SIGUSR2
    assert messages(crashes) == [f"distreid: stopped by SIGUSR2; {CONTINUE}"]


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
    _, text = job.communicate(timeout=LIMIT_S)
    assert job.returncode == 128 + signal.SIGTERM
    assert text.splitlines()[-1] == f"distreid: stopped by SIGTERM; {CONTINUE}"


def answers(port: int) -> bool:
    """Whether somebody listens there."""
    with contextlib.suppress(OSError), socket.create_connection(("localhost", port)):
        return True
    return False


def test_a_signal_during_the_evaluation_says_how_to_continue(crashes: Crashes) -> None:
    crashes.script.write_text(
        "import sys, time\nfrom distreid.job import main_job\nfrom distreid.extract import main\n"
        "def evaluate_run(store, log):\n"
        "    (store.run / 'evaluating').touch()\n"
        f"    time.sleep({LIMIT_S})\n"
        "main_job.evaluate_run = evaluate_run\n"
        "sys.exit(main())\n"
    )
    job = crashes.start(0)
    wait_until((crashes.run / "evaluating").exists, job)
    job.send_signal(signal.SIGTERM)
    assert job.wait(LIMIT_S) == 128 + signal.SIGTERM
    assert messages(crashes) == [f"distreid: stopped by SIGTERM; {CONTINUE}"]
