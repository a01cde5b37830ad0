"""A table of images to a Manifest: what its columns mean, under their usual names or any."""

from __future__ import annotations

import datetime
import math
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from distreid.data.box_columns import box_columns
from distreid.data.image_files import LayoutRequest
from distreid.data.labels import (
    CAMERA,
    MISSING,
    MISSING_OR_NAME,
    PERSON,
    SPLIT_WORDS,
    WHOLE,
    Kind,
    Labels,
    is_date,
    labels_of,
    split_rows,
    taken_for_unknown,
)
from distreid.data.locators import plain_paths
from distreid.data.manifest import (
    CAMERA_NAME,
    PERSON_NAME,
    TIME,
    TRACKLET,
    VIEWPOINT,
    Manifest,
    build_manifest,
)
from distreid.data.roles import listed_twice, merged
from distreid.data.split_folders import LABEL_NAMES
from distreid.data.table_files import read_table
from distreid.data.table_text import IMAGE_NAME, Table
from distreid.errors import DataError

# What the columns are usually called; the first is our own name.
# Compared without capitals, spaces, hyphens and underscores.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "path": (
        *("path", "image", "file", "filename", "imgpath", "imagepath", "filepath", "impath"),
        *("img", "imagename", "imgname", "imagefile", "images"),
    ),
    "person_id": (
        *("personid", "pid", "id", "identity", "label", "name", "person", "personname"),
        *("identityid", "individual", "vehicleid", "vid"),
    ),
    "camera_id": ("cameraid", "camid", "cam", "camera", "cameraname", "camname"),
    "split": ("split", "set", "subset", "partition"),
    TIME: ("time", "timestamp", "datetime"),
    VIEWPOINT: ("viewpoint", "view", "viewid", "viewpointid"),
    TRACKLET: ("tracklet", "track", "trackletid", "trackid"),
}
NAMES = {"person_id": PERSON_NAME, "camera_id": CAMERA_NAME}
OWN = ("path", "person_id", "camera_id", "split")  # columns that every manifest has
# Of a list without a header: what the columns after the path are, in their order.
LIST_ORDER = ("person_id", "camera_id")
DATE = re.compile(r"(\d{8})(\.0*)?", flags=re.ASCII)  # as pandas writes 20260131 beside NaN, too
MOST_SECONDS = 1e11  # the year 5138; in milliseconds, 1973
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)


def table_manifest(file: Path, asked: LayoutRequest) -> Manifest:
    """A table's rows in their order. A relative path starts at the table's own folder.

    Columns are found under the names of `SYNONYMS`, or by `asked.columns` (meaning → header, or
    number of the column from 1); any other is kept as an extra column. Empty is "not known". What
    fits nothing is a DataError that names its line. An image listed as query and as gallery is one
    row.
    """
    by_number = bool(asked.columns) and all(name.isdigit() for name in asked.columns.values())
    manifest = manifest_of(read_table(file, has_header=False if by_number else None), asked)
    return merged(manifest, listed_twice(manifest))[0]


def manifest_of(
    table: Table, asked: LayoutRequest, *, wants_paths: bool = True, twice: bool = False
) -> Manifest:
    """A table that was read as a manifest; without a column of paths, and none wanted, a path is
    the row's number. With `twice` a path may be that of several rows, as of boxes that are alike.
    """
    file = table.file
    table = _without_index(table)
    _check_names(table, asked)
    if not wants_paths:
        table = _with_paths(table, asked)
    place = _meanings(table, asked.columns)
    columns = dict(zip(table.header, table.columns, strict=True))
    path = columns.pop(place["path"])
    _check_paths(table, path)
    notes = [*table.notes, *_said(table, place, asked)]
    if not table.has_header and (told := _told_by_names(table, path, place, columns)):
        notes.append(f"{' and '.join(told)}: from the names; --columns says otherwise")
        columns |= told
        place |= {meaning: meaning for meaning in told}
    labels: dict[str, Labels] = {}
    source_names: dict[str, str] = {}
    extra: dict[str, list[str]] = {}
    for meaning, kind in (("person_id", PERSON), ("camera_id", CAMERA)):
        if meaning not in place and NAMES[meaning] in place:
            place[meaning] = place.pop(NAMES[meaning])
        if meaning not in place:
            continue
        as_text = asked.ids == "text"
        found = labels_of(columns.pop(place[meaning]), kind, as_text=as_text, where=table.where)
        if (named := place.get(NAMES[meaning])) is not None:
            found = _with_names(table, found, columns.pop(named), kind)
            source_names[NAMES[meaning]] = named
        labels[meaning] = found
        notes += found.notes
        if found.names:
            extra[NAMES[meaning]] = found.names
    split = None
    if "split" in place:
        split, said = split_rows(
            columns.pop(place["split"]), asked.split_names, f"{file}: {place['split']}"
        )
        notes += [note.removeprefix(f"{file}: ") for note in said]
    elif asked.split_names:
        raise DataError(f"{file}: --split-names: which column? give --columns split=HEADER too")
    if TIME in place:
        times = columns.pop(place[TIME])
        notes += taken_for_unknown("time", Counter(times), MISSING | MISSING_OR_NAME)
        extra[TIME] = _seconds(table, place[TIME], times)
        source_names[TIME] = place[TIME]
    for name in (TRACKLET, VIEWPOINT):
        if name in place:
            extra[name] = _stripped(columns.pop(place[name]))
            source_names[name] = place[name]
    for meaning in sorted(place.keys() - SYNONYMS.keys() - {*NAMES.values()}):
        notes.append(f"{place[meaning]} is kept as the column {meaning}")
        extra[meaning] = _stripped(columns.pop(place[meaning]))
    for name in [*columns]:
        if name in extra or name in OWN:
            columns[f"{name}_in_table"] = columns.pop(name)
            notes.append(f"column {name} is kept as {name}_in_table: another one is that")
    if not twice and "box" not in columns:  # several boxes of a frame may be alike
        plain = {plain_name(name): name for name in columns}
        boxes = ", ".join(plain[name] for name in box_columns(plain))
        cure = f"images are taken whole; --data FOLDER --boxes {file.name} cuts out {boxes}"
        _check_paths_are_rows(table, path, split, cure if boxes else "leave out one of the two")
        notes += [cure] * bool(boxes)
    return build_manifest(
        root=file.parent,
        layout="csv",
        path=[os.fsencode(value) for value in path],
        person_id=labels["person_id"].numbers if "person_id" in labels else None,
        camera_id=labels["camera_id"].numbers if "camera_id" in labels else None,
        split=split,
        extra=extra | {name: _stripped(values) for name, values in columns.items()},
        source_names={name: source for name, source in source_names.items() if name != source},
        notes=tuple(notes),
    )


def _stripped(values: list[str]) -> list[str]:
    return [value.strip() for value in values]


def _without_index(table: Table) -> Table:
    """Without what pandas writes as a nameless first column, and without nameless empty ones."""
    dropped = [
        place
        for place, name in enumerate(table.header)
        if (place == 0 and len(table.header) > 1 and name in ("", "Unnamed: 0"))
        or (name == "" and not any(value.strip() for value in table.columns[place]))
    ]
    if not dropped or len(dropped) == len(table.header):
        return table
    kept = [place for place in range(len(table.header)) if place not in dropped]
    notes = ["the first column has no name, as an index of pandas: left out"] * (0 in dropped)
    return replace(
        table,
        header=[table.header[place] for place in kept],
        columns=[table.columns[place] for place in kept],
        notes=[*table.notes, *notes],
    )


def _with_paths(table: Table, asked: LayoutRequest) -> Table:
    if "path" in map(_canonical, asked.columns) or any(
        plain_name(n) in SYNONYMS["path"] for n in table.header
    ):
        return table
    rows = [f"row {row}" for row in range(len(table))]
    return replace(table, header=["path", *table.header], columns=[rows, *table.columns])


def _check_names(table: Table, asked: LayoutRequest) -> None:
    names, where = table.header, f"{table.file}, line 1"
    if "" in names or len(set(names)) < len(names):
        raise DataError(f"{where}: every column needs a name of its own: {names}")
    if bad := [n for n in [*names, *asked.columns] if "/" in n or "\0" in n or n in (".", "")]:
        raise DataError(f"{where}: a column's name cannot be '.' or hold '/': {bad}")


def _meanings(table: Table, asked: Mapping[str, str]) -> dict[str, str]:
    """Meaning → the header of its column. DataError if no column can be the path, or two can be
    one thing."""
    if wrong := [header for header in asked.values() if header not in table.header]:
        raise DataError(
            f"{table.file}, line 1: --columns: no column {wrong[0]}; there are {table.header}"
        )
    place = {_canonical(meaning): header for meaning, header in asked.items()}
    if len({*place.values()}) < len(asked):
        raise DataError(f"{table.file}, line 1: --columns: one thing or one column is said twice")
    free = [name for name in table.header if name not in place.values()]
    if not table.has_header:
        place |= _by_content(table, free, place)
    else:
        if not any(plain_name(name) in SYNONYMS["path"] for name in [*free, *place]):
            place |= _path_by_content(table, free)
        for meaning, synonyms in SYNONYMS.items():
            if meaning not in place:
                taken = place.values()
                found = [n for n in free if plain_name(n) in synonyms and n not in taken]
                place |= _chosen(table, meaning, found)
    if "path" not in place:
        raise DataError(
            f"{table.file}, line 1: no column named path; the header has {table.header}; say "
            "which, such as --columns path=HEADER, or by numbers without a header: --columns path=1"
        )
    return place


def _chosen(table: Table, meaning: str, found: list[str]) -> dict[str, str]:
    """Which of several columns it is: ours by its name, or a number and its name."""
    if not found:
        return {}
    if len(found) == 1:
        return {meaning: found[0]}
    if meaning in NAMES and (pair := _number_and_name(table, found)):
        return {meaning: pair[0], NAMES[meaning]: pair[1]}
    if meaning in found:
        return {meaning: meaning}
    raise DataError(
        f"{table.file}, line 1: {' and '.join(found)} could be {meaning}; say which: "
        f"--columns {meaning}={found[0]}"
    )


def _number_and_name(table: Table, found: list[str]) -> tuple[str, str] | None:
    """Of two columns, if one holds numbers, the other texts, and each number has one text."""
    if len(found) != 2:
        return None
    values = {name: table.columns[table.header.index(name)] for name in found}
    numeric = [name for name in found if all(map(_is_number, values[name]))]
    if len(numeric) != 1:
        return None
    number, name = numeric[0], next(each for each in found if each != numeric[0])
    pairs = set(zip(values[number], values[name], strict=True))
    if not len(pairs) == len(set(values[number])) == len(set(values[name])):
        return None
    return number, name


def _is_number(text: str) -> bool:
    return text.strip() in MISSING | MISSING_OR_NAME or WHOLE.fullmatch(text.strip()) is not None


def _by_content(table: Table, free: list[str], place: dict[str, str]) -> dict[str, str]:
    """Of a list without a header: the path is what ends as an image does, a column of words of
    the split is the split, and what is left is person and camera, in this order."""
    found: dict[str, str] = {}
    left = []
    for name in free:
        values = table.columns[table.header.index(name)]
        if "path" not in place | found and all(map(IMAGE_NAME.fullmatch, values)):
            found["path"] = name
        elif "split" not in place | found and {v.strip().lower() for v in values} <= {*SPLIT_WORDS}:
            found["split"] = name
        else:
            left.append(name)
    wanted = [meaning for meaning in LIST_ORDER if meaning not in place]
    return found | dict(zip(wanted, left, strict=False))


def _path_by_content(table: Table, free: list[str]) -> dict[str, str]:
    """The one column, under any name, whose values all end as images do."""
    found = [
        name
        for name in free
        if len(table) and all(map(IMAGE_NAME.fullmatch, table.columns[table.header.index(name)]))
    ]
    return {"path": found[0]} if len(found) == 1 else {}


def _told_by_names(
    table: Table, path: list[str], place: Mapping[str, str], columns: Mapping[str, list[str]]
) -> dict[str, list[str]]:
    """What a list without a header lacks of person and camera, if all names tell both, as those of
    Market-1501, VeRi and MSMT17 do, and no name tells another person than the list."""
    for pattern in LABEL_NAMES:
        matches = [pattern.match(value.rpartition("/")[2]) for value in path]
        if not all(matches) or "camera_id" in place:
            continue
        told = {
            meaning: [match[group] for match in matches if match]
            for meaning, group in (("person_id", "person"), ("camera_id", "camera"))
        }
        if "person_id" not in place:
            return told
        listed = columns[place["person_id"]]
        same = all(
            WHOLE.fullmatch(text) and float(text) == int(person)
            for text, person in zip(listed, told["person_id"], strict=True)
        )
        return {"camera_id": told["camera_id"]} if same else {}
    return {}


def _said(table: Table, place: Mapping[str, str], asked: LayoutRequest) -> list[str]:
    """What was taken for what, where it is not said by the file itself."""
    guessed = {
        meaning: name
        for meaning, name in place.items()
        if name not in asked.columns.values() and meaning != name
    }
    if not guessed and table.has_header:
        return []
    words = ", ".join(
        f"{meaning} is {'column ' if not table.has_header else ''}{name}"
        for meaning, name in guessed.items()
    )
    start = "" if table.has_header else "no header: "
    return [f"{start}{words or 'paths alone'}; --columns says otherwise"]


def _with_names(table: Table, labels: Labels, names: list[str], kind: Kind) -> Labels:
    """Numbers that have names in a second column; DataError if one number has two."""
    of: dict[int, tuple[str, int]] = {}
    for row, (number, name) in enumerate(zip(labels.numbers, names, strict=True)):
        first, at = of.setdefault(number, (name, row))
        if first != name:
            raise DataError(
                f"{table.where(row)}: {kind.what} {number} is {name!r}, but {first!r} in "
                f"{table.where(at)}; mend one, or say what the columns are by --columns"
            )
    pairs = zip(labels.numbers, names, strict=True)
    known = [
        name if number != kind.unknown and name not in MISSING else "" for number, name in pairs
    ]
    return replace(labels, names=known)


def _seconds(table: Table, column: str, values: Sequence[str]) -> list[str]:
    """Times as seconds since 1970: ISO 8601, UTC where no zone is given, or seconds."""
    found: dict[str, str] = {}
    unknown = MISSING | MISSING_OR_NAME
    for row, value in enumerate(values):
        if value not in found:
            try:
                found[value] = "" if value.strip() in unknown else seconds_since_1970(value.strip())
            except ValueError as error:
                raise DataError(
                    f"{table.where(row)}: {column} is {value!r}; {error}, or give --columns "
                    f"note={column}, which keeps it as it is"
                ) from error
    return [found[value] for value in values]


def seconds_since_1970(text: str) -> str:
    """Of ISO 8601, UTC where no zone is given, or of seconds; eight digits that are a date, such as
    20260131, are that date. ValueError says what else is wanted."""
    date = DATE.fullmatch(text)
    try:
        seconds = _seconds_of_iso(date[1]) if date and is_date(date[1]) else float(text)
    except ValueError:
        seconds = _seconds_of_iso(text)
    if not math.isfinite(seconds):
        raise ValueError("it must be ISO 8601, such as 2026-01-31T12:00:00, or seconds since 1970")
    if abs(seconds) > MOST_SECONDS:
        raise ValueError("it looks like milliseconds: divide by 1000 for seconds since 1970")
    return f"{seconds:.6f}".rstrip("0").rstrip(".")


def _seconds_of_iso(text: str) -> float:
    """NaN of what is no ISO 8601."""
    if is_date(text):  # Python 3.10 knows neither this form nor Z
        text = f"{text[:4]}-{text[4:6]}-{text[6:]}"
    try:
        time = datetime.datetime.fromisoformat(re.sub("[Zz]$", "+00:00", text))
        time = time if time.tzinfo else time.replace(tzinfo=datetime.timezone.utc)
        return (time - EPOCH).total_seconds()
    except (ValueError, OverflowError):
        return math.nan


def _check_paths(table: Table, path: list[str]) -> None:
    for row, value in enumerate(path):
        if not value or "\0" in value:
            raise DataError(f"{table.where(row)}: the path is empty or holds a NUL; mend the line")
    for name, values in zip(table.header, table.columns, strict=True):
        for row, value in enumerate(values):
            if "\0" in value:
                raise DataError(f"{table.where(row)}: {name} holds a NUL; mend the line")


def _check_paths_are_rows(
    table: Table, path: list[str], split: list[str] | None, cure: str
) -> None:
    """DataError for an image that a split has twice; query and gallery may share one."""
    plain = plain_paths(table.file.parent.absolute(), [os.fsencode(text) for text in path])
    if len(set(plain)) == len(path):
        return
    first: dict[tuple[bytes, str], int] = {}
    for row, key in enumerate(zip(plain, split or [""] * len(path), strict=True)):
        if (before := first.setdefault(key, row)) != row:
            raise DataError(
                f"{table.where(row)}: {path[row]!r} stands in {table.where(before)} already; {cure}"
            )


def _canonical(meaning: str) -> str:
    """Our own name of what a column is, which may be said by another of its names."""
    if meaning in SYNONYMS or meaning in NAMES.values():
        return meaning
    found = [ours for ours, names in SYNONYMS.items() if plain_name(meaning) in names]
    return found[0] if found else meaning


def plain_name(name: str) -> str:
    """`Person ID` as `personid`."""
    return re.sub(r"[\s_-]", "", name.lower())
