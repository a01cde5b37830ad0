from dataclasses import replace

import numpy as np
import pytest

from distreid.evaluation.breakdown import (
    camera_pairs,
    column_scores,
    first_ranked,
    person_scores,
    worst_queries,
)
from distreid.evaluation.evaluate import summarise
from distreid.evaluation.protocol import PRESETS
from distreid.evaluation.ranking import LabelledFeatures, score_queries

PROTOCOL = PRESETS["fastreid"]


def labelled(angles: list[float], persons: list[int], cameras: list[int]) -> LabelledFeatures:
    radians = np.radians(np.array(angles))
    return LabelledFeatures(
        pieces=[np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)],
        norm=np.ones(len(angles), np.float32),
        person_id=np.array(persons),
        camera_id=np.array(cameras),
    )


QUERY = labelled([0, 90, 50], [1, 2, 3], [1, 1, 2])
GALLERY = labelled([1, 2, 3, 88, 40, 52, 0], [1, 9, 1, 2, 2, 3, -1], [2, 2, 1, 2, 3, 2, 3])


def test_a_camera_pair_ranks_that_gallery_camera_alone() -> None:
    pairs = camera_pairs(QUERY, GALLERY, PROTOCOL)
    assert pairs.cameras == [1, 2, 3]
    # Query camera 1: persons 1 and 2. In camera 2 each finds its match first; in camera 3
    # only person 2 has one; in camera 1 the only match is in the query's own camera.
    assert pairs.queries_CC.tolist() == [[0, 2, 1], [0, 0, 0], [0, 0, 0]]
    assert pairs.mAP_CC[0, 1:].tolist() == [1.0, 1.0]
    assert pairs.rank1_CC[0, 1:].tolist() == [1.0, 1.0]
    assert np.isnan(pairs.mAP_CC[[0, 1, 2], [0, 1, 2]]).all()


def test_persons_and_queries_are_listed_from_the_worst() -> None:
    gallery = labelled([1, 5, 30, 89], [9, 1, 2, 9], [2, 2, 2, 2])
    query = labelled([0, 0, 90, 0], [1, 1, 2, 7], [1, 1, 1, 1])
    scores = summarise(*score_queries(query, gallery, PROTOCOL), PROTOCOL, query.person_id)
    assert scores.per_query.first_rank.tolist() == [2, 2, 2, 0]
    assert person_scores(query, scores) == [(1, 2, 0.5), (2, 1, 0.5)]
    assert worst_queries(scores, 2).tolist() == [0, 1]


def test_what_is_drawn_is_the_evaluators_own_ranking() -> None:
    scores, _ = score_queries(QUERY, GALLERY, PROTOCOL)
    found = first_ranked(QUERY, GALLERY, PROTOCOL, np.arange(3), 10)
    # Junk (row 6) is in no ranking, row 2 is in the camera of query 0.
    assert found[0].rows.tolist() == [0, 1, 4, 5, 3]
    assert found[0].is_match.tolist() == [True, False, False, False, False]
    for each in found:
        first = np.flatnonzero(each.is_match)
        assert scores.first_rank[each.query] == (first[0] + 1 if len(first) else 0)
        assert (np.diff(each.scores) <= 0).all()


@pytest.mark.parametrize("k", [0, 2])
def test_no_more_is_drawn_than_asked_for(k: int) -> None:
    assert [len(f.rows) for f in first_ranked(QUERY, GALLERY, PROTOCOL, np.arange(3), k)] == [k] * 3


def test_what_a_protocol_makes_its_map_of_is_broken_down() -> None:
    gallery = labelled([1, 5, 30, 89, 91], [9, 1, 2, 9, 2], [2] * 5)
    query = labelled([0, 0, 90], [1, 1, 2], [1, 1, 1])
    protocol = replace(PRESETS["layumi"], camera_rule="none")
    scores = summarise(*score_queries(query, gallery, protocol), protocol, query.person_id)
    assert scores.ap.tolist() == scores.per_query.ap_trapezoid.tolist()
    assert scores.ap.tolist() != scores.per_query.ap.tolist()
    persons = person_scores(query, scores)
    assert sum(count * mean for _, count, mean in persons) / 3 == pytest.approx(scores.mAP)
    values = column_scores(np.array([b"a", b"a", b"b"]), scores)
    assert [(value, mean) for value, _, mean in values] == [
        ("a", scores.ap[0]),
        ("b", scores.ap[2]),
    ]
    pairs = camera_pairs(query, gallery, protocol)
    assert pairs.mAP_CC[0, 1] == pytest.approx(scores.mAP)


def test_what_is_ranked_by_raw_features_is_drawn_so() -> None:
    """Long features are far by distance, and near by their product."""
    gallery = replace(
        labelled([0, 0, 30], [1, 2, 1], [2, 2, 2]), norm=np.array([9, 1.5, 1], np.float32)
    )
    query = labelled([0], [1], [1])
    protocol = PRESETS["torchreid"]
    scores, _ = score_queries(query, gallery, protocol)
    (found,) = first_ranked(query, gallery, protocol, np.arange(1), 3)
    assert found.rows.tolist() == [1, 2, 0]
    assert scores.first_rank.tolist() == [2]
