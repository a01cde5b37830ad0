"""A reason is the last thing that the user sees, once."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, Run

from distreid.ranks import launcher
from distreid.ranks.launcher import LAST_WORD, is_first_rank


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, True), ({"RANK": "0"}, True), ({"RANK": "3"}, False), ({"SLURM_PROCID": "1"}, False)],
)
def test_rank_0_and_a_process_alone_speak(environment: dict[str, str], expected: bool) -> None:
    assert is_first_rank(environment) is expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"TORCHELASTIC_RESTART_COUNT": "3"}, True),
        ({"TORCHELASTIC_RESTART_COUNT": "2"}, False),  # torchrun starts it once more
        ({"SLURM_JOB_ID": "7"}, False),
        ({"TORCHELASTIC_RUN_ID": None}, False),
    ],
)
def test_torchruns_last_start_alone_is_followed_by_its_report(
    changes: dict[str, str | None], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getppid", lambda: 77)
    monkeypatch.setattr(launcher, "_parent", lambda pid: 66)
    restarts = {"TORCHELASTIC_RESTART_COUNT": "3", "TORCHELASTIC_MAX_RESTARTS": "3"}
    given = {"TORCHELASTIC_RUN_ID": "none"} | restarts | changes
    environment = {name: value for name, value in given.items() if value is not None}
    assert launcher._ends_with_torchrun(environment) is expected
    # The first process of a container: when it has ended, nobody is left.
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert not launcher._ends_with_torchrun(environment)


def test_a_line_is_printed_when_the_process_has_ended(tmp_path: Path) -> None:
    # Were the line not to wait, it would stand first; if it waits, nothing depends on the pause.
    with (tmp_path / "said").open("w") as said:
        torchrun = subprocess.Popen(["sh", "-c", "sleep 1; echo report"], stdout=said)
        command = [sys.executable, "-I", "-S", "-c", LAST_WORD, str(torchrun.pid), "the reason"]
        with torchrun, subprocess.Popen(command, stderr=said):
            pass
    assert (tmp_path / "said").read_text() == "report\nthe reason\n"


def test_on_a_terminal_the_reason_comes_last_too(tmp_path: Path) -> None:
    terminal, end = pty.openpty()
    command = ("torchrun", "--nproc_per_node=2", "-m", "distreid.extract")
    options = ("--data", "/no/such", "--checkpoint", "sample", "--out", str(tmp_path / "run"))
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with subprocess.Popen(
        [*command, *options], stdin=end, stdout=end, stderr=end, env=environment, cwd=REPOSITORY
    ):
        os.close(end)
        said = b""
        with contextlib.suppress(OSError):  # Linux's word for the end of a terminal
            while part := os.read(terminal, 65536):
                said += part
    os.close(terminal)
    lines = said.decode().splitlines()
    assert lines[-1] == "distreid: error: /no/such: no such file or folder; check --data"
    assert sum(line.startswith("distreid: error") for line in lines) == 1


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--data", "/no/such"], "/no/such: no such file or folder; check --data"),
        (
            ["--data", "sample", "--colour", "red"],
            "unrecognized arguments: --colour red; see python -m distreid.extract --help",
        ),
    ],
)
def test_under_torchrun_the_reason_comes_once_and_last(
    run_command: Run, tmp_path: Path, options: list[str], reason: str
) -> None:
    done = run_command(
        *("torchrun", "--nproc_per_node=2", "-m", "distreid.extract", "--checkpoint", "sample"),
        *("--out", f"{tmp_path}/run", *options),
    )
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[-1] == f"distreid: error: {reason}"
    assert sum(line.startswith("distreid: ") for line in lines) == 1
