"""Every way in which weights lie on a disk, and what each reader refuses."""

import contextlib
import io
import json
import os
import pickle
import resource
import struct
import tempfile
import warnings
from argparse import Namespace
from collections import defaultdict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, little_memory
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict_saver import save

from distreid.errors import CheckpointError, OptionError
from distreid.models.checkpoint import load_model
from distreid.models.choices import Choices
from distreid.models.distributed_checkpoint import METADATA
from distreid.models.weight_files import sha256_of
from distreid.models.weights import read_checkpoint

ZERO = torch.zeros(1)


@pytest.fixture(scope="module")
def state(osnet_file: Path) -> dict[str, Tensor]:
    return read_checkpoint(osnet_file).state


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def save_in_shards(state: dict[str, Tensor], folder: Path, ending: str) -> Path:
    """As transformers does: two files and an index."""
    where: dict[str, str] = {}
    for number, keys in enumerate((list(state)[:100], list(state)[100:]), 1):
        name = f"model-{number:05d}-of-00002.{ending}"
        part = {key: state[key] for key in keys}
        if ending == "safetensors":
            save_file(part, folder / name)
        else:
            torch.save(part, folder / name)
        where |= dict.fromkeys(keys, name)
    stem = "model" if ending == "safetensors" else "pytorch_model"
    index = folder / f"{stem}.{ending}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
    return index


def save_distributed(content: dict[str, Any], folder: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save(content, checkpoint_id=folder, no_dist=True)
    return folder


WRITERS: dict[str, Callable[[dict[str, Tensor], Path], Path]] = {
    "safetensors": lambda state, folder: (
        save_file(state, folder / "a.safetensors"),
        folder / "a.safetensors",
    )[1],
    "safetensors by another name": lambda state, folder: (
        save_file(state, folder / "a.bin"),
        folder / "a.bin",
    )[1],
    "a hub's folder": lambda state, folder: (
        save_file(state, folder / "model.safetensors"),
        folder,
    )[1],
    "shards": lambda state, folder: save_in_shards(state, folder, "safetensors"),
    "a folder of shards": lambda state, folder: (
        save_in_shards(state, folder, "safetensors"),
        folder,
    )[1],
    "shards of torch.save": lambda state, folder: save_in_shards(state, folder, "bin"),
    "a folder of FSDP": lambda state, folder: save_distributed(
        {"model": state, "epoch": 3, "optim": {"state": {"step": ZERO}}}, folder / "dcp"
    ),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_the_same_tensors_come_from_every_layout(
    write: Callable[[dict[str, Tensor], Path], Path], state: dict[str, Tensor], tmp_path: Path
) -> None:
    place = write(state, tmp_path)
    content = read_checkpoint(place)
    assert same({key: content.state[key] for key in state}, state)
    assert len(content.state) == len(state)
    assert load_model(str(place)).architecture.name == "osnet_x0_25"
    assert len(content.sha256) == 64


def test_one_changed_shard_is_another_checkpoint(state: dict[str, Tensor], tmp_path: Path) -> None:
    index = save_in_shards(state, tmp_path, "bin")
    before = read_checkpoint(index).sha256
    name = "model-00002-of-00002.bin"
    part = torch.load(tmp_path / name)
    torch.save({key: value + 1 for key, value in part.items()}, tmp_path / name)
    assert read_checkpoint(index).sha256 != before


def test_a_tensor_in_two_chunks_of_fsdp_is_put_together(tmp_path: Path) -> None:
    """As two ranks write it; the chunks' places are changed by hand, since a rank writes one."""
    whole = torch.arange(12.0).view(4, 3)
    folder = save_distributed({"model": {"a": whole[:2], "b": whole[2:]}}, tmp_path / "dcp")
    metadata = pickle.loads((folder / METADATA).read_bytes())
    first, second = (metadata.state_dict_metadata[f"model.{name}"] for name in "ab")
    second.chunks[0].offsets = torch.Size([2, 0])
    first.chunks += second.chunks
    first.size = torch.Size([4, 3])
    del metadata.state_dict_metadata["model.b"]
    place = {index.fqn: index for index in metadata.storage_data}
    moved = metadata.storage_data.pop(place["model.b"])
    index = type(place["model.b"])("model.a", torch.Size([2, 0]), 1)
    metadata.storage_data[index] = moved
    (folder / METADATA).write_bytes(pickle.dumps(metadata))
    assert torch.equal(read_checkpoint(folder).state["a"], whole)
    del metadata.storage_data[index]
    metadata.storage_data[type(index)("model.a", torch.Size([1, 0]), 1)] = moved
    (folder / METADATA).write_bytes(pickle.dumps(metadata))
    with pytest.raises(CheckpointError, match=r"leave a part of \(4, 3\) out"):
        read_checkpoint(folder)


class Call:
    """Unpickling it would call a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize("where", ["metadata", "chunk", "shard"])
def test_code_in_any_part_is_refused_and_not_run(
    where: str, state: dict[str, Tensor], tmp_path: Path
) -> None:
    payload = Call(os.system, f"touch {tmp_path}/ran")
    place = tmp_path / "dcp"
    if where == "shard":
        place = save_in_shards(state, tmp_path, "bin")
        torch.save({"conv1.conv.weight": payload}, tmp_path / "model-00001-of-00002.bin")
    else:
        save_distributed({"a": ZERO}, place)
        stream = io.BytesIO()
        torch.save(payload, stream)
        data = pickle.dumps(payload) if where == "metadata" else stream.getvalue()
        (place / METADATA if where == "metadata" else place / "__0_0.distcp").write_bytes(
            data.ljust(1600, b"\0") if where == "chunk" else data
        )
        if where == "chunk":
            metadata = pickle.loads((place / METADATA).read_bytes())
            info = next(iter(metadata.storage_data.values()))
            info.offset, info.length = 0, len(data)
            (place / METADATA).write_bytes(pickle.dumps(metadata))
    with pytest.raises(CheckpointError, match=r"holds posix\.system, which loading would run"):
        read_checkpoint(place)
    assert not (tmp_path / "ran").exists()


def test_code_in_the_hyper_parameters_of_lightning_is_refused(tmp_path: Path) -> None:
    content = {"state_dict": {"a": ZERO}, "hyper_parameters": {"run": Call(os.getcwd)}}
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=r"holds posix\.getcwd, which loading would run"):
        read_checkpoint(tmp_path / "a.ckpt")


def header(names: dict[str, Any], claimed: int | None = None) -> bytes:
    text = json.dumps(names).encode()
    return struct.pack("<Q", len(text) if claimed is None else claimed) + text


ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
DAMAGED_SAFETENSORS = {
    "empty": (b"", "a header is missing"),
    "a terabyte of header": (header({"a": ONE}, 10**12), r"a header of 1,000,000,000,000 bytes"),
    "more numbers than bytes": (
        header({"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}),
        "a damaged safetensors file",
    ),
    "another length": (header({"a": ONE | {"shape": [2]}}) + bytes(4), "a damaged safetensors"),
    "an unknown type": (header({"a": ONE | {"dtype": "Q7"}}) + bytes(4), "a damaged safetensors"),
    "no JSON": (struct.pack("<Q", 4) + b"{{{{", "a damaged safetensors"),
    "fewer than none": (header({"a": ONE | {"data_offsets": [4, 0]}}), "a damaged safetensors"),
}


@pytest.mark.parametrize(
    ("content", "message"), DAMAGED_SAFETENSORS.values(), ids=DAMAGED_SAFETENSORS
)
def test_a_damaged_safetensors_file_takes_no_memory(
    content: bytes, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "a.safetensors"
    file.write_bytes(content)
    with little_memory(), pytest.raises(CheckpointError, match=message) as caught:
        read_checkpoint(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{}", "has no weight_map"),
        ("[", "not JSON"),
        ('{"weight_map": {"a": "../b.safetensors"}}', "is no name of a file beside it"),
        ('{"weight_map": {"a": "b.safetensors.index.json"}}', "is no name of a file beside it"),
        ('{"weight_map": {"a": 3}}', "is no name of a file beside it"),
        ('{"weight_map": {"a": "b.safetensors"}}', r"b\.safetensors: no such file|not beside it"),
        ('{"weight_map": {"a": "c.safetensors"}}', "has no a, which"),
    ],
)
def test_an_index_that_leads_nowhere_is_refused(index: str, message: str, tmp_path: Path) -> None:
    save_file({"other": ZERO}, tmp_path / "c.safetensors")
    file = tmp_path / "model.safetensors.index.json"
    file.write_text(index)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(file)


@settings(max_examples=60)
@given(
    st.sampled_from(["a.safetensors", "dcp/.metadata", "dcp/__0_0.distcp", "m.bin.index.json"]),
    st.lists(st.tuples(st.integers(0, 4000), st.binary(min_size=1, max_size=4)), max_size=6),
    st.integers(0, 4000),
)
def test_damaged_weights_load_or_are_refused(
    name: str, changes: list[tuple[int, bytes]], length: int
) -> None:
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        tensors = {"conv1.conv.weight": torch.ones(2, 3), "b": ZERO}
        save_file(tensors, folder / "a.safetensors")
        save_distributed({"model": tensors}, folder / "dcp")
        where = dict.fromkeys(tensors, "a.safetensors")
        (folder / "m.bin.index.json").write_text(json.dumps({"weight_map": where}))
        file = folder / name
        data = bytearray(file.read_bytes())
        for at, value in changes:
            at %= len(data)
            data[at : at + len(value)] = value
        file.write_bytes(data[: length or None])
        with contextlib.suppress(CheckpointError):
            read_checkpoint(folder / "dcp" if name.startswith("dcp") else file)


def test_what_lightning_saves_beside_the_weights_is_passed_over(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    content = {
        "state_dict": state,
        "epoch": 3,
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}}],
        "hyper_parameters": Namespace(lr=0.1, folder=Path("/data")),
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5)}},
    }
    torch.save(content, tmp_path / "a.ckpt")
    assert same(read_checkpoint(tmp_path / "a.ckpt").state, state)


def test_objects_of_unknown_classes_are_passed_over(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    beside = {
        "hyper_parameters": {
            "optimizer": partial(torch.optim.Adam, lr=0.1),
            "scheduler": torch.optim.lr_scheduler.StepLR,
            "net": nn.Sequential(nn.Linear(2, 2), nn.ReLU()),
        },
        "meters": defaultdict(list, {"loss": [1.0, 2.0]}),
        "window": deque([1, 2], maxlen=20),
        "begun": datetime(2026, 1, 1),
        "options": SimpleNamespace(lr=0.1),
        "torch": torch.__version__,
        "best": np.float64(0.5),
        "classes": frozenset([1]),
        "random": np.random.default_rng(0),
        "loss": nn.CrossEntropyLoss(),
    }
    torch.save({"state_dict": state, **beside}, tmp_path / "a.ckpt")
    assert same(read_checkpoint(tmp_path / "a.ckpt").state, state)


def test_omegaconfs_hyper_parameters_are_passed_over() -> None:
    # Saved with omegaconf 2.4.0, of {"lr": 0.1, "widths": [1, {"a": None}]}.
    assert list(read_checkpoint(REPOSITORY / "tests/data/omegaconf.ckpt").state) == ["a"]


def test_a_whole_network_or_one_of_arrays_is_refused(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(2, 2))
    for content in (network, {"model": network, "epoch": 3}):
        torch.save(content, tmp_path / "a")
        with pytest.raises(CheckpointError, match=r"holds torch\.nn\..*Sequential, which loading"):
            read_checkpoint(tmp_path / "a")
    torch.save({"a.weight": ZERO, "b.weight": np.zeros(2)}, tmp_path / "a")
    with pytest.raises(CheckpointError, match=r"b\.weight is no tensor; save model\.state_dict"):
        read_checkpoint(tmp_path / "a")


def test_a_list_of_itself_beside_an_unknown_object_ends(tmp_path: Path) -> None:
    content: list[Any] = [SimpleNamespace()]
    content += [content] * 1000
    torch.save({"x": content}, tmp_path / "a")
    with pytest.raises(CheckpointError, match=r"holds types\.SimpleNamespace"):
        read_checkpoint(tmp_path / "a")


def test_the_only_network_is_found_at_any_depth(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"ema": {"module": state}, "epoch": 3, "optim": {"m": ZERO}}, tmp_path / "a.pth")
    found = read_checkpoint(tmp_path / "a.pth")
    assert same(found.state, state)
    assert "weights found under 'ema.module'" in found.notes


@pytest.mark.parametrize("nested", [True, False], ids=["nested", "by prefix"])
def test_of_teacher_and_student_one_has_to_be_named(
    nested: bool, state: dict[str, Tensor], tmp_path: Path
) -> None:
    both = {"teacher": state, "student": {key: value + 1 for key, value in state.items()}}
    flat = {f"{name}.{key}": value for name in both for key, value in both[name].items()}
    torch.save({**both, "epoch": 3} if nested else {"state_dict": flat}, tmp_path / "a.pth")
    file = str(tmp_path / "a.pth")
    with pytest.raises(
        CheckpointError,
        match=r"several networks: teacher \(567 tensors\), student \(567 tensors\); --weights NAME",
    ):
        load_model(file)
    teacher = load_model(file, choices=Choices(weights="teacher"))
    assert torch.equal(teacher.network.state_dict()["conv1.bn.weight"], state["conv1.bn.weight"])
    student = load_model(file, choices=Choices(weights="student"))
    assert torch.equal(
        student.network.state_dict()["conv1.bn.weight"], state["conv1.bn.weight"] + 1
    )
    digests = [read_checkpoint(tmp_path / "a.pth", name).sha256 for name in both]
    assert len({*digests, sha256_of(tmp_path / "a.pth")}) == 3  # two networks, and the file
    with pytest.raises(OptionError, match=r"--weights: empty"):
        load_model(file, choices=Choices(weights=""))
    with pytest.raises(OptionError, match=r"--weights third: .* has no such weights"):
        read_checkpoint(tmp_path / "a.pth", "third")


@pytest.mark.parametrize("nested", [True, False], ids=["nested", "flat"])
def test_of_model_and_ema_the_model_is_taken_and_the_other_is_said(
    nested: bool, state: dict[str, Tensor], tmp_path: Path
) -> None:
    other = {key: value + 1 for key, value in state.items()}
    torch.save({"model": state, "ema": {"module": other} if nested else other}, tmp_path / "a.pth")
    found = read_checkpoint(tmp_path / "a.pth")
    assert same(found.state, state)
    assert "it holds ema too: --weights ema takes that" in found.notes
    named = {name: read_checkpoint(tmp_path / "a.pth", name) for name in ("model", "ema")}
    assert same(named["ema"].state, other)
    assert named["model"].sha256 == found.sha256 == sha256_of(tmp_path / "a.pth")
    assert named["ema"].sha256 != found.sha256


@pytest.mark.parametrize("kind", ["half", "bfloat16"])
def test_half_weights_are_computed_in_float32_and_said(
    kind: str, state: dict[str, Tensor], tmp_path: Path
) -> None:
    file = tmp_path / "a.pth"
    torch.save(
        {k: getattr(v, kind)() if v.is_floating_point() else v for k, v in state.items()}, file
    )
    model = load_model(str(file))
    assert {v.dtype for v in model.network.parameters()} == {torch.float32}
    name = {"half": "float16"}.get(kind, kind)
    assert f"weights of {name}; computed in float32" in model.checkpoint.notes


def test_names_of_a_compiled_and_of_a_wrapped_network(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    inner = {key.replace("conv1.", "conv1._orig_mod.", 1): value for key, value in state.items()}
    wrapped = {f"_fsdp_wrapped_module.{key}": value for key, value in inner.items()}
    torch.save(wrapped, tmp_path / "a.pth")
    assert read_checkpoint(tmp_path / "a.pth").state.keys() == state.keys()


def test_counters_of_batches_may_have_any_shape(state: dict[str, Tensor], tmp_path: Path) -> None:
    shaped = {k: v.view(1) if k.endswith("num_batches_tracked") else v for k, v in state.items()}
    assert any(value.shape == (1,) for value in shaped.values())
    torch.save(shaped, tmp_path / "a.pth")
    assert load_model(str(tmp_path / "a.pth")).architecture.name == "osnet_x0_25"


def test_nan_in_a_running_variance_is_named_when_the_file_is_loaded(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    key = "conv3.0.conv1.bn.running_var"
    broken = state[key].clone()
    broken[2] = torch.nan
    torch.save({**state, key: broken}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=rf"{key} has 1 of 24 numbers NaN or infinite"):
        load_model(str(tmp_path / "a.pth"))
    torch.save({**state, "classifier.bias": torch.full((751,), torch.nan)}, tmp_path / "b.pth")
    load_model(str(tmp_path / "b.pth"))  # no feature needs it


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"fc.0._packed_params._packed_params": ZERO}, r"is of a quantised network"),
        ({"fc.0.weight": torch.zeros(512, 128, dtype=torch.int8)}, r"fc\.0\.weight is torch\.int8"),
        ({"fc.0.weight.absmax": ZERO}, "is of a quantised network"),
        ({"fc.0.qweight": ZERO}, "is of a quantised network"),
    ],
)
def test_quantised_tensors_are_refused_by_name(
    extra: dict[str, Tensor], message: str, state: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save({**state, **extra}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=message):
        load_model(str(tmp_path / "a.pth"))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_quantised_tensor_of_torch_is_refused_by_name(tmp_path: Path) -> None:
    value = torch.quantize_per_tensor(ZERO, 0.1, 0, torch.qint8)
    torch.save({"fc.weight": value}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"fc\.weight is quantised \(torch\.qint8\)"):
        read_checkpoint(tmp_path / "a.pth")


def test_a_module_that_was_pickled_whole_is_named(tmp_path: Path) -> None:
    torch.save({"model": nn.Linear(2, 2)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"holds torch\.nn\.modules\.linear\.Linear"):
        read_checkpoint(tmp_path / "a.pth")


def test_threads_may_load_side_by_side(osnet_file: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_AS)
    with ThreadPoolExecutor(4) as pool:
        states = list(pool.map(lambda _: read_checkpoint(osnet_file).state, range(16)))
    assert all(same(states[0], other) for other in states)
    assert resource.getrlimit(resource.RLIMIT_AS) == limit
