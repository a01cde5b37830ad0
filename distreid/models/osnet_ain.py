"""OSNet-AIN (Zhou et al., TPAMI 2021, arXiv:1910.06827): OSNet with instance norms where a
search put them.

The parameters carry torchreid's names, which differ from its OSNet's inside the blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from distreid.models.architecture import Architecture, StateDict
from distreid.models.osnet import (
    BOTTLENECK,
    PARTS,
    STAGE_WIDTHS,
    WIDTHS,
    Conv,
    Gate,
    LightConv,
    instance_norm,
    width_of,
)
from distreid.models.torchreid import FC_DIM, architecture, fc_block, has_only, pooled_feature

POOLS = ("pool2", "pool3")
NAMES = tuple(f"osnet_ain_{width}" for width in WIDTHS)


class Stream(nn.Module):
    """So many light convolutions, one after the other."""

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(LightConv(channels) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


class Block(nn.Module):
    """OSNet's block. With `normed`, what is added to the shortcut is instance-normalised
    instead of batch-normalised."""

    def __init__(self, inputs: int, outputs: int, normed: bool) -> None:
        super().__init__()
        middle = outputs // BOTTLENECK
        self.conv1 = Conv(inputs, middle)
        self.conv2 = nn.ModuleList(Stream(middle, depth) for depth in (1, 2, 3, 4))
        self.gate = Gate(middle)
        self.conv3 = Conv(middle, outputs, norm=nn.Identity() if normed else None, relu=False)
        self.downsample = Conv(inputs, outputs, relu=False) if inputs != outputs else None
        self.IN = instance_norm(outputs) if normed else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.conv1(x)
        gated = [self.gate(stream(x)) for stream in self.conv2]
        x = self.conv3(gated[0] + gated[1] + gated[2] + gated[3])
        return (self.IN(x) + shortcut).relu()  # type: ignore[no-any-return]


class OSNetAIN(nn.Module):
    """(N, 3, H, W) normalised images → (N, 512) features, not L2-normalised."""

    def __init__(self, width_factor: float) -> None:
        super().__init__()
        stem, *stages = (int(width * width_factor) for width in STAGE_WIDTHS)
        self.conv1 = Conv(3, stem, 7, stride=2, norm=instance_norm(stem))
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.conv2 = self._stage(stem, stages[0], True, True)
        self.pool2 = nn.Sequential(Conv(stages[0], stages[0]), nn.AvgPool2d(2))
        self.conv3 = self._stage(stages[0], stages[1], False, True)
        self.pool3 = nn.Sequential(Conv(stages[1], stages[1]), nn.AvgPool2d(2))
        self.conv4 = self._stage(stages[1], stages[2], True, False)
        self.conv5 = Conv(stages[2], stages[2])
        self.fc = fc_block(stages[2])

    @staticmethod
    def _stage(inputs: int, outputs: int, *normed: bool) -> nn.Sequential:
        first, second = normed
        return nn.Sequential(Block(inputs, outputs, first), Block(outputs, outputs, second))

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool2(self.conv2(self.maxpool(self.conv1(x))))
        x = self.conv5(self.conv4(self.pool3(self.conv3(x))))
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


def recognise(state: StateDict) -> str | None:
    """The name of the OSNet-AIN whose weights these are, or None; CheckpointError for a width
    that none has."""
    if "conv2.0.conv2.3.layers.3.conv1.weight" not in state or not has_only(
        state, (*PARTS, *POOLS)
    ):
        return None
    return "osnet_ain_" + width_of(state)


def read(name: str, state: StateDict, options: Mapping[str, Any]) -> Architecture:
    """The architecture of a name of `NAMES`."""
    build = partial(OSNetAIN, WIDTHS[name.removeprefix("osnet_ain_")])
    feature = pooled_feature("conv5", fc=True)
    return architecture(name, build, state, dim=FC_DIM, feature=feature)
