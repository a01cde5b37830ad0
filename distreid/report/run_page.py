"""A complete run to one HTML page: scores, pictures, breakdown, and how it was made."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape

from distreid.data.manifest import CAMERA_NAME, DISTRACTOR, GALLERY, PERSON_NAME, QUERY
from distreid.data.summary import describe, has_distractors
from distreid.errors import OptionError
from distreid.evaluation.breakdown import (
    CameraPairs,
    Found,
    camera_pairs,
    column_scores,
    first_detections,
    first_ranked,
    person_scores,
    worst_queries,
)
from distreid.evaluation.by_benchmark import ask, labelled_by
from distreid.evaluation.evaluate import (
    Evaluation,
    Scores,
    labelled,
    usable_rows,
    with_own_files,
)
from distreid.evaluation.openset import EDGES_T, Calibration
from distreid.evaluation.ranking import LabelledFeatures, View
from distreid.evaluation.with_progress import calibrate_run, evaluate_run
from distreid.host.atomic_files import (
    check_target,
    make_folder,
    publish_bytes,
    publish_text,
)
from distreid.host.progress import Steps
from distreid.report.frames_picture import frames_gallery
from distreid.report.html import Table
from distreid.report.page import Page, render_page
from distreid.report.plots import camera_pairs as draw_camera_pairs
from distreid.report.plots import cmc_curve, open_set_curves, score_histogram
from distreid.report.ranking_picture import RankedImage, RankedQuery, ranking_gallery
from distreid.report.scores import percent, score_rows
from distreid.store import FeatureStore
from distreid.store.run_folder import PICTURES

WORST, FIRST, RANKED = 6, 4, 10
LISTED = 20
MOST_CAMERAS = 200  # of whose pairs a picture shows something
DRAWN_FPR = 1e-3
CAPTIONS = {
    "cmc": "CMC: the share of queries whose first match is within the first k",
    "histogram": "Cosines of matches and of non-matches",
    "roc": "ROC over pairs",
    "camera_pairs": "mAP by query camera and gallery camera",
    "worst_queries": "The queries with the lowest AP, and what they find first",
    "worst_frames": "The queries with the lowest AP in their frames",
    "first_queries": "The first queries, and what they find first",
    "first_frames": "The first queries in their frames",
}
OF_DRAWS = {
    "camera_pairs": ", without draws",
    "worst_queries": ", in their first draw",
    "first_queries": ", in their first draw",
}
"""What a caption says of a benchmark that draws."""


def write_page(store: FeatureStore, log: Console) -> Path:
    """`report.html` in the run's folder, a single file; beside it its pictures and
    `breakdown.json`. Without matplotlib it has no plots, and `log` says so."""
    page_file, breakdown_file = store.run / "report.html", store.run / "breakdown.json"
    for file in (page_file, breakdown_file):
        check_target(file)
    make_folder(store.run / PICTURES)
    evaluation = evaluate_run(store, log)
    scores = evaluation.of_a_search  # whose ranking is drawn
    worst, name = _worst_queries(store, scores), scores.name
    breakdown: dict[str, Any] = {"protocol": name, "worst_queries": worst}
    tables = [_query_table(worst, f"{name}, first draw" if scores.draws else name)]
    if scores.benchmark is not None and scores.benchmark.frames:
        pictures = _pictures_of(lambda queries: _found_in_frames(store, scores, queries), scores)
        pairs = calibration = None
    else:
        query, gallery = _sides(store, scores)
        cameras = len({*query.camera_id.tolist(), *gallery.camera_id.tolist()})
        pairs = None
        if cameras > MOST_CAMERAS:
            log.print(
                f"no pairs of cameras: there are {cameras:,}, and up to {MOST_CAMERAS} are drawn"
            )
        else:
            with Steps(log) as steps:
                pairs = camera_pairs(query, gallery, scores.protocol, steps, _leaves_out(scores))
        calibration = calibrate_run(store, log, scores.benchmark)
        pictures = _rankings(store, scores, query, gallery)
        persons = person_scores(query, scores)
        breakdown |= _persons_and_cameras(store, persons, pairs)
        person_names = store.manifest.names(PERSON_NAME)
        tables = [
            *_threshold_tables(calibration),
            *tables,
            _person_table(persons, name, person_names),
        ]
    try:
        pictures |= _plots(evaluation, calibration, pairs, store.manifest.names(CAMERA_NAME))
    except OptionError as error:
        log.print(f"no plots: {escape(str(error))}")
    for caption, picture in pictures.items():
        publish_bytes(store.run / PICTURES / f"{caption}.png", picture)
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
            caption + (OF_DRAWS.get(name, "") if scores.draws else ""): pictures[name]
            for name, caption in CAPTIONS.items()
            if name in pictures
        },
        breakdowns=[*tables, *_column_tables(store, scores, name)],
    )
    publish_text(breakdown_file, json.dumps(breakdown, indent=2) + "\n")
    publish_text(page_file, render_page(page))
    return page_file


def _persons_and_cameras(
    store: FeatureStore, persons: list[tuple[int, int, float]], pairs: CameraPairs | None
) -> dict[str, Any]:
    person_names = store.manifest.names(PERSON_NAME)
    camera_names = store.manifest.names(CAMERA_NAME)
    found: dict[str, Any] = {}
    if pairs is not None:
        found["camera_pairs"] = pairs.to_json()
        if camera_names:
            named = [camera_names.get(each, "") for each in pairs.cameras]
            found["camera_pairs"]["camera_names"] = named
    return found | {
        "persons": [
            {"person_id": person, "queries": count, "mAP": mean}
            | ({"person_name": person_names[person]} if person in person_names else {})
            for person, count, mean in persons
        ],
    }


def _plots(
    evaluation: Evaluation,
    calibration: Calibration | None,
    pairs: CameraPairs | None,
    camera_names: dict[int, str],
) -> dict[str, bytes]:
    """A PNG for each of CAPTIONS that shows numbers, if there are any."""
    curves = {"cmc": cmc_curve({s.name: s.cmc for s in evaluation.scores})}
    if calibration is None:
        return curves
    fpr, tpr = calibration.roc()
    thresholds = {
        f"FPR {100 * point.wished:g} %": point.threshold
        for point in calibration.verification()
        if point.threshold is not None and point.wished <= DRAWN_FPR
    }
    edges = np.append(EDGES_T, 1.0)
    plots = curves | {
        "histogram": score_histogram(
            edges, calibration.matches.counts, calibration.nonmatches.counts, thresholds
        ),
        "roc": open_set_curves(fpr, tpr, calibration.auc()),
    }
    if pairs is not None and pairs.cameras:
        cameras = [camera_names.get(camera, camera) for camera in pairs.cameras]
        plots["camera_pairs"] = draw_camera_pairs(cameras, pairs.mAP_CC, pairs.queries_CC)
    return plots


def _sides(store: FeatureStore, scores: Scores) -> tuple[LabelledFeatures, LabelledFeatures]:
    """Who asks and who is asked: by a benchmark, all of its draws together, or all query and
    gallery rows."""
    if scores.benchmark is not None:
        return labelled_by(store, scores.benchmark, ask(store, scores.benchmark))
    return with_own_files(store, labelled(store, QUERY), labelled(store, GALLERY))


def _rows(store: FeatureStore, scores: Scores) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Their manifest rows."""
    if scores.benchmark is not None:
        asked = ask(store, scores.benchmark)
        return asked.queries, asked.gallery
    return usable_rows(store, QUERY), usable_rows(store, GALLERY)


def _leaves_out(scores: Scores) -> tuple[str, ...]:
    return () if scores.benchmark is None else scores.benchmark.leaves_out


def _rankings(
    store: FeatureStore, scores: Scores, query: LabelledFeatures, gallery: LabelledFeatures
) -> dict[str, bytes]:
    """A PNG for each of CAPTIONS that shows images, if there are any."""
    first = store.manifest.file(int(_rows(store, scores)[0][0]))
    if "imported" in store.plan.identity and not first.exists():
        return {}  # features without paths, or with those of another machine
    return _pictures_of(
        lambda queries: ranked_queries(store, scores, query, gallery, queries), scores
    )


def _pictures_of(
    found: Callable[[NDArray[np.intp]], list[RankedQuery]], scores: Scores
) -> dict[str, bytes]:
    """Of the worst queries and the first ones, and of their frames where they have some."""
    shown = {
        "worst": worst_queries(scores, WORST),
        "first": np.arange(min(FIRST, len(scores.ap))),
    }
    pictures = {}
    for name, queries in shown.items():
        if not len(queries):
            continue
        rows = found(queries)
        pictures[f"{name}_queries"] = ranking_gallery(rows)
        if frames := frames_gallery(rows):
            pictures[f"{name}_frames"] = frames
    return pictures


def ranked_queries(
    store: FeatureStore,
    scores: Scores,
    query: LabelledFeatures,
    gallery: LabelledFeatures,
    queries: np.ndarray[tuple[int], np.dtype[np.intp]],
) -> list[RankedQuery]:
    """The evaluator's own ranking of some queries, with the images; with draws, in the first draw
    that a query is in."""
    query_rows, gallery_rows = _rows(store, scores)
    views = ask(store, scores.benchmark).views if scores.benchmark is not None else []
    left, ranked = queries, dict[int, Found]()
    for view in views or [View(queries=np.arange(len(query)), rows=np.arange(len(gallery)))]:
        own = left[np.isin(left, view.queries)]
        if not len(own):
            continue
        part = gallery.at(view.rows) if views else gallery
        found = first_ranked(query, part, scores.protocol, own, RANKED, _leaves_out(scores))
        ranked |= {f.query: replace(f, rows=gallery_rows[view.rows[f.rows]]) for f in found}
        left = left[~np.isin(left, own)]
    shown = [ranked[row] for row in queries.tolist() if row in ranked]  # one may be in no draw
    return _with_images(store, scores, query_rows, shown)


def _found_in_frames(
    store: FeatureStore, scores: Scores, queries: NDArray[np.intp]
) -> list[RankedQuery]:
    """What person search ranks first for some queries, with the images."""
    assert scores.rows is not None and scores.benchmark is not None
    found = first_detections(store, scores.benchmark, queries, RANKED)
    return _with_images(store, scores, scores.rows, found)


def _with_images(
    store: FeatureStore, scores: Scores, query_rows: NDArray[np.intp], found: Sequence[Found]
) -> list[RankedQuery]:
    """`rows` of what was found are the manifest's."""
    manifest = store.manifest
    person_names = manifest.names(PERSON_NAME)
    camera_names = manifest.names(CAMERA_NAME)
    if not has_distractors(manifest):
        person_names.setdefault(DISTRACTOR, f"person {DISTRACTOR}")
    return [
        RankedQuery(
            image=manifest.file(row),
            person=int(manifest.person_id[row]),
            camera=int(manifest.camera_id[row]),
            person_name=person_names.get(int(manifest.person_id[row]), ""),
            camera_name=camera_names.get(int(manifest.camera_id[row]), ""),
            ap=float(scores.ap[each.query]) if scores.per_query.matches[each.query] else math.nan,
            ranked=[
                RankedImage(
                    image=manifest.file(place),
                    person=int(manifest.person_id[place]),
                    camera=int(manifest.camera_id[place]),
                    person_name=person_names.get(int(manifest.person_id[place]), ""),
                    camera_name=camera_names.get(int(manifest.camera_id[place]), ""),
                    score=float(score),
                    correct=bool(correct),
                )
                for place, score, correct in zip(
                    each.rows.tolist(), each.scores, each.is_match, strict=True
                )
            ],
        )
        for each in found
        for row in (int(query_rows[each.query]),)
    ]


def _score_table(evaluation: Evaluation) -> Table:
    """A column for each protocol, as in the terminal."""
    return Table(
        title="Scores by protocol",
        header=["protocol", *[s.name for s in evaluation.scores]],
        rows=score_rows(evaluation),
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
    rows = usable_rows(store, QUERY) if scores.rows is None else scores.rows
    each = scores.per_query
    return [
        {
            "row": int(rows[query]),
            "path": store.manifest.path[rows[query]].decode("utf-8", "backslashreplace"),
            "ap": float(scores.ap[query]),
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


def _person_table(
    persons: list[tuple[int, int, float]], protocol: str, names: dict[int, str]
) -> Table:
    return Table(
        title=f"The persons with the lowest mAP ({protocol})",
        header=["person", "mAP", "queries"],
        rows=[
            [names.get(person, str(person)), percent(mean), f"{count:,}"]
            for person, count, mean in persons[:LISTED]
        ],
    )


def _column_tables(store: FeatureStore, scores: Scores, protocol: str) -> list[Table]:
    """The mAP by the values of each further column of the queries that has a few."""
    rows = usable_rows(store, QUERY) if scores.rows is None else scores.rows
    tables = []
    for column, values in store.manifest.extra.items():
        found = column_scores(values[rows], scores)
        if column in (PERSON_NAME, CAMERA_NAME) or not 2 <= len(found) <= LISTED:
            continue
        tables.append(
            Table(
                title=f"By {column} of the query ({protocol})",
                header=[column, "mAP", "queries"],
                rows=[[value or "–", percent(mean), f"{count:,}"] for value, count, mean in found],
            )
        )
    return tables
