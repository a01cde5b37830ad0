"""Text files of rows: CSV, TSV, `;`, with a header or without one, as any program writes them."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from distreid.data.image_files import IMAGE_SUFFIXES
from distreid.errors import DataError
from distreid.host.counts import counted

# Every row of a column takes as many bytes as its longest. Linux opens no longer path either.
FIELD_LIMIT = 4096
COLUMN_LIMIT = 1000
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
PACKED, OLD_EXCEL = b"\x1f\x8b", b"\xd0\xcf\x11\xe0"  # how such files begin
SAMPLED = 20  # lines, of which the delimiter is seen
SUFFIXES = "|".join(re.escape(suffix.decode()) for suffix in IMAGE_SUFFIXES)
IMAGE_NAME = re.compile(rf".*({SUFFIXES})", flags=re.IGNORECASE | re.DOTALL)
# A list without a header: a path, which may hold spaces, and words after it.
LIST_LINE = re.compile(rf"\s*(.*?({SUFFIXES}))(?:\s+(.*))?", flags=re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of texts, column by column."""

    file: Path
    header: list[str]
    """A name for each column; without a header in the file, their numbers from 1."""
    has_header: bool = True
    columns: list[list[str]]
    lines: list[int] | None = None
    """The line that each row ends at; None: rows are not lines."""
    places: Sequence[str] | None = None
    """What each row is called, if it is neither."""
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.columns[0]) if self.columns else 0

    def where(self, row: int) -> str:
        """The place of a row, for messages."""
        if self.places is not None:
            return f"{self.file}, {self.places[row]}"
        if self.lines is None:
            return f"{self.file}, row {row + 1}"
        return f"{self.file}, line {self.lines[row]}"


def read_text_table(file: Path, *, has_header: bool | None = None) -> Table:
    """A text file's rows. The delimiter, the encoding (UTF-8, UTF-16 by its mark, else latin-1)
    and, with None, whether there is a header are seen; DataError names a line that does not fit.
    """
    _check_is_text(file)
    encoding = _encoding(file)
    notes = [] if encoding.startswith("utf") else [f"not UTF-8: read as {encoding}"]
    try:
        with file.open(encoding=encoding, newline="") as stream:
            sample = [line for line in islice(stream, SAMPLED * 4) if line.strip()][:SAMPLED]
        if not sample:
            raise DataError(f"{file}, line 1: no column named path; the file is empty")
        # Excel's own word for the delimiter, before everything else.
        excel = re.fullmatch(r"sep=(.)\s*", sample[0], flags=re.IGNORECASE)
        if excel and len(sample) > 1:
            sample = sample[1:]
        delimiter = excel[1] if excel else _delimiter(sample)
        if has_header is None:
            has_header = not any(
                IMAGE_NAME.fullmatch(word.strip()) for word in _words(sample[0], delimiter)
            )
        if delimiter is None and (not has_header or len(sample[0].split()) > 1):
            return _read_list(file, encoding, has_header, notes)
        return _read(file, encoding, delimiter or ",", has_header, notes, skipped=bool(excel))
    except UnicodeError as error:
        raise DataError(f"{file}: no text in {encoding} ({error}); save it as UTF-8") from error


def _read(
    file: Path,
    encoding: str,
    delimiter: str,
    has_header: bool,
    notes: list[str],
    *,
    skipped: bool,
) -> Table:
    if delimiter != ",":
        notes = [*notes, f"columns between {DELIMITERS.get(delimiter, delimiter)}"]
    lines: list[int] = []
    header: list[str] = []
    columns: list[list[str]] = []
    with file.open(encoding=encoding, newline="") as stream:
        reader = csv.reader(stream, strict=True, delimiter=delimiter)
        try:
            if skipped:
                next(reader)
            for fields in reader:
                if not fields:  # a blank line
                    continue
                if not header:
                    header = _header(file, reader.line_num, fields, has_header)
                    columns = [[] for _ in header]
                    if has_header:
                        continue
                _check(file, reader.line_num, header, fields)
                for column, value in zip(columns, fields, strict=True):
                    column.append(value)
                lines.append(reader.line_num)
        except csv.Error as error:
            raise DataError(f"{file}, line {reader.line_num}: {error}; mend the quoting") from error
    return Table(
        file=file, header=header, has_header=has_header, columns=columns, lines=lines, notes=notes
    )


def _header(file: Path, line: int, fields: list[str], has_header: bool) -> list[str]:
    if len(fields) > COLUMN_LIMIT:
        raise DataError(
            f"{file}, line {line}: {len(fields):,} columns, {COLUMN_LIMIT:,} at most; leave out "
            "what is no label"
        )
    if not has_header:
        return [str(number) for number in range(1, len(fields) + 1)]
    return [name.strip() for name in fields]


def _check(file: Path, line: int, header: list[str], fields: list[str]) -> None:
    if len(fields) != len(header):
        raise DataError(
            f"{file}, line {line}: {counted(len(fields), 'field')}, the header has {len(header)}; "
            "mend the line"
        )
    if len(max(fields, key=len)) > FIELD_LIMIT:
        raise DataError(f"{file}, line {line}: a field of more than {FIELD_LIMIT:,} characters")


def _read_list(file: Path, encoding: str, has_header: bool, notes: list[str]) -> Table:
    """Lines of a path and words after it, as MSMT17's lists."""
    rows: list[list[str]] = []
    lines: list[int] = []
    header: list[str] = []
    named = True  # whether the first line begins with the name of an image
    with file.open(encoding=encoding) as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            if has_header and not header:
                header = _header(file, number, line.split(), has_header)
                continue
            match = LIST_LINE.fullmatch(line.rstrip("\r\n"))
            if match is None and not (rows and named):
                named = False
            elif match is None:
                raise DataError(
                    f"{file}, line {number}: {line.strip()[:80]!r} does not begin with the name of "
                    "an image, as the first line does; mend the line"
                )
            words = [match[1], *(match[3] or "").split()] if match and named else line.split()
            header = header or _header(file, number, words, has_header)
            if len(words) != len(header):
                raise DataError(
                    f"{file}, line {number}: {counted(len(words), 'word')}, the first line has "
                    f"{len(header)}; mend the line"
                )
            _check(file, number, header, words)
            rows.append(words)
            lines.append(number)
    return Table(
        file=file,
        header=header,
        has_header=has_header,
        columns=[list(column) for column in zip(*rows, strict=True)] or [[] for _ in header],
        lines=lines,
        notes=notes,
    )


def _check_is_text(file: Path) -> None:
    """DataError for what is no text, by its first line."""
    with file.open("rb") as stream:
        start = stream.readline(FIELD_LIMIT)
    if start.startswith(PACKED):
        raise DataError(f"{file}: packed by gzip; unpack it")
    if start.startswith(OLD_EXCEL):
        raise DataError(f"{file}: an old file of Excel's (.xls); save it as .xlsx, or as CSV")
    is_marked = start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if b"\0" in start and (not is_marked or start.startswith(codecs.BOM_UTF32_LE)):
        raise DataError(
            f"{file}, line 1: no text, or one in UTF-32, or in UTF-16 without a mark; save it as "
            "UTF-8"
        )


def _encoding(file: Path) -> str:
    """The encoding of a text file."""
    with file.open("rb") as stream:
        start = stream.read(4)
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    try:
        decoder = codecs.getincrementaldecoder("utf-8")()
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                decoder.decode(block)
            decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8-sig"


def _delimiter(sample: list[str]) -> str | None:
    """What stands between the columns: what cuts every line into as many, else what cuts the first
    line into most; None if nothing cuts it."""
    found = []
    for delimiter in DELIMITERS:
        # Without the lines that a quoted line break cuts.
        counts = {len(_words(line, delimiter)) for line in sample if line.count('"') % 2 == 0}
        columns = len(_words(sample[0], delimiter))
        if columns > 1:
            found.append((len(counts) == 1, columns, delimiter))
    return max(found, key=lambda each: each[:2])[2] if found else None


def _words(line: str, delimiter: str | None) -> list[str]:
    if delimiter is None:
        match = LIST_LINE.fullmatch(line.rstrip("\r\n"))
        return [match[1]] if match else [line]
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return [line]
