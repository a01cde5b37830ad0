"""What can be known of a job before it runs: on a login node, without a GPU, writing nothing."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from distreid.data.manifest import Manifest
from distreid.data.summary import describe
from distreid.errors import StoreError
from distreid.host.counts import counted
from distreid.host.progress import duration
from distreid.job.options import ExtractOptions
from distreid.job.runs import Computed, load_models, make_plan, read_manifest, run_folders
from distreid.models.checkpoint import Model
from distreid.store.plan import Plan, Shard
from distreid.store.root_file import existing_plan
from distreid.store.run_folder import remaining


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """What the job would find."""

    options: ExtractOptions
    models: list[str]
    """The checkpoints and what they were taken for. Not the weights: a sweep has many."""
    folders: list[Path]
    """A run for each checkpoint."""
    plan: Plan
    """Of the first run; the others have the same rows and shards."""
    todo: list[Shard]
    """What any of the runs lacks."""

    @property
    def images_todo(self) -> int:
        """In the shards that are not done yet."""
        return sum(map(len, self.todo))

    def describe(self) -> list[str]:
        """What was found, for people."""
        manifest, total = self.plan.manifest, len(self.plan.shards)
        return [
            f"data    {manifest.root} ({manifest.layout})",
            *(f"        {line}" for line in describe(manifest)),
            *(f"model   {model}" for model in self.models),
            f"run     {self.options.out}: {self.images_todo:,} of {len(manifest):,} images to do, "
            f"{len(self.todo):,} of {total:,} shards",
        ]

    def estimate(
        self, processes: int, images_per_second: float | None, attempt_s: float = math.inf
    ) -> str:
        """How long it takes, from the rate of one process, in attempts of so long; for people."""
        if not self.todo:
            return "nothing is left but to verify and score"
        if images_per_second is None:
            return (
                "not known; give --images-per-second, what a former run printed divided by its "
                "processes"
            )
        # A rank takes whole shards.
        rounds = -(-len(self.todo) // processes)
        rows = min(rounds * self.plan.shard_rows, self.images_todo)
        seconds = rows / images_per_second
        text = (
            f"about {duration(seconds)} at {images_per_second:g} images/s for each of "
            f"{processes}, then verification and scores"
        )
        if (again := math.ceil(seconds / attempt_s) - 1) > 0:
            text += f"; {again + 1} time limits, so queued again {counted(again, 'time')} by itself"
        return text


def rehearse(options: ExtractOptions) -> Rehearsal:
    """Reads everything that the job reads before its first image; raises what the job would."""
    out = options.out.absolute()
    standing = next(folder for folder in (out, *out.parents) if folder.exists())
    if not (standing.is_dir() and os.access(standing, os.W_OK)):
        raise StoreError(f"{options.out}: {standing} cannot be written to; check --out")
    manifest, models, folders = read_manifest(options), load_models(options), run_folders(options)
    plans = [
        _planned(options, manifest, model, folder)
        for model, folder in zip(models, folders, strict=True)
    ]
    lacking = {shard for runs in zip(folders, plans, strict=True) for shard in remaining(*runs)}
    return Rehearsal(
        options=options,
        models=[f"{model.checkpoint.file}: {model.describe()[0]}" for model in models],
        folders=folders,
        plan=plans[0],
        todo=sorted(lacking, key=lambda shard: shard.index),
    )


def _planned(options: ExtractOptions, manifest: Manifest, model: Model, folder: Path) -> Plan:
    """Computed as the run was begun; a new one is decided on where the job runs."""
    begun = existing_plan(folder)
    computed = Computed.as_begun(begun, options) if begun else Computed()
    return make_plan(options, manifest, model, {}, computed, begun)
