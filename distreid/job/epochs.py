"""Several checkpoints on the same images: a row and a point for each, and which one is best.

The best of several was chosen on the images that it is scored with, so its score flatters it.
Therefore it is said which others cannot be told apart from it.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from distreid.errors import DataError, OptionError, printable
from distreid.evaluation.confidence import LEVEL, Difference, compare
from distreid.evaluation.evaluate import Evaluation, Scores
from distreid.host.atomic_files import publish_bytes, publish_text
from distreid.host.terminal import print_whole
from distreid.report.comparison import MEASURES
from distreid.report.plots import epoch_curves
from distreid.report.scores import percent


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One checkpoint's run, and its scores as of a search, as `distreid compare` has them; those of
    the other protocols are in each metrics.json."""

    run: Path
    number: int
    """Of the epoch; or which one it is, from 1, of those given."""
    scores: Scores
    lead: Difference | None = None
    """By how much mAP the best one is better. None: this is the best, or they have not the same
    queries, or no query can be scored."""

    @property
    def values(self) -> dict[str, float]:
        """The score of each of `MEASURES`, a share in 0..1."""
        return {"rank1": self.scores.rank(1), "mAP": self.scores.mAP, "mINP": self.scores.mINP}


def compare_epochs(out: Path, evaluations: Mapping[Path, Evaluation], log: Console) -> list[Path]:
    """Writes `comparison.json` and `epochs.png`, prints a row for each run; gives the files.

    Without matplotlib there is no picture, and `log` says so.
    """
    numbers = epoch_numbers([run.name for run in evaluations])
    epochs, best = rank_epochs(evaluations, numbers or range(1, len(evaluations) + 1))
    written = [out / "comparison.json"]
    content = json.dumps(to_json(epochs, best), indent=2, ensure_ascii=False)
    publish_text(written[0], content + "\n")
    if best is not None:
        try:
            picture = _picture(epochs, "epoch" if numbers else "checkpoint, in order")
            publish_bytes(out / "epochs.png", picture)
            written.append(out / "epochs.png")
        except OptionError as error:
            log.print(f"no epochs.png: {escape(str(error))}")
    print_whole(epoch_table(epochs))
    print(in_words(epochs, best))
    for run, evaluation in evaluations.items():
        for what in evaluation.diagnosis:
            print(f"{printable(run.name)}: {what}")
    return written


def epoch_numbers(names: Sequence[str]) -> list[int] | None:
    """The last digits in each name; None if one has none, or two have the same."""
    found = [re.findall(r"[0-9]+", name) for name in names]
    numbers = [int(digits[-1]) for digits in found if digits]
    return numbers if len(set(numbers)) == len(names) else None


def rank_epochs(
    evaluations: Mapping[Path, Evaluation], numbers: Sequence[int]
) -> tuple[list[Epoch], Epoch | None]:
    """All by their number, and the one of the highest mAP, the first of equals.

    No best one if no query can be scored.
    """
    epochs = [
        Epoch(run=run, number=number, scores=evaluation.of_a_search)
        for (run, evaluation), number in zip(evaluations.items(), numbers, strict=True)
    ]
    epochs.sort(key=lambda epoch: epoch.number)
    scored = [epoch for epoch in epochs if not math.isnan(epoch.scores.mAP)]
    best = max(scored, key=lambda epoch: epoch.scores.mAP, default=None)
    return [replace(epoch, lead=_lead(best, epoch)) for epoch in epochs], best


def _lead(best: Epoch | None, other: Epoch) -> Difference | None:
    if best is None or other is best:
        return None
    with contextlib.suppress(DataError):  # an image was mended between the two runs
        return compare(other.scores.values, best.scores.values).differences["mAP"]
    return None


def epoch_table(epochs: Sequence[Epoch]) -> Table:
    """A row for each checkpoint, in the order of their numbers."""
    table = Table()
    table.add_column("", overflow="fold")
    for heading in (*MEASURES.values(), "mAP − best, points", "p"):
        table.add_column(heading, justify="right")
    for epoch in epochs:
        lead = epoch.lead
        table.add_row(
            Text(printable(epoch.run.name)),
            *map(percent, epoch.values.values()),
            f"{-100 * lead.value:+.2f}" if lead else "",
            f"{lead.p_value:.4f}" if lead else "",
        )
    return table


def in_words(epochs: Sequence[Epoch], best: Epoch | None) -> str:
    """Which checkpoint is best, and how sure that is."""
    if best is None:
        return "no best checkpoint: no query can be scored"
    scores = best.scores
    text = f"best mAP by {scores.name}: {printable(best.run.name)}, {percent(scores.mAP)}"
    equals = [epoch for epoch in epochs if epoch.lead and epoch.lead.p_value >= 1 - LEVEL]
    if equals:
        names = ", ".join(printable(epoch.run.name) for epoch in equals)
        return f"{text}; not told apart from it (p of 0.05 or more): {names}"
    return text


def to_json(epochs: Sequence[Epoch], best: Epoch | None) -> dict[str, Any]:
    """Plain values; a score that does not exist is null."""
    return {
        "protocol": epochs[0].scores.name,
        "best": best and best.run.name,
        "checkpoints": [
            {
                "run": epoch.run.name,
                "number": epoch.number,
                **{
                    name: None if math.isnan(value) else value
                    for name, value in epoch.values.items()
                },
                "lead_of_best": epoch.lead
                and {key: getattr(epoch.lead, key) for key in ("value", "low", "high", "p_value")},
            }
            for epoch in epochs
        ],
    }


def _picture(epochs: Sequence[Epoch], axis: str) -> bytes:
    curves = {MEASURES[name]: [epoch.values[name] for epoch in epochs] for name in ("rank1", "mAP")}
    return epoch_curves([epoch.number for epoch in epochs], curves, axis)
