"""`--compile` by the real command line, with a network that is compiled in seconds."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run
from PIL import Image
from torch import nn

from distreid.store import FeatureStore
from distreid.store.root_file import read_plan

CODE = """
import torch
from distreid.inference import compilation
from distreid.images.preprocess import Preprocess

def build():
    layers = torch.nn.Conv2d(3, 16, 3), torch.nn.BatchNorm2d(16), torch.nn.ReLU()
    network = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(16 * 6 * 2, 8))
    network.preprocess = Preprocess(height=8, width=4)
    return network

def soon():
    # So that twenty images are a large run.
    compilation.ROWS_WORTH_IT["cpu"] = 20
    return build()

class Broken(torch.nn.Sequential):
    def forward(self, x):
        torch._dynamo.graph_break()
        return super().forward(x if x.shape[1] == 3 else x[:, :3])

def broken():
    network = Broken(*build())
    network.preprocess = Preprocess(height=8, width=4)
    return network
"""


class Job:
    """`distreid.extract` on one checkpoint of a small network."""

    def __init__(self, folder: Path, run: Run) -> None:
        self.folder = folder
        self.run = run
        (folder / "own_code.py").write_text(CODE)
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten()
        layers[1].running_mean = torch.randn(16)
        network = nn.Sequential(*layers, nn.Linear(16 * 6 * 2, 8))
        torch.save(network.state_dict(), folder / "net.pth")
        (folder / "images").mkdir()
        for number in range(20):
            noise = np.random.default_rng(number).integers(0, 256, (8, 4, 3), dtype=np.uint8)
            Image.fromarray(noise).save(folder / "images" / f"{number}.png")

    def __call__(self, out: str, *options: str, processes: int = 1, **settings: str) -> Any:
        torchrun = ("torchrun", f"--nproc_per_node={processes}")
        start = (sys.executable,) if processes == 1 else torchrun
        data = () if "--data" in options else ("--data", self.folder / "images")
        model = () if "--model" in options else ("--model", "own_code:build")
        return self.run(
            *start, "-m", "distreid.extract", *data, *model,
            "--checkpoint", self.folder / "net.pth", "--out", self.folder / out,
            "--num-workers", "1", *options,
            PYTHONPATH=f"{self.folder}:{Path(__file__).parents[2]}", **settings,
        )  # fmt: skip

    def features(self, out: str) -> Any:
        store = FeatureStore.open(self.folder / out)
        return store.features(np.arange(len(store.manifest)))


@pytest.fixture
def job(tmp_path: Path, run_command: Run) -> Job:
    return Job(tmp_path, run_command)


def shards(run: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted((run / "shards").iterdir())]


@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler (g++)")
def test_a_large_run_is_compiled_with_the_same_bytes_from_any_number_of_processes(
    job: Job, tmp_path: Path
) -> None:
    options = [
        "--model",
        "own_code:soon",
        "--compile",
        "auto",
        "--engine",
        "torch",
        "--batch-size",
        "8",
        "--shard-rows",
        "8",
    ]
    for processes in (1, 2):
        done = job(str(processes), *options, processes=processes)
        assert done.returncode == 0, done.stderr
        assert "compiled; on the first 8 images the largest difference" in done.stderr
        assert "Warning" not in done.stderr and "torch/" not in done.stderr
    assert shards(tmp_path / "1") == shards(tmp_path / "2")
    plan = read_plan(tmp_path / "1" / "store.h5")
    assert plan.identity["compile"] == "default"
    drift = plan.provenance["compilation"]
    assert drift["largest"] <= 1e-5 and drift["cosine"] >= 0.99999 and drift["rows"] == 8
    again = job("1", *options)
    assert again.returncode == 0 and "compiling" not in again.stderr
    refused = job("1", *options, "--compile", "off")
    assert "holds another run (compile: it has default, asked for is off)" in refused.stderr


def test_what_cannot_be_compiled_is_said_in_one_line_and_computed_without(
    job: Job, tmp_path: Path
) -> None:
    done = job("broken", "--model", "own_code:broken", "--compile", "max")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("not compiled: Unsupported") == 1
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr
    plan = read_plan(tmp_path / "broken" / "store.h5")
    assert "compile" not in plan.identity
    assert "Unsupported" in plan.provenance["compilation"]
    few = job("few", "--compile", "auto", "--engine", "torch")
    assert "not compiled: compiling pays from 20,000 images on this device" in few.stderr
    assert np.array_equal(job.features("broken"), job.features("few"))
    by_engine = job("engine", "--compile", "auto")
    assert "not compiled: openvino computes; --engine torch compiles" in by_engine.stderr
    assert read_plan(tmp_path / "engine" / "store.h5").identity["engine"] == "openvino"


@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler (g++)")
def test_a_compiled_run_is_continued_compiled_or_refused_in_one_line(
    job: Job, tmp_path: Path
) -> None:
    options = ("--compile", "max", "--shard-rows", "10")
    assert job("run", *options).returncode == 0
    assert read_plan(tmp_path / "run" / "store.h5").identity["compile"] == "max-autotune"
    before = job.features("run")
    (tmp_path / "run" / "shards" / "000001.h5").unlink()
    # Here nothing can be compiled any more: the cache is another, and there is no compiler.
    elsewhere: Any = {"CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    refused = job("run", *options, **elsewhere)
    assert "cannot compile the network as the run in" in refused.stderr
    assert "use --compile off and another --out" in refused.stderr
    assert "Traceback" not in refused.stderr and refused.returncode == 2
    done = job("run", "--compile", "auto", "--shard-rows", "10")
    assert done.returncode == 0, done.stderr
    assert np.abs(job.features("run") - before).max() <= 1e-6
    drift = read_plan(tmp_path / "run" / "store.h5").provenance["compilation"]
    assert drift["cosine"] >= 0.99999
