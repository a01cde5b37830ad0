"""Folders named query, gallery, train, …: persons by folder or by name, with cameras or without.

What a name tells is taken where the names of most images tell it, and is said; what can be read
in several ways is asked for.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from distreid.data.image_files import (
    LayoutRequest,
    check_persons_folders,
    images,
    subfolders,
)
from distreid.data.labels import (
    CAMERA,
    PERSON,
    SPLIT_WORDS,
    begins_with_date,
    labels_of,
    split_of,
)
from distreid.data.manifest import (
    CAMERA_NAME,
    GALLERY,
    MULTI_QUERY,
    PERSON_NAME,
    QUERY,
    Manifest,
    build_manifest,
)
from distreid.errors import DataError, printable
from distreid.host.counts import counted

# Folders that are never a person. One or two letters could be somebody.
FOLDERS = {word: split for word, split in SPLIT_WORDS.items() if len(word) > 3 or word == "val"} | {
    "image_query": QUERY,
    "image_test": GALLERY,
    "image_train": "train",
    "bounding_box_test": GALLERY,
    "bounding_box_train": "train",
    "gt_bbox": MULTI_QUERY,
    "train_all": "train",
}
# Names that tell person and camera: Market-1501, DukeMTMC-reID, VeRi; MSMT17.
LABEL_NAMES = (
    re.compile(r"(?P<person>-1|\d{1,18})_?(?:[^cC]*_)?[cC](?P<camera>\d{1,18})"),
    re.compile(r"(?P<person>\d{1,18})_\d{3}_(?P<camera>\d\d)_"),
)
IN_FOLDER = re.compile(r"[^\d-]{0,3}(-1|\d{1,18})")
"""A person's folder with a number, such as 12 or p12."""
CAMERA_FOLDER = re.compile(r"(camera|cam|c)[ _-]?\d+", flags=re.IGNORECASE)
# Of names that tell no camera: a number before more, or one word and a number.
NUMBER_FIRST = re.compile(r"(-1|\d{1,18})[ _.-].+")
WORD_AND_NUMBER = re.compile(r"([^\W\d_][^_\s-]*)[_\s-]\d+")
NOBODY = re.compile(r"(img|image|frame|photo|pic|dsc|crop|query|gallery|test|probe)", re.IGNORECASE)
BY_FOLDER = "--pattern '(?P<split>{query}|{gallery})/(?P<person>[^/]+)/'"
BY_NAME = r"--pattern '(?P<person>\d+)_', or --layout folder for features without labels"


@dataclass(frozen=True, kw_only=True)
class Part:
    """A folder of a split."""

    split: str
    folder: str
    paths: list[str]
    """Of its images, below it."""


@dataclass
class Told:
    """Person and camera of some images, as texts; empty if they are not told."""

    person: list[str] = field(default_factory=list)
    camera: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def part_of(name: str) -> str | None:
    """The split that a folder's name means; None if it means none."""
    word = name.lower()
    return FOLDERS.get(word, "train" if word.startswith("bounding_box_") else None)


def parts_below(root: Path, split_names: Mapping[str, str]) -> dict[str, str]:
    """The folders of a folder that are splits, each with its split."""
    found = {}
    for child in subfolders(root):
        split = split_of(child.name, split_names) if child.name in split_names else None
        if split := split or part_of(child.name):
            found[child.name] = split
    return found


def split_folders(root: Path, asked: LayoutRequest) -> Manifest:
    """`query/` and `gallery/` under these or other names of `SPLIT_WORDS`: in each the images of a
    person in a folder of the person's own, or images whose names begin with the person.

    With query and gallery no other folder is read; without, each is a split. DataError if a folder
    and a name in it tell different persons, or names can be read in several ways.
    """
    folders = _chosen(root, asked)
    notes: list[str] = []
    if others := [child.name for child in subfolders(root) if child.name not in folders]:
        notes.append("folders not read: " + ", ".join(map(printable, others)))
    parts = []
    for folder, split in folders.items():
        paths, ignored = images(root / folder)
        notes += [f"{folder}: {note}" for note in ignored]
        parts.append(Part(split=split, folder=folder, paths=[os.fsdecode(p) for p in paths]))
    name = _name_pattern(parts)
    numbers = _numbers_of_folders(parts, name)
    check_persons_folders(root, numbers, _by_folder_option(folders))
    told = [_told(root, part, name, folders, numbers) for part in parts]
    if name is None:
        _check_guess(root, parts, told)
    notes += dict.fromkeys(note for each in told for note in each.notes)
    as_text = asked.ids == "text"
    person = labels_of([text for each in told for text in each.person], PERSON, as_text=as_text)
    camera = labels_of([text for each in told for text in each.camera], CAMERA, as_text=as_text)
    extra = {PERSON_NAME: person.names, CAMERA_NAME: camera.names}
    return build_manifest(
        root=root,
        layout="split_folders",
        path=[os.fsencode(f"{part.folder}/{path}") for part in parts for path in part.paths],
        person_id=person.numbers,
        camera_id=camera.numbers,
        split=[part.split for part in parts for _ in part.paths],
        extra={column: names for column, names in extra.items() if names and any(names)},
        notes=(*notes, *person.notes, *camera.notes),
    )


def _chosen(root: Path, asked: LayoutRequest) -> dict[str, str]:
    """The folders that are read, with their splits, query first."""
    below = parts_below(root, asked.split_names)
    if absent := [name for name in asked.split_names if not (root / name).is_dir()]:
        raise DataError(f"{root}: --split-names: no folder {absent[0]}")
    if not below:
        raise DataError(
            f"{root}: no folder query, gallery, train or the like, which split_folders has; "
            "check --layout, or say which is which: --split-names query=FOLDER,gallery=FOLDER"
        )
    wanted = {QUERY, GALLERY} if {QUERY, GALLERY} <= set(below.values()) else set(below.values())
    wanted |= {MULTI_QUERY} if asked.multi_query else set()
    chosen: dict[str, str] = {}
    for split in sorted(wanted, key=lambda split: (split != QUERY, split != GALLERY, split)):
        of_it = [folder for folder, its in below.items() if its == split]
        exact = [f for f in of_it if f in asked.split_names] or [f for f in of_it if f == split]
        if len(of_it) > 1 and not exact and split in (QUERY, GALLERY):
            raise DataError(
                f"{root}: {' and '.join(of_it)} are both {split}; say which: "
                f"--split-names {split}={of_it[0]}"
            )
        chosen |= dict.fromkeys(exact if split in (QUERY, GALLERY) and exact else of_it, split)
    return chosen


def _name_pattern(parts: list[Part]) -> re.Pattern[str] | None:
    """What most names of every part fit, if there is such a pattern."""
    for pattern in LABEL_NAMES:
        fits = [
            2 * sum(pattern.match(os.path.basename(path)) is not None for path in part.paths)
            for part in parts
        ]
        if all(count > len(part.paths) for count, part in zip(fits, parts, strict=True)):
            return pattern
    return None


def _numbers_of_folders(parts: list[Part], name: re.Pattern[str] | None) -> dict[str, str]:
    """Of each person's folder in which a name tells the person, in any part, what it tells: all
    images of the folder are of one person, also those whose names tell nothing."""
    numbers: dict[str, str] = {}
    for path in (path for part in parts for path in part.paths if name):
        folder, inside, _ = path.partition("/")
        match = name and name.match(os.path.basename(path))
        if inside and match and IN_FOLDER.fullmatch(folder):
            numbers.setdefault(folder, match["person"])
    return numbers


def _told(
    root: Path,
    part: Part,
    name: re.Pattern[str] | None,
    folders: Mapping[str, str],
    numbers: Mapping[str, str],
) -> Told:
    if any("/" in path for path in part.paths):
        return _by_folder(root, part, name, folders, numbers)
    if name is not None:
        return _by_pattern(part, name)
    return _by_first_word(root, part)


def _check_guess(root: Path, parts: list[Part], told: list[Told]) -> None:
    """DataError where names begin with a date, or all images would be one person by a guess."""
    if any("/" in path for part in parts for path in part.paths):
        return
    named = [
        (part.folder, path, person)
        for part, each in zip(parts, told, strict=True)
        for path, person in zip(part.paths, each.person, strict=True)
        if person
    ]
    if not named:
        return
    folder, path, person = named[0]
    if all(begins_with_date(path) for _, path, _ in named):
        raise DataError(
            f"{root / folder / path}: names begin with a date, which is no person; say how they "
            "tell one by --pattern with a group person, or give --layout folder for features "
            "without labels"
        )
    if {each for *_, each in named} == {person} and len(named) > len(parts):  # not one in each
        raise DataError(
            f"{root / folder / path}: all images would be one person, {printable(person)}; "
            f"say how names tell the person, such as {BY_NAME}"
        )


def _by_folder_option(folders: Mapping[str, str]) -> str:
    of = {split: folder for folder, split in folders.items()}
    return BY_FOLDER.format(query=of.get(QUERY, "query"), gallery=of.get(GALLERY, "gallery"))


def _by_folder(
    root: Path,
    part: Part,
    name: re.Pattern[str] | None,
    folders: Mapping[str, str],
    numbers: Mapping[str, str],
) -> Told:
    """The first folder is the person; a name that tells person and camera must agree."""
    of = {split: folder for folder, split in folders.items()}
    option = _by_folder_option(folders)
    persons = [path.split("/")[0] if "/" in path else "" for path in part.paths]
    if splits := sorted({person for person in persons if part_of(person)}):
        raise DataError(
            f"{root / part.folder}: folder {splits[0]} is no person; give --data "
            f"{root / part.folder}, or {option}"
        )
    named = sorted({person for person in persons if person})
    if all(map(CAMERA_FOLDER.fullmatch, named)):
        raise DataError(
            f"{root / part.folder}: folders such as {printable(named[0])} look like cameras, not "
            "persons; say what they are: --pattern "
            f"'(?P<split>{of.get(QUERY, 'query')}|{of.get(GALLERY, 'gallery')})/(?P<camera>[^/]+)/"
            f"(?P<person>[^/_]+)', or {option}"
        )
    within = [path.split("/")[1:-1] for path in part.paths]
    cameras = all(below and CAMERA_FOLDER.fullmatch(below[0]) for below in within)
    if all(within) and not cameras:
        raise DataError(
            f"{root / part.folder / part.paths[0]}: of two folders, either could be the person; "
            f"say which: {option}, or {option.replace('/(?P<person>', '/[^/]+/(?P<person>')}"
        )
    told = Told(notes=["person: the folder in that of the split; --pattern says otherwise"])
    if alone := persons.count(""):
        images = counted(alone, "image")
        told.notes.append(f"{part.folder}: {images} in no person's folder: unknown persons")
    without = 0
    for path, person in zip(part.paths, persons, strict=True):
        match = name and name.match(os.path.basename(path))
        number = IN_FOLDER.fullmatch(person)
        if match and number and int(number[1]) != int(match["person"]):
            raise DataError(
                f"{root / part.folder / path}: the folder tells person {int(number[1])}, the "
                f"name {int(match['person'])}; mend one, or give {option} to go by the folder"
            )
        told.person.append(numbers.get(person, person))
        told.camera.append(match["camera"] if match else "")
        if cameras:
            told.camera[-1] = path.split("/")[1]
        without += not match
    if cameras:
        told.notes.append("camera: the folder in that of the person")
    elif name is not None:
        told.notes.append("camera: the number after c in the names, as in 0001_c1s1_000151_00.jpg")
        if without:
            told.notes.append(f"{part.folder}: {without:,} names tell no camera")
    return told


def _by_pattern(part: Part, name: re.Pattern[str]) -> Told:
    told = Told(
        notes=["person and camera: from names as 0001_c1s1_000151_00.jpg; --pattern says otherwise"]
    )
    matches = [name.match(path) for path in part.paths]
    told.person = [match["person"] if match else "" for match in matches]
    told.camera = [match["camera"] if match else "" for match in matches]
    if unnamed := matches.count(None):
        told.notes.append(f"{part.folder}: {unnamed:,} names tell nobody: unknown persons")
    return told


def _by_first_word(root: Path, part: Part) -> Told:
    """The number that names begin with; or one word before a number; or nothing is told."""
    stems = [os.path.splitext(path)[0] for path in part.paths]
    for pattern, what in (
        (NUMBER_FIRST, "the number that names begin with"),
        (WORD_AND_NUMBER, "the word before the number in the names"),
    ):
        matches = [pattern.fullmatch(stem) for stem in stems]
        found = [match[1] for match in matches if match]
        if 2 * len(found) <= len(stems):
            continue
        if pattern is WORD_AND_NUMBER and all(
            NOBODY.match(word) or CAMERA_FOLDER.fullmatch(word) for word in found
        ):
            break
        told = Told(
            person=[match[1] if match else "" for match in matches],
            camera=[""] * len(stems),
            notes=[f"person: {what}; --pattern says otherwise"],
        )
        if unnamed := matches.count(None):
            told.notes.append(f"{part.folder}: {unnamed:,} names tell nobody: unknown persons")
        return told
    in_words = [stem for stem in stems if re.search(r"[^\W_][_\s-][^\W_]", stem)]
    if 2 * len(in_words) > len(stems) and not all(
        NOBODY.match(stem) or CAMERA_FOLDER.match(stem) for stem in in_words
    ):
        raise DataError(
            f"{root / part.folder / part.paths[0]}: its name tells the person in a way that is not "
            f"known; say how, such as {BY_NAME}"
        )
    return Told(
        person=[""] * len(stems),
        camera=[""] * len(stems),
        notes=[f"{part.folder}: names tell no persons, so no labels; --pattern says otherwise"],
    )
