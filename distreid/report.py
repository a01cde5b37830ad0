"""Scores to text, JSON and the origin system's .mat file."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from rich.console import Console, Group
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from distreid.confidence import RESAMPLES
from distreid.errors import StoreError, printable
from distreid.evaluate import (
    Evaluation,
    Scores,
    cannot_evaluate,
    evaluate,
    side_by_side,
    usable_rows,
)
from distreid.files import publish, publish_text
from distreid.manifest import GALLERY, MULTI_QUERY, QUERY, Status
from distreid.progress import Steps, duration
from distreid.protocol import Protocol
from distreid.rerank import RERANKINGS, estimate, expansion_bytes
from distreid.similarity import COSINE, Similarity, memory_needed, seconds_needed
from distreid.store import FeatureStore

RANKS_SHOWN = (1, 5, 10)
INTERVAL = "  95 %"
CSV_COLUMNS = [
    *("protocol", "row", "path", "person_id", "camera_id"),
    *("matches", "first_rank", "ap", "ap_trapezoid", "inp"),
]
MAT_LIMIT = 4 << 30  # bytes of one variable in a MAT 5 file


def evaluate_aloud(
    store: FeatureStore,
    log: Console,
    protocols: Sequence[Protocol] | None = None,
    similarity: Similarity = COSINE,
) -> Evaluation:
    """`evaluate` with its need said before it starts, and progress on `log`."""
    if cannot_evaluate(store):
        return evaluate(store)  # which says why not
    protocols = protocols or side_by_side(store)
    queries, rows = len(usable_rows(store, QUERY)), len(usable_rows(store, GALLERY))
    need = memory_needed(queries, rows, similarity)
    seconds = seconds_needed(queries, rows, store.plan.dim)
    log.print(
        f"scoring {queries:,} queries × {rows:,} images: about {duration(seconds)} for each way "
        f"to rank, {decimal(need)} of memory beside the features"
    )
    for name in sorted({protocol.rerank for protocol in protocols} - {"none"}):
        reranking = estimate(queries, rows, store.plan.dim, RERANKINGS[name])
        log.print(
            f"re-ranking ({name}): about {duration(reranking.seconds)} more, "
            f"{decimal(reranking.bytes)} of memory beside the features"
        )
    if any(protocol.expand != "none" for protocol in protocols):
        total = queries + rows
        log.print(
            f"expansion: {decimal(expansion_bytes(total, store.plan.dim))} of memory beside the "
            "features"
        )
    with Steps(log) as steps:
        return evaluate(store, protocols, similarity, steps)


def score_table(evaluation: Evaluation) -> Group:
    """The table at the end of a job: a column for each protocol; below it the counts."""
    table = Table()
    table.add_column("")
    for scores in evaluation.scores:
        table.add_column("\n".join(headings(scores.protocol)), justify="right")
    for k in RANKS_SHOWN:
        table.add_row(f"Rank-{k}", *[percent(scores.rank(k)) for scores in evaluation.scores])
        if k == 1:
            table.add_row(INTERVAL, *[interval(s, "rank1") for s in evaluation.scores], style="dim")
    table.add_row("mAP", *[percent(scores.mAP) for scores in evaluation.scores])
    table.add_row(INTERVAL, *[interval(s, "mAP") for s in evaluation.scores], style="dim")
    table.add_row("mINP", *[percent(scores.mINP) for scores in evaluation.scores])
    table.add_row("queries", *[f"{scores.queries:,}" for scores in evaluation.scores])
    return Group(table, *map(Text, count_lines(evaluation)))


def interval(scores: Scores, measure: str) -> str:
    """`81.9 – 91.2 %`, of one of the measures of `Scores.values`; none is a dash."""
    found = scores.confidence.intervals[measure]
    return "–" if math.isnan(found.low) else f"{100 * found.low:.1f} – {100 * found.high:.1f} %"


def headings(protocol: Protocol) -> list[str]:
    """What tells a column from its neighbours."""
    lines = [protocol.name, *protocol.words]
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
    """What the scores were computed from, and what is wrong with it, for people."""
    counts = evaluation.counts
    lines = [
        f"95 %: of {RESAMPLES:,} draws of the persons searched for",
        f"{counts['queries']:,} queries, {counts['queries_without_match']:,} without a match; "
        f"gallery {counts['gallery']:,}, {counts['junk']:,} junk, "
        f"{counts['distractors']:,} distractors",
    ]
    if all(scores.protocol.camera_rule == "none" for scores in evaluation.scores):
        lines.append("no camera rule: matches of the query's own camera count too")
    if bad := counts["bad_queries"] + counts["bad_gallery"]:
        lines.append(f"{bad:,} images could not be read and are left out")
    if unlabelled := counts["unlabelled_queries"]:
        lines.append(f"{unlabelled:,} queries have no person and are left out")
    return lines + evaluation.diagnosis


def write_query_csv(store: FeatureStore, evaluation: Evaluation, file: Path) -> None:
    """For each protocol, one line per query: path, person, camera, matches, rank of the first,
    APs, INP."""
    rows = usable_rows(store, QUERY)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for scores in evaluation.scores:
        each = scores.per_query
        for place, row in enumerate(rows):
            writer.writerow(
                [
                    scores.protocol.name,
                    row,
                    store.manifest.path[row].decode("utf-8", "backslashreplace"),
                    store.manifest.person_id[row],
                    store.manifest.camera_id[row],
                    each.matches[place],
                    each.first_rank[place],
                    *(f"{values[place]:.6f}" for values in (each.ap, each.ap_trapezoid, each.inp)),
                ]
            )
    publish_text(file, text.getvalue())


def say_written(log: Console, files: Sequence[Path]) -> None:
    """A line for each file, with its size."""
    for file in files:
        log.print(f"wrote  {escape(printable(str(file)))} ({decimal(file.stat().st_size)})")


def write_metrics(store: FeatureStore, evaluation: Evaluation) -> Path:
    """`metrics.json` in the store's folder: every score with its protocol and its counts."""
    content = evaluation.to_json() | {"identity": store.plan.identity}
    file = store.run / "metrics.json"
    publish_text(file, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return file


def write_mat(store: FeatureStore) -> list[Path]:
    """`pytorch_result.mat`, and with multi-query rows `multi_query.mat`, in the store's folder.

    As Person_reID_baseline_pytorch's evaluate_gpu.py reads them: features (N, D) float32,
    labels and cameras 1 × N; and, added, the paths as cells. Rows without features are
    left out. StoreError if a variable would exceed 4 GiB. Gives the files written.
    """
    parts = {"pytorch_result.mat": {"gallery": GALLERY, "query": QUERY}}
    if len(store.manifest.rows(MULTI_QUERY)):
        parts["multi_query.mat"] = {"mquery": MULTI_QUERY}
    files = []
    for name, prefixes in parts.items():
        content: dict[str, Any] = {}
        for prefix, split in prefixes.items():
            content |= _mat_variables(store, prefix, split)
        publish(store.run / name, partial(_save_mat, content))
        files.append(store.run / name)
    return files


def _mat_variables(store: FeatureStore, prefix: str, split: str) -> dict[str, Any]:
    rows = store.manifest.rows(split)
    rows = rows[store.status[rows] == Status.OK]
    if len(rows) * store.plan.dim * 4 >= MAT_LIMIT:
        raise StoreError(
            f"{store.run}: {prefix}_f would have {len(rows):,} × {store.plan.dim} values, and a "
            ".mat variable ends at 4 GiB; read store.h5 instead (MATLAB: h5read)"
        )
    paths = [path.decode("utf-8", "backslashreplace") for path in store.manifest.path[rows]]
    return {
        f"{prefix}_f": store.features(rows),
        f"{prefix}_label": store.manifest.person_id[rows][None],
        f"{prefix}_cam": store.manifest.camera_id[rows][None],
        f"{prefix}_path": np.array(paths, dtype=object)[None],
    }


def _save_mat(content: dict[str, Any], file: Path) -> None:
    with file.open("wb") as stream:  # given a name, savemat would append .mat to it
        scipy.io.savemat(stream, content)


def percent(share: float) -> str:
    """`93.20 %`; a score that does not exist is a dash."""
    return "–" if math.isnan(share) else f"{100 * share:.2f} %"
