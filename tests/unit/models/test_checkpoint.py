import contextlib
import io
import os
import pickle
import shutil
import struct
import sys
import tempfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, Pack, Run, little_memory
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import nn

from distreid.errors import CheckpointError, OptionError
from distreid.models.checkpoint import load_model
from distreid.models.weights import read_checkpoint

Packs = Callable[[str], Pack]
OSNET = "torchreid/osnet_x0_25"


@pytest.mark.parametrize(
    ("name", "expected", "options"),
    [
        ("torchreid/osnet_x0_25", "osnet_x0_25", {}),
        ("torchreid/osnet_x0_25_module", "osnet_x0_25", {}),
        ("torchreid/osnet_x0_5", "osnet_x0_5", {}),
        ("torchreid/osnet_x1_0", "osnet_x1_0", {}),
        ("torchreid/osnet_ibn_x1_0", "osnet_ibn_x1_0", {}),
        ("torchreid/osnet_ain_x0_25", "osnet_ain_x0_25", {}),
        ("torchreid/resnet50_fc512", "resnet50_fc512", {}),
        ("torchreid/resnet50_ibn_a", "resnet50_ibn_a", {}),
        ("torchreid/hacnn", "hacnn", {}),
        (
            "person_reid_baseline_pytorch/ft_net_dense_s2_512",
            "ft_net_dense",
            {"stride": 2, "linear_num": 512},
        ),
        ("person_reid_baseline_pytorch/PCB", "PCB", {}),
        (
            "person_reid_baseline_pytorch/ft_net_r50_s1_512",
            "ft_net",
            {"stride": 1, "linear_num": 512, "ibn": False},
        ),
        (
            "person_reid_baseline_pytorch/ft_net_r50_ibn_s2_512",
            "ft_net",
            {"stride": 2, "linear_num": 512, "ibn": True},
        ),
        (
            "person_reid_baseline_pytorch/ft_net_r50_s2_512_swa",
            "ft_net",
            {"stride": 2, "linear_num": 512, "ibn": False},
        ),
        (
            "person_reid_baseline_pytorch/ft_net_r50_s2_linear0",
            "ft_net",
            {"stride": 2, "linear_num": 0, "ibn": False},
        ),
    ],
)
def test_the_architecture_is_read_off_the_checkpoint(
    pack: Packs, tmp_path: Path, name: str, expected: str, options: dict[str, Any]
) -> None:
    model = load_model(str(pack(name).save(tmp_path)))
    assert model.architecture.name == expected
    assert model.architecture.options == options
    assert model.loaded == len(model.network.state_dict())
    assert model.architecture.classes == 751
    assert not model.network.training


@pytest.mark.parametrize("name", ["torchreid/osnet_x0_25", "transreid/deit_small"])
def test_what_is_loaded_is_not_filled_with_random_numbers_first(
    pack: Packs, tmp_path: Path, name: str
) -> None:
    checkpoint = str(pack(name).save(tmp_path))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    network = load_model(checkpoint).network
    assert torch.equal(torch.get_rng_state(), before)
    # A network that is built afterwards has its random weights.
    assert nn.Linear(100, 100).weight.std() > 0.05
    assert all(bool(value.isfinite().all()) for value in network.state_dict().values())


def test_what_was_found_is_said(pack: Packs, tmp_path: Path) -> None:
    said = load_model(str(pack("torchreid/osnet_x0_25_module").save(tmp_path))).describe()
    assert said == [
        "osnet_x0_25 of torchreid",
        "feature: pooled conv5, linear, batch norm, ReLU; 512 dimensions",
        "input: 256×128, bilinear",
        "565 tensors loaded, all that the network has; not needed: classifier.weight, "
        "classifier.bias",
        "weights found under 'state_dict'",
        "prefix 'module.' stripped",
    ]


def test_the_stride_is_2_and_said_to_be_a_guess_without_an_opts_yaml(
    pack: Packs, tmp_path: Path
) -> None:
    file = pack("person_reid_baseline_pytorch/ft_net_r50_s1_512").save(tmp_path)
    file.with_name("opts.yaml").unlink()
    guessed = load_model(str(file))
    assert guessed.architecture.options["stride"] == 2
    assert "--model ft_net_stride1" in guessed.describe()[-1]
    assert load_model(str(file), "ft_net_stride1").architecture.options["stride"] == 1


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "module.module."])
def test_prefixes_are_stripped(pack: Packs, tmp_path: Path, prefix: str) -> None:
    state = pack(OSNET).state
    torch.save({prefix + key: value for key, value in state.items()}, tmp_path / "a.pth")
    assert list(read_checkpoint(tmp_path / "a.pth").state) == list(state)


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "net"])
def test_dictionaries_are_unwrapped(pack: Packs, tmp_path: Path, wrapper: str) -> None:
    state = pack(OSNET).state
    torch.save({wrapper: state, "epoch": 3, "rank1": np.float32(0.5)}, tmp_path / "a.pth")
    assert list(read_checkpoint(tmp_path / "a.pth").state) == list(state)


def changed(state: dict[str, Any], how: str) -> dict[str, Any]:
    if how == "missing":
        del state["conv5.bn.weight"]
    elif how == "unexpected":
        state["extra.weight"] = torch.zeros(3)
    elif how == "misshapen":
        state["fc.0.weight"] = torch.zeros(512, 99)
    elif how == "narrow":
        state["conv1.conv.weight"] = torch.zeros(20, 3, 7, 7)
    return state


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", "1 missing: conv5.bn.weight"),
        ("unexpected", r"beside it 1 tensors that are not clearly .*: extra\.weight \(3,\)"),
        ("misshapen", r"1 of another shape: fc.0.weight \(512, 99\) for \(512, 128\)"),
        ("narrow", "an OSNet with 20 first channels; known are 16"),
    ],
)
def test_weights_that_do_not_fit_are_listed(
    pack: Packs, tmp_path: Path, how: str, message: str
) -> None:
    torch.save(changed(pack(OSNET).state, how), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(str(tmp_path / "a.pth"))
    assert str(caught.value).startswith(str(tmp_path / "a.pth"))


def test_counters_of_batches_may_be_missing_as_in_old_files(pack: Packs, tmp_path: Path) -> None:
    state = {k: v for k, v in pack(OSNET).state.items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "a.pth")
    assert load_model(str(tmp_path / "a.pth")).architecture.name == "osnet_x0_25"


def test_what_older_swins_saved_of_what_they_compute_is_not_needed(
    pack: Packs, tmp_path: Path
) -> None:
    state = pack(OSNET).state
    extra = {"layers.0.attn_mask": torch.zeros(2), "attn.relative_position_index": torch.zeros(2)}
    torch.save(state | extra, tmp_path / "a.pth")
    assert set(extra) < set(load_model(str(tmp_path / "a.pth")).dropped)


def test_a_model_that_is_not_the_one_named_lists_its_keys(osnet_file: Path) -> None:
    with pytest.raises(CheckpointError, match=r"does not fit osnet_x0_5: .* of another shape"):
        load_model(str(osnet_file), "osnet_x0_5")
    with pytest.raises(CheckpointError, match="does not fit ft_net: 271 missing"):
        load_model(str(osnet_file), "ft_net")
    with pytest.raises(OptionError, match=r"--model vgg: not known; .*distreid models lists all"):
        load_model(str(osnet_file), "vgg")


class Call:
    """Unpickling it would call a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


SMALL = np.float32(0.5)
SCALAR = np.float32(0).__reduce__()[0]
ZERO = torch.zeros(1)


@pytest.mark.parametrize("protocol", ["zip", "legacy", 0, 2, 4, 5])
@pytest.mark.parametrize(
    "place",
    [
        lambda payload: payload,
        lambda payload: {"state_dict": {"a": ZERO, "b": payload}},
        lambda payload: {"state_dict": {"a": ZERO}, "x": payload},
        lambda payload: [ZERO, (payload,)],
        lambda payload: {"a": ZERO, "rank1": Call(SCALAR, payload, b"1234")},
        lambda payload: {"a": ZERO, "rank1": Call(np.dtype, payload)},
        lambda payload: {"a": ZERO, "b": Call(torch._utils._rebuild_parameter, payload, False, {})},
    ],
    ids=["alone", "in the weights", "beside them", "in a list", "in a scalar", "type", "parameter"],
)
def test_a_payload_is_refused_and_not_run(
    place: Callable[[Any], Any], protocol: str | int, tmp_path: Path
) -> None:
    content = place(Call(os.system, f"touch {tmp_path}/ran"))
    if isinstance(protocol, int):
        (tmp_path / "a").write_bytes(pickle.dumps(content, protocol))
    else:
        torch.save(content, tmp_path / "a", _use_new_zipfile_serialization=protocol == "zip")
    with pytest.raises(CheckpointError, match=r"not loaded|not a checkpoint") as caught:
        load_model(str(tmp_path / "a"))
    assert not (tmp_path / "ran").exists()
    assert "\n" not in str(caught.value)
    if protocol in ("zip", "legacy"):
        assert "holds posix.system, which loading would run" in str(caught.value)


def test_python_in_an_opts_yaml_is_refused_and_not_run(pack: Packs, tmp_path: Path) -> None:
    file = pack("person_reid_baseline_pytorch/ft_net_r50_s1_512").save(tmp_path)
    for text in (
        f"stride: !!python/object/apply:os.system ['touch {tmp_path}/ran']",
        f"!!python/object/new:os.system ['touch {tmp_path}/ran']",
        "stride: !!python/name:os.system",
        "[" * 5000,
        "stride: 2020-99-99",
    ):
        file.with_name("opts.yaml").write_text(text)
        with pytest.raises(CheckpointError, match=r"opts\.yaml: not YAML"):
            read_checkpoint(file)
    assert not (tmp_path / "ran").exists()


def test_an_opts_yaml_that_is_a_pipe_does_not_hang(osnet_file: Path, tmp_path: Path) -> None:
    shutil.copy(osnet_file, tmp_path / "a.pth")
    os.mkfifo(tmp_path / "opts.yaml")
    assert read_checkpoint(tmp_path / "a.pth").options == {}


THE_STORAGE = "where the pickle refers to its storage"


class Claim:
    """A tensor that the pickle gives any number of elements."""

    def __init__(self, elements: int) -> None:
        self.elements = elements

    def __reduce__(self) -> tuple[Any, ...]:
        arguments: tuple[Any, ...] = (THE_STORAGE, 0, (self.elements,), (1,), False, OrderedDict())
        return torch._utils._rebuild_tensor_v2, arguments


class ClaimPickler(pickle.Pickler):
    """Writes the storage of a Claim as torch.save writes storages."""

    def __init__(self, stream: io.BytesIO, elements: int, legacy: bool) -> None:
        super().__init__(stream, 2)
        self.pid = ("storage", torch.FloatStorage, "0", "cpu", elements) + (None,) * legacy

    def persistent_id(self, value: Any) -> Any:
        return self.pid if value == THE_STORAGE else None


def claimed(file: Path, elements: int, legacy: bool) -> None:
    """A checkpoint of three numbers that says it has `elements`."""
    stream = io.BytesIO()
    if legacy:
        sizes = {"short": 2, "int": 4, "long": 4}
        about = {"protocol_version": 1001, "little_endian": True, "type_sizes": sizes}
        for part in (torch.serialization.MAGIC_NUMBER, 1001, about):
            pickle.dump(part, stream, 2)
    ClaimPickler(stream, elements, legacy).dump({"a": Claim(elements)})
    if legacy:
        pickle.dump(["0"], stream, 2)
        file.write_bytes(stream.getvalue() + struct.pack("<q", elements) + bytes(12))
        return
    rewritten({"a": torch.zeros(3)}, file, {"data.pkl": stream.getvalue()})


def rewritten(content: Any, file: Path, records: dict[str, bytes]) -> None:
    """What torch.save writes, with some records changed, and compressed."""
    original = io.BytesIO()
    torch.save(content, original)
    with (
        zipfile.ZipFile(original) as old,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, records.get(name.partition("/")[2], old.read(name)))


HOSTILE: dict[str, Callable[[Path], None]] = {
    "10^15 in the header": lambda file: claimed(file, 10**15, legacy=False),
    "10^9 in the header": lambda file: claimed(file, 10**9, legacy=False),
    "10^15 in an old header": lambda file: claimed(file, 10**15, legacy=True),
    "10^9 in an old header": lambda file: claimed(file, 10**9, legacy=True),
    "fewer than none": lambda file: claimed(file, -5, legacy=True),
    "a zip bomb": lambda file: rewritten({"a": ZERO}, file, {"data/0": bytes(1 << 28)}),
    "a pickle bomb": lambda file: rewritten({"a": ZERO}, file, {"data.pkl": bytes(1 << 28)}),
    "an array of bytes": lambda file: torch.save({"a": ZERO, "x": Call(bytearray, 10**10)}, file),
    "one number, expanded": lambda file: torch.save({"a": ZERO.expand(10**6, 10**9)}, file),
    "without numbers": lambda file: torch.save({"a": torch.empty(3, device="meta")}, file),
    "sparse": lambda file: torch.save({"a": torch.zeros(4).to_sparse()}, file),
    "quantised": lambda file: torch.save(
        {"a": torch.quantize_per_tensor(ZERO, 0.1, 0, torch.qint8)}, file
    ),
}


READ_HOSTILE = """
import resource, sys
from pathlib import Path
from conftest import little_memory
from distreid.errors import CheckpointError
from distreid.models import safe_load
from distreid.models.weights import read_checkpoint

safe_load.SPARE_BYTES = 1 << 26
before = resource.getrlimit(resource.RLIMIT_AS)
for file in sorted(Path(sys.argv[1]).iterdir()):
    with little_memory():
        try:
            read_checkpoint(file)
            print(file.name, "was read")
        except CheckpointError as error:
            print(file.name, "refused:", error)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
"""


@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch, as it saves these
def test_what_a_file_claims_takes_no_memory(tmp_path: Path, run_command: Run) -> None:
    folder = tmp_path / "hostile"
    folder.mkdir()
    for name, write in HOSTILE.items():
        write(folder / name.replace(" ", "-"))
    # In a process of its own: what other tests have freed here would be enough.
    tests = f"{REPOSITORY}:{REPOSITORY / 'tests'}"
    found = run_command(sys.executable, "-c", READ_HOSTILE, folder, PYTHONPATH=tests)
    lines = found.stdout.splitlines()
    assert found.returncode == 0, (lines, found.stderr)
    assert [line.partition(" refused: ")[0] for line in lines] == sorted(os.listdir(folder))


def test_a_scalar_of_numpy_is_passed_over_whatever_size_it_claims(tmp_path: Path) -> None:
    torch.save({"a": ZERO, "x": Call(SCALAR, Call(np.dtype, "V2000000000"))}, tmp_path / "a")
    with little_memory():
        assert list(read_checkpoint(tmp_path / "a").state) == ["a"]


def test_a_dictionary_that_contains_itself_ends(tmp_path: Path) -> None:
    content: dict[str, Any] = {}
    content["model"] = content
    torch.save(content, tmp_path / "a")
    with pytest.raises(CheckpointError, match="holds no tensor"):
        read_checkpoint(tmp_path / "a")


def test_two_tensors_of_one_name_are_refused(tmp_path: Path) -> None:
    torch.save({"a": ZERO, "module.a": ZERO + 1}, tmp_path / "a")
    with pytest.raises(CheckpointError, match="two tensors are named a; save one network alone"):
        read_checkpoint(tmp_path / "a")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(["zip", "legacy"]),
    st.lists(st.tuples(st.integers(0, 4000), st.binary(min_size=1, max_size=4)), max_size=8),
    st.integers(0, 4000),
)
@example("zip", [(1490, b"+")], 0)  # a name in the archive's list that is not UTF-8
def test_damaged_checkpoints_load_or_are_refused(
    kind: str, changes: list[tuple[int, bytes]], length: int
) -> None:
    stream = io.BytesIO()
    content = {"state_dict": {"conv1.conv.weight": torch.ones(2, 3), "b": ZERO}, "rank1": SMALL}
    torch.save(content, stream, _use_new_zipfile_serialization=kind == "zip")
    data = bytearray(stream.getvalue())
    for place, value in changes:
        place %= len(data)
        data[place : place + len(value)] = value
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(CheckpointError):
        file = Path(folder) / "a.pth"
        file.write_bytes(data[: length or None])
        load_model(str(file))


def test_a_whole_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"save model\.state_dict"):
        load_model(str(tmp_path / "a.pth"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a checkpoint"),
        (b"hello, this is text\n" * 50, "not a checkpoint"),
        (b"PK\x03\x04" + b"\0" * 200, "not a checkpoint"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(str(tmp_path / "a.pth"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(2)], "holds a list"),
        ({"epoch": 3}, "holds no tensor"),
        ({"backbone.weight": torch.zeros(2)}, "of no known model"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(
    tmp_path: Path, content: Any, message: str
) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=message):
        load_model(str(tmp_path / "a.pth"))


def test_a_string_that_python_2_wrote_may_hold_any_byte(tmp_path: Path) -> None:
    stream = io.BytesIO()
    content = {"state_dict": {"a": torch.ones(2)}, "rank1": "12345678"}
    torch.save(content, stream, _use_new_zipfile_serialization=False)
    python3, python2 = b"X\x08\0\0\0" + b"12345678", b"U\x08" + np.float64(0.942).tobytes()
    assert stream.getvalue().count(python3) == 1
    (tmp_path / "a.pth").write_bytes(stream.getvalue().replace(python3, python2))
    assert read_checkpoint(tmp_path / "a.pth").state["a"].tolist() == [1, 1]


def test_a_truncated_checkpoint_is_refused(osnet_file: Path, tmp_path: Path) -> None:
    data = osnet_file.read_bytes()
    (tmp_path / "a.pth").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        load_model(str(tmp_path / "a.pth"))


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"{tmp_path}/none.pth: no such file"):
        load_model(str(tmp_path / "none.pth"))
    with pytest.raises(CheckpointError, match=f"{tmp_path}: a folder without weights"):
        load_model(str(tmp_path))


def test_a_broken_opts_yaml_is_named(pack: Packs, tmp_path: Path) -> None:
    file = pack("person_reid_baseline_pytorch/ft_net_r50_s1_512").save(tmp_path)
    file.with_name("opts.yaml").write_text("stride: [")
    with pytest.raises(CheckpointError, match=r"opts\.yaml: not YAML"):
        load_model(str(file))
    for stride, said in (("3", "3"), ("true", "True"), ("'1'", "'1'")):
        file.with_name("opts.yaml").write_text(f"stride: {stride}")
        with pytest.raises(CheckpointError, match=f"stride is {said}; ft_net has 1 or 2"):
            load_model(str(file))
