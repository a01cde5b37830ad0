"""Zip files: where their members lie, and their bytes. Read in place, never unpacked to a disk."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from distreid.data.archive_index import (
    DEFLATED,
    STORED,
    Index,
    Stamp,
    build_index,
    normal_name,
)
from distreid.data.file_bytes import open_stream
from distreid.errors import DataError, ImageError

# Signature, 22 bytes that the central directory has too, lengths of name and extra field.
LOCAL = struct.Struct("<4s22xHH")
LOCAL_SIGNATURE = b"PK\x03\x04"
EXTRA_USUAL = 64  # bytes; where it is more, a second read
ENCRYPTED, UTF8 = 0x1, 0x800
LARGEST = 1 << 62  # bytes
LINK, TYPE = 0o120000, 0o170000


def scan_zip(file: Path, stamp: Stamp) -> Index:
    """The index of a zip file; DataError if it is none, was cut off, or is encrypted."""
    names: list[bytes] = []
    places: list[tuple[int, ...]] = []
    left_out: list[str] = []
    try:
        with open_stream(file) as stream, zipfile.ZipFile(stream) as archive:
            members = archive.infolist()
            of_windows = _has_backslashes([member.filename for member in members])
            for member in members:
                if of_windows:
                    member.filename = member.filename.replace("\\", "/")
                if member.is_dir():
                    continue
                if member.flag_bits & ENCRYPTED:
                    raise DataError(f"{file}: encrypted; unpack it, and give the folder")
                name = normal_name(
                    member.filename.encode("utf-8" if member.flag_bits & UTF8 else "cp437")
                )
                if not name or (member.external_attr >> 16) & TYPE == LINK:
                    left_out.append(member.filename)
                    continue
                offset, sizes = member.header_offset, (member.compress_size, member.file_size)
                if not 0 <= offset < stamp.size or max(sizes) > LARGEST:
                    raise DataError(
                        f"{file}: damaged: {name[:100]!r} of {max(sizes):,} bytes at {offset:,}"
                    )
                names.append(name)
                places.append((offset, *sizes, member.CRC, member.compress_type))
    except DataError:
        raise
    except Exception as error:  # damaged files raise nearly anything
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise DataError(
            f"{file}: no zip file, or cut off or damaged ({reason}); copy it again"
        ) from error
    notes = [r"names with \ are read with /"] if of_windows else []
    if left_out:
        notes.append(
            f"{len(left_out):,} members left out that are links or have no usable name "
            f"(first: {left_out[0][:100]!r})"
        )
    return build_index(names, places, stamp, notes)


def _has_backslashes(names: list[str]) -> bool:
    r"""Whether `\` stands between folders, as some programs of Windows write it."""
    return any("\\" in name for name in names) and not any("/" in name for name in names)


def read_zip_member(
    read_at: Callable[[int, int], bytes], name: bytes, place: np.void, limit: int
) -> bytes:
    """A member's bytes; ImageError if they are not what the archive's directory says. Never more
    than `limit` or than it declares are unpacked."""
    offset, packed, size = (int(place[key]) for key in ("offset", "packed", "size"))
    if max(size, packed) > limit:
        raise ImageError(f"{max(size, packed):,} bytes, where {limit:,} are the limit")
    method = int(place["method"])
    if method not in (STORED, DEFLATED):
        raise ImageError(f"compressed by method {method}, which is not read; unpack the archive")
    head = read_at(*span_of(name, place))
    if len(head) < LOCAL.size or head[:4] != LOCAL_SIGNATURE:
        raise ImageError(f"its archive is damaged: no member begins at byte {offset:,}")
    _, name_bytes, extra_bytes = LOCAL.unpack_from(head)
    begin = LOCAL.size + name_bytes + extra_bytes
    data = head[begin : begin + packed]
    if len(data) < packed:
        data = read_at(offset + begin, packed)
        if len(data) < packed:
            raise ImageError("its archive is cut off within it")
    if method == DEFLATED:
        data = _inflated(data, size)
    if len(data) != size:
        raise ImageError(f"{len(data):,} bytes, where its archive declares {size:,}")
    if zlib.crc32(data) != int(place["crc"]):
        raise ImageError("its checksum is wrong: the archive is damaged")
    return data


def span_of(name: bytes, place: np.void) -> tuple[int, int]:
    """Offset and count of what is read first: in nearly all archives a member and its header."""
    usual = LOCAL.size + len(name) + EXTRA_USUAL
    return int(place["offset"]), usual + int(place["packed"])


def _inflated(data: bytes, size: int) -> bytes:
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        found = unpacker.decompress(data, size + 1)
    except zlib.error as error:
        raise ImageError(f"its archive is damaged ({error})") from error
    if len(found) > size:
        raise ImageError(f"more bytes than the {size:,} that its archive declares")
    return found
