"""The main job: plan on rank 0, compute shards on every rank, verify and score on rank 0."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape

import distreid
from distreid.agreement import check_files, check_versions, shared_plan
from distreid.cameras import cost
from distreid.compile_run import compile_as_planned, decide
from distreid.datasets.summary import describe
from distreid.distributed import World, process_group
from distreid.epochs import compare_epochs
from distreid.errors import DataError, StoreError, printable
from distreid.evaluate import Evaluation, cannot_evaluate
from distreid.inference import Extractor, check_precision, choose_device
from distreid.lock import hold
from distreid.manifest import Status
from distreid.models.checkpoint import Model
from distreid.options import ExtractOptions
from distreid.plan import Plan, Shard
from distreid.progress import ProgressReport, duration
from distreid.provenance import machine, provenance
from distreid.report import (
    evaluate_aloud,
    say_written,
    score_table,
    write_mat,
    write_metrics,
)
from distreid.runs import Run, augmentation, load_models, make_plan, read_manifest, run_folders
from distreid.sampler import ShardSampler
from distreid.share import (
    Job,
    Share,
    Work,
    bad_images,
    compute_share,
    count_rows,
    image_cache,
    make_extractor,
    missing_shards,
    report_shares,
)
from distreid.signals import signals_stop
from distreid.store import FeatureStore, begin, finish


def run(options: ExtractOptions, world: World) -> None:
    """Runs the whole job as one of its processes; UserError if it cannot be done."""
    log = Console(stderr=True, highlight=False, soft_wrap=True, quiet=not world.is_main)
    with contextlib.ExitStack() as held, signals_stop() as check_signals:
        with process_group(world) as group:
            check_versions(group)
            device = group.main_first(lambda: _device(options, world))
            log.print(f"[bold]distreid {distreid.__version__}[/] on {machine(world, device)}")
            folders = group.main_first(lambda: run_folders(options))
            models = group.main_first(lambda: load_models(options))
            job = Job(options, group, device, log, check_signals)
            extractors = [make_extractor(job, model) for model in models]
            todo = group.on_main(lambda: _begin(job, folders, models, extractors, held))
            runs = _agreed(job, folders, models, todo)
            here = [_at_own_root(job, run) for run in runs]
            check_files(group, here[0].plan.manifest)
            everyone = _extract(job, here, extractors)
        if world.is_main:
            report_shares(everyone, runs, log)
            _finish(options, runs, log)


def _begin(
    job: Job,
    folders: Sequence[Path],
    models: Sequence[Model],
    extractors: Sequence[Extractor],
    held: contextlib.ExitStack,
) -> list[list[Shard]]:
    """Reads the data, says what is what, and starts or continues each run, holding its folder.

    Gives the shards that each lacks.
    """
    options, log = job.options, job.log
    manifest = read_manifest(options)
    made = provenance(job.group.world, job.device, options)
    plans: list[Plan] = []
    _section(log, "data", f"{manifest.root} ({manifest.layout})", describe(manifest))
    todo: list[list[Shard]] = []
    said: set[str] = set()
    for folder, model, extractor in zip(folders, models, extractors, strict=True):
        _introduce(job, folder, model, said)
        held.enter_context(hold(folder, log.print))
        mode, compilation = decide(job, folder, model, extractor, manifest)
        plan = make_plan(options, manifest, model, made | {"compilation": compilation}, mode)
        plans.append(plan)
        todo.append(begin(folder, plan))
        bad_images(options, folder, plan).check()  # of former attempts
        if done := len(plan.shards) - len(todo[-1]):
            log.print(f"       {done:,} of {len(plan.shards):,} shards are done already")
    left = {shard for shards in todo for shard in shards}
    if 0 < len(left) < job.group.world.world_size:
        log.print(f"       {len(left)} shards to do: some processes have no work")
    if left and len(models) > 1:
        log.print(_memory(models, plans))
    if left and (cache := image_cache(options, plans[0], models[0])):
        _section(log, "cache", cache.prepare(sum(map(len, left))), [])
    return todo


def _introduce(job: Job, folder: Path, model: Model, said: set[str]) -> None:
    """Says what a checkpoint was taken for, and what is done with it; nothing is `said` twice."""
    options, architecture = job.options, model.architecture
    lines = model.describe()
    if architecture.cameras is not None:
        lines += cost(architecture, options.camera_embedding)
    augmented = augmentation(options, model)
    tta = "image and mirror image" if augmented.flip else "image alone"
    if augmented.scales != (1.0,):
        tta += f", {augmented.scale_mode} scales {options.scales}"
    how = [f"{tta}; {options.precision}"]
    for title, what, about in (("model", model.checkpoint.file, lines), ("run", folder, how)):
        _section(job.log, title, str(what), [line for line in about if line not in said])
        said |= set(about)


def _memory(models: Sequence[Model], plans: Sequence[Plan]) -> str:
    """What several checkpoints at once take beside what one takes."""
    weights = sum(t.nbytes for model in models for t in model.network.state_dict().values())
    shards = sum(plan.shard_rows * plan.dim * plan.stored_type.itemsize for plan in plans)
    return (
        f"{len(models)} checkpoints at once: each process holds {decimal(weights)} of weights and "
        f"up to {decimal(shards)} of unfinished shards"
    )


def _agreed(
    job: Job, folders: Sequence[Path], models: Sequence[Model], todo: Sequence[list[Shard]]
) -> list[Run]:
    """The runs that rank 0 began, once all ranks have found that they see what it saw."""
    runs = []
    for folder, model, shards in zip(folders, models, todo, strict=True):
        plan = shared_plan(job.group, folder)
        if plan.identity["weights"] != model.checkpoint.sha256:
            raise StoreError(
                f"{model.checkpoint.file}: {job.group.world} sees another file than rank 0 under "
                "this name"
            )
        runs.append(Run(folder=folder, model=model, plan=plan, todo=shards))
    return runs


def _at_own_root(job: Job, run: Run) -> Run:
    """The run with --data-root as this host knows it, if that was given."""
    if job.options.data_root is None:
        return run
    root = Path(os.path.expandvars(job.options.data_root))
    if not root.is_dir():
        raise DataError(
            f"--data-root {job.options.data_root}: {job.group.world} has no folder {root}"
        )
    return replace(run, plan=replace(run.plan, manifest=replace(run.plan.manifest, root=root)))


def _extract(job: Job, runs: Sequence[Run], extractors: Sequence[Extractor]) -> list[Share]:
    """Computes and writes this rank's shards, and waits for the others'; gives all shares."""
    world, todo = job.group.world, missing_shards(runs)
    sampler = ShardSampler(todo, rank=world.rank, world_size=world.world_size)
    if len(sampler):
        for run, extractor in zip(runs, extractors, strict=True):
            compile_as_planned(job, run, extractor)
    works = [Work(job, run, extractor) for run, extractor in zip(runs, extractors, strict=True)]
    rows = len(runs[0].plan.manifest)
    show = (
        ProgressReport(job.log, rows, count_rows(works, todo)) if world.is_main and todo else None
    )
    with show or contextlib.nullcontext():
        return job.group.gather(compute_share(job, works, sampler))


def _finish(options: ExtractOptions, runs: Sequence[Run], log: Console) -> None:
    """Verifies the stores, scores them, and says what was written."""
    written: list[Path] = []
    evaluations: dict[Path, Evaluation] = {}
    for run in runs:
        if len(runs) > 1:
            _section(log, "run", str(run.folder), [])
        store = _complete(options, run, log)
        written.append(run.folder / "store.h5")
        if options.mat:
            written += write_mat(store)
        if why_not := cannot_evaluate(store) if options.evaluate else "--no-evaluate":
            log.print(f"[bold]scores[/] none: {why_not}")
        else:
            evaluations[run.folder] = evaluate_aloud(store, log)
            written.append(write_metrics(store, evaluations[run.folder]))
    if len(runs) > 1 and evaluations:
        written += compare_epochs(options.out, evaluations, log)
    else:
        for evaluation in evaluations.values():
            Console(highlight=False).print(score_table(evaluation))
    say_written(log, written)


def _complete(options: ExtractOptions, run: Run, log: Console) -> FeatureStore:
    """Verifies what all ranks have written, and makes a store of it."""
    started = time.monotonic()
    bad_images(options, run.folder, run.plan).check()
    finish(run.folder, run.plan)
    store = FeatureStore.open(run.folder, checksum=False)
    took = duration(time.monotonic() - started)
    rows = len(run.plan.manifest)
    log.print(f"[bold]store[/]  {rows:,} rows, each exactly once, verified in {took}")
    if bad := int((store.status != Status.OK).sum()):
        log.print(f"       {bad:,} images could not be read: their status says so, features NaN")
    return store


def _section(log: Console, title: str, first: str, lines: Sequence[str]) -> None:
    log.print(f"[bold]{title:6}[/] {escape(printable(first))}")
    for line in lines:
        log.print(f"       {escape(printable(line))}")


def _device(options: ExtractOptions, world: World) -> torch.device:
    # A task of srun's sees the GPUs that SLURM gave it: one, or all of its host's.
    device = choose_device(options.device, world.local_rank, bound=world.meeting is not None)
    check_precision(options.precision, device)
    return device
