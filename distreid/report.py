"""Scores to text, JSON and the origin system's .mat file."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from rich.table import Table

from distreid.errors import StoreError
from distreid.evaluate import Evaluation
from distreid.files import publish, publish_text
from distreid.manifest import GALLERY, MULTI_QUERY, QUERY, Status
from distreid.store import FeatureStore

MAT_LIMIT = 4 << 30  # bytes of one variable in a MAT 5 file


def score_table(evaluation: Evaluation) -> Table:
    """The table at the end of a job: a column for each protocol, then the counts."""
    table = Table(title_justify="left", caption_justify="left")
    table.add_column("")
    for scores in evaluation.scores:
        what = "all queries" if scores.protocol.denominator == "all" else "valid queries"
        table.add_column(
            f"{scores.protocol.as_in}\n{what}, {scores.protocol.ap} AP", justify="right"
        )
    for rank in (1, 5, 10):
        row = [_percent(scores.cmc[rank - 1]) for scores in evaluation.scores]
        table.add_row(f"Rank-{rank}", *row)
    table.add_row("mAP", *[_percent(scores.mAP) for scores in evaluation.scores])
    table.add_row("mINP", *[_percent(scores.mINP) for scores in evaluation.scores])
    table.add_row("queries", *[f"{scores.queries:,}" for scores in evaluation.scores])
    table.caption = "\n".join(count_lines(evaluation))
    return table


def count_lines(evaluation: Evaluation) -> list[str]:
    """What the scores were computed from, and what is wrong with it, for people."""
    counts = evaluation.counts
    lines = [
        f"{counts['queries']:,} queries, {counts['queries_without_match']:,} without a match; "
        f"gallery {counts['gallery']:,}, {counts['junk']:,} junk"
    ]
    if evaluation.camera_rule == "none":
        lines.append("the data has no cameras: matches of the query's own camera count too")
    if bad := counts["bad_queries"] + counts["bad_gallery"]:
        lines.append(f"{bad:,} images could not be read and are left out")
    return lines + evaluation.diagnosis


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


def _percent(share: float) -> str:
    return "–" if math.isnan(share) else f"{100 * share:.2f} %"
