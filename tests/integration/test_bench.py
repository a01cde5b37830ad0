"""`distreid bench` by its real command line, on the built-in sample. No figure is asserted."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
import torch
from conftest import Run, error_line
from torch import nn

from distreid import cli
from distreid.benchmark import bench
from distreid.errors import OptionError
from distreid.inference.engines import ENGINES, choose_engine
from distreid.inference.extractor import PRECISIONS, check_precision


def faster() -> list[str]:
    """The precisions beside fp32 that this CPU has."""
    found = []
    for precision in PRECISIONS:
        with contextlib.suppress(OptionError):
            check_precision(precision, torch.device("cpu"))
            found.append(precision)
    return [precision for precision in found if precision != "fp32"]


def test_every_step_is_measured_and_the_peers_features_agree(run_command: Run) -> None:
    done = run_command(
        "distreid", "bench", "--data", "sample", "--checkpoint", "sample", "--num-workers", "1",
        "--batch-size", "16", "--seconds", "0.01", "--flip", "--peer", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = done.stderr.splitlines()
    assert said[:3] == ["each step alone …", "everything together …", "beside the plain loop …"]
    assert all(line.startswith("forward by ") for line in said[3:])
    found = json.loads(done.stdout)
    assert list(found["steps"])[:5] == ["read", "decode", "resize", "forward", "write"]
    rates = [*found["steps"].values(), found["input"], found["together"], found["share"]]
    assert all(rate > 0 for rate in rates)
    first, *others = found["trials"]
    engine = choose_engine("auto", "fp32", torch.device("cpu"))
    assert (first["engine"], first["precision"], first["batch_size"]) == (engine, "fp32", 16)
    assert first["cosine"] == pytest.approx(1, abs=1e-6)
    tried = [
        (trial["engine"], trial["precision"], trial["batch_size"]) for trial in found["trials"]
    ]
    sizes = {(engine, "fp32", size) for size in (8, 16, 32, 64)}
    by_torch = {("torch", each, 16) for each in ("fp32", *faster())}
    # Not every CPU has another precision than fp32.
    on_a_cpu = [each for each in ENGINES.values() if each.device == "cpu"]
    by_engines = {(e.name, each, 16) for e in on_a_cpu for each in e.precisions()}
    assert set(tried) == sizes | by_torch | by_engines | {("openvino", "int8", 16)}
    assert len(tried) == len(set(tried)) == len(said[3:])
    least = {trial["precision"]: 0.9 if trial["precision"] == "int8" else 0.99 for trial in others}
    assert all(t["rate"] > 0 and t["cosine"] > least[t["precision"]] for t in others)
    assert found["peer"]["cosine"] >= 0.99999
    peer = found["peer"]
    assert 0 < peer["ratio_min"] <= peer["ratio"] <= peer["ratio_max"]
    assert peer["ratio_min"] <= peer["ours"] / peer["rate"] <= peer["ratio_max"]
    assert peer["rounds"] == 7
    load = found["load"]
    assert load["busy"] is (load["others"] > load["cores"])
    assert load["ours"] > 0
    assert found["bottleneck"] and found["advice"].startswith("fastest with the peers")


SMALL = ["--data", "sample", "--num-workers", "0", "--batch-size", "8", "--seconds", "0.01"]


def measured(capsys: pytest.CaptureFixture[str], *line: str) -> Any:
    assert cli.main(["bench", *SMALL, "--json", *line]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was asked for is tried in batches of other sizes, and no other engine or precision."""
    monkeypatch.setattr(bench._Setting, "others", lambda _: [])


@pytest.mark.usefixtures("alone")
def test_the_table_ends_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", *SMALL, "--checkpoint", "sample"]) == 0
    said = capsys.readouterr().out
    for word in ("read", "0 workers", "all together", "cosine to", "bottleneck: ", "fastest"):
        assert word in said
    assert "beside" not in said


@pytest.mark.usefixtures("alone")
def test_slow_networks_are_timed_once_in_one_size_of_batch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "SLOW_S", 0)
    found = measured(capsys, "--checkpoint", "sample", "--peer")
    assert {trial["batch_size"] for trial in found["trials"]} == {8}
    assert all(trial["rate"] > 0 for trial in found["trials"])
    assert found["steps"]["forward"] > 0 and found["together"] > 0
    assert found["peer"]["rounds"] == 3 and found["peer"]["cosine"] >= 0.99999


def test_the_plain_loop_is_not_compared_with_what_peers_do_not_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = ["bench", "--data", "sample", "--checkpoint", "sample", "--peer", "--scales", "1,1.1"]
    assert cli.main(line) == 2
    assert error_line(capsys) == "--peer: the plain loop has no --scales"


@pytest.mark.usefixtures("alone")
def test_compile_auto_leaves_the_engine_that_a_job_takes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = measured(capsys, "--checkpoint", "sample", "--compile", "auto")
    engine = choose_engine("auto", "fp32", torch.device("cpu"))
    assert {trial["engine"] for trial in found["trials"]} == {engine}
    assert found["compiled"] == f"{engine} computes; --engine torch compiles"


class Means(nn.Module):
    """A quick network: the means of 16 stripes."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.reshape(-1, 3, 16, 16, 128).mean(dim=(1, 3, 4))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An ONNX file by others, for any number of images."""
    file = tmp_path_factory.mktemp("program") / "means.onnx"
    rows = {"images": {0: torch.export.Dim("rows")}}
    images = (torch.zeros(2, 3, 256, 128),)
    torch.onnx.export(
        Means().eval(), images, str(file), dynamo=True, dynamic_shapes=rows, verbose=False
    )
    return str(file)


def test_a_program_is_measured_by_all_that_can_compute_it(
    program: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = measured(capsys, "--checkpoint", program)
    tried = {(trial["engine"], trial["precision"]) for trial in found["trials"]}
    assert tried == {("openvino", "fp32"), ("onnxruntime", "fp32")}
    assert {trial["batch_size"] for trial in found["trials"]} == {4, 8, 16, 32}
    assert all(trial["cosine"] >= 0.99999 for trial in found["trials"])
    engine = found["trials"][0]["engine"]
    assert found["exact"] == f"{engine} as the file is"
    assert found["compiled"] == f"{engine} computes the program as it is"


@pytest.mark.parametrize("seconds", ["nan", "inf", "-1", "0"])
def test_so_many_seconds_cannot_be_meant(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["--data", "sample", "--checkpoint", "sample", f"--seconds={seconds}"]
    assert cli.main(["bench", *line]) == 2
    assert error_line(capsys) == f"--seconds {seconds}: a number above 0 is wanted"


def test_a_program_is_not_beside_the_plain_loop(
    program: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", *SMALL, "--checkpoint", program, "--peer"]) == 2
    assert error_line(capsys) == f"--peer: the plain loop has no programs such as {program}"
