"""Archives that tell their labels themselves: WebDataset's tars, Parquet and Arrow with images."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from distreid.data import json_text
from distreid.data.archive_tree import ArchiveTree, ShardFolder
from distreid.data.archives import in_archive_order, read_member
from distreid.data.arrow_files import ArrowFile
from distreid.data.image_files import IMAGE_SUFFIXES, LayoutRequest
from distreid.data.image_table import SYNONYMS, manifest_of, plain_name
from distreid.data.locators import ARROW, kind_of, locate
from distreid.data.manifest import Manifest
from distreid.data.table_text import Table
from distreid.errors import DataError, ImageError, printable
from distreid.host.counts import counted

LABELS = (b".json", b".cls")
PATH_NAMES, PERSON_NAMES = SYNONYMS["path"], SYNONYMS["person_id"]
LABEL_LIMIT = 1 << 20  # bytes of one image's labels


def webdataset(root: Path, asked: LayoutRequest) -> Manifest:
    """WebDataset: images with a `.json` of labels or a `.cls` with a number beside them, which
    share the name up to its first dot. Of several images of one `1.json`, `1.jpg` is a row and
    `1.mask.png` is none; where none is named so, each is. Single values of the .json are columns,
    found under their usual names or by `--columns`; a `.cls` is the person where nothing else is.

    Rows lie in the order of the archives. DataError for a .json or .cls that is none.
    """
    names = _tree(root).relative_names()
    beside = _label_members(root, names)
    archives = list(root.archives) if isinstance(root, ShardFolder) else [locate(root).file]
    number_of = {os.fsencode(archive.name): place for place, archive in enumerate(archives)}
    images, notes = _pictures(names, {key for key, _ in beside})
    inside = [_archive_and_name(root, name, number_of) for name in images]
    order = in_archive_order(archives, inside)
    records: list[dict[str, Any]] = []
    without = 0
    for place in order:
        key = _key(images[place])
        number, _ = inside[place]
        record: dict[str, Any] = {}
        for ending in LABELS:
            if (key, ending) in beside:
                _, member = _archive_and_name(root, beside[key, ending], number_of)
                record |= _labels(archives[number], os.fsdecode(member), ending)
        without += not any((key, ending) in beside for ending in LABELS)
        records.append(record)
    columns = dict.fromkeys(name for record in records for name in record)
    values = {name: [_text(record.get(name)) for record in records] for name in columns}
    if "cls" in values and not any(name in asked.columns.values() for name in ("cls",)):
        asked = _with_person(asked, values, "cls")
    paths = [os.fsdecode(images[place]) for place in order]
    if without:
        images_without = counted(without, "image")
        notes.append(f"{images_without} without a .json or a .cls: nothing is told of them")
    return _table_manifest(root, "webdataset", paths, values, notes, asked)


def image_column(root: Path, asked: LayoutRequest) -> Manifest:
    """Parquet or Arrow files with a column of images, as Hugging Face's data sets have; the other
    columns as those of a table. Rows lie in the files' order. DataError without such a column."""
    several = isinstance(root, ShardFolder)
    files = list(root.archives) if isinstance(root, ShardFolder) else [locate(root).file]
    paths: list[str] = []
    values: dict[str, list[str]] = {}
    left_out: dict[str, None] = {}
    for file in files:
        rows = ArrowFile(file)
        column = rows.image_column()
        if column is None:
            raise DataError(f"{file}: no column of images' bytes; check --layout")
        flat, others = rows.flat_columns(column)
        left_out |= dict.fromkeys(others)
        before = f"{file.name}#/" if several else ""
        for name in flat:
            values.setdefault(name, [""] * len(paths))
        paths += [f"{before}{column}/{row:08d}" for row in range(len(rows))]
        for name, column_values in values.items():
            texts = flat.get(name, [None] * len(rows))
            column_values += map(_text, texts)
    notes = [f"columns left out that are no single values: {', '.join(left_out)}"]
    return _table_manifest(root, "image_column", paths, values, notes if left_out else [], asked)


def recognise_members(root: Path) -> str:
    """`webdataset` or `image_column`, if it is one of these; else empty."""
    if isinstance(root, ShardFolder):
        kinds = {kind_of(archive) for archive in root.archives}
        if ARROW in kinds:
            return "image_column"
    elif isinstance(root, ArchiveTree):
        if kind_of(locate(root).file) == ARROW:
            return "image_column"
    else:
        return ""
    names = root.relative_names()
    labels = {_key(name) for name in names if name.lower().endswith(LABELS)}
    images = (name for name in names if name.lower().endswith(IMAGE_SUFFIXES))
    return "webdataset" if labels and any(_key(name) in labels for name in images) else ""


def is_table(file: Path) -> bool:
    """Whether a Parquet file has no images in it."""
    if file.suffix.lower() != ".parquet" or not file.is_file():
        return False
    rows = ArrowFile(file)
    return rows.image_column() is None


def _tree(root: Path) -> ArchiveTree | ShardFolder:
    if isinstance(root, (ArchiveTree, ShardFolder)):
        return root
    raise DataError(f"{root}: --layout webdataset reads tar files, and this is none")


def _archive_and_name(root: Path, name: bytes, number_of: Mapping[bytes, int]) -> tuple[int, bytes]:
    """Which archive a name below the root lies in, and what it is called there."""
    if isinstance(root, ShardFolder):
        archive, _, member = name.partition(b"#/")
        return number_of[archive], member
    folder = os.fsencode(locate(root).member or "")
    return 0, folder + b"/" + name if folder else name


def _key(name: bytes) -> bytes:
    """What the parts of one sample share: the path up to the first dot of the file's name."""
    folder, slash, file = name.rpartition(b"/")
    return folder + slash + file.partition(b".")[0]


def _pictures(names: list[bytes], labelled: set[bytes]) -> tuple[list[bytes], list[str]]:
    """The images that are rows, and notes on samples that have several."""
    images = [name for name in names if name.lower().endswith(IMAGE_SUFFIXES)]
    plain = {_key(name) for name in images if name.rpartition(b"/")[2].count(b".") == 1}
    pictured = plain & labelled
    beside = {n for n in images if (key := _key(n)) in pictured and n.rpartition(b".")[0] != key}
    kept = [name for name in images if name not in beside]
    notes = []
    if beside:
        left_out, first = counted(len(beside), "image"), printable(os.fsdecode(min(beside)))
        notes.append(f"{left_out} left out that lie beside that of a sample (first: {first})")
    counts = Counter(key for name in kept if (key := _key(name)) in labelled)
    if several := [key for key, count in counts.items() if count > 1]:
        samples, first = counted(len(several), "sample"), printable(os.fsdecode(min(several)))
        notes.append(f"{samples} with several images: each is a row (first: {first})")
    return kept, notes


def _label_members(root: Path, names: list[bytes]) -> dict[tuple[bytes, bytes], bytes]:
    """The labels of a sample, by what its parts share and their ending in small letters."""
    found: dict[tuple[bytes, bytes], bytes] = {}
    for name in names:
        for ending in LABELS:
            if not name.lower().endswith(ending):
                continue
            if (other := found.setdefault((_key(name), ending), name)) != name:
                both = " and ".join(os.fsdecode(each) for each in (other, name))
                raise DataError(
                    f"{root}: {both} are labels of one image; pack the one that is meant"
                )
    return found


def _labels(archive: Path, member: str, ending: bytes) -> dict[str, Any]:
    try:
        text = read_member(archive, member, LABEL_LIMIT).decode("utf-8-sig")
        if ending == b".cls":
            return {"cls": int(text)}
        content = json_text.loads(text)
    except (ValueError, RecursionError, ImageError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"{archive}#/{member}: no labels ({reason}); mend it") from error
    if not isinstance(content, dict):
        raise DataError(f'{archive}#/{member}: no record of labels, such as {{"pid": 7}}')
    single = (pair for pair in content.items() if not isinstance(pair[1], (list, dict)))
    return {str(key): value for key, value in single}


def _with_person(
    asked: LayoutRequest, values: Mapping[str, list[str]], column: str
) -> LayoutRequest:
    """With the column as the person, unless another one is it."""
    if "person_id" in asked.columns or any(
        name in PERSON_NAMES for name in map(plain_name, values)
    ):
        return asked
    return replace(asked, columns={**asked.columns, "person_id": column})


def _table_manifest(
    root: Path,
    layout: str,
    paths: list[str],
    values: dict[str, list[str]],
    notes: list[str],
    asked: LayoutRequest,
) -> Manifest:
    for name in [name for name in values if plain_name(name) in PATH_NAMES]:
        values[f"{name}_in_archive"] = values.pop(name)  # of the file before it was packed
    table = Table(
        file=root,
        header=["path", *values],
        columns=[paths, *values.values()],
        places=paths,
        notes=notes,
    )
    return replace(manifest_of(table, asked), root=root, layout=layout)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
