"""The plan of a run: its rows, what they are computed with, and the shards.

Rows are cut into shards: fixed, contiguous ranges that depend on the number of rows alone.
Imports no torch, so that a run can be looked at in a moment.
"""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from distreid.data.manifest import Manifest
from distreid.store.identity import ABSENT

SHARDS_WANTED = 64  # enough to keep 8 processes within a few percent of one another
SHARD_UNIT = 64  # a shard is a multiple of this, so that usual batches fit whole
SHARD_ROWS_LIMIT = 8192  # lost at most by an interruption: seconds of a GPU's work


@dataclass(frozen=True)
class Shard:
    """Rows `start` to `stop - 1`, the `index`-th range of the plan."""

    index: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


def shard_rows_for(rows: int) -> int:
    """The usual number of rows per shard: about 1/64 of the rows, between 64 and 8192."""
    units = -(-rows // (SHARDS_WANTED * SHARD_UNIT))
    return min(max(units, 1) * SHARD_UNIT, SHARD_ROWS_LIMIT)


def plan_shards(rows: int, shard_rows: int) -> list[Shard]:
    """The rows 0 to `rows - 1` in ranges of `shard_rows`; the last one may be shorter."""
    starts = range(0, rows, shard_rows)
    return [Shard(i, start, min(start + shard_rows, rows)) for i, start in enumerate(starts)]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will hold: its rows, what they are computed with, and the shards."""

    manifest: Manifest
    identity: dict[str, Any]
    """What the features depend on; JSON values. Two stores that differ in it do not mix."""
    provenance: dict[str, Any]
    """Recorded for people, never compared: host, device, command, versions, time."""
    dim: int
    dtype: str
    """`float32` or `float16`."""
    shard_rows: int

    def __post_init__(self) -> None:
        if self.shard_rows < 1:
            raise ValueError(f"shard_rows must be positive, got {self.shard_rows}")

    @functools.cached_property
    def shards(self) -> list[Shard]:
        """All shards, in row order."""
        return plan_shards(len(self.manifest), self.shard_rows)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the identity; every shard carries it."""
        return hashlib.sha256(to_json(self.identity).encode()).hexdigest()

    @property
    def stored_type(self) -> np.dtype[Any]:
        """Of the features on the disk: little-endian on every machine."""
        return np.dtype({"float32": "<f4", "float16": "<f2"}[self.dtype])


def differences(
    ours: dict[str, Any],
    theirs: dict[str, Any],
    prefix: str = "",
    *,
    words: str = "{ours}, not {theirs}",
) -> list[str]:
    """The fields in which two identities differ, as `field: ours, not theirs`, or in other
    `words`."""
    found = []
    for key in sorted(ours.keys() | theirs.keys()):
        absent = None if prefix else ABSENT.get(key)
        a, b = ours.get(key, absent), theirs.get(key, absent)
        if a == b:
            continue
        said = f"{prefix}{key}: {words.format(ours=short(a), theirs=short(b))}"
        if all(isinstance(each or {}, dict) for each in (a, b)):
            found += differences(a or {}, b or {}, f"{prefix}{key}.", words=words) or [said]
        else:
            found.append(said)
    return found


def to_json(value: Any) -> str:
    """One text for equal values, whatever the order of their keys."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def short(value: Any, length: int = 40) -> str:
    """For a message: hashes are cut, and what is absent is `none`."""
    if value is None:
        return "none"
    text = value.decode() if isinstance(value, bytes) else str(value)
    return (text if len(text) <= length else text[:12] + "…") or "''"
