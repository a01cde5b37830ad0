"""Every benchmark a second time, row by row in plain Python, without a line of distreid's."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Row = dict[str, Any]
"""number, path, person, camera, split, clothes, modality, sequence, track, trials, feature."""


@dataclass(frozen=True, kw_only=True)
class Naive:
    """One rule, in functions."""

    asks: Callable[[Row], bool]
    asked: Callable[[Row], bool]
    left_out: Callable[[Row, Row], bool] = lambda q, g: False
    draws: Callable[[list[Row], list[Row], int], list[tuple[list[Row], list[Row]]]] | None = None
    all_count: bool = False
    trapezoid: bool = False
    by_person: bool = False
    unmatched_is_nan: bool = False
    tracks: bool = False


def query(row: Row) -> bool:
    return "query" in row["split"]


def gallery(row: Row) -> bool:
    return "gallery" in row["split"]


def either(row: Row) -> bool:
    return query(row) or gallery(row)


def tested(row: Row) -> bool:
    return row["split"] not in ("train", "val", "other")


def own(q: Row, g: Row) -> bool:
    return bool(q["person"] == g["person"] and q["camera"] == g["camera"])


def sysu(take: int, cameras: Sequence[int]) -> Naive:
    def draws(asking: list[Row], rows: list[Row], seed: int) -> list[tuple[list[Row], list[Row]]]:
        found = []
        for trial in range(10):
            generator = random.Random(seed + trial)
            drawn = []
            for person in sorted({row["person"] for row in rows}):
                for camera in sorted(cameras):
                    of = [r for r in rows if r["person"] == person and r["camera"] == camera]
                    of.sort(key=lambda row: row["path"])
                    if of and take == 1:
                        drawn.append(generator.choice(of))
                    elif of:
                        drawn += generator.sample(of, min(take, len(of)))
            found.append((asking, sorted(drawn, key=lambda row: row["number"])))
        return found

    return Naive(
        asks=lambda row: tested(row) and row["camera"] in (3, 6),
        asked=lambda row: tested(row) and row["camera"] in cameras,
        left_out=lambda q, g: q["camera"] == 3 and g["camera"] == 2,
        draws=draws,
        by_person=True,
    )


def listed(asking: list[Row], rows: list[Row], seed: int) -> list[tuple[list[Row], list[Row]]]:
    return [
        ([r for r in asking if t in r["trials"]], [r for r in rows if t in r["trials"]])
        for t in range(1, 11)
    ]


def modality(asks: str, asked: str) -> tuple[Callable[[Row], bool], Callable[[Row], bool]]:
    return (lambda row: row["modality"] == asks), (lambda row: row["modality"] == asked)


def regdb(asks: str, asked: str) -> Naive:
    q, g = modality(asks, asked)
    return Naive(asks=q, asked=g, draws=listed)


def llcm(asks: str, asked: str) -> Naive:
    cameras = range(10)
    q, g = modality(asks, asked)
    return Naive(
        asks=lambda row: tested(row) and q(row),
        asked=lambda row: tested(row) and g(row),
        left_out=own,
        draws=sysu(1, cameras).draws,
        by_person=True,
    )


def first_of_each(
    asking: list[Row], rows: list[Row], seed: int
) -> list[tuple[list[Row], list[Row]]]:
    generator = random.Random(seed)
    ordered = sorted(rows, key=lambda row: row["path"])
    persons = list(dict.fromkeys(row["person"] for row in ordered))
    found = []
    for _ in range(10):
        drawn = [generator.choice([r for r in ordered if r["person"] == p]) for p in persons]
        found.append((asking, sorted(drawn, key=lambda row: row["number"])))
    return found


def transreid(asking: list[Row], rows: list[Row], seed: int) -> list[tuple[list[Row], list[Row]]]:
    generator = random.Random(seed)
    persons = list(dict.fromkeys(row["person"] for row in rows))
    found = []
    for _ in range(10):
        drawn = [generator.choice([r for r in rows if r["person"] == p]) for p in persons]
        numbers = {row["number"] for row in drawn}
        asks = [row for row in asking if row["number"] not in numbers]
        found.append((asks, sorted(drawn, key=lambda row: row["number"])))
    return found


def fastreid(asking: list[Row], rows: list[Row], seed: int) -> list[tuple[list[Row], list[Row]]]:
    found = []
    for trial in range(10):
        shuffled = list(rows)
        random.Random(seed + trial).shuffle(shuffled)
        drawn: dict[int, Row] = {}
        for row in shuffled:
            drawn.setdefault(row["person"], row)
        numbers = {row["number"] for row in drawn.values()}
        asks = [row for row in asking if row["number"] not in numbers]
        found.append((asks, sorted(drawn.values(), key=lambda row: row["number"])))
    return found


def clothes(rule: str) -> Naive:
    def left_out(q: Row, g: Row) -> bool:
        same = q["clothes"] == g["clothes"]
        other = {"general": False, "same": not same, "changed": same}[rule]
        return bool(q["person"] == g["person"] and (own(q, g) or other))

    return Naive(asks=query, asked=gallery, left_out=left_out)


def prcc(letter: int, single: bool) -> Naive:
    return Naive(
        asks=lambda row: tested(row) and row["camera"] == letter,
        asked=lambda row: tested(row) and row["camera"] == 0,
        draws=first_of_each if single else None,
    )


def vc(cameras: Sequence[int]) -> Naive:
    return Naive(
        asks=lambda row: query(row) and row["camera"] in cameras,
        asked=lambda row: gallery(row) and row["camera"] in cameras,
        left_out=own,
    )


NOTHING = Naive(asks=query, asked=gallery)
NAIVE: dict[str, Naive] = {
    "sysu-mm01-all-single": sysu(1, (1, 2, 4, 5)),
    "sysu-mm01-all-multi": sysu(10, (1, 2, 4, 5)),
    "sysu-mm01-indoor-single": sysu(1, (1, 2)),
    "sysu-mm01-indoor-multi": sysu(10, (1, 2)),
    "regdb-visible-to-thermal": regdb("visible", "thermal"),
    "regdb-thermal-to-visible": regdb("thermal", "visible"),
    "llcm-visible-to-infrared": llcm("visible", "infrared"),
    "llcm-infrared-to-visible": llcm("infrared", "visible"),
    "ltcc-general": clothes("general"),
    "ltcc-same-clothes": clothes("same"),
    "ltcc-changed-clothes": clothes("changed"),
    "prcc-same-clothes": prcc(1, single=False),
    "prcc-same-clothes-single": prcc(1, single=True),
    "prcc-changed-clothes": prcc(2, single=False),
    "prcc-changed-clothes-single": prcc(2, single=True),
    "vc-clothes-general": vc(range(10)),
    "vc-clothes-same-clothes": vc((2, 3)),
    "vc-clothes-changed-clothes": vc((3, 4)),
    "deepchange": Naive(
        asks=query,
        asked=gallery,
        left_out=lambda q, g: q["person"] == g["person"] and q["track"] == g["track"],
    ),
    "last": NOTHING,
    "celeb-reid": NOTHING,
    "mars": Naive(
        asks=query,
        asked=either,
        left_out=own,
        all_count=True,
        trapezoid=True,
        unmatched_is_nan=True,
    ),
    "mars-ap3d": Naive(asks=query, asked=either, left_out=own),
    "mars-torchreid": Naive(asks=query, asked=gallery, left_out=own),
    "veri-776": Naive(asks=query, asked=gallery, left_out=own, all_count=True, trapezoid=True),
    "veri-776-standard": Naive(asks=query, asked=gallery, left_out=own),
    "veri-776-track": Naive(asks=query, asked=gallery, left_out=own, tracks=True),
    **{
        f"vehicleid-{size}{ending}": Naive(asks=tested, asked=tested, draws=draws)
        for size in (800, 1600, 2400)
        for ending, draws in (("", transreid), ("-fastreid", fastreid))
    },
    "text-to-image": Naive(
        asks=lambda row: row["modality"] == "text",
        asked=lambda row: row["modality"] == "image",
        all_count=True,
    ),
    "image-to-text": Naive(
        asks=lambda row: row["modality"] == "image",
        asked=lambda row: row["modality"] == "text",
        all_count=True,
    ),
    "leave-one-out": Naive(asks=tested, asked=tested),
    "leave-one-out-oml": Naive(asks=tested, asked=tested, all_count=True),
    "leave-one-out-sequence": Naive(
        asks=tested,
        asked=tested,
        left_out=lambda q, g: q["sequence"] == g["sequence"],
        all_count=True,
    ),
    "closed-set": Naive(asks=query, asked=gallery, all_count=True),
    "open-set": NOTHING,
    **{
        name: Naive(asks=query, asked=gallery, left_out=own)
        for name in (
            *("market-1501", "dukemtmc-reid", "msmt17", "cuhk03", "occluded-duke", "p-dukemtmc"),
            *("veri-wild-3000", "veri-wild-5000", "veri-wild-10000"),
            *("dukemtmc-videoreid", "ls-vid"),
        )
    },
    **{name: NOTHING for name in ("occluded-reid", "partial-reid", "partial-ilids")},
    **{name: Naive(asks=query, asked=gallery, draws=listed) for name in ("ilids-vid", "prid2011")},
    "cross-camera": Naive(asks=query, asked=gallery, left_out=own),
}


def figures(rule: Naive, rows: Sequence[Row], seed: int) -> dict[str, float]:
    """rank1, rank5, mAP and mINP: the mean over the draws."""
    asking = [row for row in rows if rule.asks(row) and row["person"] >= 0]
    asked = [row for row in rows if rule.asked(row) and row["person"] != -1]
    draws = rule.draws(asking, asked, seed) if rule.draws else [(asking, asked)]
    each = [_of_draw(rule, queries, found) for queries, found in draws]
    return {name: float(np.mean([figure[name] for figure in each])) for name in each[0]}


def _of_draw(rule: Naive, queries: Sequence[Row], found: Sequence[Row]) -> dict[str, float]:
    if rule.tracks:
        found = _as_tracks(found)
    sums = {"rank1": 0.0, "rank5": 0.0, "mAP": 0.0, "mINP": 0.0}
    counted = 0
    for q in queries:
        left = [g for g in found if q["number"] != g["number"] and not rule.left_out(q, g)]
        # Python sorts stably: ties stay in the order of the rows.
        ranked = sorted(left, key=lambda g: _distance(rule, q, g))
        right = [g["person"] == q["person"] for g in ranked]
        if not any(right):
            counted += rule.all_count
            if rule.unmatched_is_nan:
                sums["mAP"] = math.nan
            continue
        counted += 1
        first = right.index(True) + 1
        if rule.by_person:
            persons = list(dict.fromkeys(g["person"] for g in ranked))
            first = persons.index(q["person"]) + 1
        sums["rank1"] += first <= 1
        sums["rank5"] += first <= 5
        hits = [place for place, is_right in enumerate(right, start=1) if is_right]
        precisions = []
        for number, place in enumerate(hits, start=1):
            precision = number / place
            before = (number - 1) / (place - 1) if place > 1 else 1.0
            precisions.append((precision + before) / 2 if rule.trapezoid else precision)
        sums["mAP"] += sum(precisions) / len(hits)
        sums["mINP"] += len(hits) / hits[-1]
    return {name: total / counted if counted else math.nan for name, total in sums.items()}


def _distance(rule: Naive, q: Row, g: Row) -> float:
    if rule.tracks:
        return float(((q["feature"] - g["feature"]) ** 2).sum())
    return -float(q["feature"] @ g["feature"])


def _as_tracks(rows: Sequence[Row]) -> list[Row]:
    tracks = list(dict.fromkeys(row["track"] for row in rows))
    made = []
    for track in tracks:
        of = [row for row in rows if row["track"] == track]
        mean = np.mean([row["feature"] for row in of], axis=0)
        made.append(of[0] | {"feature": mean, "number": -1 - of[0]["number"]})
    return made
