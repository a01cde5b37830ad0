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

from distreid.data.manifest import Manifest
from distreid.data.source import open_data
from distreid.data.summary import check_counts
from distreid.data.video_files import UPRIGHT, library_version
from distreid.data.video_frames import videos_of
from distreid.errors import OptionError, StoreError
from distreid.images.preprocess import Preprocess
from distreid.images.sampler import frame_starts
from distreid.images.tall_images import tall_rows
from distreid.inference.compilation import EAGER
from distreid.inference.engines import ENGINES, TORCH
from distreid.inference.views import Augmentation
from distreid.job.options import ExtractOptions
from distreid.job.provenance import library_versions
from distreid.models.camera_embedding import camera_indices, embedding_identity
from distreid.models.checkpoint import Model, file_of, load_model
from distreid.models.weight_files import sha256_of
from distreid.store.identity import (
    CROP,
    EXPORTED,
    FILLED,
    HORIZONTAL_FIRST,
    PASSES,
    RESIZE,
    VIDEO,
    resize_rule,
)
from distreid.store.plan import Plan, Shard, differences, shard_rows_for
from distreid.store.root_file import FORMAT, existing_plan
from distreid.store.run_copy import RunCopy

# torchreid writes model.pth.tar-60: what follows an ending is a part of the name.
ENDINGS = re.compile(r"\.(pth|pt|t7|tar|ckpt|safetensors|bin)\b")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A checkpoint, and the folder that takes its features."""

    folder: Path
    model: Model
    plan: Plan
    todo: list[Shard]
    """The shards that were not there when the job began, in row order."""
    copy: RunCopy | None = None
    """Of a run in an object store: where what `folder` has goes."""


@dataclass(frozen=True, kw_only=True)
class Computed:
    """By what a run's features are computed."""

    precision: str = "fp32"
    engine: str = TORCH
    int8: dict[str, str] | None = None
    """What `int8.quantised_network` says of an int8 network."""
    compile: str = EAGER
    """Torch's name of the mode that it compiles the network in, or `EAGER`."""

    @classmethod
    def as_begun(cls, plan: Plan, options: ExtractOptions) -> Computed:
        """As a run was, but for what is asked for by name."""
        identity = plan.identity
        if "imported" in identity:
            raise StoreError(f"{options.out}: holds imported features; give another --out")
        asked = {
            name: value
            for name in ("precision", "engine")
            if (value := getattr(options, name)) != "auto"
        }
        before = {
            "precision": identity["precision"],
            "engine": identity.get("engine", TORCH),
            "int8": identity.get("int8"),
            "compile": identity.get("compile", EAGER),
        }
        return cls(**before | asked)


def run_folders(options: ExtractOptions, copy: RunCopy | None = None) -> list[Path]:
    """Where each checkpoint's run lies: `--out` itself, or for several a folder in it; `copy` is
    that of `--out` if it is in an object store.

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
    if copy.is_run() if copy else options.out.is_dir() and existing_plan(options.out):
        raise StoreError(
            f"{options.out}: itself a run, and several checkpoints need a folder of runs; "
            "give another --out"
        )
    return [options.out / name for name in names]


def load_models(options: ExtractOptions) -> list[Model]:
    """Every checkpoint as a network; OptionError if two of them want different pixels."""
    models = []
    for checkpoint in options.checkpoints:
        model = load_model(checkpoint, options.model, options.input_size, options.choices())
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
    """As asked for, else as the model's own code does; OptionError if it is an export that has
    other views in it."""
    program = model.architecture.program
    if program and program.whole:
        same = options.flip in (None, model.architecture.flip)
        if not same or options.scales != (1.0,):
            has = "image and mirror image" if model.architecture.flip else "the image alone"
            what = "--scales" if same else "--flip" if options.flip else "--no-flip"
            raise OptionError(f"{what}: {program.file} has its views in it, {has}; take it away")
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
        ids=options.ids,
        columns=options.columns,
        split_names=options.split_names,
        boxes=options.box_request(),
        every=options.every,
    )
    if options.strict_counts:
        check_counts(manifest)
    return manifest


def video_identity() -> dict[str, str]:
    """What makes pixels of videos, for a run's identity."""
    return {
        "decoder": f"PyAV {library_version()}",
        "rgb": "swscale, bilinear",
        "turned": UPRIGHT,
    }


def has_boxes(manifest: Manifest) -> bool:
    """Whether rows are boxes of frames."""
    return frame_starts(manifest.path) is not None


def fills_passes(begun: Plan | None) -> bool:
    """Whether passes on a CPU are filled up: they are, but in a run that distreid 0.1.0 began."""
    return begun is None or begun.identity.get(PASSES) == FILLED


def _resize_and_versions(
    begun: Plan | None, manifest: Manifest, preprocess: Preprocess, out: Path, computed: Computed
) -> dict[str, Any]:
    """The part of an identity that says in which order images are resized, and the versions.

    A run that distreid 0.1.0 began named Pillow's version instead. StoreError if that made its
    resize another one than ours.
    """
    versions = library_versions() | {"store": FORMAT}
    if computed.engine != TORCH:
        versions |= {computed.engine: ENGINES[computed.engine].version()}
    if begun is None or RESIZE in begun.identity:
        return {RESIZE: HORIZONTAL_FIRST, "versions": versions}
    pillow = begun.identity["versions"]["Pillow"]
    if resize_rule(begun.identity) != HORIZONTAL_FIRST:
        for row in tall_rows(manifest, preprocess):
            raise StoreError(
                f"{out}: begun by distreid 0.1.0 with Pillow {pillow}, which resizes tall images "
                f"such as row {row}, {manifest.file(row)}, in an order of its own; finish it with "
                "that version, or give another --out"
            )
    return {"versions": versions | {"Pillow": pillow}}


def exported_identity(model: Model) -> dict[str, str]:
    """Of a network that distreid exported, the part of an identity that says by which file."""
    program = model.architecture.program
    return {EXPORTED: sha256_of(program.file)} if program and program.weights else {}


def make_plan(
    options: ExtractOptions,
    manifest: Manifest,
    model: Model,
    made: dict[str, Any],
    computed: Computed = Computed(),
    begun: Plan | None = None,
) -> Plan:
    """What the run of a checkpoint will hold; `begun` is what its folder holds already, and is
    continued with the columns that it has."""
    architecture = model.architecture
    if begun is not None:
        manifest = manifest.with_columns_of(begun.manifest)
    camera_indices(manifest, architecture, options.camera_embedding)  # refuses unknown ones
    return Plan(
        manifest=manifest,
        identity={
            "manifest": manifest.fingerprint(),
            "weights": model.checkpoint.sha256,
            "model": architecture.identity()
            | embedding_identity(architecture, options.camera_embedding),
            "preprocess": architecture.preprocess.identity(),
            "augmentation": augmentation(options, model).identity(),
            "precision": computed.precision,
            "dtype": options.dtype,
            "dim": architecture.dim,
        }
        | _resize_and_versions(begun, manifest, architecture.preprocess, options.out, computed)
        | ({} if computed.compile == EAGER else {"compile": computed.compile})
        | ({} if computed.engine == TORCH else {"engine": computed.engine})
        | exported_identity(model)
        | ({} if computed.int8 is None else {"int8": computed.int8})
        | ({VIDEO: video_identity()} if videos_of(manifest) else {})
        | ({CROP: options.box_request().identity()} if has_boxes(manifest) else {})
        | ({PASSES: FILLED} if fills_passes(begun) else {}),
        provenance=made | {"peer": architecture.peer},
        dim=architecture.dim,
        dtype=options.dtype,
        shard_rows=options.shard_rows or shard_rows_for(len(manifest)),
    )
