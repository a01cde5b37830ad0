"""From a folder or a CSV to a Manifest: a table of layouts, a file for each kind.

Within a split, files are sorted by the bytes of their path, folder by folder, so that every
machine sees one order; only a CSV keeps its own. Images are not opened: a file that is no image
is found at extraction.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from distreid.data import market
from distreid.data.archive_tree import ArchiveTree, ShardFolder, archive_place, is_archive
from distreid.data.archives import archives_of, in_archive_order, index_of
from distreid.data.box_files import sequences
from distreid.data.box_request import BoxRequest
from distreid.data.found_boxes import ID_COLUMN
from distreid.data.image_files import LayoutRequest, has, images, subfolders
from distreid.data.labelled_members import is_table, recognise_members
from distreid.data.layouts import LAYOUTS, OTHER_WAYS
from distreid.data.locators import (
    COMPRESSED_TAR,
    OBJECTS,
    SCHEMES,
    kind_of,
    locate,
    member_of,
    path_of,
)
from distreid.data.manifest import GALLERY, QUERY, Manifest
from distreid.data.split_folders import parts_below
from distreid.data.video_frames import chosen
from distreid.errors import DataError, OptionError
from distreid.host.counts import counted

__all__ = [
    "LAYOUTS",
    "SAMPLE",
    "SAMPLE_FOLDER",
    "SAMPLE_VIDEO",
    "SAMPLE_VIDEO_FOLDER",
    "open_data",
    "recognise",
]

# What has texts for persons and cameras, and words for splits.
WITH_IDS = (
    *("split_folders", "webdataset", "image_column", "frames", "motchallenge", "imagefolder"),
    *("csv", "pattern"),
)
WITH_SPLIT_NAMES = ("split_folders", "webdataset", "image_column", "frames", "csv", "pattern")
WITH_COLUMNS = ("webdataset", "image_column", "frames", "motchallenge", "csv")
WITH_BOXES = ("cuhk_sysu", "prw", "motchallenge", "frames")
SAMPLE = "sample"
SAMPLE_FOLDER = Path(__file__).parent.parent / "sample" / "market"
SAMPLE_VIDEO = "sample-video"
SAMPLE_VIDEO_FOLDER = SAMPLE_FOLDER.with_name("video")
BUILT_IN = {SAMPLE: SAMPLE_FOLDER, SAMPLE_VIDEO: SAMPLE_VIDEO_FOLDER}


def recognise(data: Path) -> str:
    """The layout that the data is in, a key of `LAYOUTS`; what fits nothing else is a folder."""
    if data.is_file():
        return "csv"
    if layout := recognise_members(data):
        return layout
    if sequences(data):
        return "motchallenge"
    if layout := _known_benchmark(data):
        return layout
    if parts_below(data, {}):
        return "split_folders"
    for child in subfolders(data):
        layout = _known_benchmark(child) or _of_splits(child)
        if layout and _can_be_opened(child, layout):
            raise DataError(
                f"{data}: its folder {child.name} looks like a {layout} data set; "
                f"give --data {child}, or --layout folder to take all images below {data}"
            )
    paths, _ = images(data)
    # Of several videos or archives, none is a person.
    in_folders = all(path.count(b"/") == 1 and b"#/" not in path for path in paths)
    return "imagefolder" if paths and in_folders else "folder"


def open_data(
    data: str,
    layout: str = "auto",
    multi_query: bool = False,
    *,
    split: int = 0,
    pattern: str = "",
    ids: str = "auto",
    columns: Mapping[str, str] | None = None,
    split_names: Mapping[str, str] | None = None,
    boxes: BoxRequest | None = None,
    every: str = "",
) -> Manifest:
    """The manifest of what the user named: a folder, archives, a CSV, the built-in `sample`, or
    `sample-video`, whose boxes lie beside its videos, with ids that are persons.

    `ids`, `columns`, `split_names` and `boxes` are as in `LayoutRequest`, `every` as in
    `video_frames.chosen`.

    Raises DataError if there is no such thing, a part of it is missing, or no image is in it;
    OptionError if the layout has no such split, multi-query images or pattern.
    """
    if data == SAMPLE_VIDEO and layout in ("auto", "frames"):
        boxes = boxes or BoxRequest()
        if boxes.file is None:
            boxes = replace(boxes, file=str(SAMPLE_VIDEO_FOLDER))
            columns = {"person_id": ID_COLUMN, **(columns or {})}
    data = os.fspath(BUILT_IN.get(data, data))
    place = Path(data)
    if pattern and layout == "auto":
        layout = "pattern"
    try:
        if layout != "csv" and (layout == "image_column" or not is_table(place)):
            place = archive_place(data) or place
        if not place.exists():
            scheme, is_address, _ = data.partition("://")
            if is_address and scheme not in SCHEMES:
                raise DataError(f"{data}: an address of {', '.join(SCHEMES)} is wanted")
            raise DataError(f"{place}: no such file or folder; check --data")
        taken = layout
        if layout == "auto":
            named = split_names and place.is_dir()
            if boxes and boxes.file is not None:
                taken = _of_frames(place)
            else:
                taken = (recognise_members(place) or "split_folders") if named else recognise(place)
        asked = LayoutRequest(
            layout=taken,
            multi_query=multi_query,
            split=split,
            pattern=pattern,
            ids=ids,
            columns=columns or {},
            split_names=split_names or {},
            boxes=boxes or BoxRequest(),
        )
        manifest = _open(place, asked)
    except OSError as error:
        where = os.fsdecode(error.filename or data)  # os.walk names folders in bytes
        what = "its permissions" if isinstance(error, PermissionError) else "--data"
        raise DataError(f"{where}: {error.strerror}; check {what}") from error
    if isinstance(place, (ArchiveTree, ShardFolder)):
        manifest = _of_archives(manifest, place)
    before, manifest = manifest, chosen(manifest, every)
    if len(before) and not len(manifest):
        raise DataError(
            f"{place}: --every {every} takes none of {counted(len(before), 'row')}; take more"
        )
    if len(manifest) == 0:
        kind = "archive" if archives_of(manifest) else "folder"
        what = "the table has no row" if manifest.layout == "csv" else f"no image in this {kind}"
        option = "--data"
        if asked.boxes.file is not None:
            what, option = "no box is left", "--boxes"
        raise DataError(
            f"{place}: {what}; check {option}" + "".join(f"; {n}" for n in manifest.notes)
        )
    if layout == "auto" and taken in OTHER_WAYS:
        manifest = replace(manifest, notes=(*manifest.notes, OTHER_WAYS[taken]))
    return manifest


def _open(place: Path, asked: LayoutRequest) -> Manifest:
    name, layout = asked.layout, LAYOUTS[asked.layout]
    if place.is_file() != (name == "csv"):
        expected = "a table's file" if name == "csv" else "a folder"
        raise DataError(f"{place}: --layout {name} reads {expected}, and this is none")
    if not 0 <= asked.split < layout.splits:
        raise OptionError(f"--split {asked.split}: {name} has splits 0 to {layout.splits - 1}")
    if asked.multi_query and not layout.multi_query:
        raise OptionError(f"--multi-query: {name} has no multi-query images")
    if name == "pattern" and not asked.pattern:
        raise OptionError("--layout pattern: give --pattern REGEX, which says how names are read")
    if asked.pattern and name != "pattern":
        raise OptionError(f"--pattern: --layout {name} has its own names; give one of the two")
    for flag, value, layouts in (
        ("--ids", asked.ids != "auto", WITH_IDS),
        ("--columns", asked.columns, WITH_COLUMNS),
        ("--split-names", asked.split_names, WITH_SPLIT_NAMES),
        ("--boxes and what belongs to it", asked.boxes.is_asked, WITH_BOXES),
    ):
        if value and name not in layouts:
            raise OptionError(f"{flag}: --layout {name} has none; it is of {', '.join(layouts)}")
    # Absolute, so that the run can be continued from another working directory.
    return layout.read(place.resolve(), asked)


def _of_archives(manifest: Manifest, place: Path) -> Manifest:
    """With what is to be said of the archives; of compressed tars in their own order, as only that
    reads them in one pass."""
    root = path_of(os.fspath(manifest.root))
    manifest = replace(manifest, root=root)
    archives = archives_of(manifest) or [locate(root).file]
    if isinstance(place, ShardFolder):
        archives = list(place.archives)
    notes = [f"{archive.name}: {note}" for archive in archives for note in index_of(archive).notes]
    slow = [archive for archive in archives if kind_of(archive) == COMPRESSED_TAR]
    if slow:
        number_of = {archive: number for number, archive in enumerate(archives)}
        places = [locate(manifest.file(row)) for row in range(len(manifest))]
        inside = [(number_of[each.file], os.fsencode(each.member or "")) for each in places]
        manifest = manifest.take(in_archive_order(archives, inside))
        notes.append(
            f"{slow[0].name} is compressed as a whole: every process reads it from its start, rows "
            "are in its order; a plain tar or a zip file is faster"
        )
    return replace(manifest, notes=(*manifest.notes, *notes))


def _of_frames(place: Path) -> str:
    """The layout of frames for which boxes are given."""
    if (known := _known_benchmark(place)) in WITH_BOXES:
        return known
    return "motchallenge" if sequences(place) else "frames"


def at_own_root(manifest: Manifest, data_root: str, who: str = "this host") -> Manifest:
    """The manifest with --data-root as a host knows it; DataError if nothing is there."""
    given = Path(os.path.expandvars(data_root))
    root = own_root(manifest.root, given)
    if root is None:
        raise DataError(f"--data-root {data_root}: {who} has no folder {given}")
    return replace(manifest, root=root)


def own_root(root: Path, given: Path) -> Path | None:
    """Where a host that keeps the images at `given` has the root; None if nothing is there. Of an
    archive, `given` is the archive itself or its folder; of a prefix, a folder of copies."""
    place = locate(root)
    if place.member is None or kind_of(place.file) == OBJECTS:
        return given if given.is_dir() else None
    is_folder = given.is_dir() and not is_archive(given)
    archive = given / place.file.name if is_folder else given
    return member_of(archive, place.member) if is_archive(archive) else None


def _can_be_opened(root: Path, layout: str) -> bool:
    """An advice that does not work is none."""
    try:
        return len(_open(root, LayoutRequest(layout=layout))) > 0
    except DataError:
        return False


def _known_benchmark(root: Path) -> str:
    for name, layout in LAYOUTS.items():
        if any(all(has(root, part) for part in parts) for parts in layout.marks):
            if layout.names and not layout.names.fit(root):
                continue
            return market.kind(root) if name == "market1501" else name
    return ""


def _of_splits(root: Path) -> str:
    splits = set(parts_below(root, {}).values())
    return "split_folders" if {QUERY, GALLERY} <= splits else ""
