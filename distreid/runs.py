"""One checkpoint, one run: in which folder it lies, and what it will hold.

Several checkpoints share one pass over the images, so they must take the same pixels. Their runs
lie side by side in `--out`, each the same as if its checkpoint had been given alone.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distreid.cameras import camera_indices
from distreid.compilation import EAGER
from distreid.datasets import open_data
from distreid.datasets.summary import check_counts
from distreid.errors import OptionError, StoreError
from distreid.inference import Augmentation
from distreid.manifest import Manifest
from distreid.models.checkpoint import Model, file_of, load_model
from distreid.options import ExtractOptions
from distreid.plan import Plan, Shard, differences, shard_rows_for
from distreid.provenance import library_versions
from distreid.store import FORMAT, existing_plan

# torchreid writes model.pth.tar-60: what follows an ending is a part of the name.
ENDINGS = re.compile(r"\.(pth|pt|tar|ckpt)\b")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A checkpoint, and the folder that takes its features."""

    folder: Path
    model: Model
    plan: Plan
    todo: list[Shard]
    """The shards that were not there when the job began, in row order."""


def run_folders(options: ExtractOptions) -> list[Path]:
    """Where each checkpoint's run lies: `--out` itself, or for several a folder in it.

    That is named after the checkpoint's file, and where two are equal after its folder too.
    OptionError if they are equal still, StoreError if `--out` is itself a run.
    """
    if len(options.checkpoints) == 1:
        return [options.out]
    files = [file_of(checkpoint).absolute() for checkpoint in options.checkpoints]
    names = [ENDINGS.sub("", file.name) or file.name for file in files]
    count = Counter(names)
    names = [
        f"{file.parent.name}-{name}" if count[name] > 1 else name
        for file, name in zip(files, names, strict=True)
    ]
    taken: dict[str, Path] = {}
    for name, file in zip(names, files, strict=True):
        if name in taken:
            raise OptionError(
                f"--checkpoint {taken[name]} and {file}: both would be {options.out / name}; "
                "give each once, or rename one"
            )
        taken[name] = file
    if options.out.is_dir() and existing_plan(options.out):
        raise StoreError(
            f"{options.out}: itself a run, and several checkpoints need a folder of runs; "
            "give another --out"
        )
    return [options.out / name for name in names]


def load_models(options: ExtractOptions) -> list[Model]:
    """Every checkpoint as a network; OptionError if two of them want different pixels."""
    models = []
    for checkpoint in options.checkpoints:
        model = load_model(checkpoint, options.model, options.input_size)
        # The network has the tensors; the file's would take as much memory once more.
        models.append(replace(model, checkpoint=replace(model.checkpoint, state={})))
        first, this = (m.architecture.preprocess.identity() for m in (models[0], models[-1]))
        if differing := differences(first, this):
            raise OptionError(
                f"--checkpoint {models[0].checkpoint.file} and {model.checkpoint.file}: their "
                f"preprocessing differs ({'; '.join(differing)}); extract one after the other"
            )
    return models


def augmentation(options: ExtractOptions, model: Model) -> Augmentation:
    """As asked for, else as the model's own code does."""
    return Augmentation(
        flip=model.architecture.flip if options.flip is None else options.flip,
        scales=options.scales,
        scale_mode=options.scale_mode,
    )


def read_manifest(options: ExtractOptions) -> Manifest:
    """The rows that every run of these options has."""
    manifest = open_data(
        options.data,
        options.layout,
        options.multi_query,
        split=options.split,
        pattern=options.pattern,
    )
    if options.strict_counts:
        check_counts(manifest)
    return manifest


def make_plan(
    options: ExtractOptions,
    manifest: Manifest,
    model: Model,
    made: dict[str, Any],
    compile: str = EAGER,
) -> Plan:
    """What the run of a checkpoint will hold; `compile` is torch's mode, or `EAGER`."""
    architecture = model.architecture
    cameras = camera_indices(manifest, architecture, options.camera_embedding)
    return Plan(
        manifest=manifest,
        identity={
            "manifest": manifest.fingerprint(),
            "weights": model.checkpoint.sha256,
            "model": architecture.identity()
            | ({} if cameras is None else {"camera_embedding": options.camera_embedding}),
            "preprocess": architecture.preprocess.identity(),
            "augmentation": augmentation(options, model).identity(),
            "precision": options.precision,
            "dtype": options.dtype,
            "dim": architecture.dim,
            "versions": library_versions() | {"store": FORMAT},
        }
        | ({} if compile == EAGER else {"compile": compile}),
        provenance=made | {"peer": architecture.peer},
        dim=architecture.dim,
        dtype=options.dtype,
        shard_rows=options.shard_rows or shard_rows_for(len(manifest)),
    )
