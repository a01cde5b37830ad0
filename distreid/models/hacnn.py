"""HACNN, the harmonious attention network (Li et al., CVPR 2018, arXiv:1802.08122).

A global branch weighs its maps by a soft attention; a local one follows four regions that a
hard attention moves. The parameters carry torchreid's names, and the sizes are its: the
regions of 24×28, 12×14 and 6×7 (height × width) belong to inputs of 160×64.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distreid.images.preprocess import Preprocess
from distreid.models.architecture import Architecture, StateDict, rows_of
from distreid.models.torchreid import FC_DIM, architecture, fc_block

STEM = 32
WIDTHS = (128, 256, 384)
REGIONS = 4
REGION_SIZES = ((24, 28), (12, 14), (6, 7))
REGION_SCALE = ((1.0, 0.0), (0.0, 0.25))  # as wide as the map, a quarter of its height
SQUEEZE = 16


class Conv(nn.Module):
    """Convolution with bias, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)).relu()  # type: ignore[no-any-return]


class InceptionA(nn.Module):
    """Four streams side by side at the input's size."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        middle = outputs // 4
        self.stream1 = nn.Sequential(Conv(inputs, middle), Conv(middle, middle, 3))
        self.stream2 = nn.Sequential(Conv(inputs, middle), Conv(middle, middle, 3))
        self.stream3 = nn.Sequential(Conv(inputs, middle), Conv(middle, middle, 3))
        self.stream4 = nn.Sequential(nn.AvgPool2d(3, 1, padding=1), Conv(inputs, middle))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([stream(x) for stream in self.children()], dim=1)


class InceptionB(nn.Module):
    """Three streams side by side at half the input's size."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        middle = outputs // 4
        self.stream1 = nn.Sequential(Conv(inputs, middle), Conv(middle, middle, 3, 2))
        self.stream2 = nn.Sequential(
            Conv(inputs, middle), Conv(middle, middle, 3), Conv(middle, middle, 3, 2)
        )
        self.stream3 = nn.Sequential(nn.MaxPool2d(3, 2, padding=1), Conv(inputs, middle * 2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([stream(x) for stream in self.children()], dim=1)


class SpatialAttention(nn.Module):
    """(N, C, H, W) → (N, 1, H, W): how much each place matters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = Conv(1, 1, 3, 2)
        self.conv2 = Conv(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        small = self.conv1(x.mean(1, keepdim=True))
        return self.conv2(resize(small, x.shape[2:]))  # type: ignore[no-any-return]


class ChannelAttention(nn.Module):
    """(N, C, H, W) → (N, C, 1, 1): how much each channel matters."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = Conv(channels, channels // SQUEEZE)
        self.conv2 = Conv(channels // SQUEEZE, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x.mean((2, 3), keepdim=True)))  # type: ignore[no-any-return]


class SoftAttention(nn.Module):
    """(N, C, H, W) → factors of the same shape between 0 and 1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.spatial_attn = SpatialAttention()
        self.channel_attn = ChannelAttention(channels)
        self.conv = Conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.spatial_attn(x) * self.channel_attn(x)).sigmoid()  # type: ignore[no-any-return]


class HardAttention(nn.Module):
    """(N, C, H, W) → (N, 4, 2): the centres of the regions, between -1 and 1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, REGIONS * 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.mean((2, 3))).tanh().view(-1, REGIONS, 2)  # type: ignore[no-any-return]


class HarmoniousAttention(nn.Module):
    """Both attentions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.soft_attn = SoftAttention(channels)
        self.hard_attn = HardAttention(channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The weighted map, and the centres of the regions."""
        return x * self.soft_attn(x), self.hard_attn(x)


class HACNN(nn.Module):
    """(N, 3, 160, 64) normalised images → (N, 1024): both branches' 512, each of norm 1."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = Conv(3, STEM, 3, 2)
        channels = STEM
        for number, width in enumerate(WIDTHS, start=1):
            stage = nn.Sequential(InceptionA(channels, width), InceptionB(width, width))
            self.add_module(f"inception{number}", stage)
            self.add_module(f"ha{number}", HarmoniousAttention(width))
            self.add_module(f"local_conv{number}", InceptionB(channels, width))
            channels = width
        self.fc_global = fc_block(channels)
        self.fc_local = fc_block(channels * REGIONS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        local: list[Tensor] = []
        for number, size in enumerate(REGION_SIZES, start=1):
            weighted, centres = self.get_submodule(f"ha{number}")(
                self.get_submodule(f"inception{number}")(x)
            )
            regions = [resize(look(x, centres[:, k]), size) for k in range(REGIONS)]
            if local:
                regions = [region + before for region, before in zip(regions, local, strict=True)]
            local = [self.get_submodule(f"local_conv{number}")(region) for region in regions]
            x = weighted
        whole = self.fc_global(x.mean((2, 3)))
        parts = self.fc_local(torch.cat([region.mean((2, 3)) for region in local], dim=1))
        return torch.cat((F.normalize(whole), F.normalize(parts)), dim=1)


def resize(x: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Bilinear, with the corners aligned."""
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=True)


def look(x: Tensor, centre_N2: Tensor) -> Tensor:
    """The region around a centre, sampled at as many places as the map has."""
    scale = x.new_tensor(REGION_SCALE).expand(
        x.shape[0], 2, 2
    )  # not len(x), which tracing would freeze
    theta = torch.cat((scale, centre_N2[:, :, None]), dim=2)
    # Corners not aligned: torch's default since 1.3, which torchreid leaves to torch.
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def recognise(state: StateDict) -> str | None:
    """`hacnn` if these are its weights."""
    return "hacnn" if "ha1.hard_attn.fc.weight" in state else None


def read(state: StateDict, options: Mapping[str, Any]) -> Architecture:
    """The architecture; there is one."""
    return architecture(
        "hacnn",
        HACNN,
        state,
        dim=2 * FC_DIM,
        feature="global and local branch, each pooled, linear, batch norm, ReLU, normalised",
        preprocess=Preprocess(height=160, width=64, interpolation="bilinear"),
        not_for_features=("classifier_global.", "classifier_local."),
        classes=rows_of(state, "classifier_global.weight"),
        fixed_size=True,
    )
