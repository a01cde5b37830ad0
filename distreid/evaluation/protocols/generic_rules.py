"""Rules for any data: each image against all others, closed set, open set; animals."""

from dataclasses import replace

from distreid.evaluation.protocols.rule import NO_CAMERAS, STANDARD, Benchmark

TESTED = "split != train | val | other | multi-query"
ALL_COUNT = replace(NO_CAMERAS, name="all queries", as_in="", denominator="all")

BENCHMARKS = (
    Benchmark(
        name="leave-one-out",
        data="any",
        rule="each image searches for all others, without a camera rule; queries without a match "
        "are dropped",
        source="open-mmlab/mmtracking e79491e, mmtrack/datasets/reid_dataset.py",
        trap="Images of one sequence or burst find each other: see leave-one-out-sequence.",
        layouts=("reid_imgs",),
        asks=TESTED,
        asked=TESTED,
        counting=NO_CAMERAS,
    ),
    Benchmark(
        name="leave-one-out-oml",
        data="any",
        rule="the same; queries without a match stay and count 0",
        source="OML-Team/open-metric-learning 4.0.0, calc_retrieval_metrics_rr",
        trap="OML's map@k divides by the matches among the first k; mAP here is its map without k.",
        asks=TESTED,
        asked=TESTED,
        counting=ALL_COUNT,
    ),
    Benchmark(
        name="leave-one-out-sequence",
        data="any",
        rule="the same; all of the query's sequence is left out too, whoever is in it",
        source="OML-Team/open-metric-learning 4.0.0, with sequence ids",
        trap="Wants a column sequence.",
        asks=TESTED,
        asked=TESTED,
        leaves_out=("same sequence",),
        counting=ALL_COUNT,
    ),
    Benchmark(
        name="closed-set",
        data="any; animals",
        rule="query rows search for gallery rows without a camera rule; Rank-1 is the accuracy of "
        "the nearest neighbour, given over images and over persons",
        source="WildlifeDatasets/wildlife-tools, KnnClassifier(k=1)",
        trap="Where one animal has most of the images, the mean over animals tells more.",
        by_person=True,
        counting=ALL_COUNT,
    ),
    Benchmark(
        name="open-set",
        data="any",
        rule="query rows search for gallery rows; those whose person is not there should be "
        "refused: detection and identification rates at false accept rates of 1 to 30 %",
        source="seasonSH/Probabilistic-Face-Embeddings 23191e9, evaluation/metrics.py DIR_FAR",
        trap="The CMC is of the queries whose person is in the gallery. distreid calibrate has a "
        "rule of its own.",
        open_set=True,
        counting=NO_CAMERAS,
    ),
    Benchmark(
        name="cross-camera",
        data="any",
        rule="query rows search for gallery rows; the query's person in its own camera is left "
        "out; queries without a match are dropped",
        source="Zheng et al., Scalable Person Re-identification, ICCV 2015",
        trap="The rule of Market-1501, DukeMTMC-reID, MSMT17, Occluded-Duke and many others.",
        counting=STANDARD,
    ),
)
