"""Archives by name: the index of each, and the bytes of a member, in any process.

A process keeps the indexes that it made or that a run brought, and after a fork its children have
them. An archive whose size or time of change is another than its index knows is refused.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from distreid.data import objects
from distreid.data.archive_index import Index, Stamp, kept_indexes
from distreid.data.arrow_files import ArrowFile, scan_arrow
from distreid.data.file_bytes import DiskBytes, ObjectBytes, open_bytes, open_stream
from distreid.data.lmdb_files import LmdbFile, scan_lmdb
from distreid.data.locators import (
    ARROW,
    COMPRESSED_TAR,
    LMDB,
    OBJECTS,
    TAR,
    VIDEO,
    ZIP,
    is_address,
    kind_of,
    locate,
    member_of,
)
from distreid.data.manifest import Manifest
from distreid.data.objects import CHANGED
from distreid.data.tar_files import Unpacked, scan_tar
from distreid.data.video_files import VideoFile, scan_video
from distreid.data.zip_files import read_zip_member, scan_zip, span_of
from distreid.errors import DataError, ImageError, StoreError

AHEAD_LIMIT = 1 << 26  # bytes of a member; larger ones are read when it is their turn
OPEN_AT_ONCE = 8  # archives that a process holds open; rows lie archive by archive

_known: dict[Path, Index] = {}


@dataclass
class OpenArchive:
    """An archive that this process has open; one thread at a time reads it."""

    file: Path
    kind: str
    index: Index
    source: DiskBytes | ObjectBytes
    other: Unpacked | ArrowFile | VideoFile | LmdbFile | None = None
    """What else is open: a stream, or the library's own."""

    def read_at(self, offset: int, count: int) -> bytes:
        """Bytes of the archive; of a compressed tar those unpacked."""
        if self.kind == COMPRESSED_TAR:
            if not isinstance(self.other, Unpacked):
                self.other = Unpacked(self.file)
            return self.other.read_at(offset, count)
        return self.source.read_at(offset, count)

    def read(self, member: int, limit: int) -> bytes:
        """A member's bytes; ImageError if they cannot be had, or are more than the limit."""
        if self.source.stamp() != self.index.stamp:
            raise ImageError(CHANGED)
        place = self.index.places[member]
        name = bytes(self.index.names[member])
        if self.kind == ARROW:
            if not isinstance(self.other, ArrowFile):
                self.other = ArrowFile(self.file)
            column = name.rpartition(b"/")[0].decode()
            return _within(self.other.image(column, int(place["offset"])), limit)
        if self.kind == VIDEO:
            return self._video().image(int(place["offset"]), limit)
        if self.kind == LMDB:
            if not isinstance(self.other, LmdbFile):
                self.other = LmdbFile(self.file)
            return self.other.image(name, limit)
        if self.kind == ZIP:
            return read_zip_member(self.read_at, name, place, limit)
        size = int(place["size"])
        _within_size(size, limit)
        data = self.read_at(int(place["offset"]), size)
        if len(data) != size:
            raise ImageError("its archive is cut off within it")
        return data

    def frame(self, member: int, limit: int) -> NDArray[np.uint8]:
        """`read` of a video's frame, as pixels."""
        if self.source.stamp() != self.index.stamp:
            raise ImageError(CHANGED)
        return self._video().pixels(int(self.index.places["offset"][member]), limit)

    def _video(self) -> VideoFile:
        if not isinstance(self.other, VideoFile):
            self.other = VideoFile(self.file)
        return self.other

    def close(self) -> None:
        """Lets go of the file."""
        self.source.close()
        if isinstance(self.other, (Unpacked, VideoFile, LmdbFile)):
            self.other.close()


_open: dict[Path, OpenArchive] = {}
_one_at_a_time = threading.RLock()


def _after_fork() -> None:
    """A child opens its own: positions of streams would be shared."""
    global _one_at_a_time
    _one_at_a_time = threading.RLock()
    _open.clear()


os.register_at_fork(after_in_child=_after_fork)


def list_archive(archive: Path) -> Index:
    """Its index as it is now, made anew if it has changed. DataError if it is damaged; OSError."""
    known = _known.get(archive)
    if kind_of(archive) == OBJECTS:
        found = objects.scan_objects(archive)
        if known is None or known.stamp != found.stamp:
            known = _known[archive] = found
        return known
    source = open_bytes(archive)
    try:
        if known is None or known.stamp != source.stamp():
            known = _known[archive] = _scan(archive, source)
            _forget_open(archive)
        return known
    except ImageError as error:
        raise DataError(f"{archive}: {str(error).removeprefix('its archive is ')}") from error
    finally:
        source.close()


def index_of(archive: Path) -> Index:
    """The index that is known, else `list_archive`."""
    return _known.get(archive) or list_archive(archive)


def read_member(archive: Path, name: str, limit: int) -> bytes:
    """A member's bytes, `limit` at most. FileNotFoundError if it or the archive is not there,
    ImageError if it cannot be read."""
    with _one_at_a_time:
        if kind_of(archive) == OBJECTS:
            return _read_object(archive, os.fsencode(name), limit)
        opened, member = _member(archive, name)
        return opened.read(member, limit)


def read_frame(video: Path, name: str, limit: int) -> NDArray[np.uint8]:
    """A frame as (h, w, 3) RGB: the pixels of `read_member`, without a file between."""
    with _one_at_a_time:
        opened, member = _member(video, name)
        return opened.frame(member, limit)


def _member(archive: Path, name: str) -> tuple[OpenArchive, int]:
    opened = _held(archive)
    member = opened.index.find(os.fsencode(name))
    if member is None:
        if opened.kind == VIDEO:
            raise ImageError(f"the video has {len(opened.index):,} frames, and no {name}")
        raise FileNotFoundError(f"{archive} has no member {name}")
    return opened, member


def ranges_of(paths: Iterable[Path]) -> list[objects.Range]:
    """What `read_member` will ask object stores for; of what lies elsewhere, nothing."""
    with _one_at_a_time:
        return [each for path in paths if (each := _range_of(path)) is not None]


def read_ahead(wanted: Iterable[objects.Range]) -> None:
    """Begins the requests for these, several at a time: `read_member` is asked for them next."""
    with _one_at_a_time:
        objects.start(wanted)


def stored_size(path: Path) -> int:
    """The bytes of a file or of an archive's member, as far as they are known without reading it,
    else 0. OSError if it is not there."""
    place = locate(path)
    if place.member is None:
        return os.stat(place.file).st_size
    index = index_of(place.file)
    member = index.find(os.fsencode(place.member))
    if member is None:
        raise FileNotFoundError(path)
    return max(0, int(index.places["size"][member]))


def listed_stamp(path: Path) -> Stamp | None:
    """Of what lies in an object store, the version that was listed: the object's, or that of the
    archive that it is in; None if it was not, or only its size is known."""
    place = locate(path)
    index = _known.get(place.file)
    if index is None or place.member is None:
        return None
    stamp = index.stamp
    if kind_of(place.file) == OBJECTS:
        member = index.find(os.fsencode(place.member))
        stamp = Stamp(0, 0) if member is None else _stamp_of(index, member)
    return stamp if stamp.mtime_ns else None


def archives_of(manifest: Manifest) -> list[Path]:
    """The archives that a manifest's rows lie in, in the order of the rows."""
    if "#" in os.fspath(manifest.root):
        place = locate(manifest.root)
        return [] if place.member is None else [place.file]
    inside = manifest.path[np.char.find(manifest.path, b"#/") >= 0].tolist()
    names = dict.fromkeys(path.partition(b"#/")[0] for path in inside)
    return [manifest.root / os.fsdecode(name) for name in names]


def indexes_of(manifest: Manifest) -> dict[Path, Index]:
    """The indexes of a manifest's archives; from now on they are known, also in forked children."""
    return {archive: index_of(archive) for archive in archives_of(manifest)}


def take_indexes(run: Path) -> None:
    """Makes known what a run keeps of its archives."""
    for archive, index in kept_indexes(run).items():
        if _known.get(archive) is not index:
            _known[archive] = index
            _forget_open(archive)


def check_unchanged(run: Path, manifest: Manifest) -> None:
    """StoreError names an archive that is another than when the run was begun, or is now read
    otherwise."""
    kept = kept_indexes(run)
    for archive, index in indexes_of(manifest).items():
        if archive in kept and kept[archive].stamp != index.stamp:
            before, now = kept[archive].stamp, index.stamp
            if kind_of(archive) == OBJECTS:
                _check_objects(run, archive, kept[archive], manifest)
                continue
            raise StoreError(
                f"{archive}: changed since {run} was begun ({before.size:,} bytes then, "
                f"{now.size:,} now); give another --out, or put it back"
            )
        # A former version counted also the frames that an edit list cuts off.
        if archive in kept and kind_of(archive) == VIDEO and len(kept[archive]) != len(index):
            raise StoreError(
                f"{archive}: {run} was begun by a version of distreid that numbers its frames "
                "otherwise; finish it with that version, or give another --out"
            )


def _check_objects(run: Path, prefix: Path, before: Index, manifest: Manifest) -> None:
    """StoreError names an object of the rows that is another than in an earlier listing."""
    now = index_of(prefix)
    for row in range(len(manifest)):
        name = os.fsencode(locate(manifest.file(row)).member or "")
        old, new = before.find(name), now.find(name)
        if old is None or new is None or _stamp_of(before, old) != _stamp_of(now, new):
            raise StoreError(
                f"{member_of(prefix, os.fsdecode(name))}: changed since {run} was begun; give "
                "another --out, or put it back"
            )


def in_archive_order(archives: Sequence[Path], members: Iterable[tuple[int, bytes]]) -> list[int]:
    """The order in which members, pairs of archive and name, lie in their archives."""
    keys = []
    for number, name in members:
        index = index_of(archives[number])
        found = index.find(name)
        keys.append((number, int(index.places["offset"][found]) if found is not None else -1))
    return sorted(range(len(keys)), key=keys.__getitem__)


def _read_object(prefix: Path, name: bytes, limit: int) -> bytes:
    """An object below a prefix; of a prefix that this process has not listed, as it is now."""
    index = _known.get(prefix)
    if index is None:
        stamp = objects.look_up(prefix / os.fsdecode(name))
    elif (member := index.find(name)) is None:
        raise FileNotFoundError(member_of(prefix, os.fsdecode(name)))
    else:
        stamp = _stamp_of(index, member)
    _within_size(stamp.size, limit)
    return objects.read(objects.whole(prefix, name, stamp))


def _stamp_of(index: Index, member: int) -> Stamp:
    """Of an object that a prefix's index has."""
    place = index.places[member]
    return Stamp(int(place["size"]), int(place["packed"]))


def _range_of(path: Path) -> objects.Range | None:
    """What will be asked of a store for a member, if one request for it is known beforehand."""
    place = locate(path)
    if place.member is None or not is_address(place.file) or place.file not in _known:
        return None
    index, kind, name = _known[place.file], kind_of(place.file), os.fsencode(place.member)
    member = index.find(name)
    if member is None or not 0 < index.places["size"][member] <= AHEAD_LIMIT:
        return None
    if kind == OBJECTS:
        return objects.whole(place.file, name, _stamp_of(index, member))
    if kind not in (TAR, ZIP):
        return None
    its_place = index.places[member]
    first, count = int(its_place["offset"]), int(its_place["size"])
    if kind == ZIP:
        first, count = span_of(name, its_place)
    objects.pin(place.file, index.stamp)
    return objects.part(place.file, first, min(count, index.stamp.size - first))


def _held(archive: Path) -> OpenArchive:
    opened = _open.get(archive)
    if opened is not None:
        return opened
    index = index_of(archive)
    while len(_open) >= OPEN_AT_ONCE:
        _forget_open(next(iter(_open)))
    kind, source = kind_of(archive) or "", open_bytes(archive, index.stamp)
    opened = _open[archive] = OpenArchive(archive, kind, index, source)
    return opened


def _forget_open(archive: Path) -> None:
    with _one_at_a_time:
        opened = _open.pop(archive, None)
        if opened is not None:
            opened.close()


def _scan(archive: Path, source: DiskBytes | ObjectBytes) -> Index:
    kind, stamp = kind_of(archive), source.stamp()
    if kind == LMDB:
        return scan_lmdb(archive, stamp)
    if kind == ZIP:
        return scan_zip(archive, stamp)
    if kind == ARROW:
        return scan_arrow(archive, stamp)
    if kind == VIDEO:
        return scan_video(archive, stamp)
    if kind != COMPRESSED_TAR:
        if isinstance(source, DiskBytes):
            return scan_tar(archive, source.read_at, stamp.size, stamp)
        with open_stream(archive) as stream:  # a request for each header would take for ever
            return scan_tar(archive, functools.partial(_read_on, stream), stamp.size, stamp)
    unpacked = Unpacked(archive)
    try:
        return scan_tar(archive, unpacked.read_at, None, stamp)
    finally:
        unpacked.close()


def _read_on(stream: BinaryIO, offset: int, count: int) -> bytes:
    stream.seek(offset)
    return stream.read(count)


def _within(data: bytes, limit: int) -> bytes:
    _within_size(len(data), limit)
    return data


def _within_size(size: int, limit: int) -> None:
    if size > limit:
        raise ImageError(f"{size:,} bytes, where {limit:,} are the limit")
