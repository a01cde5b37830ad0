"""What a bench has measured: the bottleneck in words, the table, the JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

HIDDEN = 0.95  # of the model's rate: then everything else is hidden behind it


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A forward pass under other settings."""

    precision: str
    batch_size: int
    rate: float
    """Images/s."""
    cosine: float
    """To fp32, the least of a batch."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Rates in images/s."""

    device: str
    workers: int
    cores: int
    compiled: str
    """Torch's mode, `off`, or why it could not be done."""
    steps: dict[str, float]
    """Each alone: the input's and the writing's on one core, the others' on the device."""
    input: float
    """By all workers."""
    together: float
    """From files to shards."""
    trials: tuple[Trial, ...]
    """The precision and batch size that were asked for come first."""
    peer: dict[str, float] | None
    """`rate`, `ours` measured in turn with it, `ratio`, and the least `cosine`."""

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
        """The fastest that was tried."""
        best = max(self.trials, key=lambda trial: trial.rate)
        first = self.trials[0]
        return (
            f"fastest tried: --precision {best.precision} --batch-size {best.batch_size}, "
            f"{best.rate / first.rate:.2f} times the forward rate of {first.precision} with "
            f"{first.batch_size}, cosine to fp32 {best.cosine:.6f}"
        )

    def to_json(self) -> dict[str, Any]:
        """Everything, for programs."""
        words = {"share": self.share, "bottleneck": self.bottleneck(), "advice": self.advice()}
        return asdict(self) | words


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
    trials = Table("forward", "batch", "images/s", "cosine to fp32")
    for trial in found.trials:
        trials.add_row(
            trial.precision, str(trial.batch_size), f"{trial.rate:,.1f}", f"{trial.cosine:.6f}"
        )
    lines = [f"bottleneck: {found.bottleneck()}", found.advice(), f"compiled: {found.compiled}"]
    if found.peer:
        lines.append(
            "beside the plain PyTorch loop: {ours:,.1f} against {rate:,.1f} images/s, {ratio:.2f} "
            "times; cosine of the features {cosine:.6f}".format(**found.peer)
        )
    return Group(table, trials, Text("\n".join(lines)))
