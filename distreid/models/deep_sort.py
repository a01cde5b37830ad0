"""The small residual network of deep_sort_pytorch (ZQPei), as its `ckpt.t7` has it.

Wojke et al., ICIP 2017 (arXiv:1703.07402) track with such a network; this is not theirs. The
project's test resizes by Pillow; its tracker resizes floats by cv2 (`--interpolation opencv` is
that, rounded to 8 bits) and never calls `eval()`, so that its features depend on the other crops
of the frame: they cannot be reproduced from one image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from distreid.images.preprocess import Preprocess
from distreid.models.architecture import Architecture, StateDict, rows_of

WIDTHS = (64, 128, 256, 512)


class Block(nn.Module):
    """Two 3×3 convolutions; where the width grows, the first and the shortcut halve the map."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        stride = 1 if inputs == outputs else 2
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = nn.Sequential()
        if stride == 2:
            self.downsample.append(nn.Conv2d(inputs, outputs, 1, 2, bias=False))
            self.downsample.append(nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (out + self.downsample(x)).relu()  # type: ignore[no-any-return]


class DeepSort(nn.Module):
    """(B, 3, H, W) normalised images → (B, 512)."""

    def __init__(self) -> None:
        super().__init__()
        stem = [nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU()]
        self.conv = nn.Sequential(*stem, nn.MaxPool2d(3, 2, padding=1))
        for number, (inputs, outputs) in enumerate(zip((64, *WIDTHS), WIDTHS, strict=False), 1):
            blocks = Block(inputs, outputs), Block(outputs, outputs)
            self.add_module(f"layer{number}", nn.Sequential(*blocks))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        x = self.conv(images_BCHW)
        for number in range(1, 5):
            x = self.get_submodule(f"layer{number}")(x)
        return x.mean((2, 3))  # type: ignore[no-any-return]


def recognise(state: StateDict) -> str | None:
    """`deep_sort` if these are its weights."""
    known = {"conv.0.bias", "layer1.0.conv1.weight", "layer4.1.bn2.weight"} <= state.keys()
    return "deep_sort" if known and "layer1.0.conv3.weight" not in state else None


def read(state: StateDict, options: Mapping[str, Any]) -> Architecture:
    """The architecture."""
    return Architecture(
        name="deep_sort",
        peer="deep_sort_pytorch",
        build=DeepSort,
        dim=WIDTHS[-1],
        feature="pooled layer4",
        preprocess=Preprocess(height=128, width=64, interpolation="bilinear"),
        flip=False,
        not_for_features=("classifier.",),
        classes=rows_of(state, "classifier.4.weight"),
    )
