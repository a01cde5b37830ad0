"""The same promises on a GPU. Skipped without one; DISTREID_REQUIRE_GPU=1 makes that a failure."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Pack, Run
from torch import Tensor

from distreid.data.source import open_data
from distreid.errors import EngineError, OptionError
from distreid.evaluation.evaluate import evaluate
from distreid.evaluation.protocol import PRESETS
from distreid.images.device_resize import originals_or_resized, resize_batch
from distreid.images.preprocess import Preprocess
from distreid.images.resize_weights import FILTERS
from distreid.inference import tensorrt_engine
from distreid.inference.extractor import Extractor, choose_device
from distreid.inference.views import Augmentation
from distreid.models.checkpoint import Model, load_model
from distreid.nearest.codes import encode, learn
from distreid.nearest.similarity import Similarity, score_blocks
from distreid.store import FeatureStore


@pytest.fixture(autouse=True)
def _gpu() -> None:
    if torch.cuda.is_available():
        return
    if os.environ.get("DISTREID_REQUIRE_GPU") == "1":
        pytest.fail("DISTREID_REQUIRE_GPU=1, and torch sees no CUDA device")
    pytest.skip("torch sees no CUDA device")


def extractor(model: Model, precision: str = "fp32", flip: bool | None = None) -> Extractor:
    return Extractor(
        model,
        Augmentation(flip=model.architecture.flip if flip is None else flip),
        precision=precision,
        device=torch.device("cuda", 0),
        threads=1,
    )


def sample_batch(model: Model, rows: int = 40) -> Tensor:
    manifest = open_data("sample")
    files = [manifest.file(row) for row in range(rows)]
    return model.architecture.preprocess.resize(map(model.architecture.preprocess.load, files))


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
    batch = sample_batch(model)
    exact, _ = extractor(model)(batch)
    fast, _ = extractor(load_model("sample"), precision)(batch)
    assert (exact * fast).sum(dim=1).min() > 0.999


@pytest.mark.parametrize("moved", [{}, {"rerank": "zhong"}, {"expand": "aqe"}])
def test_scores_on_the_gpu_are_those_on_the_cpu(
    moved: dict[str, Any], run_command: Run, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    done = run_command(
        "distreid", "extract", "--data", "sample", "--checkpoint", "sample", "--out", out
    )
    assert done.returncode == 0, done.stderr
    store = FeatureStore.open(out)
    torch.backends.cuda.matmul.allow_tf32 = True  # as `--precision tf32` leaves it
    protocols = [replace(PRESETS["torchreid"], **moved)]
    on_gpu, on_cpu = (
        evaluate(store, protocols, similarity=Similarity(device=device))
        for device in ("cuda", "cpu")
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


def test_every_gpu_has_a_process_of_its_own_and_more_of_them_are_asked_for_by_name(
    run_command: Run, tmp_path: Path
) -> None:
    gpus = torch.cuda.device_count()
    features = []
    for processes, options in ((1, ()), (gpus, ()), (gpus + 1, ()), (gpus + 1, ("--share-gpu",))):
        out = tmp_path / f"{processes}{'-'.join(options)}"
        done = run_command(
            "torchrun", f"--nproc_per_node={processes}", "-m", "distreid.extract", "--data",
            "sample", "--checkpoint", "sample", "--out", out, "--shard-rows", "8",
            "--no-evaluate", *options, timeout=300,
        )  # fmt: skip
        if processes > gpus and not options:
            assert done.returncode != 0
            assert done.stderr.count("--share-gpu puts several on one GPU") == 1, done.stderr
            continue
        assert done.returncode == 0, done.stderr
        store = FeatureStore.open(out)
        features.append(store.features(np.arange(len(store.manifest))))
    for other in features[1:]:
        assert (features[0] * other).sum(axis=1).min() >= 0.99999


def test_the_gpu_resizes_to_the_pixels_of_the_cpu() -> None:
    generator = np.random.default_rng(0)
    sizes = [(128, 64), (100, 40), (13, 170), (300, 60)]
    originals = [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    for interpolation in FILTERS:
        preprocess = Preprocess(height=384, width=192, interpolation=interpolation)
        batch, of_each = originals_or_resized(originals, preprocess)
        assert of_each == tuple(sizes)
        resized = resize_batch(batch.cuda(), of_each, 384, 192, interpolation)
        assert torch.equal(resized.cpu(), preprocess.resize(originals))


@pytest.mark.skipif(torch.cuda.device_count() > 1, reason="needs a machine with one GPU")
def test_a_process_that_is_shown_one_gpu_alone_takes_it() -> None:
    assert choose_device("auto", local_rank=1, bound=True) == torch.device("cuda", 0)
    with pytest.raises(OptionError, match=r"2 processes on .*, and torch sees 1 GPU; start 1 here"):
        choose_device("auto", local_rank=1)


@pytest.mark.parametrize("mode", ["default", "max-autotune"])  # the latter with CUDA graphs
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compiled_features_are_eagers(precision: str, mode: str) -> None:
    model = load_model("sample")
    batch = sample_batch(model)
    exact, _ = extractor(model, precision)(batch)
    fast = extractor(model, precision, flip=True)
    both, _ = fast(batch)
    # 40 rows are a batch of 32 and one that is filled up.
    found = fast.compile(mode, 32, batch[:32])
    assert found.cosine >= (0.99999 if precision == "fp32" else 0.99)
    parts = [fast(part)[0] for part in (batch[:32], batch[32:])]
    assert (torch.cat(parts) * both).sum(dim=1).min() >= (0.9999 if precision == "fp32" else 0.99)
    # A CUDA graph's result is kept, and another batch does not overwrite it.
    kept = parts[0].clone()
    fast(batch[8:40])
    assert torch.equal(parts[0], kept)
    assert not torch.equal(exact, both)
    torch._dynamo.reset()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_captured_pass_gives_the_features_of_one_that_is_not(precision: str) -> None:
    model = load_model("sample")
    batch = sample_batch(model)
    extract = extractor(model, precision, flip=True)
    parts = (batch[:32], batch[32:])
    exact = torch.cat([extract(part)[0] for part in parts])
    assert extract.capture(32, batch[:32]).cosine >= 0.99999
    assert extract.captured
    found = [extract(part)[0] for part in parts]
    assert (torch.cat(found) * exact).sum(dim=1).min() >= 0.99999
    # A result is kept, and another batch does not overwrite it; neither do batches in flight.
    kept = found[0].clone()
    flying = [extract.begin(part) for part in (batch[8:40], batch[:32], batch[:5])]
    assert torch.equal(found[0], kept)
    results = [one.result()[0] for one in flying]
    assert torch.equal(results[1], kept)
    assert torch.equal(results[2], kept[:5])
    # More rows than it was captured for are computed as before.
    assert (extract(batch)[0] * exact).sum(dim=1).min() >= 0.99999


def test_a_network_that_waits_for_the_gpu_is_not_captured() -> None:
    model = load_model("sample")
    batch = sample_batch(model)
    extract = extractor(model)
    exact, _ = extract(batch)
    forward = extract.forward
    extract.forward = lambda images: forward(images) * float(images.sum() != 0)
    with pytest.raises(EngineError):
        extract.capture(32, batch)
    extract.forward = forward
    assert torch.equal(extract(batch)[0], exact)


def test_batches_in_flight_do_not_disturb_one_another() -> None:
    model = load_model("sample")
    extract = extractor(model, flip=True)
    parts = torch.split(sample_batch(model, 64), 8)
    alone = [extract(part)[0] for part in parts]
    begun = [extract.begin(part.pin_memory()) for part in parts]
    for pending, expected in zip(begun, alone, strict=True):
        assert torch.equal(pending.result()[0], expected)


def test_original_pixels_in_flight_give_the_features_of_resized_ones() -> None:
    model = load_model("sample")
    preprocess, manifest = model.architecture.preprocess, open_data("sample")
    images = [preprocess.load(manifest.file(row)) for row in range(24)]
    extract = extractor(model, flip=True)
    alone, begun = [], []
    for first in range(0, 24, 4):
        # Sizes of their own in each batch: the weights of one must not serve another.
        some = [image[first % 9 :, first % 5 :] for image in images[first : first + 4]]
        alone.append(extract(preprocess.resize(some))[0])
        batch, sizes = originals_or_resized(some, preprocess)
        assert sizes is not None
        begun.append((batch.pin_memory(), sizes))
    flying = [extract.begin(batch, None, sizes) for batch, sizes in begun]
    for pending, expected in zip(flying, alone, strict=True):
        assert torch.equal(pending.result()[0], expected)


def test_the_network_is_channels_last_and_moves_nothing_else() -> None:
    convolution = next(
        parameter
        for parameter in extractor(load_model("sample")).network.parameters()
        if parameter.dim() == 4 and min(parameter.shape[1:3]) > 1
    )
    assert convolution.is_contiguous(memory_format=torch.channels_last)
    assert convolution.device.type == "cuda"


def test_a_compiled_run_on_the_gpu_agrees_with_an_eager_one(
    run_command: Run, tmp_path: Path
) -> None:
    stores = {}
    for how in ("off", "max"):
        out = tmp_path / how
        done = run_command(
            "torchrun", "--nproc_per_node=1", "-m", "distreid.extract", "--data", "sample",
            "--checkpoint", "sample", "--out", out, "--compile", how, timeout=1200,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "not compiled: " not in done.stderr
        store = FeatureStore.open(out)
        stores[how] = store.features(np.arange(len(store.manifest)))
        assert store.plan.identity.get("compile") == (None if how == "off" else "max-autotune")
    assert (stores["off"] * stores["max"]).sum(axis=1).min() >= 0.99999


def test_bench_measures_the_copies_of_a_gpu(run_command: Run) -> None:
    done = run_command(
        "distreid", "bench", "--data", "sample", "--checkpoint", "sample", "--seconds", "0.2",
        "--peer", "--json", timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["steps"]["copy to the device"] > 0 and found["steps"]["copy back"] > 0
    assert {trial["precision"] for trial in found["trials"]} >= {"fp32", "fp16"}
    assert found["peer"]["cosine"] >= 0.9999


@pytest.fixture
def tensorrt_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where its engines are kept."""
    pytest.importorskip("tensorrt", reason="the package `tensorrt` is not installed")
    pytest.importorskip("onnx", reason="the package `onnx` is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/distreid"


def by_tensorrt(model: Model, precision: str = "fp32") -> Extractor:
    return Extractor(
        model,
        Augmentation(flip=True),
        precision=precision,
        device=torch.device("cuda", 0),
        threads=1,
        engine="tensorrt",
    )


@pytest.mark.parametrize(
    ("precision", "least"), [("fp32", 0.99999), ("fp16", 0.999), ("bf16", 0.99)]
)
def test_tensorrt_gives_torchs_features(tensorrt_cache: Path, precision: str, least: float) -> None:
    model = load_model("sample")
    batch = sample_batch(model)
    exact, _ = extractor(model, flip=True)(batch)
    extract = by_tensorrt(model, precision)
    found, note = extract.load_engine("tensorrt", batch, gpu_rows=32)
    assert (found.rows, extract.engine, note) == (8, "tensorrt", "")
    # 40 rows are a pass of 32 and one that is filled up.
    features, _ = extract(batch)
    assert not torch.equal(features, exact), "it was torch that computed"
    assert found.cosine >= least
    assert (exact * features).sum(dim=1).min() >= least


def test_passes_of_tensorrt_in_flight_do_not_disturb_one_another(tensorrt_cache: Path) -> None:
    model = load_model("sample")
    batch = sample_batch(model, 64)
    extract = by_tensorrt(model)
    extract.load_engine("tensorrt", batch, gpu_rows=8)
    parts = torch.split(batch, 8)
    alone = [extract(part)[0] for part in parts]
    begun = [extract.begin(part.pin_memory()) for part in parts]
    for pending, expected in zip(begun, alone, strict=True):
        assert torch.equal(pending.result()[0], expected)
    assert torch.allclose(extract(batch)[0], torch.cat(alone), rtol=0, atol=1e-6)


def test_tensorrt_builds_once_and_anew_where_its_engine_is_damaged(
    tensorrt_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, built = tensorrt_engine._built, []

    def counted(graph: bytes) -> bytes:
        built.append(graph)
        return build(graph)

    monkeypatch.setattr(tensorrt_engine, "_built", counted)
    model = load_model("sample")
    batch = sample_batch(model, 8)
    features, notes = [], []
    for damaged in (False, False, True):
        if damaged:
            (file,) = tensorrt_cache.glob("*.tensorrt")
            file.write_bytes(file.read_bytes()[:-100])
        extract = by_tensorrt(model)
        notes.append(extract.load_engine("tensorrt", batch)[1])
        features.append(extract(batch)[0])
    assert notes == ["", "", f"{file} was damaged, and is made anew"]
    assert len(built) == 2
    assert torch.equal(features[0], features[1])
    assert (features[0] * features[2]).sum(dim=1).min() >= 0.99999


def test_a_run_by_tensorrt_agrees_with_one_by_torch(
    tensorrt_cache: Path, run_command: Run, tmp_path: Path
) -> None:
    stores = {}
    for engine in ("torch", "tensorrt"):
        out = tmp_path / engine
        begin = (
            *("torchrun", "--nproc_per_node=1", "-m", "distreid.extract", "--data", "sample"),
            *("--checkpoint", "sample", "--out", out, "--engine", engine, "--no-evaluate"),
        )
        done = run_command(*begin, timeout=600)
        assert done.returncode == 0, done.stderr
        assert "not by tensorrt" not in done.stderr
        store = FeatureStore.open(out)
        stores[engine] = store.features(np.arange(len(store.manifest)))
    assert (stores["torch"] * stores["tensorrt"]).sum(axis=1).min() >= 0.99999
    identity = store.plan.identity
    assert (identity["engine"], identity["precision"]) == ("tensorrt", "fp32")
    assert "tensorrt" in identity["versions"]
    # A shard that was lost comes back from the engine that is kept.
    (kept,) = tensorrt_cache.glob("*.tensorrt")
    inode = kept.stat().st_ino
    min((out / "shards").glob("*.h5")).unlink()
    assert run_command(*begin, timeout=600).returncode == 0
    again = FeatureStore.open(out).features(np.arange(len(store.manifest)))
    assert np.allclose(again, stores["tensorrt"], rtol=0, atol=1e-6)
    assert kept.stat().st_ino == inode


@pytest.mark.parametrize("filtered", [False, True])
def test_a_gallery_is_searched_on_the_gpu_with_the_same_answers(filtered: bool) -> None:
    pytest.importorskip("numba")  # which not every machine with a GPU has
    from distreid.nearest.exact_search import Part, StoredRows, search, unit_queries

    rng = np.random.default_rng(0)
    rows = rng.standard_normal((50_000, 64)) * np.arange(1, 65) ** -0.5
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    queries = unit_queries(rows[::100] + 0.05 * rng.standard_normal((500, 64)))
    threshold = np.sort(queries @ rows.T, axis=1)[:, -10].astype(np.float32)
    directions, _ = learn(rows[::5], queries.astype(np.float32), threshold, len(rows))
    part = Part(
        rows=StoredRows(pieces=[rows], source=np.arange(len(rows))),
        ids=np.arange(len(rows)),
        codes=encode(directions, [rows]),
        live=np.arange(0, len(rows), 7, dtype=np.int32) if filtered else None,
    )
    for some in (queries[:1], queries):
        on_gpu, on_cpu = (search([part], some, 10, device) for device in ("cuda", "cpu"))
        np.testing.assert_array_equal(on_gpu.ids, on_cpu.ids)
        np.testing.assert_array_equal(on_gpu.scores, on_cpu.scores)


def test_a_gpu_that_is_full_is_said_in_one_line() -> None:
    rows = np.random.default_rng(0).standard_normal((100_000, 64)).astype(np.float32)
    torch.cuda.empty_cache()
    for room in (0, len(rows) * 64 * 5):  # not the gallery; not its products
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(room / total)
        try:
            with pytest.raises(OptionError, match=r"no memory for .*; use --device cpu"):
                list(score_blocks(rows[:500], rows, Similarity(device="cuda")))
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
            torch.cuda.empty_cache()
