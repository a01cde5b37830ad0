"""Groups of features: what linkage and DBSCAN promise, and how groups are scored."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import draw, error_line
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from small_runs import make_run

from distreid.cli import main
from distreid.data.manifest import NO_CAMERA
from distreid.errors import OptionError
from distreid.evaluation.cluster_agreement import agreement
from distreid.evaluation.linking import METHODS, Seen, link
from distreid.interface.link_command import _link
from distreid.report import linked_groups
from distreid.report.ranking_picture import RankedQuery, ranking_gallery
from distreid.store import FeatureStore


def unit_rows(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype("f4")
    return unit


def some_people(persons: int, each: int, noise: float = 0.05) -> NDArray[np.float32]:
    """Of each person so many rows, person by person."""
    random = np.random.default_rng(0)
    centres = random.standard_normal((persons, 32))
    rows = np.repeat(centres, each, axis=0) + noise * random.standard_normal((persons * each, 32))
    return unit_rows(rows)


def naive_average(rows: NDArray[np.float32], threshold: float) -> set[frozenset[int]]:
    """Joins the two groups of the greatest mean cosine, while that reaches the threshold."""
    groups = [[row] for row in range(len(rows))]
    cosine = rows.astype(float) @ rows.astype(float).T
    while len(groups) > 1:
        best, a, b = max(
            (cosine[np.ix_(groups[a], groups[b])].mean(), a, b)
            for a, b in itertools.combinations(range(len(groups)), 2)
        )
        if best < threshold:
            break
        groups[a] += groups.pop(b)
    return {frozenset(group) for group in groups}


def as_sets(groups: NDArray[np.int64]) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(groups == group).tolist()) for group in np.unique(groups)}


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
def test_average_linkage_is_the_naive_one(threshold: float) -> None:
    rows = unit_rows(np.random.default_rng(5).standard_normal((24, 3)))
    assert as_sets(link(rows, None, threshold=threshold)) == naive_average(rows, threshold)


@pytest.mark.parametrize("method", METHODS)
def test_people_who_are_far_apart_are_found(method: str) -> None:
    rows = some_people(6, 8)
    groups = link(rows, None, method=method, threshold=0.5, eps=0.3)
    assert (groups == np.repeat(np.arange(6), 8)).all()


def test_complete_linkage_joins_nobody_below_the_threshold() -> None:
    rows = unit_rows(np.random.default_rng(1).standard_normal((40, 3)))
    groups = link(rows, None, method="complete", threshold=0.6)
    assert groups.max() + 1 < 40
    for group in as_sets(groups):
        own = rows[sorted(group)].astype(float)
        assert (own @ own.T).min() >= 0.6 - 1e-6


@given(
    times=st.lists(st.integers(0, 6), min_size=2, max_size=24),
    method=st.sampled_from(METHODS),
)
def test_two_that_one_camera_sees_at_one_time_are_never_one(times: list[int], method: str) -> None:
    count = len(times)
    rows = unit_rows(np.ones((count, 4)) + 0.01 * np.arange(count)[:, None])  # all but the same
    seen = Seen(
        camera=np.arange(count) % 2,
        first=np.array(times, float),
        last=np.array(times, float) + 1,
    )
    groups = link(rows, seen, method=method, threshold=0.9)
    for a, b in itertools.combinations(range(count), 2):
        if a % 2 == b % 2 and abs(times[a] - times[b]) <= 1:
            assert groups[a] != groups[b]


def test_without_a_camera_or_a_time_nobody_was_seen_together() -> None:
    rows = np.repeat(some_people(1, 1), 4, axis=0)
    nan, same = np.full(4, np.nan), np.zeros(4)
    unknown = Seen(camera=np.full(4, NO_CAMERA), first=same, last=same)
    assert (link(rows, unknown, threshold=0.9) == 0).all()
    assert (link(rows, Seen(camera=np.ones(4, int), first=nan, last=nan), threshold=0.9) == 0).all()
    known = Seen(camera=np.ones(4, int), first=same, last=same)
    assert (link(rows, known, threshold=0.9) == np.arange(4)).all()


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("method", METHODS)
def test_nobody_and_one(count: int, method: str) -> None:
    assert (
        link(some_people(1, 1)[:count], None, method=method, threshold=0.5).tolist() == [0] * count
    )


def test_what_cannot_be_meant_is_refused() -> None:
    rows = some_people(2, 2)
    with pytest.raises(OptionError, match="--threshold 2"):
        link(rows, None, threshold=2)
    with pytest.raises(OptionError, match="--eps 0"):
        link(rows, None, method="jaccard", eps=0)
    with pytest.raises(OptionError, match="--method single"):
        link(rows, None, method="single", threshold=0.5)


@given(labels=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=30))
def test_agreement_is_what_counting_gives(labels: list[tuple[int, int]]) -> None:
    persons, groups = np.array(labels).T
    found = agreement(persons, groups)
    assert found
    of = range(len(labels))
    pairs = list(itertools.combinations(of, 2))
    same_person = {(a, b) for a, b in pairs if persons[a] == persons[b]}
    same_group = {(a, b) for a, b in pairs if groups[a] == groups[b]}
    both = len(same_person & same_group)
    expected = 2 * both / (len(same_person) + len(same_group)) if same_person | same_group else 1
    assert found.pairwise_f1 == pytest.approx(expected)
    purity = sum(
        max(np.sum((groups == group) & (persons == person)) for person in set(persons.tolist()))
        for group in set(groups.tolist())
    )
    assert found.purity == pytest.approx(purity / len(labels))
    names = sorted(set(groups.tolist()))
    best = (
        max(
            sum(
                np.sum((persons == person) & (groups == group))
                for person, group in zip(chosen, names, strict=False)
            )
            for chosen in itertools.permutations([*range(5), *[-1] * len(names)], len(names))
        )
        if len(names) <= 3
        else None
    )
    if best is not None:
        assert found.idf1 == pytest.approx(best / len(labels))
    association = np.mean(
        [
            np.sum((persons == persons[i]) & (groups == groups[i]))
            / np.sum((persons == persons[i]) | (groups == groups[i]))
            for i in of
        ]
    )
    assert found.association == pytest.approx(association)


def test_groups_that_are_the_persons_score_one() -> None:
    found = agreement(np.array([7, 7, 9, 4]), np.array([0, 0, 1, 2]))
    assert found
    assert (found.v_measure, found.purity, found.pairwise_f1, found.idf1, found.association) == (
        1, 1, 1, 1, 1,
    )  # fmt: skip
    assert agreement(np.empty(0, int), np.empty(0, int)) is None


def run_of_tracklets(tmp_path: Path) -> Path:
    """Three persons, each in two cameras in a tracklet of 4 rows; one row has no feature."""
    rows = some_people(3, 8)
    cameras = [1 + (i // 4) % 2 for i in range(24)]
    return make_run(
        tmp_path / "run", 1, features=rows, persons=[1 + i // 8 for i in range(24)],
        cameras=cameras, missing=[5],
        extra={
            "tracklet": [f"t{i // 4}" for i in range(24)],
            "time": [str(100.0 * (i // 8) + i % 4) for i in range(24)],
        },
    )  # fmt: skip


def test_tracklets_of_a_run_are_linked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of_tracklets(tmp_path)
    page = tmp_path / "page.html"
    assert main(["link", str(run), "--threshold", "0.5", "--json", "--html", str(page)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["unit"], found["units"]) == ("tracklet", 6)
    own = [[row for row in range(8 * i, 8 * i + 8) if row != 5] for i in range(3)]
    assert found["groups"] == own
    assert found["agreement"]["idf1"] == 1
    lines = (run / "groups.csv").read_text().splitlines()
    assert lines[0] == "row,path,camera,tracklet,person,group"
    assert lines[1] == "0,run0001/image-00000.jpg,1,t0,1,0"
    assert lines[6].endswith("image-00005.jpg,2,t1,1,")  # it has no feature
    assert "6 tracklets to 3 groups" in page.read_text()
    assert "The same in their frames" not in page.read_text()


def test_person_0_counts_among_the_known_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = np.tile(np.eye(1, 8, dtype=np.float32), (3, 1))
    names = {"person_name": ["alice", "bob", "carol"]}
    run = make_run(tmp_path / "run", 1, features=same, persons=[0, 1, 2], extra=names)
    assert main(["link", str(run), "--threshold", "0.5", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["groups"] == [[0, 1, 2]]
    assert found["agreement"]["persons"] == 3
    assert found["agreement"]["purity"] == pytest.approx(1 / 3)


def test_linked_boxes_are_also_shown_in_their_frames(tmp_path: Path) -> None:
    draw(tmp_path / "frame.jpg", 1)
    paths = [f"frame.jpg#xyxy=0,0,{32 + row},64" for row in range(8)]
    run = make_run(tmp_path / "run", 1, features=some_people(1, 8), paths=paths)
    page = tmp_path / "page.html"
    assert main(["link", str(run), "--threshold", "0.5", "--html", str(page)]) == 0
    assert page.read_text().count("<img ") == 2
    assert "The same in their frames" in page.read_text()


def test_a_run_without_a_threshold_is_told_where_to_find_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", 1)
    assert main(["link", str(run)]) == 2
    assert "--threshold is missing" in error_line(capsys)
    (run / "calibration.json").write_text("{")
    assert main(["link", str(run)]) == 2
    assert "calibration.json is damaged; write it anew: distreid calibrate" in error_line(capsys)
    point = {"wished": 1e-3, "threshold": 0.75, "false_rate": 0.00099}
    (run / "calibration.json").write_text(json.dumps({"verification": [point]}))
    assert main(["link", str(run)]) == 0
    said = capsys.readouterr().err
    assert "one person from 0.7500, with 0.099 % false matches of pairs" in said
    assert "neither times nor frames are known" in said


def test_what_is_not_for_the_method_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", 1)
    for line, flag in (
        (["--method", "jaccard", "--threshold", "0.5"], "--threshold"),
        (["--threshold", "0.5", "--eps", "0.3"], "--eps"),
    ):
        assert main(["link", str(run), *line]) == 2
        assert f"{flag}: is not for --method" in error_line(capsys)
    assert main(["link", str(run), "--method", "jaccard", "--json"]) == 0
    assert "within 0.6" in capsys.readouterr().out


def test_a_time_that_is_no_number_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = {"frame": ["1", "2", "second", "4"]}
    run = make_run(tmp_path / "run", 1, 4, extra=extra)
    assert main(["link", str(run), "--threshold", "0.5"]) == 2
    assert "column frame: a number is wanted, or nothing, not 'second' (row 2)" in error_line(
        capsys
    )


def test_a_folder_that_is_no_run_is_told_as_such(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["link", str(tmp_path / "nothing"), "--threshold", "0.5"]) == 2
    assert "nothing: no run" in error_line(capsys)


def test_rows_without_a_feature_alone_are_no_group(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 1, 2, missing=[0])
    assert main(["link", str(run), "--threshold", "0.5"]) == 0
    lines = (run / "groups.csv").read_text().splitlines()
    assert [line.rpartition(",")[2] for line in lines] == ["group", "", "0"]


@pytest.mark.parametrize("method", ["average", "complete"])
def test_features_that_are_equal_are_linked_whatever_rounding_leaves(method: str) -> None:
    features = np.full((12, 16), 0.25, np.float32)
    features[::2] *= np.float32(1.0000003)
    assert float(features[0] @ features[2]) > 1
    assert link(features, None, method=method, threshold=0.9).tolist() == [0] * 12


def test_what_is_not_known_is_empty(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 1, 3, persons=[-2, -1, 7], cameras=[-1, 2, 3])
    assert main(["link", str(run), "--threshold", "0.5"]) == 0
    lines = [line.split(",") for line in (run / "groups.csv").read_text().splitlines()]
    assert [(line[2], line[4]) for line in lines[1:]] == [("", ""), ("2", "-1"), ("3", "7")]


def test_whom_nobody_knows_is_framed_as_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[RankedQuery] = []

    def draw_and_keep(rows: list[RankedQuery]) -> bytes:
        shown.extend(rows)
        return ranking_gallery(rows)

    monkeypatch.setattr(linked_groups, "ranking_gallery", draw_and_keep)
    same = np.tile(np.eye(1, 8, dtype=np.float32), (6, 1))
    for number, (persons, correct) in enumerate(
        (
            ([-2, -2, 7, 7, 8, -2], [None, None, None, None, None]),
            ([7, -2, 7, 8, -1, -2], [None, True, False, None, None]),
        )
    ):
        run = make_run(tmp_path / f"{number}", number, features=same, persons=persons)
        _link(FeatureStore.open(run), "average", 0.5, 0.6).page()
        assert [image.correct for image in shown[-1].ranked] == correct


def test_a_page_does_not_replace_the_table_nor_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", 1, 4)
    for options in (
        ["--out", str(tmp_path / "g.csv"), "--html", str(tmp_path / "g.csv")],
        ["--html", str(run / "groups.csv")],
        ["--out", str(run / "store.h5")],
        ["--out", str(run / "shards/../shards/000000.h5")],
    ):
        assert main(["link", str(run), "--threshold", "0.5", *options]) == 2
        assert "would replace what is read" in error_line(capsys)
    assert FeatureStore.open(run).features(np.arange(4)).shape == (4, 16)
