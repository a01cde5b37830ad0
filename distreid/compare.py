"""Two complete runs on the same images: which one is better, and how sure that is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from distreid.confidence import Comparison, compare
from distreid.errors import StoreError, printable
from distreid.evaluate import usable_rows
from distreid.manifest import GALLERY, QUERY
from distreid.protocol import Protocol
from distreid.report import evaluate_aloud
from distreid.store import FeatureStore

MEASURES = {"rank1": "Rank-1", "mAP": "mAP", "mINP": "mINP"}
LISTED = 3


def compare_runs(a: FeatureStore, b: FeatureStore, protocol: Protocol, log: Console) -> Comparison:
    """B − A by one protocol, paired by query; the gallery is the same too.

    What it takes is said before it starts, and how far it is, on `log`.

    StoreError, which says how they differ, unless both runs are of the same rows and left
    out the same images.
    """
    if a.plan.identity["manifest"] != b.plan.identity["manifest"]:
        raise StoreError(
            f"{a.run} ({len(a.manifest):,} rows of {a.manifest.root}) and {b.run} "
            f"({len(b.manifest):,} rows of {b.manifest.root}) are not of the same images: "
            "manifest differs"
        )
    for split in (QUERY, GALLERY):
        ours, theirs = usable_rows(a, split), usable_rows(b, split)
        if not np.array_equal(ours, theirs):
            row = np.setxor1d(ours, theirs)[0]
            raise StoreError(
                f"{a.run} and {b.run}: row {row} has features in one of them only; "
                "mend the image and extract again"
            )
    scores = [evaluate_aloud(store, log, [protocol]).scores[0] for store in (a, b)]
    return compare(scores[0].values, scores[1].values)


def comparison_table(
    a: FeatureStore, b: FeatureStore, protocol: Protocol, comparison: Comparison
) -> Group:
    """The differences for people, and the queries that changed most."""
    table = Table()
    for heading in ("", "B − A, points", "95 % interval", "p", "better", "equal", "worse"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, title in MEASURES.items():
        found = comparison.differences[name]
        table.add_row(
            title,
            f"{100 * found.value:+.2f}",
            f"{100 * found.low:+.2f} … {100 * found.high:+.2f}",
            f"{found.p_value:.4f}",
            *(f"{count:,}" for count in (found.better, found.equal, found.worse)),
        )
    lines = [
        f"A {a.run}",
        f"B {b.run}",
        f"{protocol.name}: {comparison.queries:,} queries of {comparison.persons:,} persons, "
        f"which are resampled {comparison.resamples:,} times",
    ]
    rows = usable_rows(b, QUERY)
    change = comparison.differences["mAP"]
    for word, queries in (("better", change.most_better), ("worse", change.most_worse)):
        paths = [printable(str(_path(b, int(rows[query])))) for query in queries[:LISTED]]
        if paths:
            lines.append(f"{word} most in AP: {', '.join(paths)}")
    return Group(*map(Text, lines[:2]), table, *map(Text, lines[2:]))


def comparison_json(a: FeatureStore, b: FeatureStore, comparison: Comparison) -> dict[str, Any]:
    """Plain values; queries as manifest rows."""
    rows = usable_rows(b, QUERY)
    content = comparison.to_json()
    for difference in content["differences"].values():
        for key in ("most_better", "most_worse"):
            difference[key] = [int(rows[query]) for query in difference[key]]
    return {"a": str(a.run), "b": str(b.run), **content}


def _path(store: FeatureStore, row: int) -> Path:
    return store.manifest.file(row).relative_to(store.manifest.root)
