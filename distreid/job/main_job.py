"""The main job: plan on rank 0, compute shards on every rank, verify and score on rank 0."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape

import distreid
from distreid.data.archive_index import save_indexes
from distreid.data.archives import check_unchanged, indexes_of, take_indexes
from distreid.data.locators import is_address
from distreid.data.manifest import Status
from distreid.data.source import at_own_root
from distreid.data.summary import describe, shown_root
from distreid.errors import StoreError, printable
from distreid.evaluation.evaluate import Evaluation, cannot_evaluate
from distreid.evaluation.with_progress import evaluate_run
from distreid.host.atomic_files import make_folder
from distreid.host.counts import counted
from distreid.host.folder_lock import hold
from distreid.host.machine import cpu_kind
from distreid.host.phases import Phases
from distreid.host.progress import ProgressReport, duration
from distreid.host.signals import signals_stop
from distreid.host.terminal import print_whole
from distreid.images.sampler import ShardSampler
from distreid.inference.extractor import Extractor, choose_device
from distreid.job.agreement import check_files, check_versions, copied_plan, shared_plan
from distreid.job.engine_decision import compute_as_planned, computed_by, decide
from distreid.job.epochs import compare_epochs
from distreid.job.merged_tracklets import TRACKLETS, check_mergeable, merge_tracklets
from distreid.job.options import ExtractOptions
from distreid.job.provenance import machine, provenance
from distreid.job.rank_work import (
    Job,
    RankReport,
    RunWork,
    bad_images,
    compute_shards,
    count_rows,
    image_cache,
    make_extractor,
    missing_shards,
    report_ranks,
)
from distreid.job.runs import (
    Run,
    augmentation,
    fills_passes,
    load_models,
    make_plan,
    read_manifest,
    run_folders,
)
from distreid.job.same_images import SIZES, check_same_images, sizes_of
from distreid.models.camera_embedding import describe_choice
from distreid.models.checkpoint import Model
from distreid.ranks.group import World, process_group
from distreid.report.mat_file import write_mat
from distreid.report.scores import say_written, score_table, write_metrics
from distreid.store import FeatureStore
from distreid.store.plan import Plan, Shard
from distreid.store.root_file import existing_plan
from distreid.store.run_copy import RunCopy, copy_of
from distreid.store.run_folder import begin, finish


def run(options: ExtractOptions, world: World, phases: Phases | None = None) -> None:
    """Runs the whole job as one of its processes; UserError if it cannot be done.

    `phases` may know already what went before.
    """
    phases = phases or Phases()
    copy = copy_of(options.out) if is_address(options.out) else None
    if copy:
        options = replace(options, out=copy.folder)
    log = Console(stderr=True, highlight=False, soft_wrap=True, quiet=not world.is_main)
    with contextlib.ExitStack() as held, signals_stop() as check_signals:
        with process_group(world) as group:
            check_versions(group)
            cpus = group.gather(cpu_kind())
            device = group.main_first(lambda: _device(options, world))
            if device.type == "cpu" and len(set(cpus)) > 1:
                log.print(
                    f"       different CPUs ({'; '.join(sorted(set(cpus)))}): the last bits of a "
                    "feature may depend on which computes it"
                )
            job = Job(options, group, device, log, check_signals, phases)
            with _named(copy):
                folders = group.main_first(lambda: run_folders(options, copy))
            copies = [copy and copy.of(folder) for folder in folders]
            group.on_main(lambda: _fetch(job, copies, held))
            with phases("checkpoint"):
                models = group.main_first(lambda: load_models(options))
                wanted = group.on_main(
                    lambda: [
                        computed_by(options, device, existing_plan(run), model)
                        for run, model in zip(folders, models, strict=True)
                    ]
                )
                extractors = [
                    make_extractor(job, model, computed)
                    for model, computed in zip(models, wanted, strict=True)
                ]
            with phases("planning"):
                todo = group.on_main(lambda: _begin(job, folders, copies, models, extractors, held))
                runs = _agreed(job, folders, copies, models, todo)
            runs_here = [_at_own_root(job, run) for run in runs]
            check_files(group, runs_here[0].plan.manifest)
            with phases("extracting"):
                shares = _extract(job, runs_here, extractors)
        if world.is_main:
            report_ranks(shares, runs, log)
            _finish(options, runs, log, phases, copy)
            _section(log, "phases", phases.describe(), [])


def _named(copy: RunCopy | None) -> contextlib.AbstractContextManager[RunCopy | None]:
    """Lets errors of a copy's folder name the address that the user gave."""
    return copy.named() if copy else contextlib.nullcontext()


def _fetch(job: Job, copies: Sequence[RunCopy | None], held: contextlib.ExitStack) -> None:
    """Makes each copy what the object store has of its run, and holds its folder."""
    for copy in filter(None, copies):
        make_folder(copy.folder)
        with copy.named():
            held.enter_context(hold(copy.folder, job.log.print))
        copy.try_writing()
        there = copy.listed()
        copy.fetch_root(there)
        copy.fetch_shards(there, job.log.print)


def _begin(
    job: Job,
    folders: Sequence[Path],
    copies: Sequence[RunCopy | None],
    models: Sequence[Model],
    extractors: Sequence[Extractor],
    held: contextlib.ExitStack,
) -> list[list[Shard]]:
    """Reads the data, says what is what, and starts or continues each run, holding its folder.

    Gives the shards that each lacks.
    """
    options, log = job.options, job.log
    with job.phases("listing"):
        manifest = read_manifest(options)
        if options.merge != "no":
            check_mergeable(manifest, options.merge_top)
        about = describe(manifest)
    # Only now: what cannot be read is one line, and nothing before it.
    where = machine(job.group.world, job.device)
    log.print(f"[bold]distreid {distreid.__version__}[/] on {where}")
    made = provenance(job.group.world, job.device, options)
    plans: list[Plan] = []
    _section(log, "data", f"{shown_root(manifest)} ({manifest.layout})", about)
    todo: list[list[Shard]] = []
    told: set[str] = set()
    for folder, copy, model, extractor in zip(folders, copies, models, extractors, strict=True):
        _introduce(job, folder, copy, model, told)
        if not copy:
            held.enter_context(hold(folder, log.print))
        with _named(copy):
            decision = decide(job, folder, model, extractor, manifest)
        begun = existing_plan(folder)
        for line in check_same_images(folder, begun, manifest):
            log.print(f"       {escape(printable(line))}")
        made_here = made | {"compilation": decision.compilation, "engine": decision.drift}
        made_here |= {SIZES: sizes_of(manifest)}
        before = begun and begun.provenance.get("cpu")
        if job.device.type == "cpu" and before not in (None, made["cpu"]):
            log.print(f"       begun on another CPU ({before}): last bits may differ from here on")
        plan = make_plan(options, manifest, model, made_here, decision.computed, begun)
        plans.append(plan)
        check_unchanged(folder, manifest)
        with _named(copy):
            todo.append(begin(folder, plan))
        save_indexes(folder, indexes_of(manifest))
        if copy:
            copy.send_all()
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


def _introduce(job: Job, folder: Path, copy: RunCopy | None, model: Model, told: set[str]) -> None:
    """Says what a checkpoint was taken for, and what is done with it, but for lines that were
    `told` before; adds to these."""
    options, architecture = job.options, model.architecture
    lines = model.describe()
    if architecture.cameras is not None:
        lines += describe_choice(architecture, options.camera_embedding)
    augmented = augmentation(options, model)
    tta = "image and mirror image" if augmented.flip else "image alone"
    if augmented.scales != (1.0,):
        tta += f", {augmented.scale_mode} scales {options.scales}"
    where = [f"its copy on this machine is {folder}"] if copy else []
    run = copy.address if copy else folder
    for title, what, about in (
        ("model", model.checkpoint.file, lines),
        ("run", run, [tta, *where]),
    ):
        _section(job.log, title, str(what), [line for line in about if line not in told])
        told |= set(about)


def _memory(models: Sequence[Model], plans: Sequence[Plan]) -> str:
    """What several checkpoints at once take beside what one takes."""
    weights = sum(t.nbytes for model in models for t in model.network.state_dict().values())
    shards = sum(plan.shard_rows * plan.dim * plan.stored_type.itemsize for plan in plans)
    return (
        f"{len(models)} checkpoints at once: each process holds {decimal(weights)} of weights and "
        f"up to {decimal(shards)} of unfinished shards"
    )


def _agreed(
    job: Job,
    folders: Sequence[Path],
    copies: Sequence[RunCopy | None],
    models: Sequence[Model],
    todo: Sequence[list[Shard]],
) -> list[Run]:
    """The runs that rank 0 began, once all ranks have found that they see what it saw."""
    runs = []
    for folder, copy, model, shards in zip(folders, copies, models, todo, strict=True):
        plan = copied_plan(job.group, copy) if copy else shared_plan(job.group, folder)
        take_indexes(folder)
        if plan.identity["weights"] != model.checkpoint.sha256:
            raise StoreError(
                f"{model.checkpoint.file}: {job.group.world} sees another file than rank 0 under "
                "this name"
            )
        runs.append(Run(folder=folder, model=model, plan=plan, todo=shards, copy=copy))
    return runs


def _at_own_root(job: Job, run: Run) -> Run:
    """The run with --data-root as this host knows it, if that was given."""
    if job.options.data_root is None:
        return run
    manifest = at_own_root(run.plan.manifest, job.options.data_root, str(job.group.world))
    return replace(run, plan=replace(run.plan, manifest=manifest))


def _extract(job: Job, runs: Sequence[Run], extractors: Sequence[Extractor]) -> list[RankReport]:
    """Computes and writes this rank's shards, and waits for the others'; gives all shares."""
    world, todo = job.group.world, missing_shards(runs)
    sampler = ShardSampler(todo, rank=world.rank, world_size=world.world_size)
    for run, extractor in zip(runs, extractors, strict=True):
        extractor.fills_passes = fills_passes(run.plan)
        if len(sampler):
            with _named(run.copy):
                compute_as_planned(job, run, extractor)
    works = [RunWork(job, run, extractor) for run, extractor in zip(runs, extractors, strict=True)]
    rows = len(runs[0].plan.manifest)
    show = (
        ProgressReport(job.log, rows, count_rows(works, todo)) if world.is_main and todo else None
    )
    with show or contextlib.nullcontext():
        return job.group.gather(compute_shards(job, works, sampler))


def _finish(
    options: ExtractOptions,
    runs: Sequence[Run],
    log: Console,
    phases: Phases,
    copy: RunCopy | None = None,
) -> None:
    """Verifies the stores, scores them, and says what was written; `copy` is that of an address."""
    written: list[Path] = []
    evaluations: dict[Path, Evaluation] = {}
    for run in runs:
        if len(runs) > 1:
            _section(log, "run", str(run.folder), [])
        with phases("verifying"):
            if run.copy:  # shards of other hosts
                run.copy.fetch_shards(run.copy.listed(), log.print)
            store = _complete(options, run, log)
            if run.copy:
                run.copy.send_all()
        written.append(run.folder / "store.h5")
        if options.mat:
            written += write_mat(store)
        if options.merge == "tracklet":
            with phases("merging"):
                tracklets = _merged(options, run, store, log)
            log.print(f"       {counted(len(tracklets.manifest), 'tracklet')}")
            written.append(tracklets.run / "store.h5")
        if why_not := cannot_evaluate(store) if options.evaluate else "--no-evaluate":
            log.print(f"[bold]scores[/] none: {why_not}")
        else:
            with phases("scoring"):
                evaluations[run.folder] = evaluate_run(store, log)
            written.append(write_metrics(store, evaluations[run.folder]))
    if len(runs) > 1 and evaluations:
        written += compare_epochs(options.out, evaluations, log)
    else:
        for evaluation in evaluations.values():
            with phases("scoring"):  # the intervals are computed when they are shown
                print_whole(score_table(evaluation))
    if copy:
        for run in runs:
            assert run.copy
            run.copy.send_all()
        for file in written:
            if len(runs) > 1 and file.parent == copy.folder:
                copy.send(file)
    say_written(log, written, copy.place if copy else None)


def _merged(options: ExtractOptions, run: Run, store: FeatureStore, log: Console) -> FeatureStore:
    """The run of tracklets, which has an address and a copy of its own if `run` has."""
    copy = run.copy and run.copy.of(run.folder / TRACKLETS)
    if copy:
        there = copy.listed()
        copy.fetch_root(there)
        copy.fetch_shards(there, log.print)
    with _named(copy):
        tracklets = merge_tracklets(store, options.merge_top)
    if copy:
        copy.send_all()
    return tracklets


def _complete(options: ExtractOptions, run: Run, log: Console) -> FeatureStore:
    """Verifies what all ranks have written, and makes a store of it."""
    started = time.monotonic()
    bad_images(options, run.folder, run.plan).check()
    finish(run.folder, run.plan)
    store = FeatureStore.open(run.folder, checksum=False)
    took = duration(time.monotonic() - started)
    rows = len(run.plan.manifest)
    log.print(f"[bold]store[/]  {counted(rows, 'row')}, each exactly once, verified in {took}")
    if bad := int((store.status != Status.OK).sum()):
        images = counted(bad, "image")
        log.print(f"       {images} could not be read: the status says so, features NaN")
    return store


def _section(log: Console, title: str, first: str, lines: Sequence[str]) -> None:
    log.print(f"[bold]{title:6}[/] {escape(printable(first))}")
    for line in lines:
        log.print(f"       {escape(printable(line))}")


def _device(options: ExtractOptions, world: World) -> torch.device:
    # A task of srun's sees the GPUs that SLURM gave it: one, or all of its host's.
    return choose_device(
        options.device,
        world.local_rank,
        bound=world.meeting is not None,
        processes=world.local_world_size,
        share=options.share_gpu,
    )
