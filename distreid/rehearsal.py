"""What can be known of a job before it runs: on a login node, without a GPU, writing nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass

from distreid.datasets.summary import describe
from distreid.errors import StoreError
from distreid.job import manifest_for, plan_for
from distreid.models.checkpoint import load_model
from distreid.options import ExtractOptions
from distreid.plan import Plan, Shard
from distreid.progress import duration
from distreid.store import remaining


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """What the job would find."""

    options: ExtractOptions
    model: str
    """The checkpoint and what it was taken for. Not the weights: a sweep has many."""
    plan: Plan
    todo: list[Shard]

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
            f"model   {self.model}",
            f"run     {self.options.out}: {self.images_todo:,} of {len(manifest):,} images to do, "
            f"{len(self.todo):,} of {total:,} shards",
        ]

    def estimate(self, processes: int, images_per_second: float | None) -> str:
        """How long it takes, from the rate of one process; for people."""
        if not self.todo:
            return "nothing is left but to verify and score"
        if images_per_second is None:
            return "not known; give --images-per-second, as a former run of one process printed it"
        # A rank takes whole shards.
        rounds = -(-len(self.todo) // processes)
        rows = min(rounds * self.plan.shard_rows, self.images_todo)
        return (
            f"about {duration(rows / images_per_second)} at {images_per_second:g} images/s for "
            f"each of {processes}, then verification and scores"
        )


def rehearse(options: ExtractOptions) -> Rehearsal:
    """Reads everything that the job reads before its first image; raises what the job would."""
    out = options.out.absolute()
    standing = next(folder for folder in (out, *out.parents) if folder.exists())
    if not (standing.is_dir() and os.access(standing, os.W_OK)):
        raise StoreError(f"{options.out}: {standing} cannot be written to; check --out")
    manifest = manifest_for(options)
    model = load_model(options.checkpoint, options.model, options.input_size)
    plan = plan_for(options, manifest, model, provenance={})
    return Rehearsal(
        options=options,
        model=f"{model.checkpoint.file}: {model.describe()[0]}",
        plan=plan,
        todo=remaining(options.out, plan),
    )
