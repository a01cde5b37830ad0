"""SYSU-MM01, RegDB and LLCM: visible and infrared or thermal images of the same persons."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from distreid.data.image_files import (
    FoundRows,
    LayoutRequest,
    has,
    images,
    lines,
    name_and_number,
    need,
    whole,
)
from distreid.data.manifest import GALLERY, QUERY, Manifest, text_column
from distreid.data.mat_arrays import read_cells
from distreid.data.roles import read_ids
from distreid.errors import DataError

MODALITY = "modality"
TRIALS = "trials"  # the numbers, from 1, of the data set's own halves that a row is in
PERMUTATION = "permutation"  # of a row, its place, from 1, in each of the data set's ten orders
VISIBLE, INFRARED, THERMAL = "visible", "infrared", "thermal"
SYSU_INFRARED = (3, 6)
SYSU_CAMERAS = (1, 2, 3, 4, 5, 6)
PERMUTATIONS = "exp/rand_perm_cam.mat"
REGDB_TRIALS = range(1, 11)


def sysu_mm01(root: Path, asked: LayoutRequest) -> Manifest:
    """`cam1/PERSON/` to `cam6/`, of the persons in `exp/test_id.txt`: infrared images (cameras 3
    and 6) are query, visible ones gallery. `extra/permutation` is of `exp/rand_perm_cam.mat`, the
    official draws, where that is there."""
    ids = read_ids(need(root, "exp/test_id.txt", asked.layout))
    tested = {whole(text, f"{root}/exp/test_id.txt", "person") for text in ids}
    found = FoundRows(notes=[f"{len(tested):,} test persons, by exp/test_id.txt"])
    # Infrared first, for they are the queries.
    cameras = sorted(SYSU_CAMERAS, key=lambda camera: camera not in SYSU_INFRARED)
    for camera in cameras:
        if has(root, f"cam{camera}/"):
            split = QUERY if camera in SYSU_INFRARED else GALLERY
            _add(found, root, f"cam{camera}", camera, split, tested)
    modality = [INFRARED if camera in SYSU_INFRARED else VISIBLE for camera in found.camera_id]
    extra = {MODALITY: modality}
    if has(root, PERMUTATIONS):
        extra[PERMUTATION] = _places(root / PERMUTATIONS, found)
        found.notes.append(f"draws by {PERMUTATIONS}, the official permutations")
    return found.manifest(root, asked.layout, extra=extra)


def llcm(root: Path, asked: LayoutRequest) -> Manifest:
    """`test_nir/cam1/PERSON/` … are query, `test_vis/cam1/PERSON/` … gallery, of the persons in
    `idx/test_id.txt`."""
    ids = read_ids(need(root, "idx/test_id.txt", asked.layout))
    tested = {whole(text, f"{root}/idx/test_id.txt", "person") for text in ids}
    found = FoundRows(notes=[f"{len(tested):,} test persons, by idx/test_id.txt"])
    for split, folder in ((QUERY, "test_nir"), (GALLERY, "test_vis")):
        need(root, folder + "/", asked.layout)
        for camera in range(1, 10):
            if has(root, f"{folder}/cam{camera}/"):
                _add(found, root, f"{folder}/cam{camera}", camera, split, tested)
    modality = [INFRARED if split == QUERY else VISIBLE for split in found.split]
    return found.manifest(root, asked.layout, extra={MODALITY: modality})


def regdb(root: Path, asked: LayoutRequest) -> Manifest:
    """`Visible/PERSON/` are query, `Thermal/PERSON/` gallery, each image that is in one of
    `idx/test_visible_1.txt` to `_10.txt` and `idx/test_thermal_1.txt` …; `extra/trials` says in
    which. The person is the folder's number."""
    found = FoundRows()
    trials: list[str] = []
    modalities: list[str] = []
    for camera, (split, modality) in enumerate(((QUERY, VISIBLE), (GALLERY, THERMAL)), start=1):
        trials_of: dict[bytes, list[int]] = defaultdict(list)
        for trial in REGDB_TRIALS:
            name = f"idx/test_{modality}_{trial}.txt"
            for where, line in lines(need(root, name, asked.layout)):
                trials_of[name_and_number(where, line)[0]].append(trial)
        rows = []
        for path in trials_of:
            folder = os.fsdecode(path).split("/")[-2:-1]
            person = whole("".join(folder), f"{root}/{os.fsdecode(path)}", "person's folder")
            rows.append((path, person, camera))
        before = len(found.path)
        found.add_sorted(rows, split)
        trials += [" ".join(map(str, trials_of[path])) for path in found.path[before:]]
        modalities += [modality] * len(rows)
    found.notes.append("ten halves of the persons, by idx/")
    return found.manifest(root, asked.layout, extra={MODALITY: modalities, TRIALS: trials})


def with_trials(manifest: Manifest) -> Manifest:
    """A table's rows with RegDB's halves, by their paths, where its `idx/` lies beside the table
    and the table has no such column."""
    if TRIALS in manifest.extra or not has(manifest.root, "idx/test_visible_1.txt"):
        return manifest
    trials_of: dict[bytes, list[str]] = defaultdict(list)
    for trial in REGDB_TRIALS:
        for modality in (VISIBLE, THERMAL):
            name = f"idx/test_{modality}_{trial}.txt"
            for where, line in lines(need(manifest.root, name, "regdb")):
                trials_of[name_and_number(where, line)[0]].append(str(trial))
    trials = [" ".join(trials_of.get(path, [])).encode() for path in manifest.path.tolist()]
    if not any(trials):
        return manifest
    return replace(
        manifest,
        extra=manifest.extra | {TRIALS: text_column(trials)},
        notes=(*manifest.notes, "ten halves of the persons, by idx/"),
    )


def _add(
    found: FoundRows, root: Path, folder: str, camera: int, split: str, tested: set[int]
) -> None:
    """The images of a camera's folder, of the test persons."""
    paths, notes = images(root / folder)
    found.notes += [f"{folder}: {note}" for note in notes]
    for path in paths:
        where = str(root / folder / os.fsdecode(path))
        person = whole(os.fsdecode(path).split("/")[0], where, "person's folder")
        if person in tested:
            found.add(os.fsencode(folder) + b"/" + path, person, camera, split)


def _places(file: Path, found: FoundRows) -> list[str]:
    """Of each row, its place in the permutations of its person's images in its camera."""
    cameras = read_cells(file, "rand_perm_cam")
    rows_of: dict[tuple[int, int], list[int]] = defaultdict(list)
    for row, key in enumerate(zip(found.camera_id, found.person_id, strict=True)):
        rows_of[key].append(row)  # in the order of their names
    places = [""] * len(found.path)
    for (camera, person), rows in rows_of.items():
        try:
            orders = cameras[camera - 1][person - 1]
            if not len(orders):
                continue
            numbers: Sequence[Sequence[int]] = [[int(n) for n in order] for order in orders]
            for number, row in enumerate(rows, start=1):
                places[row] = " ".join(str(order.index(number) + 1) for order in numbers)
        except (IndexError, TypeError, ValueError) as error:
            raise DataError(
                f"{file}: no permutations of the {len(rows)} images of person {person} in camera "
                f"{camera}; copy the data again"
            ) from error
    return places
