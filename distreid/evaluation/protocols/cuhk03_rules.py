"""CUHK03 as it was scored before 2017."""

from dataclasses import replace

from distreid.evaluation.protocols.rule import STANDARD, Benchmark

BENCHMARKS = (
    Benchmark(
        name="cuhk03-single-shot",
        data="CUHK03, classic",
        rule="each image searches for the others of 100 persons; the query's person in its own "
        "camera is left out; CMC on ten random galleries of one image of each person, AP on all",
        source="KaiyangZhou/deep-person-reid f8cd150, metrics/rank.py eval_cuhk03",
        trap="Galleries are drawn for each query anew, by one generator, in the order of the rows.",
        layouts=("cuhk03_classic_detected", "cuhk03_classic_labeled"),
        cmc="one of each person",
        counting=replace(STANDARD, depth=20),
    ),
)
