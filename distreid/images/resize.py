"""Pillow's resize as it was in every version up to 12, bit for bit, whichever is installed.

Always across first, then down. Pillow 13 resizes tall images in the other order, which changes
features beyond what we promise; published checkpoints were trained and scored with the old one.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from distreid.images.resize_loops import compiled_loops
from distreid.images.resize_weights import Weights, weights

Images = NDArray[np.uint8]
"""(N, h, w, 3), or one (h, w, 3)."""


def resize(images: Iterable[Images], height: int, width: int, interpolation: str) -> Tensor:
    """N images (h, w, 3), of any sizes, → (N, 3, height, width) uint8.

    `interpolation` is one of `resize_weights.FILTERS`, with Pillow's antialias.
    """
    # Any is resized as it comes: originals may be large, and shall not pile up.
    resized = [resize_one(image, height, width, interpolation) for image in images]
    stacked = np.stack(resized) if resized else np.empty((0, height, width, 3), np.uint8)
    return torch.from_numpy(stacked).movedim(-1, 1)


def resize_one(image: Images, height: int, width: int, interpolation: str) -> Images:
    """One image (h, w, 3) → (height, width, 3); itself where it has that size."""
    source = image.shape[:2]
    if source == (height, width):
        return np.ascontiguousarray(image)
    loops = compiled_loops()
    if loops is None:
        return _by_pillow(image, height, width, interpolation)
    across, down = loops
    if source[1] != width:
        image = across(image, *_arrays(weights(source[1], width, interpolation)))
    if source[0] == height:
        return image
    result = np.empty((height, width, 3), np.uint8)
    rows = np.ascontiguousarray(image)
    down(rows, *_arrays(weights(source[0], height, interpolation)), result)
    return result


def _arrays(of: Weights) -> tuple[NDArray[np.int32], ...]:
    return of.first_N, of.count_N, of.weights_NK


def _by_pillow(image: Images, height: int, width: int, interpolation: str) -> Images:
    """A call for each pass, so that no version has an order to choose."""
    method = Image.Resampling[interpolation.upper()]
    across = Image.fromarray(image).resize((width, image.shape[0]), method)
    return np.array(across.resize((width, height), method))
