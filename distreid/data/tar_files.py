"""Tar files: where their members lie, and their bytes. Read in place, never unpacked.

The headers are those of POSIX.1-2001 (ustar, pax) and of GNU tar, read as Python's tarfile does,
in a fifth of its time.
"""

from __future__ import annotations

import bz2
import gzip
import importlib
import lzma
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

from distreid.data.archive_index import STORED, Index, Stamp, build_index, normal_name
from distreid.data.file_bytes import open_stream
from distreid.errors import DataError, ImageError, OptionError

BLOCK = 512
REGULAR = b"07\0"
FOLDER, LONG_NAME, LONG_LINK, PAX, GLOBAL_PAX, SPARSE = b"5", b"L", b"K", b"x", b"g", b"S"
WITHOUT_DATA = b"123456"  # links, devices, folders, pipes
ADLER = 65521
HEADER_LIMIT = 1 << 20  # bytes of a long name or of pax records
DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError)

ReadAt = Callable[[int, int], bytes]
"""So many bytes from an offset; fewer at the end."""


def scan_tar(file: Path, read_at: ReadAt, size: int | None, stamp: Stamp) -> Index:
    """The index of a tar file of `size` bytes (None: not known). DataError where its headers are
    damaged; of one that was cut off, what stands before, and the cut member as a row that cannot
    be read."""
    names: list[bytes] = []
    places: list[tuple[int, ...]] = []
    notes: list[str] = []
    left_out: list[bytes] = []
    long_name, pax, position = b"", {}, 0
    while True:
        header = read_at(position, BLOCK)
        if len(header) < BLOCK:
            if position == 0:
                raise DataError(f"{file}: no tar file, or an empty one")
            notes.append("it ends without a tar file's end mark: it may be cut off")
            break
        if header[0] == 0 and not any(header):
            break
        if not _checksum_fits(header):
            after = f", after member {os.fsdecode(names[-1])!r}" if names else ""
            what = f"damaged at byte {position:,}{after}" if position else "no tar file"
            raise DataError(f"{file}: {what}; copy it again, or make it anew")
        kind, data = header[156:157], position + BLOCK
        length = _number(header[124:136], file, position)
        if kind in (LONG_NAME, LONG_LINK, PAX, GLOBAL_PAX):
            content = read_at(data, min(length, HEADER_LIMIT))
            if kind == LONG_NAME:
                long_name = content.split(b"\0", 1)[0]
            elif kind == PAX:
                pax = _pax_records(content, file, position)
            position = data + -(-length // BLOCK) * BLOCK
            continue
        name = pax.get(b"path") or long_name or _name(header)
        if b"size" in pax:
            length = _whole(pax[b"size"], file, position)
        is_sparse = kind == SPARSE or any(key.startswith(b"GNU.sparse") for key in pax)
        long_name, pax = b"", {}
        normal = normal_name(name)
        if kind in REGULAR and not is_sparse and normal and not name.endswith(b"/"):
            names.append(normal)
            places.append((data, length, length, 0, STORED))
        elif kind != FOLDER and not name.endswith(b"/"):
            left_out.append(name)
        position = data if kind in WITHOUT_DATA else data + -(-length // BLOCK) * BLOCK
        if size is not None and position > size:
            if data + length > size:
                notes.append(f"it is cut off in member {os.fsdecode(name)!r}")
            break
    if left_out:
        notes.append(
            f"{len(left_out):,} members left out that are links, devices, sparse, or have no "
            f"usable name (first: {os.fsdecode(left_out[0][:100])!r})"
        )
    return build_index(names, places, stamp, notes)


def _checksum_fits(header: bytes) -> bool:
    """Whether the sum of its bytes is the one that it states; the field itself counts as spaces.

    Adler-32's low half is one more than that sum, modulo `ADLER`: at the speed of C.
    """
    field = header[148:156]
    try:
        stated = int(field.strip(b" \0") or b"0", 8)
    except ValueError:
        return False
    own = sum(field)
    if (zlib.adler32(header) & 0xFFFF) == (1 + stated - 8 * 32 + own) % ADLER:
        return True
    # Some old programs summed signed bytes.
    signed = sum(byte - 256 if byte > 127 else byte for byte in header)
    field_signed = sum(byte - 256 if byte > 127 else byte for byte in field)
    return signed - field_signed + 8 * 32 == stated


def _name(header: bytes) -> bytes:
    name = header[:100].split(b"\0", 1)[0]
    if header[257:263] == b"ustar\0" and header[345]:
        name = header[345:500].split(b"\0", 1)[0] + b"/" + name
    return name


def _number(field: bytes, file: Path, position: int) -> int:
    """Octal digits, or with the first bit set a binary number."""
    if field[0] & 0x80:
        value = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
        if value >= 1 << 62:
            raise DataError(f"{file}: damaged at byte {position:,}: a member of {value:,} bytes")
        return value
    try:
        return int(field.strip(b" \0") or b"0", 8)
    except ValueError as error:
        raise DataError(f"{file}: damaged at byte {position:,}: no size; make it anew") from error


def _whole(text: bytes, file: Path, position: int) -> int:
    if not text.isdigit() or len(text) > 18:
        raise DataError(f"{file}: damaged at byte {position:,}: size {text[:20]!r}; make it anew")
    return int(text)


def _pax_records(content: bytes, file: Path, position: int) -> dict[bytes, bytes]:
    """`length key=value\\n`, one after another."""
    records = {}
    while content and content[0]:
        digits, _, _ = content.partition(b" ")
        length = _whole(digits, file, position)
        key, equals, value = content[len(digits) + 1 : length - 1].partition(b"=")
        if length <= len(digits) + 1 or not equals:
            raise DataError(f"{file}: damaged at byte {position:,}: pax records; make it anew")
        records[key] = value
        content = content[length:]
    return records


class Unpacked:
    """The bytes of a compressed tar by their offset, unpacked in memory from the start on: going on
    is cheap, going back begins anew. Of one process."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._begin()

    def read_at(self, offset: int, count: int) -> bytes:
        """As `ReadAt`; ImageError if the bytes are damaged or cut off."""
        try:
            if offset < self.stream.tell():
                self.close()
                self._begin()
            left = offset - self.stream.tell()
            while left > 0:
                skipped = self.stream.read(min(left, 1 << 20))
                if not skipped:
                    return b""
                left -= len(skipped)
            return self.stream.read(count)
        except DAMAGED as error:
            raise ImageError(f"its archive is damaged or cut off ({_said(error)})") from error

    def close(self) -> None:
        """Lets go of the file."""
        self.stream.close()
        self.source.close()

    def _begin(self) -> None:
        self.source = open_stream(self.file)
        self.stream = _unpacking(self.source, self.file.name.lower())


def _unpacking(source: BinaryIO, name: str) -> BinaryIO:
    if name.endswith("gz"):
        return cast(BinaryIO, gzip.open(source))
    if name.endswith("bz2"):
        return cast(BinaryIO, bz2.open(source))
    if name.endswith("xz"):
        return cast(BinaryIO, lzma.open(source))
    return _Zstandard(source)  # type: ignore[return-value]


class _Zstandard:
    """A .zst file of any number of frames."""

    def __init__(self, source: BinaryIO) -> None:
        try:
            zstandard: Any = importlib.import_module("zstandard")
        except ImportError as error:
            raise OptionError("zstandard is not there: pip install 'distreid[archives]'") from error
        self.error = zstandard.ZstdError
        self.reader = zstandard.ZstdDecompressor().stream_reader(source, read_across_frames=True)
        self.at = 0

    def read(self, count: int) -> bytes:
        parts = []
        while count:
            try:
                part = self.reader.read(count)
            except self.error as error:
                raise ValueError(str(error)) from error
            if not part:
                break
            parts.append(part)
            count -= len(part)
            self.at += len(part)
        return b"".join(parts)

    def tell(self) -> int:
        return self.at

    def close(self) -> None:
        self.reader.close()


def _said(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
