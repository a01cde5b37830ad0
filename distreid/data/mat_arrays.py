"""The arrays of a MATLAB file up to version 7: numbers, texts and cells of texts.

By the format that MathWorks publishes ("MAT-File Format", level 5). scipy's reader is not used: a
damaged file can end the process in it.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distreid.errors import DataError

HEADER = 128  # bytes; the last two tell the order of bytes
# Types of elements: numbers, arrays, compressed arrays, texts.
NUMBERS = {
    1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8",
}  # fmt: skip
MATRIX, COMPRESSED = 14, 15
TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
# Classes of arrays.
CELL, CHAR = 1, 4
NUMERIC = {
    6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8",
}  # fmt: skip
COMPLEX = 0x800
UNPACKED_FACTOR, SPARE_BYTES = 100, 1 << 28  # what a compressed array may take


@dataclass(frozen=True)
class Element:
    """A type, and its bytes."""

    kind: int
    data: memoryview


def read_mat(file: Path) -> dict[str, NDArray[Any]]:
    """Its arrays by name, of two dimensions or more; texts as arrays of str, a row each. What is of
    another class (structs, sparse matrices, …) is left out. DataError if it is no such file, or is
    damaged."""
    content = memoryview(file.read_bytes())
    try:
        order = {b"IM": "<", b"MI": ">"}[bytes(content[HEADER - 2 : HEADER])]
        found = {}
        for element in _elements(content[HEADER:], order):
            if element.kind == COMPRESSED:
                element = next(_elements(_unpacked(element.data), order))
            if element.kind == MATRIX:
                name, array = _array(element.data, order)
                if array is not None:
                    found[name] = array
        return found
    except (KeyError, ValueError, IndexError, StopIteration, struct.error, zlib.error) as error:
        reason = " ".join(str(error).split()) or "it ends too early"
        raise DataError(f"{file}: no MATLAB file up to version 7 ({reason})") from error


def read_cells(file: Path, name: str) -> list[list[list[list[float]]]]:
    """A cell array of cell arrays of matrices, such as the permutations of SYSU-MM01, as lists; an
    empty cell is an empty list. DataError if there is none of that name."""
    content = memoryview(file.read_bytes())
    try:
        order = {b"IM": "<", b"MI": ">"}[bytes(content[HEADER - 2 : HEADER])]
        for element in _elements(content[HEADER:], order):
            if element.kind == COMPRESSED:
                element = next(_elements(_unpacked(element.data), order))
            if element.kind == MATRIX and _array(element.data, order)[0] == name:
                return [
                    [_matrix(each, order) for each in _cells(outer, order)]
                    for outer in _cells(element.data, order)
                ]
    except (KeyError, ValueError, IndexError, StopIteration, struct.error, zlib.error) as error:
        reason = " ".join(str(error).split()) or "it ends too early"
        raise DataError(f"{file}: no MATLAB file up to version 7 ({reason})") from error
    raise DataError(f"{file}: it has no cells {name}, which it should have")


def _cells(data: memoryview, order: str) -> list[memoryview]:
    """The matrices in a cell array, in MATLAB's order."""
    parts = list(_elements(data, order))
    (flag,) = struct.unpack_from(order + "I", parts[0].data)
    if flag & 0xFF != CELL:
        raise ValueError("cells of cells are wanted")
    return [each.data for each in parts[3:] if each.kind == MATRIX]


def _matrix(data: memoryview, order: str) -> list[list[float]]:
    array = _array(data, order)[1] if len(data) else None  # an empty cell may have no header
    if array is None or not array.size:
        return []
    rows: list[list[float]] = array.tolist()
    return rows


def _elements(data: memoryview, order: str) -> Iterator[Element]:
    place = 0
    while place + 8 <= len(data):
        kind, size = struct.unpack_from(order + "II", data, place)
        start = place + 8
        if kind >> 16:  # a small one, with its size beside its type
            kind, size, start = kind & 0xFFFF, kind >> 16, place + 4
        if start + size > len(data) or (start == place + 4 and size > 4):
            raise ValueError("an element is longer than the file")
        yield Element(kind, data[start : start + size])
        end = start + size
        place = end if kind == COMPRESSED else place + 8 if start == place + 4 else -(-end // 8) * 8


def _unpacked(data: memoryview) -> memoryview:
    unpacker = zlib.decompressobj()
    unpacked = unpacker.decompress(data, UNPACKED_FACTOR * len(data) + SPARE_BYTES)
    if not unpacker.eof:
        raise ValueError("a compressed array is cut, or unpacks to far more than the file has")
    return memoryview(unpacked)


def _array(data: memoryview, order: str) -> tuple[str, NDArray[Any] | None]:
    """An array's name, and the array if it is of a class that is read."""
    parts = _elements(data, order)
    flags, shape_part, name_part = next(parts), next(parts), next(parts)
    (flag,) = struct.unpack_from(order + "I", flags.data)
    shape = _numbers(shape_part, order).astype(int).tolist()
    name = bytes(name_part.data).decode("latin-1")
    if len(shape) < 2 or min(shape) < 0:
        raise ValueError(f"an array of shape {shape}")
    kind, count = flag & 0xFF, math.prod(shape)
    if kind in NUMERIC and not flag & COMPLEX:
        values = _numbers(next(parts), order) if count else np.empty(0)
        if len(values) != count:
            raise ValueError(f"{name} has {len(values):,} values, not {count:,}")
        return name, values.astype(NUMERIC[kind]).reshape(shape, order="F")
    if kind == CHAR and len(shape) == 2:
        return name, _texts(next(parts), shape, order) if count else np.empty((0, 1), "U1")
    if kind == CELL:
        if count > len(data):
            raise ValueError(f"{name} has {count:,} cells")
        cells = [_array(each.data, order)[1] for each in parts if each.kind == MATRIX]
        if len(cells) != count or not all(_is_text(cell) for cell in cells):
            return name, None
        texts = [cell.flat[0] if cell is not None and cell.size else "" for cell in cells]
        return name, np.array(texts, str).reshape(shape, order="F")
    return name, None


def _is_text(cell: NDArray[Any] | None) -> bool:
    return cell is not None and cell.size <= 1 and (cell.dtype.kind == "U" or not cell.size)


def _texts(part: Element, shape: list[int], order: str) -> NDArray[Any]:
    """A matrix of characters as (rows, 1) texts, without the spaces that fill them up."""
    codec = TEXTS[part.kind]
    if codec in ("utf-16", "utf-32"):
        codec += "-le" if order == "<" else "-be"
    text = bytes(part.data).decode(codec)
    rows, columns = shape
    if len(text) != rows * columns:
        raise ValueError(f"{len(text):,} characters, not {rows * columns:,}")
    return np.array([text[row::rows].rstrip(" ") for row in range(rows)], str)[:, None]


def _numbers(part: Element, order: str) -> NDArray[Any]:
    dtype = np.dtype(order + NUMBERS[part.kind])
    if len(part.data) % dtype.itemsize:
        raise ValueError("a part is cut")
    return np.frombuffer(part.data, dtype)
