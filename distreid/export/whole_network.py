"""A checkpoint as one module: images in, features of norm 1 out, for any number of images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distreid.inference.extractor import normalise_parts
from distreid.inference.views import Augmentation
from distreid.models.checkpoint import Model

DTYPES = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "int8": torch.float32,
}
"""Of the weights; a network in int8 is quantised later."""


class WholeNetwork(nn.Module):
    """Normalisation, the views, the network, their sum, its norm; nothing depends on N."""

    def __init__(
        self,
        model: Model,
        augmentation: Augmentation,
        *,
        precision: str,
        raw: bool,
        resize: nn.Module | None = None,
    ) -> None:
        """`model.network` is changed to the precision. With `raw`, images come normalised; with
        `resize`, as large as that takes them."""
        super().__init__()
        self.dtype = DTYPES[precision]
        self.network = model.network.to(self.dtype)
        self.architecture = model.architecture
        self.augmentation = augmentation
        self.raw = raw
        self.resize = resize

    def forward(self, images: Tensor, cameras: Tensor | None = None) -> Tensor:
        """(N, 3, H, W) uint8 RGB, or with `raw` float32 as the network takes them, and cameras (N,)
        int64 → (N, dim) float32 of norm 1."""
        architecture = self.architecture
        if self.resize is not None:
            images = self.resize(images)
        # As floats first: TensorRT does nothing else with whole numbers of 8 bits.
        inputs = images if self.raw else architecture.preprocess.normalise(images.float())
        sums = []
        for views in self.augmentation.passes(inputs, architecture.fixed_size):
            given = [torch.cat(views).to(self.dtype)]
            if cameras is not None:
                given.append(cameras.repeat(len(views)))
            # Not chunk(): it would freeze the number of rows.
            features = self.network(*given).float().reshape(len(views), -1, architecture.dim)
            sums += [features[view] for view in range(len(views))]
        total: Tensor = sums[0]
        for one in sums[1:]:
            total = total + one
        if architecture.parts > 1:
            total = normalise_parts(total, architecture.parts)
        norm: Tensor = torch.linalg.vector_norm(total, dim=1, keepdim=True)
        return total / norm
