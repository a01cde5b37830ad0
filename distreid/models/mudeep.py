"""torchreid's MuDeep (Qian et al., ICCV 2017, arXiv:1709.05165).

Its forward pass gives the scores of the classes at test too, so these are the feature that
torchreid tests with.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from distreid.errors import CheckpointError
from distreid.models.architecture import Architecture, StateDict, rows_of
from distreid.models.torchreid import architecture, fc_block

HIDDEN = 4096
PLACES = 16 * 8
CHANNELS = 256


class Conv(nn.Module):
    """Convolution, batch norm and ReLU; the map keeps its size unless there is a stride."""

    def __init__(
        self, inputs: int, outputs: int, kernel: tuple[int, int] = (1, 1), stride: int = 1
    ) -> None:
        super().__init__()
        padding = kernel[0] // 2, kernel[1] // 2
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)).relu()  # type: ignore[no-any-return]


THREE, WIDE, TALL = (3, 3), (1, 3), (3, 1)


class Start(nn.Module):
    """Two convolutions at the image's size, then half of it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = Conv(3, 48, THREE), Conv(48, 96, THREE)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.maxpool(self.conv2(self.conv1(x)))  # type: ignore[no-any-return]


class Streams(nn.Module):
    """Several ways for the same map."""

    def __init__(self, *streams: nn.Module) -> None:
        super().__init__()
        for number, stream in enumerate(streams, 1):
            self.add_module(f"stream{number}", stream)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [stream(x) for stream in self.children()]


class MuDeep(nn.Module):
    """(B, 3, 256, 128) normalised images → (B, classes)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        average = partial(nn.AvgPool2d, 3, 1, 1)
        self.block1 = Start()
        self.block2 = Streams(
            nn.Sequential(Conv(96, 96), Conv(96, 24, THREE)),
            nn.Sequential(average(), Conv(96, 24)),
            Conv(96, 24),
            nn.Sequential(Conv(96, 16), Conv(16, 24, THREE), Conv(24, 24, THREE)),
        )
        self.block3 = Streams(
            nn.MaxPool2d(3, 2, padding=1),
            Conv(96, 96, THREE, 2),
            nn.Sequential(Conv(96, 48), Conv(48, 56, THREE), Conv(56, 64, THREE, 2)),
        )
        first = Conv(256, 64)
        self.block4 = Streams(
            nn.Sequential(average(), Conv(256, 256)),
            nn.Sequential(first, Conv(64, 128, WIDE), Conv(128, 256, TALL)),
            Conv(256, 256),
            nn.Sequential(
                Conv(256, 64),
                Conv(64, 64, WIDE),
                Conv(64, 128, TALL),
                Conv(128, 128, WIDE),
                Conv(128, 256, TALL),
            ),
        )
        names = [f"a{number}" for number in range(1, 5)]
        self.block5 = nn.ParameterDict({n: torch.zeros(1, CHANNELS, 1, 1) for n in names})
        self.pool = nn.AvgPool2d(4)
        self.fc = fc_block(CHANNELS * PLACES, HIDDEN)
        self.classifier = nn.Linear(HIDDEN, classes)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        x = torch.cat(self.block2(self.block1(images_BCHW)), dim=1)
        streams = self.block4(torch.cat(self.block3(x), dim=1))
        weighted = [a * s for a, s in zip(self.block5.values(), streams, strict=True)]
        x = self.pool(torch.stack(weighted).sum(0)).flatten(1)
        return self.classifier(self.fc(x))  # type: ignore[no-any-return]


def recognise(state: StateDict) -> str | None:
    """`mudeep` if these are its weights."""
    return "mudeep" if {"block5.a4", "block4.stream4.4.conv.weight"} <= state.keys() else None


def read(state: StateDict, options: Mapping[str, Any]) -> Architecture:
    """The architecture; CheckpointError without the classes, which are its feature."""
    classes = rows_of(state, "classifier.weight")
    if state and classes is None:
        raise CheckpointError("a MuDeep without its classifier, whose scores are its feature")
    return architecture(
        "mudeep",
        partial(MuDeep, classes or 751),
        state,
        dim=classes or 751,
        feature="scores of the training's persons, which torchreid tests with",
        not_for_features=(),
        fixed_size=True,
    )
