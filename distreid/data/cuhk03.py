"""CUHK03: labeled or detected boxes, the new protocol or the classic one."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from distreid.data.image_files import (
    FoundRows,
    LayoutRequest,
    has,
    images,
    matrices,
    need,
    torchreid_queries,
)
from distreid.data.manifest import BOTH, GALLERY, QUERY, Manifest
from distreid.data.mat_images import pixels_of
from distreid.errors import DataError

MAT_PLACES = ("cuhk03_release/cuhk-03.mat", "cuhk-03.mat")
# The pair of cameras, the person in it, the view, the image: as torchreid names them.
NAME = re.compile(r"(\d)_(\d{3,})_([12])_\d\d\.png")
SPLITS = "splits_classic_{}.json"
TESTED = 100  # persons of a classic split
IMAGES = 10  # of a person at most, five of each view

Person = tuple[int, int]
"""The pair of cameras, and the person in it; both from 1."""


def cuhk03(root: Path, asked: LayoutRequest) -> Manifest:
    """The new protocol of 767 and 700 persons, as `cuhk03_new_protocol_config_*.mat` lists it.

    Images come from `images_detected/` or `images_labeled/` if that was unpacked, else from
    cuhk-03.mat. The camera is the view, 1 or 2. The config is that of zhunzhong07's
    person-re-ranking, in the folder or in cuhk03_release/.
    """
    kind = _kind(asked.layout)
    config = f"cuhk03_new_protocol_config_{kind}.mat"
    nested = f"cuhk03_release/{config}"
    file = need(root, nested if has(root, nested) else config, asked.layout)
    place = _place(root, kind, asked.layout)
    files, labels, *rows = matrices(file, "filelist", "labels", f"{QUERY}_idx", f"{GALLERY}_idx")
    try:
        names = [str(name) for name in files.ravel()]
        persons = labels.ravel().tolist()
        # MATLAB counts from 1.
        listed = [
            [(names[int(i) - 1], int(persons[int(i) - 1])) for i in each.ravel()] for each in rows
        ]
    except (ValueError, IndexError, TypeError) as error:
        raise DataError(f"{file}: its matrices do not fit each other ({error})") from error
    found = FoundRows(notes=[f"{kind} boxes, from {place}"])
    for split, entries in zip((QUERY, GALLERY), listed, strict=True):
        found.add_sorted(
            [(_path(place, name), person, _parsed(file, name)[1]) for name, person in entries],
            split,
        )
    return found.manifest(root, asked.layout)


def cuhk03_classic(root: Path, asked: LayoutRequest) -> Manifest:
    """One of the 20 splits with 100 test persons; each image is query and gallery.

    The persons come from `testsets` of cuhk-03.mat, or from torchreid's splits_classic_*.json;
    without either, all are taken if they are 100 at most. A person's number is 1000 × the pair of
    cameras + the person in it.
    """
    kind = _kind(asked.layout)
    place = _place(root, kind, asked.layout)
    mat = _mat(root)
    listed = mat or has(root, SPLITS.format(kind))
    persons = _testset(mat, asked.split) if mat else _testset_of_json(root, kind, asked)
    names = (
        _names_in_mat(mat, kind, persons)
        if mat and persons is not None
        else _names_in(root / place, persons)
    )
    found = FoundRows(
        notes=[
            f"{kind} boxes, from {place}",
            f"split {asked.split} of 0 to 19; query and gallery are the same images"
            if listed
            else f"all persons: no {SPLITS.format(kind)} says which are tested",
        ]
    )
    rows = []
    for name in names:
        (pair, number), view = _parsed(root / place, name)
        rows.append((_path(place, name), 1000 * pair + number, view))
    found.add_sorted(rows, BOTH)
    return found.manifest(root, asked.layout)


def _kind(layout: str) -> str:
    return layout.rpartition("_")[2]


def _mat(root: Path) -> Path | None:
    return next((root / place for place in MAT_PLACES if has(root, place)), None)


def _place(root: Path, kind: str, layout: str) -> str:
    """Where the images are: a folder below the root, or a part of the .mat file."""
    if has(root, f"images_{kind}/"):
        return f"images_{kind}"
    if mat := _mat(root):
        return f"{mat.relative_to(root)}#{kind}"
    raise DataError(
        f"{root}: neither {MAT_PLACES[0]} nor the folder images_{kind}, one of which {layout} has"
    )


def _path(place: str, name: str) -> bytes:
    return os.fsencode(f"{place}/{name}")


def _parsed(file: Path, name: str) -> tuple[Person, int]:
    """Person and view of an image's name."""
    match = NAME.fullmatch(name)
    if match is None:
        raise DataError(f"{file}: {name!r} is not named like 1_001_1_01.png")
    return (int(match[1]), int(match[2])), int(match[3])


def _testset(mat: Path, split: int) -> set[Person]:
    """The persons of a classic split."""
    with _opened(mat) as file:
        pairs_2P = file[file["testsets"][0, split]][()].astype(np.int64)
    return set(zip(*pairs_2P.tolist(), strict=True))


def _names_in_mat(mat: Path, kind: str, persons: set[Person]) -> list[str]:
    """The images that persons have in the .mat file; other cells are empty."""
    names = []
    with _opened(mat) as file:
        for pair, person in sorted(persons):
            cells = file[file[kind][0, pair - 1]]
            for image in range(IMAGES):
                if pixels_of(file[cells[image, person - 1]]) is not None:
                    view = 1 if image < IMAGES // 2 else 2
                    names.append(f"{pair}_{person:03d}_{view}_{image + 1:02d}.png")
    return names


@contextlib.contextmanager
def _opened(mat: Path) -> Iterator[h5py.File]:
    try:
        with h5py.File(mat, "r") as file:
            yield file
    except (OSError, KeyError, ValueError, TypeError, IndexError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{mat}: not arranged as CUHK03's own file is ({reason})") from error


def _testset_of_json(root: Path, kind: str, asked: LayoutRequest) -> set[Person] | None:
    """The persons of a classic split as torchreid saved it; None for all, where there is no file
    of splits and they are not more than those of one."""
    if not has(root, SPLITS.format(kind)) and not asked.split:
        folder = root / f"images_{kind}"
        persons = {_parsed(folder, name)[0] for name in _names_in(folder, None)}
        if len(persons) <= TESTED:
            return None
    file = need(root, SPLITS.format(kind), asked.layout)
    return {_parsed(file, name)[0] for name in torchreid_queries(file, asked.split)}


def _names_in(folder: Path, persons: set[Person] | None) -> list[str]:
    names = [name for name in map(os.fsdecode, images(folder)[0]) if NAME.fullmatch(name)]
    return [n for n in names if persons is None or _parsed(folder, n)[0] in persons]
