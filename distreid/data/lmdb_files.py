"""LMDB databases with an image's file under each key: which keys are images, and a key's bytes.

Keys that are paths (`0001/a.jpg`) keep their names. A key without an ending (`00000012`,
`image-000000001`) whose value begins as an image is named by what it begins as: `00000012.jpg`.
Others (`__len__`, `__keys__`, pickled records, raw arrays) are left out; nothing is unpickled.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from distreid.data.archive_index import STORED, Index, Stamp, build_index, normal_name
from distreid.errors import DataError, ImageError, OptionError

# What a value begins with → the ending that its key is given.
BEGINNINGS = {
    b"\xff\xd8\xff": b".jpg",
    b"\x89PNG": b".png",
    b"BM": b".bmp",
    b"RIFF": b".webp",
    b"II*\0": b".tif",
    b"MM\0*": b".tif",
    b"P6": b".ppm",
    b"P5": b".pgm",
}
ENDINGS = (*BEGINNINGS.values(), b".jpeg", b".tiff", b".json", b".cls")


def data_file(database: Path) -> Path:
    """The file that holds a database, which may be a folder."""
    return database / "data.mdb" if database.is_dir() else database


class LmdbFile:
    """An open database, for reading alone, without a lock. Of one process."""

    def __init__(self, file: Path) -> None:
        """DataError if it is none."""
        self.file = file
        self.lmdb = _library()
        try:
            self.environment = self.lmdb.open(
                str(file), subdir=file.is_dir(), readonly=True, lock=False, readahead=False
            )
            pages = self.environment.info()["last_pgno"] + 1
            if pages * self.environment.stat()["psize"] > data_file(file).stat().st_size:
                self.environment.close()  # reading on would be SIGBUS
                raise DataError(f"{file}: it is cut off; copy it again")
            self.reading = self.environment.begin(buffers=True)
        except self.lmdb.Error as error:
            raise DataError(f"{file}: no LMDB, or a damaged one ({_one_line(error)})") from error

    def image(self, name: bytes, limit: int) -> bytes:
        """The bytes under a key, by the name that `scan_lmdb` gave it; ImageError if they are not
        there, or are more than the limit."""
        try:
            value = self.reading.get(name)
            if value is None:
                value = self.reading.get(name.rpartition(b".")[0])
        except self.lmdb.Error as error:
            raise ImageError(f"its database is damaged ({_one_line(error)})") from error
        if value is None:
            raise ImageError("its database has it no more")
        if len(value) > limit:
            raise ImageError(f"{len(value):,} bytes, where {limit:,} are the limit")
        return bytes(value)

    def close(self) -> None:
        """Lets go of the file."""
        self.reading.abort()
        self.environment.close()


def scan_lmdb(file: Path, stamp: Stamp) -> Index:
    """The index of a database; DataError if it is none."""
    names: list[bytes] = []
    places: list[tuple[int, ...]] = []
    left_out: list[bytes] = []
    opened = LmdbFile(file)
    try:
        for row, (key, value) in enumerate(opened.reading.cursor()):
            if (name := _name(bytes(key), value)) is None:
                left_out.append(bytes(key))
            else:
                names.append(name)
                places.append((row, -1, len(value), 0, STORED))
    except opened.lmdb.Error as error:
        raise DataError(f"{file}: damaged ({_one_line(error)})") from error
    finally:
        opened.close()
    notes = []
    if left_out:
        first = left_out[0][:100].decode("utf-8", "backslashreplace")
        notes.append(f"{len(left_out):,} keys left out that hold no image's file (first: {first})")
    return build_index(names, places, stamp, notes)


def _name(key: bytes, value: Any) -> bytes | None:
    """What a key is called as a path; None if it holds no image."""
    if normal_name(key) != key:
        return None
    if key.lower().endswith(ENDINGS):
        return key
    start = bytes(value[:4])
    return next((key + BEGINNINGS[magic] for magic in BEGINNINGS if start.startswith(magic)), None)


def _library() -> Any:
    try:
        return importlib.import_module("lmdb")
    except ImportError as error:
        raise OptionError("lmdb is not there: pip install 'distreid[archives]'") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
