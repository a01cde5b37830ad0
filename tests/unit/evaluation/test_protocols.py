"""Benchmarks on random data, against a second implementation; what is refused, and how."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from array_stores import in_memory
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_protocols import NAIVE, Row, figures
from rich.console import Console

from distreid.data.manifest import Status, build_manifest
from distreid.errors import DataError, OptionError
from distreid.evaluation.conditions import rows_where
from distreid.evaluation.evaluate import evaluate
from distreid.evaluation.identification import identifications
from distreid.evaluation.metrics import score_ranks
from distreid.evaluation.protocols.choice import chosen_protocols
from distreid.evaluation.protocols.known import BENCHMARKS
from distreid.evaluation.protocols.rule import Benchmark, Draw
from distreid.evaluation.ranking import Found
from distreid.evaluation.with_progress import compare_runs
from distreid.store.array_store import ArrayStore

DIM = 6
CAMERAS = (0, 1, 2, 3, 4, 5, 6)


def random_rows(seed: int, count: int, persons: int, splits: tuple[str, ...]) -> list[Row]:
    """Rows with every column that a benchmark asks for; features whose products never tie."""
    random = np.random.default_rng(seed)
    features = random.normal(size=(count, DIM))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    rows = []
    for number in range(count):
        person, camera = int(random.integers(persons)), int(random.choice(CAMERAS))
        track = f"{person}_{camera}_{random.integers(2)}"
        rows.append(
            {
                "number": number,
                # Not in the order of the rows.
                "path": f"{random.integers(3)}/{(number * 7919) % 1000:03d}_{number}.jpg",
                "person": person,
                "camera": camera,
                "split": str(random.choice(splits)),
                "clothes": f"{random.integers(3)}",
                "modality": str(random.choice(["visible", "thermal", "infrared"])),
                "sequence": f"{random.integers(1, 5)}",
                "track": track,
                "trials": sorted({int(t) for t in random.integers(1, 11, 4)}),
                "feature": features[number],
            }
        )
    return rows


def store_of(rows: list[Row], *, tracklets: bool = False) -> ArrayStore:
    manifest = build_manifest(
        root=Path("data"),
        layout="csv",
        path=[row["path"].encode() for row in rows],
        person_id=[row["person"] for row in rows],
        camera_id=[row["camera"] for row in rows],
        split=[row["split"] for row in rows],
        extra={
            "clothes": [row["clothes"] for row in rows],
            "modality": [row["modality"] for row in rows],
            "sequence": [row["sequence"] for row in rows],
            "trials": [" ".join(map(str, row["trials"])) for row in rows],
            ("tracklet" if tracklets else "track"): [row["track"] for row in rows],
        },
    )
    return in_memory(manifest, np.stack([row["feature"] for row in rows]))


def scored(store: ArrayStore, name: str, **changes: Any) -> Any:
    return evaluate(store, chosen_protocols([name], changes)).scores[0]


def test_every_benchmark_has_a_second_implementation() -> None:
    elsewhere = {name for name, each in BENCHMARKS.items() if each.frames}  # test_person_search.py
    assert NAIVE.keys() == BENCHMARKS.keys() - elsewhere - {"cuhk03-single-shot"}  # see below


SPLITS = {
    "leave-one-out": ("", "query", "gallery", "train", "query+gallery"),
    "usual": ("query", "gallery", "gallery", "query+gallery", "train"),
}


@pytest.mark.parametrize("name", NAIVE)
@settings(max_examples=8)
@given(seed=st.integers(0, 2**20), count=st.integers(30, 70), persons=st.integers(2, 9))
def test_random_data_give_the_figures_of_the_naive_implementation(
    name: str, seed: int, count: int, persons: int
) -> None:
    rows = random_rows(seed, count, persons, SPLITS["usual"])
    if name.endswith(("to-image", "to-text")):
        for row in rows:
            row["modality"] = {"visible": "text"}.get(row["modality"], "image")
    rule, benchmark = NAIVE[name], BENCHMARKS[name]
    drawing_seed = benchmark.counting.seed + seed % 5
    expected = figures(rule, rows, drawing_seed)
    try:
        found = scored(store_of(rows), name, seed=drawing_seed)
    except DataError:
        assert all(math.isnan(value) for value in expected.values())  # nobody asks or is asked
        return
    got = {
        "rank1": found.rank(1), "rank5": found.rank(5), "mAP": found.mAP, "mINP": found.mINP
    }  # fmt: skip
    assert got == pytest.approx(expected, abs=2e-6, nan_ok=True)
    # The interval is of the same figure.
    if not math.isnan(found.mAP) and seed % 3 == 0:
        assert found.confidence.intervals["mAP"].value == pytest.approx(found.mAP, abs=1e-9)


@settings(max_examples=15)
@given(seed=st.integers(0, 2**20), count=st.integers(12, 40), persons=st.integers(2, 6))
def test_single_shot_galleries_are_drawn_as_by_torchreid(
    seed: int, count: int, persons: int
) -> None:
    rows = random_rows(seed, count, persons, ("query+gallery",))
    generator = np.random.RandomState(seed % 7)
    cmc, aps = [], []
    for q in rows:
        left = [g for g in rows if not (g["person"] == q["person"] and g["camera"] == q["camera"])]
        ranked = sorted(left, key=lambda g: -float(q["feature"] @ g["feature"]))
        right = [g["person"] == q["person"] for g in ranked]
        if not any(right):
            continue
        hits = [place for place, is_right in enumerate(right, start=1) if is_right]
        aps.append(np.mean([number / place for number, place in enumerate(hits, start=1)]))
        places: dict[int, list[int]] = {}
        for place, g in enumerate(ranked):
            places.setdefault(g["person"], []).append(place)
        first = 0
        for _ in range(10):
            chosen = {p: int(generator.choice(its)) for p, its in places.items()}
            first += min(chosen.values()) == chosen[q["person"]]
        cmc.append(first / 10)
    if not aps:
        return
    found = scored(store_of(rows), "cuhk03-single-shot", seed=seed % 7)
    assert found.mAP == pytest.approx(np.mean(aps), abs=2e-6)
    assert found.rank(1) == pytest.approx(np.mean(cmc), abs=2e-6)


def test_a_query_does_not_find_its_own_file_without_cameras() -> None:
    """Row 26 of the cases: each image is query and gallery."""
    rows = random_rows(3, 40, 5, ("query+gallery",))
    store = store_of(rows)
    blind = replace(store.manifest, camera_id=np.full(40, -1))
    store = in_memory(blind, store.array.astype(np.float64))
    evaluation = evaluate(store, chosen_protocols(["fastreid"], {}))
    expected = figures(NAIVE["leave-one-out"], rows, 0)
    (found,) = evaluation.scores
    assert found.mAP == pytest.approx(expected["mAP"], abs=2e-6)
    assert found.rank(1) == pytest.approx(expected["rank1"], abs=2e-6) and found.rank(1) < 1
    assert "40 queries are in the gallery: none finds itself" in evaluation.diagnosis


def test_rows_that_share_a_path_find_each_other_and_not_themselves() -> None:
    rows = random_rows(4, 30, 4, ("query+gallery",))
    expected = figures(NAIVE["leave-one-out"], rows, 0)
    for row in rows:
        row["path"] = f"{row['number'] // 2}.jpg"
    found = scored(store_of(rows), "leave-one-out")
    assert found.mAP == pytest.approx(expected["mAP"], abs=2e-6)


def test_a_row_marked_query_is_in_the_gallery_of_mars_and_not_of_torchreids() -> None:
    """Row 30: who is in no other camera but by query tracklets counts by the official rule."""
    random = np.random.default_rng(0)
    features = random.normal(size=(6, DIM))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    manifest = build_manifest(
        root=Path("data"),
        layout="csv",
        path=[f"{row}.jpg".encode() for row in range(6)],
        person_id=[1, 1, 2, 2, 2, 3],
        camera_id=[1, 2, 1, 2, 3, 1],
        split=["query", "query", "query", "query", "gallery", "gallery"],
    )
    store = in_memory(manifest, features)
    assert scored(store, "mars").queries == 4
    assert scored(store, "mars-ap3d").queries == 4
    assert scored(store, "mars-torchreid").queries == 2


def test_official_mars_has_no_map_where_a_query_has_no_match() -> None:
    rows = random_rows(1, 30, 4, ("query", "gallery"))
    rows[0] |= {"person": 77, "split": "query"}
    found = scored(store_of(rows), "mars")
    assert math.isnan(found.mAP) and 0 < found.rank(1) < 1
    assert math.isnan(found.confidence.intervals["mAP"].low)
    assert found.queries == sum(row["split"] == "query" for row in rows)
    assert scored(store_of(rows), "mars-ap3d").mAP > 0


def test_nearest_image_of_a_track() -> None:
    rows = random_rows(5, 60, 4, ("query", "gallery"))
    nearest = replace(
        BENCHMARKS["cross-camera"], name="near", gallery_unit="nearest", tracklets=("tracklet",)
    )
    (found,) = evaluate(store_of(rows, tracklets=True), [nearest]).scores
    tracks: dict[str, list[Row]] = {}
    for row in rows:
        if row["split"] == "gallery":
            tracks.setdefault(row["track"], []).append(row)
    first, counted = 0, 0
    for q in rows:
        left = [
            its
            for its in tracks.values()
            if q["split"] == "query"
            and not (its[0]["person"] == q["person"] and its[0]["camera"] == q["camera"])
        ]
        left.sort(key=lambda its: -max(float(q["feature"] @ g["feature"]) for g in its))
        if any(its[0]["person"] == q["person"] for its in left):
            counted += 1
            first += left[0][0]["person"] == q["person"]
    assert found.queries == counted and found.rank(1) == pytest.approx(first / counted)


@pytest.mark.parametrize(
    ("name", "lacking"),
    [
        ("ltcc-changed-clothes", "camera_id"),
        ("deepchange", "track"),
        ("regdb-visible-to-thermal", "modality"),
        ("leave-one-out-sequence", "sequence"),
        ("cross-camera", "camera_id"),
        ("veri-776-track", "camera_id"),
        ("sysu-mm01-all-single", "camera_id"),
    ],
)
def test_a_column_that_lacks_is_named(name: str, lacking: str) -> None:
    manifest = build_manifest(
        root=Path("data"),
        layout="csv",
        path=[b"a.jpg", b"b.jpg"],
        person_id=[1, 1],
        split=["query", "gallery"],
    )
    with pytest.raises(DataError, match=f"{name} needs a column {lacking}; there are person"):
        scored(in_memory(manifest, np.eye(2)), name)


def test_nothing_is_drawn_without_paths() -> None:
    rows = random_rows(2, 30, 4, ("query", "gallery"))
    for number, row in enumerate(rows):
        row["path"] = f"row {number}"
    with pytest.raises(DataError, match="vehicleid-800 needs a column path"):
        scored(store_of(rows), "vehicleid-800")


def test_a_condition_that_fits_no_row_says_what_there_is() -> None:
    rows = random_rows(2, 30, 4, ("query", "gallery"))
    for row in rows:
        row["camera"] = 8
    message = r"sysu-mm01-all-single: no row has camera = 3 \| 6 and .*; camera has '8' \(30\)"
    with pytest.raises(DataError, match=message):
        scored(store_of(rows), "sysu-mm01-all-single")


def test_rows_that_could_not_be_read_neither_ask_nor_are_asked() -> None:
    rows = random_rows(4, 40, 4, ("query", "gallery"))
    store = store_of(rows)
    status = np.zeros(40, np.uint8)
    status[::5] = Status.UNREADABLE
    broken = replace(store, status=status)
    left = [row for row in rows if row["number"] % 5]
    assert scored(broken, "cross-camera").mAP == pytest.approx(
        figures(NAIVE["cross-camera"], left, 0)["mAP"], abs=2e-6
    )


def test_ties_are_broken_by_gallery_row_also_where_persons_are_counted() -> None:
    manifest = build_manifest(
        root=Path("data"),
        layout="csv",
        path=[f"{row}.jpg".encode() for row in range(5)],
        person_id=[1, 2, 1, 3, 4],
        camera_id=[3, 1, 1, 1, 1],
        split=[""] * 5,
    )
    same = np.tile(np.eye(DIM)[:1], (5, 1))
    found = scored(in_memory(manifest, same), "sysu-mm01-all-single")
    assert found.first_ranks.tolist() == [2]


def test_reranking_is_of_each_draws_own_gallery() -> None:
    rows = random_rows(6, 60, 5, ("query", "gallery"))
    store = store_of(rows)
    plain = scored(store, "prcc-same-clothes-single", rerank="zhong")
    assert len(plain.draws) == 10 and 0 < plain.mAP <= 1
    assert plain.mAP == pytest.approx(np.mean([draw.mAP for draw in plain.draws]))
    # One draw alone: its rows as the only ones.
    from distreid.evaluation.by_benchmark import ask

    asked = ask(store, BENCHMARKS["prcc-same-clothes-single"])
    view = asked.views[3]
    kept = np.sort(np.concatenate([asked.queries[view.queries], asked.gallery[view.rows]]))
    alone = store_of([rows[row] for row in kept])
    whole = scored(alone, "prcc-same-clothes", rerank="zhong")
    assert plain.draws[3].mAP == pytest.approx(whole.mAP, abs=1e-6)


@pytest.mark.parametrize("text", ["-1", "cam-1", "3", "03", "cam3", "-3"])
def test_a_number_below_zero_is_that_of_itself_alone(text: str) -> None:
    manifest = build_manifest(
        root=Path("data"), layout="csv", path=[b"0", b"1"], extra={"place": [text, "x"]}
    )

    def fits(value: str) -> bool:
        try:
            return bool(rows_where(manifest, f"place = {value}", "asks", "x")[0])
        except DataError:
            return False

    assert fits("1") == (text == "cam-1")
    assert fits("3") == (text in ("3", "03", "cam3"))
    assert fits("-3") == (text == "-3")


def test_all_figures_are_means_of_the_draws() -> None:
    rows = random_rows(1, 80, 9, SPLITS["usual"])
    for row in rows:
        row["split"] = "query" if row["person"] < 4 and row["number"] % 2 else "gallery"
        if row["split"] == "gallery" and row["person"] == 1:
            row["person"] = 8
    benchmark = Benchmark(
        name="own",
        open_set=True,
        by_person=True,
        draw=Draw(times=5, take=2),
        counting=BENCHMARKS["closed-set"].counting,
    )
    scores = evaluate(store_of(rows), [benchmark]).scores[0]
    assert len(scores.draws) == 5
    # A query's own figures are those of the first draw that it is in.
    first, last = scores.draws[0].first_ranks, scores.draws[-1].first_ranks
    assert scores.first_ranks.tolist() == first.tolist() != last.tolist()
    assert scores.per_query.ap.tolist() == scores.draws[0].per_query.ap.tolist()
    balanced = np.array([each.balanced_rank1 for each in scores.draws], float)
    assert scores.balanced_rank1 == pytest.approx(balanced.mean()) and balanced.std() > 0
    for rate, found in enumerate(scores.identification):
        each = [draw.identification[rate] for draw in scores.draws]
        assert found.identified[5] == pytest.approx(np.mean([one.identified[5] for one in each]))
        assert found.balanced_known == pytest.approx(np.mean([e.balanced_known for e in each]))
        assert found.reached == pytest.approx(np.mean([one.reached for one in each]))
        assert found.threshold == pytest.approx(np.mean([one.threshold for one in each]))


def test_where_a_rate_accepts_nobody_the_best_of_those_who_are_not_there_is_refused() -> None:
    nothing = np.array([], np.int64)
    scores = score_ranks([np.array([1]), nothing, nothing])
    found = Found(
        scores=scores,
        first_ranks=scores.first_rank,
        best_Q=np.array([0.6, 0.5, 0.4]),
        own_Q=np.array([0.6, -np.inf, -np.inf]),
    )
    rarest, *_, commonest = identifications(found, np.array([1, 2, 3]))
    assert (rarest.reached, rarest.identified[1], rarest.balanced_unknown) == (0.0, 1.0, 1.0)
    assert 0.5 < rarest.threshold < 0.50001
    assert (commonest.reached, commonest.threshold) == (0.5, 0.5)


def test_tracks_are_means_of_normalised_features_whatever_their_lengths_were() -> None:
    store = store_of(random_rows(2, 60, 5, ("query", "gallery")))
    norm = np.random.default_rng(0).uniform(0.1, 9, 60).astype(np.float32)
    found = scored(replace(store, norm=norm), "veri-776-track")
    assert found.mAP == scored(store, "veri-776-track").mAP


def test_balanced_accuracy_counts_whom_rank_1_counts() -> None:
    rows = random_rows(1, 8, 1, ("gallery",))
    for number, row in enumerate(rows):
        row.update(person=number % 4, split="query" if number < 4 else "gallery")
        row["feature"] = np.eye(DIM)[number % 4]
    rows = [row for row in rows if row["split"] == "query" or row["person"] < 2]
    scores = scored(store_of(rows), "closed-set")
    assert (scores.rank(1), scores.balanced_rank1) == (0.5, 0.5)


def test_what_a_benchmark_has_not_is_refused() -> None:
    for name, changes, message in (
        ("leave-one-out", {"query": "multi"}, "--query multi: leave-one-out asks with single"),
        ("cuhk03-classic", {}, None),
        ("prw", {"rerank": "zhong"}, "--rerank: prw is person search; only ap, denominator, de"),
        ("prw", {"features": "raw", "distance": "euclidean"}, "--distance: prw is person search"),
        ("prw", {"camera_rule": "cross"}, "--camera-rule: prw is person search"),
        ("prw", {"camera_rule": "none", "ap": "trapezoid", "depth": 20}, None),
        ("closed-set", {"gallery_shots": "single"}, None),
    ):
        if message is None:
            assert chosen_protocols([name], changes)
            continue
        with pytest.raises(OptionError, match=message):
            chosen_protocols([name], changes)
    shots = replace(BENCHMARKS["closed-set"].counting, gallery_shots="single")
    wrongs: list[tuple[dict[str, Any], str]] = [
        ({"open_set": True, "counting": shots}, "open_set: wants one rank of each query"),
        ({"open_set": True, "cmc": "one of each person"}, "open_set: wants one rank of each"),
        ({"cmc": "one of each person", "counting": shots}, "--gallery-shots single: own has"),
        ({"frames": "all", "by_person": True}, "by_person: own is person search, which has none"),
        ({"frames": "all", "draw": Draw()}, "draw: own is person search, which has none"),
        ({"frames": "all", "counting": shots}, "gallery_shots: own is person search"),
    ]
    for fields, message in wrongs:
        with pytest.raises(OptionError, match=message):
            Benchmark(name="own", **fields)


def test_a_column_of_draws_that_holds_no_numbers_is_named() -> None:
    rows = random_rows(1, 60, 5, SPLITS["usual"])
    for row in rows:
        row["modality"] = "thermal" if row["number"] % 2 else "visible"
    store = store_of(rows)
    trials = np.array([b"1,2", *store.manifest.extra["trials"][1:].tolist()])
    extra = store.manifest.extra | {"trials": trials}
    manifest = replace(store.manifest, extra=extra)
    with pytest.raises(DataError, match=r"data, row 0: trials is '1,2'; whole numbers, separated"):
        scored(
            replace(store, plan=replace(store.plan, manifest=manifest)), "regdb-visible-to-thermal"
        )


@pytest.mark.parametrize("name", ["leave-one-out", "prcc-changed-clothes"])
def test_what_changed_most_is_told_by_the_benchmarks_own_queries(name: str) -> None:
    rows = random_rows(2, 60, 5, SPLITS["usual"])
    for row in rows:
        row["camera"] = row["number"] % 3
    a = store_of(rows)
    random = np.random.default_rng(3).normal(size=(60, DIM))
    b = replace(a, array=(random / np.linalg.norm(random, axis=1)[:, None]).astype(np.float32))
    (protocol,) = chosen_protocols([name], {}) or []
    log = Console(file=io.StringIO())
    change = compare_runs(a, b, protocol, log).differences["mAP"]
    found = [evaluate(store, [protocol]).scores[0] for store in (a, b)]
    asked = found[0].rows
    assert asked is not None
    gain = dict(zip(asked.tolist(), found[1].per_query.ap - found[0].per_query.ap, strict=True))
    best = sorted((row for row in gain if gain[row] > 0), key=lambda row: (-gain[row], row))
    assert change.most_better == best[:10]


def test_a_place_is_shared_by_the_cameras_that_are_named() -> None:
    cameras = ["gate1", "gate2", "shop1", "shop2", "gate1", "cam3", "3", "cam2"]
    numbers = {name: number for number, name in enumerate(sorted({*cameras}))}
    manifest = build_manifest(
        root=Path("data"),
        layout="csv",
        path=[f"{n}.jpg".encode() for n in range(8)],
        person_id=[1] * 8,
        camera_id=[numbers[name] for name in cameras],
        split=["query+gallery"] * 8,
        extra={"camera_name": cameras},
    )
    store = in_memory(manifest, np.eye(8))

    def left(places: tuple[tuple[str, str], ...]) -> tuple[list[int], list[str]]:
        counting = BENCHMARKS["closed-set"].counting
        own = Benchmark(name="own", leaves_out=("same location",), places=places, counting=counting)
        found = evaluate(store, [own])
        return found.scores[0].per_query.matches.tolist(), found.diagnosis

    matches, said = left((("gate2", "gate1"),))
    assert matches == [5, 5, 7, 7, 5, 7, 7, 7] and not any("places" in line for line in said)
    matches, said = left((("3", "2"), ("77", "2")))
    assert matches == [6, 3, 7, 3, 6, 3, 3, 3]  # gate2 and shop2 are of number 2
    assert "own: places: no row is of camera 77" in said


def test_a_unit_of_tracklets_wants_their_column() -> None:
    rows = random_rows(1, 60, 5, SPLITS["usual"])
    for row in rows:
        row["split"] = "query" if row["number"] % 3 else "gallery"
    store = store_of(rows)
    counting = BENCHMARKS["closed-set"].counting
    own = Benchmark(name="own", query_unit="tracklet", tracklets=("trakc",), counting=counting)
    with pytest.raises(DataError, match="own needs a column trakc"):
        evaluate(store, [own])
    said = evaluate(store, [replace(own, gallery_unit="tracklet")]).diagnosis
    assert "own: no column trakc: each row is taken for a tracklet" in said


def test_a_rule_that_leaves_out_every_match_is_named() -> None:
    rows = random_rows(1, 60, 5, ("query", "gallery"))
    own = Benchmark(
        name="own", leaves_out=("same person",), counting=BENCHMARKS["closed-set"].counting
    )
    (first, *_) = evaluate(store_of(rows), [own]).diagnosis
    assert first.endswith("queries have a match: the protocol leaves out every one (same person)")


def test_an_image_is_one_however_its_path_is_written() -> None:
    manifest = build_manifest(
        root=Path("/data"),
        layout="csv",
        path=[b"0.jpg", b"a/1.jpg", b"./0.jpg", b"/data/a/../a/1.jpg", b"a//2.jpg"],
        person_id=[0, 1, 0, 1, 0],
        split=["query", "query", "gallery", "gallery", "gallery"],
    )
    store = in_memory(manifest, np.eye(5))
    assert scored(store, "fastreid").per_query.matches.tolist() == [1, 0]
