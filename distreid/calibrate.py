"""A complete run to thresholds: who is the same person, and who is not in the gallery."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console, Group
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from distreid.errors import DataError
from distreid.evaluate import cannot_evaluate, labelled
from distreid.files import publish_text
from distreid.manifest import GALLERY, NO_CAMERA, QUERY
from distreid.openset import Calibration, OperatingPoint, Who, calibrate
from distreid.progress import Steps, duration
from distreid.similarity import memory_needed, score_blocks, seconds_needed
from distreid.store import FeatureStore


def calibrate_run(store: FeatureStore, log: Console) -> Calibration:
    """Counts every query–gallery pair by its cosine; DataError if there is nothing to count.

    Says what it takes before it starts, and how far it is, on `log`.
    """
    if why := cannot_evaluate(store):
        raise DataError(f"{store.run}: not calibrated: {why}")
    query, gallery = labelled(store, QUERY), labelled(store, GALLERY)
    seconds = seconds_needed(len(query), len(gallery), store.plan.dim)
    need = 2 * memory_needed(len(query), len(gallery))  # blocks that wait to be counted
    log.print(
        f"counting {len(query):,} × {len(gallery):,} pairs: about {duration(seconds)}, "
        f"{decimal(need)} of memory beside the features"
    )
    with Steps(log) as steps:
        return calibrate(
            score_blocks(query.features, gallery.pieces),
            Who(person_id=query.person_id, camera_id=query.camera_id),
            Who(person_id=gallery.person_id, camera_id=gallery.camera_id),
            cross_camera=bool((query.camera_id != NO_CAMERA).any()),
            progress=steps,
        )


def write_calibration(store: FeatureStore, calibration: Calibration) -> Path:
    """`calibration.json` in the store's folder."""
    file = store.run / "calibration.json"
    content = calibration.to_json() | {"identity": store.plan.identity}
    publish_text(file, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return file


def calibration_table(calibration: Calibration) -> Group:
    """The thresholds for people."""
    content = calibration.to_json()
    pairs = _points("FPR", "TPR", calibration.verification())
    queries = _points("false alarms", "identified", calibration.identification())
    return Group(
        Text(
            f"the same person? {content['matches']['total']:,} matches, "
            f"{content['nonmatches']['total']:,} non-matches; AUC {_share(calibration.auc())}, "
            f"EER {_share(calibration.eer())}"
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
