"""PCB, the part-based baseline (Sun et al., ECCV 2018, arXiv:1711.09349), of two projects.

The body is torchvision's ResNet-50 without the stride of its last stage; the last map is
averaged in horizontal stripes, the parts. Both projects test with the 2048 pooled channels of
each part, not with the 256 that their classifiers see, and flatten them channel by channel:
feature d is channel d // parts of part d % parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distreid.images.preprocess import Preprocess
from distreid.models import torchreid
from distreid.models.architecture import Architecture, StateDict, rows_of
from distreid.models.resnet import resnet

CHANNELS = 2048
BASELINE_PARTS = 6
PARTS = {"pcb_p6": 6, "pcb_p4": 4}


class Stripes(nn.Module):
    """(N, C, H, W) → (N, C, parts, 1), the means of horizontal stripes; of a height that is no
    multiple of `parts` they overlap by a row, as in torch's adaptive pooling."""

    def __init__(self, parts: int) -> None:
        super().__init__()
        self.parts = parts

    def forward(self, x: Tensor) -> Tensor:
        if not torch.onnx.is_in_onnx_export():
            return F.adaptive_avg_pool2d(x, (self.parts, 1))
        # ONNX has no adaptive pooling.
        height, parts = int(x.shape[2]), self.parts
        edges = [(n * height // parts, -(-(n + 1) * height // parts)) for n in range(parts)]
        means = [x[:, :, top:below].mean((2, 3), keepdim=True) for top, below in edges]
        return torch.cat(means, dim=2)


class NormaliseParts(nn.Module):
    """(N, C, parts, 1) → the same with channels of norm 1."""

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1)


def build(parts: int, normalise: bool) -> nn.Module:
    """An untrained PCB: (N, 3, H, W) normalised images → (N, 2048 · parts) features."""
    network = resnet("resnet50", last_stride=1)
    pool = Stripes(parts)
    network.avgpool = nn.Sequential(pool, NormaliseParts()) if normalise else pool
    return network  # type: ignore[no-any-return]


def recognise(state: StateDict) -> str | None:
    """`PCB` of Person_reID_baseline_pytorch, torchreid's name of its PCB, or None."""
    if "model.conv1.weight" in state and "classifier0.add_block.0.weight" in state:
        return "PCB"
    if "conv5.layers.0.weight" in state:
        return f"pcb_p{sum(key.startswith('classifier.') for key in state) // 2}"
    return None


def read_baseline(state: StateDict, options: Mapping[str, Any]) -> Architecture:
    """Person_reID_baseline_pytorch's: each part is normalised after image and mirror image
    were summed."""
    return Architecture(
        name="PCB",
        peer="Person_reID_baseline_pytorch",
        build=partial(build, BASELINE_PARTS, normalise=False),
        dim=CHANNELS * BASELINE_PARTS,
        feature="layer4 pooled in 6 stripes, each normalised",
        preprocess=Preprocess(height=384, width=192),
        flip=True,
        parts=BASELINE_PARTS,
        rename=lambda key: key.removeprefix("model."),
        not_for_features=("model.fc.", "classifier"),
        classes=rows_of(state, "classifier0.classifier.0.weight"),
    )


def read(name: str, state: StateDict, options: Mapping[str, Any]) -> Architecture:
    """torchreid's, a key of `PARTS`."""
    parts = PARTS[name]
    return torchreid.architecture(
        name,
        partial(build, parts, normalise=True),
        state,
        dim=CHANNELS * parts,
        feature=f"layer4 pooled in {parts} stripes, each normalised",
        not_for_features=("conv5.", "classifier."),
        classes=rows_of(state, "classifier.0.weight"),
    )
