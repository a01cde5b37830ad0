"""A complete run to one HTML page: scores, pictures, breakdown, and how it was made."""

from __future__ import annotations

import json
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
from distreid.openset import EDGES_T
from distreid.page import Page, Table, render_page
from distreid.pictures import camera_pairs as draw_camera_pairs
from distreid.pictures import cmc_curve, open_set_curves, score_histogram
from distreid.ranking import Labelled
from distreid.ranking_picture import RankedImage, RankedQuery, ranking_gallery
from distreid.report import evaluate_aloud, headings, percent
from distreid.store import FeatureStore

PROTOCOL = "fastreid"  # whose ranking is drawn: by cosine, as a search would rank
WORST, FIRST, RANKED = 6, 4, 10
LISTED = 20
DRAWN_FPR = 1e-3
CAPTIONS = {
    "cmc": "CMC: the share of queries whose first match is within the first k",
    "histogram": "Cosines of matches and of non-matches",
    "roc": "ROC over pairs",
    "worst_queries": "The queries with the lowest AP, and what they find first",
    "first_queries": "The first queries, and what they find first",
    "camera_pairs": "mAP by query camera and gallery camera",
}


def write_page(store: FeatureStore, log: Console) -> Path:
    """`report.html` in the run's folder, a single file; beside it its pictures and
    `breakdown.json`. Without matplotlib it has no pictures, and `log` says so."""
    evaluation = evaluate_aloud(store, log)
    scores = next(s for s in evaluation.scores if s.protocol.name == PROTOCOL)
    query, gallery = labelled(store, QUERY), labelled(store, GALLERY)
    pairs = camera_pairs(query, gallery, scores.protocol)
    try:
        pictures = _pictures(store, evaluation, scores, pairs, query, gallery)
    except OptionError as error:
        log.print(f"no pictures: {error}")
        pictures = {}
    (store.run / "pictures").mkdir(exist_ok=True)
    for name, picture in pictures.items():
        publish_bytes(store.run / "pictures" / f"{name}.png", picture)
    worst = _worst_queries(store, scores)
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
        pictures={CAPTIONS[name]: picture for name, picture in pictures.items()},
        breakdowns=[_query_table(worst), _person_table(persons)],
    )
    breakdown = {
        "protocol": PROTOCOL,
        "camera_pairs": pairs.to_json(),
        "persons": [{"person_id": p, "queries": n, "mAP": mean} for p, n, mean in persons],
        "worst_queries": worst,
    }
    publish_text(store.run / "breakdown.json", json.dumps(breakdown, indent=2) + "\n")
    publish_text(store.run / "report.html", render_page(page))
    return store.run / "report.html"


def _pictures(
    store: FeatureStore,
    evaluation: Evaluation,
    scores: Scores,
    pairs: CameraPairs,
    query: Labelled,
    gallery: Labelled,
) -> dict[str, bytes]:
    """A PNG for each of CAPTIONS that there is something to draw for."""
    calibration = calibrate_run(store)
    fpr, tpr = calibration.roc()
    thresholds = {
        f"FPR {point.wished:g}": point.threshold
        for point in calibration.verification()
        if point.threshold is not None and point.wished <= DRAWN_FPR
    }
    edges = np.append(EDGES_T, 1.0)
    first = np.arange(min(FIRST, len(query)))
    pictures = {
        "cmc": cmc_curve({s.protocol.name: s.cmc for s in evaluation.scores}),
        "histogram": score_histogram(
            edges, calibration.matches.counts, calibration.nonmatches.counts, thresholds
        ),
        "roc": open_set_curves(fpr, tpr, calibration.auc()),
        "worst_queries": ranking_gallery(
            _ranked(store, scores, query, gallery, worst_queries(scores, WORST))
        ),
        "first_queries": ranking_gallery(_ranked(store, scores, query, gallery, first)),
    }
    if pairs.cameras:
        pictures["camera_pairs"] = draw_camera_pairs(pairs.cameras, pairs.mAP_CC, pairs.queries_CC)
    return pictures


def _ranked(
    store: FeatureStore,
    scores: Scores,
    query: Labelled,
    gallery: Labelled,
    queries: np.ndarray[tuple[int], np.dtype[np.intp]],
) -> list[RankedQuery]:
    """The evaluator's own ranking, with the images."""
    query_rows, gallery_rows = usable_rows(store, QUERY), usable_rows(store, GALLERY)
    return [
        RankedQuery(
            image=store.manifest.file(int(query_rows[found.query])),
            person=int(query.person_id[found.query]),
            camera=int(query.camera_id[found.query]),
            ap=float(scores.per_query.ap[found.query]),
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
    return Table(
        title="Scores by protocol",
        header=["protocol", "how", "Rank-1", "Rank-5", "Rank-10", "mAP", "mINP", "queries"],
        rows=[
            [
                s.protocol.name,
                ", ".join(headings(s.protocol)[1:]),
                *(percent(s.rank(k)) for k in (1, 5, 10)),
                percent(s.mAP),
                percent(s.mINP),
                f"{s.queries:,}",
            ]
            for s in evaluation.scores
        ],
    )


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


def _query_table(worst: list[dict[str, Any]]) -> Table:
    return Table(
        title=f"The queries with the lowest AP ({PROTOCOL})",
        header=["path", "AP", "rank of the first match", "matches"],
        rows=[
            [q["path"], percent(q["ap"]), f"{q['first_rank']:,}", f"{q['matches']:,}"]
            for q in worst
        ],
    )


def _person_table(persons: list[tuple[int, int, float]]) -> Table:
    return Table(
        title=f"The persons with the lowest mAP ({PROTOCOL})",
        header=["person", "mAP", "queries"],
        rows=[
            [str(person), percent(mean), f"{count:,}"] for person, count, mean in persons[:LISTED]
        ],
    )
