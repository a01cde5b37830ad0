"""Inference engines: chosen, tried, kept, refused. Their features are in test_extractor.py."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from distreid.errors import EngineError, OptionError, StoreError
from distreid.inference import kept_files, onnx_conversion
from distreid.inference.engines import ENGINES, choose_engine
from distreid.inference.extractor import Extractor, choose_precision
from distreid.inference.openvino_engine import OpenVINO
from distreid.inference.quantisation import CALIBRATION_IMAGES, Quantised, calibration_rows
from distreid.inference.quiet_converters import quiet_converter
from distreid.inference.views import Augmentation
from distreid.models.checkpoint import Model, load_model

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
BOTH = Augmentation(flip=True)
ON_A_CPU = [name for name, engine in ENGINES.items() if engine.device == "cpu"]


@pytest.fixture(scope="module")
def model(osnet_file: Path) -> Model:
    return load_model(str(osnet_file))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "distreid"


def images(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 256, 128), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("engine", ON_A_CPU)
@pytest.mark.parametrize("threads", [1, 3])
def test_a_row_has_the_same_bytes_wherever_it_stands(
    model: Model, engine: str, threads: int
) -> None:
    extract = Extractor(model, BOTH, precision="fp32", device=CPU, threads=threads, engine=engine)
    drift, _ = extract.load_engine(engine, images(3))
    assert (drift.rows, extract.engine) == (3, engine)
    together, _ = extract(images(20))
    for place in (0, 7, 8, 19):
        alone, _ = extract(images(20)[place : place + 1])
        assert torch.equal(alone[0], together[place])
    by_torch, _ = Extractor(model, BOTH, precision="fp32", device=CPU, threads=2)(images(20))
    assert not torch.equal(by_torch, together), "it was torch that computed"
    assert (by_torch * together).sum(dim=1).min() >= 0.99999


def test_auto_is_openvino_on_an_x86_cpu_where_it_is_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert choose_engine("auto", "fp32", CPU) == "openvino"
    assert choose_engine("torch", "fp32", CPU) == "torch"
    assert choose_engine("auto", "fp32", GPU) == "torch"
    assert choose_engine("auto", "tf32", CPU) == "torch"
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert choose_engine("auto", "fp32", CPU) == "torch"
    assert choose_engine("openvino", "fp32", CPU) == "openvino"
    assert choose_precision("auto", CPU) == "fp32"


def test_what_is_not_to_be_had_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match="--engine onnxruntime: on a CPU; give --device cpu, or"):
        choose_engine("onnxruntime", "fp32", GPU)
    with pytest.raises(OptionError, match="--precision bf16: onnxruntime on this CPU has fp32"):
        choose_engine("onnxruntime", "bf16", CPU)
    with pytest.raises(OptionError, match="--precision int8: by --engine openvino, on a CPU"):
        choose_engine("torch", "int8", CPU)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r"--engine openvino: not installed; pip install .*\[en"):
        choose_engine("openvino", "fp32", CPU)
    assert choose_engine("auto", "fp32", CPU) == "torch"


def test_a_graph_is_kept_and_made_anew_when_it_is_damaged(model: Model, cache: Path) -> None:
    made = onnx_conversion.convert(model, BOTH, 8)
    (file,) = cache.glob("*.onnx")
    assert file.read_bytes() == made.graph
    assert made.note == ""
    inode = file.stat().st_ino
    os.utime(file, (0, 0))
    assert onnx_conversion.convert(model, BOTH, 8).graph == made.graph
    assert file.stat().st_ino == inode
    assert file.stat().st_mtime > 0, "the time of its last use"
    file.write_bytes(made.graph[:-1])
    again = onnx_conversion.convert(model, BOTH, 8)
    assert again.note == f"{file} was damaged, and is made anew"
    assert again.graph == made.graph == file.read_bytes()
    # Mirror images take the same graph, other scales another.
    assert onnx_conversion.convert(model, Augmentation(flip=False), 8).graph == made.graph
    assert len(list(cache.glob("*.onnx"))) == 1
    scaled = Augmentation(flip=False, scales=(1.0, 1.1))
    assert onnx_conversion.convert(model, scaled, 8).graph != made.graph
    assert len(list(cache.glob("*.onnx"))) == 2


def test_no_two_convolutions_of_a_graph_share_a_bias(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")

    class Twice(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Conv2d(3, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.layer(torch.relu(self.layer(x))))

    file = tmp_path / "twice.onnx"
    with quiet_converter():
        torch.onnx.export(Twice().eval(), (torch.zeros(1, 3, 2, 2),), file, dynamo=False)
    graphs = file.read_bytes(), onnx_conversion.with_own_biases(file.read_bytes())
    biases = [
        [node.input[2] for node in onnx.load_from_string(graph).graph.node if len(node.input) == 3]
        for graph in graphs
    ]
    assert [len(set(names)) for names in biases] == [1, 2]


def test_what_openvino_compiled_is_kept_with_the_same_bytes_and_made_anew_when_damaged(
    model: Model, cache: Path
) -> None:
    graph = onnx_conversion.convert(model, BOTH, 8).graph
    pixels = images(8).permute(0, 2, 3, 1).contiguous()
    expected = OpenVINO().load(graph, "fp32", 1)(pixels, None)
    (file,) = cache.glob("*.openvino")
    inode = file.stat().st_ino

    notes: list[str] = []

    def same() -> bool:
        notes.clear()
        run = OpenVINO().load(graph, "fp32", 1, notes=notes)
        return bool((run(pixels, None) == expected).all())

    assert same() and file.stat().st_ino == inode and not notes
    checksum = file.with_name(file.name + ".sha256")
    file.write_bytes(file.read_bytes()[:-100])
    assert same()
    assert hashlib.sha256(file.read_bytes()).hexdigest() == checksum.read_text(), "made anew"
    assert notes == [f"{file} was damaged, and is made anew"]
    # What was kept whole, and yet is nothing that OpenVINO reads.
    file.write_bytes(b"nothing of OpenVINO's")
    checksum.write_text(hashlib.sha256(file.read_bytes()).hexdigest())
    assert same()
    assert notes == [f"OpenVINO does not take {file.name}, which was kept, and compiles anew"]
    # For other threads it is compiled otherwise.
    OpenVINO().load(graph, "fp32", 2)
    assert len(list(cache.glob("*.openvino"))) == 2


def test_a_kept_graph_whose_time_cannot_be_set_is_used(
    model: Model, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = onnx_conversion.convert(model, BOTH, 8)
    (file,) = cache.glob("*.onnx")
    inode = file.stat().st_ino

    def refused(*given: object) -> None:
        raise PermissionError("another user's")

    monkeypatch.setattr(os, "utime", refused)
    again = onnx_conversion.convert(model, BOTH, 8)
    assert (again.graph, again.note, file.stat().st_ino) == (made.graph, "", inode)


def test_a_graph_that_another_process_removes_while_it_is_read_is_made_anew(
    model: Model, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = onnx_conversion.convert(model, BOTH, 8)
    (file,) = cache.glob("*.onnx")
    read = Path.read_bytes

    def removed_before(path: Path) -> bytes:
        if path == file:
            path.unlink(missing_ok=True)
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", removed_before)
    assert onnx_conversion.convert(model, BOTH, 8).graph == made.graph
    monkeypatch.undo()
    assert file.read_bytes() == made.graph


def test_a_graph_is_known_by_the_library_of_its_layers_and_by_our_code(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key() -> str | None:
        return onnx_conversion._key(model_of_torchvision, BOTH, 8, torch.float32)

    layer = torchvision.ops.Conv2dNormActivation(3, 8)
    model_of_torchvision = replace(model, network=torch.nn.Sequential(layer))
    before, own = key(), onnx_conversion._key(model, BOTH, 8, torch.float32)
    monkeypatch.setattr(torchvision, "__version__", "99")
    assert key() != before
    assert onnx_conversion._key(model, BOTH, 8, torch.float32) == own
    read = Path.read_bytes

    def changed(file: Path) -> bytes:
        return read(file) + b"# " * (file.name == "preprocess.py")

    code = onnx_conversion._code.__wrapped__
    unchanged = code()
    monkeypatch.setattr(Path, "read_bytes", changed)
    assert code() != unchanged


def test_of_kept_graphs_the_last_used_stay(
    model: Model, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx_conversion.convert(model, BOTH, 8)
    (old,) = cache.glob("*.onnx")
    monkeypatch.setattr(kept_files, "KEPT_BYTES", int(2.5 * old.stat().st_size))
    onnx_conversion.convert(model, BOTH, 7)
    os.utime(old, (0, 0))
    onnx_conversion.convert(model, BOTH, 8)  # which uses the first again
    unused = next(file for file in cache.glob("*.onnx") if file != old)
    os.utime(unused, (1, 1))
    onnx_conversion.convert(model, BOTH, 6)
    kept = set(cache.glob("*.onnx"))
    assert (len(kept), old in kept, unused in kept) == (2, True, False)
    assert {file.stem for file in cache.glob("*.sha256")} == {file.name for file in kept}


def test_without_a_folder_to_keep_it_in_a_graph_is_made_each_time(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(onnx_conversion.convert(model, BOTH, 8).graph) > 100_000
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_engine_that_gives_other_features_is_refused_and_torch_goes_on(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = OpenVINO.load

    def wrong(*given: object, **named: object) -> object:
        run = right(*given, **named)  # type: ignore[arg-type]
        return lambda pixels, cameras: run(pixels, cameras).flip(1)

    monkeypatch.setattr(OpenVINO, "load", wrong)
    extract = Extractor(model, BOTH, precision="fp32", device=CPU, threads=1, engine="openvino")
    with pytest.raises(EngineError, match="its features are not torch's: least cosine 0"):
        extract.load_engine("openvino", images(8))
    assert extract.engine == "torch"
    expected, _ = Extractor(model, BOTH, precision="fp32", device=CPU, threads=1)(images(2))
    assert torch.equal(extract(images(2))[0], expected)


@pytest.mark.parametrize("engine", ON_A_CPU)
def test_what_is_no_graph_is_a_line(engine: str) -> None:
    with pytest.raises(EngineError, match="cannot take it: "):
        ENGINES[engine].load(b"no graph at all", "fp32", 1)


def test_nothing_is_sent_to_anybody(tmp_path: Path) -> None:
    """OpenVINO and NNCF would tell Google Analytics that they are used."""
    program = """
import sys
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        print(event, arguments, flush=True)
sys.addaudithook(watch)
import torch
from distreid.inference.onnx_conversion import convert
from distreid.inference.openvino_engine import OpenVINO
from distreid.inference.quantisation import quantise
from distreid.inference.views import Augmentation
from distreid.models.checkpoint import load_model
graph = convert(load_model("sample"), Augmentation(flip=False), 8).graph
batch = torch.randint(0, 256, (8, 256, 128, 3), dtype=torch.uint8)
OpenVINO().load(graph, "fp32", 1)(batch, None)
found = quantise(graph, [batch.numpy()], attention=False)
features = OpenVINO().load(found.xml, "int8", 1, found.weights)(batch, None)
print("computed", tuple(features.shape), "openvino_telemetry" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout == "computed (8, 512) False\n", done.stderr


def test_calibration_rows_are_spread_evenly() -> None:
    assert calibration_rows(5).tolist() == [0, 1, 2, 3, 4]
    rows = calibration_rows(10_000)
    assert (len(rows), rows[0], rows[-1]) == (CALIBRATION_IMAGES, 0, 9_999)
    assert set(np.diff(rows)) <= {33, 34}


def test_a_quantised_network_is_the_one_that_the_run_was_begun_with(tmp_path: Path) -> None:
    network = Quantised(b"<net/>", b"weights")
    network.save(tmp_path / "run")
    assert Quantised.read(tmp_path / "run", network.sha256()) == network
    (tmp_path / "run/int8.bin").write_bytes(b"Weights")
    with pytest.raises(StoreError, match="not the network that the run was begun with"):
        Quantised.read(tmp_path / "run", network.sha256())
    (tmp_path / "run/int8.bin").unlink()
    with pytest.raises(StoreError, match=r"int8\.bin: No such file or directory; restore it, or"):
        Quantised.read(tmp_path / "run", network.sha256())
