"""The table of protocols for a terminal, for programs, and for the manual."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from distreid.evaluation.protocol import PRESETS
from distreid.evaluation.protocols.known import BENCHMARKS
from distreid.evaluation.protocols.rule import Benchmark


def protocol_lines() -> list[str]:
    """For each benchmark its name, data set, rule, source and trap; then the ways of counting."""
    lines = []
    for benchmark in BENCHMARKS.values():
        lines += [f"{benchmark.name}: {benchmark.data}", f"    {benchmark.rule}"]
        lines += [f"    source: {benchmark.source}", f"    {benchmark.trap}", ""]
    lines.append("Ways of counting, of all query rows in all gallery rows, without the query's")
    lines.append("person in the query's camera:")
    for preset in PRESETS.values():
        lines.append(f"{preset.name}: as {preset.as_in}; {', '.join(preset.words)}")
    return lines


def protocol_rows() -> list[dict[str, Any]]:
    """The same for programs, with every field of the descriptions."""
    rows = [{"kind": "benchmark", **description(each)} for each in BENCHMARKS.values()]
    return rows + [{"kind": "counting", **each.to_json()} for each in PRESETS.values()]


def description(benchmark: Benchmark) -> dict[str, Any]:
    """A benchmark's fields as plain values."""
    return asdict(benchmark) | {"counting": benchmark.counting.to_json()}


def protocol_sections() -> list[str]:
    """The manual's sections: a heading for each data set, and of each benchmark its rule, its trap,
    its source, and who asks whom."""
    lines: list[str] = []
    data = ""
    for each in BENCHMARKS.values():
        if each.data != data:
            data = each.data
            lines += [f"## {data}", ""]
        rule = each.rule[0].upper() + each.rule[1:]
        lines += [f"### `{each.name}`", "", f"{rule}. {each.trap}", ""]
        lines += ["```text", *picture(each), "```", "", f"Source: {each.source}", ""]
    return lines


def picture(benchmark: Benchmark) -> list[str]:
    """Who asks whom, in a few lines of text."""
    asks, asked = (_of_rows(benchmark.asks), _of_rows(benchmark.asked))
    units = (benchmark.query_unit, benchmark.gallery_unit)
    asks, asked = (
        f"{rows} ({_unit(unit)})" for rows, unit in zip((asks, asked), units, strict=True)
    )
    left_out = ["the query's own file"]
    counting = benchmark.counting
    if counting.camera_rule == "cross":
        left_out.append("same person, same camera")
    left_out += benchmark.leaves_out
    lines = [f"{asks}  ──asks──▶  {asked}"]
    lines += [f"{' ' * len(asks)}  not found: {'; '.join(left_out)}"]
    if draw := benchmark.draw:
        lines.append(f"{' ' * len(asks)}  {draw.times} draws: {_drawn(benchmark)}")
    count = "all queries" if counting.denominator == "all" else "queries with a match"
    lines.append(f"{' ' * len(asks)}  counted: {count}, {counting.ap} AP, CMC by {benchmark.cmc}")
    return lines


def _drawn(benchmark: Benchmark) -> str:
    draw = benchmark.draw
    assert draw is not None
    if draw.how == "listed":
        return f"as the column {draw.listed} lists"
    first = "the first after a shuffle" if draw.how == "shuffle" else f"{draw.take}"
    rest = "; all others ask" if draw.rest_asks else ""
    return f"{first} of each {' and '.join(draw.each)}{rest}"


def _of_rows(condition: str) -> str:
    return condition.split(";")[0].replace(" and split != train | val | other", "").strip()


def _unit(unit: str) -> str:
    return {"image": "images", "tracklet": "means of tracklets", "nearest": "nearest images"}[unit]
