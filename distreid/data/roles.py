"""Rows that are both query and gallery, and rows of persons who are not tested."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distreid.data.manifest import (
    BOTH,
    GALLERY,
    OTHER,
    PERSON_NAME,
    QUERY,
    Manifest,
    text_column,
)
from distreid.errors import DataError
from distreid.host.counts import counted


def listed_twice(manifest: Manifest) -> list[tuple[int, int]]:
    """Pairs of rows that are one image, listed as query and as gallery, equal in all else; the
    smaller row first, ascending. Rows that a split has several times are no pairs."""
    columns = [column for name, column in manifest.columns().items() if name != "split"]
    sides: list[dict[tuple[object, ...], int]] = []
    for split in (QUERY, GALLERY):
        rows = np.flatnonzero(manifest.split == split.encode())
        keys = list(zip(*[column[rows].tolist() for column in columns], strict=True))
        once = {key for key, count in Counter(keys).items() if count == 1}
        pairs = zip(keys, rows.tolist(), strict=True)
        sides.append({key: row for key, row in pairs if key in once})
    query, gallery = sides
    return sorted(
        (min(row, gallery[key]), max(row, gallery[key]))
        for key, row in query.items()
        if key in gallery
    )


def merged(
    manifest: Manifest, pairs: Sequence[tuple[int, int]]
) -> tuple[Manifest, NDArray[np.intp]]:
    """One row for each pair of `listed_twice`, of the split `query+gallery`, at the first place;
    and the rows that are kept. A note says it."""
    if not pairs:
        return manifest, np.arange(len(manifest))
    kept = np.delete(np.arange(len(manifest)), [second for _, second in pairs])
    splits = manifest.split.tolist()
    for first, _ in pairs:
        splits[first] = BOTH.encode()
    images = counted(len(pairs), "image is", "images are")
    note = f"{images} listed as query and as gallery: one row each, {BOTH}"
    return replace(
        manifest.take(kept),
        split=text_column([splits[row] for row in kept]),
        notes=(*manifest.notes, note),
    ), kept


def of_test_persons(manifest: Manifest, ids: Sequence[str], where: str) -> Manifest:
    """Rows of other persons get the split `other`, which no protocol asks. DataError if nobody is
    left."""
    wanted = {_plain(text) for text in ids}
    names = manifest.extra.get(PERSON_NAME)
    persons = manifest.person_id.tolist() if names is None else names.tolist()
    texts = [each.decode() if isinstance(each, bytes) else str(each) for each in persons]
    tested = np.array([_plain(text) in wanted for text in texts], np.bool_)
    if not tested.any():
        raise DataError(f"{where}: none of its {len(ids):,} persons is in {manifest.root}")
    splits = [s if t else OTHER.encode() for s, t in zip(manifest.split, tested, strict=True)]
    others = counted(int((~tested).sum()), "row")
    note = f"{counted(len(wanted), 'test person')}; of others {others} left out"
    return replace(manifest, split=text_column(splits), notes=(*manifest.notes, note))


def read_ids(file: Path) -> list[str]:
    """The persons in a file, separated by commas, spaces or lines, as in SYSU-MM01's test_id.txt.
    DataError without any."""
    try:
        text = file.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}; check its name") from error
    ids = [each for each in re.split(r"[\s,;]+", text) if each]
    if not ids:
        raise DataError(f"{file}: no person in it; write the test persons, separated by commas")
    return ids


def _plain(text: str) -> str:
    return str(int(text)) if re.fullmatch(r"\d{1,18}", text) else text.removesuffix(".0")
