"""What one rank does between start and end: its shards of every run, in one pass over the images.

No message to another rank, no file but this rank's shards.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape

from distreid.data.manifest import Status
from distreid.errors import CheckpointError, ImageError, OptionError, StoreError, printable
from distreid.host.counts import counted
from distreid.host.machine import cores
from distreid.host.phases import Phases
from distreid.host.progress import duration
from distreid.images.image_cache import CacheUse, ImageCache
from distreid.images.loader import (
    Batch,
    BatchLoader,
    ImageRows,
    dead_workers_named,
    open_loader,
)
from distreid.images.sampler import ShardBatches, ShardSampler
from distreid.images.worker_count import WatchedInput, measure
from distreid.inference.extractor import CPU_ROWS, Extractor, Pending
from distreid.job.options import ExtractOptions
from distreid.job.runs import Computed, Run, augmentation
from distreid.models.camera_embedding import camera_indices
from distreid.models.checkpoint import Model
from distreid.ranks.group import Group
from distreid.store.bad_images import BadImages
from distreid.store.plan import Plan, Shard
from distreid.store.shards import Rows, ShardWriter, done_shards

FAILURES_SHOWN = 5


@dataclass(frozen=True)
class Job:
    """What every step of a rank's work needs."""

    options: ExtractOptions
    group: Group
    device: torch.device
    log: Console
    """Of rank 0; silent elsewhere."""
    check_signals: Callable[[], None]
    phases: Phases = field(default_factory=Phases)
    """Where this rank's time goes."""

    @property
    def cores(self) -> int:
        """This process's share of its host's."""
        return max(1, cores() // self.group.world.local_world_size)


@dataclass
class RankReport:
    """What one rank has done, and where its time went, in seconds."""

    images: int = 0
    """Each counts once, however many checkpoints it was for."""
    batches: int = 0
    last_row: int = -1
    """That has its features, while others are being computed."""
    waiting: float = 0.0
    """For the next batch: what of reading, decoding and resizing the workers did not hide."""
    forward: float = 0.0
    """Copy to the device, forward passes, copy back."""
    writing: float = 0.0
    """What of writing shards did not go on beside the rest."""
    failures: dict[int, str] = field(default_factory=dict)
    """Row → why its image could not be read."""
    cache: CacheUse = field(default_factory=CacheUse)


def make_extractor(job: Job, model: Model, computed: Computed) -> Extractor:
    """A model on this rank's device; an engine other than torch is loaded later."""
    with _full_gpu_memory_explained(job.options.batch_size):
        return Extractor(
            model,
            augmentation(job.options, model),
            precision=computed.precision,
            device=job.device,
            threads=job.cores,
            engine=computed.engine,
        )


class RunWork:
    """One run's part in it: batches to rows, rows to this run's shards.

    While the device computes a batch, the rows of one before are stored.
    """

    def __init__(self, job: Job, run: Run, extractor: Extractor) -> None:
        self.run = run
        self.batch_size = job.options.batch_size
        self.extractor = extractor
        send = run.copy.send if run.copy else None
        self.writer = ShardWriter(run.folder, run.plan, send)
        self.bad_images = bad_images(job.options, run.folder, run.plan)
        self.cameras = camera_indices(
            run.plan.manifest, run.model.architecture, job.options.camera_embedding
        )
        self.todo = {shard.index for shard in run.todo}
        self._begun: deque[tuple[Batch, Pending]] = deque()

    def wants(self, batch: Batch) -> bool:
        """Whether this run lacks the batch's shard."""
        return batch.rows.start // self.run.plan.shard_rows in self.todo

    def begin(self, batch: Batch) -> Pending:
        """Has the device compute a batch."""
        part = slice(batch.rows.start, batch.rows.stop)
        cameras_B = None if self.cameras is None else self.cameras[part]
        with _full_gpu_memory_explained(self.batch_size):
            return self.extractor.begin(batch.images_BCHW, cameras_B, batch.sizes)

    def take(self, batch: Batch, share: RankReport) -> None:
        """Begins a batch, and finishes the oldest one if enough are in flight; adds the time that
        it took to `share`."""
        self.bad_images.add(batch.failures)
        share.failures |= batch.failures
        started = time.monotonic()
        pending = self.begin(batch)
        share.forward += time.monotonic() - started
        self._begun.append((batch, pending))
        if len(self._begun) >= self.extractor.in_flight:
            self._finish(*self._begun.popleft(), share)

    def end(self, share: RankReport) -> None:
        """Finishes what was begun, and waits until all is on the disk."""
        while self._begun:
            self._finish(*self._begun.popleft(), share)
        started = time.monotonic()
        self.writer.wait()
        share.writing += time.monotonic() - started

    def cancel(self) -> None:
        """Lets go of what was begun."""
        for _, pending in self._begun:
            pending.cancel()

    def _finish(self, batch: Batch, pending: Pending, share: RankReport) -> None:
        started = time.monotonic()
        rows = self._rows(batch, pending)
        computed = time.monotonic()
        self.writer.add(batch.rows, rows)
        share.last_row = batch.rows[-1]
        share.forward += computed - started
        share.writing += time.monotonic() - computed

    def _rows(self, batch: Batch, pending: Pending) -> Rows:
        """A batch's rows: NaN where there was no image, and finite elsewhere."""
        with _full_gpu_memory_explained(self.batch_size):
            features_BD, norm_B = (tensor.numpy() for tensor in pending.result())
        readable = batch.status_B == Status.OK
        # The length of large but finite outputs can be infinite: then the feature is zero.
        bad = readable & ~(np.isfinite(features_BD).all(axis=1) & np.isfinite(norm_B))
        if bad.any():
            row = batch.rows[int(np.flatnonzero(bad)[0])]
            raise CheckpointError(
                f"row {row}, {self.run.plan.manifest.file(row)}: the model gives NaN, infinity or "
                f"a zero feature; check {self.run.model.checkpoint.file}, or use --precision fp32"
            )
        features_BD[~readable] = norm_B[~readable] = np.nan
        return Rows(features=features_BD, norm=norm_B, status=batch.status_B)


@contextlib.contextmanager
def _full_gpu_memory_explained(batch_size: int) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OptionError(
            f"--batch-size {batch_size}: the GPU's memory is full; take a smaller one, or "
            "fewer checkpoints, and run again to continue"
        ) from error


def compute_shards(job: Job, works: Sequence[RunWork], sampler: ShardSampler) -> RankReport:
    """The loop: every batch is read once, and goes to each run that lacks it."""
    options, first = job.options, works[0].run
    if not len(sampler):
        return RankReport()
    manifest, preprocess = first.plan.manifest, first.model.architecture.preprocess
    cache = image_cache(options, first.plan, first.model)
    # A GPU resizes small images at no cost; a CPU has faster loops in its workers.
    originals = job.device.type == "cuda"
    workers, watched = options.num_workers, None
    if workers is None:
        images = ImageRows(manifest, preprocess, cache, originals=originals)
        workers = _measured_workers(job, works, images, sampler)
        watched = WatchedInput(workers, job.cores)
    share = RankReport()
    with _ended_or_cancelled(works, share):
        more: int | None = workers
        while more is not None:
            loader = open_loader(
                manifest,
                preprocess,
                sampler,
                batch_size=options.batch_size,
                num_workers=more,
                pin_memory=job.device.type == "cuda",
                cache=cache,
                originals=originals,
                skipped=share.batches,
            )
            more = _take_batches(job, works, loader, share, watched)
            watched = None
        for work in works:
            work.end(share)
    return share


def _take_batches(
    job: Job,
    works: Sequence[RunWork],
    loader: BatchLoader,
    share: RankReport,
    watched: WatchedInput | None,
) -> int | None:
    """Every batch of the loader; or, if it is found to be too slow, how many decoding processes a
    loader of the rest should have."""
    first, clock = share.batches, time.monotonic()
    with dead_workers_named(str(job.group.world), loader, lambda: share.batches - first):
        for batch in loader:
            waited = time.monotonic() - clock
            share.waiting += waited
            job.check_signals()
            job.group.check()
            for work in works:
                if work.wants(batch):
                    work.take(batch, share)
            share.images += len(batch.rows)
            share.batches += 1
            share.cache.add(batch.cache)
            job.group.reached(share.last_row)
            begun, clock = clock, time.monotonic()
            if watched and share.batches > 1:
                watched.add(len(batch.rows), clock - begun, waited)
                if better := watched.better():
                    waits = (
                        f"the model waits for {watched.waiting / watched.seconds:.0%} of the time"
                    )
                    job.log.print(
                        f"[bold]input[/]  {waits}: {better} decoding processes from here on"
                    )
                    return better
    return None


def _measured_workers(
    job: Job, works: Sequence[RunWork], images: ImageRows, sampler: ShardSampler
) -> int:
    """How many decoding processes keep this rank's device at work."""
    rows = next(iter(ShardBatches(sampler.shards, job.options.batch_size)))
    on_cpu = job.device.type == "cpu"
    if on_cpu:
        rows = rows[: CPU_ROWS * job.cores]  # a pass for every core

    def compute(batch: Batch) -> int:
        for work in works:
            work.begin(batch).result()
        return len(batch.rows)

    pace = measure(images, rows, compute, warm_up=not on_cpu)
    job.log.print(f"[bold]input[/]  {pace.describe(job.cores)}")
    return pace.workers(job.cores)


@contextlib.contextmanager
def _ended_or_cancelled(works: Sequence[RunWork], share: RankReport) -> Iterator[None]:
    """An image that ends the job leaves what was begun before it good, in every run; a job that is
    stopped does not wait for that."""
    with contextlib.ExitStack() as held:
        for work in works:
            held.callback(work.cancel)
            held.enter_context(work.extractor.as_compiled())
        try:
            yield
        except ImageError:
            for work in works:
                work.end(share)
            raise


def missing_shards(runs: Sequence[Run]) -> list[Shard]:
    """The shards that any run lacks, in row order."""
    return sorted({shard for run in runs for shard in run.todo}, key=lambda shard: shard.index)


def count_rows(works: Sequence[RunWork], todo: Sequence[Shard]) -> Callable[[], int]:
    """A function that tells how many rows have their features of every checkpoint by now."""
    before = len(works[0].run.plan.manifest) - sum(map(len, todo))
    rows_of = {shard.index: len(shard) for shard in todo}

    def rows_done() -> int:
        published = 0
        with contextlib.suppress(StoreError):  # the folder is gone: whoever writes will say so
            everywhere = set.intersection(*(done_shards(work.run.folder) for work in works))
            published = sum(rows_of.get(index, 0) for index in everywhere)
        return before + published + max(work.writer.pending for work in works)

    return rows_done


def image_cache(options: ExtractOptions, plan: Plan, model: Model) -> ImageCache | None:
    """The cache of the images as all checkpoints take them, if there is to be one."""
    folder = options.cache
    return ImageCache(folder, plan, model.architecture.preprocess) if folder else None


def bad_images(options: ExtractOptions, run: Path, plan: Plan) -> BadImages:
    """The count of a run's bad images, by the options."""
    return BadImages(run=run, plan=plan, on_bad_image=options.on_bad_image, max_bad=options.max_bad)


def report_ranks(shares: Sequence[RankReport], runs: Sequence[Run], log: Console) -> None:
    """Says what all ranks have done together, and which images could not be read."""
    images = sum(share.images for share in shares)
    if not images:
        return
    spent = {
        "waiting for input": sum(share.waiting for share in shares),
        "forward": sum(share.forward for share in shares),
        "writing": sum(share.writing for share in shares),
    }
    total = sum(spent.values())
    longest = max(share.waiting + share.forward + share.writing for share in shares)
    parts = ", ".join(f"{name} {seconds / total:.0%}" for name, seconds in spent.items())
    once = f", each read once for {len(runs)} checkpoints," if len(runs) > 1 else ""
    log.print(
        f"[bold]time[/]   {counted(images, 'image')}{once} in {duration(longest)}, "
        f"{images / longest:,.0f} images/s: {parts}"
    )
    use = CacheUse()
    for share in shares:
        use.add(share.cache)
    if use.found or use.fault:
        fault = f"; the job went on without: {use.fault}" if use.fault else ""
        log.print(f"[bold]cache[/]  gave {use.found:,} of these images{fault}")
    failures = {row: why for share in shares for row, why in share.failures.items()}
    for row in sorted(failures)[:FAILURES_SHOWN]:
        line = f"       row {row}, {runs[0].plan.manifest.file(row)}: {failures[row]}"
        log.print(escape(printable(line)))
    if len(failures) > FAILURES_SHOWN:
        log.print(f"       and {len(failures) - FAILURES_SHOWN:,} more images that cannot be read")
