"""fast-reid's other bodies, by the names and shapes that its code gives them."""

from collections.abc import Iterator

import pytest
import torch
import torchvision
from conftest import GOLDEN, Pack
from torch import Tensor

from distreid.errors import CheckpointError
from distreid.models.choices import Choices
from distreid.models.table import find_model

Shapes = dict[str, tuple[int, ...]]


def conv_norm(conv: str, norm: str, *shape: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{conv}.weight", shape
    for leaf in ("weight", "bias", "running_mean", "running_var"):
        yield f"{norm}.{leaf}", shape[:1]


def pair(name: str, number: int, *shape: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from conv_norm(f"{name}.{number}", f"{name}.{number + 1}", *shape)


def shufflenet() -> Shapes:
    """megvii's of width 1.0."""
    found = dict(pair("first_conv", 0, 24, 3, 3, 3))
    width, number = 24, 0
    for outputs, repeats in ((116, 4), (232, 8), (464, 4)):
        for repeat in range(repeats):
            name, inputs = f"features.{number}", width if repeat == 0 else outputs // 2
            middle = outputs // 2
            found |= pair(f"{name}.branch_main", 0, middle, inputs, 1, 1)
            found |= pair(f"{name}.branch_main", 3, middle, 1, 3, 3)
            found |= pair(f"{name}.branch_main", 5, outputs - inputs, middle, 1, 1)
            if repeat == 0:
                found |= pair(f"{name}.branch_proj", 0, inputs, 1, 3, 3)
                found |= pair(f"{name}.branch_proj", 2, inputs, inputs, 1, 1)
            width, number = outputs, number + 1
    return found | dict(pair("conv_last", 0, 1024, 464, 1, 1))


def regnety_400() -> Shapes:
    """RegNetY-400MF: depths 1, 3, 6, 6; groups of 8 channels; squeezed to a quarter of the
    block's inputs."""
    found = dict(conv_norm("stem.conv", "stem.bn", 32, 3, 3, 3))
    inputs = 32
    for stage, (width, depth) in enumerate(((48, 1), (104, 3), (208, 6), (440, 6)), 1):
        for block in range(1, depth + 1):
            name = f"s{stage}.b{block}"
            if block == 1:
                found |= conv_norm(f"{name}.proj", f"{name}.bn", width, inputs, 1, 1)
            found |= conv_norm(f"{name}.f.a", f"{name}.f.a_bn", width, inputs, 1, 1)
            found |= conv_norm(f"{name}.f.b", f"{name}.f.b_bn", width, 8, 3, 3)
            squeezed = round(inputs * 0.25)
            found |= {
                f"{name}.f.se.f_ex.0.weight": (squeezed, width, 1, 1),
                f"{name}.f.se.f_ex.0.bias": (squeezed,),
                f"{name}.f.se.f_ex.2.weight": (width, squeezed, 1, 1),
                f"{name}.f.se.f_ex.2.bias": (width,),
            }
            found |= conv_norm(f"{name}.f.c", f"{name}.f.c_bn", width, width, 1, 1)
            inputs = width
    return found


def mobilenetv3_large() -> Shapes:
    features = torchvision.models.mobilenet_v3_large(weights=None).features.state_dict()
    found = {f"features.{key}": tuple(value.shape) for key, value in features.items()}
    return found | dict(pair("conv", 0, 1280, 960, 1, 1))


def resnext50_ibn() -> Shapes:
    network = torchvision.models.resnext50_32x4d(weights=None).state_dict()
    found = {k: tuple(v.shape) for k, v in network.items() if not k.startswith("fc.")}
    for key in [k for k in found if ".bn1." in k and not k.startswith("layer4")]:
        (channels,) = found.pop(key) or (0,)
        if not channels:
            continue
        found[key.replace(".bn1.", ".bn1.BN.")] = (channels // 2,)
        if key.endswith(("weight", "bias")):
            found[key.replace(".bn1.", ".bn1.IN.")] = (channels // 2,)
    return found


def state_of(body: Shapes, dim: int, learned: bool = False) -> dict[str, Tensor]:
    head: Shapes = dict(conv_norm("heads", "heads.bottleneck.0", dim))
    head["heads.weight"] = (751, dim)
    if learned:
        head["heads.pool_layer.p"] = (1,)
    shapes = {f"backbone.{key}": shape for key, shape in body.items()} | head
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


BODIES = {
    "shufflenetv2_1.0x": (shufflenet, 1024, (8, 4)),
    "regnety of 440 channels": (regnety_400, 440, (16, 8)),
    "mobilenet_v3_large": (mobilenetv3_large, 1280, (8, 4)),
    "resnext50_32x4d": (resnext50_ibn, 2048, (16, 8)),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_is_recognised_and_takes_all_of_its_tensors(name: str) -> None:
    make, dim, size = BODIES[name]
    state = state_of(make(), dim)
    architecture = find_model("auto", state, {})
    assert (architecture.name, architecture.dim) == ("fastreid", dim)
    assert architecture.options["body"] == name
    with torch.device("meta"):
        network = architecture.build().eval()
    given = {k: v.shape for k, v in state.items() if not k.startswith("heads.weight")}
    wanted = {
        k: v.shape for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")
    }
    given = {k: v for k, v in given.items() if not k.endswith("num_batches_tracked")}
    assert given == wanted
    sizes = []
    network.get_submodule("backbone").register_forward_hook(
        lambda module, inputs, output: sizes.append(tuple(output.shape[2:]))
    )
    assert network(torch.empty(2, 3, 256, 128, device="meta")).shape == (2, dim)
    assert sizes == [size]


def test_the_last_stride_of_a_body_that_has_one_is_config_yamls() -> None:
    options = {"MODEL": {"BACKBONE": {"LAST_STRIDE": 2}}}
    architecture = find_model("auto", state_of(regnety_400(), 440), options)
    assert architecture.options["last_stride"] == 2
    assert "last_stride" not in find_model("auto", state_of(shufflenet(), 1024), options).options


def test_gems_exponent_makes_it_the_recipe_sbs() -> None:
    architecture = find_model("auto", state_of(resnext50_ibn(), 2048, learned=True), {})
    assert architecture.options["pool"] == "GeneralizedMeanPoolingP"
    assert (architecture.preprocess.height, architecture.options["ibn"]) == (384, True)


def test_a_repvgg_whose_branches_were_fused_is_refused() -> None:
    state = {
        "backbone.stage0.fused_weight": torch.empty(48, 3, 3, 3),
        "heads.weight": torch.empty(751, 1280),
    }
    with pytest.raises(CheckpointError, match="a RepVGG of fused branches"):
        find_model("auto", state, {}, None, Choices())


MAP = torch.tensor([[[[-1.0, 2.0], [3.0, 0.0]], [[0.5, 0.5], [0.25, 0.75]]]])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("GlobalAvgPool", [1.0, 0.5]),
        ("GlobalMaxPool", [3.0, 0.75]),
        ("AdaptiveAvgMaxPool", [4.0, 1.25]),
        ("ClipGlobalAvgPool", [1.0, 0.5]),
        ("GeneralizedMeanPooling", [(35 / 4) ** (1 / 3), ((0.25 + 28 / 64) / 4) ** (1 / 3)]),
    ],
)
def test_a_head_pools_as_config_yaml_says(name: str, expected: list[float]) -> None:
    options = {"MODEL": {"HEADS": {"POOL_LAYER": name}}}
    state = {k: v for k, v in state_of(shufflenet(), 1024).items() if "bottleneck" not in k}
    architecture = find_model("auto", state, options)
    assert architecture.options["pool"] == name
    # Without a batch norm among the weights (WITH_BNNECK: False), what is pooled is the feature.
    assert architecture.options["neck"] is False
    assert architecture.feature == "pooled last map"
    assert any("hold no batch norm" in note for note in architecture.notes)
    head = architecture.build().eval().get_submodule("heads")
    torch.testing.assert_close(head(MAP), torch.tensor([expected]), rtol=1e-5, atol=1e-5)
    three = torch.ones(1) if name.startswith("Clip") else head(MAP)[0, 1:] * 3
    torch.testing.assert_close(head(3 * MAP)[0, 1:], three)


def test_a_head_with_a_neck_is_described_as_it_always_was() -> None:
    architecture = find_model("auto", state_of(shufflenet(), 1024), {})
    assert "neck" not in architecture.options
    assert architecture.feature.endswith(", batch norm")


def test_a_vits_head_may_have_no_neck_either() -> None:
    state = {k: v.to("meta") for k, v in Pack(GOLDEN / "fastreid/bagtricks_vit").state.items()}
    with_neck = find_model("auto", state, {})
    assert "neck" not in with_neck.options
    without = {k: v for k, v in state.items() if "bottleneck" not in k}
    architecture = find_model("auto", without, {})
    assert (architecture.options["neck"], architecture.feature) == (
        False,
        "class token, layer norm",
    )
    with torch.device("meta"):
        names = architecture.build().state_dict()
    assert not [name for name in names if "bottleneck" in name]
