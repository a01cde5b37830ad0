"""MSMT17: list files beside the images."""

from __future__ import annotations

import os
from pathlib import Path

from distreid.data.image_files import (
    FoundRows,
    LayoutRequest,
    has,
    lines,
    name_and_number,
    need,
    whole,
)
from distreid.data.manifest import GALLERY, QUERY, Manifest
from distreid.errors import DataError

EXAMPLE = "0000/0000_000_01_0303morning_0008_0.jpg"
FOLDERS = {"test": "V1", "mask_test_v2": "V2, with blurred faces"}


def msmt17(root: Path, asked: LayoutRequest) -> Manifest:
    """`list_query.txt` and `list_gallery.txt` over `test/` (V1) or `mask_test_v2/` (V2)."""
    folder = next((name for name in FOLDERS if has(root, name + "/")), None)
    if folder is None:
        raise DataError(
            f"{root}: no folder test (V1) or mask_test_v2 (V2), one of which msmt17 has"
        )
    found = FoundRows(notes=[f"MSMT17 {FOLDERS[folder]}"])
    for split in (QUERY, GALLERY):
        rows = []
        for where, line in lines(need(root, f"list_{split}.txt", asked.layout)):
            name, person = name_and_number(where, line)
            rows.append((os.fsencode(folder) + b"/" + name, person, _camera(where, name)))
        found.add_sorted(rows, split)
    return found.manifest(root, asked.layout)


def _camera(where: str, name: bytes) -> int:
    """The third word of the name, as all peers read it; counted from 1."""
    words = os.path.basename(os.fsdecode(name)).split("_")
    if len(words) < 4:
        raise DataError(f"{where}: {os.fsdecode(name)!r} is not named like {EXAMPLE}")
    return whole(words[2], where, "camera")
