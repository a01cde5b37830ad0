"""OSNet, the omni-scale network of torchreid (Zhou et al., ICCV 2019, arXiv:1905.00953).

OSNet-IBN has instance norms in its first layers. The parameters carry torchreid's names, so
that its checkpoints load without renaming.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from distreid.errors import CheckpointError
from distreid.models.architecture import Architecture, StateDict
from distreid.models.torchreid import (
    FC_DIM,
    HEADS,
    architecture,
    fc_block,
    has_only,
    pooled_feature,
)

STAGE_WIDTHS = (64, 256, 384, 512)
BOTTLENECK = 4  # a block works on a quarter of its output's channels
GATE_REDUCTION = 16
WIDTHS = {"x0_25": 0.25, "x0_5": 0.5, "x0_75": 0.75, "x1_0": 1.0}
PARTS = ("conv1", "conv2", "conv3", "conv4", "conv5", *HEADS)
NAMES = (*(f"osnet_{width}" for width in WIDTHS), "osnet_ibn_x1_0")


def instance_norm(channels: int) -> nn.Module:
    """With a learned scale and shift, as in all these networks."""
    return nn.InstanceNorm2d(channels, affine=True)


class Conv(nn.Module):
    """Convolution, norm (of the batch, unless another is given) and, unless told not to, ReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        norm: nn.Module | None = None,
        relu: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        self.bn = norm or nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU() if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.bn(self.conv(x)))  # type: ignore[no-any-return]


class LightConv(nn.Module):
    """A 1×1 convolution, then a depthwise 3×3 one: "Lite 3×3" of the paper's figure 3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.bn(self.conv2(self.conv1(x))))  # type: ignore[no-any-return]


class Gate(nn.Module):
    """Weights the channels by their global average; one gate serves a block's four streams."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = channels // GATE_REDUCTION
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean((2, 3), keepdim=True)
        return x * self.fc2(self.fc1(pooled).relu()).sigmoid()  # type: ignore[no-any-return]


class OmniScaleBlock(nn.Module):
    """A residual block whose four streams see 3, 5, 7 and 9 pixels.

    With `normed` (OSNet-IBN), the sum with the shortcut is instance-normalised.
    """

    def __init__(self, inputs: int, outputs: int, normed: bool = False) -> None:
        super().__init__()
        middle = outputs // BOTTLENECK
        self.conv1 = Conv(inputs, middle)
        self.conv2a = LightConv(middle)
        self.conv2b = nn.Sequential(*(LightConv(middle) for _ in range(2)))
        self.conv2c = nn.Sequential(*(LightConv(middle) for _ in range(3)))
        self.conv2d = nn.Sequential(*(LightConv(middle) for _ in range(4)))
        self.gate = Gate(middle)
        self.conv3 = Conv(middle, outputs, relu=False)
        self.downsample = Conv(inputs, outputs, relu=False) if inputs != outputs else None
        self.IN = instance_norm(outputs) if normed else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.conv1(x)
        streams = (self.conv2a, self.conv2b, self.conv2c, self.conv2d)
        gated = [self.gate(stream(x)) for stream in streams]
        x = self.conv3(gated[0] + gated[1] + gated[2] + gated[3])
        return self.IN(x + shortcut).relu()  # type: ignore[no-any-return]


class OSNet(nn.Module):
    """(N, 3, H, W) normalised images → (N, 512) features, not L2-normalised.

    The feature is torchreid's test feature: global average pooling, then linear,
    batch norm and ReLU. Any input size works. With `ibn`, instance norms stand in the first
    convolution and stage.
    """

    def __init__(self, width_factor: float, ibn: bool) -> None:
        super().__init__()
        stem, *stages = (int(width * width_factor) for width in STAGE_WIDTHS)
        norm = instance_norm(stem) if ibn else None
        self.conv1 = Conv(3, stem, 7, stride=2, norm=norm)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.conv2 = self._stage(stem, stages[0], halve=True, normed=ibn)
        self.conv3 = self._stage(stages[0], stages[1], halve=True)
        self.conv4 = self._stage(stages[1], stages[2], halve=False)
        self.conv5 = Conv(stages[2], stages[2])
        self.fc = fc_block(stages[2])

    @staticmethod
    def _stage(inputs: int, outputs: int, *, halve: bool, normed: bool = False) -> nn.Sequential:
        layers: list[nn.Module] = [
            OmniScaleBlock(inputs, outputs, normed),
            OmniScaleBlock(outputs, outputs, normed),
        ]
        if halve:
            layers.append(nn.Sequential(Conv(outputs, outputs), nn.AvgPool2d(2)))
        return nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv3(self.conv2(self.maxpool(self.conv1(x))))
        x = self.conv5(self.conv4(x))
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


def build_osnet(name: str) -> OSNet:
    """An untrained OSNet by torchreid's name, one of `NAMES`."""
    kind, _, width = name.rpartition("_x")
    return OSNet(WIDTHS[f"x{width}"], ibn=kind == "osnet_ibn")


def recognise(state: StateDict) -> str | None:
    """The name of the OSNet whose weights these are, or None; CheckpointError for a width
    that no OSNet has."""
    if "conv2.0.conv2d.3.conv1.weight" not in state or not has_only(state, PARTS):
        return None
    return ("osnet_ibn_" if "conv2.0.IN.weight" in state else "osnet_") + width_of(state)


def width_of(state: StateDict) -> str:
    """A key of `WIDTHS`, by the channels of the first convolution."""
    stem = state["conv1.conv.weight"].shape[0] if "conv1.conv.weight" in state else 0
    for width, factor in WIDTHS.items():
        if stem == int(STAGE_WIDTHS[0] * factor):
            return width
    known = ", ".join(f"{int(STAGE_WIDTHS[0] * f)} ({width})" for width, f in WIDTHS.items())
    raise CheckpointError(f"an OSNet with {stem} first channels; known are {known}")


def read(name: str, state: StateDict, options: Mapping[str, Any]) -> Architecture:
    """The architecture of a name of `NAMES`."""
    feature = pooled_feature("conv5", fc=True)
    return architecture(name, partial(build_osnet, name), state, dim=FC_DIM, feature=feature)
