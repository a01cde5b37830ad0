"""Tracklets: rows that show one person in one camera, one after another, become one feature."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from distreid.data.manifest import TRACKLET
from distreid.data.tracklet_rows import check_tracklets, owners
from distreid.store import FeatureStore


def first_rows(
    store: FeatureStore, rows: NDArray[np.intp], column: str = TRACKLET
) -> NDArray[np.intp]:
    """The first of the ascending rows of each tracklet, ascending; all rows if the data has
    no such column."""
    if column not in store.manifest.extra:
        return rows
    wanted: NDArray[np.intp] = rows[owners(store.manifest, rows, column)[0]]
    return wanted


def pool(
    store: FeatureStore, rows: NDArray[np.intp], column: str = TRACKLET, *, raw: bool = True
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """One feature for each tracklet of ascending rows, in the order of `first_rows`.

    It is the mean of what the model gave (norm × feature), as torchreid's video engine pools by
    default, here over all images of the tracklet; without `raw`, the mean of the normalised
    features. Gives the means' (T, D) directions and (T,) norms. DataError if a tracklet shows
    several persons or cameras.
    """
    first, owner = owners(store.manifest, rows, column)
    check_tracklets(store.manifest, rows, first, owner, column)
    total_TD = np.zeros((len(first), store.plan.dim))
    start = 0
    for piece in store.pieces(rows):
        stop = start + len(piece)
        features = piece.astype(np.float64)
        if raw:
            features *= store.norm[rows[start:stop], None]
        runs = np.flatnonzero(np.diff(owner[start:stop], prepend=-1))
        np.add.at(total_TD, owner[start:stop][runs], np.add.reduceat(features, runs, axis=0))
        start = stop
    mean_TD = total_TD / np.bincount(owner)[:, None]
    norm_T = np.linalg.norm(mean_TD, axis=1)
    return (mean_TD / norm_T[:, None]).astype(np.float32), norm_T.astype(np.float32)
