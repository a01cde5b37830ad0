"""The architectures that no golden pack shows, and what all of them have in common."""

import sys

import pytest
import torch
from torch import Tensor

from distreid.errors import CheckpointError, OptionError
from distreid.models.choices import Choices
from distreid.models.description import EXAMPLES, models_table
from distreid.models.ft_net import Edges
from distreid.models.resnet import SHAPES, resnet
from distreid.models.table import MODELS, find_model, recognise

# In a file, torchreid's layers after the pooling are `fc`.
HEADS = {"last_linear.": "fc.", "classifier.": "fc."}
WITHOUT_PACK = (
    "osnet_x0_75",
    "osnet_ain_x0_5",
    "osnet_ain_x0_75",
    "resnet18",
    "resnet34",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnet50_ibn_b",
    "pcb_p4",
    "se_resnet101",
    "se_resnet152",
    "se_resnext50_32x4d",
    "se_resnext101_32x4d",
    "senet154",
    "se_resnet50_fc512",
    "densenet169",
    "densenet201",
    "densenet161",
    "densenet121_fc512",
    "mobilenetv2_x1_4",
    "resnet50mid",
    "nasnetamobile",
    "shufflenet",
    "shufflenet_v2_x0_5",
    "shufflenet_v2_x1_0",
    "shufflenet_v2_x1_5",
    "shufflenet_v2_x2_0",
    "squeezenet1_0",
    "squeezenet1_0_fc512",
    "squeezenet1_1",
    "xception",
    "inceptionv4",
    "inceptionresnetv2",
)


def weights(name: str) -> dict[str, Tensor]:
    """Names and shapes as torchreid's file has them, without memory for the numbers."""
    with torch.device("meta"):
        state = find_model(name, {}, {}).build().state_dict()
        found = {"classifier.weight": torch.empty(751, 512)}
        if name == "pcb_p4":
            found = {
                f"classifier.{part}.{leaf}": torch.empty(1) for part in range(4) for leaf in "wb"
            }
            found["conv5.layers.0.weight"] = torch.empty(256, 2048, 1, 1)
    for key, value in state.items():
        head = next((head for head in HEADS if key.startswith(head)), "")
        found[HEADS[head] + key.removeprefix(head) if head else key] = value
    return found


@pytest.mark.parametrize("name", WITHOUT_PACK)
def test_a_variant_is_recognised_by_its_weights_and_gives_its_dimension(name: str) -> None:
    state = weights(name)
    assert recognise(state) == name
    architecture = find_model("auto", state, {})
    with torch.device("meta"):
        network = architecture.build().eval()
        pre = architecture.preprocess
        assert network(torch.empty(2, 3, pre.height, pre.width)).shape == (2, architecture.dim)
    fitting = {architecture.rename(key) for key in state if not key.startswith("classifier")}
    assert fitting - {"conv5.layers.0.weight"} == set(network.state_dict())


@pytest.mark.parametrize("name", ["resnet50_fc512", "se_resnet50_fc512"])
def test_the_last_stage_of_an_fc512_keeps_its_size(name: str) -> None:
    sizes = []
    with torch.device("meta"):
        network = find_model(name, {}, {}).build().eval()
        network.get_submodule("layer4").register_forward_hook(
            lambda module, inputs, output: sizes.append((inputs[0].shape[2:], output.shape[2:]))
        )
        network(torch.empty(2, 3, 256, 128))
    assert sizes == [((16, 8), (16, 8))]


@pytest.mark.parametrize(("stride", "size"), [(1, (15, 7)), (2, (8, 4))])
def test_the_stride_of_ft_net_dense_is_that_of_opts_yaml(
    stride: int, size: tuple[int, int]
) -> None:
    architecture = find_model("ft_net_dense", {}, {"stride": stride})
    assert (architecture.options["stride"], architecture.notes) == (stride, ())
    sizes = []
    with torch.device("meta"):
        network = architecture.build().eval()
        network.get_submodule("model.features").register_forward_hook(
            lambda module, inputs, output: sizes.append(tuple(output.shape[2:]))
        )
        network(torch.empty(2, 3, 256, 128))
    assert sizes == [size]
    assert "ft_net_dense_stride1" in find_model("ft_net_dense", {}, {}).notes[0]


@pytest.mark.parametrize("name", ["ft_net", "ft_net_dense"])
def test_two_strides_that_are_asked_for_must_be_one(name: str) -> None:
    with pytest.raises(OptionError, match=f"--last-stride 2: --model {name}_stride1 has 1"):
        find_model(f"{name}_stride1", {}, {}, choices=Choices(last_stride=2))


@pytest.mark.parametrize(
    "name", ["ft_net_swin", "ft_net_swinv2", "ft_net_convnext", "ft_net_dino", "ft_net_NAS"]
)
def test_without_a_linear_layer_the_pooled_dimension_is_the_features(name: str) -> None:
    state = {"classifier.add_block.0.weight": torch.empty(1024, device="meta")}
    architecture = find_model(name, state, {})
    assert architecture.dim == {"ft_net_dino": 768, "ft_net_NAS": 4032}.get(name, 1024)
    assert architecture.options == {"linear_num": 0}


def test_swin_of_an_older_timm_fits_under_its_old_names() -> None:
    with torch.device("meta"):
        new = find_model("ft_net_swin", {}, {}).build().state_dict()
    old = dict(new)
    for stage in (1, 2, 3):
        for leaf in ("norm.weight", "norm.bias", "reduction.weight"):
            value = old.pop(f"model.layers.{stage}.downsample.{leaf}")
            old[f"model.layers.{stage - 1}.downsample.{leaf}"] = value
    assert set(old) != set(new)
    architecture = find_model("auto", old, {})
    renamed = {architecture.rename(key): value.shape for key, value in old.items()}
    assert renamed == {key: value.shape for key, value in new.items()}


def test_timm_is_asked_for_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    for name in ("se_resnet50", "ft_net_swin"):
        with pytest.raises(CheckpointError, match=r"pip install 'distreid\[models\]'"):
            find_model(name, {}, {}).build()
    with pytest.raises(CheckpointError, match=r"timm:resnet18 .* pip install"):
        find_model("timm:resnet18", {}, {})
    find_model("densenet121", {}, {}).build()


def test_another_input_size_is_taken_unless_the_network_has_one_only() -> None:
    assert find_model("resnet50", {}, {}, (384, 192)).preprocess.height == 384
    assert find_model("hacnn", {}, {}, (160, 64)).preprocess.width == 64
    with pytest.raises(OptionError, match="--input-size: hacnn takes 160x64 only"):
        find_model("hacnn", {}, {}, (256, 128))


def test_every_name_stands_in_the_table_of_models() -> None:
    table = models_table()
    assert [name for name in MODELS if f"`{name}`" not in table] == []
    assert set(EXAMPLES) <= set(MODELS)
    assert (
        "| `hacnn` | torchreid | 160×64 only, bilinear | global and local branch, each pooled, "
        "linear, batch norm, ReLU, normalised | 1024 | no |"
    ) in table


def ft_net_state(body: str, usam: bool = False) -> dict[str, Tensor]:
    """As Person_reID_baseline_pytorch would save it with another ResNet as its body."""
    base, _, ibn = body.partition("_ibn_")
    with torch.device("meta"):
        network = resnet(base, ibn).state_dict()
        state = {f"model.{key}": value for key, value in network.items()}
        if usam:
            for number in (1, 2):
                unit = Edges().state_dict()
                state |= {f"usam_{number}.{key}": value for key, value in unit.items()}
        pooled = SHAPES[base][2]
        state |= {
            "model.fc.weight": torch.empty(1000, pooled),
            "classifier.add_block.0.weight": torch.empty(512, pooled),
            "classifier.add_block.0.bias": torch.empty(512),
            **{
                f"classifier.add_block.1.{leaf}": torch.empty(512)
                for leaf in ("weight", "bias", "running_mean", "running_var")
            },
            "classifier.classifier.0.weight": torch.empty(751, 512),
        }
    return state


@pytest.mark.parametrize(
    "body", ["resnet18", "resnet34", "resnet50", "resnet101", "resnet34_ibn_a"]
)
@pytest.mark.parametrize("usam", [False, True])
def test_ft_net_has_any_resnet_as_its_body(body: str, usam: bool) -> None:
    state = ft_net_state(body, usam)
    architecture = find_model("auto", state, {"stride": 1})
    assert architecture.name == "ft_net"
    base, _, ibn = body.partition("_ibn_")
    assert architecture.options == {
        "stride": 1,
        "linear_num": 512,
        "ibn": bool(ibn),
        **({} if base == "resnet50" else {"body": base}),
        **({"usam": True} if usam else {}),
    }
    with torch.device("meta"):
        network = architecture.build().eval()
    given = {k for k in state if not k.startswith(architecture.not_for_features)}
    assert given == {
        k for k in network.state_dict() if k in given or not k.endswith("num_batches_tracked")
    }
    assert network(torch.empty(2, 3, 256, 128, device="meta")).shape == (2, 512)


def test_usam_weights_a_place_by_its_difference_from_its_neighbours() -> None:
    unit = Edges().eval()
    image = torch.zeros(1, 2, 5, 5)
    image[0, :, 2, 2] = 1.0
    with torch.inference_mode():
        out = unit(image)
    # The sum is 2 there: 9 · 2 minus the 3×3 sum, which is 2; all others are below 0.
    expected = image.clone()
    expected[0, :, 2, 2] += 16 / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(out, expected)
    border = torch.zeros(1, 1, 5, 5)
    border[0, 0, 0, 0] = 1.0
    with torch.inference_mode():
        assert torch.equal(unit(border), border)


def test_the_stride_of_ft_net_may_be_said() -> None:
    for stride in (1, 2):
        said = Choices(last_stride=stride)
        architecture = find_model("auto", ft_net_state("resnet50"), {}, None, said)
        assert (architecture.options["stride"], architecture.notes) == (stride, ())
