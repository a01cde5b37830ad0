"""torchreid's MobileNetV2 (Sandler et al., CVPR 2018, arXiv:1801.04381).

Not torchvision's: the first block expands too (by a factor of 1), and widths are cut off to
whole numbers instead of rounded to multiples of 8. The parameters carry torchreid's names.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from distreid.models.architecture import Architecture, StateDict, rows_of
from distreid.models.torchreid import architecture

WIDTHS = {"mobilenetv2_x1_0": 1.0, "mobilenetv2_x1_4": 1.4}
STEM = 32
LAST = 1280
# Table 2 of the paper: expansion, channels, blocks, stride of the first of them.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class Conv(nn.Module):
    """Convolution, batch norm, ReLU6."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(outputs)
        self.relu6 = nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu6(self.bn(self.conv(x)))  # type: ignore[no-any-return]


class InvertedResidual(nn.Module):
    """Expand, convolve each channel, project without an activation."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        middle = inputs * expansion
        self.shortcut = stride == 1 and inputs == outputs
        self.conv1 = Conv(inputs, middle, 1)
        self.dwconv2 = Conv(middle, middle, 3, stride, groups=middle)
        self.conv3 = nn.Sequential(
            nn.Conv2d(middle, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv3(self.dwconv2(self.conv1(x)))
        return x + out if self.shortcut else out


class MobileNetV2(nn.Module):
    """(N, 3, H, W) normalised images → (N, 1280 or more) pooled features, not L2-normalised."""

    def __init__(self, width: float) -> None:
        super().__init__()
        channels = int(STEM * width)
        self.conv1 = Conv(3, channels, 3, stride=2)
        for number, (expansion, base, blocks, stride) in enumerate(STAGES, start=2):
            outputs = int(base * width)
            stage = [InvertedResidual(channels, outputs, expansion, stride)]
            stage += [InvertedResidual(outputs, outputs, expansion, 1) for _ in range(blocks - 1)]
            self.add_module(f"conv{number}", nn.Sequential(*stage))
            channels = outputs
        self.conv9 = Conv(channels, dim_of(width), 1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = layer(x)
        return x.mean((2, 3))


def dim_of(width: float) -> int:
    """The last layer grows with the width, and never shrinks."""
    return int(LAST * max(width, 1.0))


def recognise(state: StateDict) -> str | None:
    """The name of the network whose weights these are, or None."""
    if "conv2.0.dwconv2.conv.weight" not in state:
        return None
    stem = rows_of(state, "conv1.conv.weight")
    return next((name for name, width in WIDTHS.items() if stem == int(STEM * width)), None)


def read(name: str, state: StateDict, options: Mapping[str, Any]) -> Architecture:
    """The architecture of a key of `WIDTHS`."""
    build = partial(MobileNetV2, WIDTHS[name])
    return architecture(name, build, state, dim=dim_of(WIDTHS[name]), feature="pooled conv9")
