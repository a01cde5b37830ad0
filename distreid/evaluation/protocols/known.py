"""The table of benchmarks by name; to add one, describe it in a file beside and list it here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distreid.evaluation.protocols import (
    clothes_rules,
    cuhk03_rules,
    generic_rules,
    infrared_rules,
    mars_rules,
    search_rules,
    sysu_rules,
    text_rules,
    usual_rules,
    vehicle_rules,
)
from distreid.evaluation.protocols.rule import Benchmark

if TYPE_CHECKING:
    from distreid.data.manifest import Manifest

FAMILIES = (
    sysu_rules,
    infrared_rules,
    clothes_rules,
    mars_rules,
    vehicle_rules,
    cuhk03_rules,
    text_rules,
    search_rules,
    usual_rules,
    generic_rules,
)
BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark for family in FAMILIES for benchmark in family.BENCHMARKS
}


def of_layout(manifest: Manifest) -> list[Benchmark]:
    """The benchmarks that a data set is scored by unless others are asked for; of those that want
    a column of its own, the ones whose column is there."""
    return [
        benchmark
        for benchmark in BENCHMARKS.values()
        if manifest.layout in benchmark.layouts
        and (benchmark.gallery_unit == "image" or _has_tracklets(manifest, benchmark))
    ]


def _has_tracklets(manifest: Manifest, benchmark: Benchmark) -> bool:
    return any(name in manifest.extra for name in benchmark.tracklets)
