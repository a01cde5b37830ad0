import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conftest import GOLDEN
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from distreid.data.manifest import JUNK, NO_PERSON
from distreid.errors import DataError, OptionError
from distreid.evaluation.evaluate import Scores, summarise
from distreid.evaluation.metrics import (
    cmc,
    ranks_of_matches,
    score_ranks,
    single_shot_first_ranks,
)
from distreid.evaluation.protocol import PRESETS, Protocol
from distreid.evaluation.ranking import LabelledFeatures, multi_query, score_queries, score_views
from distreid.nearest.similarity import Similarity


@given(
    hnp.arrays(np.float32, (3, 30), elements=st.sampled_from([0.0, 0.25, 0.5, 1.0])),
    hnp.arrays(np.bool_, (3, 30)),
)
def test_ranks_are_those_of_a_stable_sort(
    scores: NDArray[np.float32], is_match: NDArray[np.bool_]
) -> None:
    kept = is_match | (np.arange(30) % 3 > 0)
    expected = []
    for scores_G, match_G, kept_G in zip(scores, is_match, kept, strict=True):
        order = sorted(np.flatnonzero(kept_G), key=lambda row: (-scores_G[row], row))
        expected += [rank for rank, row in enumerate(order, start=1) if match_G[row]]
    without = np.where(kept, scores, np.float32(np.nan))
    assert ranks_of_matches(without, *np.nonzero(is_match)).tolist() == expected


def test_one_match_at_rank_two_scores_a_half_or_a_quarter() -> None:
    scores = score_ranks([np.array([2])])
    assert (scores.ap[0], scores.ap_trapezoid[0], scores.inp[0]) == (0.5, 0.25, 0.5)


def test_scores_of_several_queries_do_not_mix() -> None:
    nothing = np.array([], np.int64)
    scores = score_ranks([nothing, np.array([1, 4]), nothing, np.array([3]), nothing])
    assert scores.matches.tolist() == [0, 2, 0, 1, 0]
    assert scores.first_rank.tolist() == [0, 1, 0, 3, 0]
    assert scores.ap.tolist() == pytest.approx([0, (1 + 2 / 4) / 2, 0, 1 / 3, 0])
    trapezoid = (1 + (1 / 3 + 2 / 4) / 2) / 2
    assert scores.ap_trapezoid.tolist() == pytest.approx([0, trapezoid, 0, (0 + 1 / 3) / 2, 0])
    assert scores.inp.tolist() == pytest.approx([0, 2 / 4, 0, 1 / 3, 0])


def test_cmc_counts_the_queries_by_their_first_match() -> None:
    first = np.array([1, 3, 0, 99])
    assert cmc(first, 4, depth=4).tolist() == [0.25, 0.25, 0.5, 0.5]
    assert np.isnan(cmc(first, 0, depth=4)).all()


FASTREID, LAYUMI = PRESETS["fastreid"], PRESETS["layumi"]


def scenario(
    name: str,
) -> tuple[LabelledFeatures, LabelledFeatures, LabelledFeatures | None, dict[str, Any]]:
    with np.load(GOLDEN / "eval" / f"{name}.inputs.npz") as arrays:
        values = {key: arrays[key] for key in arrays}
    results = json.loads((GOLDEN / "eval" / f"{name}.outputs.json").read_text())

    def labelled(prefix: str) -> LabelledFeatures:
        features = values[f"{prefix}_features"]
        return LabelledFeatures(
            pieces=[features[:7], features[7:]],
            norm=np.ones(len(features), np.float32),
            person_id=values[f"{prefix}_ids"],
            camera_id=values[f"{prefix}_cams"],
        )

    several = labelled("multiquery") if "multiquery_ids" in values else None
    return labelled("query"), labelled("gallery"), several, results


def normalised(rows: LabelledFeatures) -> LabelledFeatures:
    norm = np.linalg.norm(rows.features, axis=1)
    return replace(rows, pieces=[rows.features / norm[:, None]], norm=norm)


def scores_of(query: LabelledFeatures, gallery: LabelledFeatures, protocol: Protocol) -> Scores:
    return summarise(*score_queries(query, gallery, protocol), protocol, query.person_id)


# What each project's own code printed, by our protocol. TransReID re-ranks in half precision; its
# k1 = 20 is no preset: see test_rerank.
PEERS = {
    "L.evaluate_gpu": LAYUMI,
    "L.multi_query": PRESETS["layumi-multi"],
    "L.rerank": replace(LAYUMI, rerank="zhong"),
    "T.euclidean": PRESETS["torchreid"],
    "T.cosine": replace(PRESETS["torchreid"], distance="cosine"),
    "T.rerank": replace(PRESETS["torchreid"], features="normalised", rerank="zhong"),
    "F.cosine": FASTREID,
    "F.euclidean": replace(FASTREID, distance="euclidean", features="raw"),
    "F.rerank_jaccard": replace(FASTREID, rerank="fastreid"),
    "F.aqe": replace(FASTREID, expand="aqe"),
    "R.euclidean_normalised": PRESETS["transreid"],
    "R.euclidean_raw": replace(PRESETS["transreid"], features="raw"),
    "R.rerank_k50_15": replace(PRESETS["transreid"], rerank="transreid"),
    "R.rerank_k20_6": None,
}


@pytest.mark.parametrize(
    "name", ["s1_plain_50x300", "s2_junk_distractors_100x800", "s6_one_camera_50x300"]
)
def test_scores_are_those_of_the_peers_re_ranked_expanded_or_neither(name: str) -> None:
    query, gallery, several, results = scenario(name)
    query, gallery = normalised(query), normalised(gallery)
    for peer, theirs in results["results"].items():
        protocol = PEERS[peer.removesuffix(".python").removesuffix(".cython")]
        if protocol is None:
            continue
        asked = query
        if protocol.query == "multi":
            assert several is not None
            asked = multi_query(query, normalised(several), protocol)
        ours = scores_of(asked, gallery, protocol)
        if "error" in theirs:  # no query has a match
            assert ours.queries == 0
            assert math.isnan(ours.mAP) and math.isnan(ours.rank(1))
            continue
        figures = {f"rank{k}": ours.rank(k) for k in (1, 5, 10, 20)}
        figures |= {"mAP": ours.mAP, "mINP": ours.mINP}
        for figure in figures.keys() & theirs.keys():
            limit = 1e-6
            if protocol.rerank == "transreid":  # one query may be found a rank earlier
                limit = 1e-3 if figure == "mAP" else 1.001 / ours.queries
            assert figures[figure] == pytest.approx(theirs[figure], abs=limit), (peer, figure)


@pytest.mark.parametrize("name", ["s1_plain_50x300", "s2_junk_distractors_100x800"])
def test_every_querys_ap_and_the_whole_cmc_are_those_of_the_peers(name: str) -> None:
    query, gallery, _, _ = scenario(name)
    per_query, first = score_queries(normalised(query), normalised(gallery), FASTREID)
    valid = per_query.matches > 0
    with np.load(GOLDEN / "eval" / f"{name}.outputs.npz") as theirs:
        np.testing.assert_allclose(per_query.ap[valid], theirs["F_ap_per_valid_query"], atol=1e-6)
        np.testing.assert_allclose(per_query.inp[valid], theirs["F_inp_per_valid_query"], atol=1e-6)
        # That file has NaN where a query has no match; the peer's own sums count it as 0.
        theirs_all = np.nan_to_num(theirs["L_ap_per_query"])
        np.testing.assert_allclose(per_query.ap_trapezoid, theirs_all, atol=1e-6)
        ours = summarise(per_query, first, FASTREID, query.person_id).cmc
        np.testing.assert_allclose(ours, theirs["T_cmc"], atol=1e-6)
        np.testing.assert_allclose(ours, theirs["F_cmc"], atol=1e-6)
        ours = summarise(per_query, first, LAYUMI, query.person_id).cmc
        np.testing.assert_allclose(ours, theirs["L_cmc"][: len(ours)], atol=1e-6)


@pytest.mark.parametrize(
    ("bounds", "protocol"),
    [("dot_product_trapezoid", LAYUMI), ("euclidean", PRESETS["torchreid"])],
)
def test_exact_ties_stay_inside_what_any_order_of_the_ties_can_give(
    bounds: str, protocol: Protocol
) -> None:
    query, gallery, _, results = scenario("s4_exact_ties_100x600")
    if not protocol.by_cosine:
        query, gallery = normalised(query), normalised(gallery)
    ours = scores_of(query, gallery, protocol)
    allowed = results["results"][f"bounds.{bounds}"]
    best, worst = allowed["best_tie_order"], allowed["worst_tie_order"]
    assert worst["rank1"] - 1e-6 <= ours.cmc[0] <= best["rank1"] + 1e-6
    assert worst["mAP"] - 1e-6 <= ours.mAP <= best["mAP"] + 1e-6


def test_ties_are_broken_by_gallery_row() -> None:
    same = np.ones((4, 2), np.float32)
    gallery = LabelledFeatures(
        pieces=[same],
        norm=same[:, 0],
        person_id=np.array([5, 7, 5, 7]),
        camera_id=np.array([2, 2, 2, 2]),
    )
    query = LabelledFeatures(
        pieces=[same[:1]], norm=same[:1, 0], person_id=np.array([7]), camera_id=np.array([1])
    )
    per_query, _ = score_queries(query, gallery, FASTREID)
    assert per_query.first_rank.tolist() == [2]
    assert per_query.inp.tolist() == [2 / 4]


def test_one_camera_gives_no_score_but_zeros_over_all_queries() -> None:
    query, gallery, _, _ = scenario("s6_one_camera_50x300")
    standard = scores_of(query, gallery, FASTREID)
    assert standard.queries == 0
    assert math.isnan(standard.mAP)
    assert scores_of(query, gallery, LAYUMI).mAP == 0.0


@pytest.mark.parametrize(("queries", "rows"), [(0, 5), (3, 0)])
def test_an_empty_side_gives_no_match(queries: int, rows: int) -> None:
    def zeros(count: int) -> LabelledFeatures:
        numbers = np.ones(count, np.int64)
        return LabelledFeatures(
            pieces=[np.zeros((count, 4), np.float32)],
            norm=np.zeros(count, np.float32),
            person_id=numbers,
            camera_id=numbers * 0,
        )

    per_query, _ = score_queries(zeros(queries), zeros(rows), FASTREID)
    assert per_query.matches.tolist() == [0] * queries


def test_single_shot_takes_one_image_of_each_person_by_lot() -> None:
    scores = np.array([0.9, 0.1, 0.8, 0.5, 0.5], np.float32)
    candidates = [np.array([0, 1]), np.array([2]), np.array([3, 4])]
    ranks = single_shot_first_ranks(
        scores, candidates, 2, 4000, np.random.default_rng(0), np.empty(0, np.intp)
    )
    # Row 2 always outranks; row 0 does, and row 1 does not, each in half of the draws.
    assert set(ranks.tolist()) == {2, 3}
    assert abs((ranks == 3).mean() - 0.5) < 0.05
    again = single_shot_first_ranks(
        scores, candidates, 2, 4000, np.random.default_rng(0), np.empty(0, np.intp)
    )
    assert np.array_equal(ranks, again)


def test_equal_scores_of_a_single_shot_gallery_are_ordered_by_row() -> None:
    same = np.full(7, 0.5, np.float32)
    candidates = [np.array([0]), np.array([1]), np.array([3]), np.array([4])]
    unknown = np.array([2, 5, 6])
    ranks = single_shot_first_ranks(same, candidates, 2, 3, np.random.default_rng(0), unknown)
    assert ranks.tolist() == [4] * 3  # after rows 0, 1 and 2


def test_single_shot_cmc_is_at_least_that_of_the_whole_gallery_and_ap_is_unchanged() -> None:
    query, gallery, _, _ = scenario("s2_junk_distractors_100x800")
    classic = replace(PRESETS["cuhk03-classic"], features="normalised")
    shots = scores_of(normalised(query), normalised(gallery), classic)
    whole = scores_of(normalised(query), normalised(gallery), FASTREID)
    assert shots.mAP == whole.mAP
    assert shots.cmc.shape == (20,)
    assert 0 < shots.rank(1) < shots.rank(20) <= 1
    other = scores_of(normalised(query), normalised(gallery), replace(classic, seed=1))
    assert not np.array_equal(shots.cmc, other.cmc)


def test_scores_in_fp64_and_from_pieces_agree_with_fp32_in_one() -> None:
    query, gallery, _, _ = scenario("s1_plain_50x300")
    double, _ = score_queries(query, gallery, FASTREID, Similarity(precision="fp64"))
    single, _ = score_queries(query, replace(gallery, pieces=[gallery.features]), FASTREID)
    np.testing.assert_allclose(double.ap, single.ap, atol=1e-6)


def test_a_protocol_that_cannot_be_meant_is_refused() -> None:
    with pytest.raises(OptionError, match="--ap half: choose one of standard, trapezoid"):
        Protocol(name="x", ap="half")
    with pytest.raises(OptionError, match="--depth 0: from 1 to 100,000"):
        Protocol(name="x", depth=0)
    with pytest.raises(OptionError, match="--seed -1: from 0 to 4,294,967,295"):
        Protocol(name="x", seed=-1)
    for depth in (10**9, 10**30):
        with pytest.raises(OptionError, match=f"--depth {depth}: from 1 to"):
            Protocol(name="x", depth=depth)
    for seed in (2**32, 10**30):
        with pytest.raises(OptionError, match=f"--seed {seed}: from 0 to"):
            Protocol(name="x", seed=seed)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(("broken_query", "broken_gallery"), [(49, None), (None, 299)])
def test_a_feature_that_is_not_finite_is_refused(
    broken_query: int | None, broken_gallery: int | None, value: float
) -> None:
    query, gallery, _, _ = scenario("s1_plain_50x300")
    features = query.features, gallery.features
    for side, row in zip(features, (broken_query, broken_gallery), strict=True):
        if row is not None:
            side[row, 3] = value
    with pytest.raises(DataError, match="queries 0 to 49: a score is not finite"):
        score_queries(
            replace(query, pieces=[features[0]]), replace(gallery, pieces=[features[1]]), FASTREID
        )


def people(*person_id: int) -> LabelledFeatures:
    """Features that are less and less alike the first, of one person each."""
    angles = np.linspace(0, 1, len(person_id), dtype=np.float32)
    return LabelledFeatures(
        pieces=[np.stack([np.cos(angles), np.sin(angles)], axis=1)],
        norm=np.ones(len(person_id), np.float32),
        person_id=np.array(person_id),
        camera_id=np.full(len(person_id), -1),
    )


@pytest.mark.parametrize("nobody", [JUNK, NO_PERSON])
def test_a_query_of_nobody_matches_nobody(nobody: int) -> None:
    scores, _ = score_queries(people(nobody), people(nobody, nobody, 5), FASTREID)
    assert scores.matches.tolist() == [0]


def test_where_each_person_counts_once_each_unknown_row_is_somebody_else() -> None:
    query, gallery = people(5), people(NO_PERSON, NO_PERSON, JUNK, 7, 7, 5, 6, NO_PERSON)
    classic = replace(PRESETS["cuhk03-classic"], features="normalised")
    _, first_ranks = score_queries(query, gallery, classic)
    assert first_ranks.tolist() == [[4] * first_ranks.size]  # two unknown, 7, itself
    for counted, ranks in (("persons", [4]), ("one of each person", [[4] * 10])):
        found = score_views(query, gallery, FASTREID, cmc=counted)[0]
        assert found.first_ranks.tolist() == ranks, counted


@pytest.mark.parametrize(("clothes", "matches"), [(b"red", 2), (b"blue", 2), (b"", 3)])
def test_what_is_not_known_is_no_other(clothes: bytes, matches: int) -> None:
    query, gallery = people(5), people(5, 5, 5)
    query = replace(query, columns={"clothes": np.array([clothes])})
    gallery = replace(gallery, columns={"clothes": np.array([b"red", b"blue", b""])})
    rules = ["same person, other clothes"]
    (found,) = score_views(query, gallery, FASTREID, leaves_out=rules)
    assert found.scores.matches.tolist() == [matches]


SMALL = st.integers(1, 12)


@given(st.data(), st.sampled_from(["cross", "none"]), st.sampled_from(["cosine", "euclidean"]))
def test_every_score_is_that_of_a_ten_line_oracle(
    data: st.DataObject, rule: str, distance: str
) -> None:
    def rows(count: int, persons: list[int]) -> LabelledFeatures:
        cells = st.sampled_from([-1.0, 0.0, 0.5, 1.0])
        features = data.draw(hnp.arrays(np.float32, (count, 2), elements=cells))
        pick = hnp.arrays(np.int64, count, elements=st.sampled_from(persons))
        cameras = hnp.arrays(np.int64, count, elements=st.sampled_from([-1, 1, 2]))
        norms = hnp.arrays(np.float32, count, elements=st.sampled_from([1.0, 2.0]))
        cut = data.draw(st.integers(0, count))
        return LabelledFeatures(
            pieces=[features[:cut], features[cut:]],
            norm=data.draw(norms),
            person_id=data.draw(pick),
            camera_id=data.draw(cameras),
        )

    query, gallery = rows(data.draw(SMALL), [1, 2, 3]), rows(data.draw(SMALL), [-1, 0, 1, 2])
    protocol = Protocol(name="x", camera_rule=rule, distance=distance, features="raw")
    scores, _ = score_queries(query, gallery, protocol)
    for q in range(len(query)):
        ranked = []
        for g in range(len(gallery)):
            dot = float(query.features[q] @ gallery.features[g])
            norms = float(query.norm[q]), float(gallery.norm[g])
            score = (
                dot
                if distance == "cosine"
                else (2 * dot * norms[0] * norms[1] - norms[0] ** 2 - norms[1] ** 2)
            )
            match = gallery.person_id[g] == query.person_id[q]
            own = match and gallery.camera_id[g] == query.camera_id[q] != -1
            if gallery.person_id[g] != -1 and not (rule == "cross" and own):
                ranked.append((-score, g, match))
        hits = [rank for rank, (_, _, match) in enumerate(sorted(ranked), 1) if match]
        precisions = [n / rank for n, rank in enumerate(hits, 1)]
        assert scores.matches[q] == len(hits)
        assert scores.first_rank[q] == (hits[0] if hits else 0)
        assert scores.ap[q] == pytest.approx(np.mean(precisions) if hits else 0)
        assert scores.inp[q] == pytest.approx(len(hits) / hits[-1] if hits else 0)
        before = [(n - 1) / (rank - 1) if rank > 1 else 1 for n, rank in enumerate(hits, 1)]
        trapezoids = np.add(before, precisions) / 2
        assert scores.ap_trapezoid[q] == pytest.approx(trapezoids.mean() if hits else 0)


def test_raw_multi_query_features_are_means_of_features_as_the_model_gives_them() -> None:
    query, several = people(1, 2), people(1, 1, 2)
    query = replace(query, norm=np.array([2, 3], np.float32))
    several = replace(several, norm=np.array([1, 4, 5], np.float32))
    raw = replace(FASTREID, query="multi", distance="sqeuclidean", features="raw")
    found = multi_query(query, several, raw)
    mean = (several.features[0] + 4 * several.features[1]) / 2
    assert np.allclose(found.norm[0], np.linalg.norm(mean))
    assert np.allclose(found.features * found.norm[:, None], [mean, 5 * several.features[2]])
    plain = multi_query(query, several, replace(FASTREID, query="multi"))
    assert np.allclose(plain.features[0], several.features[:2].mean(axis=0))
    moved = multi_query(query, several, replace(FASTREID, query="multi", rerank="zhong"))
    assert np.allclose(np.linalg.norm(moved.features, axis=1), 1)
    assert np.allclose(moved.features[0], plain.features[0] / np.linalg.norm(plain.features[0]))


def test_tracks_are_chosen_with_their_features() -> None:
    rows = people(5, 6, 7)
    features = people(1, 2, 3, 4, 5, 6).features
    tracks = np.array([0, 0, 1, 2, 2, 2])
    some = replace(rows, pieces=[features[:4], features[4:]], tracks=tracks).at(np.array([0, 2]))
    assert some.person_id.tolist() == [5, 7]
    assert some.tracks is not None and some.tracks.tolist() == [0, 0, 1, 1, 1]
    assert np.array_equal(some.features, features[[0, 1, 3, 4, 5]])


def test_beyond_the_depth_there_is_no_rank() -> None:
    found = scores_of(people(5), people(6, 5), replace(FASTREID, depth=2))
    assert (found.rank(1), found.rank(2)) == (0, 1)
    assert math.isnan(found.rank(3))
