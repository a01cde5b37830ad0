"""A complete run to one HTML page: scores, pictures, breakdown, and how it was made."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from distreid.breakdown import CameraPairs, camera_pairs, first_ranked, person_scores, worst_queries
from distreid.calibrate import calibrate_run
from distreid.datasets.summary import describe
from distreid.errors import OptionError
from distreid.evaluate import Evaluation, Scores, labelled, usable_rows
from distreid.files import publish_bytes, publish_text
from distreid.manifest import GALLERY, QUERY
from distreid.openset import EDGES_T, Calibration
from distreid.page import Page, Table, render_page
from distreid.pictures import camera_pairs as draw_camera_pairs
from distreid.pictures import cmc_curve, open_set_curves, score_histogram
from distreid.progress import Steps
from distreid.ranking import Labelled
from distreid.ranking_picture import RankedImage, RankedQuery, ranking_gallery
from distreid.report import evaluate_aloud, headings, interval, percent
from distreid.store import FeatureStore

WORST, FIRST, RANKED = 6, 4, 10
LISTED = 20
DRAWN_FPR = 1e-3
CAPTIONS = {
    "cmc": "CMC: the share of queries whose first match is within the first k",
    "histogram": "Cosines of matches and of non-matches",
    "roc": "ROC over pairs",
    "camera_pairs": "mAP by query camera and gallery camera",
    "worst_queries": "The queries with the lowest AP, and what they find first",
    "first_queries": "The first queries, and what they find first",
}


def write_page(store: FeatureStore, log: Console) -> Path:
    """`report.html` in the run's folder, a single file; beside it its pictures and
    `breakdown.json`. Without matplotlib it has no plots, and `log` says so."""
    evaluation = evaluate_aloud(store, log)
    scores = evaluation.of_a_search  # whose ranking is drawn
    query, gallery = labelled(store, QUERY), labelled(store, GALLERY)
    with Steps(log) as steps:
        pairs = camera_pairs(query, gallery, scores.protocol, steps)
    calibration = calibrate_run(store, log)
    pictures = _rankings(store, scores, query, gallery)
    try:
        pictures |= _plots(evaluation, calibration, pairs)
    except OptionError as error:
        log.print(f"no plots: {error}")
    (store.run / "pictures").mkdir(exist_ok=True)
    for name, picture in pictures.items():
        publish_bytes(store.run / "pictures" / f"{name}.png", picture)
    worst, name = _worst_queries(store, scores), scores.protocol.name
    persons = person_scores(query, scores)
    page = Page(
        title=f"{store.plan.identity['model']['name']} on {store.manifest.root.name}",
        run=store.run,
        command=store.plan.provenance["command"],
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        identity=store.plan.identity,
        data=[str(store.manifest.root), *describe(store.manifest)],
        scores=_score_table(evaluation),
        counts=evaluation.counts,
        diagnosis=evaluation.diagnosis,
        pictures={
            caption: pictures[name] for name, caption in CAPTIONS.items() if name in pictures
        },
        breakdowns=[
            *_threshold_tables(calibration),
            _query_table(worst, name),
            _person_table(persons, name),
        ],
    )
    breakdown = {
        "protocol": name,
        "camera_pairs": pairs.to_json(),
        "persons": [{"person_id": p, "queries": n, "mAP": mean} for p, n, mean in persons],
        "worst_queries": worst,
    }
    publish_text(store.run / "breakdown.json", json.dumps(breakdown, indent=2) + "\n")
    publish_text(store.run / "report.html", render_page(page))
    return store.run / "report.html"


def _plots(
    evaluation: Evaluation, calibration: Calibration, pairs: CameraPairs
) -> dict[str, bytes]:
    """A PNG for each of CAPTIONS that shows numbers, if there are any."""
    fpr, tpr = calibration.roc()
    thresholds = {
        f"FPR {100 * point.wished:g} %": point.threshold
        for point in calibration.verification()
        if point.threshold is not None and point.wished <= DRAWN_FPR
    }
    edges = np.append(EDGES_T, 1.0)
    plots = {
        "cmc": cmc_curve({s.protocol.name: s.cmc for s in evaluation.scores}),
        "histogram": score_histogram(
            edges, calibration.matches.counts, calibration.nonmatches.counts, thresholds
        ),
        "roc": open_set_curves(fpr, tpr, calibration.auc()),
    }
    if pairs.cameras:
        plots["camera_pairs"] = draw_camera_pairs(pairs.cameras, pairs.mAP_CC, pairs.queries_CC)
    return plots


def _rankings(
    store: FeatureStore, scores: Scores, query: Labelled, gallery: Labelled
) -> dict[str, bytes]:
    """A PNG for each of CAPTIONS that shows images, if there are any."""
    shown = {
        "worst_queries": worst_queries(scores, WORST),
        "first_queries": np.arange(min(FIRST, len(query))),
    }
    return {
        name: ranking_gallery(ranked_queries(store, scores, query, gallery, queries))
        for name, queries in shown.items()
        if len(queries)
    }


def ranked_queries(
    store: FeatureStore,
    scores: Scores,
    query: Labelled,
    gallery: Labelled,
    queries: np.ndarray[tuple[int], np.dtype[np.intp]],
) -> list[RankedQuery]:
    """The evaluator's own ranking of some queries, with the images."""
    query_rows, gallery_rows = usable_rows(store, QUERY), usable_rows(store, GALLERY)
    return [
        RankedQuery(
            image=store.manifest.file(int(query_rows[found.query])),
            person=int(query.person_id[found.query]),
            camera=int(query.camera_id[found.query]),
            ap=float(scores.per_query.ap[found.query])
            if scores.per_query.matches[found.query]
            else math.nan,
            ranked=[
                RankedImage(
                    image=store.manifest.file(int(gallery_rows[row])),
                    person=int(gallery.person_id[row]),
                    camera=int(gallery.camera_id[row]),
                    score=float(score),
                    correct=bool(correct),
                )
                for row, score, correct in zip(
                    found.rows, found.scores, found.is_match, strict=True
                )
            ],
        )
        for found in first_ranked(query, gallery, scores.protocol, queries, RANKED)
    ]


def _score_table(evaluation: Evaluation) -> Table:
    """A column for each protocol, as in the terminal."""
    lines: dict[str, Callable[[Scores], str]] = {
        "how": lambda s: ", ".join(headings(s.protocol)[1:]),
        "Rank-1": lambda s: percent(s.rank(1)),
        "Rank-1, 95 % interval": lambda s: interval(s, "rank1"),
        "Rank-5": lambda s: percent(s.rank(5)),
        "Rank-10": lambda s: percent(s.rank(10)),
        "mAP": lambda s: percent(s.mAP),
        "mAP, 95 % interval": lambda s: interval(s, "mAP"),
        "mINP": lambda s: percent(s.mINP),
        "queries": lambda s: f"{s.queries:,}",
    }
    return Table(
        title="Scores by protocol",
        header=["protocol", *[s.protocol.name for s in evaluation.scores]],
        rows=[[name, *map(line, evaluation.scores)] for name, line in lines.items()],
    )


def _threshold_tables(calibration: Calibration) -> list[Table]:
    """For the wished rates that there are pairs, or queries, enough for."""
    kinds = {
        "Thresholds: is it the same person?": ("FPR", "TPR", calibration.verification()),
        "Thresholds: is the person in the gallery?": (
            *("false alarms", "identified"),
            calibration.identification(),
        ),
    }
    return [
        Table(
            title=title,
            header=[f"{false} wished", "threshold", f"{false} achieved", true],
            rows=[
                [
                    f"{100 * point.wished:g} %",
                    f"{point.threshold:.4f}",
                    f"{100 * point.false_rate:.3g} %",
                    "–" if point.true_rate is None else percent(point.true_rate),
                ]
                for point in points
                if point.threshold is not None and point.false_rate is not None
            ],
        )
        for title, (false, true, points) in kinds.items()
    ]


def _worst_queries(store: FeatureStore, scores: Scores) -> list[dict[str, Any]]:
    rows = usable_rows(store, QUERY)
    each = scores.per_query
    return [
        {
            "row": int(rows[query]),
            "path": store.manifest.path[rows[query]].decode("utf-8", "backslashreplace"),
            "ap": float(each.ap[query]),
            "first_rank": int(each.first_rank[query]),
            "matches": int(each.matches[query]),
        }
        for query in worst_queries(scores, LISTED)
    ]


def _query_table(worst: list[dict[str, Any]], protocol: str) -> Table:
    return Table(
        title=f"The queries with the lowest AP ({protocol})",
        header=["path", "AP", "rank of the first match", "matches"],
        rows=[
            [q["path"], percent(q["ap"]), f"{q['first_rank']:,}", f"{q['matches']:,}"]
            for q in worst
        ],
    )


def _person_table(persons: list[tuple[int, int, float]], protocol: str) -> Table:
    return Table(
        title=f"The persons with the lowest mAP ({protocol})",
        header=["person", "mAP", "queries"],
        rows=[
            [str(person), percent(mean), f"{count:,}"] for person, count, mean in persons[:LISTED]
        ],
    )
