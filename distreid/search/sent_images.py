"""Images that are sent to a gallery: several requests become one run of its own, in one generation.

The run's folder keeps the pictures too, `runs/…/images/ROW.png`. What was answered to a request
with a key is kept for a day, in the generation that has its rows: whoever sends it again after a
lost answer, a crash or a restart adds nothing twice.
"""

from __future__ import annotations

import hashlib
import time
import unicodedata
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
    PERSON_NAME,
    TIME,
    Manifest,
    Status,
    build_manifest,
)
from distreid.errors import OptionError
from distreid.host.atomic_files import make_folder, publish_bytes
from distreid.search.changes import Manner, appended, changing
from distreid.search.generation import PICTURES, Generation, publish_generation
from distreid.search.kept_columns import Columns, known_persons, read_facts, write_arrays
from distreid.store import FeatureStore
from distreid.store.plan import Plan, shard_rows_for
from distreid.store.run_folder import begin, finish
from distreid.store.shards import Rows, write_shard

KEPT_S = 24 * 3600
"""How long a request's key means that request."""


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
            store = _write_run(gallery, current, fresh, how_computed)
            run = str(store.run.relative_to(gallery))
            crcs = [zlib.crc32(image) for one in fresh for image in one.images]
            after = appended(gallery, current, store, run, "", how, np.array(crcs, np.int64))
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


def _write_run(
    gallery: Path,
    current: Generation,
    asked: Sequence[SentImages],
    how_computed: Mapping[str, Any],
) -> FeatureStore:
    folder = gallery / "runs" / f"{current.next_run:06d}"
    make_folder(folder / PICTURES)
    paths = []
    for row, image in enumerate((i for one in asked for i in one.images), current.next_row):
        paths.append(f"{PICTURES}/{row}.png")
        publish_bytes(folder / paths[-1], image)
    manifest = _manifest(gallery, current, folder, paths, asked)
    plan = Plan(
        manifest=manifest,
        identity=dict(current.space)
        | dict(how_computed)
        | {"manifest": manifest.fingerprint(), "dtype": "float32"},
        provenance={"command": "images that were sent"},
        dim=current.dim,
        dtype="float32",
        shard_rows=shard_rows_for(len(manifest)),
    )
    features = np.concatenate([one.features for one in asked])
    for shard in begin(folder, plan):
        # Of length 1, as imported features are: what it was before is not sent along.
        values = Rows(
            features=features[shard.start : shard.stop],
            norm=np.ones(len(shard), np.float32),
            status=np.full(len(shard), Status.OK, np.uint8),
        )
        write_shard(folder, plan, shard, values)
    finish(folder, plan)
    return FeatureStore.open(folder)


def _manifest(
    gallery: Path,
    current: Generation,
    folder: Path,
    paths: Sequence[str],
    asked: Sequence[SentImages],
) -> Manifest:
    columns = [Columns(gallery / each.rows) for each in current.segments]
    named = known_persons(columns).names
    sent_persons = _as_known([p for one in asked for p in one.persons], lambda: named)
    sent_cameras = _as_known(
        [c for one in asked for c in one.cameras], lambda: _camera_names(columns)
    )
    persons, person_names = _numbered(sent_persons, PERSON, named)
    cameras, camera_names = _numbered(sent_cameras, CAMERA, {})
    times = ["" if time is None else repr(time) for one in asked for time in one.times]
    extra = {PERSON_NAME: person_names, CAMERA_NAME: camera_names, TIME: times}
    return build_manifest(
        root=folder.absolute(),
        layout="csv",
        path=[path.encode() for path in paths],
        person_id=persons,
        camera_id=cameras,
        extra={name: column for name, column in extra.items() if any(column)},
    )


def _as_known(words: Sequence[str], known: Callable[[], Collection[str]]) -> list[str]:
    """The words as names are kept: without white space around them, each letter in one with its
    accents (NFC). A name that the gallery has as it is written stays so, and of those that look
    like it, it is the one that the gallery has."""
    kept = {word: _nfc(word.strip()) for word in words}
    doubtful = [word for word in kept if word != kept[word] or not word.isascii()]
    if doubtful:
        names = known()
        by_look = {_nfc(name): name for name in names}
        for word in doubtful:
            plain = kept[word]
            same = (name for name in (word, plain) if name in names)
            kept[word] = next(same, by_look.get(plain, plain))
    return [kept[word] for word in words]


def _nfc(word: str) -> str:
    return unicodedata.normalize("NFC", word)


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
