"""An image to the network's size in other ways than Pillow's resize of the whole to it.

pad            as large as fits, in the middle of the colour that is ImageNet's mean
crop           as small as covers the size, of which the middle is taken
crop=SHORTER   the shorter side to so many pixels, then the middle, as torchvision and timm test
opencv         cv2's linear interpolation, which does not average where it shrinks
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distreid.errors import OptionError
from distreid.images.resize import resize_one
from distreid.images.resize_weights import FILTERS

Pixels = NDArray[np.uint8]
"""(h, w, 3) RGB."""

OPENCV = "opencv"
NO, PAD = "no", "pad"
PADDING = (124, 116, 104)  # ImageNet's mean, as BoxMOT rounds it


def fit(image: Pixels, height: int, width: int, interpolation: str, keep_aspect: str) -> Pixels:
    """(h, w, 3) → (height, width, 3), both uint8 RGB. OptionError where cv2 is wanted and is not
    installed."""
    if keep_aspect == NO:
        return scale(image, height, width, interpolation)
    tall, wide = image.shape[:2]
    if keep_aspect == PAD:
        factor = min(width / wide, height / tall)
        rows, columns = max(1, int(tall * factor)), max(1, int(wide * factor))
        return _padded(scale(image, rows, columns, interpolation), height, width)
    _, _, shorter = keep_aspect.partition("=")
    if shorter:
        # The shorter side is exact, what the longer one has of a pixel more is cut off, as
        # torchvision does.
        least = min(tall, wide)
        rows, columns = int(shorter) * tall // least, int(shorter) * wide // least
    else:
        factor = max(width / wide, height / tall)
        rows, columns = max(height, int(tall * factor)), max(width, int(wide * factor))
    return _cropped(scale(image, rows, columns, interpolation), height, width)


def scale(image: Pixels, height: int, width: int, interpolation: str) -> Pixels:
    """(h, w, 3) → (height, width, 3), as Pillow does, or by cv2 for `opencv`."""
    if image.shape[:2] == (height, width):
        return image
    if interpolation == OPENCV:
        found: Pixels = cv2().resize(image, (width, height), interpolation=cv2().INTER_LINEAR)
        return found
    if interpolation not in FILTERS:  # nearest: no sum, and no passes that have an order
        method = Image.Resampling[interpolation.upper()]
        return np.array(Image.fromarray(image).resize((width, height), method))
    return resize_one(image, height, width, interpolation)


def cv2() -> Any:
    """The module; OptionError where it is not installed."""
    try:
        import cv2 as module
    except ImportError as error:
        raise OptionError("--interpolation opencv: pip install 'distreid[opencv]'") from error
    return module


def _cropped(image: Pixels, height: int, width: int) -> Pixels:
    """The middle; what an image is too small for is black, as in torchvision."""
    down, right = height - image.shape[0], width - image.shape[1]
    if max(down, right) > 0:
        tall, wide = max(down, 0), max(right, 0)
        margins = ((tall // 2, tall - tall // 2), (wide // 2, wide - wide // 2), (0, 0))
        image = np.pad(image, margins)
    top, left = (
        round((image.shape[side] - wanted) / 2) for side, wanted in ((0, height), (1, width))
    )
    return np.ascontiguousarray(image[top : top + height, left : left + width])


def _padded(image: Pixels, height: int, width: int) -> Pixels:
    tall, wide = image.shape[:2]
    top, left = (height - tall) // 2, (width - wide) // 2
    whole = np.empty((height, width, 3), np.uint8)
    whole[:] = PADDING
    whole[top : top + tall, left : left + wide] = image
    return whole
