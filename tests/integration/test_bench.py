"""`distreid bench` by its real command line, on the built-in sample. No figure is asserted."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from conftest import Run

from distreid.bench_figures import Bench, Trial

FIGURES = Bench(
    device="cpu",
    workers=1,
    cores=2,
    compiled="off",
    steps={"read": 9e4, "decode": 2e4, "resize": 9e3, "forward": 100.0, "write": 1e6},
    input=6e3,
    together=97.0,
    trials=(
        Trial(precision="fp32", batch_size=64, rate=100.0, cosine=1.0),
        Trial(precision="bf16", batch_size=64, rate=80.0, cosine=0.9999),
        Trial(precision="fp32", batch_size=128, rate=120.0, cosine=1.0),
    ),
    peer=None,
)


def test_every_step_is_measured_and_the_peers_features_agree(run_command: Run) -> None:
    done = run_command(
        "distreid", "bench", "--data", "sample", "--checkpoint", "sample", "--num-workers", "1",
        "--batch-size", "16", "--seconds", "0.01", "--flip", "--peer", "--json", timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert list(found["steps"])[:5] == ["read", "decode", "resize", "forward", "write"]
    rates = [*found["steps"].values(), found["input"], found["together"], found["share"]]
    assert all(rate > 0 for rate in rates)
    first, *others = found["trials"]
    assert (first["precision"], first["batch_size"]) == ("fp32", 16)
    assert first["cosine"] == pytest.approx(1, abs=1e-6)
    assert {trial["batch_size"] for trial in others} == {8, 16, 32, 64}
    assert all(trial["rate"] > 0 and trial["cosine"] > 0.99 for trial in others)
    assert found["peer"]["cosine"] >= 0.99999
    assert found["peer"]["ratio"] > 0
    assert found["bottleneck"] and found["advice"].startswith("fastest tried: --precision")


def test_the_table_ends_in_words(run_command: Run) -> None:
    done = run_command(
        "distreid", "bench", "--data", "sample", "--checkpoint", "sample", "--num-workers", "0",
        "--batch-size", "8", "--seconds", "0.01", timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for word in ("read", "0 workers", "all together", "cosine to fp32", "bottleneck: ", "fastest"):
        assert word in done.stdout
    assert "beside" not in done.stdout


def test_the_bottleneck_is_named() -> None:
    steps = FIGURES.steps
    assert FIGURES.bottleneck().startswith("the model")
    assert replace(FIGURES, together=80.0).bottleneck().startswith("the cores")
    slow = replace(FIGURES, together=45.0, input=50.0)
    assert slow.bottleneck() == "the input: take more --num-workers"
    assert replace(slow, workers=2).bottleneck().endswith("resize is slowest")
    assert replace(FIGURES, steps=steps | {"write": 10.0}).bottleneck().startswith("the disk")


def test_the_fastest_setting_is_advised() -> None:
    assert FIGURES.advice() == (
        "fastest tried: --precision fp32 --batch-size 128, 1.20 times the forward rate of fp32 "
        "with 64, cosine to fp32 1.000000"
    )


def test_the_plain_loop_is_not_compared_with_what_peers_do_not_do(run_command: Run) -> None:
    done = run_command(
        "distreid", "bench", "--data", "sample", "--checkpoint", "sample", "--peer", "--scales",
        "1,1.1",
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "distreid: error: --peer: the plain loop has no --scales\n"
