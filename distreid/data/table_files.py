"""Parquet, JSON and Excel's files as tables of texts; everything else is a text file."""

from __future__ import annotations

import datetime
import importlib
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from distreid.data import json_text
from distreid.data.table_text import (
    COLUMN_LIMIT,
    FIELD_LIMIT,
    IMAGE_NAME,
    Table,
    read_text_table,
)
from distreid.errors import DataError, OptionError

TABLES_EXTRA = "pip install 'distreid[tables]'"
UNPACKED_LIMIT = 1 << 30  # bytes of an Excel file's parts
MERGED, LONGEST_TAG = re.compile(rb"<(\w+:)?mergeCell\s"), 64


def read_table(file: Path, *, has_header: bool | None = None) -> Table:
    """A file's rows, by its ending: `READERS`, or a text.

    DataError if it is damaged; OptionError if the library that reads it is not there.
    """
    reader = READERS.get(file.suffix.lower())
    if reader is None:
        return read_text_table(file, has_header=has_header)
    return reader(file)


def _parquet(file: Path) -> Table:
    """Columns of single values; lists, such as features, are left out, and bytes that are no
    text."""
    arrow, parquet = _library("pyarrow"), _library("pyarrow.parquet")
    try:
        whole = parquet.ParquetFile(file)
        if len(whole.schema_arrow.names) > COLUMN_LIMIT:
            raise DataError(_too_many(file, len(whole.schema_arrow.names)))
        flat = [field.name for field in whole.schema_arrow if not arrow.types.is_nested(field.type)]
        if len(set(whole.schema_arrow.names)) < len(whole.schema_arrow.names):
            raise DataError(f"{file}: every column needs a name of its own: {flat}")
        table = whole.read(columns=flat)
        values = {name: table.column(name).to_pylist() for name in flat}
    except DataError:
        raise
    except Exception as error:  # damaged files raise nearly anything
        raise DataError(f"{file}: no Parquet, or a damaged one ({_one_line(error)})") from error
    left_out = [name for name in whole.schema_arrow.names if name not in flat]
    no_text = [name for name, column in values.items() if not all(map(_is_text, column))]
    # pandas keeps its index so.
    values = {
        ("" if name.startswith("__index_level_") else name): column
        for name, column in values.items()
        if name not in no_text
    }
    notes = [
        f"columns of {what} left out: {', '.join(names)}"
        for what, names in (("lists", left_out), ("bytes that are no text", no_text))
        if names
    ]
    return _table(file, values, notes)


def _json(file: Path) -> Table:
    """A list of records, or what pandas.DataFrame.to_json writes."""
    try:
        content = json_text.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: no JSON ({_one_line(error)}); mend it") from error
    if isinstance(content, list):
        return _records(file, content)
    if isinstance(content, dict) and content:
        columns = list(content.values())
        if all(isinstance(column, dict) for column in columns):
            columns = _by_row(file, content)
        if all(isinstance(c, list) for c in columns) and len({len(c) for c in columns}) == 1:
            return _table(file, dict(zip(content, columns, strict=True)), [])
    raise DataError(f'{file}: no list of records, such as [{{"path": "1.jpg"}}]; write it so')


def _by_row(file: Path, content: dict[str, dict[str, Any]]) -> list[list[Any]]:
    """The values of columns that are told by the names of the rows, in one order."""
    first, rows = next(iter(content.items()))
    for name, column in content.items():
        if differing := sorted(column.keys() ^ rows.keys()):
            raise DataError(
                f"{file}: column {name} has other rows than {first}: {differing[0]!r} is in one "
                "of them alone; write each row in both"
            )
    return [[column[row] for row in rows] for column in content.values()]


def _json_lines(file: Path) -> Table:
    """A record a line."""
    records = []
    try:
        # Not splitlines: it cuts also at U+2028 and U+0085, which a string may hold.
        for line in file.read_text(encoding="utf-8-sig").split("\n"):
            if line.strip():
                records.append(json_text.loads(line))
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{file}, record {len(records) + 1}: no JSON ({_one_line(error)}); mend it"
        ) from error
    return _records(file, records)


def _records(file: Path, records: list[Any]) -> Table:
    names: dict[str, None] = {}
    for number, record in enumerate(records, start=1):
        if not isinstance(record, dict):
            raise DataError(f"{file}, record {number}: {str(record)[:40]!r} is no record; mend it")
        names |= dict.fromkeys(record)
        if len(names) > COLUMN_LIMIT:
            raise DataError(_too_many(file, len(names)))
    return _table(file, {name: [each.get(name) for each in records] for name in names}, [])


def _excel(file: Path) -> Table:
    """The only sheet with rows. DataError for what Excel shows, and the file's cells do not have:
    merged cells, and formulas that were not computed."""
    openpyxl = _library("openpyxl")
    try:
        with zipfile.ZipFile(file) as parts:
            if sum(part.file_size for part in parts.infolist()) > UNPACKED_LIMIT:
                raise DataError(f"{file}: more than {UNPACKED_LIMIT:,} bytes unpacked; save a CSV")
            if any(map(partial(_has_merged_cells, parts), parts.namelist())):
                raise DataError(f"{file}: merged cells, of which one has the value; unmerge them")
        book = openpyxl.load_workbook(file, read_only=True, data_only=True)
        formulas = openpyxl.load_workbook(file, read_only=True)
        for sheet in (*book.worksheets, *formulas.worksheets):
            sheet.reset_dimensions()  # some programs write too small ones
        if more := [sheet.title for sheet in book.worksheets[1:] if _has_values(sheet)]:
            raise DataError(
                f"{file}: rows also in sheet {more[0]!r}, and one sheet is read; save each as a CSV"
            )
        rows = [
            list(map(partial(_computed, file), *cells))
            for cells in zip(book.worksheets[0].rows, formulas.worksheets[0].rows, strict=True)
        ]
        book.close()
        formulas.close()
    except DataError:
        raise
    except Exception as error:  # damaged files raise nearly anything
        raise DataError(f"{file}: no .xlsx, or a damaged one ({_one_line(error)})") from error
    rows = [row for row in rows if any(value is not None for value in row)]
    if not rows:
        raise DataError(f"{file}: the first sheet is empty")
    # A row ends at its last cell, and empty cells at the end are no columns.
    width = max(place for row in rows for place, value in enumerate(row, 1) if value is not None)
    rows = [[*row, *[None] * width][:width] for row in rows]
    if len(rows[0]) > COLUMN_LIMIT:
        raise DataError(_too_many(file, len(rows[0])))
    header = [_text(name, file, "the header", 1) for name in rows[0]]
    columns = [[row[place] for row in rows[1:]] for place in range(len(header))]
    texts = [
        [_text(value, file, name, row) for row, value in enumerate(column, start=2)]
        for name, column in zip(header, columns, strict=True)
    ]
    return Table(file=file, header=header, columns=texts)


def _has_merged_cells(parts: zipfile.ZipFile, name: str) -> bool:
    """Whether a part is a sheet with merged cells, which openpyxl tells only of a sheet that is in
    memory as a whole."""
    if not name.startswith("xl/worksheets/"):
        return False
    with parts.open(name) as stream:
        before = b""
        while block := stream.read(1 << 20):
            if MERGED.search(before + block):
                return True
            before = block[-LONGEST_TAG:]
    return False


def _has_values(sheet: Any) -> bool:
    return any(value is not None for row in sheet.iter_rows(values_only=True) for value in row)


def _computed(file: Path, cell: Any, formula: Any) -> Any:
    """A cell's value; DataError for a formula of which the file has none. An empty text is one."""
    if cell.value is None and formula.value is not None and cell.data_type == "n":
        raise DataError(
            f"{file}: {formula.coordinate} is a formula that was not computed; open it in Excel or "
            "LibreOffice and save it"
        )
    return cell.value


READERS: dict[str, Callable[[Path], Table]] = {
    ".parquet": _parquet,
    ".pq": _parquet,
    ".json": _json,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".xlsx": _excel,
}


def _table(file: Path, columns: Mapping[str, Iterable[Any]], notes: list[str]) -> Table:
    return Table(
        file=file,
        header=[name.strip() for name in columns],
        columns=[
            [_text(value, file, name, row) for row, value in enumerate(column, start=1)]
            for name, column in columns.items()
        ],
        notes=notes,
    )


def _text(value: Any, file: Path, name: str, row: int) -> str:
    """A single value as a CSV would have it; its column and row, from 1, are for messages."""
    if value is None:
        return ""
    if isinstance(value, (datetime.datetime, datetime.date)):
        return value.isoformat()
    if isinstance(value, (dict, list)):
        raise DataError(
            f"{file}, row {row}: {name} is {str(value)[:40]}, no single value; leave the column out"
        )
    text = value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)
    if len(text) > FIELD_LIMIT:
        raise DataError(f"{file}, row {row}: {name} has more than {FIELD_LIMIT:,} characters")
    return text


def _is_text(value: Any) -> bool:
    """Whether a value can be one; the name of an image may have any bytes but NUL."""
    if not isinstance(value, bytes):
        return True
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = value.decode("utf-8", "surrogateescape")
        return IMAGE_NAME.fullmatch(text) is not None
    return "\0" not in text


def _too_many(file: Path, columns: int) -> str:
    return f"{file}: {columns:,} columns, {COLUMN_LIMIT:,} at most; leave out what is no label"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        library = name.partition(".")[0]
        raise OptionError(f"{library} is not there: {TABLES_EXTRA}") from error
