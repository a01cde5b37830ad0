"""What every model family tells about the network that a checkpoint fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from distreid.preprocess import Preprocess

StateDict = Mapping[str, Tensor]
Size = tuple[int, int]
"""Height and width."""

# Instead of a camera's embedding: the mean of all cameras', and no embedding.
MEAN_CAMERA, NO_CAMERA = -2, -1


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A network, and the way in which its own code tests it (the preset)."""

    name: str
    """A name of `models.MODELS`, one with a colon of `models.generic`, or a program's kind."""
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
    """The cameras that the network has an embedding of, by `camera_id` 1 and up; 0 if nobody knows
    which is whose. It takes (B,) int64 too: 0 for camera 1, or `MEAN_CAMERA`, or `NO_CAMERA`.
    None: it takes none."""
    fixed_size: bool = False
    """Whether the network takes only `preprocess.height` × `preprocess.width`."""
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
