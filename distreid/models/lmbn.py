"""LightMBN (Herzog et al., ICIP 2021, arXiv:2101.10774), as BoxMOT uses it: OSNet in three
branches. The feature interleaves seven vectors: number d is channel d // 7 of vector d % 7.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from distreid.images.preprocess import Preprocess
from distreid.models.architecture import Architecture, StateDict, rows_of
from distreid.models.osnet import OmniScaleBlock, OSNet

DIM = 512
VECTORS = 7


class Reduction(nn.Module):
    """A 1×1 convolution, unless it is left out, and batch norm."""

    def __init__(self, convolved: bool = True) -> None:
        super().__init__()
        self.reduction = nn.Conv2d(DIM, DIM, 1, bias=False) if convolved else nn.Identity()
        self.bn = nn.BatchNorm1d(DIM)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.reduction(x[..., None, None]).flatten(1))  # type: ignore[no-any-return]


class LMBN(nn.Module):
    """(B, 3, H, W) normalised images → (B, 3584)."""

    def __init__(self) -> None:
        super().__init__()
        net = OSNet(1.0, ibn=False)
        self.backbone = nn.Sequential(net.conv1, net.maxpool, net.conv2, net.conv3[0])
        self.global_branch, self.partial_branch, self.channel_branch = (_branch() for _ in range(3))
        for number in range(5):
            self.add_module(f"reduction_{number}", Reduction())
        self.shared = nn.Sequential(
            nn.Conv2d(DIM // 2, DIM, 1, bias=False), nn.BatchNorm2d(DIM), nn.ReLU()
        )
        self.reduction_ch_0, self.reduction_ch_1 = Reduction(False), Reduction(False)
        block = nn.ModuleDict({"drop_batch_bottleneck": OmniScaleBlock(DIM, DIM)})
        self.batch_drop_block = block

    def forward(self, images_BCHW: Tensor) -> Tensor:
        x = self.backbone(images_BCHW)
        whole = self.batch_drop_block["drop_batch_bottleneck"](self.global_branch(x))
        parted, channels = self.partial_branch(x), self.channel_branch(x)
        upper, lower = parted.chunk(2, dim=2)
        first, second = (
            self.shared(half.mean((2, 3), keepdim=True)).flatten(1)
            for half in channels.chunk(2, dim=1)
        )
        vectors = (
            self._reduced(0, whole.mean((2, 3))),
            self._reduced(4, whole.amax((2, 3))),
            self._reduced(1, parted.amax((2, 3))),
            self._reduced(2, upper.mean((2, 3))),
            self._reduced(3, lower.mean((2, 3))),
            self.reduction_ch_0(first),
            self.reduction_ch_1(second),
        )
        return torch.stack(vectors, dim=2).flatten(1)

    def _reduced(self, number: int, x: Tensor) -> Tensor:
        return self.get_submodule(f"reduction_{number}")(x)  # type: ignore[no-any-return]


def _branch() -> nn.Sequential:
    """The rest of an OSNet, under the numbers that its parts had in their stages."""
    net = OSNet(1.0, ibn=False)
    third = nn.Sequential()
    third.add_module("1", net.conv3[1])
    third.add_module("2", net.conv3[2])
    return nn.Sequential(third, net.conv4, net.conv5)


def recognise(state: StateDict) -> str | None:
    """`lmbn_n` if these are its weights."""
    known = {"reduction_ch_0.bn.weight", "shared.0.weight", "backbone.0.conv.weight"}
    return "lmbn_n" if known <= state.keys() else None


def read(state: StateDict, options: Mapping[str, Any]) -> Architecture:
    """The architecture."""
    classifiers = [f"reduction_{number}.classifier." for number in (0, 1, 2, 3, 4, "ch_0", "ch_1")]
    return Architecture(
        name="lmbn_n",
        peer="BoxMOT",
        build=LMBN,
        dim=DIM * VECTORS,
        feature="seven vectors of the whole, of parts and of channels, each after its batch norm",
        preprocess=Preprocess(height=384, width=128, interpolation="opencv", exif_transpose=True),
        flip=False,
        not_for_features=tuple(classifiers),
        classes=rows_of(state, "reduction_0.classifier.weight"),
    )
