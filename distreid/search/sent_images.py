"""Images that are sent to a gallery: several requests become one run of its own, in one generation.

Images are sent one by one, for years. So that runs do not become as many, a new one takes up the
last runs of images that were sent as long as they are no larger than what it has by then, up to
`MOST_JOINED_ROWS`: of n rows there are n / `MOST_JOINED_ROWS` runs and a dozen smaller ones, and a
feature is copied a dozen times at most. The pictures stay where they are, `images/…/ROW.png`.

What was answered to a request with a key is kept for a day, in the generation that has its rows:
whoever sends it again after a lost answer, a crash or a restart adds nothing twice.
"""

from __future__ import annotations

import hashlib
import math
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distreid.data.labels import CAMERA, MISSING, PERSON, WHOLE, Kind
from distreid.data.manifest import (
    CAMERA_NAME,
    NO_CAMERA,
    PERSON_NAME,
    TIME,
    Manifest,
    Status,
    build_manifest,
    composed,
    text_column,
)
from distreid.errors import OptionError
from distreid.host.atomic_files import make_folder, publish_bytes
from distreid.search.changes import Manner, changing, with_rows
from distreid.search.generation import Generation, Segment, picture_path, publish_generation
from distreid.search.kept_columns import (
    Columns,
    facts_of,
    known_persons,
    read_facts,
    shards_of,
    with_facts,
    write_arrays,
)
from distreid.store import FeatureStore
from distreid.store.identity import how_computed as computed_of
from distreid.store.plan import Plan, shard_rows_for
from distreid.store.run_folder import begin, finish
from distreid.store.shards import Rows, write_shard

KEPT_S = 24 * 3600
"""How long a request's key means that request."""
DTYPE = "float32"
MOST_JOINED_ROWS = 8192
"""So that no request waits for much more than its own images."""


@dataclass(frozen=True, kw_only=True)
class SentImages:
    """One request: n images with what is known of each."""

    key: str
    """Of its own, so that it can be sent again; empty: none."""
    images: Sequence[bytes]
    """Of PNG files, without metadata."""
    features: NDArray[np.float32]
    """(n, D) unit features."""
    persons: Sequence[str]
    """Names or numbers; empty: not known."""
    cameras: Sequence[str]
    times: Sequence[float | None]
    """Seconds since 1970."""

    @property
    def digest(self) -> str:
        """SHA-256 of what is asked."""
        said = hashlib.sha256(repr((self.persons, self.cameras, self.times)).encode())
        for image in self.images:
            said.update(hashlib.sha256(image).digest())
        return said.hexdigest()


@dataclass(frozen=True, kw_only=True)
class AddedImages:
    """What a request added."""

    first_row: int
    count: int
    generation: int


def add_images(
    gallery: Path, asked: Sequence[SentImages], how_computed: Mapping[str, Any], how: Manner
) -> list[AddedImages | OptionError]:
    """Adds what several requests send, durably, as one generation; gives each request's rows, or
    why it is refused: its key belongs to a request that was another one.

    `how_computed` is that part of the features' identity, without manifest and dtype.
    """
    answers: list[AddedImages | OptionError] = []
    fresh: list[SentImages] = []
    with changing(gallery, how) as current:
        known = _known(gallery, current)
        row = current.next_row
        for one in asked:
            key = hashlib.sha256(one.key.encode()).hexdigest() if one.key else ""
            if key in known and known[key]["digest"] == one.digest:
                before = known[key]
                answers.append(
                    AddedImages(**{name: before[name] for name in AddedImages.__annotations__})
                )
            elif key in known:
                answers.append(
                    OptionError("Idempotency-Key: it was used for other images; give a new one")
                )
            else:
                done = AddedImages(
                    first_row=row, count=len(one.images), generation=current.generation + 1
                )
                answers.append(done)
                fresh.append(one)
                row += done.count
                if key:
                    known[key] = vars(done) | {"digest": one.digest, "time": time.time()}
        if fresh:
            after = _with_images(gallery, current, fresh, how_computed, how)
            keys = f"keys/{after.generation:08d}" if known else None
            if keys:
                write_arrays(gallery / keys, {}, {"keys": known})
            publish_generation(gallery, replace(after, keys=keys))
    return answers


def _known(gallery: Path, current: Generation) -> dict[str, dict[str, Any]]:
    """What was answered within a day, by the SHA-256 of the keys."""
    if current.keys is None:
        return {}
    kept: dict[str, dict[str, Any]] = read_facts(gallery / current.keys)["keys"]
    now = time.time()
    return {key: said for key, said in kept.items() if said["time"] > now - KEPT_S}


def _with_images(
    gallery: Path,
    current: Generation,
    asked: Sequence[SentImages],
    how_computed: Mapping[str, Any],
    how: Manner,
) -> Generation:
    """The next generation, with what is asked and the runs that it takes up in one run."""
    images = [image for one in asked for image in one.images]
    rows = range(current.next_row, current.next_row + len(images))
    for row, image in zip(rows, images, strict=True):
        make_folder((gallery / picture_path(row)).parent)
        publish_bytes(gallery / picture_path(row), image)
    columns = [Columns(gallery / segment.rows) for segment in current.segments]
    identity = dict(current.space) | dict(how_computed) | {"dtype": DTYPE}
    taken = _taken_up(current.segments, columns, len(images), identity)
    before = [_read(gallery, segment) for segment in current.segments[len(columns) - taken :]]
    joined = _Joined.of([*before, _sent(columns, rows, images, asked)])
    store = _write_run(gallery, current, joined, identity)
    arrays = joined.columns | {
        "source": np.arange(len(joined.features), dtype=np.int64),
        "has_image": np.ones(len(joined.features), bool),
        "shards": shards_of(store),
    }
    return with_rows(
        gallery,
        current,
        store,
        with_facts(arrays, facts_of(store, gallery)),
        how,
        run=str(store.run.relative_to(gallery)),
        instead_of=taken,
    )


def _taken_up(
    segments: Sequence[Segment],
    columns: Sequence[Columns],
    count: int,
    identity: Mapping[str, Any],
) -> int:
    """How many of the last segments a run of so many new rows takes up: those of images that were
    sent, computed in the same way, each no larger than what the run has by then."""
    taken, computed = 0, computed_of(identity)
    for segment, known in zip(reversed(segments), reversed(columns), strict=True):
        is_small = segment.count <= count and segment.count + count <= MOST_JOINED_ROWS
        if not (is_small and segment.owned and known.picture is not None):
            break
        theirs = {k: v for k, v in known.facts["how_computed"].items() if k != "manifest"}
        if known.root != Path() or theirs != computed:
            break
        count += segment.count
        taken += 1
    return taken


@dataclass(frozen=True)
class _Joined:
    """n rows of images that were sent."""

    columns: dict[str, NDArray[Any]]
    """(n,) each, as `Columns` has them."""
    features: NDArray[np.float32]
    """(n, D)."""

    @classmethod
    def of(cls, parts: Sequence[_Joined]) -> _Joined:
        """Their rows, one after the other. Numbers of cameras that have names mean something within
        one run alone, so they are given anew."""
        columns = {
            name: np.concatenate([part.columns[name] for part in parts])
            for name in parts[0].columns
        }
        words = [
            name.decode() or ("" if number == NO_CAMERA else str(number))
            for name, number in zip(
                columns["camera_name"].tolist(), columns["camera_id"].tolist(), strict=True
            )
        ]
        numbers, names = _numbered(words, CAMERA, {})
        columns["camera_id"] = np.array(numbers, np.int64)
        columns["camera_name"] = text_column([name.encode() for name in names])
        return cls(columns, np.concatenate([part.features for part in parts]))


def _read(gallery: Path, segment: Segment) -> _Joined:
    """The rows of a run."""
    columns = Columns(gallery / segment.rows)
    named = ("row", "person_id", "camera_id", "time", "path", "picture")
    arrays: dict[str, NDArray[Any]] = {name: getattr(columns, name) for name in named}
    for name in (PERSON_NAME, CAMERA_NAME):
        texts = columns.texts(name)
        arrays[name] = np.zeros(segment.count, "S1") if texts is None else texts
    stored = columns.stored(gallery / segment.run)
    return _Joined(arrays, stored.take(np.arange(segment.count)))


def _sent(
    columns: Sequence[Columns],
    rows: Sequence[int],
    images: Sequence[bytes],
    asked: Sequence[SentImages],
) -> _Joined:
    """The rows that are new in a gallery of these columns."""
    known = known_persons(columns)
    words = _as_known([p for one in asked for p in one.persons], lambda: known.names)
    given, given_names = _numbered(words, PERSON, known.names)
    paths = [picture_path(row).encode() for row in rows]
    of_persons = build_manifest(
        root=Path(), layout="csv", path=paths, person_id=given, extra={PERSON_NAME: given_names}
    )
    persons, names = known.numbered(of_persons, "")
    cameras, camera_names = _numbered(
        _as_known([c for one in asked for c in one.cameras], lambda: _camera_names(columns)),
        CAMERA,
        {},
    )
    times = [math.nan if time is None else time for one in asked for time in one.times]
    arrays = {
        "row": np.array(rows, np.int64),
        "person_id": persons,
        "camera_id": np.array(cameras, np.int64),
        "time": np.array(times, np.float64),
        "path": text_column(paths),
        "picture": np.array([zlib.crc32(image) for image in images], np.int64),
        PERSON_NAME: text_column([name.encode() for name in names]),
        CAMERA_NAME: text_column([name.encode() for name in camera_names]),
    }
    return _Joined(arrays, np.concatenate([one.features for one in asked]))


def _write_run(
    gallery: Path, current: Generation, rows: _Joined, identity: Mapping[str, Any]
) -> FeatureStore:
    folder = gallery / "runs" / f"{current.next_run:06d}"
    times = [b"" if math.isnan(time) else repr(time).encode() for time in rows.columns["time"]]
    extra = {name: rows.columns[name] for name in (PERSON_NAME, CAMERA_NAME)}
    extra[TIME] = text_column(times)
    manifest = Manifest(
        root=gallery.absolute(),
        layout="csv",
        path=rows.columns["path"],
        person_id=rows.columns["person_id"],
        camera_id=rows.columns["camera_id"],
        split=np.zeros(len(rows.features), "S1"),
        extra={name: column for name, column in extra.items() if (column != b"").any()},
    )
    plan = Plan(
        manifest=manifest,
        identity=dict(identity) | {"manifest": manifest.fingerprint()},
        provenance={"command": "images that were sent"},
        dim=current.dim,
        dtype=DTYPE,
        shard_rows=shard_rows_for(len(manifest)),
    )
    for shard in begin(folder, plan):
        # Of length 1, as imported features are: what it was before is not sent along.
        values = Rows(
            features=rows.features[shard.start : shard.stop],
            norm=np.ones(len(shard), np.float32),
            status=np.full(len(shard), Status.OK, np.uint8),
        )
        write_shard(folder, plan, shard, values)
    finish(folder, plan)
    return FeatureStore.open(folder)


def _as_known(words: Sequence[str], known: Callable[[], Collection[str]]) -> list[str]:
    """The words as names are kept: without white space around them, each letter in one with its
    accents (NFC). A name that the gallery has as it is written stays so, and of those that look
    like it, it is the one that the gallery has."""
    kept = {word: composed(word.strip()) for word in words}
    doubtful = [word for word in kept if word != kept[word] or not word.isascii()]
    if doubtful:
        names = known()
        by_look = {composed(name): name for name in names}
        for word in doubtful:
            plain = kept[word]
            same = (name for name in (word, plain) if name in names)
            kept[word] = next(same, by_look.get(plain, plain))
    return [kept[word] for word in words]


def _camera_names(all_columns: Iterable[Columns]) -> set[str]:
    found: set[str] = set()
    for columns in all_columns:
        texts = columns.texts("camera_name")
        if texts is not None:
            found.update(name.decode() for name in np.unique(texts).tolist())
    return found


def _numbered(
    words: Sequence[str], kind: Kind, named: Mapping[str, int]
) -> tuple[list[int], list[str]]:
    """Each word's number, and its name where it is none; a word that is somebody's name already is
    a name, as a number of any run is the person whose name is written so. What is empty, or the
    number of the unknown, is not known, and the person -1 is junk, as in tables. Numbers of names
    are free ones, and mean something within one run alone."""
    given: dict[str, int] = {}
    for word in words:
        number = WHOLE.fullmatch(word.strip())
        if word.strip() in MISSING or (number and int(number[1]) == kind.unknown):
            given[word] = kind.unknown
        elif number and word not in named and int(number[1]) >= kind.least:
            given[word] = int(number[1])
    following = max([0, *given.values()]) + 1
    names = list(dict.fromkeys(word for word in words if word not in given))
    numbers = given | {name: following + i for i, name in enumerate(names)}
    return [numbers[word] for word in words], ["" if word in given else word for word in words]
