"""What the layouts share: finding images in one order, reading lists, collecting rows."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import scipy.io
from numpy.typing import NDArray

from distreid.errors import DataError
from distreid.manifest import Manifest, build_manifest

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
NUMBER = rb"-1|\d{1,18}"  # what fits 64 bits

Label = Callable[[bytes], "tuple[int, int] | None"]
"""A file's name to person and camera; None if the name is none of the layout's."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the user asked for, beside the folder."""

    layout: str
    """A name of `LAYOUTS`."""
    multi_query: bool = False
    split: int = 0
    """Which of the layout's random splits."""
    pattern: str = ""
    """A regular expression for names that are nobody else's."""


@dataclass
class Found:
    """The rows of a data set as they are found, and what a person should know of them."""

    path: list[bytes] = field(default_factory=list)
    person_id: list[int] = field(default_factory=list)
    camera_id: list[int] = field(default_factory=list)
    split: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, path: bytes, person_id: int, camera_id: int, split: str) -> None:
        """A row more."""
        self.path.append(path)
        self.person_id.append(person_id)
        self.camera_id.append(camera_id)
        self.split.append(split)

    def add_sorted(self, rows: list[tuple[bytes, int, int]], split: str) -> None:
        """Rows of path, person and camera from a list file, in the order of their paths."""
        for path, person_id, camera_id in sorted(rows, key=lambda row: in_order(row[0])):
            self.add(path, person_id, camera_id, split)

    def manifest(
        self, root: Path, layout: str, extra: dict[str, list[str]] | None = None
    ) -> Manifest:
        """The rows in the order that they were added."""
        return build_manifest(
            root=root,
            layout=layout,
            path=self.path,
            person_id=self.person_id,
            camera_id=self.camera_id,
            split=self.split,
            extra=extra,
            notes=tuple(self.notes),
        )


def named_images(
    root: Path, asked: Asked, parts: Sequence[tuple[str, str]], label: Label, example: str
) -> Found:
    """The images of folders whose file names tell person and camera.

    `parts` are pairs of split and folder; rows come in their order. DataError if a folder is
    not there, or if none of its images is named as `label` wants it, like `example`.
    """
    found = Found()
    for split, folder_name in parts:
        need(root, folder_name + "/", asked.layout)
        paths, ignored = images(root / folder_name)
        found.notes += [f"{folder_name}: {note}" for note in ignored]
        unnamed = []
        for path in paths:
            labels = label(os.path.basename(path))
            if labels is None:
                unnamed.append(path)
            else:
                found.add(os.fsencode(folder_name) + b"/" + path, *labels, split)
        if unnamed:
            found.notes.append(
                f"{folder_name}: {len(unnamed):,} images ignored, whose names are not like "
                f"{example} (first: {os.fsdecode(unnamed[0])!r})"
            )
        if len(unnamed) == len(paths):
            raise DataError(f"{root / folder_name}: no image named like {example}; check --layout")
    return found


def labels_by(name: re.Pattern[bytes]) -> Label:
    """Person and camera from a pattern's first two groups."""

    def label(file_name: bytes) -> tuple[int, int] | None:
        match = name.match(file_name)
        return match and (int(match[1]), int(match[2]))

    return label


def need(root: Path, part: str, layout: str) -> Path:
    """The path of a part that a layout has; a trailing `/` wants a folder. DataError without."""
    if not has(root, part):
        kind = "folder" if part.endswith("/") else "file"
        raise DataError(f"{root}: no {kind} {part.rstrip('/')}, which {layout} has; check --layout")
    return root / part


def has(root: Path, part: str) -> bool:
    """Whether there is a folder (`part/`), or else a file of that name."""
    return (root / part).is_dir() if part.endswith("/") else (root / part).is_file()


def lines(file: Path) -> Iterator[tuple[str, str]]:
    """Each line that is not blank, and where it is, for messages."""
    with file.open(encoding="utf-8-sig", errors="surrogateescape") as stream:
        for number, line in enumerate(stream, start=1):
            if text := line.strip():
                yield f"{file}, line {number}", text


def name_and_number(where: str, line: str) -> tuple[bytes, int]:
    """A line that ends with a number: what stands before it, and the number."""
    name, _, number = line.rpartition(" ")
    if not name:
        raise DataError(f"{where}: {line!r} is no name followed by a number; mend the line")
    return os.fsencode(name.strip()), whole(number, where, "last word")


def matrices(file: Path, *names: str) -> list[NDArray[Any]]:
    """Matrices of a MATLAB file up to version 7; DataError if it is none, or has them not."""
    try:
        content = scipy.io.loadmat(file)
    except MemoryError:
        raise
    except Exception as error:  # scipy raises nearly anything on damaged bytes
        raise DataError(f"{file}: no MATLAB file ({' '.join(str(error).split())})") from error
    if lacking := [name for name in names if name not in content]:
        raise DataError(f"{file}: it has no matrix {lacking[0]}, which it should have")
    return [content[name] for name in names]


def torchreid_queries(file: Path, split: int) -> list[str]:
    """The names of a split's queries in a file of splits as torchreid saves it; the folders in
    it are those of another machine."""
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))[split]["query"]
        return [os.path.basename(str(entry[0])) for entry in entries]
    except (ValueError, LookupError, TypeError) as error:
        raise DataError(f"{file}: no splits as torchreid saves them; mend or remove it") from error


def whole(text: str, where: str, what: str) -> int:
    """A number in a list file; DataError if it is none."""
    if not re.fullmatch(NUMBER.decode(), text, flags=re.ASCII):
        raise DataError(f"{where}: the {what} is {text!r}; it must be a whole number")
    return int(text)


def numbers(names: Sequence[bytes]) -> tuple[list[int], str]:
    """A number for each name, and how: the name itself if all are numbers, else its place
    among the sorted names."""
    different = sorted(set(names))
    if all(re.fullmatch(NUMBER, name) for name in different):
        return [int(name) for name in names], "the numbers"
    place = {name: number for number, name in enumerate(different)}
    return [place[name] for name in names], "the places in sorted order"


def in_order(path: bytes) -> list[bytes]:
    """The key that sorts paths by their bytes, folder by folder."""
    return path.split(b"/")


def images(root: Path) -> tuple[list[bytes], tuple[str, ...]]:
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
        # Sorted: of two links to one folder, every machine takes the same.
        folders[:] = sorted(name for name in folders if not name.startswith(b"."))
        below = os.path.relpath(place, top)
        for name in files:
            is_image = name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(b".")
            path = name if below == b"." else below + b"/" + name
            (found if is_image else ignored).append(path)
    found.sort(key=in_order)
    if not ignored:
        return found, ()
    first = os.fsdecode(min(ignored))
    return found, (f"{len(ignored):,} files ignored that are no images (first: {first!r})",)


def subfolders(root: Path) -> list[Path]:
    """The folders in a folder, without hidden ones."""
    children = (child for child in root.iterdir() if not child.name.startswith("."))
    return sorted(child for child in children if child.is_dir())


def _raise(error: OSError) -> None:
    raise error  # os.walk would pass over the folder without a word
