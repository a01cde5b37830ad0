"""Two runs compared, for people and for programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from distreid.errors import printable
from distreid.evaluation.confidence import Comparison
from distreid.evaluation.protocol import Protocol
from distreid.evaluation.protocols.rule import Benchmark
from distreid.host.counts import counted
from distreid.store import FeatureStore

MEASURES = {"rank1": "Rank-1", "mAP": "mAP", "mINP": "mINP"}
LISTED = 3


def comparison_table(
    a: FeatureStore, b: FeatureStore, protocol: Protocol | Benchmark, comparison: Comparison
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
        f"{protocol.name}: {counted(comparison.queries, 'query', 'queries')} of "
        f"{counted(comparison.persons, 'person')}, "
        f"which are resampled {comparison.resamples:,} times",
    ]
    change = comparison.differences["mAP"]
    for word, queries in (("better", change.most_better), ("worse", change.most_worse)):
        paths = [printable(str(_path(b, row))) for row in queries[:LISTED]]
        if paths:
            lines.append(f"{word} most in AP: {', '.join(paths)}")
    return Group(*map(Text, lines[:2]), table, *map(Text, lines[2:]))


def comparison_json(a: FeatureStore, b: FeatureStore, comparison: Comparison) -> dict[str, Any]:
    """Plain values; queries as manifest rows."""
    return {"a": str(a.run), "b": str(b.run), **comparison.to_json()}


def _path(store: FeatureStore, row: int) -> Path:
    return store.manifest.file(row).relative_to(store.manifest.root)
