"""Scores to a table, to `metrics.json`, and to a CSV with a line for each query."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console, Group
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from distreid.data.manifest import CAMERA_NAME, PERSON_NAME, QUERY
from distreid.errors import printable
from distreid.evaluation.confidence import RESAMPLES
from distreid.evaluation.evaluate import (
    NO_CAMERA_RULE,
    Evaluation,
    Scores,
    usable_rows,
)
from distreid.evaluation.protocol import Protocol
from distreid.host.atomic_files import publish_text
from distreid.host.counts import counted
from distreid.store import FeatureStore

RANKS_SHOWN = (1, 5, 10)
INTERVAL = "  95 %"
SPREAD = "  ± over draws"
CSV_COLUMNS = [
    *("protocol", "row", "path", "person_id", "camera_id"),
    *("matches", "first_rank", "ap", "ap_trapezoid", "inp"),
]


def score_table(evaluation: Evaluation) -> Group:
    """The table at the end of a job: a column for each protocol; above it what is the matter with
    the scores, if something is, below it the counts."""
    table = Table()
    table.add_column("")
    for scores in evaluation.scores:
        table.add_column("\n".join(score_headings(scores)), justify="right")
    has_draws = any(scores.draws for scores in evaluation.scores)

    def spread(measure: Callable[[Scores], float]) -> None:
        if has_draws:
            shown = [_plus_minus(scores.spread(measure)) for scores in evaluation.scores]
            table.add_row(SPREAD, *shown, style="dim")

    for k in RANKS_SHOWN:
        table.add_row(f"Rank-{k}", *[percent(scores.rank(k)) for scores in evaluation.scores])
        if k == 1:
            table.add_row(INTERVAL, *[interval(s, "rank1") for s in evaluation.scores], style="dim")
            spread(lambda scores: scores.rank(1))
    table.add_row("mAP", *[percent(scores.mAP) for scores in evaluation.scores])
    table.add_row(INTERVAL, *[interval(s, "mAP") for s in evaluation.scores], style="dim")
    spread(lambda scores: scores.mAP)
    table.add_row("mINP", *[percent(scores.mINP) for scores in evaluation.scores])
    table.add_row("queries", *[f"{scores.queries:,}" for scores in evaluation.scores])
    found = [Text(line) for scores in evaluation.scores for line in identification_lines(scores)]
    matters = map(Text, evaluation.diagnosis)
    return Group(*matters, table, *found, *map(Text, count_lines(evaluation)))


def identification_lines(scores: Scores) -> list[str]:
    """What a benchmark has beside its ranks: accuracy by person, and open-set rates."""
    lines = []
    if scores.balanced_rank1 is not None:
        lines.append(
            f"{scores.name}: Rank-1 as the mean over persons {percent(scores.balanced_rank1)}"
        )
    if scores.identification and all(math.isnan(each.reached) for each in scores.identification):
        lines.append(f"{scores.name}: everybody is in the gallery, so nobody can be refused")
        return lines
    for each in scores.identification:
        shares = ", ".join(f"first {r}: {percent(s)}" for r, s in each.identified.items())
        lines.append(
            f"{scores.name}: threshold {each.threshold:.4f} accepts {percent(each.reached)} of "
            f"those who are not in the gallery, and identifies of the others {shares}"
        )
    return lines


def score_headings(scores: Scores) -> list[str]:
    """What tells a column from its neighbours: of a benchmark its name and draws."""
    counting = headings(scores.protocol)
    if scores.benchmark is None:
        return counting
    said = [line for line in counting[1:] if line != NO_CAMERA_RULE]
    changed = ["changed"] if scores.protocol.name.endswith(", changed") else []
    draws = [f"mean of {len(scores.draws)} draws"] if scores.draws else []
    return [scores.name, *changed, *draws, *said]


def score_rows(evaluation: Evaluation) -> list[list[str]]:
    """A row for each figure, which is named first; a column for each protocol."""
    lines: dict[str, Callable[[Scores], str]] = {
        "how": lambda s: ", ".join(score_headings(s)[1:]),
        "Rank-1": lambda s: percent(s.rank(1)),
        "Rank-1, 95 % interval": lambda s: interval(s, "rank1"),
        "Rank-5": lambda s: percent(s.rank(5)),
        "Rank-10": lambda s: percent(s.rank(10)),
        "mAP": lambda s: percent(s.mAP),
        "mAP, 95 % interval": lambda s: interval(s, "mAP"),
        "mINP": lambda s: percent(s.mINP),
        "queries": lambda s: f"{s.queries:,}",
    }
    return [[name, *map(line, evaluation.scores)] for name, line in lines.items()]


def interval(scores: Scores, measure: str) -> str:
    """`81.9 – 91.2 %`, of one of the measures of `Scores.values`; none is a dash."""
    found = scores.confidence.intervals[measure]
    return "–" if math.isnan(found.low) else f"{100 * found.low:.1f} – {100 * found.high:.1f} %"


def headings(protocol: Protocol) -> list[str]:
    """What tells a column from its neighbours."""
    lines = [protocol.name, *protocol.words]
    if protocol.exclude_same:
        lines.append(f"not the same {' and '.join(protocol.columns)}")
    if protocol.camera_rule == "none" and protocol.name != NO_CAMERA_RULE:
        lines.append(NO_CAMERA_RULE)
    if protocol.gallery_shots == "single":
        lines.append("single shot")
    if protocol.query == "multi":
        lines.append("multi-query")
    if protocol.expand != "none":
        lines.append("expanded")
    if protocol.rerank != "none":
        lines.append(f"re-ranked ({protocol.rerank})")
    return lines


def count_lines(evaluation: Evaluation) -> list[str]:
    """What the scores were computed from, for people."""
    counts = evaluation.counts
    lines = [
        f"95 %: of {RESAMPLES:,} draws of the persons searched for",
        f"{counted(counts['queries'], 'query', 'queries')}, "
        f"{counts['queries_without_match']:,} without a match; gallery "
        f"{counts['gallery']:,}, {counts['junk']:,} junk, "
        f"{counted(counts['distractors'], 'distractor')}",
    ]
    usual = [scores for scores in evaluation.scores if scores.benchmark is None]
    if usual and all(scores.protocol.camera_rule == "none" for scores in usual):
        lines.append("no camera rule: matches of the query's own camera count too")
    if bad := counts["bad_queries"] + counts["bad_gallery"]:
        are = "is" if bad == 1 else "are"
        lines.append(f"{counted(bad, 'image')} could not be read and {are} left out")
    if unlabelled := counts["unlabelled_queries"]:
        left = counted(unlabelled, "query", "queries")
        lines.append(f"left out: {left} without a person")
    return lines


def write_query_csv(store: FeatureStore, evaluation: Evaluation, file: Path) -> None:
    """For each protocol, one line per query: path, person, camera, matches, rank of the first,
    APs, INP, with draws those of the first draw that the query is in; and the names of person and
    camera, where they have some."""
    usual = usable_rows(store, QUERY)
    names = [name for name in (PERSON_NAME, CAMERA_NAME) if name in store.manifest.extra]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*CSV_COLUMNS, *names])
    for scores in evaluation.scores:
        each = scores.per_query
        for place, row in enumerate(usual if scores.rows is None else scores.rows):
            writer.writerow(
                [
                    scores.name,
                    row,
                    store.manifest.path[row].decode("utf-8", "backslashreplace"),
                    store.manifest.person_id[row],
                    store.manifest.camera_id[row],
                    each.matches[place],
                    each.first_rank[place],
                    *(f"{values[place]:.6f}" for values in (each.ap, each.ap_trapezoid, each.inp)),
                    *(store.manifest.extra[name][row].decode() for name in names),
                ]
            )
    publish_text(file, text.getvalue())


def say_written(
    log: Console, files: Sequence[Path], place: Callable[[Path], Path] | None = None
) -> None:
    """A line for each file, with its size, by the name that `place` gives it."""
    for file in files:
        name = printable(str(place(file) if place else file))
        log.print(f"wrote  {escape(name)} ({decimal(file.stat().st_size)})")


def write_metrics(store: FeatureStore, evaluation: Evaluation) -> Path:
    """`metrics.json` in the store's folder: every score with its protocol and its counts."""
    file = store.run / "metrics.json"
    publish_text(file, metrics_text(store, evaluation))
    return file


def metrics_text(store: FeatureStore, evaluation: Evaluation) -> str:
    """What `metrics.json` holds."""
    content = evaluation.to_json() | {"identity": store.plan.identity}
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _plus_minus(share: float) -> str:
    return "" if math.isnan(share) else f"± {100 * share:.2f}"


def percent(share: float) -> str:
    """`93.20 %`; a score that does not exist is a dash."""
    return "–" if math.isnan(share) else f"{100 * share:.2f} %"
