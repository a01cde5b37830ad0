"""TensorRT, as far as it can be tried without a GPU; the rest stands in tests/gpu."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from distreid.errors import EngineError, OptionError
from distreid.inference import kept_files, onnx_conversion, tensorrt_engine
from distreid.inference.engines import choose_engine, find_engine
from distreid.inference.extractor import PRECISIONS, choose_precision
from distreid.inference.onnx_conversion import CAMERAS, INPUT, OUTPUT
from distreid.inference.onnxruntime_engine import OnnxRuntime
from distreid.inference.tensorrt_engine import TensorRT
from distreid.inference.views import Augmentation
from distreid.models.checkpoint import Model, load_model

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
PLAIN = Augmentation(flip=False)


@pytest.fixture(scope="module")
def model(osnet_file: Path) -> Model:
    return load_model(str(osnet_file))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "distreid"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What is asked of a GPU and of the package, and where the answers can be changed."""
    said = SimpleNamespace(name="NVIDIA H200", capability=(9, 0), version="11.4.0")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: said.name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: said.capability)
    monkeypatch.setattr(
        tensorrt_engine, "_package", lambda: SimpleNamespace(__version__=said.version)
    )
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    return said


@pytest.fixture
def package() -> Any:
    """The real one."""
    tensorrt_engine._package.cache_clear()
    try:
        return tensorrt_engine._package()
    except EngineError as error:
        pytest.skip(str(error))


def test_it_is_taken_by_name_alone_and_on_a_gpu(gpu: SimpleNamespace) -> None:
    for precision in ("fp32", "bf16", "fp16"):
        assert choose_engine("tensorrt", precision, GPU) == "tensorrt"
    assert choose_engine("auto", "fp32", GPU) == "torch"
    assert choose_precision("auto", GPU, "tensorrt") == "fp32"
    with pytest.raises(OptionError, match="--engine tensorrt: on a GPU; give --device cuda, or us"):
        choose_engine("tensorrt", "fp32", CPU)
    for precision in ("int8", "tf32"):
        with pytest.raises(OptionError, match=r"tensorrt on this GPU has fp32, bf16, fp16; use "):
            choose_engine("tensorrt", precision, GPU)
    gpu.capability = (7, 5)
    with pytest.raises(OptionError, match=r"--precision bf16: tensorrt on this GPU has fp32, fp16"):
        choose_engine("tensorrt", "bf16", GPU)


def test_where_it_is_not_installed_a_line_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r"--engine tensorrt: not installed; .*reid\[tensorrt\]'"):
        find_engine("tensorrt", GPU)
    # Where it is installed and something that it needs is not.
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    tensorrt_engine._package.cache_clear()
    with pytest.raises(EngineError, match="TensorRT cannot be loaded: "):
        TensorRT().version()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_graph_has_the_type_that_it_is_computed_in(model: Model, precision: str) -> None:
    onnx = pytest.importorskip("onnx")
    graph = onnx_conversion.convert(model, PLAIN, 8, PRECISIONS[precision]).graph
    network = onnx.load_from_string(graph)
    onnx.checker.check_model(network, full_check=True)
    types = {"fp32": "FLOAT", "bf16": "BFLOAT16", "fp16": "FLOAT16"}
    of_weights = {weight.data_type for weight in network.graph.initializer if weight.dims}
    assert of_weights == {onnx.TensorProto.DataType.Value(types[precision])}
    # TensorRT does nothing with whole numbers of 8 bits but make floats of them.
    assert {node.op_type for node in network.graph.node if INPUT in node.input} == {"Cast"}
    (given,), (found,) = network.graph.input, network.graph.output
    assert given.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert found.type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def test_a_graph_in_fp16_has_the_features_and_a_place_of_its_own(cache: Path) -> None:
    model = load_model("sample")
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (8, 256, 128, 3), dtype=torch.uint8, generator=generator)
    exact, half = (
        OnnxRuntime().load(onnx_conversion.convert(model, PLAIN, 8, dtype).graph, "fp32", 1)
        for dtype in (torch.float32, torch.float16)
    )
    found, expected = half(pixels, None), exact(pixels, None)
    assert found.dtype == torch.float32
    assert not torch.equal(found, expected)
    assert torch.cosine_similarity(found, expected).min() > 0.999
    assert len(list(cache.glob("*.onnx"))) == 2
    parameter = next(model.network.parameters())
    assert parameter.dtype == torch.float32, "the network itself stays as it is"


def test_an_engine_is_kept_for_its_graph_precision_version_and_gpu(gpu: SimpleNamespace) -> None:
    def key(graph: bytes = b"graph", precision: str = "fp32") -> str:
        return tensorrt_engine._key(graph, precision, gpu.version)

    keys = [key(), key(b"another"), key(precision="fp16")]
    for name, value in (("version", "10.0.1"), ("name", "NVIDIA L4"), ("capability", (8, 9))):
        setattr(gpu, name, value)
        keys.append(key())
    assert len(set(keys)) == 6
    assert key() == keys[-1]


def test_an_engine_is_built_once_and_anew_where_it_is_damaged(
    gpu: SimpleNamespace, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[bytes] = []

    def build(graph: bytes) -> bytes:
        built.append(graph)
        return b"an engine of " + graph

    def opened(plan: bytes) -> bytes | None:
        return plan if plan.startswith(b"an engine") else None

    monkeypatch.setattr(tensorrt_engine, "_built", build)
    monkeypatch.setattr(tensorrt_engine, "_opened", opened)
    monkeypatch.setattr(tensorrt_engine, "_runtime", lambda engine: engine)

    def load(graph: bytes = b"x") -> list[str]:
        notes: list[str] = []
        engine: object = TensorRT().load(graph, "fp32", 1, notes=notes)
        assert engine == b"an engine of " + graph
        return notes

    assert load() == load() == [] and built == [b"x"]
    (file,) = cache.glob("*.tensorrt")
    file.write_bytes(b"an engine of")
    assert load() == [f"{file} was damaged, and is made anew"] and len(built) == 2
    assert load() == [] and len(built) == 2
    # What was kept whole, and yet is nothing that TensorRT takes.
    file.write_bytes(b"nothing of TensorRT's")
    checksum = file.with_name(file.name + ".sha256")
    checksum.write_text(hashlib.sha256(file.read_bytes()).hexdigest())
    assert load() == [f"TensorRT does not take {file.name}, which was kept, and builds anew"]
    # They are forgotten as graphs are.
    monkeypatch.setattr(kept_files, "KEPT_BYTES", 20)
    load(b"y")
    (left,) = cache.glob("*.tensorrt")
    assert left.read_bytes() == b"an engine of y"


@pytest.mark.parametrize("count", [1, 8, 20])
def test_any_number_of_rows_goes_through_passes_of_as_many_as_the_engine_has(count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 4, 2, 3), dtype=torch.uint8, generator=generator)
    cameras = torch.arange(count)
    buffers = {
        INPUT: torch.full((8, 4, 2, 3), 9, dtype=torch.uint8),
        CAMERAS: torch.full((8,), 9),
        OUTPUT: torch.zeros(8, 24),
    }
    passes = []

    def compute() -> None:
        passes.append(1)
        buffers[OUTPUT][:] = buffers[INPUT].flatten(1) + 1000 * buffers[CAMERAS][:, None]

    found = tensorrt_engine._in_passes(buffers, compute, {INPUT: images, CAMERAS: cameras})
    assert len(passes) == -(-count // 8)
    assert torch.equal(found, images.flatten(1) + 1000.0 * cameras[:, None])
    buffers[OUTPUT].zero_()
    assert found.any(), "it is the caller's own"


def test_what_the_package_cannot_take_is_a_line(package: Any) -> None:
    with pytest.raises(EngineError, match="TensorRT cannot take it: "):
        tensorrt_engine._built(b"no graph at all")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_package_reads_the_graph(model: Model, package: Any, precision: str) -> None:
    try:
        builder = package.Builder(tensorrt_engine._log())
    except TypeError:
        pytest.skip("TensorRT makes no builder without a GPU")
    graph = onnx_conversion.convert(model, PLAIN, 8, PRECISIONS[precision]).graph
    network = builder.create_network(1 << int(package.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = package.OnnxParser(network, tensorrt_engine._log())
    assert parser.parse(graph), parser.get_error(0).desc()
