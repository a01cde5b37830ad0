"""A complete run to one HTML page: scores, pictures, breakdown, and how it was made."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from rich.console import Console

from distreid.breakdown import camera_pairs, first_ranked, person_scores, worst_queries
from distreid.calibrate import calibrate_run
from distreid.datasets import describe
from distreid.errors import OptionError
from distreid.evaluate import Evaluation, Labelled, Scores, labelled, usable_rows
from distreid.files import publish_text
from distreid.manifest import GALLERY, QUERY
from distreid.openset import EDGES_T
from distreid.page import Page, Table, render_page
from distreid.pictures import (
    RankedImage,
    RankedQuery,
    cmc_curve,
    open_set_curves,
    ranking_gallery,
    score_histogram,
)
from distreid.pictures import camera_pairs as draw_camera_pairs
from distreid.report import evaluate_aloud, headings, percent
from distreid.store import FeatureStore

PROTOCOL = "fastreid"  # whose ranking is drawn: by cosine, as a search would rank
WORST, FIRST, RANKED = 6, 4, 10
PERSONS_SHOWN = 20
DRAWN_FPR = 1e-3


def write_page(store: FeatureStore, log: Console) -> Path:
    """`report.html` in the run's folder, a single file; without matplotlib it has no pictures,
    and `log` says so."""
    evaluation = evaluate_aloud(store, log)
    scores = next(s for s in evaluation.scores if s.protocol.name == PROTOCOL)
    query, gallery = labelled(store, QUERY), labelled(store, GALLERY)
    try:
        pictures = _pictures(store, evaluation, scores, query, gallery)
    except OptionError as error:
        log.print(f"no pictures: {error}")
        pictures = {}
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
        pictures=pictures,
        breakdowns=[_worst_queries(store, scores), _persons(query, scores)],
    )
    file = store.run / "report.html"
    publish_text(file, render_page(page))
    return file


def _pictures(
    store: FeatureStore,
    evaluation: Evaluation,
    scores: Scores,
    query: Labelled,
    gallery: Labelled,
) -> dict[str, bytes]:
    calibration = calibrate_run(store)
    fpr, tpr = calibration.roc()
    thresholds = {
        f"FPR {point.wished:g}": point.threshold
        for point in calibration.verification()
        if point.threshold is not None and point.wished <= DRAWN_FPR
    }
    edges = np.append(EDGES_T, 1.0)
    pictures: dict[str, Callable[[], bytes]] = {
        "CMC: the share of queries whose first match is within the first k": lambda: cmc_curve(
            {s.protocol.name: s.cmc for s in evaluation.scores}
        ),
        "Cosines of matches and of non-matches": lambda: score_histogram(
            edges, calibration.matches.counts, calibration.nonmatches.counts, thresholds
        ),
        "ROC over pairs": lambda: open_set_curves(fpr, tpr, calibration.auc()),
        "The queries with the lowest AP, and what they find first": lambda: ranking_gallery(
            _ranked(store, scores, query, gallery, worst_queries(scores, WORST))
        ),
        "The first queries, and what they find first": lambda: ranking_gallery(
            _ranked(store, scores, query, gallery, np.arange(min(FIRST, len(query))))
        ),
    }
    pairs = camera_pairs(query, gallery, scores.protocol)
    if pairs.cameras:
        pictures["mAP by query camera and gallery camera"] = lambda: draw_camera_pairs(
            pairs.cameras, pairs.mAP_CC, pairs.queries_CC
        )
    return {caption: draw() for caption, draw in pictures.items()}


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


def _worst_queries(store: FeatureStore, scores: Scores) -> Table:
    rows = usable_rows(store, QUERY)
    each = scores.per_query
    return Table(
        title=f"The {PERSONS_SHOWN} queries with the lowest AP ({scores.protocol.name})",
        header=["path", "AP", "rank of the first match", "matches"],
        rows=[
            [
                store.manifest.path[rows[query]].decode("utf-8", "backslashreplace"),
                percent(float(each.ap[query])),
                f"{each.first_rank[query]:,}",
                f"{each.matches[query]:,}",
            ]
            for query in worst_queries(scores, PERSONS_SHOWN)
        ],
    )


def _persons(query: Labelled, scores: Scores) -> Table:
    return Table(
        title=f"The {PERSONS_SHOWN} persons with the lowest mAP ({scores.protocol.name})",
        header=["person", "mAP", "queries"],
        rows=[
            [str(person), percent(mean), f"{count:,}"]
            for person, count, mean in person_scores(query, scores)[:PERSONS_SHOWN]
        ],
    )
