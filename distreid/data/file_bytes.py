"""The bytes of a file by ranges, wherever it lies: on a disk, or as an object of a store."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path
from typing import BinaryIO, cast

from distreid.data import objects
from distreid.data.archive_index import Stamp
from distreid.data.lmdb_files import data_file
from distreid.data.locators import LMDB, is_address, kind_of
from distreid.errors import DataError

BLOCK = 1 << 20  # bytes that a request brings at least, where a library reads on


class DiskBytes:
    """An open file of a disk; of a pipe that is named so nothing is waited for."""

    def __init__(self, file: Path) -> None:
        self.handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(self.handle).st_mode):
            self.close()
            raise DataError(f"{file}: not a regular file; check --data")

    def stamp(self) -> Stamp:
        """Of the file as it is now."""
        return Stamp.of(os.fstat(self.handle))

    def read_at(self, offset: int, count: int) -> bytes:
        """So many bytes; fewer at the end."""
        data = os.pread(self.handle, count, offset)
        while 0 < len(data) < count:  # 2 GiB at most at once
            more = os.pread(self.handle, count - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def close(self) -> None:
        """Lets go of the file."""
        os.close(self.handle)


class ObjectBytes:
    """An object. Every read is of the version that `expected` is, or fails."""

    def __init__(self, address: Path, expected: Stamp | None = None) -> None:
        """Without one, the version of now."""
        self.address = address
        self.expected = expected or objects.look_up(address)
        objects.pin(address, self.expected)

    def stamp(self) -> Stamp:
        """Of the version that is read."""
        return self.expected

    def read_at(self, offset: int, count: int) -> bytes:
        """As `DiskBytes`; ImageError if they are not to be had, or were changed."""
        count = max(0, min(count, self.expected.size - offset))
        return objects.read(objects.part(self.address, offset, count)) if count else b""

    def close(self) -> None:
        """Nothing is open."""


def open_bytes(file: Path, expected: Stamp | None = None) -> DiskBytes | ObjectBytes:
    """A file or object; `expected` as in `ObjectBytes`. OSError, DataError."""
    if kind_of(file) != LMDB:
        return ObjectBytes(file, expected) if is_address(file) else DiskBytes(file)
    if is_address(file):
        raise DataError(f"{file}: an LMDB is read from a disk alone; copy it first")
    return DiskBytes(data_file(file))


def size_of(file: Path) -> int:
    """In bytes. OSError, DataError."""
    source = open_bytes(file)
    try:
        return source.stamp().size
    finally:
        source.close()


def open_stream(file: Path) -> BinaryIO:
    """The same for libraries that want a file to read from and to seek in."""
    if is_address(file):
        return cast(BinaryIO, io.BufferedReader(objects.ObjectStream(file), BLOCK))
    return file.open("rb")
