"""Video: MARS in its three readings; other data sets of tracklets."""

from dataclasses import replace

from distreid.evaluation.protocols.rule import STANDARD, Benchmark

QUERIES_TOO = "split = query | gallery"
OFFICIAL = replace(STANDARD, name="mars", as_in="", ap="trapezoid", denominator="all")

BENCHMARKS = (
    Benchmark(
        name="mars",
        data="MARS",
        rule="query tracklets search for all test tracklets, the queries among them; all queries "
        "count; AP by trapezoids",
        source="liangzheng06/MARS-evaluation 3a91bbc, utils/evaluation_mars.m",
        trap="A query without another tracklet of its person has no AP, and so there is no mAP, as "
        "in the official code; the CMC counts it as a miss.",
        layouts=("mars",),
        asked=QUERIES_TOO,
        unmatched_ap="none",
        counting=OFFICIAL,
        query_unit="tracklet",
        gallery_unit="tracklet",
    ),
    Benchmark(
        name="mars-ap3d",
        data="MARS",
        rule="the same gallery; AP is the mean of the precisions at the matches; queries without a "
        "match are dropped",
        source="guxinqian/AP3D 84bd12a, tools/eval_metrics.py",
        trap="mAP is above the official one, whose trapezoids are lower.",
        layouts=("mars",),
        asked=QUERIES_TOO,
        query_unit="tracklet",
        gallery_unit="tracklet",
    ),
    Benchmark(
        name="mars-torchreid",
        data="MARS",
        rule="the gallery is the test tracklets without the queries; queries without a match are "
        "dropped",
        source="KaiyangZhou/deep-person-reid f8cd150, metrics/rank.py",
        trap="Queries whose person is in no other camera but by query tracklets are dropped: not "
        "to be compared with the other two.",
        layouts=("mars",),
        query_unit="tracklet",
        gallery_unit="tracklet",
    ),
)
