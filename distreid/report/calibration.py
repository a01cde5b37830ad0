"""Thresholds to a table and to `calibration.json`."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

from distreid.evaluation.openset import Calibration, OperatingPoint
from distreid.host.atomic_files import publish_text
from distreid.host.counts import counted
from distreid.store import FeatureStore
from distreid.store.run_folder import CALIBRATION


def write_calibration(store: FeatureStore, calibration: Calibration) -> Path:
    """`calibration.json` in the store's folder."""
    file = store.run / CALIBRATION
    publish_text(file, calibration_text(store, calibration))
    return file


def calibration_text(store: FeatureStore, calibration: Calibration) -> str:
    """What `calibration.json` holds."""
    content = calibration.to_json() | {"identity": store.plan.identity}
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def calibration_table(calibration: Calibration) -> Group:
    """The thresholds for people."""
    content = calibration.to_json()
    pairs = _points("FPR", "TPR", calibration.verification())
    queries = _points("false alarms", "identified", calibration.identification())
    return Group(
        Text(
            f"the same person? {counted(content['matches']['total'], 'match', 'matches')}, "
            f"{counted(content['nonmatches']['total'], 'non-match', 'non-matches')}; "
            f"AUC {_share(calibration.auc())}, EER {_share(calibration.eer())}"
        ),
        pairs,
        Text(
            f"in the gallery? {content['queries_with_match']:,} queries with a match; false "
            f"alarms of {content['alarm_queries']:,}: {content['alarms_from']}"
        ),
        queries,
        Text("– where fewer than 10 false ones would be left: too few to know"),
    )


def _points(false: str, true: str, points: list[OperatingPoint]) -> Table:
    table = Table()
    for heading in (f"{false} wished", "threshold", f"{false} achieved", true):
        table.add_column(heading, justify="right")
    for point in points:
        threshold = "–" if point.threshold is None else f"{point.threshold:.4f}"
        false_rate = "–" if point.false_rate is None else f"{point.false_rate:.2e}"
        table.add_row(f"{point.wished:.0e}", threshold, false_rate, _share(point.true_rate))
    return table


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f} %"
