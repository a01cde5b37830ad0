"""torchreid's ShuffleNet (Zhang et al., CVPR 2018, arXiv:1707.01083), of three groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from distreid.models.architecture import Architecture, StateDict
from distreid.models.torchreid import architecture

GROUPS = 3
STEM = 24
STAGES = {"stage2": (240, 4), "stage3": (480, 8), "stage4": (960, 4)}
"""Channels and blocks."""
DIM = 960


class Block(nn.Module):
    """Convolutions of groups whose channels are dealt out among the groups in between. With stride
    2 the average of the input is put beside the result, else the input is added."""

    def __init__(self, inputs: int, outputs: int, stride: int, first_grouped: bool) -> None:
        super().__init__()
        middle = outputs // 4
        self.strided = stride == 2
        added = outputs - inputs if self.strided else outputs
        groups = GROUPS if first_grouped else 1
        self.conv1 = nn.Conv2d(inputs, middle, 1, groups=groups, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, padding=1, groups=middle, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, added, 1, groups=GROUPS, bias=False)
        self.bn3 = nn.BatchNorm2d(added)
        self.pool = nn.AvgPool2d(3, 2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn1(self.conv1(x)).relu()
        out = out.unflatten(1, (GROUPS, -1)).transpose(1, 2).flatten(1, 2)
        out = self.bn3(self.conv3(self.bn2(self.conv2(out))))
        whole = torch.cat((self.pool(x), out), dim=1) if self.strided else x + out
        return whole.relu()


class ShuffleNet(nn.Module):
    """(B, 3, H, W) normalised images → (B, 960)."""

    def __init__(self) -> None:
        super().__init__()
        stem = nn.Conv2d(3, STEM, 3, 2, padding=1, bias=False), nn.BatchNorm2d(STEM), nn.ReLU()
        self.conv1 = nn.Sequential(*stem, nn.MaxPool2d(3, 2, padding=1))
        width = STEM
        for name, (channels, count) in STAGES.items():
            blocks = nn.Sequential(Block(width, channels, 2, first_grouped=width != STEM))
            blocks.extend(Block(channels, channels, 1, True) for _ in range(count - 1))
            self.add_module(name, blocks)
            width = channels

    def forward(self, images_BCHW: Tensor) -> Tensor:
        x = self.conv1(images_BCHW)
        for name in STAGES:
            x = self.get_submodule(name)(x)
        return x.mean((2, 3))  # type: ignore[no-any-return]


def recognise(state: StateDict) -> str | None:
    """`shufflenet` if these are its weights."""
    known = {"stage2.0.conv1.weight", "stage4.3.bn3.weight", "conv1.0.weight"} <= state.keys()
    return "shufflenet" if known else None


def read(state: StateDict, options: Mapping[str, Any]) -> Architecture:
    """The architecture."""
    return architecture("shufflenet", ShuffleNet, state, dim=DIM, feature="pooled stage4")
