"""The manifest: one row per image, in the order that every later step keeps."""

from __future__ import annotations

import enum
import functools
import hashlib
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distreid.errors import DataError

JUNK = -1  # Market-1501's mark of a bad detection: never a match, never an error
DISTRACTOR = 0  # Market-1501's mark of a person who is in no query
NO_PERSON = -2  # the data set does not say who it is
NO_CAMERA = -1  # the data set does not say which camera it was

QUERY = "query"
GALLERY = "gallery"
BOTH = "query+gallery"  # an image that is searched for and found
MULTI_QUERY = "multi-query"
OTHER = "other"  # of a person who is not tested
NO_SPLIT = ""
ROWS_AT_ONCE = 1 << 16  # as Python objects

TRACKLET = "tracklet"  # the extra column that says which rows make one feature
PERSON_NAME = "person_name"  # the extra column of who it is, where that is told by names
CAMERA_NAME = "camera_name"
VIEWPOINT = "viewpoint"  # the extra column of the side from which a vehicle is seen, from 0
TIME = "time"  # the extra column of seconds since 1970


class Status(enum.IntEnum):
    """What became of a row's image. A row that is not OK has NaN features."""

    OK = 0
    MISSING = 1
    """There was no such file."""
    UNREADABLE = 2
    """The file could not be read or decoded."""


Integers = NDArray[np.int64]
Text = NDArray[np.bytes_]  # fixed-length bytes: no Python object per row, cheap across a fork


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """N images; all columns have N rows, and row i of each belongs to the same image.

    Arrays, not lists: a list of ten million str is copied page by page in every worker.
    """

    root: Path
    """The folder that relative paths start from. Not part of the fingerprint."""
    layout: str
    """The layout that the rows were read from, a name of `data.layouts.LAYOUTS`."""
    path: Text
    """(N,) bytes, as the file system has them (`os.fsencode`), with `/`."""
    person_id: Integers
    """(N,) int64; `JUNK`, `DISTRACTOR` and `NO_PERSON` are special."""
    camera_id: Integers
    """(N,) int64, numbered as the file names do; `NO_CAMERA` if unknown."""
    split: Text
    """(N,) `query`, `gallery`, `query+gallery` (`BOTH`), `multi-query`, another word, or empty."""
    extra: dict[str, Text] = field(default_factory=dict)
    """Further columns, UTF-8: those named above, which all layouts share, and of a table any."""
    source_names: Mapping[str, str] = field(default_factory=dict)
    """What an extra column is called where it was read, if that is another name."""
    notes: tuple[str, ...] = ()
    """What a person should know about how the rows were found, a sentence each."""

    def __post_init__(self) -> None:
        for name, column in self.columns().items():
            if column.shape != (len(self.path),):
                raise DataError(f"{self.root}: column {name} has not {len(self.path)} rows")

    def __len__(self) -> int:
        return len(self.path)

    def columns(self) -> dict[str, NDArray[np.generic]]:
        """Every column by name, in a fixed order."""
        own: dict[str, NDArray[np.generic]] = {
            "path": self.path,
            "person_id": self.person_id,
            "camera_id": self.camera_id,
            "split": self.split,
        }
        return own | {f"extra/{name}": self.extra[name] for name in sorted(self.extra)}

    def names(self, column: str) -> dict[int, str]:
        """The names of persons (`PERSON_NAME`) or cameras (`CAMERA_NAME`) by their numbers; empty
        where the numbers are all that is known."""
        if column not in self.extra:
            return {}
        numbers = self.person_id if column == PERSON_NAME else self.camera_id
        values, first = np.unique(numbers, return_index=True)
        names = self.extra[column][first].tolist()
        pairs = zip(values.tolist(), names, strict=True)
        return {number: name.decode() for number, name in pairs if name}

    def numbers(self, column: str) -> NDArray[np.float64]:
        """(N,) an extra column's numbers; NaN where it is empty, or is not there. DataError names
        a row that has another text."""
        if column not in self.extra:
            return np.full(len(self), np.nan)
        texts = self.extra[column].tolist()
        try:
            return np.array([float(text or b"nan") for text in texts])
        except ValueError:
            row = next(row for row, text in enumerate(texts) if not _is_number(text))
            raise DataError(
                f"{self.root}: column {column}: a number is wanted, or nothing, not "
                f"{texts[row].decode(errors='backslashreplace')!r} (row {row})"
            ) from None

    def with_columns_of(self, other: Manifest) -> Manifest:
        """These rows with the columns that an earlier manifest of them has, under its names:
        columns that were added since are left out. As it is if it lacks one of them."""
        ours = {name: name for name in self.extra} | {
            source: name for name, source in self.source_names.items()
        }
        if self.extra.keys() == other.extra.keys() or not other.extra.keys() <= ours.keys():
            return self
        return replace(self, extra={name: self.extra[ours[name]] for name in other.extra})

    def take(self, rows: Sequence[int] | NDArray[np.intp]) -> Manifest:
        """These rows alone, in this order."""
        return replace(
            self,
            path=self.path[rows],
            person_id=self.person_id[rows],
            camera_id=self.camera_id[rows],
            split=self.split[rows],
            extra={name: column[rows] for name, column in self.extra.items()},
        )

    def file(self, row: int) -> Path:
        """Where the image of a row lies: a locator, see `data.locators`."""
        return self.root / os.fsdecode(self.path[row])

    @property
    def place(self) -> str:
        """What an error calls the rows: their folder, which those of imported features have not."""
        return "the rows" if self.root == Path() else str(self.root)

    def rows(self, split: str) -> NDArray[np.intp]:
        """The row numbers of a split, ascending; those that are both are of query and gallery."""
        wanted = self.split == split.encode()
        if split in (QUERY, GALLERY):
            wanted |= self.split == BOTH.encode()
        return np.flatnonzero(wanted)

    def fingerprint(self) -> str:
        """SHA-256 (hex) of all columns, in order: equal exactly when every row is equal.

        A moved folder keeps its fingerprint: paths are relative to `root`. Computed once.
        """
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for name, column in self.columns().items():
            digest.update(f"{name} {len(column)}\n".encode())
            if column.dtype.kind == "S":
                # The width of a fixed-length column is no property of its rows.
                lengths = np.char.str_len(column).astype("<i8")  # type: ignore[arg-type]
                digest.update(lengths.tobytes())
                for first in range(0, len(column), ROWS_AT_ONCE):
                    digest.update(b"".join(column[first : first + ROWS_AT_ONCE].tolist()))
            else:
                digest.update(column.astype("<i8").tobytes())
        return digest.hexdigest()


def _is_number(text: bytes) -> bool:
    try:
        float(text or b"nan")
    except ValueError:
        return False
    return True


def text_column(values: list[bytes]) -> Text:
    """A list of bytes as a column; an empty list gives zero rows."""
    return np.array(values, dtype=f"S{max(map(len, values), default=1) or 1}")


def utf8(text: str) -> str:
    """A text as HDF5 can hold it: bytes that are no UTF-8, as names of files have them, become
    escapes."""
    return text if text.isascii() else os.fsencode(text).decode("utf-8", "backslashreplace")


def composed(name: str) -> str:
    """A name whose letters with accents are one character each (NFC): the same name in a list that
    another system wrote has them in two."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def decomposed(name: str) -> str:
    """The same name with accents as characters of their own (NFD)."""
    return unicodedata.normalize("NFD", name)


def build_manifest(
    *,
    root: Path,
    layout: str,
    path: list[bytes],
    person_id: list[int] | None = None,
    camera_id: list[int] | None = None,
    split: list[str] | None = None,
    extra: dict[str, list[str]] | None = None,
    source_names: Mapping[str, str] | None = None,
    notes: tuple[str, ...] = (),
) -> Manifest:
    """A manifest from lists of equal length; a column left out is "not known" in every row."""
    rows = len(path)
    words = {word: word.encode() for word in set(split or ())}
    return Manifest(
        root=root,
        layout=layout,
        path=text_column(path),
        person_id=np.array([NO_PERSON] * rows if person_id is None else person_id, dtype=np.int64),
        camera_id=np.array([NO_CAMERA] * rows if camera_id is None else camera_id, dtype=np.int64),
        split=text_column([b""] * rows if split is None else [words[word] for word in split]),
        extra={
            name: text_column([utf8(value).encode() for value in column])
            for name, column in (extra or {}).items()
        },
        source_names=source_names or {},
        notes=notes,
    )
