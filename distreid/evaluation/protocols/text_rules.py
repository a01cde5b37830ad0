"""Text searches for images, and back: features made elsewhere."""

from dataclasses import replace

from distreid.evaluation.protocols.rule import NO_CAMERAS, Benchmark

ALL_COUNT = replace(NO_CAMERAS, name="all queries", as_in="", denominator="all")
TEXT, IMAGE = "modality = text | caption; split = query", "modality = image; split = gallery"
IRRA = "anosorae/IRRA cfc2378, utils/metrics.py rank"

BENCHMARKS = (
    Benchmark(
        name="text-to-image",
        data="CUHK-PEDES, ICFG-PEDES, RSTPReid",
        rule="each caption searches for all test images; nothing is left out; all queries count",
        source=IRRA,
        trap="An image of the caption's person is right, not only the one that it describes.",
        asks=TEXT,
        asked=IMAGE,
        counting=ALL_COUNT,
    ),
    Benchmark(
        name="image-to-text",
        data="CUHK-PEDES, ICFG-PEDES, RSTPReid",
        rule="each test image searches for all captions; nothing is left out; all queries count",
        source=IRRA,
        trap="Without a column modality, query rows are taken for captions and gallery rows for "
        "images, in both directions.",
        asks=IMAGE,
        asked=TEXT,
        counting=ALL_COUNT,
    ),
)
