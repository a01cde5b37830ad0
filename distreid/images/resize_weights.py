"""The weights of Pillow's resize: integers of 22 bits for each pixel of the result.

Pillow resizes an 8-bit image in two passes, one across and one down, each rounded to 8 bits. In a
pass, a pixel is a weighted sum of a few neighbours of the source. Formulas and constants are those
of Pillow's `src/libImaging/Resample.c`, the same in every version since 3.3.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BITS = 22
"""A weight of 1 is 2²²; Pillow's PRECISION_BITS: 32, less 8 of a pixel and 2 for sums above 1."""
HALF = 1 << (BITS - 1)
"""Added to a sum before it is shifted, so that it is rounded."""

Doubles = NDArray[np.float64]


def _box(x: Doubles) -> Doubles:
    return np.where((x > -0.5) & (x <= 0.5), 1.0, 0.0)


def _bilinear(x: Doubles) -> Doubles:
    x = np.abs(x)
    return np.where(x < 1, 1 - x, 0.0)


def _bicubic(x: Doubles) -> Doubles:
    a, x = -0.5, np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _hamming(x: Doubles) -> Doubles:
    x = np.abs(x)
    window = 0.54 + 0.46 * _each(math.cos, x * math.pi)
    return np.where(x == 0, 1.0, np.where(x < 1, _sinc(x) * window, 0.0))


def _lanczos(x: Doubles) -> Doubles:
    return np.where((x >= -3) & (x < 3), _sinc(x) * _sinc(x / 3), 0.0)


def _sinc(x: Doubles) -> Doubles:
    angle = np.where(x == 0, 1.0, x * math.pi)
    return np.where(x == 0, 1.0, _each(math.sin, angle) / angle)


def _each(function: Callable[[float], float], x: Doubles) -> Doubles:
    """The C library's own values, as Pillow has them: numpy's may differ in the last bit."""
    return np.array([function(value) for value in x.ravel()]).reshape(x.shape)


FILTERS: dict[str, tuple[Callable[[Doubles], Doubles], float]] = {
    "box": (_box, 0.5),
    "bilinear": (_bilinear, 1.0),
    "hamming": (_hamming, 1.0),
    "bicubic": (_bicubic, 2.0),
    "lanczos": (_lanczos, 3.0),
}
"""Each filter, and how far from its centre it reaches, in pixels of the result or of the source,
whichever are larger."""


@dataclass(frozen=True)
class Weights:
    """Of one pass that makes N pixels of a row or column."""

    first_N: NDArray[np.int32]
    """The first pixel of the source that each is made of."""
    count_N: NDArray[np.int32]
    """How many there are."""
    weights_NK: NDArray[np.int32]
    """Of each of them, 2²² in all; zeros beyond the count."""


@functools.lru_cache(maxsize=4096)  # a data set has some hundred widths and heights
def weights(source: int, target: int, interpolation: str) -> Weights:
    """Of a pass from so many pixels to so many. `interpolation` is one of `FILTERS`."""
    function, reach = FILTERS[interpolation]
    scale = source / target
    stretch = max(scale, 1.0)
    reach *= stretch
    centre = (np.arange(target) + 0.5) * scale
    first = np.maximum((centre - reach + 0.5).astype(np.int32), 0)  # cut, as C does
    count = np.minimum((centre + reach + 0.5).astype(np.int32), source) - first
    places = np.arange(count.max())
    x = (places + first[:, None] - centre[:, None] + 0.5) * (1 / stretch)
    value = np.where(places < count[:, None], function(x), 0.0)
    # One after the other, as Pillow adds: another order may give another last bit.
    total = np.cumsum(value, axis=1)[:, -1:]
    value = np.divide(value, total, out=value, where=total != 0)
    rounded = (value * (1 << BITS) + np.where(value < 0, -0.5, 0.5)).astype(np.int32)
    for array in (first, count, rounded):
        array.setflags(write=False)
    return Weights(first, count, rounded)
