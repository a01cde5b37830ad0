"""What of a gallery is good: every byte of what it owns and of the runs that it refers to."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from distreid.errors import StoreError
from distreid.search.generation import PICTURES, read_generation
from distreid.search.index import check_codes
from distreid.search.kept_columns import Columns, check_arrays
from distreid.search.marks import read_labels
from distreid.store import FeatureStore


def verify_gallery(gallery: Path) -> list[str]:
    """A line for everything that is missing, damaged or not finished; StoreError if there is no
    gallery."""
    return list(_problems(gallery))


def _problems(gallery: Path) -> Iterator[str]:
    current = read_generation(gallery)
    if current.erasing:
        yield f"{gallery}: erasing was interrupted; run distreid gallery compact to finish it"
    if current.labels:
        try:
            read_labels(gallery / current.labels)
        except StoreError as error:
            yield str(error)
    codes = {segment.index for segment in current.segments}
    for entry in sorted(current.entries() - codes):
        if entry.startswith(("runs/", "labels/")):
            continue
        try:
            check_arrays(gallery / entry)
        except StoreError as error:
            yield f"{error}; see distreid gallery compact for index/…, else restore it"
    seen: set[int] = set()
    for segment in current.segments:
        if segment.index and current.directions:
            try:
                index, directions = gallery / segment.index, gallery / current.directions
                check_codes(index, directions, segment.count)
            except StoreError as error:
                yield f"{error}; distreid gallery compact makes the codes anew"
        run = gallery / segment.run
        if not run.exists():
            yield f"{run}: a run of the gallery that is gone; put it back, or erase its rows"
            continue
        try:
            store = FeatureStore.open(run)
            if store.plan.digest != segment.digest:
                yield f"{run}: another run than was added; put that back, or erase its rows"
                continue
            columns = Columns(gallery / segment.rows)
            columns.stored(run)
            ids = columns.row
            if len(ids) != segment.count or not (np.diff(ids) > 0).all() or seen & {int(ids[0])}:
                yield f"{gallery / segment.rows}: its row ids are not those of its run"
            seen.add(int(ids[0]))
            if segment.owned and (columns.picture is not None or (run / PICTURES).is_dir()):
                yield from _wrong_pictures(gallery, columns)
        except StoreError as error:
            yield str(error)


def _wrong_pictures(gallery: Path, columns: Columns) -> Iterator[str]:
    """Of images that were sent, whose only copies these are."""
    for place, row in enumerate(columns.row.tolist()):
        file = gallery / columns.root / os.fsdecode(columns.path[place])
        try:
            crc = zlib.crc32(file.read_bytes())
            fits = columns.picture is None or crc == columns.picture[place]
            why = "" if fits else "its bytes do not fit their checksum"
        except OSError as error:
            why = error.strerror or "it cannot be read"
        if why:
            yield f"{file}: {why}; restore the picture, or erase row {row}"
