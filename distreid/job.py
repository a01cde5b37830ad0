"""The main job: plan on rank 0, compute shards on every rank, verify and score on rank 0."""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from types import FrameType, ModuleType
from typing import Any

import h5py
import numpy as np
import PIL
import torch
import torchvision
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from torch import Tensor

import distreid
from distreid.agreement import check_files, shared_plan
from distreid.bad_images import BadImages
from distreid.cameras import camera_indices, cost
from distreid.compilation import EAGER, MODES, Drift, why_eager
from distreid.datasets import open_data
from distreid.datasets.summary import check_counts, describe
from distreid.distributed import Group, World, process_group
from distreid.errors import (
    CheckpointError,
    CompileError,
    OptionError,
    Stopped,
    StoreError,
    printable,
)
from distreid.evaluate import cannot_evaluate
from distreid.inference import Augmentation, Extractor, check_precision, choose_device
from distreid.loader import Batch, ImageRows, dead_workers_named, open_loader
from distreid.lock import hold
from distreid.manifest import Manifest, Status
from distreid.models.checkpoint import Model, load_model
from distreid.options import ExtractOptions
from distreid.plan import Plan, Shard, shard_rows_for
from distreid.progress import ProgressReport, duration
from distreid.report import evaluate_aloud, score_table, write_mat, write_metrics
from distreid.sampler import ShardSampler
from distreid.shards import Rows, ShardWriter, done_shards
from distreid.store import FORMAT, FeatureStore, begin, existing_plan, finish

# torchrun and SLURM end a job by SIGTERM, a person by SIGINT, submitit announces by SIGUSR2.
STOPPING_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
MAX_WORKERS = 16
FAILURES_SHOWN = 5


@dataclass
class Share:
    """What one rank has done, and where its time went, in seconds."""

    images: int = 0
    batches: int = 0
    waiting: float = 0.0
    """For the next batch: what of reading, decoding and resizing the workers did not hide."""
    forward: float = 0.0
    """Copy to the device, forward passes, copy back."""
    writing: float = 0.0
    failures: dict[int, str] = field(default_factory=dict)
    """Row → why its image could not be read."""


@dataclass(frozen=True)
class _Job:
    """What every step of a rank's work needs."""

    options: ExtractOptions
    group: Group
    device: torch.device
    model: Model
    log: Console
    """Of rank 0; silent elsewhere."""
    check_signals: Callable[[], None]

    @property
    def augmentation(self) -> Augmentation:
        """As asked for, else as the model's own code does."""
        flip = self.options.flip
        return Augmentation(
            flip=self.model.architecture.flip if flip is None else flip,
            scales=self.options.scales,
            scale_mode=self.options.scale_mode,
        )


def run(options: ExtractOptions, world: World) -> None:
    """Runs the whole job as one of its processes; UserError if it cannot be done."""
    log = Console(stderr=True, highlight=False, soft_wrap=True, quiet=not world.is_main)
    with contextlib.ExitStack() as held, _signals_stop() as check_signals:
        with process_group(world) as group:
            device = group.main_first(lambda: _device(options, world))
            log.print(f"[bold]distreid {distreid.__version__}[/] on {_machine(world, device)}")
            model = group.main_first(
                lambda: load_model(options.checkpoint, options.model, options.input_size)
            )
            job = _Job(options, group, device, model, log, check_signals)
            extractor = _extractor(job)
            todo = group.on_main(lambda: _plan(job, extractor, held))
            plan = _shared_plan(job)
            everyone = _extract(job, extractor, plan, todo)
        if world.is_main:
            _report_shares(everyone, plan, log)
            _finish(options, plan, log)


def _plan(job: _Job, extractor: Extractor, held: contextlib.ExitStack) -> list[Shard]:
    """Reads the data, says what is what, and starts or continues the run, holding its folder."""
    options, model, log = job.options, job.model, job.log
    manifest = open_data(
        options.data,
        options.layout,
        options.multi_query,
        split=options.split,
        pattern=options.pattern,
    )
    if options.strict_counts:
        check_counts(manifest)
    architecture, augmentation = model.architecture, job.augmentation
    cameras = camera_indices(manifest, architecture, options.camera_embedding)
    tta = "image and mirror image" if augmentation.flip else "image alone"
    if augmentation.scales != (1.0,):
        tta += f", {augmentation.scale_mode} scales {options.scales}"
    _section(log, "data", f"{manifest.root} ({manifest.layout})", describe(manifest))
    warnings = [] if cameras is None else cost(architecture, options.camera_embedding)
    _section(log, "model", str(model.checkpoint.file), model.describe() + warnings)
    _section(log, "run", str(options.out), [f"{tta}; {options.precision}"])
    held.enter_context(hold(options.out, log.print))
    mode, compilation = _compilation(job, extractor, manifest)
    plan = Plan(
        manifest=manifest,
        identity={
            "manifest": manifest.fingerprint(),
            "weights": model.checkpoint.sha256,
            "model": architecture.identity()
            | ({} if cameras is None else {"camera_embedding": options.camera_embedding}),
            "preprocess": architecture.preprocess.identity(),
            "augmentation": augmentation.identity(),
            "precision": options.precision,
            "dtype": options.dtype,
            "dim": architecture.dim,
            # Of the libraries that the features' last bits depend on.
            "versions": {"torch": _version(torch), "Pillow": _version(PIL), "store": FORMAT},
        }
        | ({} if mode == EAGER else {"compile": mode}),
        provenance=_provenance(job) | {"compilation": compilation},
        dim=architecture.dim,
        dtype=options.dtype,
        shard_rows=options.shard_rows or shard_rows_for(len(manifest)),
    )
    todo = begin(options.out, plan)
    _bad_images(options, plan).check()  # of former attempts
    total = len(plan.shards)
    if len(todo) < total:
        log.print(f"       {total - len(todo):,} of {total:,} shards are done already")
    if 0 < len(todo) < job.group.world.world_size:
        log.print(f"       {len(todo)} shards to do: some processes have no work")
    return todo


def _compilation(job: _Job, extractor: Extractor, manifest: Manifest) -> tuple[str, Any]:
    """Torch's mode of compilation or `EAGER`, and the drift or the reason, for the store.

    A run is continued as it was begun, and compiled only when it is clear that it has work.
    """
    options, existing = job.options, existing_plan(job.options.out)
    begun = existing.identity.get("compile", EAGER) if existing else None
    if existing and (options.compile == "auto" or MODES.get(options.compile) == begun):
        return str(begun), existing.provenance.get("compilation")
    if why := why_eager(options.compile, len(manifest), job.device):
        if options.compile != EAGER:
            job.log.print(f"       not compiled: {why}")
        return EAGER, why
    mode = MODES[options.compile]
    job.log.print("       compiling …")
    try:
        drift = _compile(job, extractor, manifest, mode)
    except CompileError as error:
        job.log.print(f"       not compiled: {escape(printable(str(error)))}")
        return EAGER, str(error)
    job.log.print(f"       {drift.describe()}")
    return mode, asdict(drift)


def _compile(job: _Job, extractor: Extractor, manifest: Manifest, mode: str) -> Drift:
    """Compiles the network, and tries it on the first rows."""
    rows = range(min(job.options.batch_size, len(manifest)))
    cameras = camera_indices(manifest, job.model.architecture, job.options.camera_embedding)
    batch = ImageRows(manifest, job.model.architecture.preprocess)[rows]
    first = None if cameras is None else cameras[: rows.stop]
    return extractor.compile(mode, job.options.batch_size, batch.images_BCHW, first)


def _compile_as_planned(job: _Job, extractor: Extractor, plan: Plan) -> None:
    """On every rank that has work: what rank 0 could, and others must."""
    mode = plan.identity.get("compile", EAGER)
    if mode == EAGER or extractor.compiled_rows:
        return
    try:
        _compile(job, extractor, plan.manifest, mode)
    except CompileError as error:
        raise OptionError(
            f"{_who(job.group.world)} cannot compile the network as the run in {job.options.out} "
            f"does ({error}); use --compile off and another --out"
        ) from error


def _extractor(job: _Job) -> Extractor:
    return Extractor(
        job.model,
        job.augmentation,
        precision=job.options.precision,
        device=job.device,
        threads=_threads(job.group.world),
    )


def _threads(world: World) -> int:
    """This process's share of the cores."""
    return max(1, _cores() // world.local_world_size)


def _shared_plan(job: _Job) -> Plan:
    """The plan that rank 0 wrote, once all ranks have found that they see what it saw."""
    plan = shared_plan(job.group, job.options.out)
    if plan.identity["weights"] != job.model.checkpoint.sha256:
        where = _who(job.group.world)
        raise StoreError(
            f"{job.model.checkpoint.file}: {where} sees another file than rank 0 under this name"
        )
    check_files(job.group, plan.manifest)
    return plan


def _extract(job: _Job, extractor: Extractor, plan: Plan, todo: list[Shard]) -> list[Share]:
    """Computes and writes this rank's shards, and waits for the others'; gives all shares."""
    world, out = job.group.world, job.options.out
    sampler = ShardSampler(todo, rank=world.rank, world_size=world.world_size)
    writer = ShardWriter(out, plan)
    if len(sampler):
        _compile_as_planned(job, extractor, plan)
    done_before = len(plan.manifest) - sum(map(len, todo))
    todo_rows = {shard.index: len(shard) for shard in todo}

    def rows_done() -> int:
        published = 0
        with contextlib.suppress(StoreError):  # the folder is gone: whoever writes will say so
            published = sum(todo_rows.get(index, 0) for index in done_shards(out))
        return done_before + published + writer.pending

    show = (
        ProgressReport(job.log, len(plan.manifest), rows_done) if world.is_main and todo else None
    )
    with show or contextlib.nullcontext():
        share = _extract_share(job, extractor, plan, sampler, writer)
        return job.group.gather(share)


def _extract_share(
    job: _Job, extractor: Extractor, plan: Plan, sampler: ShardSampler, writer: ShardWriter
) -> Share:
    """The loop: no message to another rank, no file but this rank's shards."""
    options = job.options
    cores = _threads(job.group.world)
    loader = open_loader(
        plan.manifest,
        job.model.architecture.preprocess,
        sampler,
        batch_size=options.batch_size,
        num_workers=min(cores, MAX_WORKERS) if options.num_workers is None else options.num_workers,
        pin_memory=job.device.type == "cuda",
    )
    cameras = camera_indices(plan.manifest, job.model.architecture, options.camera_embedding)
    share = Share()
    bad_images = _bad_images(options, plan, share.failures)
    clock = time.monotonic()
    with dead_workers_named(_who(job.group.world), loader, lambda: share.batches):
        for batch in loader:
            job.check_signals()
            job.group.check()
            bad_images.add(batch)
            arrived = time.monotonic()
            rows = _compute(extractor, batch, cameras, plan)
            computed = time.monotonic()
            writer.add(batch.rows, rows)
            share.waiting += arrived - clock
            share.forward += computed - arrived
            clock = time.monotonic()
            share.writing += clock - computed
            share.images += len(batch.rows)
            share.batches += 1
            job.group.reached(batch.rows[-1])
    return share


def _bad_images(
    options: ExtractOptions, plan: Plan, failures: dict[int, str] | None = None
) -> BadImages:
    return BadImages(
        run=options.out,
        plan=plan,
        on_bad_image=options.on_bad_image,
        max_bad=options.max_bad,
        failures={} if failures is None else failures,
    )


def _compute(extractor: Extractor, batch: Batch, cameras: Tensor | None, plan: Plan) -> Rows:
    """A batch's rows: NaN where there was no image, and finite elsewhere."""
    cameras_B = None if cameras is None else cameras[batch.rows.start : batch.rows.stop]
    try:
        features_BD, norm_B = (t.numpy() for t in extractor(batch.images_BCHW, cameras_B))
    except torch.OutOfMemoryError as error:
        raise OptionError(
            f"--batch-size {len(batch.rows)}: the GPU's memory is full; take a smaller one "
            "and run again to continue"
        ) from error
    readable = batch.status_B == Status.OK
    bad = readable & ~np.isfinite(features_BD).all(axis=1)
    if bad.any():
        row = batch.rows[int(np.flatnonzero(bad)[0])]
        raise CheckpointError(
            f"row {row}, {plan.manifest.file(row)}: the model gives NaN, infinity or a zero "
            "feature; check the checkpoint, or use --precision fp32"
        )
    features_BD[~readable] = norm_B[~readable] = np.nan
    return Rows(features=features_BD, norm=norm_B, status=batch.status_B)


def _finish(options: ExtractOptions, plan: Plan, log: Console) -> None:
    """Verifies the store, scores it, and says what was written."""
    started = time.monotonic()
    _bad_images(options, plan).check()
    finish(options.out, plan)
    store = FeatureStore.open(options.out, checksum=False)
    took = duration(time.monotonic() - started)
    log.print(f"[bold]store[/]  {len(plan.manifest):,} rows, each exactly once, verified in {took}")
    if bad := int((store.status != Status.OK).sum()):
        log.print(f"       {bad:,} images could not be read: their status says so, features NaN")
    written = [options.out / "store.h5"]
    if options.mat:
        written += write_mat(store)
    why_not = cannot_evaluate(store) if options.evaluate else "--no-evaluate"
    if why_not:
        log.print(f"[bold]scores[/] none: {why_not}")
    else:
        evaluation = evaluate_aloud(store, log)
        written.append(write_metrics(store, evaluation))
        Console(highlight=False).print(score_table(evaluation))
    for file in written:
        log.print(f"wrote  {escape(printable(str(file)))} ({decimal(file.stat().st_size)})")


def _report_shares(everyone: list[Share], plan: Plan, log: Console) -> None:
    images = sum(share.images for share in everyone)
    if not images:
        return
    spent = {
        "waiting for input": sum(share.waiting for share in everyone),
        "forward": sum(share.forward for share in everyone),
        "writing": sum(share.writing for share in everyone),
    }
    total = sum(spent.values())
    longest = max(share.waiting + share.forward + share.writing for share in everyone)
    parts = ", ".join(f"{name} {seconds / total:.0%}" for name, seconds in spent.items())
    log.print(
        f"[bold]time[/]   {images:,} images in {duration(longest)}, "
        f"{images / longest:,.0f} images/s: {parts}"
    )
    failures = {row: why for share in everyone for row, why in share.failures.items()}
    for row in sorted(failures)[:FAILURES_SHOWN]:
        line = f"       row {row}, {plan.manifest.file(row)}: {failures[row]}"
        log.print(escape(printable(line)))
    if len(failures) > FAILURES_SHOWN:
        log.print(f"       and {len(failures) - FAILURES_SHOWN:,} more images that cannot be read")


def _section(log: Console, title: str, first: str, lines: list[str]) -> None:
    log.print(f"[bold]{title:6}[/] {escape(printable(first))}")
    for line in lines:
        log.print(f"       {escape(printable(line))}")


def _device(options: ExtractOptions, world: World) -> torch.device:
    device = choose_device(options.device, world.local_rank)
    check_precision(options.precision, device)
    return device


def _who(world: World) -> str:
    return f"rank {world.rank} on {socket.gethostname()}"


def _machine(world: World, device: torch.device) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{_cores()} CPU cores"
    plural = "process" if world.world_size == 1 else "processes"
    return f"{name}, {world.world_size} {plural}"


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _provenance(job: _Job) -> dict[str, Any]:
    modules = {"h5py": h5py, "numpy": np, "torchvision": torchvision, "distreid": distreid}
    return {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "python": platform.python_version(),
        # A path may be no UTF-8, which the store's texts are.
        "command": shlex.join(sys.argv).encode("utf-8", "backslashreplace").decode(),
        "machine": _machine(job.group.world, job.device),
        "batch_size": job.options.batch_size,
        "versions": {name: _version(module) for name, module in modules.items()},
    }


def _version(module: ModuleType) -> str:
    """Without the build's suffix, such as +cu130."""
    return str(module.__version__).partition("+")[0]


@contextlib.contextmanager
def _signals_stop() -> Iterator[Callable[[], None]]:
    """Within it, a signal to end raises Stopped, so that what is open is closed.

    Gives a function that raises it again, if a signal came where exceptions are lost: in a
    destructor, or in a callback of the fork of a worker.
    """
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)
        # What was half-made when the signal came complains when it is thrown away.
        sys.unraisablehook = lambda unraisable: None
        raise Stopped(number)

    def check() -> None:
        if received:
            raise Stopped(received[0])

    before = {number: signal.signal(number, stop) for number in STOPPING_SIGNALS}
    try:
        yield check
    except Exception:
        check()  # what a worker process says that got the signal too
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
