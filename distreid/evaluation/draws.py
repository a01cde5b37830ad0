"""The draws of a benchmark, as its own code makes them: who asks and who is asked in each."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from distreid.data.image_files import in_order
from distreid.data.manifest import Manifest
from distreid.data.vehicles import LIST_PLACE
from distreid.errors import DataError
from distreid.evaluation.conditions import need_column, texts
from distreid.evaluation.protocols.rule import Benchmark, Draw
from distreid.evaluation.ranking import View


def views_of(
    manifest: Manifest, benchmark: Benchmark, rows_Q: NDArray[np.intp], rows_G: NDArray[np.intp]
) -> list[View]:
    """A view for each draw from these manifest rows; none without draws. DataError names the column
    that lacks: nothing is drawn without paths, for they tell the order."""
    draw = benchmark.draw
    if draw is None:
        return []
    if draw.how == "listed":
        need_column(manifest, draw.listed, benchmark.name)
        numbers = [frozenset(each) for each in _whole_numbers(manifest, draw.listed)]
        return [
            _view(
                np.array([t in numbers[row] for row in rows_Q], np.bool_),
                np.array([t in numbers[row] for row in rows_G], np.bool_),
            )
            for t in range(1, draw.times + 1)
        ]
    if not has_paths(manifest):
        raise DataError(
            f"{manifest.place}: {benchmark.name} needs a column path: by the paths it is drawn"
        )
    for column in draw.each:
        need_column(manifest, column, benchmark.name)
    if draw.listed and draw.listed in manifest.extra:
        chosen = _by_permutations(manifest, draw, rows_G)
    else:
        chosen = _drawn(manifest, draw, benchmark.counting.seed, rows_G)
    views = []
    for rows in chosen:
        in_gallery = np.isin(rows_G, rows)
        asking = ~np.isin(rows_Q, rows) if draw.rest_asks else np.ones(len(rows_Q), np.bool_)
        views.append(_view(asking, in_gallery))
    return views


def has_paths(manifest: Manifest) -> bool:
    """Whether the rows have paths, and not only numbers in their place."""
    numbered = [f"row {row}".encode() for row in range(min(2, len(manifest)))]
    return bool(manifest.path[: len(numbered)].tolist() != numbered)


def _view(asking: NDArray[np.bool_], in_gallery: NDArray[np.bool_]) -> View:
    return View(queries=np.flatnonzero(asking), rows=np.flatnonzero(in_gallery))


def _groups(manifest: Manifest, draw: Draw, rows: NDArray[np.intp]) -> list[list[int]]:
    """The rows group by group, in the order in which they are drawn from."""
    keys = list(zip(*[_numbers(manifest, name)[rows].tolist() for name in draw.each], strict=True))
    place = {row: place for place, row in enumerate(_in_order(manifest, draw, rows))}
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, key in sorted(zip(rows.tolist(), keys, strict=True), key=lambda each: place[each[0]]):
        groups.setdefault(key, []).append(row)
    return [groups[key] for key in sorted(groups)] if draw.order == "number" else [*groups.values()]


def _in_order(manifest: Manifest, draw: Draw, rows: NDArray[np.intp]) -> list[int]:
    if draw.order != "list":
        return sorted(rows.tolist(), key=lambda row: (in_order(bytes(manifest.path[row])), row))
    if LIST_PLACE in manifest.extra:
        place = [number[0] if number else 0 for number in _whole_numbers(manifest, LIST_PLACE)]
        return sorted(rows.tolist(), key=lambda row: place[row])
    listed: list[int] = rows.tolist()
    return listed


def _numbers(manifest: Manifest, name: str) -> NDArray[np.int64]:
    """Persons and cameras by their numbers; other values by their place in sorted order."""
    if name in ("person", "person_id"):
        return manifest.person_id
    if name in ("camera", "camera_id"):
        return manifest.camera_id
    return np.unique(texts(manifest, name), return_inverse=True)[1].astype(np.int64)


def _drawn(
    manifest: Manifest, draw: Draw, seed: int, rows: NDArray[np.intp]
) -> Iterator[list[int]]:
    generator = random.Random(seed)
    groups = _groups(manifest, draw, rows)
    listed = _in_order(manifest, draw, rows)
    group_of = {row: place for place, group in enumerate(groups) for row in group}
    for trial in range(draw.times):
        if draw.seeded == "each":
            generator = random.Random(seed + trial)
        if draw.how == "shuffle":
            shuffled = listed.copy()
            generator.shuffle(shuffled)
            taken: dict[int, list[int]] = {}
            for row in shuffled:
                if len(its := taken.setdefault(group_of[row], [])) < draw.take:
                    its.append(row)
            yield [row for its in taken.values() for row in its]
        elif draw.take == 1:
            yield [generator.choice(group) for group in groups]
        else:
            some = (generator.sample(group, min(draw.take, len(group))) for group in groups)
            yield [row for group in some for row in group]


def _whole_numbers(manifest: Manifest, column: str) -> list[list[int]]:
    """Those of each row, which spaces separate; DataError for anything else."""
    found = []
    for row, text in enumerate(manifest.extra[column].tolist()):
        try:
            found.append([int(number) for number in text.split()])
        except ValueError:
            raise DataError(
                f"{manifest.place}, row {row}: {column} is {os.fsdecode(text)!r}; whole numbers, "
                "separated by spaces, are wanted"
            ) from None
    return found


def _by_permutations(manifest: Manifest, draw: Draw, rows: NDArray[np.intp]) -> Iterator[list[int]]:
    """By the data set's own: of each draw a row's place in the permutation of its group, from 1."""
    numbers = _whole_numbers(manifest, draw.listed)
    places = {row: numbers[row] for row in rows.tolist()}
    for trial in range(draw.times):
        yield [
            row for row, its in places.items() if trial < len(its) and 1 <= its[trial] <= draw.take
        ]
