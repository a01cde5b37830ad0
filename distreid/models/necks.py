"""The batch norms behind a feature, for those who test with what leaves them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Neck:
    """A batch norm on a part of the feature."""

    name: str
    """In the file."""
    dim: int
    """Of the part; the parts follow each other."""
    factor: float = 1.0
    """By which the feature has its part multiplied: taken away before the norm, and put back."""


class Necked(nn.Module):
    """(B, …) → (B, dim): what `body` gives, each part after its batch norm."""

    def __init__(self, body: Callable[[], nn.Module], necks: Sequence[Neck]) -> None:
        super().__init__()
        self.body = body()
        self.parts = tuple(necks)
        self.necks = nn.ModuleDict({neck.name: nn.BatchNorm1d(neck.dim) for neck in necks})

    def forward(self, images_BCHW: Tensor, *cameras_B: Tensor) -> Tensor:
        parts = self.body(images_BCHW, *cameras_B).split([part.dim for part in self.parts], dim=1)
        normed = (
            self.necks[part.name](found / part.factor) * part.factor
            for part, found in zip(self.parts, parts, strict=True)
        )
        return torch.cat(tuple(normed), dim=1)


def renamed(necks: Sequence[Neck], rename: Callable[[str], str], key: str) -> str:
    """A name in the file to one in `Necked`; `rename` gives the body's."""
    if key.partition(".")[0] in {neck.name for neck in necks}:
        return f"necks.{key}"
    return f"body.{rename(key)}"
