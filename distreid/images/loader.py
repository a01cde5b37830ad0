"""From rows to uint8 batches: files are read and decoded in worker processes."""

from __future__ import annotations

import contextlib
import functools
import itertools
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from distreid.data.archives import indexes_of
from distreid.data.manifest import Manifest, Status
from distreid.errors import DataError, ImageError
from distreid.host.memory import keep_freed_memory
from distreid.images.device_resize import Sizes, originals_or_resized
from distreid.images.image_cache import CacheUse, Decoded, ImageCache
from distreid.images.preprocess import Preprocess
from distreid.images.read_ahead import ReadAhead
from distreid.images.resize_loops import compiled_loops
from distreid.images.sampler import ShardBatches, ShardSampler, frame_starts
from distreid.images.shared_memory import Slots, by_pipe
from distreid.store.bad_images import OUT_OF_MEMORY

T = TypeVar("T")
SWITCH_S = 0.0001
"""For how long the thread that decodes keeps Python from the one that has requests in flight."""
Failed = dict[int, tuple[Status, str]]
"""Row → what is wrong with its image."""


@dataclass(frozen=True)
class Batch:
    """Consecutive rows of one shard. B rows; an image that could not be read is black."""

    rows: range
    images_BCHW: Tensor
    """(B, 3, height, width) uint8, RGB; or with `sizes` the original pixels (B, 3, h, w)."""
    status_B: NDArray[np.uint8]
    """(B,) values of `Status`."""
    failures: dict[int, str]
    """Row → why it could not be read; `OUT_OF_MEMORY` is no fault of the image."""

    cache: CacheUse = field(default_factory=CacheUse)
    """What the cache gave, if there is one."""

    sizes: Sizes | None = None
    """Of images that are still to be resized, each in the upper left corner of its place."""

    def pin_memory(self) -> Batch:
        """DataLoader's protocol for page-locked memory."""
        return replace(self, images_BCHW=self.images_BCHW.pin_memory())


class ImageRows(Dataset[Batch]):
    """A manifest's images; indexed by a range of rows, so that a worker makes a whole batch."""

    def __init__(
        self,
        manifest: Manifest,
        preprocess: Preprocess,
        cache: ImageCache | None = None,
        *,
        originals: bool = False,
        batches: Iterable[range] = (),
    ) -> None:
        """With `originals`, images that are small leave as they are, for the device to resize.
        `batches` as in `ReadAhead`."""
        self.originals = originals and cache is None and preprocess.is_plain
        self.manifest = manifest
        self.preprocess = preprocess
        self.cache = cache
        self.ahead = ReadAhead(manifest, batches)

    def __getitem__(self, rows: range) -> Batch:
        use = CacheUse()
        sizes: Sizes | None = None
        if self.cache:
            (images_BCHW, failed), use = self.cache.through(rows, self._decode)
        elif self.originals:
            collect = functools.partial(originals_or_resized, preprocess=self.preprocess)
            (images_BCHW, sizes), failed = self._read(rows, collect)
        else:
            images_BCHW, failed = self._decode(rows)
        status_B = np.full(len(rows), Status.OK, dtype=np.uint8)
        for row, (status, _) in failed.items():
            status_B[row - rows.start] = status
        why = {row: failed[row][1] for row in failed}
        return Batch(rows, images_BCHW, status_B, why, use, sizes)

    def _decode(self, rows: Sequence[int]) -> Decoded:
        return self._read(rows, self.preprocess.resize)

    def _read(
        self, rows: Sequence[int], collect: Callable[[Iterable[NDArray[np.uint8]]], T]
    ) -> tuple[T, Failed]:
        self.ahead.begin(rows)
        failed: Failed = {}
        load = self.preprocess.loader()
        black = np.zeros((self.preprocess.height, self.preprocess.width, 3), np.uint8)

        def pixels(row: int) -> NDArray[np.uint8]:
            try:
                return load(self.manifest.file(row))
            except FileNotFoundError:
                failed[row] = Status.MISSING, "no such file"
            except ImageError as error:
                failed[row] = Status.UNREADABLE, str(error)
            except MemoryError:
                failed[row] = Status.UNREADABLE, OUT_OF_MEMORY
            return black

        try:
            return collect(map(pixels, rows)), failed
        except MemoryError:
            failed = dict.fromkeys(rows, (Status.UNREADABLE, OUT_OF_MEMORY))
            return collect(black for _ in rows), failed


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
    originals: bool = False,
    skipped: int = 0,
) -> BatchLoader:
    """The sampler's rows as Batches, in the sampler's order, without the first `skipped`;
    `originals` as for `ImageRows`."""
    starts = frame_starts(manifest.path)
    batches = ShardBatches(sampler.shards, batch_size, starts, skipped=skipped)
    # Once, before the workers are forked, who inherit them.
    compiled_loops()
    with contextlib.suppress(OSError, DataError):  # then each of its images says so
        indexes_of(manifest)
    return BatchLoader(
        ImageRows(manifest, preprocess, cache, originals=originals, batches=batches),
        batch_size=None,  # the sampler yields whole batches already
        sampler=batches,
        num_workers=min(num_workers, len(batches)),
        pin_memory=pin_memory,
        worker_init_fn=_begin_worker,
    )


def _begin_worker(worker: int) -> None:
    threading.Thread(target=_end_with_rank, daemon=True).start()
    keep_freed_memory()
    sys.setswitchinterval(SWITCH_S)
    # Ctrl-C and SLURM's signals reach the workers too; the rank ends them.
    for number in (signal.SIGINT, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def _end_with_rank() -> None:
    """In a worker: ends it when its rank is killed. It would wait for ever to hand over a batch
    that nobody takes, and whoever started the rank for the worker to let go of its output."""
    rank = multiprocessing.parent_process()
    if rank is not None:
        rank.join()
        os._exit(1)


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
