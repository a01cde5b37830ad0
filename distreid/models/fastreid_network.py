"""fast-reid's networks: torchvision's ResNets or timm's ResNeSts with its changes and its heads.

The parameters carry fast-reid's names.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from distreid.models import timm_extra
from distreid.models.resnet import remove_stride, resnet

BODY_DIM = 2048
MGN_HEADS = ("b1", "b2", "b3", "b21", "b22", "b31", "b32", "b33")
# fast-reid's names of its poolings; the exponent of the last one is among the weights.
AVERAGE, GEM, LEARNED = "GlobalAvgPool", "GeneralizedMeanPooling", "GeneralizedMeanPoolingP"
MAX, BOTH, CLIPPED = "GlobalMaxPool", "AdaptiveAvgMaxPool", "ClipGlobalAvgPool"
# What the max pooling does at the border: in fast-reid 1, and in 0.1.1, which made its model zoo.
CEIL, PADDED = "ceil", "padded"


class NonLocal(nn.Module):
    """Adds to every place what all places have, weighted by their likeness.

    Wang et al., CVPR 2018 (arXiv:1711.07971): the dot product, divided by the number of places.
    """

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.g = nn.Conv2d(channels, inner, 1)
        self.theta = nn.Conv2d(channels, inner, 1)
        self.phi = nn.Conv2d(channels, inner, 1)
        self.W = nn.Sequential(nn.Conv2d(inner, channels, 1), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        g, theta, phi = (part(x).flatten(2) for part in (self.g, self.theta, self.phi))
        weight_BPP = theta.transpose(1, 2) @ phi / phi.shape[2]
        mixed = (weight_BPP @ g.transpose(1, 2)).transpose(1, 2).unflatten(2, x.shape[2:])
        return x + self.W(mixed)  # type: ignore[no-any-return]


class GeM(nn.Module):
    """Generalised mean: Radenović et al., TPAMI 2018 (arXiv:1711.02512)."""

    def __init__(self, learned: bool) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.full((1,), 3.0)) if learned else 3.0

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(min=1e-6).pow(self.p).mean((2, 3), keepdim=True).pow(1 / self.p)


class Head(nn.Module):
    """Pooling, with `reduced` a 1×1 convolution to so many channels, and with `neck` batch norm."""

    def __init__(
        self, pool: nn.Module, channels: int, reduced: int = 0, *, neck: bool = True
    ) -> None:
        super().__init__()
        self.pool_layer = pool
        layers: list[nn.Module] = [nn.Conv2d(channels, reduced, 1, bias=False)] if reduced else []
        layers += [nn.BatchNorm2d(reduced or channels)] if neck else []
        self.bottleneck = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.bottleneck(self.pool_layer(x)).flatten(1)  # type: ignore[no-any-return]


class Body(nn.Module):
    """The four stages of a ResNet or ResNeSt; non-local blocks follow the last blocks of a stage.

    `non_local` has, by fast-reid's name such as NL_2, how many there are and their inner channels.
    """

    def __init__(
        self,
        network: Any,
        non_local: Mapping[str, tuple[int, int]],
        *,
        stem_relu: bool = True,
    ) -> None:
        super().__init__()
        self.stem_relu = stem_relu
        self.conv1, self.bn1, self.maxpool = network.conv1, network.bn1, network.maxpool
        self.layer1, self.layer2 = network.layer1, network.layer2
        self.layer3, self.layer4 = network.layer3, network.layer4
        stages = {"NL_1": 256, "NL_2": 512, "NL_3": 1024, "NL_4": 2048}
        for name, channels in stages.items():
            count, inner = non_local.get(name, (0, 0))
            self.add_module(name, nn.ModuleList(NonLocal(channels, inner) for _ in range(count)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x))
        x = self.maxpool(x.relu() if self.stem_relu else x)
        for blocks, after in (
            (self.layer1, self.NL_1),
            (self.layer2, self.NL_2),
            (self.layer3, self.NL_3),
            (self.layer4, self.NL_4),
        ):
            plain = len(blocks) - len(after)  # type: ignore[arg-type]
            for place, block in enumerate(blocks):
                x = block(x)
                if place >= plain:
                    x = after[place - plain](x)  # type: ignore[index,operator]
        return x


class Baseline(nn.Module):
    """(B, 3, H, W) normalised images → (B, dim) features, not L2-normalised."""

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = body
        self.heads = head

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.heads(self.backbone(images_BCHW))  # type: ignore[no-any-return]


class MGN(nn.Module):
    """Multiple granularities: Wang et al., ACM MM 2018 (arXiv:1804.01438).

    Three copies of the last stages; the map of each as a whole, in halves and in thirds. The
    stride of the last stage, if it has one, is the first copy's alone.
    """

    def __init__(self, network: Any, head: Callable[[], nn.Module]) -> None:
        super().__init__()
        start = (network.conv1, network.bn1, nn.ReLU(), network.maxpool)
        self.backbone = nn.Sequential(*start, network.layer1, network.layer2, network.layer3[0])
        branch = nn.Sequential(nn.Sequential(*network.layer3[1:]), network.layer4)
        self.b1, self.b2, self.b3 = (copy.deepcopy(branch) for _ in range(3))
        for parted in (self.b2, self.b3):
            remove_stride(parted[1])
        for name in MGN_HEADS:
            self.add_module(f"{name}_head", head())

    def forward(self, images_BCHW: Tensor) -> Tensor:
        x = self.backbone(images_BCHW)
        b1, b2, b3 = self.b1(x), self.b2(x), self.b3(x)
        maps = (b1, b2, b3, *b2.chunk(2, dim=2), *b3.chunk(3, dim=2))
        heads = (self.get_submodule(f"{name}_head") for name in MGN_HEADS)
        return torch.cat([head(part) for head, part in zip(heads, maps, strict=True)], dim=1)


class AverageAndMax(nn.Module):
    """(B, C, H, W) → (B, C, 1, 1): the mean and the maximum, summed."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3), keepdim=True) + x.amax((2, 3), keepdim=True)


def pooling_of(pool: str) -> nn.Module:
    """The layer by fast-reid's name."""
    layers: dict[str, Callable[[], nn.Module]] = {
        AVERAGE: lambda: nn.AdaptiveAvgPool2d(1),
        MAX: lambda: nn.AdaptiveMaxPool2d(1),
        BOTH: AverageAndMax,
        CLIPPED: lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Hardtanh(0, 1)),
        GEM: lambda: GeM(learned=False),
        LEARNED: lambda: GeM(learned=True),
    }
    return layers[pool]()


def build(
    non_local: Mapping[str, tuple[int, int]],
    *,
    body: str,
    ibn: bool,
    last_stride: int,
    max_pool: str,
    pool: str,
    reduced: int,
    mgn: bool,
    channels: int = BODY_DIM,
    neck: bool = True,
) -> nn.Module:
    """An untrained network; `reduced` is 0 for a head without a convolution."""
    if body.startswith("resnest"):
        network = _resnest(body, last_stride)
    else:
        network = resnet(body, "a" if ibn else "", last_stride)
        if max_pool == CEIL:
            network.maxpool = nn.MaxPool2d(3, stride=2, ceil_mode=True)

    def head() -> nn.Module:
        return Head(pooling_of(pool), channels, reduced, neck=neck)

    return MGN(network, head) if mgn else Baseline(Body(network, non_local), head())


def _resnest(name: str, last_stride: int) -> Any:
    """timm's ResNeSt. Without its stride, the last stage is dilated but for its first block, as
    timm has it too; but that block keeps the 3×3 average which would have the stride."""
    network = timm_extra.create(name, output_stride=16 * last_stride)
    if last_stride == 1:
        network.layer4[0].avd_last = nn.AvgPool2d(3, stride=1, padding=1)
        network.layer4[0].downsample[0] = nn.Identity()
    return network
