"""MLFN, the multi-level factorisation net (Chang et al., CVPR 2018, arXiv:1803.09132).

Each block chooses, by the image, among 32 groups of its channels (the factors); the feature
joins the last map and the choices of all blocks. The parameters carry torchreid's names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from distreid.models.architecture import Architecture, StateDict
from distreid.models.torchreid import architecture

FACTORS = 32
FEATURE_DIM = 1024
STEM = 64
# Channels, blocks, stride of the first of them, hidden layers of the factor selection.
STAGES = (
    (256, 3, 1, (128, 64)),
    (512, 4, 2, (256, 128)),
    (1024, 6, 2, (512, 128)),
    (2048, 3, 2, (512, 128)),
)


def conv(inputs: int, outputs: int, bias: bool) -> list[nn.Module]:
    """A 1×1 convolution and its batch norm."""
    return [nn.Conv2d(inputs, outputs, 1, bias=bias), nn.BatchNorm2d(outputs)]


class Block(nn.Module):
    """A ResNeXt bottleneck whose groups are weighted by the factor selection module `fsm`."""

    def __init__(self, inputs: int, outputs: int, stride: int, hidden: tuple[int, int]) -> None:
        super().__init__()
        middle = outputs // 2
        self.fm_conv1 = nn.Conv2d(inputs, middle, 1, bias=False)
        self.fm_bn1 = nn.BatchNorm2d(middle)
        self.fm_conv2 = nn.Conv2d(middle, middle, 3, stride, padding=1, groups=FACTORS, bias=False)
        self.fm_bn2 = nn.BatchNorm2d(middle)
        self.fm_conv3 = nn.Conv2d(middle, outputs, 1, bias=False)
        self.fm_bn3 = nn.BatchNorm2d(outputs)
        self.fsm = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            *conv(inputs, hidden[0], bias=True),
            nn.ReLU(),
            *conv(hidden[0], hidden[1], bias=True),
            nn.ReLU(),
            *conv(hidden[1], FACTORS, bias=True),
            nn.Sigmoid(),
        )
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The block's map, and its factors (N, 32, 1, 1)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        factors: Tensor = self.fsm(x)
        out = self.fm_bn1(self.fm_conv1(x)).relu()
        out = self.fm_bn2(self.fm_conv2(out)).relu()
        out = out * factors.repeat_interleave(out.shape[1] // FACTORS, dim=1)
        out = self.fm_bn3(self.fm_conv3(out)).relu()
        return (out + shortcut).relu(), factors


class MLFN(nn.Module):
    """(N, 3, H, W) normalised images → (N, 1024) features, not L2-normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, STEM, 7, stride=2, padding=3)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.feature = nn.ModuleList()
        channels = STEM
        for outputs, blocks, stride, hidden in STAGES:
            for number in range(blocks):
                step = stride if number == 0 else 1
                self.feature.append(Block(channels, outputs, step, hidden))
                channels = outputs
        self.fc_x = nn.Sequential(*conv(channels, FEATURE_DIM, bias=False), nn.ReLU())
        self.fc_s = nn.Sequential(
            *conv(len(self.feature) * FACTORS, FEATURE_DIM, bias=False), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.bn1(self.conv1(x)).relu())
        chosen = []
        for block in self.feature:
            x, factors = block(x)
            chosen.append(factors)
        pooled = x.mean((2, 3), keepdim=True)
        joined = (self.fc_x(pooled) + self.fc_s(torch.cat(chosen, dim=1))) / 2
        return joined.flatten(1)  # type: ignore[no-any-return]


def recognise(state: StateDict) -> str | None:
    """`mlfn` if these are its weights."""
    return "mlfn" if "feature.0.fsm.1.weight" in state else None


def read(state: StateDict, options: Mapping[str, Any]) -> Architecture:
    """The architecture; there is one."""
    feature = "mean of the embedded pooled map and factors"
    return architecture("mlfn", MLFN, state, dim=FEATURE_DIM, feature=feature)
