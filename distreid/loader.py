"""From rows to uint8 batches: files are read and decoded in worker processes."""

from __future__ import annotations

import contextlib
import itertools
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from distreid.errors import DataError, ImageError
from distreid.manifest import Manifest, Status
from distreid.preprocess import Preprocess
from distreid.sampler import ShardBatches, ShardSampler

OUT_OF_MEMORY = "no memory is left to decode it"


@dataclass(frozen=True)
class Batch:
    """Consecutive rows of one shard. B rows; an image that could not be read is black."""

    rows: range
    images_BCHW: Tensor
    """(B, 3, height, width) uint8, RGB."""
    status_B: NDArray[np.uint8]
    """(B,) values of `Status`."""
    failures: dict[int, str]
    """Row → why it could not be read; `OUT_OF_MEMORY` is no fault of the image."""

    def pin_memory(self) -> Batch:
        """DataLoader's protocol for page-locked memory."""
        return Batch(self.rows, self.images_BCHW.pin_memory(), self.status_B, self.failures)


class ImageRows(Dataset[Batch]):
    """A manifest's images; indexed by a range of rows, so that a worker makes a whole batch."""

    def __init__(self, manifest: Manifest, preprocess: Preprocess) -> None:
        self.manifest = manifest
        self.preprocess = preprocess

    def __getitem__(self, rows: range) -> Batch:
        missing: dict[int, str] = {}
        unreadable: dict[int, str] = {}
        black = np.zeros((self.preprocess.height, self.preprocess.width, 3), np.uint8)

        def pixels(row: int) -> NDArray[np.uint8]:
            try:
                return self.preprocess.load(self.manifest.file(row))
            except FileNotFoundError:
                missing[row] = "no such file"
            except ImageError as error:
                unreadable[row] = str(error)
            except MemoryError:
                unreadable[row] = OUT_OF_MEMORY
            return black

        try:
            images_BCHW = self.preprocess.resize(map(pixels, rows))
        except MemoryError:
            unreadable = dict.fromkeys(rows, OUT_OF_MEMORY)
            images_BCHW = self.preprocess.resize(black for _ in rows)
        status_B = np.full(len(rows), Status.OK, dtype=np.uint8)
        for status, failed in ((Status.MISSING, missing), (Status.UNREADABLE, unreadable)):
            status_B[[row - rows.start for row in failed]] = status
        return Batch(rows, images_BCHW, status_B, missing | unreadable)


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


@contextlib.contextmanager
def dead_workers_named(
    who: str, loader: DataLoader[Batch], taken: Callable[[], int]
) -> Iterator[None]:
    """Turns the death of a worker, which torch raises anywhere in the main thread, to DataError.

    It names the rows that were being read: those of the batches after the `taken` ones.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        ahead = loader.num_workers * (loader.prefetch_factor or 1)
        reading = list(
            itertools.islice(cast(ShardBatches, loader.sampler), taken(), taken() + ahead)
        )
        rows = f"rows {reading[0].start} to {reading[-1].stop - 1}" if reading else "the last rows"
        reason = " ".join(str(error).split()).rstrip(". ")
        raise DataError(
            f"{who}: a decoding process died while it read {rows} ({reason}); if memory was full, "
            "take fewer --num-workers, else look at these images; run again to continue"
        ) from error
