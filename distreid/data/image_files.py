"""What the layouts share: finding images in one order, reading lists, collecting rows."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from distreid.data.archive_tree import MAC_FOLDER, ArchiveTree, ShardFolder
from distreid.data.box_request import BoxRequest
from distreid.data.manifest import NO_CAMERA, Manifest, build_manifest
from distreid.data.mat_arrays import read_mat
from distreid.errors import DataError, printable
from distreid.host.counts import counted

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
class LayoutRequest:
    """What the user asked for, beside the folder."""

    layout: str
    """A name of `LAYOUTS`."""
    multi_query: bool = False
    split: int = 0
    """Which of the layout's random splits."""
    pattern: str = ""
    """A regular expression for names that are nobody else's."""
    ids: str = "auto"
    """`text`: persons and cameras are names, also where all are numbers."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Of a table: what a column is → its header."""
    split_names: Mapping[str, str] = field(default_factory=dict)
    """The data's word for a split → `query`, `gallery`, …"""
    boxes: BoxRequest = field(default_factory=BoxRequest)
    """Of frames."""


@dataclass
class FoundRows:
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

    def add_all(self, rows: Sequence[tuple[bytes, int, int]], split: str) -> None:
        """Rows of path, person and camera, in their order."""
        self.path += [row[0] for row in rows]
        self.person_id += [row[1] for row in rows]
        self.camera_id += [row[2] for row in rows]
        self.split += [split] * len(rows)

    def add_sorted(self, rows: list[tuple[bytes, int, int]], split: str) -> None:
        """Rows of path, person and camera from a list file, in the order of their paths."""
        self.add_all(sorted(rows, key=lambda row: in_order(row[0])), split)

    def manifest(
        self, root: Path, layout: str, extra: dict[str, list[str]] | None = None
    ) -> Manifest:
        """The rows in the order that they were added. DataError for an image that a split has
        twice, or that is of two persons."""
        self._check_once(root)
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

    def _check_once(self, root: Path) -> None:
        if len(set(self.path)) == len(self.path):
            return
        listed: set[tuple[bytes, str]] = set()
        person_of: dict[bytes, int] = {}
        for path, split, person in zip(self.path, self.split, self.person_id, strict=True):
            where = f"{root / os.fsdecode(path)}"
            if (other := person_of.setdefault(path, person)) != person:
                raise DataError(f"{where}: listed as person {other} and as {person}; mend the list")
            if (path, split) in listed:
                raise DataError(f"{where}: listed twice for {split}; leave out one of the two")
            listed.add((path, split))


def named_images(
    root: Path, asked: LayoutRequest, parts: Sequence[tuple[str, str]], label: Label, example: str
) -> FoundRows:
    """The images of folders whose file names tell person and camera.

    `parts` are pairs of split and folder; rows come in their order. DataError if a folder is
    not there, or if none of its images is named as `label` wants it, like `example`.
    """
    found = FoundRows()
    for split, folder_name in parts:
        need(root, folder_name + "/", asked.layout)
        paths, ignored = images(root / folder_name)
        found.notes += [f"{folder_name}: {note}" for note in ignored]
        labels = [label(path[path.rfind(b"/") + 1 :]) for path in paths]
        unnamed = [path for path, its in zip(paths, labels, strict=True) if its is None]
        prefix = os.fsencode(folder_name) + b"/"
        named = [(prefix + path, *its) for path, its in zip(paths, labels, strict=True) if its]
        found.add_all(named, split)
        if unnamed:
            found.notes.append(
                f"{folder_name}: {counted(len(unnamed), 'image')} ignored, whose names are not "
                f"like {example} (first: {os.fsdecode(unnamed[0])!r})"
            )
        if len(unnamed) == len(paths):
            raise DataError(f"{root / folder_name}: no image named like {example}; check --layout")
    return found


def check_persons_folders(root: Path, folders: Iterable[str], option: str) -> None:
    """DataError for two folders whose persons have one number, such as m1 and f1; `option` goes by
    the folder. 1 and 001 are one person, as 012 and 12 are everywhere."""
    first: dict[int, tuple[str, str]] = {}
    for folder in sorted({*folders}):
        if match := re.fullmatch(r"(.*?)(-1|\d{1,18})", folder, flags=re.DOTALL):
            letters, other = first.setdefault(int(match[2]), (match[1].lower(), folder))
            if letters != match[1].lower():
                raise DataError(
                    f"{root}: folders {printable(other)} and {printable(folder)} are both person "
                    f"{int(match[2])} by the names in them; mend one, or give {option}"
                )


def labels_by(name: re.Pattern[bytes]) -> Label:
    """Person and camera from a pattern's first two groups."""

    def label(file_name: bytes) -> tuple[int, int] | None:
        match = name.match(file_name)
        return match and (int(match[1]), int(match[2]))

    return label


def persons_by(name: re.Pattern[bytes]) -> Label:
    """Person from a pattern's first group; there are no cameras."""

    def label(file_name: bytes) -> tuple[int, int] | None:
        match = name.match(file_name)
        return match and (int(match[1]), NO_CAMERA)

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
    """Each line that is not blank, and where it is, for messages. DataError if there is none."""
    is_empty = True
    with file.open(encoding="utf-8-sig", errors="surrogateescape") as stream:
        for number, line in enumerate(stream, start=1):
            if text := line.strip():
                is_empty = False
                yield f"{file}, line {number}", text
    if is_empty:
        raise DataError(f"{file}: no line in it; copy it again")


def name_and_number(where: str, line: str) -> tuple[bytes, int]:
    """A line that ends with a number: what stands before it, and the number."""
    name, _, number = line.rpartition(" ")
    if not name:
        raise DataError(f"{where}: {line!r} is no name followed by a number; mend the line")
    return os.fsencode(name.strip()), whole(number, where, "last word")


def matrices(file: Path, *names: str) -> list[NDArray[Any]]:
    """Matrices of a MATLAB file up to version 7; DataError if it is none, or has them not."""
    content = read_mat(file)
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


def in_order(path: bytes) -> list[bytes]:
    """The key that sorts paths by their bytes, folder by folder."""
    return path.split(b"/")


def images(root: Path) -> tuple[list[bytes], tuple[str, ...]]:
    """Relative paths of the images below a folder, as `in_order` sorts them, and a note on the
    files and folders left out. Hidden files and folders are passed over, links are followed."""
    if isinstance(root, (ArchiveTree, ShardFolder)):
        members, others = _members(root)
        return members, _ignored_note(others)
    found: list[bytes] = []
    ignored: list[bytes] = []
    again: list[bytes] = []
    for below, names in _files_in_order(os.fsencode(root), again):
        shown = [
            name
            for name in names
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(b".")
        ]
        found += [below + name for name in shown] if below else shown
        if len(shown) < len(names):
            ignored += [below + name for name in {*names} - {*shown}]
    notes = _ignored_note(ignored)
    if again:
        folders, first = counted(len(again), "folder"), os.fsdecode(min(again))
        notes += (f"{folders} left out that links lead to once more (first: {first!r})",)
    return found, notes


def _ignored_note(ignored: list[bytes]) -> tuple[str, ...]:
    if not ignored:
        return ()
    first = os.fsdecode(min(ignored))
    files = counted(len(ignored), "file that is no image", "files that are no images")
    return (f"{files}, ignored (first: {first!r})",)


def _members(root: ArchiveTree | ShardFolder) -> tuple[list[bytes], list[bytes]]:
    """The images of archives, and what else is in them, as `images` has those of a folder."""
    mac = os.fsencode(MAC_FOLDER) + b"/"
    found: list[bytes] = []
    ignored: list[bytes] = []
    for name in root.relative_names():
        folder, _, file = name.rpartition(b"/")
        if folder.startswith(b".") or b"/." in folder or name.startswith(mac):
            continue
        is_shown = file.lower().endswith(IMAGE_SUFFIXES) and not file.startswith(b".")
        (found if is_shown else ignored).append(name)
    return sorted(found, key=in_order), ignored


def _files_in_order(
    top: bytes, again: list[bytes] | None = None
) -> Iterator[tuple[bytes, list[bytes]]]:
    """A folder's path below `top`, with a `/`, and consecutive files in it; each folder between
    the files before and after it. Folders that were read already are added to `again`. OSError for
    a folder that cannot be read."""
    visited: set[tuple[int, int]] = set()

    def parts(below: bytes) -> Iterator[tuple[bool, list[bytes]]]:
        place = top + b"/" + below[:-1] if below else top
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in visited:
            # A link that leads back; of two links to one folder the first is taken.
            if again is not None:
                again.append(below[:-1])
            return
        visited.add((status.st_dev, status.st_ino))
        files, folders = [], set()
        with os.scandir(place) as entries:
            for entry in entries:
                if not _is_folder(entry):
                    files.append(entry.name)
                elif not entry.name.startswith(b"."):
                    folders.add(entry.name)
        for are_folders, names in itertools.groupby(
            sorted([*files, *folders]), folders.__contains__
        ):
            yield are_folders, list(names)

    stack = [(b"", parts(b""))]
    while stack:
        below, left = stack[-1]
        are_folders, names = next(left, (False, None))
        if names is None:
            stack.pop()
        elif are_folders:
            # Listed only when it is their turn.
            inside = (below + name + b"/" for name in reversed(names))
            stack += [(folder, parts(folder)) for folder in inside]
        else:
            yield below, names


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads round in a circle
        return False


def some_images(root: Path, count: int) -> list[bytes]:
    """The first images of a folder, as `images` gives them, without looking at all."""
    if isinstance(root, (ArchiveTree, ShardFolder)):
        return images(root)[0][:count]
    found: list[bytes] = []
    for below, names in _files_in_order(os.fsencode(root)):
        found += [below + n for n in names if n.lower().endswith(IMAGE_SUFFIXES) and n[:1] != b"."]
        if len(found) >= count:
            break
    return found[:count]


def subfolders(root: Path) -> list[Path]:
    """The folders in a folder, without hidden ones."""
    if isinstance(root, ArchiveTree):
        return [child for child in root.folders() if not child.name.startswith(".")]
    children = (child for child in root.iterdir() if not child.name.startswith("."))
    return sorted(child for child in children if child.is_dir())
