"""Ranked lists as files: CSV, JSON, Parquet, plain text, and the AI City Challenge's form."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from distreid.data.manifest import Manifest
from distreid.errors import DataError, OptionError
from distreid.evaluation.ranked_lists import RankedList, Rankings
from distreid.host.atomic_files import publish
from distreid.host.counts import counted
from distreid.store import FeatureStore

COLUMNS = ("query", "rank", "image", "score")
LISTS_AT_ONCE = 1 << 10  # of a Parquet row group

Lists = Iterable[RankedList]
Name = Callable[[int], str]
"""A manifest row's name in the file."""


def write_rankings(
    store: FeatureStore, rankings: Rankings, kind: str, file: Path, top: int
) -> list[str]:
    """Writes the lists one after another, in the rows' original names, so that memory is bounded
    whatever their number; gives what a person should know of the file.

    DataError where the form cannot hold the names, before anything is ranked.
    """
    manifest = store.manifest
    checked = CHECKS.get(kind, _as_they_are)(manifest, rankings)
    shortest = [top]
    lines = [0]

    def noted() -> Iterator[RankedList]:
        for each in rankings.lists:
            shortest[0] = min(shortest[0], len(each.rows))
            lines[0] += 1
            yield each

    publish(file, lambda aside: WRITERS[kind](aside, noted(), checked))
    queries, images = counted(lines[0], "query", "queries"), len(rankings.gallery)
    said = [f"{queries}, the first {min(top, images):,} of {counted(images, 'image')} each"]
    if shortest[0] < top:
        said.append(f"the shortest list has {shortest[0]:,}: the gallery holds no more for it")
    return said


def _as_they_are(manifest: Manifest, rankings: Rankings) -> Name:
    return lambda row: os.fsdecode(manifest.path[row])


def _without_spaces(manifest: Manifest, rankings: Rankings) -> Name:
    """Names that are separated by spaces."""
    for row, path in enumerate(manifest.path.tolist()):
        if len(path.split()) != 1:
            raise DataError(
                f"{manifest.file(row)}: a name with a space, by which --format txt separates; "
                "take --format csv"
            )
    return _as_they_are(manifest, rankings)


def _numbers(manifest: Manifest, rankings: Rankings) -> Name:
    """Names without folder and ending, each once, and numbers as the challenge's images have."""
    first: dict[str, int] = {}
    for row in rankings.gallery.tolist():
        name = Path(os.fsdecode(manifest.path[row])).stem
        if not name.isdigit():
            raise DataError(
                f"{manifest.file(row)}: --format aicity wants images named by numbers, such as "
                "000001.jpg; take --format txt"
            )
        if (before := first.setdefault(name, row)) != row:
            raise DataError(
                f"{manifest.file(row)}: {manifest.file(before)} has the same number; in --format "
                "aicity each image has one of its own"
            )
    return lambda row: Path(os.fsdecode(manifest.path[row])).stem


def _in_utf_8(name: Name) -> Name:
    """Names of other bytes with these escaped, where a file can hold UTF-8 alone."""
    return lambda row: os.fsencode(name(row)).decode("utf-8", "backslashreplace")


def _texts(write: Callable[[TextIO, Lists, Name], None]) -> Callable[[Path, Lists, Name], None]:
    def written(file: Path, lists: Lists, name: Name) -> None:
        with file.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
            write(stream, lists, name)

    return written


def _csv(stream: TextIO, lists: Lists, name: Name) -> None:
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for each in lists:
        query = name(each.query)
        pairs = zip(each.rows.tolist(), each.scores.tolist(), strict=True)
        writer.writerows(
            (query, rank, name(row), f"{score:.7g}")
            for rank, (row, score) in enumerate(pairs, start=1)
        )


def _json(stream: TextIO, lists: Lists, name: Name) -> None:
    """An array with an object for each query, a line each."""
    name = _in_utf_8(name)
    separator = "[\n"
    for each in lists:
        content: dict[str, Any] = {
            "query": name(each.query),
            "images": [name(row) for row in each.rows.tolist()],
            "scores": [float(f"{score:.7g}") for score in each.scores.tolist()],
        }
        stream.write(separator + json.dumps(content))
        separator = ",\n"
    stream.write("\n]\n" if separator == ",\n" else "[]\n")


def _txt(stream: TextIO, lists: Lists, name: Name) -> None:
    """A line for each query: its name, and those it finds."""
    for each in lists:
        stream.write(" ".join([name(each.query), *map(name, each.rows.tolist())]) + "\n")


def _aicity(stream: TextIO, lists: Lists, name: Name) -> None:
    """A line for each query, in their order: the numbers of the images that it finds."""
    for each in lists:
        stream.write(" ".join(map(name, each.rows.tolist())) + "\n")


def _parquet(file: Path, lists: Lists, name: Name) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise OptionError("pyarrow is not there: pip install 'distreid[tables]'") from error
    schema = pyarrow.schema(
        [("query", pyarrow.string()), ("rank", pyarrow.int32()), ("image", pyarrow.string()),
         ("score", pyarrow.float32())]
    )  # fmt: skip
    name, left = _in_utf_8(name), iter(lists)
    with parquet.ParquetWriter(file, schema) as writer:
        while some := list(islice(left, LISTS_AT_ONCE)):
            ranks: NDArray[np.int32] = np.concatenate(
                [np.arange(1, len(each.rows) + 1, dtype=np.int32) for each in some]
            )
            columns = {
                "query": [q for each in some for q in [name(each.query)] * len(each.rows)],
                "rank": ranks,
                "image": list(chain.from_iterable(map(name, each.rows.tolist()) for each in some)),
                "score": np.concatenate([each.scores for each in some]).astype(np.float32),
            }
            writer.write_table(pyarrow.table(columns, schema=schema))


WRITERS: dict[str, Callable[[Path, Lists, Name], None]] = {
    "csv": _texts(_csv),
    "json": _texts(_json),
    "parquet": _parquet,
    "aicity": _texts(_aicity),
    "txt": _texts(_txt),
}
CHECKS = {"aicity": _numbers, "txt": _without_spaces}
