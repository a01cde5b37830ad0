"""Parquet and Arrow files with a column of images, such as Hugging Face's `Image`: which it is, the
other columns, and a row's bytes."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from distreid.data.archive_index import STORED, Index, Stamp, build_index
from distreid.data.file_bytes import open_stream, size_of
from distreid.data.locators import is_address
from distreid.errors import DataError, ImageError, OptionError

BYTES, PATH = "bytes", "path"  # the fields of Hugging Face's images
MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"BM", b"RIFF", b"GIF8", b"II*\0", b"MM\0*", b"P6", b"P5")
LOOKED_AT = 20  # rows, to see whether bytes are images


class ArrowFile:
    """An open file of rows, by groups of them. Of one process: Arrow's files do not survive a
    fork."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._held: tuple[int, Any] | None = None
        self.arrow = _library("pyarrow")
        try:
            if file.suffix.lower() == ".parquet":
                self.parquet: Any = _library("pyarrow.parquet").ParquetFile(
                    open_stream(file) if is_address(file) else file
                )
                self.schema = self.parquet.schema_arrow
                groups = range(self.parquet.num_row_groups)
                counts = [self.parquet.metadata.row_group(group).num_rows for group in groups]
            else:
                self.parquet, self.table = None, self._arrow_table()
                self.schema, counts = self.table.schema, [self.table.num_rows]
        except (OptionError, DataError):
            raise
        except Exception as error:  # damaged files raise nearly anything
            raise DataError(
                f"{file}: no {file.suffix[1:].capitalize()}, or a damaged one ({_one_line(error)})"
            ) from error
        if min(counts, default=0) < 0:
            raise DataError(f"{file}: damaged: {sum(counts):,} rows")
        self.first = np.cumsum([0, *counts])

    def __len__(self) -> int:
        return int(self.first[-1])

    def image_column(self) -> str | None:
        """The first column of images; None if there is none. DataError for more rows than bytes."""
        for field in self.schema:
            if self._holds_bytes(field.type) and self._begins_as_images(field.name):
                if len(self) > size_of(self.file):  # they would take the memory
                    raise DataError(f"{self.file}: damaged: {len(self):,} images in fewer bytes")
                return str(field.name)
        return None

    def flat_columns(self, but: str) -> tuple[dict[str, list[Any]], list[str]]:
        """The columns of single values as lists, and the names of all others but one."""
        nested = self.arrow.types.is_nested
        flat = [
            field.name
            for field in self.schema
            if field.name != but and not nested(field.type) and not self._is_binary(field.type)
        ]
        others = [name for name in self.schema.names if name not in (*flat, but)]
        try:
            table = self._read(None, flat)
            return {name: table.column(name).to_pylist() for name in flat}, others
        except Exception as error:  # damaged files raise nearly anything
            raise DataError(f"{self.file}: damaged ({_one_line(error)})") from error

    def image(self, column: str, row: int) -> bytes:
        """A row's bytes; ImageError if it has none, or the file is damaged."""
        group = int(np.searchsorted(self.first, row, side="right")) - 1
        try:
            if self._held is None or self._held[0] != group:
                self._held = group, self._read(group, [column]).column(0)
            value = self._held[1][row - int(self.first[group])].as_py()
        except Exception as error:  # damaged files raise nearly anything
            raise ImageError(f"its file is damaged ({_one_line(error)})") from error
        data = value.get(BYTES) if isinstance(value, dict) else value
        if not data:
            raise ImageError("the row holds no bytes")
        return bytes(data)

    def _source(self) -> Any:
        if is_address(self.file):
            return self.arrow.PythonFile(open_stream(self.file), "r")
        return self.arrow.memory_map(str(self.file))

    def _arrow_table(self) -> Any:
        ipc = _library("pyarrow.ipc")
        try:
            return ipc.open_file(self._source()).read_all()
        except self.arrow.ArrowInvalid:
            return ipc.open_stream(self._source()).read_all()

    def _read(self, group: int | None, columns: list[str]) -> Any:
        if self.parquet is None:
            return self.table.select(columns)
        if group is None:
            return self.parquet.read(columns=columns, use_threads=False)
        return self.parquet.read_row_group(group, columns=columns, use_threads=False)

    def _is_binary(self, kind: Any) -> bool:
        types = self.arrow.types
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    def _holds_bytes(self, kind: Any) -> bool:
        if self.arrow.types.is_struct(kind):
            at = kind.get_field_index(BYTES)
            return at >= 0 and self._is_binary(kind.field(at).type)
        return self._is_binary(kind)

    def _begins_as_images(self, column: str) -> bool:
        for row in range(min(len(self), LOOKED_AT)):
            try:
                return self.image(column, row).startswith(MAGIC)
            except ImageError:
                continue
        return False


def scan_arrow(file: Path, stamp: Stamp) -> Index:
    """The index of a file's rows, named `column/row`; without images, none."""
    rows = ArrowFile(file)
    column = rows.image_column()
    count = 0 if column is None else len(rows)
    names = [f"{column}/{row:08d}".encode() for row in range(count)]
    return build_index(names, [(row, -1, -1, 0, STORED) for row in range(count)], stamp, [])


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise OptionError("pyarrow is not there: pip install 'distreid[tables]'") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
