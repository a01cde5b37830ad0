"""Person search on random frames, against plain Python; what is refused, and how."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from array_stores import in_memory
from hypothesis import given, settings
from hypothesis import strategies as st

from distreid.data.manifest import build_manifest
from distreid.errors import DataError, OptionError
from distreid.evaluation.breakdown import first_detections
from distreid.evaluation.evaluate import Scores, evaluate
from distreid.evaluation.person_search import least_overlap, overlap
from distreid.evaluation.protocols.choice import chosen_protocols
from distreid.store.array_store import ArrayStore

DIM = 8
Row = dict[str, Any]
"""frame, camera, person, kind (query, detection, truth), box, score, feature."""


def random_rows(seed: int, frames: int, persons: int) -> list[Row]:
    random = np.random.default_rng(seed)
    rows: list[Row] = []

    def add(kind: str, frame: int, person: int, box: Any, score: float | None = None) -> None:
        feature = random.normal(size=DIM)
        feature[person % DIM] += 2 * (person >= 0)
        rows.append(
            {
                "frame": frame,
                "camera": frame % 3,
                "person": person,
                "kind": kind,
                "box": [float(value) for value in box],
                "score": score,
                "feature": (feature / np.linalg.norm(feature)).astype(np.float32),
            }
        )

    for frame in range(frames):
        for person in random.permutation(persons)[: random.integers(0, persons + 1)].tolist():
            x, y = random.integers(0, 300, 2)
            w, h = random.integers(8, 60, 2)
            box = np.array([x, y, x + w, y + h])
            add("truth", frame, person, box)
            for _ in range(int(random.integers(0, 4))):
                shift = random.normal(0, random.choice([1, 6, 20]), 4)
                add("detection", frame, person, box + shift, float(random.uniform(0.3, 1)))
            if random.random() < 0.3:
                add("query", frame, person, box)
        for _ in range(int(random.integers(0, 3))):
            x, y = random.integers(0, 300, 2)
            add("detection", frame, -1, (x, y, x + 30, y + 60), float(random.uniform(0.3, 1)))
            add("truth", frame, -2, (x + 2, y, x + 30, y + 60))
    order = random.permutation(len(rows)).tolist()
    return [rows[place] for place in order]


def store_of(rows: list[Row], root: Path = Path("data")) -> ArrayStore:
    manifest = build_manifest(
        root=root,
        layout="frames",
        path=[f"{r['frame']:03d}.jpg#xyxy=0,0,1,{place}".encode() for place, r in enumerate(rows)],
        person_id=[-2 if r["kind"] == "detection" else r["person"] for r in rows],
        camera_id=[r["camera"] for r in rows],
        split=["query" if r["kind"] == "query" else "gallery" for r in rows],
        extra={
            "box": [",".join(map(repr, r["box"])) for r in rows],
            "score": ["" if r["score"] is None else repr(r["score"]) for r in rows],
        },
    )
    return in_memory(manifest, np.stack([r["feature"] for r in rows]))


def scored(store: ArrayStore, name: str) -> Scores:
    return evaluate(store, chosen_protocols([name], {})).scores[0]


def naive(rows: list[Row], wanted: Any) -> dict[str, float]:
    """As the rule is told, one detection after another."""
    sums, queries = {"rank1": 0.0, "rank5": 0.0, "mAP": 0.0, "mINP": 0.0}, 0
    for q in [r for r in rows if r["kind"] == "query"]:
        queries += 1
        frames = {r["frame"] for r in rows if r["kind"] != "query" and wanted(q, r)}
        frames -= {q["frame"]}
        used = [r for r in rows if r["kind"] == "detection" and r["score"] >= 0.5]
        used = [r for r in used if r["frame"] in frames]
        used.sort(key=lambda r: -float(np.dot(r["feature"], q["feature"])))
        true = {
            r["frame"]: r["box"]
            for r in rows
            if r["kind"] == "truth" and r["person"] == q["person"] and r["frame"] in frames
        }
        left, places = dict(true), []
        for place, r in enumerate(used, start=1):
            if r["frame"] in left and fits(r["box"], left[r["frame"]]):
                del left[r["frame"]]
                places.append(place)
        if true:
            sums["mAP"] += sum((n + 1) / p for n, p in enumerate(places)) / len(true)
        sums["rank1"] += 1 in places
        sums["rank5"] += any(place <= 5 for place in places)
        if true and not left:
            sums["mINP"] += len(places) / places[-1]
    return {name: total / queries for name, total in sums.items()}


def fits(box: list[float], true: list[float]) -> bool:
    w, h = true[2] - true[0], true[3] - true[1]
    width = max(0.0, min(box[2], true[2]) - max(box[0], true[0]))
    height = max(0.0, min(box[3], true[3]) - max(box[1], true[1]))
    common = width * height
    whole = w * h + (box[2] - box[0]) * (box[3] - box[1]) - common
    return common / whole >= min(0.5, w * h / ((w + 10) * (h + 10)))


@settings(max_examples=25)
@given(seed=st.integers(0, 2**20), frames=st.integers(6, 14), persons=st.integers(2, 6))
def test_random_frames_give_the_figures_of_plain_python(
    seed: int, frames: int, persons: int
) -> None:
    rows = random_rows(seed, frames, persons)
    kinds = [row["kind"] for row in rows]
    used = [row for row in rows if row["kind"] == "detection" and row["score"] >= 0.5]
    if not used or {"query", "truth"} - {*kinds}:
        return
    store = store_of(rows)
    for name, wanted in (
        ("prw", lambda q, r: True),
        ("prw-other-cameras", lambda q, r: q["camera"] != r["camera"]),
    ):
        found = scored(store, name)
        got = {
            "rank1": found.rank(1), "rank5": found.rank(5), "mAP": found.mAP, "mINP": found.mINP
        }  # fmt: skip
        assert got == pytest.approx(naive(rows, wanted), abs=1e-9), name


def test_what_just_reaches_a_limit_counts_and_of_equals_the_first_row_ranks_first() -> None:
    box, half, feature = (0.0, 0.0, 40.0, 80.0), (0.0, 0.0, 40.0, 40.0), np.eye(DIM)[0]

    def row(kind: str, frame: int, person: int, box: Any, score: float | None = None) -> Row:
        own = {"frame": frame, "camera": 1, "person": person, "feature": feature}
        return own | {"kind": kind, "box": list(box), "score": score}

    found = scored(
        store_of(
            [
                row("detection", 2, -2, (200.0, 0.0, 240.0, 80.0), 0.9),
                row("query", 0, 1, box),
                row("truth", 1, 1, box),
                row("detection", 1, -2, half, 0.5),
                row("detection", 2, -2, (200.0, 0.0, 240.0, 80.0), 0.9),
            ]
        ),
        "prw",
    )
    assert found.per_query.matches.tolist() == [1]
    assert found.per_query.first_rank.tolist() == [2]


def test_a_list_tells_the_frames_of_each_query(tmp_path: Path) -> None:
    rows = random_rows(3, 12, 4)
    persons = {row["person"] for row in rows if row["kind"] == "query"}
    listed = {person: {(person + step) % 12 for step in range(0, 10, 2)} for person in persons}
    (tmp_path / "TestG500.txt").write_text(
        "".join(
            f"{person} " + " ".join(f"any/where/{frame:03d}.jpg" for frame in frames) + "\n"
            for person, frames in listed.items()
        )
    )
    store = store_of(rows, tmp_path)
    found = scored(store, "cuhk-sysu-500")
    expected = naive(rows, lambda q, r: r["frame"] in listed[q["person"]])
    assert (found.mAP, found.rank(1)) == pytest.approx((expected["mAP"], expected["rank1"]))
    with pytest.raises(DataError, match=r"neither TestG50\.txt nor annotation/test/train_test/"):
        scored(store, "cuhk-sysu-50")
    (tmp_path / "TestG50.txt").write_text("nobody 1.jpg\n")
    with pytest.raises(DataError, match="line 1: a person and its frames are wanted"):
        scored(store, "cuhk-sysu-50")
    (tmp_path / "TestG50.txt").write_text("999 1.jpg\n")
    with pytest.raises(DataError, match="TestG50: no frames for the query of"):
        scored(store, "cuhk-sysu-50")
    (tmp_path / "TestG50.txt").write_text("1 1.jpg\n2 1.jpg\n1 2.jpg\n")
    with pytest.raises(DataError, match="line 3: a second line for person 1; leave one"):
        scored(store, "cuhk-sysu-50")
    text = (tmp_path / "TestG500.txt").read_text()
    (tmp_path / "TestG500.txt").write_text(text.replace("\n", " gone.jpg\n", 1))
    evaluation = evaluate(store, chosen_protocols(["cuhk-sysu-500"], {}))
    said = "TestG500: 1 listed frame without a box in the data, such as gone.jpg"
    assert said in evaluation.diagnosis
    assert evaluation.scores[0].mAP == found.mAP
    twice = [path.replace(b"003.jpg", b"a/004.jpg") for path in store.manifest.path.tolist()]
    manifest = replace(store.manifest, path=np.array(twice))
    with pytest.raises(DataError, match=r"004\.jpg and .*004\.jpg have one name, by which a list"):
        scored(replace(store, plan=replace(store.plan, manifest=manifest)), "cuhk-sysu-500")


def test_an_unknown_camera_is_no_other_frames_camera() -> None:
    rows = random_rows(8, 16, 4)
    for row in rows:
        row["camera"] = -1
    with pytest.raises(DataError, match="prw-other-cameras needs a column camera_id"):
        scored(store_of(rows), "prw-other-cameras")
    for row in rows:
        row["camera"] = -1 if row["frame"] % 2 else 3
    found = scored(store_of(rows), "prw-other-cameras")
    expected = naive(rows, lambda q, r: q["camera"] == -1 or q["camera"] != r["camera"])
    assert found.mAP == pytest.approx(expected["mAP"])
    partly = [dict(row, camera=-1) if row["kind"] == "detection" else row for row in rows]
    assert scored(store_of(partly), "prw-other-cameras").mAP == found.mAP


def test_without_scores_the_true_boxes_are_the_detections() -> None:
    rows = [row for row in random_rows(5, 10, 4) if row["kind"] != "detection"]
    store = store_of(rows)
    evaluation = evaluate(store, chosen_protocols(["prw"], {}))
    assert any("true boxes are taken for detections" in line for line in evaluation.diagnosis)
    same = [{**row, "kind": "detection", "score": 0.9} for row in rows if row["kind"] == "truth"]
    found = evaluation.scores[0]
    assert found.mAP == pytest.approx(naive(rows + same, lambda q, r: True)["mAP"])


def test_what_is_missing_is_named() -> None:
    rows = random_rows(5, 10, 4)
    store = store_of(rows)
    manifest = store.manifest

    def with_extra(**extra: Any) -> ArrayStore:
        columns = {name: column for name, column in (manifest.extra | extra).items() if len(column)}
        return replace(store, plan=replace(store.plan, manifest=replace(manifest, extra=columns)))

    with pytest.raises(DataError, match="prw needs a column box"):
        scored(with_extra(box=()), "prw")
    wrong = np.array([b"1,2,3"] * len(rows))
    with pytest.raises(DataError, match="column box: x1,y1,x2,y2 is wanted"):
        scored(with_extra(box=wrong), "prw")
    with pytest.raises(DataError, match="column score: a number is wanted"):
        scored(with_extra(score=np.array([b"x"] * len(rows))), "prw")
    with pytest.raises(DataError, match="no true boxes"):
        scored(store_of([row for row in rows if row["kind"] != "truth"]), "prw")
    with pytest.raises(DataError, match="no query that could be read"):
        scored(store_of([row for row in rows if row["kind"] != "query"]), "prw")
    distances = np.zeros((1, 1))
    with pytest.raises(OptionError, match="--distance-matrix: prw ranks features"):
        evaluate(store, chosen_protocols(["prw"], {}), distance_QG=distances)


def test_small_boxes_may_overlap_less() -> None:
    small, large = np.array([0.0, 0, 10, 10]), np.array([0.0, 0, 100, 200])
    assert least_overlap(small) == 0.25 and least_overlap(large) == 0.5
    boxes = np.array([[0.0, 0, 10, 10], [5, 0, 15, 10], [10, 10, 20, 20], [3, 3, 3, 9]])
    assert overlap(boxes, small).tolist() == [1.0, pytest.approx(1 / 3), 0.0, 0.0]


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_what_is_shown_first_is_what_is_scored(seed: int) -> None:
    rows = random_rows(seed, 8, 4)
    if not any(row["kind"] == "query" and row["person"] >= 0 for row in rows):
        return
    store = store_of(rows)
    scores = scored(store, "prw")
    assert scores.benchmark is not None and scores.rows is not None
    each = scores.per_query
    queries = np.arange(len(scores.rows))
    found = first_detections(store, scores.benchmark, queries, len(rows))
    for query in found:
        right = np.flatnonzero(query.is_match)
        assert len(right) == each.matches[query.query]
        assert (1 + right[0] if len(right) else 0) == each.first_rank[query.query]
        assert (np.diff(query.scores) <= 0).all()
        assert {rows[row]["kind"] for row in query.rows.tolist()} <= {"detection"}
    for query, full in zip(
        first_detections(store, scores.benchmark, queries, 3), found, strict=True
    ):
        assert query.rows.tolist() == full.rows[:3].tolist()
