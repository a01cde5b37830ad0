"""Changes to a gallery: one writer at a time, each change a new generation that is whole or not.

First everything that the next generation names is written and synced, then `gallery.json` is
replaced. What no generation names that somebody may read is removed by the next writer, whoever
died before it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distreid.data.locators import is_address, under
from distreid.errors import DistreidError, OptionError, StoreError
from distreid.host.atomic_files import make_folder
from distreid.host.folder_lock import Busy, hold
from distreid.nearest.codes import Directions
from distreid.nearest.exact_search import Part
from distreid.search import index as codes_of
from distreid.search.gallery import Filter, Gallery
from distreid.search.generation import (
    FILE,
    FOLDERS,
    PICTURES,
    Generation,
    Segment,
    keep_generation,
    old_file,
    publish_generation,
    read_generation,
    read_old,
)
from distreid.search.index import (
    check_codes,
    copy_codes,
    learn_directions,
    read_directions,
    write_codes,
)
from distreid.search.kept_columns import (
    Columns,
    check_arrays,
    columns_of,
    facts_of,
    known_persons,
    read_array,
    read_facts,
    shards_of,
    with_facts,
    write_arrays,
)
from distreid.search.marks import (
    Marks,
    labels_without,
    marked,
    no_labels,
    read_labels,
    write_labels,
)
from distreid.search.unnamed_files import BEING_WRITTEN, finish_erasing, sweep
from distreid.store import FeatureStore
from distreid.store.identity import feature_space, how_computed
from distreid.store.plan import differences
from distreid.store.root_file import Columns as RunColumns
from distreid.store.root_file import write_root
from distreid.store.run_folder import CALIBRATION
from distreid.store.shards import Rows, write_shard

Say = Callable[[str], None]
WAIT_LOOK_S = 0.2
BLUNT = 0.01  # the share of rows that the codes leave to be scored, above which they are made anew
ASKED_ROWS = 32  # rows that stand for queries
TOP = 10  # answers that such a query wants
FEW_TIMES = 10


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How a writer behaves."""

    say: Say
    wait: bool = True
    """Whether a second writer waits for the first."""
    keep_s: float = 0.0
    """How long earlier generations stay though nobody reads them."""
    timeout_s: float = 60.0
    """How long erasing waits for readers."""


@dataclass(frozen=True, kw_only=True)
class Removed:
    """What a removal did."""

    rows: int
    """Hidden or erased by it."""
    erased: bool
    elsewhere: tuple[str, ...] = ()
    """Runs that are not the gallery's own and still hold erased rows."""
    readers: str = ""
    """Who still read an erased generation when the wait was over."""


def create(gallery: Path, runs: Sequence[Path], how: Manner, *, copy: bool = False) -> Generation:
    """A new gallery of at least one run, in a local folder; StoreError if there is one already. A
    run in an object store is always copied."""
    if is_address(gallery):
        raise OptionError(f"{gallery}: a gallery lies in a local folder; give one")
    _refuse_unless_free(gallery)
    stores = [FeatureStore.open(run) for run in runs]
    first = Generation(
        generation=0,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        next_row=0,
        next_run=0,
        space=feature_space(stores[0].plan.identity),
        dim=stores[0].plan.dim,
        segments=(),
        directions=None,
        removed=None,
        erasing=False,
    )
    with _one_writer(gallery, how):
        _refuse_unless_free(gallery)  # another may have made one meanwhile
        make_folder(gallery / "generations")
        keep_generation(gallery, first)  # so that a second try knows what the first one left
        for folder in (*FOLDERS, "readers"):
            make_folder(gallery / folder)
        sweep(gallery, first, how.keep_s)
        current = first
        try:
            for run, store in zip(runs, stores, strict=True):
                current = _added(gallery, current, store, "", copy or is_address(run), how)
        except DistreidError:
            sweep(gallery, first, how.keep_s)
            old_file(gallery, first.generation).unlink()
            for folder in (*FOLDERS, "readers", "generations"):
                with contextlib.suppress(OSError):  # something of the user's lies there
                    (gallery / folder).rmdir()
            raise
        publish_generation(gallery, current)
        old_file(gallery, first.generation).unlink()
    return current


def add(gallery: Path, run: Path, how: Manner, *, copy: bool = False, prefix: str = "") -> int:
    """Adds a complete run, whose bytes are all checked; gives the id of its first row.

    StoreError if it is of another feature space, naming what differs, or is there already.
    """
    read_generation(gallery)
    store = FeatureStore.open(run)
    with changing(gallery, how) as current:
        after = _added(gallery, current, store, prefix, copy or is_address(run), how)
        publish_generation(gallery, after)
    return current.next_row


def remove(
    gallery: Path,
    how: Manner,
    *,
    which: Filter | None = None,
    rows: Sequence[int] | None = None,
    erase: bool = False,
) -> Removed:
    """Hides rows by their ids or by a filter, or erases them: hidden ones too, and those without
    an image. OptionError for an id that no row has."""
    with changing(gallery, how) as current:
        opened = Gallery(gallery, with_features=False)
        try:
            asked = None if rows is None else np.unique(opened.as_ids(rows))
            gone = [_matching(opened, number, which, asked) for number in range(len(opened.runs))]
            if rows is not None and sum(map(len, gone)) < len({*rows}):
                known = {int(id_) for ids in gone for id_ in ids}
                missing = next(row for row in rows if row not in known)
                raise opened.no_row(missing)
            for word in opened.unmatched(which) if which is not None else ():
                how.say(f"{gallery}: no row has {word}")
            ids = np.concatenate([*gone, np.empty(0, np.int64)])
            if not len(ids):
                return Removed(rows=0, erased=erase)
            if not erase:
                hidden = np.union1d(opened.hidden, ids)
                file = _write_hidden(gallery, current.generation + 1, hidden)
                publish_generation(gallery, current.following(removed=file))
                return Removed(rows=len(hidden) - len(opened.hidden), erased=False)
            after = _without(gallery, current, opened, gone)
        finally:
            opened.close()
        after = replace(after, erasing=True)
        publish_generation(gallery, after)
        left = finish_erasing(gallery, after, how.say, how.timeout_s)
        elsewhere = tuple(
            segment.run
            for segment, ids_of in zip(current.segments, gone, strict=True)
            if len(ids_of) and not segment.owned
        )
        return Removed(rows=len(ids), erased=True, elsewhere=elsewhere, readers=left)


def compact(gallery: Path, how: Manner) -> dict[str, Any]:
    """Leaves hidden rows out for good, and learns the codes anew where they have become blunt;
    says what it did."""
    with changing(gallery, how) as before:
        current = _with_codes(gallery, before, how)
        opened = Gallery(gallery)
        try:
            gone = [
                np.intersect1d(opened.hidden, run.columns.row, assume_unique=True)
                for run in opened.runs
            ]
            share, dropped = _share_left(opened), sum(map(len, gone))
            # Of few rows, those that are wanted are a large share themselves.
            blunt = share is not None and share > max(BLUNT, FEW_TIMES * TOP / opened.count)
            after = current.following()
            if dropped:
                after = _without(gallery, current, opened, gone, keeps_codes=not blunt)
        finally:
            opened.close()
        if blunt:
            after = _indexed(gallery, replace(after, directions=None), how)
        if dropped or blunt:
            publish_generation(gallery, after)
        learnt = blunt or current is not before
        return {"dropped": dropped, "scored_share": share, "learnt_anew": learnt}


def mark_hits(gallery: Path, marks: Marks, how: Manner) -> int:
    """Keeps which hits of a query are right and wrong; gives the new generation's number.
    OptionError for a row that is not there."""
    with changing(gallery, how) as current:
        opened = Gallery(gallery)
        try:
            rows = opened.as_ids([*marks.right, *marks.wrong])
            features = opened.features(rows.tolist())
            persons = opened.column("person_id", opened.place_of(rows))
        finally:
            opened.close()
        labels = read_labels(gallery / current.labels) if current.labels else no_labels(current.dim)
        after = current.following()
        entry = write_labels(
            gallery, after.generation, marked(labels, marks, features, persons.astype(np.int64))
        )
        publish_generation(gallery, replace(after, labels=entry))
    return after.generation


@contextlib.contextmanager
def _one_writer(gallery: Path, how: Manner) -> Iterator[None]:
    said = False
    while True:
        try:
            with hold(gallery, how.say):
                yield
            return
        except Busy as busy:
            if not how.wait:
                raise
            if not said:
                how.say(f"{busy.holder} changes {gallery}; waiting for it")
                said = True
            time.sleep(WAIT_LOOK_S)


@contextlib.contextmanager
def changing(gallery: Path, how: Manner) -> Iterator[Generation]:
    """The current generation, for the only writer; afterwards, whatever came of it, what no
    generation names is removed."""
    read_generation(gallery)
    with _one_writer(gallery, how):
        current = read_generation(gallery)
        if current.erasing:
            finish_erasing(gallery, current, how.say, how.timeout_s)
            current = read_generation(gallery)
        sweep(gallery, current, how.keep_s)
        try:
            yield current
        finally:
            sweep(gallery, read_generation(gallery), how.keep_s)


def _added(
    gallery: Path, current: Generation, store: FeatureStore, prefix: str, copy: bool, how: Manner
) -> Generation:
    if not is_address(store.run) and store.run.resolve().is_relative_to(gallery.resolve()):
        raise OptionError(
            f"{store.run}: lies in the folder of the gallery, whose files are its own; move the "
            "run elsewhere"
        )
    identity = store.plan.identity
    if differing := differences(
        current.space, feature_space(identity), words="the gallery has {ours}, the run {theirs}"
    ):
        raise StoreError(
            f"{store.run}: another feature space ({'; '.join(differing)}); features of two "
            "spaces cannot be searched together"
        )
    for segment in current.segments:
        if segment.digest == store.plan.digest and segment.prefix == prefix:
            raise StoreError(f"{store.run}: the gallery has this run already")
    if prefix:
        _check_prefix(gallery, current, store, prefix)
    name = f"{current.next_run:06d}"
    run = str(store.run.absolute())
    if copy:
        run = f"runs/{name}"
        _copy_run(store.run, gallery / run)
        store = FeatureStore.open(gallery / run)
    persons = known_persons(Columns(gallery / segment.rows) for segment in current.segments)
    columns = columns_of(store, persons, prefix, current.next_row, gallery)
    return with_rows(gallery, current, store, columns, how, run=run, prefix=prefix)


def _check_prefix(gallery: Path, current: Generation, store: FeatureStore, prefix: str) -> None:
    """OptionError where a prefixed name is one that rows of another prefix brought, or rows without
    one: `1` and 23 is `12` and 3. Whoever names a person so after the prefix was used means it."""
    own: set[str] = set()
    others: dict[str, str] = {}
    is_used = False
    for segment in current.segments:
        words = known_persons([Columns(gallery / segment.rows)]).words
        is_used |= segment.prefix == prefix
        if segment.prefix == prefix or (is_used and not segment.prefix):
            own |= words
        else:
            others |= dict.fromkeys(words, segment.prefix)
    known = known_persons(Columns(gallery / segment.rows) for segment in current.segments)
    names = {*known.numbered(store.manifest, prefix)[1]} - own
    if taken := sorted(names & others.keys()):
        other = others[taken[0]]
        whose = f"with --prefix {other}" if other else "without --prefix"
        raise OptionError(
            f"{store.run}: --prefix {prefix}: the gallery has a person {taken[0]} of rows added "
            f"{whose}; give another prefix"
        )


def with_rows(
    gallery: Path,
    current: Generation,
    store: FeatureStore,
    columns: tuple[dict[str, NDArray[Any]], dict[str, Any]],
    how: Manner,
    *,
    run: str,
    prefix: str = "",
    instead_of: int = 0,
) -> Generation:
    """The next generation, with the rows of a run, `run` as in `Segment`, instead of so many of the
    last segments; `columns` as `with_facts` gives them."""
    _say_how_computed(gallery, current, store.plan.identity, how)
    arrays, facts = columns
    rows = f"rows/{current.next_run:06d}-{current.generation + 1:08d}"
    write_arrays(gallery / rows, arrays, facts)
    segment = Segment(
        run=run,
        owned=run.startswith("runs/"),
        digest=store.plan.digest,
        prefix=prefix,
        rows=rows,
        index=None,
        count=len(store.manifest),
    )
    kept = len(current.segments) - instead_of
    joined = sum(each.count for each in current.segments[kept:])
    after = current.following(
        next_row=current.next_row + segment.count - joined,
        next_run=current.next_run + 1,
        segments=(*current.segments[:kept], segment),
    )
    return _indexed(gallery, after, how)


def _say_how_computed(
    gallery: Path, current: Generation, identity: dict[str, Any], how: Manner
) -> None:
    """Another engine or precision is taken, and said."""
    if not current.segments:
        return
    first = read_facts(gallery / current.segments[0].rows)["how_computed"]
    ours, theirs = (
        {key: value for key, value in computed.items() if key not in ("manifest", "file")}
        for computed in (first, how_computed(identity))
    )
    for line in differences(
        ours, theirs, words="the gallery's first run has {ours}, this {theirs}"
    ):
        how.say(f"computed in another way, and taken: {line}")


def _indexed(gallery: Path, generation: Generation, how: Manner) -> Generation:
    """The generation with codes for every run, where it has rows enough; new directions where it
    has none."""
    if sum(segment.count for segment in generation.segments) < codes_of.LEAST_ROWS:
        return replace(
            generation,
            directions=None,
            segments=tuple(replace(segment, index=None) for segment in generation.segments),
        )
    stamp = f"{generation.generation:08d}"
    stored = {}
    if generation.directions is None:
        file = f"index/directions-{stamp}"
        parts = []
        for segment in generation.segments:
            columns = Columns(gallery / segment.rows)
            stored[segment.rows] = columns.stored(gallery / segment.run)
            live = np.flatnonzero(columns.has_image).astype(np.int32)
            parts.append(Part(rows=stored[segment.rows], ids=columns.row, codes=None, live=live))
        how.say("learning how to code the rows")
        directions: Directions = learn_directions(gallery / file, parts)
        generation = replace(
            generation,
            directions=file,
            segments=tuple(replace(segment, index=None) for segment in generation.segments),
        )
    else:
        directions = read_directions(gallery / generation.directions)
    segments = []
    for segment in generation.segments:
        if segment.index is None:
            index = f"index/{Path(segment.rows).name.partition('-')[0]}-{stamp}"
            rows = stored.get(segment.rows) or Columns(gallery / segment.rows).stored(
                gallery / segment.run
            )
            write_codes(gallery / index, directions, rows)
            segment = replace(segment, index=index)
        segments.append(segment)
    return replace(generation, segments=tuple(segments))


def _with_codes(gallery: Path, current: Generation, how: Manner) -> Generation:
    """The gallery's generation, or a next one where codes of this one cannot be read."""
    if current.directions is None:
        return current
    directions = gallery / current.directions
    try:
        check_arrays(directions)
        for segment in current.segments:
            if segment.index:
                check_codes(gallery / segment.index, directions, segment.count)
        return current
    except StoreError as error:
        how.say(f"{error}: made anew")
    after = _indexed(gallery, replace(current.following(), directions=None), how)
    publish_generation(gallery, after)
    return after


def _matching(
    opened: Gallery, number: int, which: Filter | None, asked: NDArray[np.int64] | None
) -> NDArray[np.int64]:
    """Ids of a run's rows that are meant, whether they can be found or not; `asked` ascend."""
    row = opened.runs[number].columns.row
    if asked is not None:
        place = np.minimum(np.searchsorted(row, asked), len(row) - 1)
        there: NDArray[np.int64] = asked[row[place] == asked]
        return there
    places = opened.matching(opened.runs[number], None, which or Filter())
    return np.array(row if places is None else row[places])


def _write_hidden(gallery: Path, generation: int, hidden: NDArray[np.int64]) -> str | None:
    if not len(hidden):
        return None
    file = f"removed/{generation:08d}"
    write_arrays(gallery / file, {"row": hidden}, {})
    return file


def _without(
    gallery: Path,
    current: Generation,
    opened: Gallery,
    gone: Sequence[NDArray[np.int64]],
    *,
    keeps_codes: bool = True,
) -> Generation:
    """The next generation, none of whose files has these rows, each run's by their ids."""
    after = current.following(approximate=None)
    stamp = f"{after.generation:08d}"
    segments = []
    for run, ids in zip(opened.runs, gone, strict=True):
        segment, row = run.segment, run.columns.row
        if not len(ids):
            segments.append(segment)
            continue
        kept = np.flatnonzero(~np.isin(row, ids))
        if not len(kept):
            continue
        number = Path(segment.rows).name.partition("-")[0]
        facts = run.columns.facts
        columns: dict[str, NDArray[Any]] = {
            name: np.asarray(getattr(run.columns, name))[kept]
            for name in ("row", "source", "person_id", "camera_id", "time", "has_image", "path")
        }
        for name in ("person_name", "camera_name"):
            texts = run.columns.texts(name)
            columns[name] = np.zeros(len(kept), "S1") if texts is None else _narrow(texts[kept])
        columns["path"] = _narrow(columns["path"])
        columns["shards"] = read_array(run.columns.folder, "shards")
        if run.columns.picture is not None:
            columns["picture"] = run.columns.picture[kept]
        if segment.owned:
            folder = f"runs/{number}-{stamp}"
            store = _run_without(
                FeatureStore.open(run.run),
                gallery / folder,
                columns["source"],
                under(gallery.absolute(), run.columns.root),
            )
            if (run.run / CALIBRATION).is_file():
                _copy_synced(run.run / CALIBRATION, store.run / CALIBRATION)
            columns["source"] = np.arange(len(kept), dtype=np.int64)
            columns["shards"], facts = shards_of(store), facts_of(store, gallery)
            segment = replace(segment, run=folder, digest=store.plan.digest)
        arrays, facts = with_facts(columns, facts)
        rows = f"rows/{number}-{stamp}"
        write_arrays(gallery / rows, arrays, facts)
        index = segment.index if keeps_codes else None
        if index is not None:
            file = f"index/{number}-{stamp}"
            copy_codes(gallery / index, gallery / file, kept)
            index = file
        segments.append(replace(segment, rows=rows, index=index, count=len(kept)))
    all_gone = np.concatenate([*gone, np.empty(0, np.int64)])
    hidden = _write_hidden(gallery, after.generation, np.setdiff1d(opened.hidden, all_gone))
    labels = labels_without(gallery, current, after.generation, all_gone)
    return replace(after, segments=tuple(segments), removed=hidden, labels=labels)


def _run_without(
    store: FeatureStore, folder: Path, kept: NDArray[np.int64], root: Path
) -> FeatureStore:
    """A run of the rows that are kept, with a fingerprint of its own; `root` is where its paths
    start from."""
    manifest = store.manifest
    if (store.run / PICTURES).is_dir():  # no links: the old ones are overwritten
        root = folder.absolute()
        make_folder(folder / PICTURES)
        for path in map(os.fsdecode, manifest.path[kept].tolist()):
            with contextlib.suppress(FileNotFoundError):  # `gallery verify` says it
                _copy_synced(store.run / path, folder / path)
    manifest = replace(
        manifest,
        root=root,
        path=_narrow(manifest.path[kept]),
        person_id=manifest.person_id[kept],
        camera_id=manifest.camera_id[kept],
        split=manifest.split[kept],
        extra={name: _narrow(column[kept]) for name, column in manifest.extra.items()},
        notes=(),
    )
    identity = store.plan.identity | {"manifest": manifest.fingerprint()}
    plan = replace(store.plan, manifest=manifest, identity=identity)
    make_folder(folder / "shards")
    for shard in plan.shards:
        rows = kept[shard.start : shard.stop]
        values = Rows(
            features=store.features(rows).astype(plan.stored_type),
            norm=store.norm[rows],
            status=store.status[rows],
        )
        write_shard(folder, plan, shard, values)
    columns = RunColumns(norm=store.norm[kept], status=store.status[kept])
    write_root(folder / "store.h5", plan, columns)
    return FeatureStore.open(folder)


def _narrow(column: NDArray[np.bytes_]) -> NDArray[np.bytes_]:
    """As wide as its longest text."""
    width = int(np.char.str_len(column).max(initial=1))
    return column.astype(f"S{max(1, width)}")


def _share_left(opened: Gallery) -> float | None:
    """The share of rows that the codes leave to be scored, for some of its own rows as queries;
    None without codes."""
    if opened.generation.directions is None or not opened.count:
        return None
    parts = [part for part in opened.parts() if len(part)]
    step = -(-opened.count // ASKED_ROWS)
    asked = np.concatenate([part.rows.take(part.places[::step]) for part in parts])
    return float(opened.search(asked, TOP).scored.mean()) / opened.count


def _copy_run(run: Path, to: Path) -> None:
    try:
        make_folder(to / "shards")
        for file in (run / "store.h5", *run.glob(CALIBRATION), *sorted(run.glob("shards/*.h5"))):
            target = to / file.relative_to(run)
            _copy_synced(file, target)
    except OSError as error:
        raise StoreError(f"{to}: {error.strerror}; make room, or check the folder") from error


def _copy_synced(file: Path, target: Path) -> None:
    shutil.copyfile(file, target)
    handle = os.open(target, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def _refuse_unless_free(gallery: Path) -> None:
    """StoreError for a folder with a gallery, or with anything that no `create` left there which
    was interrupted."""
    if (gallery / FILE).exists():
        raise StoreError(f"{gallery}: there is a gallery already; add to it, or give another name")
    if not gallery.is_dir() or read_old(gallery, 0) is not None:
        return
    before = gallery / "generations"
    found = [*gallery.iterdir(), *before.glob("*")]
    if any(not (entry == before or _is_unfinished(entry)) for entry in found):
        raise StoreError(f"{gallery}: not empty, and no gallery; give another name")


def _is_unfinished(entry: Path) -> bool:
    """Whether it may be there before `create` has noted that it has begun."""
    return entry.name.startswith("job-") or BEING_WRITTEN.fullmatch(entry.name) is not None
