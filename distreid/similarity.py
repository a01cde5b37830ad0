"""Scores of queries against a gallery, in blocks of queries."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

Features = NDArray[np.float32]

BLOCK_BYTES = 64 << 20  # of scores held at once


def score_blocks(query_QD: Features, gallery_GD: Features) -> Iterator[tuple[int, Features]]:
    """(first query, scores (B, G) float32) for consecutive queries.

    A score is the dot product, which for L2-normalised features is the cosine.
    No query × gallery matrix is held.
    """
    gallery = torch.from_numpy(gallery_GD)
    rows = max(1, BLOCK_BYTES // (4 * max(1, len(gallery_GD))))
    for start in range(0, len(query_QD), rows):
        yield start, (torch.from_numpy(query_QD[start : start + rows]) @ gallery.T).numpy()
