"""Files that no generation names: removed by the next writer, overwritten where rows are erased.

Only what has a name of the form that a writer gives is ever removed: what else lies in a gallery's
folder is somebody's own.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

from distreid.errors import StoreError
from distreid.search.generation import (
    FOLDERS,
    Generation,
    old_file,
    old_numbers,
    publish_generation,
    read_old,
)
from distreid.search.readers import describe, read_generations, wait_for

WIPED_AT_ONCE = 1 << 20
OUR_ENTRY = re.compile(
    r"[0-9]{6}(-[0-9]{8})?"  # of a run, at a generation
    r"|((directions|approximate)-)?[0-9]{8}"  # of a generation
    r"|[0-9]{8}\.npz(\..+\.tmp)?"
)
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
    for entry in _unnamed(gallery, named):
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
    for entry in _unnamed(gallery, current.entries()):
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
