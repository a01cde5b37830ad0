"""Data without a layout of its own: trees of images, a CSV, names by a regular expression."""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path

from distreid.datasets.files import Asked, images, numbers
from distreid.errors import DataError, OptionError
from distreid.manifest import (
    GALLERY,
    JUNK,
    MULTI_QUERY,
    NO_CAMERA,
    NO_PERSON,
    NO_SPLIT,
    QUERY,
    Manifest,
    build_manifest,
)

# Every row of a column takes as many bytes as its longest. Linux opens no longer path either.
FIELD_LIMIT = 4096

SPLIT_WORDS = {
    b"query": QUERY,
    b"probe": QUERY,
    b"gallery": GALLERY,
    b"test": GALLERY,
    b"multi-query": MULTI_QUERY,
}


def imagefolder(root: Path, asked: Asked) -> Manifest:
    """torchvision's ImageFolder: one folder per person, no cameras, no query.

    A person is the number that the folder is named by, if all are numbers,
    else the folder's place in the sorted names; the name is kept as `extra/class`.
    """
    paths, ignored = images(root)
    paths = [path for path in paths if b"/" in path]
    names = [path.split(b"/")[0] for path in paths]
    person_id, how = numbers(names)
    folders = f"{len(set(names))} folders taken for persons; person_id holds {how} of their names"
    return build_manifest(
        root=root,
        layout="imagefolder",
        path=paths,
        person_id=person_id,
        extra={"class": [name.decode("utf-8", "backslashreplace") for name in names]},
        notes=(folders, *ignored),
    )


def folder(root: Path, asked: Asked) -> Manifest:
    """Any tree of images, without labels."""
    paths, ignored = images(root)
    return build_manifest(root=root, layout="folder", path=paths, notes=ignored)


def by_pattern(root: Path, asked: Asked) -> Manifest:
    """Images whose path below the root, with `/`, has the pattern somewhere (`re.search`).

    Groups `person` and `camera` become numbers as for an ImageFolder. Group `split` is a word
    of `SPLIT_WORDS` or one of your own, which is kept; without that group, a folder in the path
    that is named by such a word tells. Any other group is kept as an extra column, and so are
    the texts of persons and cameras that are no numbers. OptionError if the pattern is wrong,
    DataError if it fits nothing.
    """
    pattern = _compiled(asked.pattern)
    paths, ignored = images(root)
    matches = {path: match for path in paths if (match := pattern.search(path))}
    if paths and not matches:
        raise DataError(
            f"{root}: --pattern {asked.pattern} fits none of {len(paths):,} images "
            f"(first: {os.fsdecode(paths[0])!r})"
        )
    notes = list(ignored)
    if unnamed := [path for path in paths if path not in matches]:
        first = os.fsdecode(unnamed[0])
        notes.append(f"{len(unnamed):,} images ignored that the pattern does not fit ({first!r})")
    if minus := sum(map(_minus_left_out, matches.values())):
        notes.append(
            f"{minus:,} images begin with -, and the pattern takes the digits alone: for junk (-1) "
            "write (?P<person>-1|\\d+)"
        )
    groups = {
        name: [match[name] or b"" for match in matches.values()] for name in pattern.groupindex
    }
    labels = {
        "person": _label(groups, "person", NO_PERSON, notes),
        "camera": _label(groups, "camera", NO_CAMERA, notes),
    }
    if "split" in groups:
        splits = [SPLIT_WORDS.get(word.lower(), os.fsdecode(word)) for word in groups.pop("split")]
    else:
        splits = [_folder_split(path) for path in matches]
    return build_manifest(
        root=root,
        layout="pattern",
        path=list(matches),
        person_id=labels["person"],
        camera_id=labels["camera"],
        split=splits,
        extra={name: [_text(value) for value in values] for name, values in groups.items()},
        notes=tuple(notes),
    )


def _minus_left_out(match: re.Match[bytes]) -> bool:
    """Whether a name begins with a minus sign, which the person that follows it lost."""
    before = match.string[: match.start("person")] if "person" in match.re.groupindex else b""
    return os.path.basename(before) == b"-"


def _compiled(pattern: str) -> re.Pattern[bytes]:
    try:
        compiled = re.compile(os.fsencode(pattern))
    except (re.error, ValueError, OverflowError) as error:
        raise OptionError(f"--pattern {pattern}: {error}") from error
    if not compiled.groupindex:
        raise OptionError(
            f"--pattern {pattern}: no named group; write for example "
            r"(?P<person>\d+)_c(?P<camera>\d+)"
        )
    return compiled


def _label(
    groups: dict[str, list[bytes]], name: str, unknown: int, notes: list[str]
) -> list[int] | None:
    """The group as numbers; taken out of `groups` if its texts are numbers already."""
    if name not in groups:
        return None
    texts = groups[name]
    known, how = numbers([text for text in texts if text])
    notes.append(f"{name}_id holds {how} of the group {name}")
    if how == "the numbers":
        del groups[name]
    number = iter(known)
    return [next(number) if text else unknown for text in texts]


def _folder_split(path: bytes) -> str:
    """By the innermost folder that is named like a split; else none."""
    words = [SPLIT_WORDS[part] for part in path.lower().split(b"/")[:-1] if part in SPLIT_WORDS]
    return words[-1] if words else NO_SPLIT


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")


def csv_manifest(file: Path, asked: Asked) -> Manifest:
    """A CSV with a header: path, and as you have them person_id, camera_id, split, anything else.

    A relative path starts at the CSV's own folder. An empty person_id or camera_id is
    "not known". The rows keep the file's order. A line that does not fit is an error
    that names it.
    """
    columns: dict[str, list[str]] = {}
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            header = _csv_header(file, next(reader, []))
            columns = {name: [] for name in header}
            for fields in reader:
                if not fields:  # a blank line
                    continue
                _csv_check(file, reader.line_num, header, fields)
                for name, value in zip(header, fields, strict=True):
                    columns[name].append(value)
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 ({error.reason} at byte {error.start})") from error
    except csv.Error as error:
        raise DataError(f"{file}, line {reader.line_num}: {error}; mend the quoting") from error
    path = [os.fsencode(value) for value in columns.pop("path")]
    person = [int(value or NO_PERSON) for value in columns.pop("person_id", [])]
    camera = [int(value or NO_CAMERA) for value in columns.pop("camera_id", [])]
    return build_manifest(
        root=file.parent,
        layout="csv",
        path=path,
        person_id=person or None,
        camera_id=camera or None,
        split=columns.pop("split", None),
        extra=columns,
    )


def _csv_header(file: Path, header: list[str]) -> list[str]:
    names = [name.strip() for name in header]
    if "path" not in names:
        raise DataError(f"{file}, line 1: no column named path; the header has {names}")
    if "" in names or len(set(names)) < len(names):
        raise DataError(f"{file}, line 1: every column needs a name of its own: {names}")
    if bad := [name for name in names if "/" in name or "\0" in name or name == "."]:
        raise DataError(f"{file}, line 1: a column's name cannot be '.' or hold '/': {bad}")
    return names


def _csv_check(file: Path, line: int, header: list[str], fields: list[str]) -> None:
    if len(fields) != len(header):
        raise DataError(
            f"{file}, line {line}: {len(fields)} fields, the header has {len(header)}; "
            "mend the line"
        )
    if len(max(fields, key=len)) > FIELD_LIMIT:
        raise DataError(f"{file}, line {line}: a field of more than {FIELD_LIMIT:,} characters")
    row = dict(zip(header, fields, strict=True))
    if not row["path"] or "\0" in "".join(fields):
        raise DataError(f"{file}, line {line}: the path is empty or holds a NUL; mend the line")
    for name, least in (("person_id", JUNK), ("camera_id", 0)):
        value = row.get(name, "")
        if value and not (re.fullmatch(r"-?\d{1,18}", value) and int(value) >= least):
            raise DataError(
                f"{file}, line {line}: {name} is {value!r}; it must be a whole number from "
                f"{least}, or empty"
            )
