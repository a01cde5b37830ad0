"""What computes a run's features, decided once on rank 0 and followed by every rank.

An engine, and for torch whether its network is compiled.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.markup import escape
from torch import Tensor

from distreid.data.manifest import Manifest
from distreid.errors import CompileError, EngineError, OptionError, printable
from distreid.images.loader import ImageRows
from distreid.inference.compilation import EAGER, LIMIT_S, MODES, why_eager
from distreid.inference.drift import LEAST_COSINE
from distreid.inference.engines import ENGINES, INT8, TORCH, choose_engine, find_engine
from distreid.inference.extractor import CPU_ROWS, Extractor, choose_precision
from distreid.inference.program_runtime import engine_for
from distreid.inference.quantisation import Quantised
from distreid.job.int8 import quantised_network
from distreid.job.options import ExtractOptions
from distreid.job.rank_work import Job
from distreid.job.runs import Computed, Run
from distreid.models.architecture import Program
from distreid.models.camera_embedding import camera_indices
from distreid.models.checkpoint import Model
from distreid.store.plan import Plan
from distreid.store.root_file import existing_plan


@dataclass(frozen=True)
class Decision:
    """For one run."""

    computed: Computed
    compilation: Any
    """The drift of a compiled network, or why it is not compiled: for the store."""
    drift: Any
    """Of an engine from torch, likewise; None for torch."""


def computed_by(
    options: ExtractOptions, device: torch.device, begun: Plan | None, model: Model
) -> Computed:
    """Engine and precision as they are asked for, where that is `auto` those of the run that was
    begun; OptionError if they are not to be had here. `compile` is decided later."""
    if (program := model.architecture.program) is not None:
        return _computed_by_program(options, device, begun, program)
    before = Computed.as_begun(begun, options) if begun else None
    asked = options.precision, device, options.engine
    precision = before.precision if before else choose_precision(*asked)
    if before and options.engine == "auto":
        engine = before.engine
        if engine != TORCH:
            find_engine(engine, device)
        elif precision == INT8:
            raise OptionError(
                f"--precision {INT8}: {options.out} holds a run by {TORCH}, which has none; give "
                "another --out"
            )
    elif options.compile != EAGER and (options.compile, options.engine) != ("auto", "auto"):
        if options.engine not in ("auto", TORCH):
            raise OptionError(
                f"--compile {options.compile}: torch compiles, not --engine {options.engine}; "
                "leave one of them out"
            )
        engine = TORCH
    else:
        engine = choose_engine(options.engine, precision, device)
    quantised = before.int8 if before and precision == INT8 else None
    return Computed(engine=engine, precision=precision, int8=quantised)


def _computed_by_program(
    options: ExtractOptions, device: torch.device, begun: Plan | None, program: Program
) -> Computed:
    """What computes a file that is a program: its own runtime, in the precision that it has."""
    for name, has in (("compile", EAGER), ("precision", program.precision)):
        if (asked := getattr(options, name)) not in ("auto", has):
            raise OptionError(
                f"--{name} {asked}: {program.file} is computed as it is, in {has}; leave it out"
            )
    asked = options.engine
    if begun is not None and asked == "auto":
        asked = Computed.as_begun(begun, options).engine
    engine = engine_for(program, asked, device)
    return Computed(engine=engine, precision=program.precision)


def decide(
    job: Job, folder: Path, model: Model, extractor: Extractor, manifest: Manifest
) -> Decision:
    """On rank 0. A run is continued as it was begun; and where an engine or a compiler cannot take
    the network, a new one is computed by torch as it is, which is said."""
    begun = existing_plan(folder)
    computed = computed_by(job.options, job.device, begun, model)
    engine, precision = computed.engine, computed.precision
    if model.architecture.program:
        by = torch.__version__ if engine == TORCH else ENGINES[engine].version()
        job.log.print(f"       the program is computed by {engine} {by.partition('+')[0]}")
        return Decision(computed, None, None)
    if engine != TORCH and begun is not None:
        job.log.print(f"       {engine} {ENGINES[engine].version()}, {precision}")
        return Decision(computed, None, begun.provenance.get("engine"))
    if engine != TORCH:
        try:
            job.log.print(f"       {engine} {ENGINES[engine].version()}, {precision} …")
            if precision == INT8:
                quantised, said = quantised_network(job, model, extractor)
                quantised.save(folder)
                computed = replace(computed, int8=said)
            drift = _load(job, folder, model, extractor, manifest, computed)
            if job.options.compile == "auto":
                job.log.print(f"       not compiled: {engine} computes; --engine torch compiles")
            return Decision(computed, None, drift)
        except EngineError as error:
            job.log.print(f"       not by {engine}, by torch: {escape(printable(str(error)))}")
    if job.options.precision == "auto" and precision != "fp32" and begun is None:
        precision = _proven(job, model, extractor, manifest)
    extractor.compute_by_torch(precision)
    job.log.print(f"       torch {torch.__version__.partition('+')[0]}, {precision}")
    if begun is None and precision != "fp32" and job.device.type == "cpu":
        for line in extractor.why_slow(*_first(job, model, manifest, CPU_ROWS)).splitlines():
            job.log.print(f"       {line}")
    mode, compilation = _compilation(job, begun, model, extractor, manifest)
    return Decision(Computed(precision=precision, compile=mode), compilation, None)


def _proven(job: Job, model: Model, extractor: Extractor, manifest: Manifest) -> str:
    """The extractor's precision if the first images' features are those of fp32, else that."""
    drift = extractor.drift_from_fp32(*_first(job, model, manifest, job.options.batch_size))
    job.log.print(f"       {extractor.precision}: {drift.describe('strict fp32')}")
    return extractor.precision if drift.cosine >= LEAST_COSINE else "fp32"


def _compilation(
    job: Job, begun: Plan | None, model: Model, extractor: Extractor, manifest: Manifest
) -> tuple[str, Any]:
    """Torch's mode of compilation or `EAGER`, and the drift or the reason.

    A network is compiled only when it is clear that the run has work.
    """
    options = job.options
    if options.compile == EAGER:
        return EAGER, why_eager(EAGER, len(manifest), job.device)
    mode_of_run = begun.identity.get("compile", EAGER) if begun else None
    if begun and (options.compile == "auto" or MODES.get(options.compile) == mode_of_run):
        return str(mode_of_run), begun.provenance.get("compilation")
    if why := why_eager(options.compile, len(manifest), job.device):
        job.log.print(f"       not compiled: {why}")
        return EAGER, why
    mode = MODES[options.compile]
    job.log.print("       compiling …")
    try:
        drift = _compile(job, model, extractor, manifest, mode, LIMIT_S[mode])
    except CompileError as error:
        job.log.print(f"       not compiled: {escape(printable(str(error)))}")
        return EAGER, str(error)
    return mode, drift


def compute_as_planned(job: Job, run: Run, extractor: Extractor) -> None:
    """On every rank that has work: what rank 0 could, and others must; OptionError if not."""
    identity, manifest = run.plan.identity, run.plan.manifest
    engine, mode = identity.get("engine", TORCH), identity.get("compile", EAGER)
    if run.model.architecture.program:
        return  # the extractor has it from the start
    try:
        if engine == TORCH:
            extractor.compute_by_torch(identity["precision"])
        if engine != TORCH and not extractor.runtime:
            computed = Computed.as_begun(run.plan, job.options)
            _load(job, run.folder, run.model, extractor, manifest, computed)
        elif mode != EAGER and not extractor.compiled_for:
            _compile(job, run.model, extractor, manifest, mode)
        elif engine == TORCH and mode == EAGER and job.device.type == "cuda":
            _capture(job, run.model, extractor, manifest)
    except CompileError as error:
        raise OptionError(
            f"{job.group.world} cannot compile the network as the run in {run.folder} does "
            f"({error}); use --compile off and another --out"
        ) from error
    except EngineError as error:
        raise OptionError(
            f"{job.group.world} cannot compute with {engine} as the run in {run.folder} does "
            f"({error}); use --engine torch and another --out"
        ) from error


def _load(
    job: Job,
    folder: Path,
    model: Model,
    extractor: Extractor,
    manifest: Manifest,
    computed: Computed,
) -> dict[str, Any]:
    """Has the engine compute, and tries it on the first rows; gives its drift."""
    with job.phases("engine"):
        quantised = Quantised.read(folder, computed.int8["network"]) if computed.int8 else None
        first = _first(job, model, manifest, CPU_ROWS)
        drift, note = extractor.load_engine(
            computed.engine, *first, quantised, gpu_rows=job.options.batch_size
        )
    if note:
        job.log.print(f"       {escape(printable(note))}")
    job.log.print(f"       {drift.describe('torch in fp32')}")
    return asdict(drift)


def _capture(job: Job, model: Model, extractor: Extractor, manifest: Manifest) -> None:
    """Has a GPU's passes run as a CUDA graph, if there is more than one; says why it does not."""
    rows = job.options.batch_size
    if len(manifest) <= rows:
        return
    try:
        with job.phases("capturing"):
            drift = extractor.capture(rows, *_first(job, model, manifest, rows))
        job.log.print(f"       as a CUDA graph; {drift.describe('kernel by kernel')}")
    except EngineError as error:
        job.log.print(f"       not as a CUDA graph: {escape(printable(str(error)))}")


def _compile(
    job: Job,
    model: Model,
    extractor: Extractor,
    manifest: Manifest,
    mode: str,
    limit_s: float | None = None,
) -> dict[str, Any]:
    """Compiles the network, and tries it on the first rows; gives its drift."""
    batch_size = job.options.batch_size
    first = _first(job, model, manifest, batch_size)
    with job.phases("compiling"):
        drift = extractor.compile(mode, batch_size, *first, limit_s=limit_s)
    job.log.print(f"       compiled; {drift.describe('eager')}")
    return asdict(drift)


def _first(job: Job, model: Model, manifest: Manifest, count: int) -> tuple[Tensor, Tensor | None]:
    """The first rows' images and cameras."""
    architecture = model.architecture
    rows = range(min(count, len(manifest)))
    cameras = camera_indices(manifest, architecture, job.options.camera_embedding)
    batch = ImageRows(manifest, architecture.preprocess)[rows]
    return batch.images_BCHW, None if cameras is None else cameras[: rows.stop]
