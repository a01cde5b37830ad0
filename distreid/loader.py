"""From rows to uint8 batches: files are read and decoded in worker processes."""

from __future__ import annotations

import contextlib
import functools
import itertools
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from distreid.cache import CacheUse, Decoded, ImageCache
from distreid.errors import DataError, ImageError
from distreid.manifest import Manifest, Status
from distreid.memory import keep_freed_memory
from distreid.preprocess import Preprocess
from distreid.sampler import ShardBatches, ShardSampler
from distreid.slots import Slots, by_pipe

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

    cache: CacheUse = field(default_factory=CacheUse)
    """What the cache gave, if there is one."""

    def pin_memory(self) -> Batch:
        """DataLoader's protocol for page-locked memory."""
        return replace(self, images_BCHW=self.images_BCHW.pin_memory())


class ImageRows(Dataset[Batch]):
    """A manifest's images; indexed by a range of rows, so that a worker makes a whole batch."""

    def __init__(
        self, manifest: Manifest, preprocess: Preprocess, cache: ImageCache | None = None
    ) -> None:
        self.manifest = manifest
        self.preprocess = preprocess
        self.cache = cache

    def __getitem__(self, rows: range) -> Batch:
        use = CacheUse()
        if self.cache:
            (images_BCHW, failed), use = self.cache.through(rows, self._decode)
        else:
            images_BCHW, failed = self._decode(rows)
        status_B = np.full(len(rows), Status.OK, dtype=np.uint8)
        for row, (status, _) in failed.items():
            status_B[row - rows.start] = status
        return Batch(rows, images_BCHW, status_B, {row: failed[row][1] for row in failed}, use)

    def _decode(self, rows: Sequence[int]) -> Decoded:
        failed: dict[int, tuple[Status, str]] = {}
        black = np.zeros((self.preprocess.height, self.preprocess.width, 3), np.uint8)

        def pixels(row: int) -> NDArray[np.uint8]:
            try:
                return self.preprocess.load(self.manifest.file(row))
            except FileNotFoundError:
                failed[row] = Status.MISSING, "no such file"
            except ImageError as error:
                failed[row] = Status.UNREADABLE, str(error)
            except MemoryError:
                failed[row] = Status.UNREADABLE, OUT_OF_MEMORY
            return black

        try:
            return self.preprocess.resize(map(pixels, rows)), failed
        except MemoryError:
            failed = dict.fromkeys(rows, (Status.UNREADABLE, OUT_OF_MEMORY))
            return self.preprocess.resize(black for _ in rows), failed


class BatchLoader(DataLoader[Batch]):
    """A DataLoader whose workers' batches travel in slots."""

    def __iter__(self) -> Any:
        """Workers, and slots for them, of this iteration alone."""
        if self.num_workers:
            send = by_pipe
            if multiprocessing.get_start_method() == "fork":
                rows = cast(ShardBatches, self.sampler).largest
                of = cast(ImageRows, self.dataset).preprocess
                with contextlib.suppress(OSError):  # no room for so much
                    send = Slots(self.num_workers, rows, of.height, of.width).send
            self.collate_fn = functools.partial(_sent, send)
        return super().__iter__()


def _sent(send: Callable[[Tensor], Tensor], batch: Batch) -> Batch:
    return replace(batch, images_BCHW=send(batch.images_BCHW))


def open_loader(
    manifest: Manifest,
    preprocess: Preprocess,
    sampler: ShardSampler,
    *,
    batch_size: int,
    num_workers: int,
    pin_memory: bool,
    cache: ImageCache | None = None,
) -> BatchLoader:
    """The sampler's rows as Batches, in the sampler's order."""
    batches = ShardBatches(sampler.shards, batch_size)
    return BatchLoader(
        ImageRows(manifest, preprocess, cache),
        batch_size=None,  # the sampler yields whole batches already
        sampler=batches,
        num_workers=min(num_workers, len(batches)),
        pin_memory=pin_memory,
        worker_init_fn=_begin_worker,
    )


def _begin_worker(worker: int) -> None:
    keep_freed_memory()
    # Ctrl-C and SLURM's signals reach the workers too; the rank ends them.
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
