import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from conftest import GOLDEN
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from distreid.data.manifest import JUNK, NO_CAMERA, NO_PERSON
from distreid.errors import DataError
from distreid.evaluation.openset import (
    RESOLUTION,
    Calibration,
    Distribution,
    Labels,
    Scores,
    calibrate,
)
from distreid.nearest.similarity import score_blocks


def who(persons: Any, cameras: Any) -> Labels:
    return Labels(
        person_id=np.array(persons, dtype=np.int64), camera_id=np.array(cameras, dtype=np.int64)
    )


def blocks_of(scores_QG: Scores, rows: int = 3) -> Iterator[tuple[int, Scores]]:
    for first in range(0, len(scores_QG), rows):
        yield first, scores_QG[first : first + rows]


def calibrated(
    scores_QG: Any, query: Labels, gallery: Labels, *, cross_camera: bool = True
) -> Calibration:
    scores = np.array(scores_QG).reshape(len(query.person_id), len(gallery.person_id))
    return calibrate(blocks_of(scores), query, gallery, cross_camera=cross_camera)


def of_pairs(matches: list[float], nonmatches: list[float]) -> Calibration:
    """One query whose matches and non-matches have these scores."""
    persons = [1] * len(matches) + [2] * len(nonmatches)
    return calibrated([matches + nonmatches], who([1], [1]), who(persons, [2] * len(persons)))


PERSON = st.sampled_from([NO_PERSON, JUNK, 0, 1, 2, 3])
CAMERA = st.sampled_from([NO_CAMERA, 1, 2])


@dataclass(frozen=True)
class Scene:
    scores: Scores
    query: Labels
    gallery: Labels
    cross_camera: bool

    def calibrated(self) -> Calibration:
        return calibrated(self.scores, self.query, self.gallery, cross_camera=self.cross_camera)

    def pairs(self) -> list[tuple[int, int, bool]]:
        """(query, gallery row, is a match) of the pairs that count."""
        found = []
        for q, (person, camera) in enumerate(rows_of(self.query)):
            for g, (whose, where) in enumerate(rows_of(self.gallery)):
                if person in (JUNK, NO_PERSON) or whose in (JUNK, NO_PERSON):
                    continue
                same_camera = self.cross_camera and camera == where != NO_CAMERA
                if person != whose or not same_camera:
                    found.append((q, g, person == whose))
        return found

    def scores_of(self, is_match: bool) -> list[float]:
        return [float(self.scores[q, g]) for q, g, match in self.pairs() if match == is_match]


def rows_of(who: Labels) -> Iterator[tuple[int, int]]:
    return zip(who.person_id.tolist(), who.camera_id.tolist(), strict=True)


@st.composite
def scenes(draw: st.DrawFn, *, tied: bool) -> Scene:
    def some(count: int) -> Labels:
        return who(
            draw(st.lists(PERSON, min_size=count, max_size=count)),
            draw(st.lists(CAMERA, min_size=count, max_size=count)),
        )

    shape = draw(st.integers(0, 8)), draw(st.integers(0, 40))
    scores = np.random.default_rng(draw(st.integers(0, 999))).uniform(-1, 1, shape)
    scores[:, ::5] = np.round(scores[:, ::5], 1)
    if tied:
        scores = np.round(scores * 8) / 8
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    return Scene(scores.astype(dtype), some(shape[0]), some(shape[1]), draw(st.booleans()))


@given(scenes(tied=True))
def test_counts_extremes_auc_and_eer_are_those_of_a_loop_over_pairs(
    scene: Scene,
) -> None:
    found = scene.calibrated()
    matches, others = scene.scores_of(True), scene.scores_of(False)
    for distribution, pairs in ((found.matches, matches), (found.nonmatches, others)):
        assert distribution.counts.dtype == np.int64
        assert distribution.total == len(pairs)
        assert distribution.low == min(pairs, default=math.inf)
        assert distribution.high == max(pairs, default=-math.inf)
        edges = [-1, -0.5, 0, 0.125, 1 - RESOLUTION]
        places = [round((edge + 1) / RESOLUTION) for edge in edges]
        shares = [sum(pair >= edge for pair in pairs) / max(1, len(pairs)) for edge in edges]
        if pairs:
            assert distribution.accepted(len(pairs))[places].tolist() == shares
    if not matches or not others:
        assert found.auc() is None
        assert found.eer() is None
        return
    wins = sum((m > n) + (m == n) / 2 for m in matches for n in others)
    assert found.auc() == pytest.approx(wins / len(matches) / len(others))
    assert found.eer() == pytest.approx(eer_by_loop(matches, others))


def eer_by_loop(matches: list[float], others: list[float]) -> float:
    before = (1.0, 0.0)
    for threshold in [*sorted({*matches, *others}), math.inf]:
        fpr = sum(score >= threshold for score in others) / len(others)
        fnr = sum(score < threshold for score in matches) / len(matches)
        if fnr >= fpr:
            gap = before[0] - before[1]
            return before[0] + gap / (gap + fnr - fpr) * (fpr - before[0])
        before = (fpr, fnr)
    raise AssertionError("unreachable: at infinity all matches are rejected")


@given(scenes(tied=True))
def test_the_best_scores_and_the_first_rank_are_those_of_a_sorted_ranking(
    scene: Scene,
) -> None:
    tops = scene.calibrated().tops
    for q in range(len(scene.scores)):
        ranking = sorted((-scene.scores[q, g], g, match) for p, g, match in scene.pairs() if p == q)
        matches = [-score for score, _, match in ranking if match]
        others = [-score for score, _, match in ranking if not match]
        assert tops.match_Q[q] == (matches[0] if matches else -math.inf)
        assert tops.nonmatch_Q[q] == (others[0] if others else -math.inf)
        assert tops.is_first_Q[q] == (bool(ranking) and ranking[0][2])


@given(scenes(tied=False))
def test_a_threshold_achieves_what_it_says_and_no_lower_one_would(
    scene: Scene,
) -> None:
    found = scene.calibrated()
    matches, others = scene.scores_of(True), scene.scores_of(False)
    for point in found.verification():
        if point.threshold is None:
            assert len(others) * point.wished < 10
            continue
        assert point.false_rate is not None and point.false_rate <= point.wished
        assert point.false_rate == sum(n >= point.threshold for n in others) / len(others)
        lower = point.threshold - RESOLUTION
        assert sum(n >= lower for n in others) / len(others) > point.wished
        if matches:
            assert point.true_rate == sum(m >= point.threshold for m in matches) / len(matches)
        else:
            assert point.true_rate is None


def test_rates_are_named_for_whom_they_accept() -> None:
    # Three of four matches and one of ten non-matches reach 0.5: TPR 0.75 at FPR 0.1.
    found = of_pairs([0.9, 0.8, 0.6, 0.1], [0.5] + [0.0] * 9)
    fpr, tpr = found.roc()
    place = round(1.5 / RESOLUTION)
    assert (fpr[place], tpr[place]) == (0.1, 0.75)
    assert (fpr[0], tpr[0]) == (1.0, 1.0)
    assert found.auc() == pytest.approx((3 * 10 + 9) / 40)


def test_a_threshold_by_hand() -> None:
    nonmatches = [number / 1000 for number in range(1000)]
    point = of_pairs([0.95, 0.85, 0.995], nonmatches).verification()[1]
    # Ten of 1,000 may pass, 0.990 … 0.999; the lowest edge that keeps 0.989 out.
    assert point.wished == 0.01
    assert point.false_rate == 0.01
    assert point.threshold is not None and 0.989 < point.threshold <= 0.989 + RESOLUTION
    assert point.true_rate == 1 / 3


@pytest.mark.parametrize("power", range(1, 7))
def test_a_rate_needs_ten_expected_false_positives(power: int) -> None:
    def points(count: int) -> list[float | None]:
        distribution = Distribution()
        distribution.counts[: 1 << 14] = count // (1 << 14)
        distribution.counts[0] += count % (1 << 14)
        found = of_pairs([1.0], [])
        return [
            point.threshold
            for point in Calibration(
                matches=found.matches, nonmatches=distribution, tops=found.tops
            ).verification()
        ]

    enough, too_few = points(10 ** (power + 1)), points(10 ** (power + 1) - 1)
    assert None not in enough[:power]
    assert enough[power:] == [None] * (6 - power)
    assert too_few[power - 1 :] == [None] * (7 - power)


def test_no_threshold_is_given_where_none_keeps_the_rate() -> None:
    found = of_pairs([0.5], [1.0] * 1000)
    assert {point.threshold for point in found.verification()} == {None}


def test_equal_scores_are_a_coin_toss_and_allow_no_threshold_below_them() -> None:
    found = of_pairs([0.25] * 4, [0.25] * 1000)
    assert (found.auc(), found.eer()) == (0.5, 0.5)
    first = found.verification()[0]
    assert (first.threshold, first.false_rate, first.true_rate) == (0.25 + RESOLUTION, 0.0, 0.0)


def test_perfect_scores_have_no_error() -> None:
    found = of_pairs([0.9, 0.8], [0.1, 0.2])
    assert (found.auc(), found.eer()) == (1.0, 0.0)


def test_a_bin_has_its_lower_edge_and_rounding_ends_in_the_last_ones() -> None:
    distribution = Distribution()
    below = np.nextafter(np.float32(0), np.float32(-1))
    values = np.array([-1.004, -1, below, 0, RESOLUTION, 1, 1.0000001], dtype=np.float32)
    distribution.add(values)
    middle = 1 << 14
    assert np.flatnonzero(distribution.counts).tolist() == [
        0,
        middle - 1,
        middle,
        middle + 1,
        2 * middle - 1,
    ]
    assert distribution.counts[[0, -1]].tolist() == [2, 2]
    assert (distribution.low, distribution.high) == (float(values[0]), float(values[-1]))


def test_blocks_may_be_cut_anywhere() -> None:
    rng = np.random.default_rng(0)
    query, gallery = (
        who(rng.integers(-2, 5, count), rng.integers(-1, 3, count)) for count in (20, 40)
    )
    scores = rng.uniform(-1, 1, (20, 40)).astype(np.float32)
    one, other = (
        calibrate(blocks_of(scores, rows), query, gallery, cross_camera=True) for rows in (1, 20)
    )
    assert one.to_json() == other.to_json()
    assert one.tops.match_Q.tolist() == other.tops.match_Q.tolist()
    with pytest.raises(ValueError, match="the blocks have 19 queries, not 20"):
        calibrate(blocks_of(scores[:19]), query, gallery, cross_camera=True)


# 200 queries of persons 0 … 99, whose match scores 0.8 in the first half and 0.4 in the other.
def identification(*, mated: int, impostor: NDArray[np.float64]) -> dict[str, Any]:
    persons = np.arange(200)
    scores = np.full((200, 201), -1.0)
    scores[persons, persons] = np.where(persons < 100, 0.8, 0.4)
    scores[:, 200] = impostor
    gallery = persons.copy()
    gallery[mated:] += 1000
    scores[persons[mated:], persons[mated:]] = -1
    found = calibrated(scores, who(persons, [1] * 200), who([*gallery, 999], [2] * 201))
    return found.to_json()


def test_false_alarms_come_from_queries_without_a_match() -> None:
    # 100 queries have a match at 0.8; the others' best non-match is 0.00, 0.01 … 0.99.
    impostor = np.concatenate([np.full(100, 0.5), np.arange(100) / 100])
    found = identification(mated=100, impostor=impostor)
    assert found["alarms_from"] == "queries without a match"
    assert (found["alarm_queries"], found["queries_with_match"]) == (100, 100)
    point, *others = found["identification"]
    assert point["false_rate"] == 0.1
    assert 0.89 < point["threshold"] <= 0.89 + RESOLUTION
    assert point["true_rate"] == 0.0  # all rank first, none passes
    assert {other["threshold"] for other in others} == {None}


def test_a_detection_must_rank_first_and_pass() -> None:
    # All have a match: 100 at 0.8, 100 at 0.4. Non-matches at 0.9 beat 20 of the former;
    # those at 0.5 beat all of the latter.
    impostor = np.full(200, 0.5)
    impostor[:20] = 0.9
    found = identification(mated=200, impostor=impostor)
    assert found["alarms_from"] == "all queries, without their matches"
    assert (found["alarm_queries"], found["queries_with_match"]) == (200, 200)
    point = found["identification"][0]
    # The 20 at 0.9 are a tenth of 200: the threshold may let them pass, but nothing at 0.5.
    assert (point["false_rate"], point["true_rate"]) == (0.1, 80 / 200)
    assert 0.5 < point["threshold"] <= 0.5 + RESOLUTION


def test_what_a_query_does_not_find_is_no_pair() -> None:
    scores = np.array([[0.9, 0.8, 0.7, 0.6], [0.5, 0.4, 0.3, 0.2]])
    out = np.array([[1, 0, 1, 0], [0, 0, 1, 0]], np.bool_)
    found = calibrate(
        blocks_of(scores, rows=1),
        who([1, 2], [1, 1]),
        who([1, 1, 2, 2], [2] * 4),
        cross_camera=True,
        left_out=lambda first, queries: out[first : first + queries],
    )
    assert (found.matches.total, found.matches.low, found.matches.high) == (2, 0.2, 0.8)
    assert (found.nonmatches.total, found.nonmatches.low, found.nonmatches.high) == (3, 0.4, 0.6)
    assert found.tops.nonmatch_Q.tolist() == [0.6, 0.5]


def test_a_query_of_nobody_known_raises_no_alarm() -> None:
    tops = calibrated(
        [[0.9, 0.5], [0.8, 0.4], [0.7, 0.3], [0.6, 0.2]],
        who([1, 1, NO_PERSON, JUNK], [1] * 4),
        who([1, 2], [2, 2]),
    ).tops
    alarms, whose = tops.alarms()
    assert (alarms.total, alarms.high, whose) == (2, 0.5, "all queries, without their matches")
    assert tops.is_first_Q.tolist() == [True, True, False, False]


def test_real_features_of_one_camera_have_no_match_and_say_so() -> None:
    with np.load(GOLDEN / "eval" / "s6_one_camera_50x300.inputs.npz") as arrays:
        parts = [
            (
                arrays[f"{side}_features"]
                / np.linalg.norm(arrays[f"{side}_features"], axis=1, keepdims=True),
                who(arrays[f"{side}_ids"], arrays[f"{side}_cams"]),
            )
            for side in ("query", "gallery")
        ]
    (query, query_who), (gallery, gallery_who) = parts
    scores = list(score_blocks(query, gallery))
    found = calibrate(scores, query_who, gallery_who, cross_camera=True).to_json()
    content = json.loads(json.dumps(found, allow_nan=False))
    assert content["matches"]["total"] == 0
    assert content["matches"]["low"] is None
    assert content["auc"] is None and content["eer"] is None
    point = content["verification"][0]
    assert point["threshold"] is not None and point["true_rate"] is None
    assert content["identification"][0]["true_rate"] is None
    assert calibrate(scores, query_who, gallery_who, cross_camera=False).matches.total > 0


@pytest.mark.parametrize(("queries", "rows"), [(0, 0), (0, 5), (3, 0)])
def test_an_empty_side_gives_nulls(queries: int, rows: int) -> None:
    found = calibrated(
        np.zeros((queries, rows)), who([1] * queries, [1] * queries), who([2] * rows, [2] * rows)
    )
    content = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert content["nonmatches"]["total"] == 0
    assert {point["threshold"] for point in content["verification"]} == {None}
    assert {point["threshold"] for point in content["identification"]} == {None}


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1.02, -3.0])
def test_a_score_that_is_no_cosine_is_refused_by_name(bad: float) -> None:
    scores = np.zeros((4, 5))
    scores[2, 3] = bad
    with pytest.raises(DataError, match=r"query 2, gallery row 3: the score is .* extract"):
        calibrated(scores, who([1, 2, 3, 4], [1] * 4), who([1, 2, 3, 4, 5], [2] * 5))


def test_the_drawn_histogram_keeps_every_count() -> None:
    content = of_pairs([-1.0, 0.0, 1.0], [0.5]).to_json()
    assert content["resolution"] == 2**-14
    counts = content["matches"]["counts"]
    assert len(counts) == 256
    assert (counts[0], counts[128], counts[255], sum(counts)) == (1, 1, 1, 3)
