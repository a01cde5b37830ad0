"""How many processes must decode so that the model never waits: measured on the first images, and
once more while the job runs, when many batches are under way at once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from distreid.images.loader import Batch, ImageRows

# Images differ, and a process that waits costs little where a model that waits costs all.
SPARE = 2
WATCHED_S = 3.0  # of a run's beginning, without its first batch
ENOUGH = 0.05  # of its time, for which the model may wait


@dataclass(frozen=True, kw_only=True)
class ImageSeconds:
    """Seconds of an image."""

    input: float
    """Read, decoded and resized by one process."""
    model: float
    """Through every network, by everything that this rank computes with."""

    def workers(self, cores: int) -> int:
        """How many processes decode for a rank that has so many cores: as few as will do."""
        return max(1, min(math.ceil(SPARE * self.input / self.model), cores))

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


@dataclass
class WatchedInput:
    """Whether so many decoding processes are enough, by the first seconds of a run."""

    workers: int
    cores: int
    images: int = 0
    seconds: float = 0.0
    waiting: float = 0.0

    def add(self, images: int, seconds: float, waiting: float) -> None:
        """So many images more, in so many seconds, of which the model has waited for some."""
        self.images += images
        self.seconds += seconds
        self.waiting += waiting

    def better(self) -> int | None:
        """How many would be enough; None if these are, if there are no cores for more, or as long
        as it cannot be told."""
        if self.seconds < WATCHED_S or self.waiting <= ENOUGH * self.seconds:
            return None
        # Where the model waits, all of them are at work.
        each = self.workers * self.seconds / self.images
        model = (self.seconds - self.waiting) / self.images
        more = ImageSeconds(input=each, model=model).workers(self.cores)
        return more if more > self.workers else None
