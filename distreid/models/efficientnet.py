"""EfficientNet-B4 as efficientnet_pytorch has it, built from torchvision's.

Its weights are named otherwise, its batch norms add 1e-3, and it pads as TensorFlow would for
the 380×380 images that it was made for, whatever the size of the input.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from distreid.models.torchvision_networks import torchvision_networks

POOLED_DIM = 1792
NOMINAL_SIZE = 380
DEPTHS = (2, 4, 4, 6, 6, 8, 2)
# efficientnet_pytorch's names to torchvision's. The first stage expands nothing, and its
# layers are numbered one less.
ENDS = {
    "_conv_stem": "features.0.0",
    "_bn0": "features.0.1",
    "_conv_head": "features.8.0",
    "_bn1": "features.8.1",
}
LAYERS = {
    "_expand_conv": (0, "0"),
    "_bn0": (0, "1"),
    "_depthwise_conv": (1, "0"),
    "_bn1": (1, "1"),
    "_se_reduce": (2, "fc1"),
    "_se_expand": (2, "fc2"),
    "_project_conv": (3, "0"),
    "_bn2": (3, "1"),
}


class PaddedConv(nn.Conv2d):
    """A strided convolution that pads what an input of a nominal size would need.

    TensorFlow's SAME: as little as covers the input, the odd row or column below and right.
    """

    def __init__(self, conv: nn.Conv2d, nominal: int) -> None:
        kernel, stride = conv.kernel_size[0], conv.stride[0]
        super().__init__(
            conv.in_channels, conv.out_channels, kernel, stride, groups=conv.groups, bias=False
        )
        total = (-(-nominal // stride) - 1) * stride + kernel - nominal
        self.pads = (total // 2, total - total // 2) * 2

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, self.pads))


def efficientnet_b4() -> nn.Module:
    """Untrained: (N, 3, H, W) normalised images → (N, 1792) pooled features."""
    norm = partial(nn.BatchNorm2d, eps=1e-3)
    network: Any = torchvision_networks().efficientnet_b4(weights=None, norm_layer=norm)
    network.classifier = nn.Identity()
    size = NOMINAL_SIZE
    for sequence in [m for m in network.modules() if isinstance(m, nn.Sequential)]:
        conv = sequence[0]
        if isinstance(conv, nn.Conv2d) and conv.stride[0] == 2:
            sequence[0] = PaddedConv(conv, size)
            size = -(-size // 2)
    return network  # type: ignore[no-any-return]


def torchvision_name(key: str) -> str:
    """The name in this network of efficientnet_pytorch's `key`."""
    part, _, rest = key.partition(".")
    if part in ENDS:
        return f"{ENDS[part]}.{rest}"
    if part != "_blocks":
        return key
    number, layer, leaf = rest.split(".")
    stage, block = 0, int(number)
    while block >= DEPTHS[stage]:
        block -= DEPTHS[stage]
        stage += 1
    position, name = LAYERS[layer]
    position -= stage == 0
    return f"features.{stage + 1}.{block}.block.{position}.{name}.{leaf}"
