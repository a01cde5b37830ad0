"""A manifest's columns as a benchmark names them, and the rows that a condition means."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distreid.data.manifest import (
    CAMERA_NAME,
    NO_CAMERA,
    NO_PERSON,
    PERSON_NAME,
    TRACKLET,
    Manifest,
)
from distreid.data.vehicles import TRACK
from distreid.errors import DataError
from distreid.evaluation.protocols.rule import Condition, alternatives

SHOWN = 6  # values of a column in a message
LOCATION = "location"
# What each column may be called beside its own name.
OWN = {"person": "person_id", "camera": "camera_id"}
NUMBERED = re.compile(r"(?!-\d)\D*0*(\d+)")  # 3, 03 and cam3, not -3


def has_column(manifest: Manifest, name: str) -> bool:
    """Whether something is known in a column."""
    name = OWN.get(name, name)
    if name == TRACK and TRACK not in manifest.extra:
        name = TRACKLET
    if name == "person_id":
        return bool((manifest.person_id != NO_PERSON).any())
    if name == "camera_id":
        return bool((manifest.camera_id != NO_CAMERA).any())
    if name == "split":
        return bool((manifest.split != b"").any())
    return name in manifest.extra


def need_column(manifest: Manifest, name: str, who: str) -> None:
    """DataError, which names what lacks, for a column of which nothing is known."""
    if not has_column(manifest, name):
        there = [each for each in ("person", "camera", "split") if has_column(manifest, each)]
        raise DataError(
            f"{manifest.place}: {who} needs a column {OWN.get(name, name)}; there are "
            + (", ".join([*there, *manifest.extra]) or "none")
        )


def texts(manifest: Manifest, name: str) -> NDArray[Any]:
    """(N,) a column as numbers or bytes: names of persons and cameras where these have some."""
    if name in ("camera", "camera_id"):
        return manifest.extra.get(CAMERA_NAME, manifest.camera_id)
    if name in ("person", "person_id"):
        return manifest.extra.get(PERSON_NAME, manifest.person_id)
    if name == "split":
        return manifest.split
    if name == TRACK:
        name = TRACK if TRACK in manifest.extra else TRACKLET
    return manifest.extra[name]


def rows_where(manifest: Manifest, condition: str, name: str, who: str) -> NDArray[np.bool_]:
    """(N,) the rows that a condition of a benchmark means: by the first of its alternatives whose
    columns the manifest has. DataError names a column that lacks, or what a column holds where the
    condition fits no row."""
    parts = alternatives(condition, name)
    fitting = [each for each in parts if all(_usable(manifest, part) for part in each)]
    if not fitting:
        for part in parts[0]:
            if not _usable(manifest, part):
                need_column(manifest, part.column, who)
    wanted = np.ones(len(manifest), np.bool_)
    for part in fitting[0]:
        wanted &= _holds(manifest, part)
    if not wanted.any():
        raise DataError(
            f"{manifest.place}: {who}: no row has {condition}; {_said(manifest, parts)}"
        )
    return wanted


def _usable(manifest: Manifest, part: Condition) -> bool:
    """What is nowhere known is no value either."""
    return part.negated or has_column(manifest, part.column)


def _holds(manifest: Manifest, part: Condition) -> NDArray[np.bool_]:
    if not has_column(manifest, part.column):
        return np.ones(len(manifest), np.bool_)
    values, which = np.unique(texts(manifest, part.column), return_inverse=True)
    wanted = {value.lower() for value in part.values}
    numbers = {int(value) for value in wanted if value.isdigit()}
    hits = np.array([_is_one_of(_text(value), wanted, numbers) for value in values])
    found: NDArray[np.bool_] = hits[which] != part.negated
    return found


def _is_one_of(text: str, wanted: set[str], numbers: set[int]) -> bool:
    if {text.lower(), *text.lower().split("+")} & wanted:
        return True
    match = NUMBERED.fullmatch(text)
    return match is not None and int(match[1]) in numbers


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _said(manifest: Manifest, parts: Sequence[Sequence[Condition]]) -> str:
    columns = dict.fromkeys(part.column for each in parts for part in each)
    said = []
    for column in columns:
        if has_column(manifest, column):
            values, counts = np.unique(texts(manifest, column), return_counts=True)
            pairs = zip(values[:SHOWN].tolist(), counts.tolist(), strict=False)
            some = ", ".join(f"{_text(value)!r} ({count:,})" for value, count in pairs)
            said.append(f"{column} has {some}" + (", …" if len(values) > SHOWN else ""))
    return "; ".join(said) or "nothing is known of these columns"
