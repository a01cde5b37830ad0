"""The two passes of a resize as loops, which numba turns into machine code.

Each adds whole rows of memory, so that the processor's vector instructions do the work; the
pass across therefore works on the image turned on its side.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distreid.images.resize_weights import BITS, HALF

Image = NDArray[np.uint8]
Integers = NDArray[np.int32]


def _across(image: Image, first: Integers, count: Integers, weights: Integers) -> Image:
    """(h, w, 3) → (h, W, 3)."""
    height, width = image.shape[:2]
    columns = np.empty((width, 3 * height), np.uint8)
    for y in range(height):
        for x in range(width):
            for channel in range(3):
                columns[x, channel * height + y] = image[y, x, channel]
    result = np.empty((height, len(first), 3), np.uint8)
    sums = np.empty(3 * height, np.int32)
    for x in range(len(first)):
        for i in range(3 * height):
            sums[i] = HALF
        for k in range(count[x]):
            weight, column = weights[x, k], columns[first[x] + k]
            for i in range(3 * height):
                sums[i] += weight * np.int32(column[i])
        for i in range(3 * height):
            sums[i] = min(max(sums[i] >> BITS, 0), 255)
        for channel in range(3):
            for y in range(height):
                result[y, x, channel] = sums[channel * height + y]
    return result


def _down(image: Image, first: Integers, count: Integers, weights: Integers, result: Image) -> None:
    """(h, W, 3) → `result` (H, W, 3)."""
    length = image.shape[1] * 3
    rows = image.reshape(len(image), length)
    target = result.reshape(len(result), length)
    sums = np.empty(length, np.int32)
    for y in range(len(first)):
        for i in range(length):
            sums[i] = HALF
        for k in range(count[y]):
            weight, row = weights[y, k], rows[first[y] + k]
            for i in range(length):
                sums[i] += weight * np.int32(row[i])
        for i in range(length):
            target[y, i] = min(max(sums[i] >> BITS, 0), 255)


@functools.cache
def compiled_loops() -> tuple[Callable[..., Any], Callable[..., Any]] | None:
    """`_across` and `_down` in machine code, kept beside this file or in the user's cache for the
    next start; None where numba is not installed."""
    try:
        import numba
    except ImportError:
        return None
    image, integers = numba.uint8[:, :, ::1], numba.int32[::1]

    def of_pass(source: Any) -> tuple[Any, ...]:
        # Arrays that cannot be written are taken too.
        return tuple(
            numba.types.Array(array.dtype, array.ndim, array.layout, readonly=True)
            for array in (source, integers, integers, numba.int32[:, ::1])
        )

    def compile(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Callable[..., Any]:
        how: dict[str, Any] = {"nogil": True, "boundscheck": False}
        try:
            made = numba.njit(arguments, cache=True, **how)(function)
        except RuntimeError:  # no folder to keep it in
            made = numba.njit(arguments, **how)(function)
        return made

    part_of_a_frame = numba.uint8[:, :, :]
    return compile(_across, of_pass(part_of_a_frame)), compile(_down, (*of_pass(image), image))
