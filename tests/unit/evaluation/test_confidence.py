import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from distreid.errors import DataError
from distreid.evaluation.confidence import (
    QueryValues,
    bootstrap,
    compare,
    query_values,
    sign_flip_p,
)
from distreid.evaluation.metrics import score_ranks
from distreid.evaluation.protocol import PRESETS


def queries(
    persons: list[int], values: list[float], counted: list[bool] | None = None
) -> QueryValues:
    return QueryValues(
        person_id=np.array(persons, dtype=np.int64),
        counted=np.array([True] * len(persons) if counted is None else counted, dtype=np.bool_),
        values={"mAP": np.array(values, dtype=np.float64)},
    )


# Four persons with one, four, two and three queries.
PERSONS = [7, 3, 3, 3, 3, 9, 9, 2, 2, 2]
VALUES = [1.0, 0.1, 0.3, 0.2, 0.0, 0.9, 0.6, 0.5, 0.4, 0.75]


def exact_ends(persons: list[int], values: list[float]) -> tuple[float, float]:
    """The ends over all K^K equally likely resamples."""
    of = {p: [v for q, v in zip(persons, values, strict=True) if q == p] for p in persons}
    means = []
    for drawn in itertools.product(of, repeat=len(of)):
        pooled = [value for person in drawn for value in of[person]]
        means.append(sum(pooled) / len(pooled))
    means.sort()
    return means[math.ceil(0.025 * len(means)) - 1], means[math.ceil(0.975 * len(means)) - 1]


def test_the_interval_is_that_of_all_resamples_of_the_persons() -> None:
    found = bootstrap(queries(PERSONS, VALUES)).intervals["mAP"]
    low, high = exact_ends(PERSONS, VALUES)
    assert found.value == pytest.approx(sum(VALUES) / 10)
    # 10,000 draws put the ends within an atom or two of the 256 exact means.
    assert found.low == pytest.approx(low, abs=0.01)
    assert found.high == pytest.approx(high, abs=0.01)


def test_the_ends_of_an_interval_are_means_of_resamples() -> None:
    for seed in range(10):
        found = bootstrap(queries([1, 2, 3, 4], [0, 1, 1, 0]), resamples=11, seed=seed)
        (interval,) = found.intervals.values()
        assert {4 * interval.low, 4 * interval.high} <= {0, 1, 2, 3, 4}


@pytest.mark.parametrize("persons", [1, 11, 12])
def test_of_few_persons_all_signs_are_tried(persons: int) -> None:
    assert sign_flip_p(np.ones(persons), resamples=3) == 2 / 2**persons
    assert sign_flip_p(np.ones(13), resamples=3) >= 1 / 4


def test_persons_are_resampled_not_queries() -> None:
    one_fails = queries([1] * 50 + [2] * 50, [1.0] * 50 + [0.0] * 50)
    found = bootstrap(one_fails).intervals["mAP"]
    assert (found.low, found.value, found.high) == (0.0, 0.5, 1.0)


def test_one_value_per_person_gives_the_binomial_interval() -> None:
    persons = list(range(100))
    found = bootstrap(queries(persons, [1.0] * 80 + [0.0] * 20)).intervals["mAP"]
    # Quantiles of Binomial(100, 0.8): P(X ≤ 71) = 0.020, P(X ≤ 72) = 0.034; likewise 87 and 88.
    assert found.low == pytest.approx(0.72, abs=0.011)
    assert found.high == pytest.approx(0.87, abs=0.011)


def test_the_seed_decides_the_interval() -> None:
    rng = np.random.default_rng(1)
    many = queries(list(range(200)), rng.random(200).tolist())
    assert bootstrap(many, seed=5) == bootstrap(many, seed=5)
    assert bootstrap(many, seed=5).intervals != bootstrap(many, seed=6).intervals


def test_many_persons_are_drawn_in_several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(2).random(50)
    whole = bootstrap(queries(list(range(50)), values.tolist()), resamples=1001)
    monkeypatch.setattr("distreid.evaluation.confidence.CELLS", 50 * 10)
    pieces = bootstrap(queries(list(range(50)), values.tolist()), resamples=1001)
    assert pieces.intervals["mAP"].low == pytest.approx(whole.intervals["mAP"].low)
    assert pieces.intervals["mAP"].high == pytest.approx(whole.intervals["mAP"].high)


def test_queries_that_do_not_count_change_nothing() -> None:
    counted = bootstrap(queries(PERSONS, VALUES))
    more = queries([1, *PERSONS, 3], [0.9, *VALUES, 0.9], [False, *[True] * 10, False])
    assert bootstrap(more) == counted


def test_no_query_gives_no_interval_and_one_person_one_of_no_width() -> None:
    for none in (queries([], []), queries([1, 2], [0.0, 0.0], [False, False])):
        found = bootstrap(none)
        assert (found.queries, found.persons) == (0, 0)
        assert json.loads(json.dumps(found.to_json(), allow_nan=False))["intervals"] == {
            "mAP": {"value": None, "low": None, "high": None}
        }
    found = bootstrap(queries([4, 4], [0.5, 1.0]))
    interval = found.intervals["mAP"]
    assert (interval.low, interval.value, interval.high) == (0.75, 0.75, 0.75)
    assert found.persons == 1


def test_the_values_are_those_of_the_protocols() -> None:
    per_query = score_ranks([np.array(ranks, np.int64) for ranks in ([1, 4], [2], [], [3])])
    persons = np.array([1, 1, 2, 3])

    def means(protocol: str, first_ranks: NDArray[np.int64]) -> list[float]:
        values = query_values(persons, per_query, first_ranks, PRESETS[protocol])
        return [interval.value for interval in bootstrap(values).intervals.values()]

    first = per_query.first_rank
    assert means("fastreid", first) == pytest.approx(
        [1 / 3, (3 / 4 + 1 / 2 + 1 / 3) / 3, (2 / 4 + 1 / 2 + 1 / 3) / 3]
    )
    assert means("layumi", first) == pytest.approx(
        [1 / 4, ((1 + 5 / 12) / 2 + 1 / 4 + 1 / 6) / 4, (2 / 4 + 1 / 2 + 1 / 3) / 4]
    )
    draws = np.array([[1, 1], [1, 2], [0, 0], [2, 3]])
    assert means("cuhk03-classic", draws)[0] == pytest.approx(1.5 / 3)


def test_columns_of_other_lengths_and_nan_are_refused() -> None:
    with pytest.raises(ValueError, match="mAP must have 2 finite"):
        queries([1, 2], [0.5])
    with pytest.raises(ValueError, match="counted must have 2"):
        queries([1, 2], [0.5, 0.5], [True])
    with pytest.raises(ValueError, match="mAP must have 1 finite"):
        queries([1], [math.nan])


def brute_force_p(changes: list[int]) -> float:
    totals = [
        sum(sign * change for sign, change in zip(signs, changes, strict=True))
        for signs in itertools.product((-1, 1), repeat=len(changes))
    ]
    return sum(abs(total) >= abs(sum(changes)) for total in totals) / len(totals)


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
def test_p_of_few_persons_is_exact(changes: list[int]) -> None:
    # 0.1 × integers: sums that are equal on paper differ by rounding.
    found = sign_flip_p(0.1 * np.array(changes, dtype=np.float64))
    assert found == pytest.approx(brute_force_p(changes))


def test_p_of_more_persons_is_drawn_and_near_the_exact_one() -> None:
    changes = [3, -1, 4, 1, -5, 2, 2, 1, 3, -2, 1, 1, 2, -1]
    assert sign_flip_p(np.array(changes) / 10) == pytest.approx(brute_force_p(changes), abs=0.015)


def test_p_is_never_zero_and_hand_checked_at_its_ends() -> None:
    assert sign_flip_p(np.ones(10)) == 2 / 2**10
    assert sign_flip_p(np.ones(500), resamples=999) == 1 / 1000
    assert sign_flip_p(np.zeros(500)) == 1.0
    # 50 persons, three of whom changed: exact.
    assert sign_flip_p(np.array([0.2, 0.1, 0.4] + [0.0] * 47)) == 2 / 2**3
    assert math.isnan(sign_flip_p(np.zeros(0)))


def test_p_is_small_in_few_of_many_runs_without_a_difference() -> None:
    rng = np.random.default_rng(3)
    found = [sign_flip_p(rng.standard_normal(30), resamples=199) for _ in range(400)]
    assert 0.02 < np.mean(np.array(found) <= 0.05) < 0.08


def test_a_comparison_by_hand() -> None:
    a = queries([1, 1, 2, 3, 4], [0.5, 0.5, 0.2, 1.0, 0.3], [True, True, True, True, False])
    b = queries([1, 1, 2, 3, 4], [0.6, 0.4, 0.8, 1.0, 0.9], [True, True, True, True, False])
    found = compare(a, b)
    change = found.differences["mAP"]
    assert (found.queries, found.persons) == (4, 3)
    assert change.value == pytest.approx(0.6 / 4)
    assert (change.better, change.equal, change.worse) == (2, 1, 1)
    assert (change.most_better, change.most_worse) == ([2, 0], [1])
    assert change.p_value == 1.0  # only person 2 changed, and one sign tells nothing
    assert json.loads(json.dumps(found.to_json()))["differences"]["mAP"]["most_better"] == [2, 0]


def test_the_exchanged_comparison_is_the_mirror_image() -> None:
    rng = np.random.default_rng(4)
    persons = rng.integers(0, 30, 100).tolist()
    a, b = (queries(persons, rng.random(100).tolist()) for _ in range(2))
    one, other = (compare(*pair).differences["mAP"] for pair in ((a, b), (b, a)))
    assert one.value == pytest.approx(-other.value)
    assert one.low == pytest.approx(-other.high, abs=0.01)
    assert (one.better, one.worse) == (other.worse, other.better)
    assert one.most_better == other.most_worse
    assert one.p_value == other.p_value


def test_pairing_makes_the_interval_of_a_difference_narrow() -> None:
    rng = np.random.default_rng(5)
    persons = list(range(100))
    values = rng.random(100) / 2
    a, b = queries(persons, values.tolist()), queries(persons, (values + 0.1).tolist())
    change = compare(a, b).differences["mAP"]
    assert change.low == pytest.approx(0.1)
    assert change.high == pytest.approx(0.1)
    assert bootstrap(a).intervals["mAP"].high - bootstrap(a).intervals["mAP"].low > 0.03
    assert change.p_value == 1 / 10_001


def test_at_most_ten_queries_are_listed_ties_by_row() -> None:
    a, b = queries(list(range(30)), [0.0] * 30), queries(list(range(30)), [1.0] * 30)
    change = compare(a, b).differences["mAP"]
    assert change.most_better == list(range(10))
    assert change.most_worse == []


def test_a_run_compared_with_itself_shows_nothing() -> None:
    change = compare(queries(PERSONS, VALUES), queries(PERSONS, VALUES)).differences["mAP"]
    assert (change.value, change.low, change.high, change.p_value) == (0.0, 0.0, 0.0, 1.0)
    assert (change.better, change.equal, change.worse) == (0, 10, 0)


def test_runs_on_other_queries_are_refused() -> None:
    a = queries([1, 2, 3], [0.1, 0.2, 0.3])
    with pytest.raises(DataError, match="run A has 3 queries and run B 2"):
        compare(a, queries([1, 2], [0.1, 0.2]))
    with pytest.raises(DataError, match=r"query 1 has another person .*\(2 queries do\)"):
        compare(a, queries([1, 3, 2], [0.1, 0.2, 0.3]))
    with pytest.raises(DataError, match="query 2 has another part in the score"):
        compare(a, queries([1, 2, 3], [0.1, 0.2, 0.3], [True, True, False]))
    rank1 = QueryValues(person_id=a.person_id, counted=a.counted, values={"rank1": a.values["mAP"]})
    with pytest.raises(ValueError, match="cannot be compared"):
        compare(a, rank1)


def test_a_comparison_without_a_query_has_no_figures() -> None:
    nothing = queries([1], [0.0], [False])
    content = json.loads(json.dumps(compare(nothing, nothing).to_json(), allow_nan=False))
    change = content["differences"]["mAP"]
    assert [change[name] for name in ("value", "low", "high", "p_value")] == [None] * 4
    assert (change["better"], change["equal"], change["worse"]) == (0, 0, 0)
