"""Runs that inference engines compute: the same bytes, continued as begun, refused with a line."""

from __future__ import annotations

import json
import platform
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, Run

import distreid
from distreid.store import FeatureStore

WHAT = ("--data", "sample", "--checkpoint", "sample", "--no-evaluate", "--shard-rows", "64")
needs_x86 = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="torch is the default on other CPUs"
)


def shards(run: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((run / "shards").glob("*.h5"))}


@needs_x86
def test_any_number_of_processes_gives_the_bytes_of_one(
    run_command: Run, run_here: Run, tmp_path: Path
) -> None:
    found = {}
    for processes in (1, 3):
        out = tmp_path / str(processes)
        done = run_command(
            "torchrun", f"--nproc_per_node={processes}", "-m", "distreid.extract",
            *WHAT, "--out", out, "--device", "cpu",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found[processes] = shards(out)
        identity = FeatureStore.open(out).plan.identity
        assert (identity["engine"], identity["precision"]) == ("openvino", "fp32")
        assert "difference from torch in fp32" in done.stderr
    assert found[1] == found[3]
    # A run that lost a shard is mended with the same bytes, and a Python call has them too.
    (tmp_path / "1/shards/000003.h5").unlink()
    again = run_here("distreid", "extract", *WHAT, "--out", tmp_path / "1")
    assert again.returncode == 0, again.stderr
    assert shards(tmp_path / "1") == found[1]
    store = FeatureStore.open(tmp_path / "1")
    model = distreid.load_model("sample")
    assert model.engine == "openvino"
    some = [store.manifest.file(row) for row in (0, 200, 675)]
    assert np.array_equal(model.features(some), store.features(np.array([0, 200, 675])))


def test_a_run_is_continued_by_its_own_engine_and_another_is_refused(
    run_here: Run, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    begin = ("distreid", "extract", *WHAT, "--out", out)
    assert run_here(*begin, "--engine", "torch").returncode == 0
    assert "engine" not in FeatureStore.open(out).plan.identity
    before = shards(out)
    (out / "shards/000001.h5").unlink()
    assert run_here(*begin).returncode == 0
    assert shards(out) == before
    for option, said in (
        (("--engine", "onnxruntime"), "asked for is onnxruntime"),
        (("--precision", "int8"), f"--precision int8: {out} holds a run by torch, which has none"),
    ):
        refused = run_here(*begin, *option)
        assert refused.returncode == 2
        assert said in refused.stderr
        assert "Traceback" not in refused.stderr
    # Runs by two engines are compared.
    other = tmp_path / "other"
    done = run_here("distreid", "extract", *WHAT, "--out", other, "--engine", "onnxruntime")
    assert done.returncode == 0, done.stderr
    compared = run_here("distreid", "compare", out, other, "--json")
    assert compared.returncode == 0, compared.stderr
    assert json.loads(compared.stdout)["queries"] > 0


def test_an_int8_run_keeps_its_network_and_is_refused_where_it_loses_too_much(
    run_here: Run, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    begin = ("distreid", "extract", *WHAT, "--out", out, "--precision", "int8")
    done = run_here(*begin)
    assert done.returncode == 2
    assert not (out / "plan.h5").exists()
    assert "--calibrate-on DATA is missing" in done.stderr
    few = tmp_path / "few"
    few.mkdir()
    shutil.copy(next((REPOSITORY / "distreid/sample/market/query").glob("*.jpg")), few)
    done = run_here(*begin, "--calibrate-on", few)
    assert done.returncode == 2
    assert f"--calibrate-on {few}: 1 images, where at least 64 are wanted" in done.stderr
    done = run_here(*begin, "--calibrate-on", "sample", "--max-map-loss", "5")
    assert done.returncode == 0, done.stderr
    assert "% in fp32, " in done.stderr
    identity = FeatureStore.open(out).plan.identity
    assert (identity["precision"], identity["engine"]) == ("int8", "openvino")
    assert set(identity["int8"]) == {"network", "calibrated_on"}
    # A shard that is lost comes back from the kept network, and from no other.
    before = shards(out)
    (out / "shards/000002.h5").unlink()
    assert run_here("distreid", "extract", *WHAT, "--out", out).returncode == 0
    assert shards(out) == before
    (out / "shards/000002.h5").unlink()
    (out / "int8.bin").write_bytes(b"another")
    refused = run_here("distreid", "extract", *WHAT, "--out", out)
    assert refused.returncode == 2
    assert "int8.xml: not the network that the run was begun with" in refused.stderr


CRASHES = """
import os
import signal
import sys

from distreid import extract
from distreid.inference.openvino_engine import OpenVINO

load, passes = OpenVINO.load, []

def crashing(*given, **named):
    run = load(*given, **named)

    def of_a_pass(*pixels):
        passes.append(1)
        if len(passes) == 30 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGSEGV)
        return run(*pixels)

    return of_a_pass

OpenVINO.load = crashing
sys.exit(extract.main())
"""


@needs_x86
def test_an_engine_that_crashes_ends_the_run_with_a_message_and_shards_stay(
    run_command: Run, run_here: Run, tmp_path: Path
) -> None:
    script, out = tmp_path / "crashes.py", tmp_path / "run"
    script.write_text(CRASHES)
    crashed = run_command("torchrun", "--nproc_per_node=2", script, *WHAT, "--out", out)
    assert crashed.returncode == 1
    assert "Signal 11 (SIGSEGV)" in crashed.stderr  # by torchrun
    ours = [line for line in crashed.stderr.splitlines() if line.startswith("distreid: ")]
    assert ours and all(line.endswith("run the same command again to continue") for line in ours)
    before = shards(out)
    assert 0 < len(before) < 11
    assert not (out / "store.h5").exists()
    done = run_here("distreid", "extract", *WHAT, "--out", out)
    assert done.returncode == 0, done.stderr
    after = shards(out)
    assert len(after) == 11
    assert {name: after[name] for name in before} == before
