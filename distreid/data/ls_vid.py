"""LS-VID: tracklets of a list, with the numbers of those that ask. Each image is a row."""

from __future__ import annotations

import bisect
import io
import os
import re
from pathlib import Path

import h5py
import numpy as np

from distreid.data.image_files import (
    FoundRows,
    LayoutRequest,
    has,
    images,
    in_order,
    lines,
    name_and_number,
    need,
)
from distreid.data.manifest import GALLERY, JUNK, QUERY, TRACKLET, Manifest
from distreid.errors import DataError

LIST = "list_sequence/list_seq_test.txt"
QUERIES = "data/info_test.mat"
# The camera is the third word of a frame's name: `0003_0001_12_0000001.jpg` is of camera 12.
CAMERA = re.compile(rb"[^_]*_[^_]*_(\d{1,9})(?:_|\.)")


def ls_vid(root: Path, asked: LayoutRequest) -> Manifest:
    """A line of `list_sequence/list_seq_test.txt` is a tracklet: how the paths of its images begin,
    and its person. `query` in `test/data/info_test.mat`, HDF5, has the lines that ask, from 1.

    The other tracklets are the gallery: 3,504 and 7,829 as published. Junk (-1) is left out, as in
    the projects that read LS-VID. `extra/tracklet` is the line. DataError for a tracklet without
    images, and for an image in two.
    """
    of_lists = "info/" if has(root, f"info/{LIST}") else ""
    listed = need(root, of_lists + LIST, asked.layout)
    of_queries = "info/" if has(root, f"info/{QUERIES}") else "test/"
    queries = _queries(need(root, of_queries + QUERIES, asked.layout))
    tracklets = [(where, *name_and_number(where, line)) for where, line in lines(listed)]
    if len(queries) and not 1 <= queries.min() <= queries.max() <= len(tracklets):
        raise DataError(
            f"{root / of_queries / QUERIES}: asks with lines {queries.min()} to {queries.max()}, "
            f"and {listed} has {len(tracklets):,}; copy both again"
        )
    folders = sorted({os.fsdecode(prefix).split("/")[0] for _, prefix, _ in tracklets})
    paths, notes = [], []
    for folder in folders:
        found_there, ignored = images(need(root, folder + "/", asked.layout))
        paths += [os.fsencode(folder) + b"/" + path for path in found_there]
        notes += [f"{folder}: {note}" for note in ignored]
    paths.sort()
    found = FoundRows(notes=notes)
    numbers: list[str] = []
    rows: dict[str, list[tuple[bytes, int, int, int]]] = {QUERY: [], GALLERY: []}
    asking = {*queries.tolist()}
    used: dict[bytes, int] = {}
    junk = 0
    for number, (where, prefix, person) in enumerate(tracklets, start=1):
        start = bisect.bisect_left(paths, prefix)
        its = paths[start : bisect.bisect_left(paths, prefix + b"\xff", start)]
        if not its:
            raise DataError(f"{where}: no image begins with {os.fsdecode(prefix)!r}; copy it again")
        for path in its:
            if used.setdefault(path, number) != number:
                raise DataError(
                    f"{where}: {os.fsdecode(path)!r} is of line {used[path]} too; mend the list"
                )
        if person == JUNK:
            junk += 1
            continue
        split = QUERY if number in asking else GALLERY
        rows[split] += [(path, person, _camera(path, where), number) for path in its]
    for split, of_split in rows.items():
        for path, person, camera, number in sorted(of_split, key=lambda row: in_order(row[0])):
            found.add(path, person, camera, split)
            numbers.append(str(number))
    if junk:
        found.notes.append(f"{junk:,} junk tracklets (-1) left out")
    return found.manifest(root, asked.layout, extra={TRACKLET: numbers})


def _camera(path: bytes, where: str) -> int:
    match = CAMERA.match(path.rpartition(b"/")[2])
    if match is None:
        raise DataError(
            f"{where}: {os.fsdecode(path)!r} tells no camera; names are such as "
            "0003_0001_12_0000001.jpg, whose camera is 12"
        )
    return int(match[1])


def _queries(file: Path) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    try:
        with h5py.File(io.BytesIO(file.read_bytes()), "r") as hdf5:
            return np.asarray(hdf5["query"][()]).ravel().astype(np.int64)
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise DataError(
            f"{file}: no MATLAB file of version 7.3 with `query` ({' '.join(str(error).split())})"
        ) from error
