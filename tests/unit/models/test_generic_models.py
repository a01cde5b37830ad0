"""Networks that no table lists: by timm's and torchvision's names, the user's own, programs."""

import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from distreid.errors import CheckpointError, OptionError
from distreid.inference.extractor import Extractor
from distreid.inference.views import Augmentation
from distreid.models.checkpoint import Model, load_model
from distreid.models.choices import Choices
from distreid.models.programs import MARKS

SIZE = (64, 32)
MODULE = """
import torch
from distreid.images.preprocess import Preprocess

def build():
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 4, 5))
    network.preprocess = Preprocess(height=8, width=4, interpolation="bilinear")
    return network

def number():
    return 3

def broken():
    return network

def maps():
    return torch.nn.Conv2d(3, 5, 1)

def prepared():
    network = build()
    network.preprocess = torch.nn.Identity()
    return network
"""


def images(count: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (count, 3, height, width)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def features(model: Model, batch: Tensor) -> Tensor:
    device = torch.device("cpu")
    extract = Extractor(model, Augmentation(flip=False), precision="fp32", device=device, threads=2)
    return extract(batch)[0]


def assert_gives(model: Model, network: Callable[[Tensor], Tensor]) -> None:
    """The features are those of the network called by hand, normalised."""
    pre = model.architecture.preprocess
    batch = images(11, pre.height, pre.width)
    with torch.inference_mode():
        expected = nn.functional.normalize(network(pre.normalise(batch)))
    assert expected.shape == (11, model.architecture.dim)
    torch.testing.assert_close(features(model, batch), expected, rtol=1e-4, atol=1e-5)


def save(network: nn.Module, file: Path) -> str:
    torch.save(network.state_dict(), file)
    return str(file)


def test_a_network_of_timm_by_name(tmp_path: Path) -> None:
    network: Any = timm.create_model("resnet18", num_classes=7).eval()
    model = load_model(save(network, tmp_path / "a.pth"), "timm:resnet18")
    assert model.architecture.classes == 7
    assert model.dropped == ("fc.weight", "fc.bias")
    pre = model.architecture.preprocess
    assert (pre.height, pre.width, pre.interpolation) == (224, 224, "bicubic")
    assert_gives(model, lambda x: network.forward_head(network.forward_features(x), True))


def test_a_vit_of_timm_takes_the_size_that_it_was_trained_with(tmp_path: Path) -> None:
    name = "vit_tiny_patch16_224"
    network: Any = timm.create_model(name, num_classes=7, img_size=SIZE).eval()
    file = save(network, tmp_path / "a.pth")
    model = load_model(file, f"timm:{name}", SIZE)
    assert model.architecture.preprocess.mean == (0.5, 0.5, 0.5)
    assert_gives(model, lambda x: network.forward_head(network.forward_features(x), True))
    with pytest.raises(CheckpointError, match=r"1 of another shape: pos_embed"):
        load_model(file, f"timm:{name}")


@pytest.mark.parametrize(
    ("name", "last", "interpolation"),
    [
        ("resnet18", "fc", "bilinear"),
        ("mobilenet_v3_small", "classifier.3", "bilinear"),
        ("swin_t", "head", "bicubic"),
    ],
)
def test_a_network_of_torchvision_by_name(
    tmp_path: Path, name: str, last: str, interpolation: str
) -> None:
    network = torchvision.models.get_model(name, weights=None, num_classes=7).eval()
    model = load_model(save(network, tmp_path / "a.pth"), f"torchvision:{name}", SIZE)
    assert model.architecture.classes == 7
    assert model.architecture.preprocess.interpolation == interpolation
    parent, _, child = last.rpartition(".")
    setattr(network.get_submodule(parent), child, nn.Identity())
    assert_gives(model, network)


def test_a_squeezenet_whose_classifier_has_no_linear_layer_is_pooled(tmp_path: Path) -> None:
    network = torchvision.models.squeezenet1_1(weights=None, num_classes=7).eval()
    model = load_model(save(network, tmp_path / "a.pth"), "torchvision:squeezenet1_1", SIZE)
    assert (model.architecture.classes, model.architecture.dim) == (7, 512)
    assert_gives(model, lambda x: network.features(x).mean((2, 3)))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:resnet1", "timm has no such network"),
        ("timm:hf-hub:timm/resnet18.a1_in1k", "timm has no such network"),
        ("torchvision:resnet1", "torchvision has no such network"),
        ("torchvision:fcn_resnet50", "torchvision has no such network"),
        ("nowhere_at_all:build", "ModuleNotFoundError.*MODULE:FUNCTION is wanted"),
        ("mine:nothing", "AttributeError"),
        ("mine:broken", "NameError"),
        ("mine:number", "gave a int; torch.nn.Module is wanted"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    (tmp_path / "mine.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    with pytest.raises(OptionError, match=rf"--model {name}: .*{message}"):
        load_model("sample", name)


def test_a_network_of_ones_own_by_a_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 4, 5))
    model = load_model(save(network, tmp_path / "a.pth"), "mine:build")
    assert model.architecture.preprocess.interpolation == "bilinear"
    assert_gives(model, network)
    torch.save({"1.weight": network[1].weight}, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match=r"1 missing: 1\.bias"):
        load_model(str(tmp_path / "b.pth"), "mine:build")
    with pytest.raises(CheckpointError, match=r"the network fails on 2 images of 9×9 \("):
        load_model(str(tmp_path / "a.pth"), "mine:build", (9, 9))
    with pytest.raises(CheckpointError, match=r"gives \(2, 5, 256, 128\) for 2 images"):
        load_model(str(tmp_path / "a.pth"), "mine:maps")
    # A transform or a method of that name is the user's own.
    other = load_model(str(tmp_path / "a.pth"), "mine:prepared", (8, 4)).architecture
    assert (other.preprocess.width, other.preprocess.interpolation) == (4, "bicubic")


def test_the_function_is_found_in_the_folder_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine_too.py").write_text(MODULE)
    monkeypatch.setattr("sys.path", [path for path in sys.path if path])
    monkeypatch.chdir(tmp_path)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 4, 5))
    assert load_model(save(network, tmp_path / "a.pth"), "mine_too:build").architecture.dim == 5


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    network: nn.Module = torchvision.models.resnet18(weights=None).eval()
    network.fc = nn.Identity()
    return network


@pytest.fixture(scope="module")
def script(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("script") / "a.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.save(torch.jit.script(network), str(file))
    return file


@pytest.fixture(scope="module")
def exported(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("export") / "a.pt2"
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(network, (torch.zeros(2, 3, *SIZE),), dynamic_shapes=shapes)
    torch.export.save(program, file)
    return file


def test_a_torchscript_file(network: nn.Module, script: Path) -> None:
    model = load_model(str(script), "torchscript", SIZE)
    assert model.architecture.dim == 512
    assert_gives(model, network)
    notes = load_model(str(script), "torchscript").architecture.notes
    assert "--input-size HxW says it" in notes[1]


def test_a_torchscript_file_gives_the_same_bits_at_every_call(script: Path) -> None:
    model = load_model(str(script), "torchscript", SIZE)
    batch = images(16, *SIZE)
    first = features(model, batch)
    for _ in range(4):
        assert torch.equal(features(model, batch), first)


def test_an_exported_program(network: nn.Module, exported: Path) -> None:
    model = load_model(str(exported), "export")
    pre = model.architecture.preprocess
    assert (pre.height, pre.width, model.architecture.fixed_size) == (*SIZE, True)
    assert_gives(model, network)
    with pytest.raises(CheckpointError, match=r"fails on 2 images of 32×32 \("):
        load_model(str(exported), "export", (32, 32))


def test_an_exported_program_for_one_batch_size_is_refused(
    network: nn.Module, tmp_path: Path
) -> None:
    program = torch.export.export(network, (torch.zeros(3, 3, *SIZE),))
    torch.export.save(program, tmp_path / "a.pt2")
    with pytest.raises(CheckpointError, match="a batch may have any length") as caught:
        load_model(str(tmp_path / "a.pt2"), "export")
    assert "\n" not in str(caught.value)


def test_a_program_runs_only_if_it_is_asked_for(script: Path, exported: Path) -> None:
    for file, kind in ((script, "torchscript"), (exported, "export")):
        with pytest.raises(CheckpointError, match=f"a program, not weights; --model {kind} runs"):
            load_model(str(file))
    with pytest.raises(CheckpointError, match="--model export: the file holds no such program"):
        load_model(str(script), "export")
    with pytest.raises(CheckpointError, match="--model torchscript: the file holds no such"):
        load_model("sample", "torchscript")


def test_a_damaged_program_is_refused(tmp_path: Path) -> None:
    for kind, mark in MARKS.items():
        with zipfile.ZipFile(tmp_path / kind, "w") as archive:
            archive.writestr(f"a/{mark}", b"nothing")
        with pytest.raises(CheckpointError, match="a damaged program") as caught:
            load_model(str(tmp_path / kind), kind)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "said", [{"weights": "ema"}, {"feature": "trunk"}, {"pooling": "avg"}, {"last_stride": 1}]
)
def test_what_a_program_does_not_leave_open_is_refused(said: dict[str, Any], script: Path) -> None:
    with pytest.raises(OptionError, match=r"--.*take it away"):
        load_model(str(script), "torchscript", choices=Choices(**said))


def test_a_graph_of_images_with_channels_last_is_refused(tmp_path: Path) -> None:
    value, graph = onnx.helper.make_tensor_value_info, onnx.helper.make_graph
    shapes: tuple[tuple[list[str | int], bool], ...]
    shapes = ((["N", 8, 4, 3], False), (["N", 3, 8, 4], True))
    for shape, fits in shapes:
        nodes = [onnx.helper.make_node("Flatten", ["images"], ["features"])]
        ports = [value("images", 1, shape)], [value("features", 1, ["N", 96])]
        made = onnx.helper.make_model(graph(nodes, "flat", *ports))
        onnx.save(made, str(tmp_path / "a.onnx"))
        if fits:
            assert load_model(str(tmp_path / "a.onnx")).architecture.dim == 96
        else:
            with pytest.raises(CheckpointError, match=r"takes \(N, 8, 4, 3\), not \(N, 3, H, W\)"):
                load_model(str(tmp_path / "a.onnx"))
