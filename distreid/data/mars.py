"""MARS: tracklets. Each image is a row; the rows of a tracklet become one feature when scored."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distreid.data.image_files import FoundRows, LayoutRequest, in_order, lines, matrices, need
from distreid.data.manifest import GALLERY, JUNK, QUERY, TRACKLET, Manifest
from distreid.errors import DataError
from distreid.host.counts import counted


def mars(root: Path, asked: LayoutRequest) -> Manifest:
    """`bbox_test/` by `info/tracks_test_info.mat`, `query_IDX.mat` and `test_name.txt`.

    Junk tracklets (-1) are left out, as torchreid does; distractors (0) are kept. The column
    `extra/tracklet` numbers the tracklets as the .mat file does, from 1.
    """
    need(root, "bbox_test/", asked.layout)
    names = [name for _, name in lines(need(root, "info/test_name.txt", asked.layout))]
    track_file = need(root, "info/tracks_test_info.mat", asked.layout)
    tracks_T4 = _tracks(track_file, len(names))
    query_file = need(root, "info/query_IDX.mat", asked.layout)
    queries = matrices(query_file, "query_IDX")[0]
    numbers = np.arange(1, len(tracks_T4) + 1)
    if len(wrong := queries[~np.isin(queries, numbers)]):
        raise DataError(
            f"{query_file}: asks with tracklet {wrong[0]:g}, and {track_file} has "
            f"{len(tracks_T4):,}; copy both again"
        )
    is_query = np.isin(numbers, queries)
    is_junk = tracks_T4[:, 2] == JUNK
    found = FoundRows()
    tracklets: list[str] = []
    for split, wanted in ((QUERY, is_query & ~is_junk), (GALLERY, ~is_query & ~is_junk)):
        rows = []
        for track in np.flatnonzero(wanted).tolist():
            start, stop, person, camera = tracks_T4[track].tolist()
            rows += [(_path(name), person, camera, track + 1) for name in names[start - 1 : stop]]
        for path, person, camera, track in sorted(rows, key=lambda row: in_order(row[0])):
            found.add(path, person, camera, split)
            tracklets.append(str(track))
    if is_junk.any():
        found.notes.append(f"{is_junk.sum():,} junk tracklets (-1) left out, as torchreid does")
    if lacking := len(names) - int((tracks_T4[:, 1] - tracks_T4[:, 0] + 1).sum()):
        images = counted(lacking, "image")
        found.notes.append(f"{images} of test_name.txt in no tracklet: left out")
    return found.manifest(root, asked.layout, extra={TRACKLET: tracklets})


def _tracks(file: Path, names: int) -> NDArray[np.int64]:
    """First and last image, from 1, person and camera of each tracklet. DataError if these do not
    fit the names, or an image is of two tracklets."""
    found = matrices(file, "track_test_info")[0]
    if found.shape[1:] != (4,) or not np.all(np.isfinite(found) & (found == np.trunc(found))):
        raise DataError(f"{file}: no matrix of four columns of whole numbers; copy it again")
    tracks_T4: NDArray[np.int64] = found.astype(np.int64)
    if tracks_T4[:, 0].min(initial=1) < 1 or tracks_T4[:, 1].max(initial=0) > names:
        raise DataError(f"{file}: names images that test_name.txt, of {names}, has not")
    last, before = 0, 0
    for track in np.argsort(tracks_T4[:, 0], kind="stable").tolist():
        start, stop = tracks_T4[track, :2].tolist()
        if stop < start:
            raise DataError(f"{file}: tracklet {track + 1} ends before it begins; copy it again")
        if start <= last:
            raise DataError(
                f"{file}: image {start} is of tracklets {before} and {track + 1}; copy it again"
            )
        last, before = stop, track + 1
    return tracks_T4


def label(name: bytes) -> tuple[int, int] | None:
    """Person and camera, as `0000C1T0001F001.jpg` tells them; 00-1 is junk."""
    match = re.match(rb"(\d{4}|00-1)C(\d)T", name)
    return match and (JUNK if match[1] == b"00-1" else int(match[1]), int(match[2]))


def _path(name: str) -> bytes:
    """Images lie in the folder that the first four characters of their names tell."""
    return os.fsencode(f"bbox_test/{name[:4]}/{name}")
