import math
from pathlib import Path

import numpy as np
import pytest

from distreid.evaluation.evaluate import Evaluation, summarise
from distreid.evaluation.metrics import QueryScores
from distreid.evaluation.protocol import PRESETS
from distreid.job.epochs import epoch_numbers, epoch_table, in_words, rank_epochs, to_json


def evaluation(*ap: float, matches: int = 1, protocol: str = "fastreid") -> Evaluation:
    """Of queries of as many persons, with these average precisions."""
    values = np.array(ap)
    ranks = np.full(len(ap), min(matches, 2))
    per_query = QueryScores(
        matches=np.full(len(ap), matches), first_rank=ranks, ap=values, ap_trapezoid=values,
        inp=values,
    )  # fmt: skip
    persons = np.arange(len(ap))
    scores = [summarise(per_query, ranks, PRESETS[name], persons) for name in ("layumi", protocol)]
    return Evaluation(scores=scores, counts={})


@pytest.mark.parametrize(
    ("names", "numbers"),
    [
        (["net_10", "net_5"], [10, 5]),
        (["osnet_x0_25_epoch_3", "model-60"], [3, 60]),
        (["net_10", "net_last"], None),
        (["a-net_10", "b-net_10"], None),
        (["net_٣", "net_4"], None),
    ],
)
def test_the_epoch_is_the_last_number_in_the_name_if_all_have_another(
    names: list[str], numbers: list[int] | None
) -> None:
    assert epoch_numbers(names) == numbers


def test_the_first_of_equals_is_the_best_and_the_other_is_not_told_apart() -> None:
    runs = {Path("o/c"): evaluation(0.5, 0.7), Path("o/b"): evaluation(0.7, 0.5)}
    epochs, best = rank_epochs(runs, [3, 2])
    assert [epoch.number for epoch in epochs] == [2, 3]
    assert best is not None
    assert in_words(epochs, best) == (
        "best mAP by fastreid: b, 60.00 %; not told apart from it (p of 0.05 or more): c"
    )


def test_a_transreid_checkpoint_is_ranked_by_its_own_protocol() -> None:
    runs = {Path("o/a"): evaluation(0.5, protocol="transreid")}
    epochs, best = rank_epochs(runs, [1])
    assert in_words(epochs, best) == "best mAP by transreid: a, 50.00 %"


def test_a_checkpoint_that_is_surely_worse_is_told_apart() -> None:
    better, worse = evaluation(*[0.9] * 8), evaluation(*[0.2] * 8)
    epochs, best = rank_epochs({Path("o/a"): worse, Path("o/b"): better}, [1, 2])
    assert in_words(epochs, best) == "best mAP by fastreid: b, 90.00 %"
    content = to_json(epochs, best)
    assert content["best"] == "b"
    first, last = content["checkpoints"]
    assert first["lead_of_best"]["value"] == pytest.approx(0.7)
    # All 2^8 signs are tried, and two of them reach the difference.
    assert first["lead_of_best"]["p_value"] == 2 / 256
    assert last["lead_of_best"] is None


@pytest.mark.parametrize(("queries", "told_apart"), [(5, False), (6, True)])
def test_a_checkpoint_is_told_apart_where_p_is_below_a_twentieth(
    queries: int, told_apart: bool
) -> None:
    """Of K persons who all are found better, p is 2 / 2^K."""
    runs = {Path("o/a"): evaluation(*[0.2] * queries), Path("o/b"): evaluation(*[0.9] * queries)}
    said = in_words(*rank_epochs(runs, [1, 2]))
    assert said.endswith("90.00 %" if told_apart else "(p of 0.05 or more): a")


def test_a_row_tells_how_far_behind_the_best_a_checkpoint_is() -> None:
    runs = {
        Path("o/worse"): evaluation(*[0.2] * 8),
        Path("o/better"): evaluation(*[0.9] * 8),
        Path("o/equal"): evaluation(*[0.9] * 8),
    }
    table = epoch_table(rank_epochs(runs, [1, 2, 3])[0])
    name, *_, map_column, minp, behind, p_value = (list(column.cells) for column in table.columns)
    assert [str(cell) for cell in name] == ["worse", "better", "equal"]
    assert map_column == ["20.00 %", "90.00 %", "90.00 %"]
    assert minp == map_column
    assert behind == ["-70.00", "", "-0.00"]
    assert p_value == ["0.0078", "", "1.0000"]


def test_where_no_query_has_a_match_there_is_no_best() -> None:
    runs = {Path("o/a"): evaluation(0.0, matches=0), Path("o/b"): evaluation(0.0, matches=0)}
    epochs, best = rank_epochs(runs, [1, 2])
    assert best is None
    assert in_words(epochs, best) == "no best checkpoint: no query can be scored"
    assert math.isnan(epochs[0].scores.mAP)
    assert to_json(epochs, best)["checkpoints"][0]["mAP"] is None


def test_runs_that_read_other_queries_have_scores_and_no_difference() -> None:
    runs = {Path("o/a"): evaluation(0.5, 0.7), Path("o/b"): evaluation(0.5)}
    epochs, best = rank_epochs(runs, [1, 2])
    assert best is not None
    assert [epoch.lead for epoch in epochs] == [None, None]
