"""Whether a run's network is compiled: decided once on rank 0, and followed by every rank."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.markup import escape

from distreid.cameras import camera_indices
from distreid.compilation import EAGER, MODES, Drift, why_eager
from distreid.errors import CompileError, OptionError, printable
from distreid.inference import Extractor
from distreid.loader import ImageRows
from distreid.manifest import Manifest
from distreid.models.checkpoint import Model
from distreid.runs import Run
from distreid.share import Job
from distreid.store import existing_plan


def decide(
    job: Job, folder: Path, model: Model, extractor: Extractor, manifest: Manifest
) -> tuple[str, Any]:
    """Torch's mode of compilation or `EAGER`, and the drift or the reason, for the store.

    A run is continued as it was begun, and compiled only when it is clear that it has work.
    """
    options = job.options
    if options.compile == EAGER:
        return EAGER, why_eager(EAGER, len(manifest), job.device)
    existing = existing_plan(folder)
    begun = existing.identity.get("compile", EAGER) if existing else None
    if existing and (options.compile == "auto" or MODES.get(options.compile) == begun):
        return str(begun), existing.provenance.get("compilation")
    if why := why_eager(options.compile, len(manifest), job.device):
        job.log.print(f"       not compiled: {why}")
        return EAGER, why
    mode = MODES[options.compile]
    job.log.print("       compiling …")
    try:
        drift = _compile(job, model, extractor, manifest, mode)
    except CompileError as error:
        job.log.print(f"       not compiled: {escape(printable(str(error)))}")
        return EAGER, str(error)
    job.log.print(f"       {drift.describe()}")
    return mode, asdict(drift)


def compile_as_planned(job: Job, run: Run, extractor: Extractor) -> None:
    """On every rank that has work: what rank 0 could, and others must; OptionError if not."""
    mode = run.plan.identity.get("compile", EAGER)
    if mode == EAGER or extractor.compiled_rows:
        return
    try:
        _compile(job, run.model, extractor, run.plan.manifest, mode)
    except CompileError as error:
        raise OptionError(
            f"{job.group.world} cannot compile the network as the run in {run.folder} does "
            f"({error}); use --compile off and another --out"
        ) from error


def _compile(job: Job, model: Model, extractor: Extractor, manifest: Manifest, mode: str) -> Drift:
    """Compiles the network, and tries it on the first rows."""
    architecture, batch_size = model.architecture, job.options.batch_size
    rows = range(min(batch_size, len(manifest)))
    cameras = camera_indices(manifest, architecture, job.options.camera_embedding)
    batch = ImageRows(manifest, architecture.preprocess)[rows]
    first = None if cameras is None else cameras[: rows.stop]
    return extractor.compile(mode, batch_size, batch.images_BCHW, first)
