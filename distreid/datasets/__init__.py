"""From a folder or a CSV to a Manifest: a table of layouts, a file for each kind.

Within a split, files are sorted by the bytes of their path, folder by folder, so that every
machine sees one order; only a CSV keeps its own. Images are not opened: a file that is no image
is found at extraction.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

from distreid.datasets import market
from distreid.datasets.files import Asked, has, images, subfolders
from distreid.datasets.layouts import LAYOUTS, OTHER_WAYS
from distreid.errors import DataError, OptionError
from distreid.manifest import Manifest

__all__ = ["LAYOUTS", "SAMPLE", "SAMPLE_FOLDER", "open_data", "recognise"]

SAMPLE = "sample"
SAMPLE_FOLDER = Path(__file__).parent.parent / "sample" / "market"


def recognise(data: Path) -> str:
    """The layout that the data is in, a key of `LAYOUTS`; what fits nothing else is a folder."""
    if data.is_file():
        return "csv"
    if layout := _known_benchmark(data):
        return layout
    for child in subfolders(data):
        if layout := _known_benchmark(child):
            raise DataError(
                f"{data}: its folder {child.name} looks like a {layout} data set; "
                f"give --data {child}, or --layout folder to take all images below {data}"
            )
    paths, _ = images(data)
    depths = Counter(path.count(b"/") for path in paths)
    return "imagefolder" if paths and set(depths) == {1} else "folder"


def open_data(
    data: str,
    layout: str = "auto",
    multi_query: bool = False,
    *,
    split: int = 0,
    pattern: str = "",
) -> Manifest:
    """The manifest of what the user named: a folder, a CSV, or the built-in `sample`.

    Raises DataError if there is no such thing, a part of it is missing, or no image is in it;
    OptionError if the layout has no such split, multi-query images or pattern.
    """
    place = SAMPLE_FOLDER if data == SAMPLE else Path(data)
    if pattern and layout == "auto":
        layout = "pattern"
    try:
        if not place.exists():
            raise DataError(f"{place}: no such file or folder; check --data")
        taken = recognise(place) if layout == "auto" else layout
        asked = Asked(layout=taken, multi_query=multi_query, split=split, pattern=pattern)
        manifest = _open(place, asked)
    except OSError as error:
        where = os.fsdecode(error.filename or data)  # os.walk names folders in bytes
        raise DataError(f"{where}: {error.strerror}; check its permissions") from error
    if len(manifest) == 0:
        what = "the CSV has no row" if manifest.layout == "csv" else "no image in this folder"
        raise DataError(
            f"{place}: {what}; check --data" + "".join(f"; {n}" for n in manifest.notes)
        )
    if layout == "auto" and taken in OTHER_WAYS:
        manifest = replace(manifest, notes=(*manifest.notes, OTHER_WAYS[taken]))
    return manifest


def _open(place: Path, asked: Asked) -> Manifest:
    name, layout = asked.layout, LAYOUTS[asked.layout]
    if place.is_file() != (name == "csv"):
        expected = "a CSV file" if name == "csv" else "a folder"
        raise DataError(f"{place}: --layout {name} reads {expected}, and this is none")
    if not 0 <= asked.split < layout.splits:
        raise OptionError(f"--split {asked.split}: {name} has splits 0 to {layout.splits - 1}")
    if asked.multi_query and not layout.multi_query:
        raise OptionError(f"--multi-query: {name} has no multi-query images")
    if bool(asked.pattern) != (name == "pattern"):
        raise OptionError(f"--pattern and --layout {name}: a pattern goes with --layout pattern")
    # Absolute, so that the run can be continued from another working directory.
    return layout.read(place.resolve(), asked)


def _known_benchmark(root: Path) -> str:
    for name, layout in LAYOUTS.items():
        if any(all(has(root, part) for part in parts) for parts in layout.marks):
            return market.kind(root) if name == "market1501" else name
    return ""
