"""The bounds of blocks by products of float16 on a GPU, where the codes stay between searches.

A code's bytes are whole numbers that float16 holds exactly. A query's vector is multiplied by a
power of two, so that neither it nor a bound leaves float16, and rounded: how far that moves it is
known. Products are summed in float32 and rounded to float16. All of that is part of the bound.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distreid.nearest.codes import BLOCK, QueryVector, gamma
from distreid.nearest.similarity import room_for

HALF_U = 2.0**-11  # the unit roundoff of float16
SMALLEST_HALF = 2.0**-24
LARGEST_BOUND = 2.0**14  # of 2¹⁶ that float16 holds
VALUES_AT_ONCE = 1 << 27  # of one product


def codes_on(device: str, code: NDArray[np.int8]) -> Tensor:
    """(N, W) float16 there; OptionError where it has no room for them."""
    with room_for(f"the gallery's codes, {2 * code.size / 1e9:.1f} GB", device):
        return torch.from_numpy(np.ascontiguousarray(code)).to(device).half()


def multiplied_on_device(
    code_NW: Tensor, live: NDArray[np.int32] | None, vectors: Sequence[QueryVector], longest: float
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """What `block_bounds.multiplied` gives, computed where the codes are. `longest` as in
    `Codes`."""
    exact_QW = np.stack([vector.exact for vector in vectors]).astype(np.float64)
    width = exact_QW.shape[1]
    longest = max(longest, 1.0)  # so that the vector's own numbers are no larger than a bound
    size_Q = np.linalg.norm(exact_QW, axis=1) * longest
    scale_Q = np.exp2(np.floor(np.log2(LARGEST_BOUND / np.maximum(size_Q, 1e-30))))
    half_QW = (exact_QW * scale_Q[:, None]).astype(np.float16)
    lost_Q = np.linalg.norm(exact_QW - half_QW / scale_Q[:, None], axis=1)
    slack_Q = (
        np.array([vector.slack for vector in vectors])
        + lost_Q * longest
        + (size_Q + lost_Q * longest) * (gamma(width + 4) + HALF_U)
        + SMALLEST_HALF / scale_Q
    )
    vector_WQ = torch.from_numpy(half_QW).to(code_NW.device).T
    count = len(code_NW) if live is None else len(live)
    blocks, queries = -(-count // BLOCK), len(vectors)
    bounds_QB = torch.empty(queries, blocks, dtype=torch.float16, device=code_NW.device)
    at_once = max(1, VALUES_AT_ONCE // (BLOCK * queries))
    places = None if live is None else torch.from_numpy(live).to(code_NW.device)
    with _summed_in_float32(), room_for("the products", code_NW.device.type):
        for first in range(0, blocks, at_once):
            rows = slice(first * BLOCK, min((first + at_once) * BLOCK, count))
            tile_RW = code_NW[rows] if places is None else code_NW[places[rows]]
            product_RQ = tile_RW @ vector_WQ
            lacking = -len(product_RQ) % BLOCK
            if lacking:  # the last block has its last row more than once
                last = product_RQ[-1:].expand(lacking, queries)
                product_RQ = torch.cat((product_RQ, last))
            largest_BQ = product_RQ.view(-1, BLOCK, queries).amax(1)
            bounds_QB[:, first : first + len(largest_BQ)] = largest_BQ.T
    found: NDArray[np.float32] = bounds_QB.cpu().float().numpy()
    found /= scale_Q[:, None].astype(np.float32)  # powers of two: exact
    return found, slack_Q


@contextlib.contextmanager
def _summed_in_float32() -> Iterator[None]:
    """Within it, a GPU sums products of float16 in float32 to the end."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_fp16_reduced_precision_reduction
    matmul.allow_fp16_reduced_precision_reduction = False
    try:
        yield
    finally:
        matmul.allow_fp16_reduced_precision_reduction = before
