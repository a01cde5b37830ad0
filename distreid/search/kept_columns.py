"""What a gallery keeps of a run's rows: who, where and when, and where their features lie.

A folder of arrays that are read or mapped when they are used, with the checksum of each.

N rows; S shards of the run.
"""

from __future__ import annotations

import errno
import functools
import itertools
import json
import math
import os
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from distreid.data.manifest import (
    CAMERA_NAME,
    DISTRACTOR,
    PERSON_NAME,
    TIME,
    Manifest,
    Status,
    composed,
    text_column,
)
from distreid.data.summary import has_distractors
from distreid.errors import StoreError
from distreid.host.atomic_files import CHECKSUM_BYTES, DISK_IS_FULL, check_bytes
from distreid.nearest.exact_search import StoredRows
from distreid.store import FeatureStore
from distreid.store.identity import how_computed
from distreid.store.plan import Shard, plan_shards
from distreid.store.shards import read_shard, shard_file

CHECKSUMS = "checksums.json"
NO_CHECKSUM = -1
FACTS = "run.json"
IN_MEMORY_BYTES = 1 << 20
"""Up to so many an array is read, not mapped: a mapping keeps a file open, and runs can be many."""
TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)


def write_arrays(
    folder: Path, arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]
) -> None:
    """A folder of arrays by their names, and of JSON values; synced. StoreError as the system
    says."""
    try:
        folder.mkdir(parents=True)
        checksums = {}
        for name, array in arrays.items():
            with (folder / f"{name}.npy").open("wb") as stream:
                # Without what h5py notes in a type.
                plain = np.ascontiguousarray(array).view(array.dtype.str)
                np.save(stream, plain, allow_pickle=False)
                _sync(stream.fileno())
            checksums[f"{name}.npy"] = _crc(folder / f"{name}.npy")
        text = json.dumps(dict(facts))
        checksums[FACTS] = f"{zlib.crc32(text.encode()):08x}"
        for name, content in ((FACTS, text), (CHECKSUMS, json.dumps(checksums))):
            with (folder / name).open("w", encoding="utf-8") as stream:
                stream.write(content)
                stream.flush()
                _sync(stream.fileno())
        handle = os.open(folder, os.O_RDONLY)
        _sync(handle)
        os.close(handle)
    except OSError as error:
        mend = "make room" if error.errno in DISK_IS_FULL else "check the folder"
        raise StoreError(f"{folder}: {error.strerror}; {mend}") from error


def check_arrays(folder: Path) -> None:
    """Reads every byte of `write_arrays`; StoreError names what does not fit its checksum."""
    try:
        checksums = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
        for name, crc in checksums.items():
            if _crc(folder / name) != crc:
                raise StoreError(f"{folder / name}: its bytes do not fit their checksum")
    except (OSError, ValueError, AttributeError) as error:
        raise _unreadable(folder, error, "") from error


def read_checksums(folder: Path) -> str:
    """A text that is another one for other arrays and facts."""
    try:
        return (folder / CHECKSUMS).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise _unreadable(folder / CHECKSUMS, error) from error


def read_array(folder: Path, name: str) -> NDArray[Any]:
    """An array that cannot be changed: read if it is small, or mapped."""
    file = folder / f"{name}.npy"
    try:
        mode: Literal["r"] | None = "r" if file.stat().st_size > IN_MEMORY_BYTES else None
        array: NDArray[Any] = np.load(file, mmap_mode=mode, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _unreadable(file, error) from error
    array.flags.writeable = False
    return array


def read_facts(folder: Path) -> dict[str, Any]:
    """The JSON values."""
    try:
        facts: dict[str, Any] = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unreadable(folder / FACTS, error) from error
    return facts


def _unreadable(
    file: Path, error: Exception, mend: str = "; see distreid gallery verify"
) -> StoreError:
    if isinstance(error, OSError) and error.errno in TOO_MANY_FILES:
        return StoreError(f"{file}: too many open files; raise the limit: ulimit -n")
    return StoreError(f"{file}: missing or damaged ({error}){mend}")


@dataclass(frozen=True, kw_only=True)
class Persons:
    """Which persons a gallery has: numbers that name nobody else."""

    names: Mapping[str, int]
    """Of those who have a name, or a number of a run with a prefix."""
    numbers: frozenset[int]
    """All."""

    @property
    def words(self) -> set[str]:
        """What the persons are called, by name or by number."""
        unnamed = self.numbers - {*self.names.values()}
        return {*self.names} | {str(each) for each in unnamed if each > DISTRACTOR}

    def numbered(self, manifest: Manifest, prefix: str) -> tuple[NDArray[np.int64], list[str]]:
        """(N,) the gallery's number of each row's person, and the (N,) names, empty where
        the number is all that is known.

        A name that is known is that person, however its letters are composed. Without names and
        prefix a number is the person of that number, or of the name that is written so. Junk,
        distractors and the unknown stay what they are. The gallery's own 0 is nobody: where a run's
        person 0 is somebody, the name is `0`.
        """
        given = manifest.names(PERSON_NAME)
        numbers, place_N = np.unique(manifest.person_id, return_inverse=True)
        taken, by_name = set(self.numbers), set(self.names.values())
        by_number = {str(each): each for each in taken - by_name if each > DISTRACTOR}
        known = by_number | dict(self.names)
        following = itertools.count(max(DISTRACTOR, *taken, *numbers.tolist()) + 1)
        looks = {composed(name): name for name in known}
        least = DISTRACTOR + 1 if has_distractors(manifest) else DISTRACTOR
        mapped, names = [], []
        for number in numbers.tolist():
            name = given.get(number, "") if number >= least else ""
            is_another = number in by_name or known.get(str(number), number) != number
            has_no_number = not name and (number == DISTRACTOR or is_another)
            if number >= least and (prefix or has_no_number):
                name = prefix + (name or str(number))
            name = looks.setdefault(composed(name), name)
            if not name:
                mapped.append(number)
                names.append("")
                taken.add(number)
                if number > DISTRACTOR:
                    known[str(number)] = number
                continue
            if name not in known:
                is_free = number > DISTRACTOR and number not in taken
                known[name] = number if is_free else next(following)
                taken.add(known[name])
            mapped.append(known[name])
            names.append(name)
        return np.array(mapped, np.int64)[place_N], [names[i] for i in place_N.tolist()]


@dataclass(frozen=True)
class Columns:
    """The rows of a run in a gallery, from their folder."""

    folder: Path

    def _column(self, name: str) -> NDArray[Any]:
        return read_array(self.folder, name)

    @functools.cached_property
    def row(self) -> NDArray[np.int64]:
        """(N,) ids for life, ascending."""
        return self._column("row")

    @functools.cached_property
    def source(self) -> NDArray[np.int64]:
        """(N,) which row of the run each is."""
        return self._column("source")

    @functools.cached_property
    def person_id(self) -> NDArray[np.int64]:
        """(N,) the gallery's numbers."""
        return self._column("person_id")

    @functools.cached_property
    def camera_id(self) -> NDArray[np.int64]:
        """(N,)."""
        return self._column("camera_id")

    @functools.cached_property
    def time(self) -> NDArray[np.float64]:
        """(N,) seconds since 1970; NaN where not known."""
        return self._column("time")

    @functools.cached_property
    def has_image(self) -> NDArray[np.bool_]:
        """(N,) whether there is a feature."""
        return self._column("has_image")

    @functools.cached_property
    def path(self) -> NDArray[np.bytes_]:
        """(N,) of the images, from `root`."""
        return self._column("path")

    def texts(self, name: str) -> NDArray[np.bytes_] | None:
        """`person_name` or `camera_name`, (N,) UTF-8; None where no row has one."""
        return self._column(name) if name in self.facts["texts"] else None

    @functools.cached_property
    def picture(self) -> NDArray[np.int64] | None:
        """(N,) CRC-32 of the pictures that were sent, and that the gallery keeps; None where there
        are none, or where they were sent before these were kept."""
        return self._column("picture") if self.facts.get("has_pictures") else None

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """Those of `facts_of` and `with_facts`."""
        return read_facts(self.folder)

    @property
    def root(self) -> Path:
        """The folder that paths start from; where it is relative, from the gallery's."""
        return Path(self.facts["root"])

    def shards(self) -> list[Shard]:
        """Of the run."""
        return plan_shards(self.facts["run_rows"], self.facts["shard_rows"])

    def stored(self, run: Path) -> StoredRows:
        """Their features in the run's shards, read where they are few, or mapped; StoreError names
        a shard that is not what it was when the run was added."""
        pieces = []
        for shard, known in zip(self.shards(), self._column("shards").tolist(), strict=True):
            file = shard_file(run, shard.index)
            offset, size, checksum, modified = known
            _check_unchanged(file, size, checksum, modified)
            shape = len(shard), self.facts["dim"]
            pieces.append(_features(file, np.dtype(self.facts["dtype"]), offset, shape))
        return StoredRows(pieces=pieces, source=self.source)


def columns_of(
    store: FeatureStore,
    persons: Persons,
    prefix: str,
    first_row: int,
    gallery: Path,
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Arrays and facts for `write_arrays`, of all rows of a run that was just verified."""
    manifest = store.manifest
    count = len(manifest)
    person_id, names = persons.numbered(manifest, prefix)
    columns = {
        "row": np.arange(first_row, first_row + count, dtype=np.int64),
        "source": np.arange(count, dtype=np.int64),
        "person_id": person_id,
        "camera_id": manifest.camera_id,
        "time": manifest.numbers(TIME),
        "has_image": store.status == Status.OK,
        "path": manifest.path,
        "person_name": text_column([name.encode() for name in names]),
        "camera_name": manifest.extra.get(CAMERA_NAME, np.zeros(count, "S1")),
        "shards": shards_of(store),
    }
    return with_facts(columns, facts_of(store, gallery))


def facts_of(store: FeatureStore, gallery: Path) -> dict[str, Any]:
    """What is to be known of a run to find its features and images."""
    root = store.manifest.root.absolute()
    if root.is_relative_to(gallery.absolute()):  # a gallery can be moved with what is its own
        root = root.relative_to(gallery.absolute())
    return {
        "root": os.fsdecode(root),
        "dim": store.plan.dim,
        "dtype": str(store.plan.stored_type.str),
        "shard_rows": store.plan.shard_rows,
        "run_rows": len(store.manifest),
        "how_computed": how_computed(store.plan.identity),
    }


def with_facts(
    columns: Mapping[str, NDArray[Any]], of_run: Mapping[str, Any]
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The columns without those that say nothing, and the facts with what the columns say."""
    texts = [name for name in ("person_name", "camera_name") if (columns[name] != b"").any()]
    arrays = {
        name: column
        for name, column in columns.items()
        if name not in ("person_name", "camera_name") or name in texts
    }
    named: dict[str, int] = {}
    if "person_name" in texts:
        found, first = np.unique(columns["person_name"], return_index=True)
        named = {
            name.decode(): int(columns["person_id"][place])
            for name, place in zip(found.tolist(), first.tolist(), strict=True)
            if name
        }
    return arrays, dict(of_run) | {
        "texts": texts,
        "names": named,
        "numbers": np.unique(columns["person_id"]).tolist(),
        "all_have_images": bool(columns["has_image"].all()),
        "has_pictures": "picture" in columns,
    }


def known_persons(all_columns: Iterable[Columns]) -> Persons:
    """The persons of these rows."""
    names: dict[str, int] = {}
    numbers: set[int] = set()
    for columns in all_columns:
        names |= columns.facts["names"]
        numbers |= set(columns.facts["numbers"])
    return Persons(names=names, numbers=frozenset(numbers))


def shards_of(store: FeatureStore) -> NDArray[np.int64]:
    """(S, 4): where features begin, bytes, checksum and time of change of each shard."""
    known = np.empty((len(store.plan.shards), 4), np.int64)
    for shard in store.plan.shards:
        file = shard_file(store.run, shard.index)
        features = read_shard(store.run, store.plan, shard).features
        assert isinstance(features, np.memmap)
        stat = file.stat()
        known[shard.index] = features.offset, stat.st_size, _line(file), stat.st_mtime_ns
    return known


def _features(
    file: Path, dtype: np.dtype[Any], offset: int, shape: tuple[int, int]
) -> NDArray[Any]:
    try:
        if math.prod(shape) * dtype.itemsize > IN_MEMORY_BYTES:
            return np.asarray(np.memmap(file, dtype, "r", offset, shape))
        values = np.fromfile(file, dtype, math.prod(shape), offset=offset).reshape(shape)
    except (OSError, ValueError) as error:
        raise _unreadable(file, error) from error
    values.flags.writeable = False
    return values


def _check_unchanged(file: Path, size: int, checksum: int, modified: int) -> None:
    try:
        stat = file.stat()
    except OSError as error:
        raise StoreError(
            f"{file}: {error.strerror}; the gallery refers to that run: put it back, or erase "
            "its rows (distreid gallery remove … --erase)"
        ) from error
    if stat.st_size == size and stat.st_mtime_ns == modified:
        return
    if stat.st_size != size or _line(file) != checksum:
        raise StoreError(
            f"{file}: another file than when the run was added; put it back, or erase its rows "
            "(distreid gallery remove … --erase) and add the run anew"
        )
    check_bytes(file)


def _line(file: Path) -> int:
    """The checksum that a file ends with, as a number; `NO_CHECKSUM` if it has none, as where its
    rows are being erased."""
    try:
        with file.open("rb") as stream:
            stream.seek(-CHECKSUM_BYTES, os.SEEK_END)
            return int(stream.read().split()[-1], 16)
    except (OSError, ValueError, IndexError) as error:
        if isinstance(error, OSError) and error.errno in TOO_MANY_FILES:
            raise _unreadable(file, error) from error
        return NO_CHECKSUM


def _crc(file: Path) -> str:
    crc = 0
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            crc = zlib.crc32(block, crc)
    return f"{crc:08x}"


def _sync(handle: int) -> None:
    os.fsync(handle)
