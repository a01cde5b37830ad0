"""What a bench has measured: the bottleneck in words, the table, the JSON."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from distreid.benchmark.load import Load
from distreid.inference.drift import LEAST_COSINE

HIDDEN = 0.95  # of the model's rate: then everything else is hidden behind it


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A forward pass under other settings."""

    engine: str
    precision: str
    batch_size: int
    rate: float
    """Images/s."""
    cosine: float
    """To the features of `Bench.exact`, the least of a batch."""


@dataclass(frozen=True, kw_only=True)
class BesideThePeer:
    """Rates in images/s of each round of an extraction and of the plain PyTorch loop, in turn."""

    ours: tuple[float, ...]
    theirs: tuple[float, ...]
    cosine: float
    """The least of the features."""

    @property
    def ratios(self) -> tuple[float, ...]:
        """How many times as fast we were, in each round."""
        return tuple(our / their for our, their in zip(self.ours, self.theirs, strict=True))

    def to_json(self) -> dict[str, Any]:
        """The medians, and the spread of the ratio."""
        return {
            "rate": statistics.median(self.theirs),
            "ours": statistics.median(self.ours),
            "ratio": statistics.median(self.ratios),
            "ratio_min": min(self.ratios),
            "ratio_max": max(self.ratios),
            "rounds": len(self.ratios),
            "cosine": self.cosine,
        }

    def describe(self) -> str:
        """In one line."""
        return (
            "beside the plain PyTorch loop: {ours:,.1f} against {rate:,.1f} images/s, {ratio:.2f} "
            "times ({ratio_min:.2f} to {ratio_max:.2f} in {rounds} rounds); cosine of the features "
            "{cosine:.6f}"
        ).format(**self.to_json())


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Rates in images/s."""

    device: str
    workers: int
    cores: int
    compiled: str
    """Torch's mode, `off`, or why it is not."""
    steps: dict[str, float]
    """Each alone: the input's and the writing's on one core, the others' on the device."""
    input: float
    """By all workers."""
    together: float
    """From files to shards."""
    exact: str
    """What the trials' features are compared with: torch in fp32, or a program as it is."""
    trials: tuple[Trial, ...]
    """The precision and batch size that were asked for come first."""
    peer: BesideThePeer | None
    load: Load
    """The machine's meanwhile."""

    @property
    def share(self) -> float:
        """What everything together reaches of the forward passes alone."""
        return self.together / self.steps["forward"]

    def bottleneck(self) -> str:
        """What holds it up, in words."""
        forward = self.steps["forward"]
        if self.steps["write"] < forward:
            return "the disk: writing is slower than the model"
        if self.share >= HIDDEN:
            return "the model: everything else is hidden behind it"
        if self.input < forward and self.workers < self.cores:
            return "the input: take more --num-workers"
        if self.input < forward:
            slowest = min(("read", "decode", "resize"), key=lambda name: self.steps[name])
            return f"the input: every core has its worker; of their work, {slowest} is slowest"
        if self.device == "cpu":
            return "the cores: the model and the input share them"
        return "the pipeline: model and input are each faster than both together"

    def advice(self) -> str:
        """The fastest exact choice that was tried, and the fastest of all, a line each."""
        return (
            f"fastest with the peers' features: {self._option(LEAST_COSINE)}\n"
            f"fastest tried: {self._option(-1)}"
        )

    def _option(self, least: float) -> str:
        """The options of the fastest trial of at least this cosine."""
        exact = [trial for trial in self.trials if trial.cosine >= least]
        best, first = max(exact, key=lambda trial: trial.rate), self.trials[0]
        data = " --calibrate-on DATA" if best.precision == "int8" else ""
        return (
            f"--engine {best.engine} --precision {best.precision}{data} "
            f"--batch-size {best.batch_size}, "
            f"{best.rate / first.rate:.2f} times the forward rate of {first.engine} in "
            f"{first.precision} with {first.batch_size}, cosine to {self.exact} {best.cosine:.6f}"
        )

    def to_json(self) -> dict[str, Any]:
        """Everything, for programs."""
        words = {"share": self.share, "bottleneck": self.bottleneck(), "advice": self.advice()}
        load = asdict(self.load) | {"others": self.load.others, "busy": self.load.busy}
        peer = self.peer and self.peer.to_json()
        return asdict(self) | words | {"peer": peer, "load": load}


def bench_table(found: Bench) -> Group:
    """The rates for people."""
    table = Table("step", "on", "images/s")
    table.columns[2].justify = "right"
    for name, rate in found.steps.items():
        on_device = name == "forward" or name.startswith("copy")
        table.add_row(name, found.device if on_device else "one core", f"{rate:,.0f}")
    workers = f"{found.workers} worker{'' if found.workers == 1 else 's'}"
    table.add_row("input", workers, f"{found.input:,.0f}")
    table.add_row(
        "all together", f"{found.share:.0%} of the forward alone", f"{found.together:,.1f}"
    )
    trials = Table("engine", "precision", "batch", "images/s", f"cosine to {found.exact}")
    for trial in found.trials:
        trials.add_row(
            trial.engine,
            trial.precision,
            str(trial.batch_size),
            f"{trial.rate:,.1f}",
            f"{trial.cosine:.6f}",
        )
    lines = [f"bottleneck: {found.bottleneck()}", found.advice(), f"compiled: {found.compiled}"]
    if found.peer:
        lines.append(found.peer.describe())
    if warning := found.load.warning():
        lines.append(warning)
    return Group(table, trials, Text("\n".join(lines)))
