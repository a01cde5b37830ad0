"""One generation of a gallery: what it says it holds, whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from distreid.data.locators import is_address
from distreid.errors import StoreError
from distreid.host.atomic_files import publish_text
from distreid.host.counts import whole_number

FORMAT = 1
FILE = "gallery.json"
ROWS = "rows"
FOLDERS = ("runs", ROWS, "index", "removed", "keys", "labels")
"""Whose entries a generation names. What none names is nobody's."""
PICTURES = "images"
"""The folder of pictures that were sent; those of a gallery's early runs lie in each run's own."""
PICTURES_TOGETHER = 1000
"""In one folder."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """The rows of one run."""

    run: str
    """The run's folder: `runs/…` in the gallery, or absolute."""
    owned: bool
    """Whether the run is the gallery's own copy."""
    digest: str
    """Of the run's identity."""
    prefix: str
    """What its persons' names and numbers start with, so that they are other persons."""
    rows: str
    """The folder of its columns, `rows/…`."""
    index: str | None
    """The folder of its codes, `index/…`; None: its rows are multiplied."""
    count: int
    """Rows of the columns, hidden ones and those without an image too."""

    def entries(self) -> Iterator[str]:
        """What of the gallery's folders is this segment's; pictures are its rows', by their ids."""
        yield self.rows
        if self.index:
            yield self.index
        if self.owned:
            yield self.run


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What `gallery.json` says."""

    generation: int
    created: str
    next_row: int
    """The id that the next row gets; no id is given twice."""
    next_run: int
    space: dict[str, Any]
    """The feature space that all runs share."""
    dim: int
    segments: tuple[Segment, ...]
    directions: str | None
    """The file of what rows are coded with, `index/…`."""
    removed: str | None
    """The file of the ids that are hidden, `removed/…`."""
    erasing: bool
    """Whether files that this generation does not name are still to be overwritten."""
    approximate: dict[str, Any] | None = None
    """An index that gives approximate answers: its folder, and what was measured of it."""
    keys: str | None = None
    """The folder of what was answered to requests that may be sent again, `keys/…`."""
    labels: str | None = None
    """The file of the hits that were marked right or wrong, `labels/….npz`."""

    def entries(self) -> set[str]:
        """What it names of the gallery's folders."""
        own = {entry for segment in self.segments for entry in segment.entries()}
        own |= {self.approximate["folder"]} if self.approximate else set()
        single = (self.directions, self.removed, self.keys, self.labels)
        return own | {entry for entry in single if entry}

    def following(self, **changes: Any) -> Generation:
        """The next generation, with these changes."""
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        return replace(self, generation=self.generation + 1, created=now, **changes)


def read_generation(gallery: Path) -> Generation:
    """The gallery as it is; StoreError for a folder that holds none, or one that is damaged."""
    file = gallery / FILE
    try:
        text = file.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        if is_address(gallery):
            raise StoreError(f"{gallery}: a gallery lies in a local folder; give one") from None
        is_run = (gallery / "shards").is_dir()
        made_by = f"GALLERY --run {gallery}" if is_run else f"{gallery} --run RUN"
        what = "a run and no gallery" if is_run else "no gallery"
        raise StoreError(
            f"{gallery}: {what}; make one by distreid gallery create {made_by}"
        ) from None
    except OSError as error:
        raise StoreError(f"{file}: {error.strerror}; check the folder") from error
    except UnicodeDecodeError as error:
        raise _damaged(file) from error
    return _parsed(file, text)


def read_old(gallery: Path, number: int) -> Generation | None:
    """An earlier generation; None if it is gone."""
    file = old_file(gallery, number)
    try:
        return _parsed(file, file.read_text(encoding="utf-8"))
    except OSError:
        return None


def picture_path(row: int) -> str:
    """Where the picture of a row lies in the gallery, if one was sent."""
    return f"{PICTURES}/{row // PICTURES_TOGETHER:06d}/{row}.png"


def old_file(gallery: Path, number: int) -> Path:
    """Where a generation stands as long as somebody may read it."""
    return gallery / "generations" / f"{number:08d}.json"


def old_numbers(gallery: Path) -> list[int]:
    """The generations that are kept, ascending; the current one is among them."""
    numbers = (whole_number(file.stem) for file in (gallery / "generations").glob("*.json"))
    return sorted(number for number in numbers if number is not None)


def publish_generation(gallery: Path, generation: Generation) -> None:
    """Makes it the gallery's; before, what it names must be on the disk."""
    publish_text(gallery / FILE, keep_generation(gallery, generation))


def keep_generation(gallery: Path, generation: Generation) -> str:
    """Writes it among those that somebody may read; gives its text."""
    text = json.dumps({"format": FORMAT} | asdict(generation), indent=1) + "\n"
    publish_text(old_file(gallery, generation.generation), text)
    return text


def _parsed(file: Path, text: str) -> Generation:
    try:
        content = json.loads(text)
        written = content.pop("format")
        if written != FORMAT:
            raise StoreError(
                f"{file}: format {written}, this distreid reads {FORMAT}; use the version that "
                "wrote it"
            )
        segments = tuple(Segment(**segment) for segment in content.pop("segments"))
        return Generation(segments=segments, **content)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _damaged(file) from error


def _damaged(file: Path) -> StoreError:
    return StoreError(
        f"{file}: damaged; distreid never leaves it half-written: take the last of "
        f"{os.path.join('generations', '*.json')} for it"
    )
