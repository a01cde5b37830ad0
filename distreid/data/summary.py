"""What a manifest holds, for people, and whether that is as many as was published."""

from __future__ import annotations

from distreid.data.layouts import LAYOUTS
from distreid.data.manifest import (
    DISTRACTOR,
    GALLERY,
    JUNK,
    NO_CAMERA,
    NO_PERSON,
    QUERY,
    TRACKLET,
    Integers,
    Manifest,
)
from distreid.errors import DataError
from distreid.host.counts import counted

JUNK_RULE = (
    "junk is in no ranking, as in all projects; in re-ranking's graph it is with "
    "Person_reID_baseline_pytorch alone, whose data sets keep it"
)
# Where person 0 is nobody. Elsewhere it is a person as any other.
NOBODY_IS_0 = ("market1501", "market1501_500k", "mars", "layumi")


def describe(manifest: Manifest) -> list[str]:
    """What was found: a line for each split, then the notes."""
    lines = []
    for split in dict.fromkeys(manifest.split.tolist()):
        rows = manifest.split == split
        persons, cameras = manifest.person_id[rows], manifest.camera_id[rows]
        line = f"{split.decode('utf-8', 'replace') or 'images'}: {int(rows.sum()):,}"
        if TRACKLET in manifest.extra:
            tracklets = manifest.extra[TRACKLET][rows]
            line += f" in {counted(len({*tracklets.tolist()} - {b''}), 'tracklet')}"
            if single := int((tracklets == b"").sum()):
                line += f" and {single:,} of none"
        if (persons != NO_PERSON).any():
            line += f", {counted(len(known_persons(manifest, persons)), 'person')}"
        if (cameras != NO_CAMERA).any():
            line += f", {counted(len(set(cameras.tolist()) - {NO_CAMERA}), 'camera')}"
        if junk := int((persons == JUNK).sum()):
            line += f", {junk:,} junk (-1)"
        distractors = int((persons == DISTRACTOR).sum())
        if distractors and has_distractors(manifest):
            line += f", {counted(distractors, 'distractor')} (0000)"
        lines.append(line)
    if (manifest.person_id == JUNK).any():
        lines.append(JUNK_RULE)
    return lines + list(manifest.notes)


def shown_root(manifest: Manifest) -> str:
    """Where the images lie, for people: of all of an archive's or a video's, its file alone."""
    return str(manifest.root).removesuffix("#")


def has_distractors(manifest: Manifest) -> bool:
    """Whether person 0 is nobody."""
    queried = manifest.person_id[manifest.rows(QUERY)]
    return manifest.layout in NOBODY_IS_0 and not (queried == DISTRACTOR).any()


def known_persons(manifest: Manifest, persons: Integers) -> set[int]:
    """Those who are somebody."""
    least = DISTRACTOR + 1 if has_distractors(manifest) else 0
    return set(persons[persons >= least].tolist())


def check_counts(manifest: Manifest) -> None:
    """DataError, which names the difference, unless the counts are those that were published."""
    if not LAYOUTS[manifest.layout].counts:
        raise DataError(
            f"{manifest.root}: --strict-counts: no published counts of {manifest.layout} are known"
        )
    if differing := different_counts(manifest):
        raise DataError(
            f"{manifest.root}: not the {manifest.layout} that was published: {differing}; "
            "copy it again, or leave out --strict-counts"
        )


def different_counts(manifest: Manifest) -> str:
    """How the counts differ from those that were published; empty if they are the same."""
    found = counts(manifest)
    return ", ".join(
        f"{found[split]:,} {split} {_unit(manifest)} instead of {published:,}"
        for split, published in LAYOUTS[manifest.layout].counts.items()
        if found[split] != published
    )


def counts(manifest: Manifest) -> dict[str, int]:
    """How many images of query and gallery are no junk; of tracklets, how many tracklets."""
    found = {}
    for split in (QUERY, GALLERY):
        rows = manifest.rows(split)
        rows = rows[manifest.person_id[rows] != JUNK]
        tracklets = manifest.extra.get(TRACKLET)
        found[split] = len(rows) if tracklets is None else len(set(tracklets[rows].tolist()))
    return found


def _unit(manifest: Manifest) -> str:
    return "tracklets" if TRACKLET in manifest.extra else "images"
