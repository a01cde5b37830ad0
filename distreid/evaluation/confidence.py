"""How sure a score is: its interval, and the difference between two runs.

The queries of one person resemble each other, so persons are resampled, each with all its
queries (the cluster bootstrap; Field and Welsh, JRSS B 69, 2007): an interval over single
queries is too narrow. Queries with the same person id are one person. The gallery stays as it
is: the interval covers the choice of the persons searched for, not another gallery, nor
another run of the training.

In names: Q queries, K persons, M measures, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distreid.errors import DataError
from distreid.evaluation.metrics import Floats, QueryScores, Ranks
from distreid.evaluation.protocol import Protocol

LEVEL = 0.95  # of every interval
RESAMPLES = 10_000
EXACT_PERSONS = 12  # up to here all 2^K signs are tried
LISTED = 10  # queries that changed most
CELLS = 1 << 20  # of R × K held at once
ROUNDING = 1e-9  # under which two sums of values in 0..1 are equal


@dataclass(frozen=True, kw_only=True)
class QueryValues:
    """What is averaged over queries; Q rows. ValueError unless all columns have Q finite values."""

    person_id: NDArray[np.int64]
    counted: NDArray[np.bool_]
    """Which queries the sums run over and are divided by."""
    values: dict[str, Floats]
    """By measure."""
    weight: Floats | None = None
    """How much a query counts, where not all count alike: it may be in some draws only."""

    def __post_init__(self) -> None:
        columns = {"counted": self.counted} | self.values
        if self.weight is not None:
            columns["weight"] = self.weight
        for name, column in columns.items():
            if column.shape != self.person_id.shape or not np.isfinite(column).all():
                raise ValueError(f"{name} must have {len(self.person_id)} finite values")

    def by_person(self) -> Floats:
        """(K, 1 + M) per person with a counted query: how many, and the sum of each measure."""
        persons, place_Q = np.unique(self.person_id[self.counted], return_inverse=True)
        table = np.zeros((len(persons), 1 + len(self.values)))
        weight_Q = None if self.weight is None else self.weight[self.counted]
        table[:, 0] = np.bincount(place_Q, weight_Q, minlength=len(persons))
        for column, value_Q in enumerate(self.values.values(), start=1):
            weighted_Q = value_Q[self.counted] * (1 if weight_Q is None else weight_Q)
            table[:, column] = np.bincount(place_Q, weighted_Q, minlength=len(persons))
        return table


def query_values(
    person_id_Q: NDArray[np.int64], per_query: QueryScores, first_ranks: Ranks, protocol: Protocol
) -> QueryValues:
    """rank1, mAP and mINP per query, so that their means are the protocol's scores.

    `first_ranks` are those that the CMC is made of: (Q,), or (Q, draws) on single-shot
    galleries, where a query's rank1 is the share of its draws.
    """
    valid, first = per_query.matches > 0, (first_ranks == 1).astype(np.float64)
    return QueryValues(
        person_id=person_id_Q,
        counted=valid if protocol.denominator == "valid" else np.ones_like(valid),
        values={
            "rank1": first.mean(axis=1) if first.ndim == 2 else first,
            "mAP": per_query.ap_by(protocol.ap),
            "mINP": per_query.inp,
        },
    )


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean over queries and the ends of its interval; NaN if there is no query."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Resampling:
    """What the figures were found from; K persons have a counted query."""

    queries: int
    persons: int
    resamples: int
    seed: int

    def to_json(self) -> dict[str, Any]:
        """Plain values, null for NaN."""
        return {"level": LEVEL, **_plain(asdict(self))}


@dataclass(frozen=True, kw_only=True)
class Confidence(Resampling):
    """The interval of each measure."""

    intervals: dict[str, Interval]


@dataclass(frozen=True, kw_only=True)
class Difference(Interval):
    """What a measure gained from run A to run B: B − A, persons drawn for both runs at once."""

    p_value: float
    """Two-sided; see `sign_flip_p`."""
    better: int
    equal: int
    worse: int
    """Counted queries by the sign of B − A; equal means bit for bit."""
    most_better: list[int]
    most_worse: list[int]
    """Rows of the queries that changed most, the largest change first, ties by row; at most 10."""


@dataclass(frozen=True, kw_only=True)
class Comparison(Resampling):
    """The difference of each measure."""

    differences: dict[str, Difference]


def bootstrap(queries: QueryValues, *, resamples: int = RESAMPLES, seed: int = 0) -> Confidence:
    """The percentile interval (Efron and Tibshirani 1993, chapter 13) of each measure.

    Its ends are figures of actual resamples, of K persons drawn from K with replacement.
    Persons without a counted query are not drawn. One person gives an interval of no width,
    which says nothing; no query gives NaN. The same seed gives the same ends.
    """
    table = queries.by_person()
    value_M = low_M = high_M = np.full(len(queries.values), np.nan)
    if len(table):
        count, *sums = table.sum(axis=0)
        value_M = np.array(sums) / count
        ends = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
        means_RM = _resampled_means(table, resamples, seed)
        low_M, high_M = np.quantile(means_RM, ends, axis=0, method="inverted_cdf")
    intervals = {
        name: Interval(value=float(value), low=float(low), high=float(high))
        for name, value, low, high in zip(queries.values, value_M, low_M, high_M, strict=True)
    }
    return Confidence(
        intervals=intervals,
        queries=int(queries.counted.sum()),
        persons=len(table),
        resamples=resamples,
        seed=seed,
    )


def compare(
    a: QueryValues,
    b: QueryValues,
    rows: NDArray[np.intp] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """B − A for two runs on the same queries, paired. `rows` (Q,) are the queries' manifest rows,
    by which those that change most are told; without, by their places.

    DataError, which names the first row that differs, unless both have the same queries in
    the same order and count the same ones. The measures must be the same (ValueError).
    """
    if list(a.values) != list(b.values):
        raise ValueError(f"measures {list(a.values)} and {list(b.values)} cannot be compared")
    _refuse_other_queries(a, b)
    change = QueryValues(
        person_id=a.person_id,
        counted=a.counted,
        weight=a.weight,
        values={
            name: np.where(a.counted, b.values[name] - a.values[name], 0.0) for name in a.values
        },
    )
    rows = np.arange(len(a.person_id)) if rows is None else rows
    found = bootstrap(change, resamples=resamples, seed=seed)
    differences = {}
    for change_K, (name, change_Q) in zip(
        change.by_person().T[1:], change.values.items(), strict=True
    ):
        better, worse = int((change_Q > 0).sum()), int((change_Q < 0).sum())
        differences[name] = Difference(
            **vars(found.intervals[name]),
            p_value=sign_flip_p(change_K, resamples=resamples, seed=seed),
            better=better,
            equal=found.queries - better - worse,
            worse=worse,
            most_better=rows[np.argsort(-change_Q, kind="stable")[: min(better, LISTED)]].tolist(),
            most_worse=rows[np.argsort(change_Q, kind="stable")[: min(worse, LISTED)]].tolist(),
        )
    return Comparison(
        differences=differences,
        queries=found.queries,
        persons=found.persons,
        resamples=resamples,
        seed=seed,
    )


def sign_flip_p(change_K: Floats, *, resamples: int = RESAMPLES, seed: int = 0) -> float:
    """How often |Σ ± change| reaches |Σ change| if, for each person, A and B are as likely
    to be exchanged as not: the paired permutation test, two-sided. NaN for no person.

    Persons without a change carry no sign and are left out. Up to 12 others all signs are
    tried, and p is exact; beyond, `resamples` are drawn, and p = (1 + hits) / (1 + resamples)
    (Phipson and Smyth, SAGMB 9, 2010), so never 0. K persons cannot give less than 2 / 2^K.
    """
    if len(change_K) == 0:
        return math.nan
    change_K = change_K[np.abs(change_K) > ROUNDING]
    total = change_K.sum()
    persons = len(change_K)
    if persons <= EXACT_PERSONS:
        kept_RK = np.arange(1 << persons)[:, None] >> np.arange(persons) & 1
        return float(np.mean(np.abs(2 * kept_RK @ change_K - total) >= abs(total) - ROUNDING))
    rng = np.random.Generator(np.random.PCG64(seed))
    hits = 0
    for rows in _chunks(resamples, persons):
        kept_RK = rng.integers(0, 2, (rows, persons), dtype=np.int8)
        # 2 Σ kept − Σ all = Σ ± change
        sums_R = 2 * (kept_RK @ change_K) - total
        hits += int(np.count_nonzero(np.abs(sums_R) >= abs(total) - ROUNDING))
    return (1 + hits) / (1 + resamples)


def _resampled_means(table: Floats, resamples: int, seed: int) -> Floats:
    """(R, M) the means over the queries of K persons drawn with replacement."""
    rng = np.random.Generator(np.random.PCG64(seed))
    persons = len(table)
    means = []
    for rows in _chunks(resamples, persons):
        # Counting draws in one bincount is several times faster than Generator.multinomial.
        drawn_RK = rng.integers(0, persons, (rows, persons)) + persons * np.arange(rows)[:, None]
        times_RK = np.bincount(drawn_RK.ravel(), minlength=rows * persons).reshape(rows, persons)
        totals = times_RK @ table
        means.append(totals[:, 1:] / totals[:, :1])
    return np.concatenate(means)


def _chunks(resamples: int, persons: int) -> Iterator[int]:
    """How many resamples to hold at a time."""
    rows = max(1, CELLS // persons)
    for first in range(0, resamples, rows):
        yield min(rows, resamples - first)


def _refuse_other_queries(a: QueryValues, b: QueryValues) -> None:
    if len(a.person_id) != len(b.person_id):
        raise DataError(
            f"run A has {len(a.person_id):,} queries and run B {len(b.person_id):,}; "
            "compare runs of the same manifest"
        )
    for what, one, other in (
        ("person", a.person_id, b.person_id),
        ("part in the score", a.counted, b.counted),
    ):
        if (rows := np.flatnonzero(one != other)).size:
            raise DataError(
                f"query {rows[0]} has another {what} in run B than in run A "
                f"({len(rows):,} queries do); compare runs of the same manifest"
            )


def _plain(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _plain(value) for name, value in content.items()}
    return None if isinstance(content, float) and math.isnan(content) else content
