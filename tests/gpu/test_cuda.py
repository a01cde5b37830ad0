"""The same promises on a GPU. Skipped without one; DISTREID_REQUIRE_GPU=1 makes that a failure."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Pack, Run

from distreid.errors import OptionError
from distreid.evaluate import evaluate
from distreid.inference import Augmentation, Extractor, choose_device
from distreid.models.checkpoint import Model, load_model
from distreid.similarity import Similarity
from distreid.store import FeatureStore


@pytest.fixture(autouse=True)
def _gpu() -> None:
    if torch.cuda.is_available():
        return
    if os.environ.get("DISTREID_REQUIRE_GPU") == "1":
        pytest.fail("DISTREID_REQUIRE_GPU=1, and torch sees no CUDA device")
    pytest.skip("torch sees no CUDA device")


def extractor(model: Model, precision: str = "fp32") -> Extractor:
    return Extractor(
        model,
        Augmentation(flip=model.architecture.flip),
        precision=precision,
        device=torch.device("cuda", 0),
        threads=1,
    )


@pytest.mark.parametrize(
    "name",
    [
        "torchreid/osnet_x0_25",
        "torchreid/osnet_x1_0",
        "person_reid_baseline_pytorch/ft_net_r50_s2_512",
        "person_reid_baseline_pytorch/ft_net_r50_ibn_s2_512",
    ],
)
def test_fp32_features_are_those_of_the_peers_own_code(
    pack: Callable[[str], Pack], tmp_path: Path, name: str
) -> None:
    golden = pack(name)
    model = load_model(str(golden.save(tmp_path)))
    batch = model.architecture.preprocess.resize(
        map(model.architecture.preprocess.load, golden.images)
    )
    ours = extractor(model)(batch)[0].numpy()
    theirs = golden.features
    assert (ours.astype(np.float64) * theirs).sum(axis=1).min() >= 0.99999
    limit = golden.spec["measured_tolerance"]["suggested_max_abs_diff_over_rms"]
    assert np.abs(ours - theirs).max() / np.sqrt(np.square(theirs).mean()) <= limit


@pytest.mark.parametrize("precision", ["tf32", "bf16", "fp16"])
def test_faster_precisions_stay_near_fp32(precision: str) -> None:
    model = load_model("sample")
    from distreid.datasets import open_data

    manifest = open_data("sample")
    files = [manifest.file(row) for row in range(32)]
    batch = model.architecture.preprocess.resize(map(model.architecture.preprocess.load, files))
    exact, _ = extractor(model)(batch)
    fast, _ = extractor(load_model("sample"), precision)(batch)
    assert (exact * fast).sum(dim=1).min() > 0.999


def test_scores_on_the_gpu_are_those_on_the_cpu(run_command: Run, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = run_command(
        "distreid", "extract", "--data", "sample", "--checkpoint", "sample", "--out", out
    )
    assert done.returncode == 0, done.stderr
    store = FeatureStore.open(out)
    on_gpu, on_cpu = (
        evaluate(store, similarity=Similarity(device=device)) for device in ("cuda", "cpu")
    )
    for ours, theirs in zip(on_gpu.scores, on_cpu.scores, strict=True):
        assert ours.mAP == pytest.approx(theirs.mAP, abs=1e-5)
        assert ours.rank(1) == pytest.approx(theirs.rank(1), abs=1e-5)


def test_the_job_runs_on_the_gpu_and_agrees_with_the_cpu(run_command: Run, tmp_path: Path) -> None:
    stores = {}
    for device in ("cuda", "cpu"):
        out = tmp_path / device
        done = run_command(
            "torchrun", "--nproc_per_node=1", "-m", "distreid.extract", "--data", "sample",
            "--checkpoint", "sample", "--out", out, "--device", device, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        store = FeatureStore.open(out)
        stores[device] = store.features(np.arange(len(store.manifest)))
    assert (stores["cuda"] * stores["cpu"]).sum(axis=1).min() >= 0.99999


@pytest.mark.skipif(torch.cuda.device_count() != 1, reason="needs a machine with one GPU")
def test_a_process_that_is_shown_one_gpu_alone_takes_it() -> None:
    assert choose_device("auto", local_rank=1, bound=True) == torch.device("cuda", 0)
    with pytest.raises(OptionError, match="local rank 1 has no GPU of its own"):
        choose_device("auto", local_rank=1)
