"""Trees of images without an arrangement of their own: by folder, by a pattern, or unlabelled."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from distreid.data.image_files import LayoutRequest, images, need
from distreid.data.labels import CAMERA, PERSON, Kind, Labels, labels_of, split_of, split_rows
from distreid.data.manifest import (
    BOTH,
    CAMERA_NAME,
    GALLERY,
    MULTI_QUERY,
    NO_SPLIT,
    PERSON_NAME,
    QUERY,
    Manifest,
    build_manifest,
)
from distreid.data.name_pattern import name_pattern
from distreid.data.split_folders import part_of
from distreid.errors import DataError, printable
from distreid.host.counts import counted

NAMED = {"person": (PERSON, PERSON_NAME), "camera": (CAMERA, CAMERA_NAME)}


def imagefolder(root: Path, asked: LayoutRequest) -> Manifest:
    """torchvision's ImageFolder: one folder per person, no cameras, no query.

    The folder's name is kept as `extra/class` too. A folder named like a split is no person:
    DataError.
    """
    paths, ignored = images(root)
    paths = [path for path in paths if b"/" in path]
    names = [os.fsdecode(path.split(b"/")[0]) for path in paths]
    if parts := sorted({name for name in names if part_of(name)}):
        raise DataError(
            f"{root}: folder {', '.join(map(printable, parts))} is no person; give --layout "
            "split_folders, or --pattern '(?P<person>[^/]+)/' if it is one"
        )
    labels = labels_of(names, PERSON, as_text=asked.ids == "text")
    return build_manifest(
        root=root,
        layout="imagefolder",
        path=paths,
        person_id=labels.numbers,
        extra={"class": [_text(os.fsencode(name)) for name in names]}
        | ({PERSON_NAME: labels.names} if labels.names else {}),
        notes=(f"{len(set(names)):,} folders taken for persons", *labels.notes, *ignored),
    )


def reid_imgs(root: Path, asked: LayoutRequest) -> Manifest:
    """`imgs/PERSON/`, as mmtracking and others arrange the crops of tracked persons: each image is
    query and gallery."""
    below = imagefolder(need(root, "imgs/", asked.layout), asked)
    return build_manifest(
        root=root,
        layout="reid_imgs",
        path=[b"imgs/" + path for path in below.path.tolist()],
        person_id=below.person_id.tolist(),
        split=[BOTH] * len(below),
        extra={
            name: [value.decode() for value in column.tolist()]
            for name, column in below.extra.items()
        },
        notes=below.notes,
    )


def folder(root: Path, asked: LayoutRequest) -> Manifest:
    """Any tree of images, without labels."""
    paths, ignored = images(root)
    return build_manifest(root=root, layout="folder", path=paths, notes=ignored)


def by_pattern(root: Path, asked: LayoutRequest) -> Manifest:
    """Images whose path below the root, with `/`, has the pattern somewhere (`re.search`).

    Groups `person` and `camera` are numbers, or names where one of them is none. Group `split` is
    a word of `SPLIT_WORDS` or of `asked.split_names`; without that group, the innermost folder in
    the path that is named by such a word tells. Any other group is kept as an extra column.
    OptionError if the pattern is wrong, DataError if it fits nothing or a split is not known.
    """
    pattern = name_pattern(asked.pattern)
    paths, ignored = images(root)
    matches = {path: match for path in paths if (match := pattern.search(path))}
    if paths and not matches:
        raise DataError(
            f"{root}: --pattern {asked.pattern} fits none of {counted(len(paths), 'image')} "
            f"(first: {os.fsdecode(paths[0])!r})"
        )
    notes = list(ignored)
    if unnamed := [path for path in paths if path not in matches]:
        first = os.fsdecode(unnamed[0])
        notes.append(
            f"{counted(len(unnamed), 'image')} ignored that the pattern does not fit ({first!r})"
        )
    if minus := sum(map(_minus_left_out, matches.values())):
        notes.append(
            f"{counted(minus, 'image begins', 'images begin')} with -, and the pattern takes the "
            "digits alone: for junk (-1) write (?P<person>-1|\\d+)"
        )
    groups = {
        name: [match[name] or b"" for match in matches.values()] for name in pattern.groupindex
    }
    numbers: dict[str, list[int]] = {}
    extra: dict[str, list[str]] = {}
    for name, (kind, column) in NAMED.items():
        if name in groups:
            found = _labels(groups.pop(name), kind, asked)
            numbers[name] = found.numbers
            notes += found.notes
            if found.names:
                extra[column] = found.names
    if "split" in groups:
        words = [os.fsdecode(word) for word in groups.pop("split")]
        splits, said = split_rows(words, asked.split_names, f"{root}: the pattern's group split")
        notes += [note.removeprefix(f"{root}: ") for note in said]
    else:
        parts = {part for path in matches for part in os.fsdecode(path).split("/")[:-1]}
        if absent := asked.split_names.keys() - parts:
            raise DataError(f"{root}: --split-names: no folder {', '.join(sorted(absent))}")
        splits = [_folder_split(os.fsdecode(path), asked.split_names) for path in matches]
    notes += [f"the pattern's group {name} is kept as a column" for name in groups]
    return build_manifest(
        root=root,
        layout="pattern",
        path=list(matches),
        person_id=numbers.get("person"),
        camera_id=numbers.get("camera"),
        split=splits,
        extra=extra | {name: [_text(value) for value in values] for name, values in groups.items()},
        source_names={column: name for name, (_, column) in NAMED.items() if column in extra},
        notes=tuple(notes),
    )


def _minus_left_out(match: re.Match[bytes]) -> bool:
    """Whether a name begins with a minus sign, which the person that follows it lost."""
    before = match.string[: match.start("person")] if "person" in match.re.groupindex else b""
    return os.path.basename(before) == b"-"


def _labels(texts: list[bytes], kind: Kind, asked: LayoutRequest) -> Labels:
    return labels_of([os.fsdecode(text) for text in texts], kind, as_text=asked.ids == "text")


def _folder_split(path: str, split_names: Mapping[str, str]) -> str:
    """By the innermost folder that is named like query or gallery, or as was said; else none."""
    for part in reversed(path.split("/")[:-1]):
        split = split_of(part, split_names)
        if part in split_names or split in (QUERY, GALLERY, MULTI_QUERY):
            return split or NO_SPLIT
    return NO_SPLIT


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")
