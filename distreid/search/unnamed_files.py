"""Files that no generation names: removed by the next writer, overwritten where rows are erased.

Only what has a name of the form that a writer gives is ever removed: what else lies in a gallery's
folder is somebody's own.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distreid.errors import StoreError
from distreid.host.counts import whole_number
from distreid.search.generation import (
    FOLDERS,
    PICTURES,
    PICTURES_TOGETHER,
    ROWS,
    Generation,
    old_file,
    old_numbers,
    publish_generation,
    read_old,
)
from distreid.search.kept_columns import Columns
from distreid.search.readers import describe, read_generations, wait_for

WIPED_AT_ONCE = 1 << 20
OUR_ENTRY = re.compile(
    r"[0-9]{6}(-[0-9]{8})?"  # of a run, at a generation
    r"|((directions|approximate)-)?[0-9]{8}"  # of a generation
    r"|[0-9]{8}\.npz(\..+\.tmp)?"
)
OUR_PICTURE = re.compile(r"([0-9]+)\.png(\..+\.tmp)?")
BEING_WRITTEN = re.compile(r"(gallery|[0-9]{8})\.json\..+\.tmp")


def sweep(gallery: Path, current: Generation, keep_s: float) -> None:
    """Removes generations that nobody reads any more, and what no other names."""
    read, now = read_generations(gallery), datetime.now(timezone.utc)
    named = current.entries()
    for number in old_numbers(gallery):
        if number == current.generation:
            continue
        # A later one was written by somebody who died before it was the gallery's.
        old = read_old(gallery, number) if number < current.generation else None
        is_young = (
            old is not None and (now - datetime.fromisoformat(old.created)).total_seconds() < keep_s
        )
        if old is not None and (is_young or number in read):
            named |= old.entries()
        else:
            old_file(gallery, number).unlink(missing_ok=True)
    entries = _unnamed(gallery, named)
    # Pictures first: which rows have gone is known of the entries.
    rows = _rows(entry for entry in entries if entry.parent.name == ROWS)
    with contextlib.suppress(StoreError):  # whose pictures they are is not known of damaged rows
        for picture in _unnamed_pictures(gallery, current.next_row, named, rows):
            picture.unlink(missing_ok=True)
    for entry in entries:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def _unnamed(gallery: Path, named: set[str]) -> list[Path]:
    """Entries of the gallery's folders that are not named, and what was being written when a
    writer died."""
    entries = [
        entry
        for folder in FOLDERS
        for entry in sorted((gallery / folder).glob("*"))
        if OUR_ENTRY.fullmatch(entry.name) and f"{folder}/{entry.name}" not in named
    ]
    return entries + sorted(
        file
        for place in (gallery, gallery / "generations")
        for file in place.glob("*.tmp")
        if BEING_WRITTEN.fullmatch(file.name)
    )


def _rows(folders: Iterable[Path]) -> NDArray[np.int64]:
    """The ids of the rows of some runs whose pictures were sent."""
    found = [np.empty(0, np.int64)]
    for columns in map(Columns, folders):
        with contextlib.suppress(StoreError):  # what died while it was written is of no row
            found.append(columns.row if columns.picture is not None else found[0])
    return np.concatenate(found)


def _unnamed_pictures(
    gallery: Path, next_row: int, named: set[str], rows: NDArray[np.int64] | None
) -> Iterator[Path]:
    """Pictures of no named row: those that a writer left who died, and where pictures of these rows
    are, or with None of all rows. StoreError if named rows cannot be read."""
    folders = None if rows is None else {*np.unique(rows // PICTURES_TOGETHER).tolist()}
    kept: NDArray[np.int64] | None = None
    for folder in sorted((gallery / PICTURES).glob("*")):
        number = whole_number(folder.name)
        if number is None:
            continue
        may_have_gone = folders is None or number in folders
        if not may_have_gone and number < next_row // PICTURES_TOGETHER:
            continue
        files = {
            file: next_row if match[2] else int(match[1])
            for file in folder.glob("*")
            if (match := OUR_PICTURE.fullmatch(file.name))
        }
        if not may_have_gone:
            yield from (file for file, row in files.items() if row >= next_row)
            continue
        if kept is None:
            every = [Columns(gallery / each).row for each in named if each.startswith(f"{ROWS}/")]
            kept = np.concatenate([np.empty(0, np.int64), *every])
        is_kept = np.isin([*files.values()], kept)
        yield from (file for file, is_one in zip(files, is_kept, strict=True) if not is_one)


def finish_erasing(
    gallery: Path, current: Generation, say: Callable[[str], None], timeout_s: float
) -> str:
    """Waits for the readers of earlier generations, takes these from whoever is left, and
    overwrites and removes every file that the current one does not name. Says who was left."""
    left = wait_for(gallery, current.generation, timeout_s)
    names = describe(left)
    if names:
        say(f"still reading what is erased, and stopped at their next answer: {names}")
    for number in old_numbers(gallery):
        if number != current.generation:
            old_file(gallery, number).unlink(missing_ok=True)
    named = current.entries()
    pictures = _unnamed_pictures(gallery, current.next_row, named, None)
    for entry in (*pictures, *_unnamed(gallery, named)):
        files = [entry] if entry.is_file() else [f for f in entry.rglob("*") if f.is_file()]
        for file in files:
            _overwrite(file)
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)
    publish_generation(gallery, current.following(erasing=False))
    return names


def _overwrite(file: Path) -> None:
    """With zeros, in its place: a mapping of it stays whole, and the disk keeps nothing."""
    try:
        with file.open("r+b") as stream:
            left = os.fstat(stream.fileno()).st_size
            while left > 0:
                left -= stream.write(bytes(min(left, WIPED_AT_ONCE)))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise StoreError(
            f"{file}: {error.strerror}; rows are erased only when it is overwritten: mend that and "
            "run distreid gallery compact"
        ) from error
