"""The manifest: one row per image, in the order that every later step keeps."""

from __future__ import annotations

import enum
import functools
import hashlib
import os
from dataclasses import dataclass, field
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
MULTI_QUERY = "multi-query"
NO_SPLIT = ""
ROWS_AT_ONCE = 1 << 16  # as Python objects

TRACKLET = "tracklet"  # the extra column that says which rows make one feature


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
    """The layout that the rows were read from, a name of `datasets.LAYOUTS`."""
    path: Text
    """(N,) bytes, as the file system has them (`os.fsencode`), with `/`."""
    person_id: Integers
    """(N,) int64; `JUNK`, `DISTRACTOR` and `NO_PERSON` are special."""
    camera_id: Integers
    """(N,) int64, numbered as the file names do; `NO_CAMERA` if unknown."""
    split: Text
    """(N,) `query`, `gallery`, `multi-query`, another word of a CSV, or empty."""
    extra: dict[str, Text] = field(default_factory=dict)
    """Further columns of a CSV, UTF-8, untouched."""
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

    def file(self, row: int) -> Path:
        """Where the image of a row lies."""
        return self.root / os.fsdecode(self.path[row])

    def rows(self, split: str) -> NDArray[np.intp]:
        """The row numbers of a split, ascending."""
        return np.flatnonzero(self.split == split.encode())

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


def text_column(values: list[bytes]) -> Text:
    """A list of bytes as a column; an empty list gives zero rows."""
    return np.array(values, dtype=f"S{max(map(len, values), default=1) or 1}")


def build_manifest(
    *,
    root: Path,
    layout: str,
    path: list[bytes],
    person_id: list[int] | None = None,
    camera_id: list[int] | None = None,
    split: list[str] | None = None,
    extra: dict[str, list[str]] | None = None,
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
            name: text_column([value.encode() for value in column])
            for name, column in (extra or {}).items()
        },
        notes=notes,
    )
