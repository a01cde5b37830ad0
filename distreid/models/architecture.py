"""What every model family tells about the network that a checkpoint fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from distreid.images.preprocess import Preprocess

StateDict = Mapping[str, Tensor]
Size = tuple[int, int]
MOST_PIXELS = 2**22  # of an input: 2048x2048, more than any network for crops of persons takes
"""Height and width."""

# Instead of a camera's embedding: the mean of all cameras', and no embedding.
MEAN_CAMERA, NO_CAMERA = -2, -1


@dataclass(frozen=True, kw_only=True)
class Program:
    """A file of operations instead of weights, which a runtime computes."""

    kind: str
    """`onnx` or `openvino`, or of torch `torchscript` or `export`."""
    file: Path
    images: str
    """The name of its input (N, 3, H, W)."""
    features: str
    """The name of its output (N, dim)."""
    precision: str
    cameras: str | None = None
    """The name of its second input (N,) int64, if it takes cameras."""
    rows: int | None = None
    """N, if it is fixed."""
    whole: bool = False
    """Whether the views are in it, and it gives their sum."""
    normalises: bool = False
    """Whether it takes uint8 images."""
    resizes: bool = False
    """Whether it takes images of another size and resizes them itself."""
    weights: str | None = None
    """SHA-256 of the checkpoint that it was exported from, hex; None for an export by others."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A network, and the way in which its own code tests it (the preset)."""

    name: str
    """A name of `models.table.MODELS`, one with a colon of `models.generic`, a kind of program."""
    peer: str
    """The project whose numbers the preset reproduces, or whose network it is."""
    build: Callable[[], nn.Module]
    """Makes the network without weights: (B, 3, H, W) float → (B, dim) features, in eval mode."""
    dim: int
    feature: str
    """The layer that the feature is taken from, in words."""
    preprocess: Preprocess
    flip: bool
    """Whether the peer sums the features of the image and its mirror image."""
    parts: int = 1
    """With more than one, each part of the summed feature is normalised by itself. Feature d
    belongs to part d % parts."""
    options: dict[str, Any] = field(default_factory=dict)
    """What else defines the network; part of a store's identity."""
    not_for_features: tuple[str, ...] = ()
    """Prefixes of parameters that the checkpoint may hold and the feature does not need."""
    rename: Callable[[str], str] = str
    """A parameter's name in the file to its name in the network."""
    classes: int | None = None
    """Persons that the file's classifier tells apart; None if it holds none."""
    cameras: int | None = None
    """The cameras that the network has an embedding of, by `camera_id` 1 and up. It takes (B,)
    int64 too: 0 for camera 1, or `MEAN_CAMERA`, or `NO_CAMERA`. None: it takes none."""
    viewpoints: int = 1
    """With more than one, a camera has an embedding for each viewpoint of a vehicle, from 0: its
    number is `(camera_id - 1) * viewpoints + viewpoint`."""
    fixed_size: bool = False
    """Whether the network takes only `preprocess.height` × `preprocess.width`."""
    obeys: tuple[str, ...] = ()
    """The fields of `choices.NETWORK` that this network leaves open."""
    program: Program | None = None
    """What is computed instead of a network of weights."""
    notes: tuple[str, ...] = ()
    """What could not be read off the checkpoint and how to say it, a sentence each."""

    def identity(self) -> dict[str, Any]:
        """The description that a store carries."""
        return {"name": self.name, "feature": self.feature} | self.options


def rows_of(state: StateDict, key: str) -> int | None:
    """The first dimension of a tensor, such as the classes of a classifier; None without it."""
    return state[key].shape[0] if key in state else None


def resized(preprocess: Preprocess, size: Size) -> Preprocess:
    """The same with another size of the input."""
    return replace(preprocess, height=size[0], width=size[1])
