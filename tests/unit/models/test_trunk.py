"""A known network under any prefix, with a neck and classifiers, and what is said of it."""

import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from conftest import REPOSITORY
from torch import Tensor, nn
from torch.nn import functional as F

from distreid.errors import CheckpointError, OptionError
from distreid.models.checkpoint import Model, load_model
from distreid.models.choices import Choices
from distreid.models.network_index import FILE, find, networks
from distreid.models.resnet import resnet
from distreid.models.table import find_model
from distreid.models.weights import read_checkpoint

sys.path.insert(0, str(REPOSITORY / "tests/tools/networks"))

import make_index

PREFIXES = (
    "base.", "model.", "backbone.", "encoder.", "net.backbone.", "student.", "module.model.0.",
    "model.model.backbone.", "",
)  # fmt: skip


def random_numbers(network: nn.Module) -> nn.Module:
    """In eval mode, with batch norms that do something."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean = torch.randn_like(module.running_mean) * 0.1  # type: ignore[arg-type]
            module.running_var = torch.rand_like(module.running_var) + 0.5  # type: ignore[arg-type]
    return network.eval()


@pytest.fixture(scope="module")
def body() -> Any:
    network: Any = torchvision.models.resnet18(weights=None)
    network.fc = nn.Identity()
    return random_numbers(network)


@pytest.fixture(scope="module")
def neck() -> nn.Module:
    norm = nn.BatchNorm1d(512)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return random_numbers(norm)


def named(prefix: str, network: nn.Module) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in network.state_dict().items()}


def loaded(state: dict[str, Tensor], folder: Path, name: str = "auto", **said: Any) -> Model:
    torch.save(state, folder / "a.pth")
    return load_model(str(folder / "a.pth"), name, choices=Choices(**said))


def given(model: Model, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return model.network(images)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(0))


def last_map(body: Any, images: Tensor, stride: int) -> Tensor:
    """A ResNet's, by hand."""
    conv, down = body.layer4[0].conv1, body.layer4[0].downsample[0]
    conv.stride = down.stride = (stride, stride)
    try:
        with torch.inference_mode():
            x = body.maxpool(body.bn1(body.conv1(images)).relu())
            for stage in (body.layer1, body.layer2, body.layer3, body.layer4):
                x = stage(x)
    finally:
        conv.stride = down.stride = (2, 2)
    return x  # type: ignore[no-any-return]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_trunk_with_a_neck_is_found_under_any_prefix(
    prefix: str, body: Any, neck: nn.Module, images: Tensor, tmp_path: Path
) -> None:
    outer = prefix.split(".")[0] + "." if prefix.count(".") > 1 else ""
    state = {
        **named(prefix, body),
        **named(f"{outer}neck.", neck),
        f"{outer}classifier.weight": torch.zeros(751, 512),
    }
    model = loaded(state, tmp_path)
    assert model.architecture.options["last_stride"] == 1
    assert model.architecture.classes == 751
    pooled = last_map(body, images, 1).mean((2, 3))
    with torch.inference_mode():
        torch.testing.assert_close(given(model, images), neck(pooled))


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"feature": "trunk"}, lambda x, neck: x.mean((2, 3))),
        ({"feature": "before-neck"}, lambda x, neck: x.mean((2, 3))),
        ({"feature": "after-neck"}, lambda x, neck: neck(x.mean((2, 3)))),
        ({"pooling": "max"}, lambda x, neck: neck(x.amax((2, 3)))),
        ({"pooling": "avg+max"}, lambda x, neck: neck(x.mean((2, 3)) + x.amax((2, 3)))),
        (
            {"pooling": "gem=4", "feature": "trunk"},
            lambda x, neck: x.clamp(min=1e-6).pow(4).mean((2, 3)).pow(1 / 4),
        ),
    ],
)
@pytest.mark.parametrize("stride", [1, 2])
def test_the_user_says_what_no_file_tells(
    said: dict[str, str],
    expected: Callable[[Tensor, nn.Module], Tensor],
    stride: int,
    body: Any,
    neck: nn.Module,
    images: Tensor,
    tmp_path: Path,
) -> None:
    state = {**named("backbone.", body), **named("bnneck.", neck)}
    model = loaded(state, tmp_path, last_stride=stride, **said)
    with torch.inference_mode():
        wanted = expected(last_map(body, images, stride), neck)
    torch.testing.assert_close(given(model, images), wanted)
    # Each is another feature space.
    assert model.architecture.identity() != loaded(state, tmp_path).architecture.identity() or (
        stride == 1 and said == {"feature": "after-neck"}
    )


def test_a_linear_layer_before_the_neck_and_gems_exponent(
    body: Any, images: Tensor, tmp_path: Path
) -> None:
    linear, norm = nn.Linear(512, 64), random_numbers(nn.BatchNorm1d(64))
    state = {
        **named("model.net.", body),
        "model.pool.p": torch.tensor([2.5]),
        **named("model.embed.0.", linear),
        **named("model.embed.1.", norm),
        "model.arc.weight": torch.zeros(64, 1041),
        "model.center_loss.centers": torch.zeros(1041, 64),
    }
    model = loaded(state, tmp_path)
    assert (model.architecture.dim, model.architecture.classes) == (64, 1041)
    x = last_map(body, images, 1)
    pooled = x.clamp(min=1e-6).pow(2.5).mean((2, 3)).pow(1 / 2.5)
    with torch.inference_mode():
        torch.testing.assert_close(given(model, images), norm(linear(pooled)))
        before = loaded(state, tmp_path, feature="before-neck")
        torch.testing.assert_close(given(before, images), linear(pooled))
        trunk = loaded(state, tmp_path, feature="trunk", pooling="avg")
        torch.testing.assert_close(given(trunk, images), x.mean((2, 3)))


def test_gems_exponent_stands_in_the_identity_unless_it_is_the_files(
    body: Any, images: Tensor, tmp_path: Path
) -> None:
    state = {**named("net.", body), "pool.p": torch.tensor([6.5])}
    learned = loaded(state, tmp_path)
    assert learned.architecture.options["pooling"] == "gem"
    assert "GeM with the file's exponent (--pooling)" in learned.architecture.notes[0]
    fixed = [loaded(state, tmp_path, pooling=word) for word in ("gem", "gem=3", "gem=3.0")]
    for model in fixed:
        assert model.architecture.identity() == fixed[0].architecture.identity()
        assert torch.equal(given(model, images), given(fixed[0], images))
    assert fixed[0].architecture.options["pooling"] == "gem=3"
    assert "gem=3 (--pooling)" in fixed[0].architecture.notes[0]
    half = loaded(state, tmp_path, pooling="gem=2.5").architecture
    assert half.options["pooling"] == "gem=2.5"


def test_children_may_have_numbers(body: Any, images: Tensor, tmp_path: Path) -> None:
    numbered = nn.Sequential(*list(body.children())[:-2])
    model = loaded(named("features.", numbered), tmp_path, last_stride=2)
    wanted = last_map(body, images, 2).mean((2, 3))
    torch.testing.assert_close(given(model, images), wanted)


@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("timm:convnext_atto", lambda: timm.create_model("convnext_atto", num_classes=0)),
        ("timm:hrnet_w18_small", lambda: timm.create_model("hrnet_w18_small", num_classes=0)),
        ("timm:efficientnet_b0", lambda: timm.create_model("efficientnet_b0", num_classes=0)),
        ("timm:seresnet50", lambda: timm.create_model("seresnet50", num_classes=0)),
        ("torchvision:densenet121", lambda: torchvision.models.densenet121(weights=None)),
        ("osnet_x0_25", lambda: find_model("osnet_x0_25", {}, {}).build()),
        ("resnet50_ibn_a", lambda: resnet("resnet50", "a")),
    ],
)
def test_trunks_of_every_source(
    name: str, network: Callable[[], Any], images: Tensor, tmp_path: Path
) -> None:
    trunk = random_numbers(network())
    state = named("encoder.", trunk)
    said: dict[str, Any] = {"last_stride": 2} if "res" in name else {}
    model = loaded(state, tmp_path, **said)
    assert model.architecture.name == name
    if hasattr(trunk, "classifier") and name.startswith("torchvision"):
        trunk.classifier = nn.Identity()
    larger = F.interpolate(images, (64, 64))
    with torch.inference_mode():
        torch.testing.assert_close(given(model, larger), trunk(larger), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("size", "tokens"), [((256, 128), 129), ((384, 128), 193)])
def test_a_vits_size_is_read_off_its_positions(
    size: tuple[int, int], tokens: int, tmp_path: Path
) -> None:
    vit: Any = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=size).eval()
    state = {**named("net.", vit), "head.weight": torch.zeros(100, 192)}
    assert state["net.pos_embed"].shape[1] == tokens
    model = loaded(state, tmp_path)
    preprocess = model.architecture.preprocess
    assert ((preprocess.height, preprocess.width), model.architecture.fixed_size) == (size, True)
    batch = torch.randn(2, 3, *size)
    with torch.inference_mode():
        torch.testing.assert_close(given(model, batch), vit(batch))
    assert "; 3 heads of attention (--model" in model.architecture.notes[-1]
    averaged = loaded(state, tmp_path, pooling="avg")
    with torch.inference_mode():
        torch.testing.assert_close(
            given(averaged, batch), vit.forward_features(batch)[:, 1:].mean(1)
        )


@pytest.mark.parametrize("prefix", ["", "module.backbone."])
def test_a_vit_whose_mean_comes_before_its_norm(prefix: str, tmp_path: Path) -> None:
    """As MAE's code and timm's `global_pool="avg"` train it; the norm is called `fc_norm` then."""
    torch.manual_seed(0)
    name, size = "vit_tiny_patch16_224", (256, 128)
    vit: Any = timm.create_model(name, num_classes=7, img_size=size, global_pool="avg").eval()
    nn.init.normal_(vit.fc_norm.weight)
    nn.init.normal_(vit.fc_norm.bias)
    state, batch = named(prefix, vit), torch.randn(2, 3, *size)
    model = loaded(state, tmp_path)
    architecture = model.architecture
    assert architecture.options["fc_norm"] is True and architecture.classes == 7
    assert architecture.feature == "mean of the last map, its norm"
    with torch.inference_mode():
        map_of_it = vit.forward_features(batch)
        mean = vit.forward_head(map_of_it, pre_logits=True)
        torch.testing.assert_close(given(model, batch), mean)
        for word, pooled in (("max", map_of_it[:, 1:].amax(1)), ("token", map_of_it[:, 0])):
            other = loaded(state, tmp_path, pooling=word)
            torch.testing.assert_close(given(other, batch), vit.fc_norm(pooled))
        if not prefix:
            by_name = load_model(str(tmp_path / "a.pth"), f"timm:{name}", size)
            torch.testing.assert_close(given(by_name, batch), mean)
    swin = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0)
    wrong = {key.replace("norm.", "fc_norm.") if key.startswith("norm.") else key: value
             for key, value in swin.state_dict().items()}  # fmt: skip
    with pytest.raises(CheckpointError, match="has no such norm"):
        loaded(wrong, tmp_path)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(
    "normed", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm], ids=["old", "new"]
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
def test_a_classifier_under_weight_normalisation(
    normed: Callable[[nn.Module], nn.Module], biased: bool, body: Any, tmp_path: Path
) -> None:
    classifier = normed(nn.Linear(512, 77, bias=biased))
    state = named("backbone.", body) | named("classifier.", classifier)
    assert loaded(state, tmp_path).architecture.classes == 77
    state = named("backbone.", body) | named("classifier.", normed(nn.Linear(500, 77)))
    with pytest.raises(CheckpointError, match="not clearly a neck or a classifier"):
        loaded(state, tmp_path)


@pytest.mark.parametrize("name", ["mobilenet_v2", "densenet121", "squeezenet1_1"])
def test_the_one_child_of_a_network_stands_alone(name: str, images: Tensor, tmp_path: Path) -> None:
    network: Any = random_numbers(torchvision.models.get_model(name, weights=None))
    state = named("net.backbone.", network.features)
    with torch.inference_mode():
        found = network.features(images)
        found = found.relu() if name == "densenet121" else found
    dim = found.shape[1]
    neck = random_numbers(nn.BatchNorm1d(dim))
    for head, expected in (({}, found.mean((2, 3))), (named("net.neck.", neck), None)):
        model = loaded(state | head, tmp_path)
        assert model.architecture.name == f"torchvision:{name}"
        assert "the part features alone, under 'net.backbone'" in model.architecture.notes[0]
        with torch.inference_mode():
            expected = neck(found.mean((2, 3))) if expected is None else expected
            torch.testing.assert_close(given(model, images), expected)


def test_what_is_neither_neck_nor_classifier_is_an_error_that_lists_it(
    body: Any, tmp_path: Path
) -> None:
    state = {**named("backbone.", body), "attention.gate": torch.zeros(7, 7, 3)}
    with pytest.raises(
        CheckpointError,
        match=r"resnet18 under 'backbone', and beside it 1 tensors that are not clearly a neck or "
        r"a classifier: attention\.gate \(7, 7, 3\)",
    ):
        loaded(state, tmp_path)
    with pytest.raises(CheckpointError, match="or --weights backbone takes that part alone"):
        loaded(state, tmp_path)
    assert loaded(state, tmp_path, weights="backbone").architecture.name == "resnet18"
    inside = {**named("net.backbone.", body), "net.gate": torch.zeros(7, 7, 3)}
    with pytest.raises(CheckpointError, match=r"by --model package.module:function, or give a"):
        loaded(inside, tmp_path)
    lacking = {key: value for key, value in named("backbone.", body).items() if "layer2" not in key}
    with pytest.raises(CheckpointError, match="tensors of no known model"):
        loaded(lacking, tmp_path)


def test_a_projection_of_two_layers_is_not_taken_for_a_classifier(
    body: Any, tmp_path: Path
) -> None:
    layers = {"fc.0.weight": torch.zeros(128, 512), "fc.2.weight": torch.zeros(64, 128)}
    with pytest.raises(CheckpointError, match=r"fc\.2\.weight"):
        loaded({**named("net.", body), **{f"net.{k}": v for k, v in layers.items()}}, tmp_path)


def named_layers(layers: dict[str, nn.Module]) -> dict[str, Tensor]:
    return {
        key: value for name, layer in layers.items() for key, value in named(name, layer).items()
    }


@pytest.mark.parametrize(
    ("layers", "unknown"),
    [
        # ReLU between them, or nothing: no weights tell it.
        ({"embed.0.": nn.Linear(512, 256), "embed.2.": nn.Linear(256, 128)}, "embed.2.weight"),
        (
            {
                "embed.0.": nn.Linear(512, 512),
                "embed.2.": nn.Linear(512, 512),
                "embed.3.": nn.BatchNorm1d(512),
            },
            "embed.2.weight",
        ),
        # 512 persons, or a layer of the neck.
        (
            {"classifier.": nn.Linear(512, 512), "bottleneck.": nn.BatchNorm1d(512)},
            "classifier.weight",
        ),
        # The feature of 128 or 512 channels, or persons.
        ({"bn.": nn.BatchNorm1d(512), "embedding.": nn.Linear(512, 128)}, "embedding.weight"),
        (
            {"head.bn.": nn.BatchNorm1d(512), "head.proj.": nn.Linear(512, 128, bias=False)},
            "head.proj.weight",
        ),
        (
            {
                "bn.": nn.BatchNorm1d(512),
                "embed.0.": nn.Linear(512, 512),
                "classifier.": nn.Linear(512, 751),
            },
            "embed.0.weight",
        ),
    ],
    ids=["mlp", "mlp and neck", "classes or layer", "embedding", "in the head", "before classes"],
)
def test_a_linear_layer_of_more_than_one_meaning_is_refused(
    layers: dict[str, nn.Module], unknown: str, body: Any, tmp_path: Path
) -> None:
    state = {**named("backbone.", body), **named_layers(layers)}
    with pytest.raises(CheckpointError, match=f"not clearly a neck or a classifier: {unknown}"):
        loaded(state, tmp_path)
    with pytest.raises(CheckpointError, match=r"--model package\.module:function, or give a prog"):
        loaded(state, tmp_path)


@pytest.mark.parametrize(
    ("linear", "norm"), [("head.0.", "head.1."), ("fc.", "bn.")], ids=["one part", "classes follow"]
)
def test_a_linear_layer_as_wide_as_the_trunk_is_of_the_neck(
    linear: str, norm: str, body: Any, neck: nn.Module, images: Tensor, tmp_path: Path
) -> None:
    layer = nn.Linear(512, 512)
    classes = {"classifier.": nn.Linear(512, 751)} if linear == "fc." else {}
    state = {
        **named("backbone.", body),
        **named_layers({linear: layer, norm: neck, **classes}),
    }
    model = loaded(state, tmp_path)
    pooled = last_map(body, images, 1).mean((2, 3))
    with torch.inference_mode():
        torch.testing.assert_close(given(model, images), neck(layer(pooled)))


def test_classes_before_the_neck_and_of_several_kinds_are_dropped(
    body: Any, neck: nn.Module, images: Tensor, tmp_path: Path
) -> None:
    kinds = {"view_fc.": nn.Linear(512, 4), "bottleneck.classifier.": nn.Linear(512, 9)}
    layers = {"classifier.": nn.Linear(512, 751), "bottleneck.": neck, **kinds}
    model = loaded({**named("base_net.", body), **named_layers(layers)}, tmp_path)
    assert (model.architecture.dim, model.architecture.classes) == (512, 751)
    pooled = last_map(body, images, 1).mean((2, 3))
    with torch.inference_mode():
        torch.testing.assert_close(given(model, images), neck(pooled))


def test_two_trunks_are_asked_for(body: Any, tmp_path: Path) -> None:
    state = {**named("a.backbone.", body), **named("b.backbone.", body)}
    with pytest.raises(CheckpointError, match=r"resnet18 twice, under a and under b .*--weights a"):
        loaded(state, tmp_path)
    assert loaded(state, tmp_path, weights="a").architecture.dim == 512


def test_a_choice_that_a_network_does_not_leave_is_an_error(
    osnet_file: Path, body: Any, tmp_path: Path
) -> None:
    leaves_none: tuple[dict[str, Any], ...] = (
        {"feature": "trunk"},
        {"last_stride": 1},
        {"pooling": "max"},
    )
    for said in leaves_none:
        with pytest.raises(OptionError, match=r"osnet_x0_25 leaves no such choice"):
            load_model(str(osnet_file), choices=Choices(**said))
    with pytest.raises(OptionError, match="--feature after-neck: no batch norm stands"):
        loaded(named("net.", body), tmp_path, feature="after-neck")
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"pooling": "gem=x"}, "--pooling gem=x: choose one of"),
        ({"keep_aspect": "crop=0"}, "--keep-aspect crop=0: choose one of"),
        ({"keep_aspect": "crop=5000"}, "--keep-aspect crop=5000: at most 4096 pixels"),
        ({"feature": "neck"}, "--feature neck: choose one of"),
        ({"std": (1, 0, 1)}, "--std 1,0,1: pixels cannot be divided by less"),
        ({"std": (1, -0.2, 1)}, "--std 1,-0.2,1: pixels cannot be divided by less"),
        ({"semantic_weight": 2}, "--semantic-weight 2: from 0 to 1"),
    )
    for said, message in wrong:
        with pytest.raises(OptionError, match=message):
            Choices(**said)
    with pytest.raises(OptionError, match="crop=127: leaves black borders in an input of 256x128"):
        loaded(named("net.", body), tmp_path, keep_aspect="crop=127")


@pytest.mark.parametrize("name", ["resnetaa34d", "resnetaa50", "resnetblur18", "seresnetaa50d"])
def test_a_last_stride_of_an_anti_aliased_resnet_goes_with_its_pool(
    name: str, images: Tensor, tmp_path: Path
) -> None:
    strided = random_numbers(timm.create_model(name, num_classes=0))
    state = named("backbone.", strided)
    twice = loaded(state, tmp_path, f"timm:{name}", last_stride=2)
    with torch.inference_mode():
        torch.testing.assert_close(given(twice, images), strided(images))
    # As timm keeps the stride, but for its dilation.
    other: Any = timm.create_model(name, num_classes=0, output_stride=16)
    if isinstance(other.layer4[0].downsample[0], nn.AvgPool2d):
        other.layer4[0].downsample[0] = nn.Identity()
    for module in other.layer4.modules():
        if isinstance(module, nn.Conv2d) and module.dilation != (1, 1):
            module.dilation = module.padding = (1, 1)
    other.load_state_dict(strided.state_dict())
    once = loaded(state, tmp_path, f"timm:{name}", last_stride=1)
    with torch.inference_mode():
        torch.testing.assert_close(given(once, images), other.eval()(images))


@pytest.mark.parametrize("name", ["resnetv2_18", "resnet32ts"])
def test_a_network_without_layer4_keeps_its_last_stride(
    name: str, images: Tensor, tmp_path: Path
) -> None:
    network: Any = random_numbers(timm.create_model(name, num_classes=0))
    norm = nn.BatchNorm1d(network.num_features)
    state = {**named("net.", network), **named("bnneck.", random_numbers(norm))}
    model = loaded(state, tmp_path)
    assert model.architecture.options["last_stride"] == 2
    with torch.inference_mode():
        torch.testing.assert_close(given(model, images), norm(network(images)))
    assert (
        loaded(state, tmp_path, last_stride=2).architecture.identity()
        == model.architecture.identity()
    )
    with pytest.raises(OptionError, match=f"--last-stride 1: timm:{name} has no layer4"):
        loaded(state, tmp_path, last_stride=1)


def test_a_pooling_that_a_network_cannot_have_is_refused_when_the_file_is_read(
    body: Any, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match=r"--pooling token: resnet18 has no class token"):
        loaded(named("net.", body), tmp_path, pooling="token")
    efficient: Any = torchvision.models.efficientnet_b0(weights=None)
    efficient.classifier = nn.Identity()
    state = {**named("net.", efficient), "pool.p": torch.tensor([3.0])}
    with pytest.raises(CheckpointError, match=r"pool\.p is GeM's exponent, and of torchvision:eff"):
        loaded(state, tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "lcnet_050",  # a convolution behind the pooling
        "mobilenetv3_small_050",
        "convnext_atto",  # a norm behind it
        "test_mambaout",  # the same, and channels last
        "efficientvit_b0",  # a convolution before it, in the head
    ],
)
def test_what_stands_behind_a_networks_pooling_stays(name: str, tmp_path: Path) -> None:
    network: Any = random_numbers(timm.create_model(name, num_classes=0))
    state = named("net.", network)
    height, width = network.pretrained_cfg["input_size"][1:]
    batch = torch.randn(2, 3, height, width)
    with torch.inference_mode():
        for word in ("avg", "max"):
            other: Any = timm.create_model(name, num_classes=0, global_pool=word)
            other.load_state_dict(network.state_dict())
            model = loaded(state, tmp_path, f"timm:{name}", pooling=word)
            features = given(model, batch)
            assert features.shape[1] == model.architecture.dim
            assert torch.equal(features, other.eval()(batch))


def test_a_learned_exponent_stands_before_the_layers_behind_a_pooling(tmp_path: Path) -> None:
    network: Any = random_numbers(timm.create_model("lcnet_050", num_classes=0))
    batch = torch.randn(2, 3, 64, 32)
    learned = loaded({**named("net.", network), "gem.p": torch.tensor([2.5])}, tmp_path)
    said = loaded(named("net.", network), tmp_path, pooling="gem=2.5")
    torch.testing.assert_close(given(learned, batch), given(said, batch))
    assert learned.architecture.options["pooling"] == "gem"


@pytest.mark.parametrize(
    ("name", "tokens"), [("resmlp_12_224", 0), ("test_vit2", 1), ("test_vit_relpos", 0)]
)
def test_places_are_all_tokens_but_those_that_the_network_adds(
    name: str, tokens: int, tmp_path: Path
) -> None:
    network: Any = random_numbers(timm.create_model(name, num_classes=0))
    height, width = network.pretrained_cfg["input_size"][1:]
    batch = torch.randn(2, 3, height, width)
    state = named("net.", network)
    norm = getattr(network, "fc_norm", nn.Identity())
    with torch.inference_mode():
        places = network.forward_features(batch)[:, tokens:]
        averaged = given(loaded(state, tmp_path, f"timm:{name}", pooling="avg"), batch)
        torch.testing.assert_close(averaged, norm(places.mean(1)))
        torch.testing.assert_close(averaged, network(batch))
        most = given(loaded(state, tmp_path, f"timm:{name}", pooling="max"), batch)
        torch.testing.assert_close(most, norm(places.amax(1)))


@pytest.mark.parametrize("name", ["coat_tiny", "pit_ti_224"])
def test_a_network_without_one_last_map_is_refused_another_pooling(
    name: str, tmp_path: Path
) -> None:
    state = named("net.", timm.create_model(name, num_classes=0))
    with pytest.raises(OptionError, match=f"--pooling max: timm:{name} has no last map of"):
        loaded(state, tmp_path, f"timm:{name}", pooling="max")


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ({"head.0": nn.Linear(512, 64), "head.1": nn.BatchNorm1d(64)}, None),
        ({"head.0": nn.Linear(512, 64), "head.2": nn.BatchNorm1d(64)}, "head.0 and head.2"),
        (
            {"fc.0": nn.Linear(512, 64), "fc.1": nn.BatchNorm1d(64), "fc.3": nn.Linear(64, 751)},
            "fc.1 and fc.3",
        ),
        ({"neck.1": nn.BatchNorm1d(512), "cls.9": nn.Linear(512, 751)}, None),
        ({"reduction.0": nn.Conv2d(512, 64, 1), "reduction.1": nn.BatchNorm2d(64)}, "reduction.0"),
    ],
)
def test_what_no_weights_tell_of_the_layers_behind_the_pooling_is_said(
    layers: dict[str, nn.Module], said: str | None, body: Any, tmp_path: Path
) -> None:
    state = named("backbone.", body)
    for path, layer in layers.items():
        state |= named(f"{path}.", layer)
    guesses = loaded(state, tmp_path).architecture.notes[:-1]
    if said is None:
        assert not guesses
    else:
        (note,) = guesses
        assert said in note
        assert "ReLU" in note


@pytest.mark.parametrize("prefix", ["", "net.", "model.backbone."])
def test_a_layer_named_as_a_classifier_may_be_an_embedding(
    prefix: str, images: Tensor, tmp_path: Path
) -> None:
    network: Any = torchvision.models.resnet18(weights=None)
    network.fc = nn.Linear(512, 128)
    state = named(prefix, random_numbers(network))
    usual = loaded(state, tmp_path)
    assert usual.architecture.dim == 512
    said = "128 (--feature embedding takes it for an embedding)"
    assert not prefix or said in usual.architecture.notes[-1]
    model = loaded(state, tmp_path, feature="embedding")
    assert (model.architecture.dim, model.architecture.classes) == (128, None)
    assert model.architecture.identity() != usual.architecture.identity()
    with torch.inference_mode():
        torch.testing.assert_close(given(model, images), network(images))


def test_an_embedding_may_follow_a_neck_and_is_one_layer(
    body: Any, neck: nn.Module, images: Tensor, tmp_path: Path
) -> None:
    layer = nn.Linear(512, 64, bias=False)
    state = {**named("b.", body), **named("neck.", neck), **named("head.", layer)}
    model = loaded(state, tmp_path, feature="embedding", last_stride=2)
    with torch.inference_mode():
        wanted = layer(neck(last_map(body, images, 2).mean((2, 3))))
    torch.testing.assert_close(given(model, images), wanted)
    state |= named("head2.", layer)
    with pytest.raises(OptionError, match="has 2 linear layers behind the feature of 512, and one"):
        loaded(state, tmp_path, feature="embedding")
    with pytest.raises(OptionError, match="has no linear layers behind the feature of 512"):
        loaded(named("b.", body), tmp_path, feature="embedding")


def test_one_paragraph_says_what_was_found_and_what_says_otherwise(
    body: Any, neck: nn.Module, tmp_path: Path
) -> None:
    state = {
        **named("model.backbone.", body),
        **named("model.bottleneck.", neck),
        "model.classifier.weight": torch.zeros(751, 512),
    }
    (note,) = loaded(state, tmp_path).architecture.notes
    assert note.startswith("resnet18 under 'model.backbone' (100 tensors; torchvision:resnet18, ")
    for part in (
        "on it model.bottleneck (batch norm of 512)",
        "without model.classifier",
        "what leaves the batch norm (--feature says otherwise)",
        "last stride 1 (--last-stride)",
        "the network's own pooling (--pooling)",
        "input 256×128, bilinear, mean 0.485, 0.456, 0.406 (--input-size, --interpolation,",
    ):
        assert part in note


def test_a_name_chooses_among_networks_of_one_structure(body: Any, tmp_path: Path) -> None:
    state = named("net.", timm.create_model("efficientnet_b0", num_classes=0))
    same = [network.name for network in find(state)[0].networks]
    assert same[0] == "timm:efficientnet_b0"
    assert "timm:tf_efficientnet_b0" in same
    assert loaded(state, tmp_path, "timm:tf_efficientnet_b0").architecture.name == (
        "timm:tf_efficientnet_b0"
    )


def test_the_index_is_what_its_maker_makes() -> None:
    with gzip.open(FILE, "rt") as stream:
        content = json.load(stream)
    rows = {row[0]: row for row in content["networks"]}
    for made in (
        make_index.of_timm("vit_tiny_patch16_224"),
        make_index.of_timm("legacy_seresnet50"),
        make_index.of_torchvision("regnet_y_400mf"),
        make_index.of_torchvision("squeezenet1_1"),
        make_index.of_family("osnet_ain_x0_5"),
        make_index.of_ibn("resnet34_ibn_a"),
    ):
        name, dim, classifier, children = made
        stored = rows[name]
        assert [stored[1], stored[2]] == [dim, classifier]
        assert {
            child: (place, content["hashes"][number])
            for child, (place, number) in stored[3].items()
        } == children
    assert len(networks()) > 1400


def test_recognising_looks_into_the_index_and_builds_no_network(
    body: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def built(*_: Any, **__: Any) -> None:
        raise AssertionError("a network was built")

    monkeypatch.setattr(torchvision.models, "get_model", built)
    monkeypatch.setattr(timm, "create_model", built)
    assert find(named("a.b.c.", body))[0].prefix == "a.b.c."


def test_the_prefix_and_the_weights_stay_the_files(body: Any, tmp_path: Path) -> None:
    torch.save({"state_dict": named("net.", body)}, tmp_path / "a.pth")
    assert next(iter(read_checkpoint(tmp_path / "a.pth").state)) == "net.conv1.weight"


def test_an_fc_that_is_not_torchreids_is_of_the_neck(
    body: Any, images: Tensor, tmp_path: Path
) -> None:
    """torchreid has the like on resnet50 alone, of 512, with a ReLU behind it."""
    layers = random_numbers(nn.Sequential(nn.Linear(512, 256), nn.BatchNorm1d(256)))
    state = {
        **{key: value for key, value in named("", body).items() if not key.startswith("fc.")},
        **named("fc.", layers),
    }
    model = loaded(state, tmp_path)
    pooled = last_map(body, images, 1).mean((2, 3))
    with torch.inference_mode():
        torch.testing.assert_close(given(model, images), layers(pooled))


@pytest.mark.parametrize("has_classifier", [True, False])
def test_torchreids_fc_without_its_classifier_is_a_guess(
    has_classifier: bool, tmp_path: Path
) -> None:
    network: Any = torchvision.models.resnet50(weights=None)
    network.fc = nn.Sequential(nn.Linear(2048, 512), nn.BatchNorm1d(512))
    state = network.state_dict()
    if has_classifier:
        state["classifier.weight"] = torch.zeros(751, 512)
        state["classifier.bias"] = torch.zeros(751)
    torch.save(state, tmp_path / "a.pth")
    architecture = load_model(str(tmp_path / "a.pth")).architecture
    assert architecture.name == "resnet50_fc512"
    assert any("has a ReLU behind" in note for note in architecture.notes) != has_classifier


def test_a_batch_norm_in_the_classifier_is_a_neck(
    body: Any, neck: nn.Module, images: Tensor, tmp_path: Path
) -> None:
    state = {
        **{key: value for key, value in named("", body).items() if not key.startswith("fc.")},
        **named("classifier.0.", neck),
        "classifier.1.weight": torch.zeros(751, 512),
        "classifier.1.bias": torch.zeros(751),
    }
    model = loaded(state, tmp_path)
    pooled = last_map(body, images, 1).mean((2, 3))
    with torch.inference_mode():
        torch.testing.assert_close(given(model, images), neck(pooled))


def test_what_may_be_another_network_is_said(body: Any, neck: nn.Module, tmp_path: Path) -> None:
    def notes(state: dict[str, Tensor]) -> str:
        return " ".join(loaded(state, tmp_path).architecture.notes)

    parts = {f"classifier{i}.weight": torch.zeros(751, 512) for i in range(6)}
    said = notes({**named("backbone.", body), **parts})
    assert "6 classifiers of one shape (751 × 512) may be of parts of the last map" in said
    two = dict(list(parts.items())[:2])
    assert "of one shape" not in notes({**named("backbone.", body), **two})

    vit: Any = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=(384, 128))
    state = named("net.", vit)
    said = notes(state)
    assert "fit 384x128 and 256x192; taken for 384x128 (--input-size says otherwise)" in said
    torch.save(state, tmp_path / "a.pth")
    asked = load_model(str(tmp_path / "a.pth"), size=(256, 192)).architecture
    assert not any("fit 384x128" in note for note in asked.notes)
    assert asked.preprocess.height == 256

    state = {**named("backbone.", body), "fc.weight": torch.zeros(128, 512)}
    assert "without fc, taken for a classifier of 128 (--feature embedding" in notes(state)
    bare = {**named("backbone.", body), "arc_weight": torch.zeros(751, 512)}
    assert "without arc_weight" in notes(bare)


def test_of_a_plain_resnet_named_as_the_strong_baselines_it_is_said_that_it_has_no_relu(
    body: Any, neck: nn.Module, images: Tensor, tmp_path: Path
) -> None:
    state = {
        **named("base.", body),
        **named("bottleneck.", neck),
        "classifier.weight": torch.zeros(751, 512),
    }
    (note,) = (n for n in loaded(state, tmp_path).architecture.notes if "no ReLU" in n)
    assert note.endswith("of one's own, --model torchvision:resnet18 says so")
    model = loaded(state, tmp_path, "torchvision:resnet18")
    assert not any("no ReLU" in each for each in model.architecture.notes)
    pooled = last_map(body, images, 1).mean((2, 3))
    with torch.inference_mode():
        torch.testing.assert_close(given(model, images), neck(pooled))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"mean": (123.675, 116.28, 103.53)}, "above 1, as of pixels from 0 to 255; give --range"),
        ({"mean": (0.485, 0.456, 0.406), "range": "0-255"}, "as of pixels from 0 to 1; leave out"),
    ],
)
def test_a_mean_of_the_other_range_is_refused(said: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Choices(**said)


def test_means_of_either_range_are_taken() -> None:
    Choices(mean=(123.675, 116.28, 103.53), range="0-255")
    Choices(mean=(0.0, 0.0, 0.0), range="0-255")
    Choices(mean=(1.0, 0.5, 0.0))


@pytest.mark.parametrize(
    ("taken", "other"), [("state_dict", "model"), ("model", "best_model"), ("net", "weights")]
)
def test_another_network_in_the_file_is_named(
    taken: str, other: str, body: Any, tmp_path: Path
) -> None:
    state = named("backbone.", body)
    content = {other: dict(state), taken: state, "center_loss": {"centers": torch.zeros(9, 512)}}
    torch.save(content, tmp_path / "a.pth")
    notes = read_checkpoint(tmp_path / "a.pth").notes
    assert f"it holds {other} too: --weights {other} takes that" in notes
    assert f"weights found under {taken!r}" in notes
    torch.save({taken: state, "center_loss": content["center_loss"]}, tmp_path / "a.pth")
    assert not any("too" in note for note in read_checkpoint(tmp_path / "a.pth").notes)


def test_a_figure_beside_the_weights_does_not_hide_them(body: Any, tmp_path: Path) -> None:
    state = named("backbone.", body)
    torch.save(
        {"model_weights": state, "best_mAP": torch.tensor(0.84), "epoch": 60}, tmp_path / "a.pth"
    )
    found = read_checkpoint(tmp_path / "a.pth")
    assert found.state.keys() == state.keys()
    assert "weights found under 'model_weights'" in found.notes


@pytest.mark.parametrize("name", ["auto", "torchvision:resnet18"])
def test_a_resnet_without_a_prefix_obeys_too(
    name: str, body: Any, images: Tensor, tmp_path: Path
) -> None:
    state = {key: value for key, value in named("", body).items() if not key.startswith("fc.")}
    model = loaded(state, tmp_path, name, last_stride=1, pooling="max")
    expected = last_map(body, images, 1).amax((2, 3))
    torch.testing.assert_close(given(model, images), expected)
    size = model.architecture.preprocess
    assert (size.height, size.width) == (256, 128)


def test_a_learned_exponent_is_not_the_strong_baselines(
    body: Any, neck: nn.Module, images: Tensor, tmp_path: Path
) -> None:
    state = {
        **named("base.", body),
        "global_pool.p": torch.tensor([2.5]),
        **named("bottleneck.", neck),
        "classifier.weight": torch.zeros(751, 512),
    }
    model = loaded(state, tmp_path)
    assert model.architecture.peer == "your own training"
    pooled = last_map(body, images, 1).clamp(min=1e-6).pow(2.5).mean((2, 3)).pow(1 / 2.5)
    with torch.inference_mode():
        torch.testing.assert_close(given(model, images), neck(pooled))


def test_parts_that_were_saved_one_by_one_are_put_together(
    body: Any, neck: nn.Module, images: Tensor, tmp_path: Path
) -> None:
    parts = {
        "epoch": 3,
        "classifier": {"weight": torch.zeros(751, 512)},
        "backbone": body.state_dict(),
        "bottleneck": neck.state_dict(),
        "center_loss": {"centers": torch.zeros(751, 512)},
    }
    model = loaded(parts, tmp_path)
    said = read_checkpoint(tmp_path / "a.pth").notes
    assert "put together from classifier, backbone, bottleneck" in said
    pooled = last_map(body, images, 1).mean((2, 3))
    with torch.inference_mode():
        torch.testing.assert_close(given(model, images), neck(pooled))
    torch.save({"net_state": parts["backbone"], "criterion": parts["center_loss"]}, tmp_path / "b")
    assert read_checkpoint(tmp_path / "b").state.keys() == body.state_dict().keys()
    for other in ("discriminator", "head"):
        content = {"backbone": body.state_dict(), other: body.state_dict()}
        torch.save(content, tmp_path / "a.pth")
        with pytest.raises(CheckpointError, match=r"several networks: backbone .* --weights NAME"):
            read_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("name", "size"),
    [("regnet_y_400mf", (256, 128)), ("vit_b_32", (224, 224)), ("mnasnet0_5", (256, 128))],
)
def test_torchvisions_others_are_built_and_have_their_size(
    name: str, size: tuple[int, int], tmp_path: Path
) -> None:
    network: Any = random_numbers(getattr(torchvision.models, name)(weights=None))
    end = next(name for name in ("fc", "heads", "classifier") if hasattr(network, name))
    setattr(network, end, nn.Identity())
    model = loaded(network.state_dict(), tmp_path)
    preprocess = model.architecture.preprocess
    assert (preprocess.height, preprocess.width) == size
    batch = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(given(model, batch), network(batch))
    if model.architecture.fixed_size:
        with pytest.raises(OptionError, match="--input-size"):
            load_model(str(tmp_path / "a.pth"), size=(256, 128))


@pytest.mark.parametrize("name", ["0.weight", "classifier.bias", "bottleneck.weight"])
def test_heads_that_fastreid_has_not_are_not_taken_for_its(
    name: str, body: Any, neck: nn.Module, tmp_path: Path
) -> None:
    heads = {
        "0.weight": named("heads.0.", nn.Linear(512, 751)),
        "classifier.bias": named("heads.classifier.", nn.Linear(512, 751)),
        "bottleneck.weight": named("heads.bottleneck.", neck),
    }[name]
    assert f"heads.{name}" in heads
    model = loaded({**named("backbone.", body), **heads}, tmp_path)
    assert model.architecture.name == "resnet18"


def test_fastreids_family_is_a_guess_without_its_neck(body: Any, tmp_path: Path) -> None:
    state = {**named("backbone.", body), "heads.weight": torch.zeros(751, 512)}
    found = loaded(state, tmp_path).architecture
    assert (found.name, found.notes[0].partition(" by ")[0]) == (
        "fastreid",
        "taken for fast-reid's",
    )
    assert loaded(state, tmp_path, "torchvision:resnet18").architecture.name.endswith("resnet18")


def test_a_plain_network_that_is_tested_as_torchreids_says_so(body: Any, tmp_path: Path) -> None:
    state = named("", torchvision.models.resnet50(weights=None))
    plain = {key: value for key, value in state.items() if not key.startswith("fc.")}
    (said,) = loaded(plain, tmp_path).architecture.notes
    assert said.startswith("a plain network without a classifier, taken as torchreid tests its own")
    trained = plain | {"classifier.weight": torch.zeros(7, 2048)}
    assert loaded(trained, tmp_path).architecture.notes == ()
    small = named("", body)  # torchreid's resnet18
    assert "a plain network" in " ".join(loaded(small, tmp_path).architecture.notes)
