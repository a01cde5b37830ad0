"""torchreid's ResNets and ResNeXts: torchvision's networks, some with instance norm.

The parameters carry torchvision's names, which are torchreid's too. Other families change the
same networks: `resnet` is theirs as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from distreid.models.architecture import Architecture, StateDict
from distreid.models.torchreid import (
    FC_DIM,
    HEADS,
    architecture,
    fc_block,
    has_fc_block,
    has_only,
    pooled_feature,
)
from distreid.models.torchvision_networks import torchvision_networks

# What tells them apart: blocks in layer3, inputs of a group in layer1, the pooled features.
SHAPES = {
    "resnet18": (2, 64, 512),
    "resnet34": (6, 64, 512),
    "resnet50": (6, 64, 2048),
    "resnet101": (23, 64, 2048),
    "resnet152": (36, 64, 2048),
    "resnext50_32x4d": (6, 4, 2048),
    "resnext101_32x8d": (23, 8, 2048),
}
PARTS = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4", *HEADS)
SUFFIXES = {
    "fc.0.weight": "_fc512",
    "layer1.0.bn1.IN.weight": "_ibn_a",
    "layer1.2.IN.weight": "_ibn_b",
}
NAMES = (*SHAPES, "resnet50_fc512", "resnet50_ibn_a", "resnet50_ibn_b")


class InstanceBatchNorm(nn.Module):
    """Instance norm on the first half of the channels, batch norm on the rest.

    IBN-a of Pan et al., ECCV 2018 (arXiv:1807.09441).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.split = [half, channels - half]
        self.IN = nn.InstanceNorm2d(half, affine=True)
        self.BN = nn.BatchNorm2d(channels - half)

    def forward(self, x: Tensor) -> Tensor:
        normed, batched = torch.split(x, self.split, dim=1)
        return torch.cat((self.IN(normed.contiguous()), self.BN(batched.contiguous())), dim=1)


class NormedBottleneck(nn.Module):
    """torchvision's bottleneck, its sum instance-normalised: IBN-b of the same paper."""

    def __init__(self, bottleneck: Any) -> None:
        super().__init__()
        self.conv1, self.bn1 = bottleneck.conv1, bottleneck.bn1
        self.conv2, self.bn2 = bottleneck.conv2, bottleneck.bn2
        self.conv3, self.bn3 = bottleneck.conv3, bottleneck.bn3
        self.relu = bottleneck.relu
        self.IN = nn.InstanceNorm2d(bottleneck.bn3.num_features, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        return self.relu(self.IN(self.bn3(self.conv3(out)) + x))  # type: ignore[no-any-return]


def resnet(name: str, ibn: str = "", last_stride: int = 2) -> Any:
    """torchvision's network of that name, (N, 3, H, W) → pooled features (N, dim).

    `ibn` is `a`, `b` or empty; `last_stride` that of layer4.
    """
    network = torchvision_networks().get_model(name, weights=None)
    network.fc = nn.Identity()
    if ibn == "a":
        for layer in (network.layer1, network.layer2, network.layer3):
            for block in layer:
                block.bn1 = InstanceBatchNorm(block.bn1.num_features)
    elif ibn == "b":
        network.bn1 = nn.InstanceNorm2d(network.bn1.num_features, affine=True)
        for layer in (network.layer1, network.layer2):
            layer[-1] = NormedBottleneck(layer[-1])
    if last_stride == 1:
        remove_stride(network.layer4)
    return network


def remove_stride(stage: Any) -> None:
    """The stage of a ResNet then keeps the size of its map."""
    first = stage[0]  # a basic block has its stride in conv1, a bottleneck in conv2
    first.conv1.stride = first.conv2.stride = first.downsample[0].stride = (1, 1)


def build(name: str) -> nn.Module:
    """An untrained network by torchreid's name, one of `NAMES`; the features as it tests them."""
    fc = name.endswith("_fc512")
    base, _, ibn = name.removesuffix("_fc512").partition("_ibn_")
    network = resnet(base, ibn, last_stride=1 if fc else 2)
    if fc:
        network.fc = fc_block(SHAPES[base][2])
    return network  # type: ignore[no-any-return]


def recognise(state: StateDict) -> str | None:
    """The name of the network whose weights these are, or None."""
    if not {"bn1.weight", "layer1.0.conv2.weight"} <= state.keys() or "fc.weight" in state:
        return None
    if not has_only(state, PARTS):
        return None
    pooled_dim = 2048 if "layer4.0.conv3.weight" in state else 512
    shape = blocks_of(state), state["layer1.0.conv2.weight"].shape[1], pooled_dim
    suffix = next((text for key, text in SUFFIXES.items() if key in state), "")
    found = next((name + suffix for name in SHAPES if SHAPES[name] == shape), None)
    if suffix == "_fc512" and not (found in NAMES and has_fc_block(state)):
        return None
    return found


def blocks_of(state: StateDict) -> int:
    """The blocks in layer3, which tell a network's depth."""
    return sum(key.startswith("layer3.") and key.endswith(".conv1.weight") for key in state)


def read(name: str, state: StateDict, options: Mapping[str, Any]) -> Architecture:
    """The architecture of a name of `NAMES`."""
    fc = name.endswith("_fc512")
    dim = FC_DIM if fc else SHAPES[name.partition("_ibn_")[0]][2]
    feature = pooled_feature("layer4", fc)
    return architecture(name, partial(build, name), state, dim=dim, feature=feature)
