"""torchreid's NASNet-A (4 @ 1056), the mobile one of Zoph et al., arXiv:1707.07012.

Every cell sums five pairs of operations on two maps, the one before (`left`) and the one before
that (`right`). The names of the tensors are those of Cadene's pretrained-models, as torchreid's
files have them. Where the network was trained in TensorFlow, an operation of stride 2 starts at the
first pixel and not before it: `late` does that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distreid.models.architecture import Architecture, StateDict
from distreid.models.torchreid import architecture

NAME = "nasnetamobile"
STEM, DIM = 32, 1056
EPSILON = 0.001
KEY = "cell_stem_1.comb_iter_0_left.separable_1.depthwise_conv2d.weight"


def late(operation: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """One that starts one pixel later: on a map with a zero before it, without the first row and
    column of what comes out."""
    return operation(F.pad(x, (1, 0, 1, 0)))[:, :, 1:, 1:]


class LateConv(nn.Conv2d):
    """A convolution that starts later."""

    def forward(self, x: Tensor) -> Tensor:
        return late(super().forward, x)


def average(x: Tensor, stride: int = 1) -> Tensor:
    """3×3, of the pixels that are there."""
    return F.avg_pool2d(x, 3, stride, 1, count_include_pad=False)


def norm(channels: int) -> nn.BatchNorm2d:
    """The batch norm of all cells."""
    return nn.BatchNorm2d(channels, eps=EPSILON)


class Conv(nn.Sequential):
    """ReLU, 1×1 convolution, batch norm."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.relu, self.conv = nn.ReLU(), nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn = norm(outputs)


class DepthwisePointwise(nn.Module):
    """A convolution of each channel, then a 1×1 convolution."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, late: bool) -> None:
        super().__init__()
        settings: dict[str, Any] = {
            "stride": stride, "padding": kernel // 2, "groups": inputs, "bias": False,
        }  # fmt: skip
        self.depthwise_conv2d = (LateConv if late else nn.Conv2d)(
            inputs, inputs, kernel, **settings
        )
        self.pointwise_conv2d = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise_conv2d(self.depthwise_conv2d(x))  # type: ignore[no-any-return]


class Separable(nn.Sequential):
    """Twice: ReLU, separable convolution, batch norm; the first with the stride."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, late: bool = False
    ) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.separable_1 = DepthwisePointwise(inputs, outputs, kernel, stride, late)
        self.bn_sep_1 = norm(outputs)
        self.relu1 = nn.ReLU()
        self.separable_2 = DepthwisePointwise(outputs, outputs, kernel, 1, late=False)
        self.bn_sep_2 = norm(outputs)


class Halved(nn.Module):
    """A map of half the size, from every second pixel and from those beside them."""

    path_1: nn.Sequential
    path_2: nn.Sequential

    def _add_paths(self, inputs: int, half: int) -> None:
        self.relu = nn.ReLU()
        for name in ("path_1", "path_2"):
            path = nn.Sequential()
            path.add_module("conv", nn.Conv2d(inputs, half, 1, bias=False))
            self.add_module(name, path)
        self.final_path_bn = norm(2 * half)

    def _halved(self, x: Tensor) -> Tensor:
        x = self.relu(x)
        beside = F.pad(x, (-1, 1, -1, 1))
        parts = self.path_1(x[:, :, ::2, ::2]), self.path_2(beside[:, :, ::2, ::2])
        return self.final_path_bn(torch.cat(parts, dim=1))  # type: ignore[no-any-return]


class Reduction(Halved):
    """Five pairs that halve a map of `channels`; four of them are the output."""

    def _add_pairs(self, channels: int, late: bool, right_channels: int | None = None) -> None:
        right = right_channels or channels
        self.comb_iter_0_left = Separable(channels, channels, 5, 2, late)
        self.comb_iter_0_right = Separable(right, channels, 7, 2, late)
        self.comb_iter_1_right = Separable(right, channels, 7, 2, late)
        self.comb_iter_2_right = Separable(right, channels, 5, 2, late)
        self.comb_iter_4_left = Separable(channels, channels, 3)
        self.is_late = late

    def _pool(self, pool: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return late(pool, x) if self.is_late else pool(x)

    def _pairs(self, left: Tensor, right: Tensor) -> Tensor:
        highest = self._pool(partial(F.max_pool2d, kernel_size=3, stride=2, padding=1), left)
        first = self.comb_iter_0_left(left) + self.comb_iter_0_right(right)
        second = highest + self.comb_iter_1_right(right)
        third = self._pool(partial(average, stride=2), left) + self.comb_iter_2_right(right)
        fourth = average(first) + second
        return torch.cat((second, third, fourth, self.comb_iter_4_left(first) + highest), dim=1)


class Stem0(Reduction):
    """The first cell, of one map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_1x1 = Conv(STEM, channels)
        self._add_pairs(channels, late=False, right_channels=STEM)

    def forward(self, x: Tensor) -> Tensor:
        return self._pairs(self.conv_1x1(x), x)


class Stem1(Reduction):
    """The second cell, which halves the map before it once more."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_1x1 = Conv(2 * channels, channels)
        self._add_paths(STEM, channels // 2)
        self._add_pairs(channels, late=True)

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        return self._pairs(self.conv_1x1(x), self._halved(before))


class ReductionCell(Reduction):
    """Of two maps of one size."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.conv_prev_1x1, self.conv_1x1 = Conv(inputs, channels), Conv(inputs, channels)
        self._add_pairs(channels, late=True)

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        return self._pairs(self.conv_1x1(x), self.conv_prev_1x1(before))


class NormalCell(Halved):
    """Five pairs of maps of `channels`, and the map before; of the same size. The first cell after
    a reduction halves the map before it (`halves`)."""

    def __init__(self, before: int, inputs: int, channels: int, *, halves: bool = False) -> None:
        super().__init__()
        if halves:
            self._add_paths(before, channels // 2)
        else:
            self.conv_prev_1x1 = Conv(before, channels)
        self.halves = halves
        self.conv_1x1 = Conv(inputs, channels)
        self.comb_iter_0_left = Separable(channels, channels, 5)
        self.comb_iter_0_right = Separable(channels, channels, 3)
        self.comb_iter_1_left = Separable(channels, channels, 5)
        self.comb_iter_1_right = Separable(channels, channels, 3)
        self.comb_iter_4_left = Separable(channels, channels, 3)

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        left = self.conv_1x1(x)
        right = self._halved(before) if self.halves else self.conv_prev_1x1(before)
        pairs = (
            self.comb_iter_0_left(left) + self.comb_iter_0_right(right),
            self.comb_iter_1_left(right) + self.comb_iter_1_right(right),
            average(left) + right,
            2 * average(right),
            self.comb_iter_4_left(left) + left,
        )
        return torch.cat((right, *pairs), dim=1)


class NASNetMobile(nn.Module):
    """(B, 3, H, W) normalised images → (B, 1056): the pooled last map, after a ReLU."""

    def __init__(self) -> None:
        super().__init__()
        n = DIM // 24
        self.conv0 = nn.Sequential()
        self.conv0.add_module("conv", nn.Conv2d(3, STEM, 3, 2, bias=False))
        self.conv0.add_module("bn", norm(STEM))
        self.cell_stem_0, self.cell_stem_1 = Stem0(n // 4), Stem1(n // 2)
        self.cell_0 = NormalCell(n, 2 * n, n, halves=True)
        self.cell_1 = NormalCell(2 * n, 6 * n, n)
        self.cell_2, self.cell_3 = (NormalCell(6 * n, 6 * n, n) for _ in range(2))
        self.reduction_cell_0 = ReductionCell(6 * n, 2 * n)
        self.cell_6 = NormalCell(6 * n, 8 * n, 2 * n, halves=True)
        self.cell_7 = NormalCell(8 * n, 12 * n, 2 * n)
        self.cell_8, self.cell_9 = (NormalCell(12 * n, 12 * n, 2 * n) for _ in range(2))
        self.reduction_cell_1 = ReductionCell(12 * n, 4 * n)
        self.cell_12 = NormalCell(12 * n, 16 * n, 4 * n, halves=True)
        self.cell_13 = NormalCell(16 * n, 24 * n, 4 * n)
        self.cell_14, self.cell_15 = (NormalCell(24 * n, 24 * n, 4 * n) for _ in range(2))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        first = self.conv0(images_BCHW)
        before = self.cell_stem_0(first)
        x = self.cell_stem_1(before, first)
        for cells, reduction in (
            ((self.cell_0, self.cell_1, self.cell_2, self.cell_3), self.reduction_cell_0),
            ((self.cell_6, self.cell_7, self.cell_8, self.cell_9), self.reduction_cell_1),
            ((self.cell_12, self.cell_13, self.cell_14, self.cell_15), None),
        ):
            for cell in cells:
                before, x = x, cell(x, before)
            if reduction is not None:
                before, x = x, reduction(x, before)
        return x.relu().mean((2, 3))  # type: ignore[no-any-return]


def recognise(state: StateDict) -> str | None:
    """`NAME` if these are its weights; the large NASNet has wider stems."""
    return NAME if KEY in state and state[KEY].shape[0] == DIM // 24 // 2 else None


def read(state: StateDict, options: Mapping[str, Any]) -> Architecture:
    """The architecture."""
    return architecture(NAME, NASNetMobile, state, dim=DIM, feature="pooled last map")
