"""From rows to uint8 batches: files are read and decoded in worker processes."""

from __future__ import annotations

import signal
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from distreid.errors import ImageError
from distreid.manifest import Manifest, Status
from distreid.preprocess import Preprocess
from distreid.sampler import ShardBatches, ShardSampler


@dataclass(frozen=True)
class Batch:
    """Consecutive rows of one shard. B rows; an image that could not be read is black."""

    rows: range
    images_BCHW: Tensor
    """(B, 3, height, width) uint8, RGB."""
    status_B: NDArray[np.uint8]
    """(B,) values of `Status`."""
    failures: dict[int, str]
    """Row → why it could not be read."""

    def pin_memory(self) -> Batch:
        """DataLoader's protocol for page-locked memory."""
        return Batch(self.rows, self.images_BCHW.pin_memory(), self.status_B, self.failures)


class ImageRows(Dataset[Batch]):
    """A manifest's images; indexed by a range of rows, so that a worker makes a whole batch."""

    def __init__(self, manifest: Manifest, preprocess: Preprocess) -> None:
        self.manifest = manifest
        self.preprocess = preprocess

    def __getitem__(self, rows: range) -> Batch:
        size = (len(rows), self.preprocess.height, self.preprocess.width, 3)
        # Channels last, as the decoder writes and the network wants them.
        images_BCHW = torch.zeros(size, dtype=torch.uint8).permute(0, 3, 1, 2)
        status_B = np.full(len(rows), Status.OK, dtype=np.uint8)
        failures = {}
        for place, row in enumerate(rows):
            try:
                images_BCHW[place] = self.preprocess.load(self.manifest.file(row))
            except FileNotFoundError:
                status_B[place] = Status.MISSING
                failures[row] = "no such file"
            except ImageError as error:
                status_B[place] = Status.UNREADABLE
                failures[row] = str(error)
        return Batch(rows, images_BCHW, status_B, failures)


def open_loader(
    manifest: Manifest,
    preprocess: Preprocess,
    sampler: ShardSampler,
    *,
    batch_size: int,
    num_workers: int,
    pin_memory: bool,
) -> DataLoader[Batch]:
    """The sampler's rows as Batches, in the sampler's order."""
    batches = ShardBatches(sampler.shards, batch_size)
    return DataLoader(
        ImageRows(manifest, preprocess),
        batch_size=None,  # the sampler yields whole batches already
        sampler=batches,
        num_workers=min(num_workers, len(batches)),
        pin_memory=pin_memory,
        worker_init_fn=_leave_signals_to_the_rank,
    )


def _leave_signals_to_the_rank(worker: int) -> None:
    """Ctrl-C and SLURM's signals reach the workers too; the rank ends them."""
    for number in (signal.SIGINT, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
