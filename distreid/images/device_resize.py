"""The same resize for a whole batch at once in torch's integers, on a CPU or a GPU.

A GPU resizes next to nothing of what it computes, and small originals travel to it in a quarter of
the bytes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distreid.images.preprocess import Preprocess
from distreid.images.resize_weights import BITS, HALF, weights

Sizes = tuple[tuple[int, int], ...]
"""The height and width of each image of a batch."""


def originals_or_resized(
    images: Iterable[NDArray[np.uint8]], preprocess: Preprocess
) -> tuple[Tensor, Sizes | None]:
    """N images (h, w, 3) as they are, each in the upper left corner of what is as large as the
    largest, (N, 3, h, w), with their sizes; or where that takes more bytes than resized images,
    these, without."""
    kept: list[NDArray[np.uint8]] = []
    height = width = 0
    rest = iter(images)
    for image in rest:
        kept.append(np.ascontiguousarray(image))
        height, width = max(height, image.shape[0]), max(width, image.shape[1])
        if height * width > preprocess.height * preprocess.width:
            return preprocess.resize(itertools.chain(kept, rest)), None
    batch = np.zeros((len(kept), height, width, 3), np.uint8)
    for place, image in zip(batch, kept, strict=True):
        place[: image.shape[0], : image.shape[1]] = image
    sizes = tuple((image.shape[0], image.shape[1]) for image in kept)
    return torch.from_numpy(batch).movedim(-1, 1), sizes


def resize_batch(
    images_BCHW: Tensor,
    sizes: Sequence[tuple[int, int]],
    height: int,
    width: int,
    interpolation: str,
) -> Tensor:
    """(B, 3, h, w) uint8 → (B, 3, height, width) uint8 on the same device, bit for bit `resize`'s.

    Image b is `sizes[b]` (height, width) large, and stands in the upper left corner; what lies
    beyond is not looked at.
    """
    source = images_BCHW.to(torch.int32)
    across = _pass(source, 3, [w for _, w in sizes], width, interpolation)
    both = _pass(across, 2, [h for h, _ in sizes], height, interpolation)
    return both.to(torch.uint8)


def _pass(
    source: Tensor, dim: int, lengths: Sequence[int], length: int, interpolation: str
) -> Tensor:
    """One pass along dimension 2 or 3 of (B, 3, h, w) int32, in which image b is `lengths[b]` long.

    A pass to the size that an image has already changes nothing: its weights are 1 and 0.
    """
    place_of = {each: place for place, each in enumerate(dict.fromkeys(lengths))}
    of = [weights(each, length, interpolation) for each in place_of]
    weight_UNK = np.zeros((len(of), length, max(one.weights_NK.shape[1] for one in of)), np.int32)
    for weight_NK, one in zip(weight_UNK, of, strict=True):
        weight_NK[:, : one.weights_NK.shape[1]] = one.weights_NK
    # Most images of a batch have the size of others: what differs travels, and is spread there.
    first_UN = np.stack([one.first_N for one in of]).astype(np.int64)
    which_B = np.array([place_of[each] for each in lengths])
    which, first, weight = (_sent(each, source.device) for each in (which_B, first_UN, weight_UNK))
    first, weight = first[which], weight[which]
    shape = list(source.shape)
    shape[dim] = length
    along = [len(lengths), 1, 1, 1]
    along[dim] = length
    last = source.shape[dim] - 1
    result = torch.full(shape, HALF, dtype=torch.int32, device=source.device)
    for k in range(weight.shape[2]):
        place = (first + k).clamp_(max=last).view(along).expand(shape)
        result.addcmul_(source.gather(dim, place), weight[:, :, k].reshape(along))
    return result.bitwise_right_shift_(BITS).clamp_(0, 255)


def _sent(array: NDArray[Any], device: torch.device) -> Tensor:
    """To the device. Out of page-locked memory: for other memory the host would wait until the GPU
    has done what it was given before."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
