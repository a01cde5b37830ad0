"""torchreid's networks that torchvision and timm have too, under nearly the same names: SqueezeNet,
ShuffleNetV2, Xception, Inception-v4, Inception-ResNet-v2; and its ResNet-50-mid.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from distreid.models import timm_extra
from distreid.models.architecture import Architecture, StateDict, rows_of
from distreid.models.resnet import resnet
from distreid.models.torchreid import FC_DIM, architecture, fc_block, pooled_feature
from distreid.models.torchvision_networks import torchvision_networks

MID_DIM = 1024
SHUFFLENETS = {
    "shufflenet_v2_x0_5": (48, 1024),
    "shufflenet_v2_x1_0": (116, 1024),
    "shufflenet_v2_x1_5": (176, 1024),
    "shufflenet_v2_x2_0": (244, 2048),
}
"""Channels of the second stage, and of the feature."""
SQUEEZENETS = ("squeezenet1_0", "squeezenet1_0_fc512", "squeezenet1_1")
# timm's name, the feature's channels, and a tensor that only its files have.
OF_TIMM = {
    "xception": ("legacy_xception", 2048, "block12.rep.1.pointwise.weight"),
    "inceptionv4": ("inception_v4", 1536, "features.21.branch3.1.conv.weight"),
    "inceptionresnetv2": ("inception_resnet_v2", 1536, "repeat_1.0.branch1.0.conv.weight"),
}
NAMES = ("resnet50mid", *SHUFFLENETS, *SQUEEZENETS, *OF_TIMM)
RESNET_DIM = 2048


class ResNetMid(nn.Module):
    """(B, 3, H, W) normalised images → (B, 3072): the pooled maps of two blocks of layer4,
    fused by an `fc_block`, and that of the third. Yu et al., arXiv:1711.08106."""

    def __init__(self) -> None:
        super().__init__()
        network = resnet("resnet50")
        self.conv1, self.bn1, self.maxpool = network.conv1, network.bn1, network.maxpool
        self.layer1, self.layer2 = network.layer1, network.layer2
        self.layer3, self.layer4 = network.layer3, network.layer4
        self.fc_fusion = fc_block(2 * RESNET_DIM, MID_DIM)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        x = self.maxpool(self.bn1(self.conv1(images_BCHW)).relu())
        x = self.layer3(self.layer2(self.layer1(x)))
        pooled = []
        for block in self.layer4:
            x = block(x)
            pooled.append(x.mean((2, 3)))
        return torch.cat((self.fc_fusion(torch.cat(pooled[:2], dim=1)), pooled[2]), dim=1)


class Squeezed(nn.Module):
    """torchvision's SqueezeNet up to its last map, pooled, with or without an `fc_block`."""

    def __init__(self, name: str, fc: bool) -> None:
        super().__init__()
        self.features = torchvision_networks().get_model(name, weights=None).features
        self.fc = fc_block(FC_DIM) if fc else nn.Identity()

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.fc(self.features(images_BCHW).mean((2, 3)))  # type: ignore[no-any-return]


def build(name: str) -> nn.Module:
    """An untrained network by torchreid's name, one of `NAMES`; the features as it tests them."""
    if name == "resnet50mid":
        return ResNetMid()
    if name in SQUEEZENETS:
        return Squeezed(name.removesuffix("_fc512"), name.endswith("_fc512"))
    if name in OF_TIMM:
        return timm_extra.create(OF_TIMM[name][0])  # type: ignore[no-any-return]
    network = torchvision_networks().get_model(name, weights=None)
    network.fc = nn.Identity()
    return network  # type: ignore[no-any-return]


def recognise(state: StateDict) -> str | None:
    """The name of the network whose weights these are, or None."""
    if "fc_fusion.0.weight" in state:
        return "resnet50mid"
    if "features.3.squeeze.weight" in state and "fc.weight" not in state:
        version = "squeezenet1_0" if rows_of(state, "features.0.weight") == 96 else "squeezenet1_1"
        return version + ("_fc512" if "fc.0.weight" in state else "")
    if "stage2.0.branch1.0.weight" in state and "fc.weight" not in state:
        half = rows_of(state, "stage2.0.branch2.0.weight") or 0
        return next((name for name, (c, _) in SHUFFLENETS.items() if c == 2 * half), None)
    return next((name for name, (_, _, key) in OF_TIMM.items() if key in state), None)


def read(name: str, state: StateDict, options: Mapping[str, Any]) -> Architecture:
    """The architecture of a name of `NAMES`."""
    feature, dim = "pooled last map", FC_DIM
    if name == "resnet50mid":
        feature, dim = "pooled layer4, and its first blocks' fused", MID_DIM + RESNET_DIM
    elif name in SQUEEZENETS:
        feature = pooled_feature("last map", name.endswith("_fc512"))
    else:
        dim = SHUFFLENETS[name][1] if name in SHUFFLENETS else OF_TIMM[name][1]
    return architecture(name, partial(build, name), state, dim=dim, feature=feature)
