"""The index of an archive: where each member's bytes lie, made once and kept beside the run."""

from __future__ import annotations

import bisect
import io
import itertools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distreid.data.locators import path_of
from distreid.data.manifest import Text, text_column
from distreid.errors import DataError
from distreid.host.atomic_files import publish_bytes

INDEX_FILE = "archives.npz"
NAME_LIMIT = 1024  # bytes; every name takes as many as the longest
STORED, DEFLATED = 0, 8  # as zip files number them

PLACE = np.dtype(
    [
        ("offset", "<i8"),  # of a tar's member its bytes, of a zip's its local header, or a row
        ("packed", "<i8"),  # bytes that it takes in the archive, -1: not known; see `objects`
        ("size", "<i8"),  # bytes unpacked; -1: not known
        ("crc", "<u4"),  # of the bytes unpacked, in a zip file
        ("method", "<u2"),  # of compression, as zip files number it
    ]
)


class Stamp(NamedTuple):
    """What tells a version of an archive from the next."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """Of a file as it is now."""
        return cls(status.st_size, status.st_mtime_ns)


@dataclass(frozen=True, kw_only=True)
class Index:
    """An archive's M members, sorted by the bytes of their names."""

    names: Text
    """(M,) normal: without leading `/` and `./`; `..` is a name like any other."""
    places: NDArray[np.void]
    """(M,) `PLACE`."""
    stamp: Stamp
    notes: tuple[str, ...] = ()
    """What a person should know of it, a sentence each."""

    def __len__(self) -> int:
        return len(self.names)

    def find(self, name: bytes) -> int | None:
        """The member of this name."""
        at = self._first_from(name)
        return at if at < len(self.names) and self.names[at] == name else None

    def below(self, folder: bytes) -> range:
        """The members in a folder (`a/b`; empty: all) and in folders in it."""
        if not folder:
            return range(len(self.names))
        # 0 is what follows / in ASCII.
        return range(self._first_from(folder + b"/"), self._first_from(folder + b"0"))

    def _first_from(self, name: bytes) -> int:
        # numpy's searchsorted would first copy all names to the width of this one.
        return bisect.bisect_left(self.names, name)


def build_index(
    names: list[bytes], places: list[tuple[int, ...]], stamp: Stamp, notes: list[str]
) -> Index:
    """An index of members in the order of the archive: of two of one name the last counts, as it
    does when the archive is unpacked. What is said of them goes to `notes`."""
    order = sorted(range(len(names)), key=names.__getitem__)  # stable
    kept = [
        i
        for place, i in enumerate(order)
        if place + 1 == len(order) or names[order[place + 1]] != names[i]
    ]
    if twice := len(names) - len(kept):
        first = next(a for a, b in itertools.pairwise(order) if names[a] == names[b])
        notes = [
            *notes,
            f"{twice:,} members have the name of a later one, which counts "
            f"(first: {os.fsdecode(names[first])!r})",
        ]
    return Index(
        names=text_column([names[i] for i in kept]),
        places=np.array([places[i] for i in kept], PLACE),
        stamp=stamp,
        notes=tuple(notes),
    )


def normal_name(name: bytes) -> bytes:
    """A member's name as paths have it: no leading `/`, no `.`, no empty part. Empty if nothing is
    left, or if it is no name that a path can have."""
    if b"\0" in name or len(name) > NAME_LIMIT:
        return b""
    if name[:1] not in b"./" and b"//" not in name and b"/./" not in name:
        return name
    return b"/".join(part for part in name.split(b"/") if part not in (b"", b"."))


def save_indexes(run: Path, indexes: dict[Path, Index]) -> None:
    """Keeps the indexes of archives in a run's folder; without any, nothing. StoreError."""
    if not indexes:
        return
    about = []
    arrays: dict[str, NDArray[np.generic]] = {}
    for number, (archive, index) in enumerate(indexes.items()):
        about.append({"archive": os.fspath(archive), "stamp": index.stamp})
        arrays |= {f"names{number}": index.names, f"places{number}": index.places}
    text = json.dumps(about).encode()
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, about=np.frombuffer(text, np.uint8), **arrays)
    publish_bytes(run / INDEX_FILE, buffer.getvalue())


def kept_indexes(run: Path) -> dict[Path, Index]:
    """What `save_indexes` kept; DataError if it is damaged."""
    file = run / INDEX_FILE
    try:
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as arrays:
            about = json.loads(arrays["about"].tobytes())
            return {
                path_of(each["archive"]): Index(
                    names=arrays[f"names{number}"],
                    places=arrays[f"places{number}"],
                    stamp=Stamp(*each["stamp"]),
                )
                for number, each in enumerate(about)
            }
    except FileNotFoundError:
        return {}
    except Exception as error:  # a damaged zip file raises nearly anything
        reason = " ".join(str(error).split())
        raise DataError(f"{file}: damaged ({reason}); delete it: it is made anew") from error
