"""Person search in whole frames: CUHK-SYSU and PRW."""

from dataclasses import replace

from distreid.evaluation.protocols.rule import NO_CAMERAS, Benchmark

ALL_COUNT = replace(NO_CAMERAS, name="all queries", as_in="", denominator="all")
SEQNET = "serend1p1ty/SeqNet edec285, eval_func.py"
BOTH = f"{SEQNET}; DeepAlchemist/deep-person-search a402a8a, lib/data"
RIGHT = "the first detection on the person is right, missed frames count 0 in AP"
MISSING = (
    "Detections with a score below 0.5 are not used, so a frame may be missed: AP and INP count "
    "that, Rank-k does not."
)
FAULT = (
    "SeqNet's own figures for all frames are far too low: it adds each image of the list twice, "
    "the second time with all detections wrong. These are deep-person-search's."
)

BENCHMARKS = (
    *(
        Benchmark(
            name=f"cuhk-sysu-{size}",
            data="CUHK-SYSU",
            rule=f"each query searches the {size} frames that TestG{size} lists for it; {RIGHT}",
            source=BOTH,
            trap=MISSING,
            layouts=("cuhk_sysu",) if size == 100 else (),
            frames=f"TestG{size}",
            counting=ALL_COUNT,
        )
        for size in (50, 100, 500, 1000, 2000, 4000)
    ),
    Benchmark(
        name="cuhk-sysu-all",
        data="CUHK-SYSU",
        rule=f"each query searches all other frames; {RIGHT}",
        source="DeepAlchemist/deep-person-search a402a8a, lib/data/ssm.py",
        trap=FAULT,
        frames="all",
        counting=ALL_COUNT,
    ),
    Benchmark(
        name="prw",
        data="PRW",
        rule=f"each query searches all other frames; {RIGHT}",
        source=BOTH,
        trap=MISSING,
        layouts=("prw",),
        frames="all",
        counting=ALL_COUNT,
    ),
    Benchmark(
        name="prw-other-cameras",
        data="PRW",
        rule=f"each query searches the frames of other cameras; {RIGHT}",
        source=f"{SEQNET}, ignore_cam_id=False",
        trap=MISSING,
        layouts=("prw",),
        leaves_out=("same camera",),
        frames="all",
        counting=ALL_COUNT,
    ),
)
