"""An image to the network's size in other ways than Pillow's resize of the whole to it.

pad            as large as fits, in the middle of the colour that is ImageNet's mean
crop           as small as covers the size, of which the middle is taken
crop=SHORTER   the shorter side to so many pixels, then the middle, as torchvision and timm test
cover=HxW      as small as covers H×W, then the middle, as timm tests at sizes that are no square
stretch=HxW    the whole to H×W, then the middle: timm's squash
border=HxW on R,G,B  as large as fits H×W, then the middle, in that colour: timm's border
opencv         cv2's linear interpolation, which does not average where it shrinks
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distreid.errors import OptionError
from distreid.images.resize import resize_one
from distreid.images.resize_weights import FILTERS

Pixels = NDArray[np.uint8]
"""(h, w, 3) RGB."""
Shape = tuple[int, int]
"""Height and width."""

OPENCV = "opencv"
NO, PAD, CROP = "no", "pad", "crop"
COVER, STRETCH, BORDER = "cover", "stretch", "border"
BLACK = (0, 0, 0)
PADDING = (124, 116, 104)  # ImageNet's mean, as BoxMOT rounds it
MOST_RESIZED = 1 << 26  # pixels of which the middle is taken: a fifth of a GB
REACH = 8  # pixels on which one depends, the largest filter's six and what rounding adds


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
    way, _, rest = keep_aspect.partition("=")
    numbers, _, colour = rest.partition(" on ")
    rows, columns = _resized(way, numbers, (tall, wide), (height, width))
    if rows * columns > MOST_RESIZED:
        image = _middle_of_source(image, (rows, columns), (height, width))
        rows, columns = rows * image.shape[0] // tall, columns * image.shape[1] // wide
    border = tuple(int(value) for value in colour.split(",")) if colour else BLACK
    return _cropped(scale(image, rows, columns, interpolation), height, width, border)


def _resized(way: str, numbers: str, given: Shape, wanted: Shape) -> Shape:
    """The size of which the middle is taken."""
    tall, wide = given
    if way == CROP and numbers:
        # The shorter side is exact, what the longer one has of a pixel more is cut off, as
        # torchvision does.
        least = min(given)
        return int(numbers) * tall // least, int(numbers) * wide // least
    if way == CROP:
        factor = max(wanted[0] / tall, wanted[1] / wide)
        return max(wanted[0], int(tall * factor)), max(wanted[1], int(wide * factor))
    high, _, broad = numbers.partition("x")
    if way == STRETCH:
        return int(high), int(broad)
    ratio = (max if way == BORDER else min)(tall / int(high), wide / int(broad))
    return max(1, round(tall / ratio)), max(1, round(wide / ratio))


def _middle_of_source(image: Pixels, resized: Shape, wanted: Shape) -> Pixels:
    """What the middle of so large a resized image depends on: nothing larger is then made."""
    parts = []
    for side, made, taken in zip(image.shape[:2], resized, wanted, strict=True):
        kept = math.ceil(taken * side / made) + math.ceil(REACH * max(1, side / made))
        margin = max(0, (side - kept) // 2)
        parts.append(slice(margin, side - margin))
    return image[tuple(parts)]


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


def _cropped(image: Pixels, height: int, width: int, border: tuple[int, ...]) -> Pixels:
    """The middle; what an image is too small for is border, as in torchvision."""
    down, right = height - image.shape[0], width - image.shape[1]
    if max(down, right) > 0:
        tall, wide = max(down, 0), max(right, 0)
        rows, columns = image.shape[:2]
        whole = np.empty((rows + tall, columns + wide, 3), np.uint8)
        whole[:] = border
        whole[tall // 2 : tall // 2 + rows, wide // 2 : wide // 2 + columns] = image
        image = whole
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
