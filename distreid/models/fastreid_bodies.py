"""fast-reid's bodies beside ResNet, ResNeSt and ViT, under its names: ResNeXt, OSNet, MobileNetV2
and V3, ShuffleNetV2, RegNet and RepVGG. What the shapes of the weights tell is read off them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distreid.errors import CheckpointError
from distreid.models.architecture import StateDict, rows_of
from distreid.models.osnet import STAGE_WIDTHS, OSNet
from distreid.models.resnet import InstanceBatchNorm, remove_stride
from distreid.models.torchvision_networks import torchvision_networks
from distreid.models.vit import count_of

BODY = "backbone."


@dataclass(frozen=True)
class OtherBody:
    """What stands before fast-reid's head."""

    name: str
    dim: int
    build: Callable[[int], nn.Module]
    """With the stride of the last stage: (B, 3, H, W) → (B, dim, h, w)."""
    strided: bool = False
    """Whether there is a choice of that stride."""
    ibn: bool = False


def find_body(state: StateDict) -> OtherBody | None:
    """The body whose tensors these are, or None."""
    own = {key.removeprefix(BODY): value for key, value in state.items() if key.startswith(BODY)}
    for finder in (_resnext, _osnet, _repvgg, _shufflenet, _mobilenetv2, _mobilenetv3, _regnet):
        if found := finder(own):
            return found
    return None


class Stages(nn.Module):
    """Children one after the other, under names."""

    def __init__(self, **children: nn.Module) -> None:
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)

    def forward(self, x: Tensor) -> Tensor:
        for child in self.children():
            x = child(x)
        return x


def _convolved(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


def _resnext(own: StateDict) -> OtherBody | None:
    second = own.get("layer1.0.conv2.weight")
    if second is None or tuple(second.shape) != (128, 4, 3, 3):
        return None
    layers = [count_of(own, f"layer{stage}.") for stage in range(1, 5)]
    ibn = "layer1.0.bn1.IN.weight" in own

    def build(last_stride: int) -> nn.Module:
        vision = torchvision_networks().resnet
        network = vision.ResNet(vision.Bottleneck, layers, groups=32, width_per_group=4)
        stages = {f"layer{stage}": getattr(network, f"layer{stage}") for stage in range(1, 5)}
        if ibn:
            for name in ("layer1", "layer2", "layer3"):
                for block in stages[name]:
                    block.bn1 = InstanceBatchNorm(block.bn1.num_features)
        if last_stride == 1:
            remove_stride(stages["layer4"])
        first = {"conv1": network.conv1, "bn1": network.bn1, "relu": nn.ReLU()}
        return Stages(**first, maxpool1=nn.MaxPool2d(3, 2, padding=1), **stages)

    depth = 3 * sum(layers) + 2
    return OtherBody(f"resnext{depth}_32x4d", 2048, build, strided=True, ibn=ibn)


def _osnet(own: StateDict) -> OtherBody | None:
    stem = rows_of(own, "conv1.conv.weight")
    if stem is None or "conv2.0.conv2d.3.conv1.weight" not in own:
        return None
    width, ibn = stem / STAGE_WIDTHS[0], "conv2.0.IN.weight" in own

    def build(_: int) -> nn.Module:
        network = OSNet(width, ibn)
        names = ("conv1", "maxpool", "conv2", "conv3", "conv4", "conv5")
        return Stages(**{name: getattr(network, name) for name in names})

    name = f"osnet_{'ibn_' if ibn else ''}x{width:g}"
    return OtherBody(name, int(STAGE_WIDTHS[3] * width), build, ibn=ibn)


class RepBlock(nn.Module):
    """RepVGG's (Ding et al., CVPR 2021, arXiv:2101.03697) as it is trained: a 3×3 and a 1×1
    convolution and, where nothing changes, a batch norm, summed."""

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int) -> None:
        super().__init__()
        for name, kernel in (("rbr_dense", 3), ("rbr_1x1", 1)):
            conv, norm = _convolved(inputs, outputs, kernel, stride, groups)
            self.add_module(name, Stages(conv=conv, bn=norm))
        self.same = inputs == outputs and stride == 1
        if self.same:
            self.rbr_identity = nn.BatchNorm2d(inputs)

    def forward(self, x: Tensor) -> Tensor:
        out = self.get_submodule("rbr_dense")(x) + self.get_submodule("rbr_1x1")(x)
        return (out + self.rbr_identity(x) if self.same else out).relu()  # type: ignore[no-any-return]


def _repvgg(own: StateDict) -> OtherBody | None:
    if "stage0.rbr_dense.conv.weight" not in own:
        if "stage0.fused_weight" in own:
            raise CheckpointError("a RepVGG of fused branches; take the file of the training")
        return None
    depths = [count_of(own, f"stage{stage}.") for stage in range(1, 5)]

    def block(name: str, inputs: int, stride: int) -> RepBlock:
        shape = own[f"{name}.rbr_dense.conv.weight"].shape
        return RepBlock(inputs, shape[0], stride, inputs // shape[1])

    def build(last_stride: int) -> nn.Module:
        stages: dict[str, nn.Module] = {"stage0": block("stage0", 3, 2)}
        width = own["stage0.rbr_dense.conv.weight"].shape[0]
        for stage, depth in enumerate(depths, 1):
            blocks = nn.Sequential()
            for number in range(depth):
                first = last_stride if stage == 4 else 2
                name = f"stage{stage}.{number}"
                blocks.append(block(name, width, first if number == 0 else 1))
                width = own[f"{name}.rbr_dense.conv.weight"].shape[0]
            stages[f"stage{stage}"] = blocks
        return Stages(**stages)

    dim = own[f"stage4.{depths[3] - 1}.rbr_dense.conv.weight"].shape[0]
    return OtherBody(f"repvgg {'-'.join(map(str, depths))}", dim, build, strided=True)


class ShuffleBlock(nn.Module):
    """ShuffleNetV2's (Ma et al., ECCV 2018, arXiv:1807.11164) as megvii has it: every other
    channel is passed on, the others are convolved. With stride 2 all go both ways."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        middle = outputs // 2
        self.halves = stride == 1
        self.branch_main = nn.Sequential(
            *_convolved(inputs, middle),
            nn.ReLU(),
            *_convolved(middle, middle, 3, stride, middle),
            *_convolved(middle, outputs - inputs),
            nn.ReLU(),
        )
        self.branch_proj = nn.Identity()
        if stride == 2:
            depthwise = _convolved(inputs, inputs, 3, stride, inputs)
            self.branch_proj = nn.Sequential(*depthwise, *_convolved(inputs, inputs), nn.ReLU())  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        passed, main = (x[:, 0::2], x[:, 1::2]) if self.halves else (x, x)
        return torch.cat((self.branch_proj(passed), self.branch_main(main)), dim=1)


def _shufflenet(own: StateDict) -> OtherBody | None:
    if "first_conv.0.weight" not in own or "features.0.branch_main.0.weight" not in own:
        return None
    dim = own["conv_last.0.weight"].shape[0]
    blocks = count_of(own, "features.")

    def build(_: int) -> nn.Module:
        stem = own["first_conv.0.weight"].shape[0]
        features, width = nn.Sequential(), stem
        for number in range(blocks):
            strided = f"features.{number}.branch_proj.0.weight" in own
            added = own[f"features.{number}.branch_main.5.weight"].shape[0]
            inputs = width if strided else width // 2
            width = inputs + added
            features.append(ShuffleBlock(inputs, width, 2 if strided else 1))
        return Stages(
            first_conv=nn.Sequential(*_convolved(3, stem, 3, 2), nn.ReLU()),
            maxpool=nn.MaxPool2d(3, 2, padding=1),
            features=features,
            conv_last=nn.Sequential(*_convolved(width, dim), nn.ReLU()),
        )

    width = own["features.0.branch_main.0.weight"].shape[0] * 2
    sizes = {48: "0.5", 116: "1.0", 176: "1.5", 244: "2.0"}
    return OtherBody(f"shufflenetv2_{sizes.get(width, width)}x", dim, build)


class Inverted(nn.Module):
    """MobileNetV2's block; the shortcut is there where nothing changes."""

    def __init__(self, widths: list[int], stride: int) -> None:
        super().__init__()
        inputs, middle, outputs = widths[0], widths[-2], widths[-1]
        layers: list[nn.Module] = []
        if len(widths) == 4:
            layers += [*_convolved(inputs, middle), nn.ReLU6()]
        layers += [*_convolved(middle, middle, 3, stride, middle), nn.ReLU6()]
        self.conv = nn.Sequential(*layers, *_convolved(middle, outputs))
        self.same = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.same else self.conv(x)  # type: ignore[no-any-return]


MOBILE_STRIDES = (1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1)


def _mobilenetv2(own: StateDict) -> OtherBody | None:
    if "features.1.conv.0.weight" not in own or "conv.0.weight" not in own:
        return None
    dim, stem = own["conv.0.weight"].shape[0], own["features.0.0.weight"].shape[0]
    if count_of(own, "features.") != 1 + len(MOBILE_STRIDES):
        raise CheckpointError("a MobileNetV2 with another number of blocks than fast-reid's")

    def build(_: int) -> nn.Module:
        features, width = nn.Sequential(nn.Sequential(*_convolved(3, stem, 3, 2), nn.ReLU6())), stem
        for number, stride in enumerate(MOBILE_STRIDES, 1):
            expanded = f"features.{number}.conv.6.weight" in own
            last = own[f"features.{number}.conv.{6 if expanded else 3}.weight"].shape
            widths = [width, last[1], last[0]]
            features.append(Inverted([width, *widths] if expanded else widths, stride))
            width = last[0]
        return Stages(features=features, conv=nn.Sequential(*_convolved(width, dim), nn.ReLU6()))

    return OtherBody(f"mobilenetv2 of {stem} first channels", dim, build)


def _mobilenetv3(own: StateDict) -> OtherBody | None:
    if "features.1.block.0.0.weight" not in own or "conv.0.weight" not in own:
        return None
    dim = own["conv.0.weight"].shape[0]
    name = "mobilenet_v3_large" if count_of(own, "features.") > 13 else "mobilenet_v3_small"

    def build(_: int) -> nn.Module:
        features: Any = torchvision_networks().get_model(name, weights=None).features
        for module in features.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = 1e-5  # torch's, where torchvision's is 1e-3
        inputs = own["conv.0.weight"].shape[1]
        return Stages(features=features, conv=nn.Sequential(*_convolved(inputs, dim), nn.ReLU6()))

    return OtherBody(name, dim, build)


class RegBlock(nn.Module):
    """RegNet's (Radosavovic et al., CVPR 2020, arXiv:2003.13678) under pycls's names."""

    def __init__(self, own: StateDict, name: str, inputs: int, stride: int) -> None:
        super().__init__()
        middle, of_group = own[f"{name}.f.b.weight"].shape[:2]
        outputs = own[f"{name}.f.c.weight"].shape[0]
        self.projects = f"{name}.proj.weight" in own
        if self.projects:
            self.proj, self.bn = _convolved(inputs, outputs, 1, stride)
        a, a_bn = _convolved(inputs, middle)
        b, b_bn = _convolved(middle, middle, 3, stride, middle // of_group)
        c, c_bn = _convolved(middle, outputs)
        squeezed = rows_of(own, f"{name}.f.se.f_ex.0.weight")
        gate = {"se": Squeeze(middle, squeezed)} if squeezed else {}
        self.f = Stages(
            a=a,
            a_bn=a_bn,
            a_relu=nn.ReLU(),
            b=b,
            b_bn=b_bn,
            b_relu=nn.ReLU(),
            **gate,
            c=c,
            c_bn=c_bn,
        )

    def forward(self, x: Tensor) -> Tensor:
        return ((self.bn(self.proj(x)) if self.projects else x) + self.f(x)).relu()  # type: ignore[no-any-return]


class Squeeze(nn.Module):
    """Weights the channels by what their averages tell."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        first, last = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)
        self.f_ex = nn.Sequential(first, nn.ReLU(), last, nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.f_ex(x.mean((2, 3), keepdim=True))  # type: ignore[no-any-return]


def _regnet(own: StateDict) -> OtherBody | None:
    if "stem.conv.weight" not in own or "s1.b1.f.a.weight" not in own:
        return None
    stages = [stage for stage in range(1, 5) if f"s{stage}.b1.f.a.weight" in own]
    depths = [count_of(own, f"s{stage}.") for stage in stages]

    def build(last_stride: int) -> nn.Module:
        width = own["stem.conv.weight"].shape[0]
        conv, norm = _convolved(3, width, 3, 2)
        parts: dict[str, nn.Module] = {"stem": Stages(conv=conv, bn=norm, relu=nn.ReLU())}
        for stage, depth in zip(stages, depths, strict=True):
            blocks = {}
            for number in range(1, depth + 1):
                stride = last_stride if stage == stages[-1] else 2
                name = f"s{stage}.b{number}"
                blocks[f"b{number}"] = RegBlock(own, name, width, stride if number == 1 else 1)
                width = own[f"{name}.f.c.weight"].shape[0]
            parts[f"s{stage}"] = Stages(**blocks)
        return Stages(**parts)

    dim = own[f"s{stages[-1]}.b1.f.c.weight"].shape[0]
    kind = "y" if "s1.b1.f.se.f_ex.0.weight" in own else "x"
    return OtherBody(f"regnet{kind} of {dim} channels", dim, build, strided=True)
