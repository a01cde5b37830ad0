"""Which rows are one tracklet's, and whether they can be."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from distreid.data.manifest import TRACKLET, Manifest
from distreid.errors import DataError


def owners(
    manifest: Manifest, rows: NDArray[np.intp], column: str = TRACKLET
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The place of each tracklet's first row, ascending, and the tracklet's number for each
    row. A row without a tracklet is one by itself."""
    names = manifest.extra[column][rows]
    keys = np.unique(names, return_inverse=True)[1].astype(np.intp)
    alone = names == b""
    keys[alone] = len(rows) + np.arange(alone.sum())
    _, first, which = np.unique(keys, return_index=True, return_inverse=True)
    number = np.empty(len(first), np.intp)
    number[np.argsort(first)] = np.arange(len(first))
    return np.sort(first), number[which]


def check_tracklets(
    manifest: Manifest,
    rows: NDArray[np.intp],
    first: NDArray[np.intp],
    owner: NDArray[np.intp],
    tracklet: str = TRACKLET,
) -> None:
    """DataError names a row that shows another person or camera than its tracklet's first."""
    for name in ("person_id", "camera_id"):
        column = getattr(manifest, name)[rows]
        if (differing := column != column[first][owner]).any():
            row = rows[np.flatnonzero(differing)[0]]
            raise DataError(
                f"{manifest.file(row)}: row {row} (from 0) has another {name} than the first image "
                f"of its tracklet; mend the column {tracklet}"
            )
