"""`tests/gpu/everything`, rehearsed on a CPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from conftest import REPOSITORY, Run

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
EVERYTHING = (sys.executable, REPOSITORY / "tests/gpu/everything")


def test_what_was_done_and_what_was_not_stands_in_its_files(
    run_command: Run, tmp_path: Path
) -> None:
    done = run_command(
        *(*EVERYTHING, "--allow-cpu", "--out", tmp_path, "--minutes", "10"),
        *("--only", "peak", "channels_last", "ViT"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "results.json").read_text())
    assert (found["device"]["name"], found["device"]["gpus"]) == ("CPU", 0)
    ((test, outcome),) = found["tests"].items()
    assert test.endswith("::test_the_network_is_channels_last_and_moves_nothing_else")
    assert outcome["outcome"] == "skipped"
    assert found["benchmarks"]["peak"]["outcome"] == "done"
    assert found["benchmarks"]["peak"]["figures"]["peak"]["fp32"] > 0
    assert found["left_out"] == ["forward, ViT, eager", "forward, ViT, bf16 compiled"]
    assert found["not_finished"] == found["not_begun"] == found["failed"] == []
    assert "left out: 2\n  forward, ViT, eager\n" in done.stdout
    (case,) = ElementTree.parse(tmp_path / "junit.xml").iter("testcase")
    assert case.find("skipped") is not None
    assert "matrix peak, fp32: " in (tmp_path / "log.txt").read_text()


def test_what_there_is_no_time_for_is_named_and_the_status_says_so(
    run_command: Run, tmp_path: Path
) -> None:
    done = run_command(
        *(*EVERYTHING, "--allow-cpu", "--out", tmp_path, "--minutes", "10"),
        *("--limit", "0.1", "--only", "peak"),
    )
    assert done.returncode == 1
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["not_finished"] == ["peak"]
    assert "not finished: 1\n  peak\n" in done.stdout


def test_without_a_gpu_it_is_refused(run_command: Run, tmp_path: Path) -> None:
    done = run_command(*EVERYTHING, "--out", tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        "tests/gpu/everything: torch sees no GPU; --allow-cpu rehearses without one\n"
    )
