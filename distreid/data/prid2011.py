"""PRID2011: tracklets of two cameras, and ten halves of the persons. Each image is a row."""

from __future__ import annotations

import json
from pathlib import Path

from distreid.data.image_files import FoundRows, LayoutRequest, has, whole
from distreid.data.manifest import GALLERY, QUERY, Manifest
from distreid.data.video import manifest_of_tracklets, tracklets_of_cameras
from distreid.errors import DataError

SPLITS = "splits_prid2011.json"
HALVES = "prid2011_halves"  # the layout of all ten
PERSON = "person_"  # begins the name of a person's folder
CAMERAS = {QUERY: "cam_a", GALLERY: "cam_b"}


def prid2011(root: Path, asked: LayoutRequest) -> Manifest:
    """`multi_shot/cam_a/` is query, `cam_b/` gallery: a folder `person_0001` of each is a tracklet.

    The persons are those of `test` in an entry of torchreid's `splits_prid2011.json`; without the
    file all that both cameras see. As `prid2011_halves` it is the persons of all entries, and
    `extra/trials` has the numbers, from 1, of the entries that a person is in.
    """
    nested = next((name for name in ("prid_2011/", "") if has(root, f"{name}multi_shot/")), "")
    found = FoundRows()
    folders = {split: f"{nested}multi_shot/{name}" for split, name in CAMERAS.items()}
    rows = tracklets_of_cameras(root, asked, folders, PERSON, found)
    both = {row[1] for row in rows[QUERY]} & {row[1] for row in rows[GALLERY]}
    halves = _halves(root, both)
    trials: dict[int, list[str]] = {}
    if asked.layout == HALVES:
        if not halves:
            raise DataError(f"{root}: no {SPLITS}, which tells the ten halves; copy it there")
        for trial, half in enumerate(halves, start=1):
            for person in half:
                trials.setdefault(person, []).append(str(trial))
        wanted = set(trials)
        found.notes.append(f"all persons, with the {len(halves)} halves that each is in")
    elif halves:
        if asked.split >= len(halves):
            raise DataError(f"{root}: {SPLITS} has {len(halves)} entries, none is {asked.split}")
        wanted = halves[asked.split]
        found.notes.append(f"split {asked.split} of 0 to {len(halves) - 1}")
    else:
        wanted = both
        found.notes.append(f"all {len(both):,} persons of both cameras: no {SPLITS}")
    with_trials = trials if asked.layout == HALVES else None
    return manifest_of_tracklets(root, asked, found, rows, wanted, with_trials)


def _halves(root: Path, both: set[int]) -> list[set[int]]:
    """The test persons of each entry; none without the file, DataError if it is damaged."""
    folder = next((each for each in (root, root.parent) if has(each, SPLITS)), None)
    if folder is None:
        return []
    file = folder / SPLITS
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
        if not entries:
            raise ValueError("it has no entry")
        halves = [
            {whole(name.removeprefix(PERSON), str(file), "person") for name in entry["test"]}
            for entry in entries
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file}: damaged; copy it again") from error
    if missing := sorted(set().union(*halves) - both):
        raise DataError(
            f"{file}: person {missing[0]} is tested, and is not in both cameras; copy the data "
            "again"
        )
    return halves
