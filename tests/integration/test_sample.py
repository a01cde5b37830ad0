"""The built-in sample: what the first command of the README shows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import Run

from distreid.data.manifest import DISTRACTOR, JUNK
from distreid.data.source import SAMPLE_FOLDER, open_data
from distreid.evaluation.evaluate import evaluate
from distreid.evaluation.protocol import PRESETS
from distreid.models.checkpoint import SAMPLE_FILE, load_model
from distreid.models.osnet import build_osnet
from distreid.store import FeatureStore

LIMIT = 3_000_000  # bytes, for the images and for the checkpoint


def test_the_sample_is_a_small_data_set_in_market1501s_layout() -> None:
    manifest = open_data("sample")
    assert manifest.layout == "market1501"
    persons = set(manifest.person_id.tolist())
    assert len(persons - {JUNK, DISTRACTOR}) >= 100
    assert {JUNK, DISTRACTOR} <= persons
    assert set(manifest.camera_id.tolist()) == {1, 2, 3, 4}
    assert not manifest.notes
    size = sum(file.stat().st_size for file in SAMPLE_FOLDER.rglob("*.jpg"))
    assert size < LIMIT
    assert SAMPLE_FILE.stat().st_size < LIMIT


def test_the_sample_checkpoint_is_a_torchreid_file() -> None:
    model = load_model("sample")
    assert model.architecture.name == "osnet_x0_25"
    assert "weights found under 'state_dict'" in model.describe()
    assert model.dropped == ("classifier.weight", "classifier.bias")


def rank1(run: Path) -> float:
    return evaluate(FeatureStore.open(run), [PRESETS["fastreid"]]).scores[0].rank(1)


def test_the_demo_ends_with_a_table_and_a_meaningful_score(
    run_command: Run, tmp_path: Path
) -> None:
    # `launch/demo` sets up first; here only the command that it shows and runs.
    done = run_command("./launch/demo", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "$ torchrun --nproc_per_node=2 -m distreid.extract --data sample" in done.stderr
    for expected in ("Rank-1", "Rank-5", "Rank-10", "mAP", "mINP", "valid queries"):
        assert expected in done.stdout
    assert f"wrote  {tmp_path}/run/store.h5" in done.stderr
    assert rank1(tmp_path / "run") >= 0.7
    figures = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert figures["counts"]["queries_without_match"] == 0


def test_random_weights_score_near_chance(run_here: Run, tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(build_osnet("osnet_x0_25").state_dict(), tmp_path / "random.pth")
    done = run_here(
        "distreid", "extract", "--data", "sample", "--checkpoint", tmp_path / "random.pth",
        "--out", tmp_path / "run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert rank1(tmp_path / "run") < 0.05


def test_bfloat16_keeps_the_features_of_a_trained_network(tmp_path: Path, run_here: Run) -> None:
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this CPU has no bfloat16")
    import numpy as np

    found, scores = {}, {}
    for precision in ("fp32", "bf16"):
        done = run_here(
            "distreid", "extract", "--data", "sample", "--checkpoint", "sample",
            "--out", tmp_path / precision, "--precision", precision,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        store = FeatureStore.open(tmp_path / precision)
        found[precision] = store.features(np.arange(len(store.manifest)))
        scores[precision] = evaluate(store, [PRESETS["fastreid"]]).scores[0].mAP
    # A few images, empty boxes above all, have features near 0, whose direction is loose.
    cosine = (found["fp32"] * found["bf16"]).sum(axis=1)
    assert np.median(cosine) > 0.9995
    assert cosine.min() > 0.95
    assert abs(scores["fp32"] - scores["bf16"]) < 0.005
