"""How many processes must decode so that the model never waits: measured on the first images."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from distreid.images.loader import Batch, ImageRows

MAX_WORKERS = 16
# Images differ, and a process that waits costs little where a model that waits costs all.
SPARE = 2


@dataclass(frozen=True, kw_only=True)
class ImageSeconds:
    """Seconds of an image."""

    input: float
    """Read, decoded and resized by one process."""
    model: float
    """Through every network, by everything that this rank computes with."""

    def workers(self, cores: int) -> int:
        """How many processes decode for a rank that has so many cores: as few as will do."""
        return max(1, min(math.ceil(SPARE * self.input / self.model), cores, MAX_WORKERS))

    def describe(self, cores: int) -> str:
        """For people."""
        workers = self.workers(cores)
        return (
            f"{workers} decoding process{'es' if workers > 1 else ''} for each rank: an image "
            f"takes one {1000 * self.input:.2f} ms, and the model {1000 * self.model:.2f} ms"
        )


def measure(
    images: ImageRows, rows: range, compute: Callable[[Batch], int], *, warm_up: bool
) -> ImageSeconds:
    """Reads the rows and computes them; `compute` gives how many it took.

    With `warm_up` it is called once before: a GPU's first pass takes seconds.
    """
    started = time.perf_counter()
    batch = images[rows]
    read = time.perf_counter()
    if warm_up:
        compute(batch)
    begun = time.perf_counter()
    computed = compute(batch)
    done = time.perf_counter()
    return ImageSeconds(input=(read - started) / len(rows), model=(done - begun) / computed)
