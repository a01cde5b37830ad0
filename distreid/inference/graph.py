"""A whole forward pass as one module, as engines take it: uint8 images to summed features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distreid.images.preprocess import Preprocess
from distreid.inference.views import Augmentation


class Graph(nn.Module):
    """Normalisation, the views, the network and their sum."""

    def __init__(
        self,
        network: nn.Module,
        preprocess: Preprocess,
        augmentation: Augmentation,
        *,
        fixed_size: bool,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """`dtype` is the network's own."""
        super().__init__()
        self.network = network
        self.preprocess = preprocess
        self.augmentation = augmentation
        self.fixed_size = fixed_size
        self.dtype = dtype

    def forward(self, images_BHWC: Tensor, cameras_B: Tensor | None = None) -> Tensor:
        """(B, H, W, 3) uint8 RGB, as decoded images lie in memory → (B, dim) float32, the sum over
        the views, not normalised."""
        # First of all, as TensorRT does nothing else with whole numbers of 8 bits.
        inputs = self.preprocess.normalise(images_BHWC.float().permute(0, 3, 1, 2))
        total: Tensor | None = None
        for views in self.augmentation.passes(inputs, self.fixed_size):
            given = [torch.cat(views).to(self.dtype)]
            if cameras_B is not None:
                given.append(cameras_B.repeat(len(views)))
            for features in self.network(*given).float().chunk(len(views)):
                total = features if total is None else total + features
        assert total is not None, "there is always a view"
        return total
