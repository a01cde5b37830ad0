"""An archive as a folder: what the layouts ask of a path, answered from its index.

So every layout that reads a folder reads an archive, and gives the same rows.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from distreid.data.archives import index_of, list_archive, read_member
from distreid.data.lmdb_files import data_file
from distreid.data.locators import (
    LMDB,
    OBJECTS,
    Address,
    is_address,
    kind_of,
    locate,
    member_of,
    path_of,
)
from distreid.data.objects import check_address
from distreid.errors import DataError

MAC_FOLDER = "__MACOSX"  # what macOS adds to a zip file
LIST_LIMIT = 1 << 30  # bytes of a list in an archive
BRACES = re.compile(r"(.*)\{(\d+)\.\.(\d+)\}(.*)", re.DOTALL)
SHARDS_LIMIT = 100_000


class ArchiveTree(Address):
    """A folder or file inside an archive, or the root of its members (`x.zip#`)."""

    def _place(self) -> tuple[Path, bytes]:
        place = locate(self)
        return place.file, os.fsencode(place.member or "")

    def is_file(self) -> bool:
        """Whether a member is named so."""
        archive, name = self._place()
        return bool(name) and index_of(archive).find(name) is not None

    def is_dir(self) -> bool:
        """Whether a member lies below, or it is the root."""
        archive, name = self._place()
        return not name or len(index_of(archive).below(name)) > 0

    def exists(self, **_: Any) -> bool:
        """Either."""
        return self.is_file() or self.is_dir()

    def resolve(self, strict: bool = False) -> ArchiveTree:
        """With the archive's own path resolved; names inside stay as they are."""
        archive, name = self._place()
        return ArchiveTree(member_of(archive.resolve(strict), os.fsdecode(name)))

    def iterdir(self) -> Iterator[ArchiveTree]:
        """Files and folders in it, sorted by their bytes."""
        for name, _ in self._children():
            yield self / name

    def names(self) -> list[str]:
        """What `iterdir` gives, as names."""
        return [name for name, _ in self._children()]

    def folders(self) -> list[ArchiveTree]:
        """The folders in it."""
        return [self / name for name, is_folder in self._children() if is_folder]

    def _children(self) -> Iterator[tuple[str, bool]]:
        archive, folder = self._place()
        index, below = index_of(archive), index_of(archive).below(folder)
        at, skip = below.start, len(folder) + 1 if folder else 0
        while at < below.stop:
            child, slash, _ = bytes(index.names[at])[skip:].partition(b"/")
            yield os.fsdecode(child), bool(slash)
            at = index.below(folder + b"/" * bool(folder) + child).stop if slash else at + 1

    def open(self, mode: str = "r", *_: Any, **how: Any) -> IO[Any]:
        """The member's bytes as a stream, for reading."""
        archive, name = self._place()
        data = io.BytesIO(read_member(archive, os.fsdecode(name), LIST_LIMIT))
        return data if "b" in mode else io.TextIOWrapper(data, **how)

    def relative_names(self) -> list[bytes]:
        """All members below it, by their names below it, in the order of the index."""
        archive, folder = self._place()
        below = index_of(archive).below(folder)
        names: list[bytes] = index_of(archive).names[below.start : below.stop].tolist()
        return [name[len(folder) + 1 :] for name in names] if folder else names


class ShardFolder(Address):
    """A folder of which some archives alone are read, one after the other."""

    archives: tuple[Path, ...] = ()
    """In the folder, in the order of their names."""

    def resolve(self, strict: bool = False) -> ShardFolder:
        """With the folder's path resolved."""
        folder = path_of(os.fspath(self)).resolve(strict)
        return shard_folder(folder, [archive.name for archive in self.archives])

    def exists(self, **_: Any) -> bool:
        """It does: its archives were listed."""
        return self.is_dir() or super().exists()

    def is_dir(self) -> bool:
        """It is; of what is named in it, as always."""
        return bool(self.archives) or super().is_dir()

    def iterdir(self) -> Iterator[Path]:
        """Its archives."""
        return iter(self.archives)

    def relative_names(self) -> list[bytes]:
        """All members of all archives, each name behind its archive's, as `x.tar#/a.jpg`."""
        found = []
        for archive in self.archives:
            before = os.fsencode(archive.name) + b"#/"
            found += [before + name for name in ArchiveTree(member_of(archive)).relative_names()]
        return found


def shard_folder(folder: Path, names: Sequence[str]) -> ShardFolder:
    """Archives of a folder by their names."""
    made = ShardFolder(folder)
    made.archives = tuple(folder / name for name in sorted(names))
    return made


def archive_place(data: str) -> ArchiveTree | ShardFolder | None:
    """What the user named, if that is an archive, a folder in one, or several, listed as they are
    now; else None.

    `x.zip`, `x.zip#/folder`, `shard-{000000..000099}.tar`, a folder that holds archives and no
    image. DataError if a shard is not there.
    """
    if is_address(data):
        check_address(data)
    if match := BRACES.fullmatch(data):
        return _braces(data, *match.groups())
    if is_address(data):
        return _at_address(data)
    path = Path(data)
    place = locate(path)
    if place.member is not None and is_archive(place.file):
        list_archive(place.file.resolve())
        return ArchiveTree(data)
    if is_archive(path):
        list_archive(path.resolve())
        return _below_single_folder(ArchiveTree(member_of(path.resolve())))
    if path.is_dir():
        names = [child.name for child in _shown(path)]
        if names and all(kind_of(path / name) for name in names):
            return _listed(shard_folder(path.resolve(), names))
    return None


def _at_address(data: str) -> ArchiveTree | ShardFolder:
    """Of an object store: an archive, or a prefix, of images or of archives."""
    place = locate(path_of(data))
    index = list_archive(place.file)
    if place.member is not None:
        return ArchiveTree(data)
    root = ArchiveTree(member_of(place.file))
    if kind_of(place.file) == OBJECTS:
        shown = [name for name in index.names.tolist() if _is_data(os.fsdecode(name))]
        if shown and all(b"/" not in name and kind_of(Path(os.fsdecode(name))) for name in shown):
            return _listed(shard_folder(place.file, [os.fsdecode(name) for name in shown]))
    return _below_single_folder(root)


def _is_data(name: str) -> bool:
    """Whether it is no note beside what is meant."""
    return not name.startswith(".") and not name.lower().endswith((".md", ".txt", ".json"))


def _shown(folder: Path) -> Iterator[Path]:
    """Up to the first that is neither a file of an archive's name nor some note beside them."""
    for child in folder.iterdir():
        if not _is_data(child.name):
            continue
        yield child
        if not is_archive(child):
            return


def is_archive(path: Path) -> bool:
    """Whether there is one; of an LMDB the folder may be it."""
    kind = kind_of(path)
    return kind is not None and (data_file(path) if kind == LMDB else path).is_file()


def _braces(data: str, before: str, first: str, last: str, after: str) -> ShardFolder:
    start, stop = int(first), int(last)
    if not 0 <= stop - start < SHARDS_LIMIT:
        raise DataError(f"{data}: from {first} to {last} are no shards; check --data")
    paths = [path_of(f"{before}{n:0{len(first)}}{after}") for n in range(start, stop + 1)]
    for path in paths:
        if not is_address(path) and not path.exists():
            raise DataError(f"{path}: no such file, of {data}; check --data")
    if not kind_of(paths[0]) or "/" in after:
        raise DataError(f"{data}: braces are for archives of one folder, such as s-{{00..12}}.tar")
    return _listed(shard_folder(paths[0].parent.resolve(), [path.name for path in paths]))


def _listed(shards: ShardFolder) -> ShardFolder:
    for archive in shards.archives:
        list_archive(archive)
    return shards


def _below_single_folder(root: ArchiveTree) -> ArchiveTree:
    """Down to where there is more than one folder: data sets are packed with the folder that they
    lie in."""
    while True:
        shown = [name for name in root.names() if name != MAC_FOLDER and not name.startswith(".")]
        folders = [folder for folder in root.folders() if folder.name in shown]
        if len(shown) != 1 or len(folders) != 1 or not folders[0].folders():
            return root
        root = folders[0]
