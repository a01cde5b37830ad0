"""The resize of images of one size as a layer, bit for bit that of `images.resize`."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distreid.images.resize_weights import BITS, HALF, weights


class ExactResize(nn.Module):
    """(N, 3, h, w) uint8 → (N, 3, height, width) uint8: first across, then down.

    Each pass is a matrix product in 32-bit integers, which runtimes that compute integers as
    floats do not give exactly.
    """

    def __init__(
        self, source: tuple[int, int], target: tuple[int, int], interpolation: str
    ) -> None:
        super().__init__()
        (height, width), (target_height, target_width) = source, target
        self.register_buffer("across", _matrix(width, target_width, interpolation).T.contiguous())
        self.register_buffer("down", _matrix(height, target_height, interpolation))

    across: Tensor
    """(w, width) int32."""
    down: Tensor
    """(height, h) int32."""

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """See the class."""
        across = _rounded(torch.matmul(images_NCHW.to(torch.int32), self.across))
        return _rounded(torch.matmul(self.down, across)).to(torch.uint8)


def _rounded(sums: Tensor) -> Tensor:
    # Where a shift would go down and a division up, the sum is negative, and both come out as 0.
    return torch.div(sums + HALF, 1 << BITS, rounding_mode="trunc").clamp(0, 255)


def _matrix(source: int, target: int, interpolation: str) -> Tensor:
    """(target, source) int32."""
    of = weights(source, target, interpolation)
    matrix: NDArray[np.int32] = np.zeros((target, source), np.int32)
    for place, (first, count) in enumerate(zip(of.first_N, of.count_N, strict=True)):
        matrix[place, first : first + count] = of.weights_NK[place, :count]
    return torch.from_numpy(matrix)
