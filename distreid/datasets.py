"""From a folder or a CSV to a Manifest: one function per published layout.

Files are sorted by the bytes of their path, folder by folder, so that every machine
sees one order. Nothing is opened: a file that is no image is found at extraction.
To add a layout, write its function and add a line to `LAYOUTS`.
"""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from distreid.errors import DataError, printable
from distreid.manifest import (
    DISTRACTOR,
    GALLERY,
    JUNK,
    MULTI_QUERY,
    NO_CAMERA,
    NO_PERSON,
    QUERY,
    Manifest,
    build_manifest,
)

SAMPLE = "sample"
SAMPLE_FOLDER = Path(__file__).parent / "sample" / "market"

# torchvision's IMG_EXTENSIONS, so that a folder holds the same images for both.
IMAGE_SUFFIXES = (
    b".jpg",
    b".jpeg",
    b".png",
    b".ppm",
    b".bmp",
    b".pgm",
    b".tif",
    b".tiff",
    b".webp",
)

# Every row of a column takes as many bytes as its longest. Linux opens no longer path either.
FIELD_LIMIT = 4096

# torchreid: `([-\d]+)_c(\d)`. Duke's 0005_c2_f0046985.jpg fits too.
MARKET_NAME = re.compile(rb"(-?\d{1,18})_c(\d{1,18})")  # of 18 digits, which int64 holds
# Person_reID_baseline_pytorch: the first four characters, and the digit after the first "c".
LAYUMI_NAME = re.compile(rb"(-1|\d{4})[^c]*c(\d)")


def market1501(root: Path, multi_query: bool = False) -> Manifest:
    """Market-1501 and DukeMTMC-reID as distributed: `query/`, `bounding_box_test/`, `gt_bbox/`.

    Junk (-1) and distractors (0000) are kept as rows; the evaluation treats them.
    """
    parts = {QUERY: "query", GALLERY: "bounding_box_test"}
    if multi_query:
        parts[MULTI_QUERY] = "gt_bbox"
    return _named(root, "market1501", parts, MARKET_NAME, "0001_c1s1_000151_00.jpg")


def layumi(root: Path, multi_query: bool = False) -> Manifest:
    """Person_reID_baseline_pytorch's own: `query/PID/`, `gallery/PID/`, `multi-query/PID/`."""
    parts = {QUERY: "query", GALLERY: "gallery"}
    if multi_query:
        parts[MULTI_QUERY] = "multi-query"
    return _named(root, "layumi", parts, LAYUMI_NAME, "0001_c1s1_000151_00.jpg")


def imagefolder(root: Path, multi_query: bool = False) -> Manifest:
    """torchvision's ImageFolder: one folder per person, no cameras, no query.

    A person is the number that the folder is named by, if all are numbers,
    else the folder's place in the sorted names; the name is kept as `extra/class`.
    """
    paths, ignored = _images(root)
    paths = [path for path in paths if b"/" in path]
    names = [path.split(b"/")[0] for path in paths]
    classes = sorted(set(names))
    if all(re.fullmatch(rb"-1|\d{1,18}", name) for name in classes):
        number = {name: int(name) for name in classes}
        how = "the numbers that the folders are named by"
    else:
        number = {name: place for place, name in enumerate(classes)}
        how = "the places of the folders in sorted order"
    return build_manifest(
        root=root,
        layout="imagefolder",
        path=paths,
        person_id=[number[name] for name in names],
        extra={"class": [name.decode("utf-8", "backslashreplace") for name in names]},
        notes=(f"{len(classes)} folders taken for persons; person_id holds {how}", *ignored),
    )


def folder(root: Path, multi_query: bool = False) -> Manifest:
    """Any tree of images, without labels."""
    paths, ignored = _images(root)
    return build_manifest(root=root, layout="folder", path=paths, notes=ignored)


def csv_manifest(file: Path, multi_query: bool = False) -> Manifest:
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


LAYOUTS: dict[str, Callable[[Path, bool], Manifest]] = {
    "market1501": market1501,
    "layumi": layumi,
    "imagefolder": imagefolder,
    "folder": folder,
    "csv": csv_manifest,
}


def recognise(data: Path) -> str:
    """The layout that the data is in, a key of `LAYOUTS`; what fits nothing else is a folder."""
    if data.is_file():
        return "csv"
    if _known_benchmark(data):
        return _known_benchmark(data)
    for child in _subfolders(data):
        if _known_benchmark(child):
            raise DataError(
                f"{data}: its folder {child.name} looks like a {_known_benchmark(child)} data set; "
                f"give --data {child}, or --layout folder to take all images below {data}"
            )
    images, _ = _images(data)
    depths = Counter(path.count(b"/") for path in images)
    return "imagefolder" if images and set(depths) == {1} else "folder"


def open_data(data: str, layout: str = "auto", multi_query: bool = False) -> Manifest:
    """The manifest of what the user named: a folder, a CSV, or the built-in `sample`.

    Raises DataError if there is no such thing, or no image in it.
    """
    place = SAMPLE_FOLDER if data == SAMPLE else Path(data)
    try:
        manifest = _open(place, layout, multi_query)
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}; check its permissions") from error
    if len(manifest) == 0:
        what = "the CSV has no row" if manifest.layout == "csv" else "no image in this folder"
        raise DataError(
            f"{place}: {what}; check --data" + "".join(f"; {n}" for n in manifest.notes)
        )
    return manifest


def _open(place: Path, layout: str, multi_query: bool) -> Manifest:
    if not place.exists():
        raise DataError(f"{place}: no such file or folder; check --data")
    if layout == "auto":
        layout = recognise(place)
    if place.is_file() != (layout == "csv"):
        expected = "a CSV file" if layout == "csv" else "a folder"
        raise DataError(f"{place}: --layout {layout} reads {expected}, and this is none")
    # Absolute, so that the run can be continued from another working directory.
    return LAYOUTS[layout](place.resolve(), multi_query)


def describe(manifest: Manifest) -> list[str]:
    """What was found, for people: a line for each split, then the notes."""
    lines = []
    for split in dict.fromkeys(manifest.split.tolist()):
        rows = manifest.split == split
        persons, cameras = manifest.person_id[rows], manifest.camera_id[rows]
        line = f"{split.decode() or 'images'}: {int(rows.sum()):,}"
        kept = persons[persons > DISTRACTOR] if manifest.layout != "csv" else persons[persons >= 0]
        if (persons != NO_PERSON).any():
            line += f", {len(set(kept.tolist())):,} persons"
        if (cameras != NO_CAMERA).any():
            line += f", {len(set(cameras.tolist()) - {NO_CAMERA})} cameras"
        if junk := int((persons == JUNK).sum()):
            line += f", {junk:,} junk (-1)"
        distractors = int((persons == DISTRACTOR).sum())
        if distractors and manifest.layout in ("market1501", "layumi"):
            line += f", {distractors:,} distractors (0000)"
        lines.append(line)
    return lines + list(manifest.notes)


def _named(
    root: Path, layout: str, parts: dict[str, str], name: re.Pattern[bytes], example: str
) -> Manifest:
    """The rows of folders whose file names tell person and camera."""
    path: list[bytes] = []
    person, camera, split = [], [], []
    notes: list[str] = []
    for split_name, folder_name in parts.items():
        if not (root / folder_name).is_dir():
            raise DataError(f"{root}: no folder {folder_name}, which {layout} has; check --layout")
        images, ignored = _images(root / folder_name)
        notes += [f"{folder_name}: {note}" for note in ignored]
        unnamed = []
        for image in images:
            match = name.match(os.path.basename(image))
            if match is None:
                unnamed.append(image)
                continue
            path.append(os.fsencode(folder_name) + b"/" + image)
            person.append(int(match[1]))
            camera.append(int(match[2]))
            split.append(split_name)
        if unnamed:
            notes.append(
                f"{folder_name}: {len(unnamed):,} images ignored, whose names are not like "
                f"{example} (first: {os.fsdecode(unnamed[0])!r})"
            )
        if len(unnamed) == len(images):
            raise DataError(f"{root / folder_name}: no image named like {example}; check --layout")
    others = [child.name for child in _subfolders(root) if child.name not in parts.values()]
    if others:
        notes.append("folders not read: " + ", ".join(map(printable, others)))
    return build_manifest(
        root=root,
        layout=layout,
        path=path,
        person_id=person,
        camera_id=camera,
        split=split,
        notes=tuple(notes),
    )


def _images(root: Path) -> tuple[list[bytes], tuple[str, ...]]:
    """Sorted relative paths of the images below a folder, and a note on the files ignored."""
    top = os.fsencode(root)
    found: list[bytes] = []
    ignored: list[bytes] = []
    visited = set()
    for place, folders, files in os.walk(top, followlinks=True, onerror=_raise):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in visited:  # a link that leads back
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders[:] = [name for name in folders if not name.startswith(b".")]
        below = os.path.relpath(place, top)
        for name in files:
            is_image = name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(b".")
            path = name if below == b"." else below + b"/" + name
            (found if is_image else ignored).append(path)
    found.sort(key=lambda path: path.split(b"/"))
    if not ignored:
        return found, ()
    first = os.fsdecode(min(ignored))
    return found, (f"{len(ignored):,} files ignored that are no images (first: {first!r})",)


def _raise(error: OSError) -> None:
    raise error  # os.walk would pass over the folder without a word


def _subfolders(root: Path) -> list[Path]:
    children = (child for child in root.iterdir() if not child.name.startswith("."))
    return sorted(child for child in children if child.is_dir())


def _known_benchmark(root: Path) -> str:
    names = {child.name for child in _subfolders(root)}
    if {"query", "bounding_box_test"} <= names:
        return "market1501"
    if {"query", "gallery"} <= names:
        return "layumi"
    return ""


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
