"""A gallery for reading: one generation of it, searched exactly, with filters."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distreid.data.locators import under
from distreid.data.manifest import JUNK, NO_CAMERA, NO_PERSON, composed, decomposed, utf8
from distreid.errors import OptionError, StoreError
from distreid.host.counts import whole_number
from distreid.nearest.exact_search import Found, Part, search, unit_queries
from distreid.search.generation import Generation, Segment
from distreid.search.index import read_codes, read_directions
from distreid.search.kept_columns import Columns, read_array
from distreid.search.readers import hold_current

UNKNOWN = "unknown"  # a person or a camera
FILTERS_KEPT = 16  # whose rows need not be found again
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which rows may be found; None: any. Persons and cameras are texts, a name or else the number
    of one without a name; an integer is the gallery's number of a person, whoever that is."""

    cameras: tuple[str | int, ...] | None = None
    persons: tuple[str | int, ...] | None = None
    not_persons: tuple[str | int, ...] | None = None
    since: float | None = None
    """Seconds since 1970; a row without a time is never later or earlier."""
    until: float | None = None

    def __post_init__(self) -> None:
        if self.since is not None and self.until is not None and self.since > self.until:
            raise OptionError("since is later than until: no row is both; exchange the two")

    @property
    def is_open(self) -> bool:
        """Whether every row may be found."""
        return self == Filter()


@dataclass(frozen=True, kw_only=True)
class Hits:
    """Answers to Q queries, the best row first; K is the number asked for, or of rows that may be
    found if that is less."""

    rows: NDArray[np.int64]
    """(Q, K) ids, which mean the same row for the gallery's life."""
    scores: NDArray[np.float32]
    """(Q, K)."""
    exact: NDArray[np.bool_]
    """(Q,) whether it is proven that no other row belongs there."""
    place: NDArray[np.int64]
    """(Q, K) where the rows are among those of this generation."""
    scored: NDArray[np.int64]
    """(Q,) how many rows' features were read."""


class OpenedRun:
    """A segment with what is read or mapped of it."""

    def __init__(self, gallery: Path, segment: Segment) -> None:
        self.segment = segment
        self.columns = Columns(gallery / segment.rows)
        self.run = gallery / segment.run  # an absolute one stays what it is

    @functools.cached_property
    def by_camera(self) -> Ordered:
        """Its rows in the order of their cameras."""
        return Ordered(self.columns.camera_id)

    @functools.cached_property
    def by_person(self) -> Ordered:
        """Its rows in the order of their persons."""
        return Ordered(self.columns.person_id)


class Ordered:
    """The places of rows by a number, found without looking at the others."""

    def __init__(self, values: NDArray[np.int64]) -> None:
        order = np.argsort(values, kind="stable")
        self.values, self.starts = np.unique(values[order], return_index=True)
        self.stops = np.append(self.starts[1:], len(order))
        self.order = order.astype(np.int32)

    def places(self, wanted: set[int]) -> NDArray[np.int32]:
        """Ascending places of the rows that have one of these numbers."""
        which = np.flatnonzero(np.isin(self.values, sorted(wanted)))
        found = [self.order[self.starts[i] : self.stops[i]] for i in which.tolist()]
        if len(found) == 1:
            return found[0]
        return np.sort(np.concatenate(found)) if found else np.empty(0, np.int32)


class Gallery:
    """One generation of a gallery, held until it is closed or forgotten.

    StoreError for a folder that is no gallery, or whose runs are not what they were.
    """

    def __init__(self, folder: Path, *, with_features: bool = True, device: str = "cpu") -> None:
        """Without features it tells of its rows alone, also where a run that it refers to is
        gone. `device` as in `exact_search.search`."""
        self.device = device
        self.folder = folder
        self._lock = threading.Lock()
        self._filtered: dict[Filter, list[NDArray[np.int32] | None]] = {}
        self._unmatched: dict[Filter, list[str]] = {}
        while True:
            self._hold = hold_current(folder)
            self.generation: Generation = self._hold.generation
            try:
                self.runs = [OpenedRun(folder, segment) for segment in self.generation.segments]
                if with_features:
                    _ = self._parts
                if self._hold.is_valid:
                    return
            except StoreError:
                if self._hold.is_valid:
                    self._hold.release()
                    raise
            # Rows of it were erased while it was opened: the next one has none of them.
            self._hold.release()
            for read in ("_parts", "hidden", "_directions"):
                self.__dict__.pop(read, None)

    def close(self) -> None:
        """Gives the generation back."""
        self._hold.release()

    def check(self) -> None:
        """StoreError if the generation was taken away, as when rows of it were erased."""
        self._hold.check()

    @property
    def dim(self) -> int:
        """Of a feature."""
        return self.generation.dim

    @functools.cached_property
    def hidden(self) -> NDArray[np.int64]:
        """Ascending ids of the rows that were removed and are still there."""
        if self.generation.removed is None:
            return np.empty(0, np.int64)
        return np.array(read_array(self.folder / self.generation.removed, "row"))

    @functools.cached_property
    def _parts(self) -> list[Part]:
        return [self._part(run) for run in self.runs]

    @functools.cached_property
    def count(self) -> int:
        """Rows that can be found."""
        return sum(map(len, self._parts))

    @functools.cached_property
    def _before(self) -> NDArray[np.int64]:
        return np.cumsum([0, *(run.segment.count for run in self.runs)])

    @functools.cached_property
    def _directions(self) -> Any:
        assert self.generation.directions is not None
        return read_directions(self.folder / self.generation.directions)

    def _part(self, run: OpenedRun) -> Part:
        index = run.segment.index
        return Part(
            rows=run.columns.stored(run.run),
            ids=np.asarray(run.columns.row),
            codes=None if index is None else read_codes(self.folder / index, self._directions),
            live=self._live(run),
        )

    def _live(self, run: OpenedRun) -> NDArray[np.int32] | None:
        """Places of a run's rows that can be found; None: all."""
        columns = run.columns
        first, last = np.searchsorted(self.hidden, (columns.row[0], columns.row[-1] + 1))
        if first == last and columns.facts["all_have_images"]:
            return None
        is_live = np.array(columns.has_image)
        is_live[np.searchsorted(columns.row, self.hidden[first:last])] = False
        return np.flatnonzero(is_live).astype(np.int32)

    def parts(self, which: Filter | None = None) -> list[Part]:
        """The rows that may be found, as what is searched."""
        if which is None or which.is_open:
            return self._parts
        with self._lock:
            lives = _kept(
                self._filtered,
                which,
                lambda: [
                    self.matching(run, part.live, which)
                    for run, part in zip(self.runs, self._parts, strict=True)
                ],
            )
        return [
            Part(rows=part.rows, ids=part.ids, codes=part.codes, live=live)
            for part, live in zip(self._parts, lives, strict=True)
        ]

    def matching(
        self, run: OpenedRun, chosen: NDArray[np.int32] | None, which: Filter
    ) -> NDArray[np.int32] | None:
        """Ascending places of a run's rows that a filter lets through, of those chosen; None: all
        rows."""
        columns = run.columns
        for wanted, name in ((which.cameras, "camera"), (which.persons, "person")):
            if wanted is not None:
                chosen = _both(chosen, self._places(run, name, wanted), run.segment.count)
        if which.not_persons is not None:
            others = np.ones(run.segment.count, bool)
            others[self._places(run, "person", which.not_persons)] = False
            chosen = _both(chosen, np.flatnonzero(others).astype(np.int32), run.segment.count)
        for limit, is_since in ((which.since, True), (which.until, False)):
            if limit is not None:
                fits = columns.time >= limit if is_since else columns.time <= limit
                chosen = _both(chosen, np.flatnonzero(fits).astype(np.int32), run.segment.count)
        return chosen

    def words(self, what: str, wanted: Sequence[str | int] | None = None) -> set[str]:
        """The names of all persons or cameras, and the numbers of those without one; with
        `wanted`, of these alone, without looking at the others."""
        found: set[str] = set()
        for run in self.runs:
            columns, texts = run.columns, run.columns.texts(f"{what}_name")
            numbers = columns.person_id if what == "person" else columns.camera_id
            if wanted is not None:
                places = self._places(run, what, wanted)
                numbers, texts = numbers[places], None if texts is None else texts[places]
            unnamed = numbers if texts is None else numbers[texts == b""]
            found.update(map(str, np.unique(unnamed).tolist()))
            if texts is not None:
                found.update(name.decode() for name in np.unique(texts).tolist() if name)
        return found

    def unmatched(self, which: Filter) -> list[str]:
        """What of a filter no row of the gallery has, for people: `camera 7`, `person Ann`, `a
        time`."""
        if which.is_open:
            return []
        with self._lock:
            return _kept(self._unmatched, which, lambda: self._missing(which))

    def _missing(self, which: Filter) -> list[str]:
        found = []
        persons = (*(which.persons or ()), *(which.not_persons or ()))
        for wanted, what in ((which.cameras, "camera"), (persons, "person")):
            known = set(map(composed, self.words(what, wanted))) if wanted else set()
            for each in wanted or ():
                word = utf8(str(each))
                number = whole_number(word)
                if what == "person" and not isinstance(each, str):
                    there = any(len(self._places(run, what, (each,))) for run in self.runs)
                else:
                    said = {composed(word), word if number is None else str(number)}
                    there = bool(said & known)
                if not there:
                    found.append(f"{what} {word}")
        is_timed = which.since is not None or which.until is not None
        if is_timed and all(np.isnan(run.columns.time).all() for run in self.runs):
            found.append("a time")
        return found

    def _places(self, run: OpenedRun, what: str, wanted: Sequence[str | int]) -> NDArray[np.int32]:
        """Where a run has one of these persons or cameras; a word is a name, or else a number."""
        texts = run.columns.texts(f"{what}_name")
        is_number = [what == "person" and not isinstance(each, str) for each in wanted]
        words = [each for each, as_number in zip(wanted, is_number, strict=True) if not as_number]
        names, numbers = names_and_numbers(what, words)
        ordered = run.by_person if what == "person" else run.by_camera
        places = ordered.places(set(numbers))
        if texts is not None:
            encoded = np.array([name.encode() for name in names], "S")
            named = np.flatnonzero(np.isin(texts, encoded)).astype(np.int32)
            # A row that has a name is not meant by a text that is its number.
            places = np.union1d(named, places[texts[places] == b""])
        if len(words) == len(wanted):
            return places
        meant = {int(each) for each, as_number in zip(wanted, is_number, strict=True) if as_number}
        meant = {number for number in meant if number >= JUNK}  # less is nobody who is known
        return np.union1d(places, ordered.places(meant))

    def search(self, features: ArrayLike, top: int = 10, which: Filter | None = None) -> Hits:
        """The best rows for each feature (Q, D), or one (D,): any real numbers, normalised here.

        OptionError for features of another shape, with NaN, or zero; StoreError if the generation
        was erased meanwhile.
        """
        queries, top = checked_queries(features, self.dim), checked_top(top)
        self.check()
        found = search(self.parts(which), queries, top, self.device)
        self.check()
        return self._hits(found)

    def _hits(self, found: Found) -> Hits:
        return Hits(
            rows=found.ids,
            scores=found.scores,
            exact=np.ones(len(found.ids), bool),
            place=found.place,
            scored=found.scored,
        )

    def features(self, rows: Sequence[int]) -> NDArray[np.float32]:
        """(n, D) of rows by their ids; OptionError for one that is not there."""
        wanted = self.as_ids(rows)
        place = self.place_of(wanted)
        result = np.empty((len(wanted), self.dim), np.float32)
        there = np.zeros(len(wanted), bool)
        for part, base in self.based(self._parts):
            if not len(part):
                continue
            own = np.flatnonzero((place >= base) & (place < base + len(part.ids)))
            local = (place[own] - base).astype(np.int32)
            near = np.minimum(np.searchsorted(part.places, local), len(part) - 1)
            own = own[part.places[near] == local]
            result[own] = part.rows.take(place[own] - base)
            there[own] = True
        if not there.all():
            row = int(wanted[np.argmin(there)])
            self.find(row)
            raise OptionError(f"row {row}: it was removed, or has no image; choose another row")
        self.check()
        return result

    def find(self, row: int) -> tuple[int, int]:
        """Which run has a row, by its place among `runs`, and where; OptionError if none has."""
        for number, run in enumerate(self.runs):
            place = int(np.searchsorted(run.columns.row, row))
            if place < run.segment.count and run.columns.row[place] == row:
                return number, place
        raise self.no_row(row)

    def no_row(self, row: int) -> OptionError:
        """For an id that no row has."""
        return OptionError(
            f"row {row}: the gallery {self.folder} has no such row; rows have numbers from 0 to "
            f"{self.generation.next_row - 1:,}, without those that were erased"
        )

    def as_ids(self, rows: Sequence[int]) -> NDArray[np.int64]:
        """The same as an array; OptionError for one that is larger than any id can be, or no whole
        number."""
        if wrong := [row for row in rows if isinstance(row, (float, np.floating))]:
            raise OptionError(f"row {wrong[0]}: whole numbers are wanted, the ids of rows")
        if too_large := [row for row in rows if abs(row) > np.iinfo(np.int64).max]:
            raise self.no_row(too_large[0])
        return np.array(rows, np.int64)

    def place_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Places of this generation of ids that it has."""
        places = np.full(len(rows), -1, np.int64)
        for run, before in zip(self.runs, self._before, strict=False):
            own = run.columns.row
            place = np.minimum(np.searchsorted(own, rows), len(own) - 1)
            has = own[place] == rows
            places[has] = before + place[has]
        return places

    def part_of(self, place: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which run a row at a place is of."""
        return np.searchsorted(self._before, place, "right") - 1

    def based(self, parts: Sequence[Part]) -> list[tuple[Part, int]]:
        """Each with the place of its first row."""
        return list(zip(parts, self._before.tolist(), strict=False))

    def column(self, name: str, place: NDArray[np.int64]) -> NDArray[Any]:
        """Values of `person_id`, `camera_id`, `time` or `path` at places of this generation, in
        their shape."""
        number = self.part_of(place)
        parts = [getattr(run.columns, name) for run in self.runs]
        result = np.zeros(place.shape, np.result_type(*parts) if parts else np.int64)
        for i, (part, before) in enumerate(zip(parts, self._before, strict=False)):
            of_part = number == i
            result[of_part] = part[place[of_part] - before]
        return result

    def names(self, what: str, place: NDArray[np.int64]) -> NDArray[np.str_]:
        """Names of persons or cameras at places of this generation, else their numbers, or that
        they are unknown."""
        number, unknown = self.part_of(place), NO_PERSON if what == "person" else NO_CAMERA
        of_run = {n: self.runs[n].columns.texts(f"{what}_name") for n in np.unique(number).tolist()}
        said = np.empty(place.shape, object)
        for i in np.ndindex(place.shape):
            run, at = self.runs[number[i]], int(place[i] - self._before[number[i]])
            texts = of_run[int(number[i])]
            name = texts[at].decode() if texts is not None else ""
            value = (run.columns.person_id if what == "person" else run.columns.camera_id)[at]
            said[i] = name or (UNKNOWN if value == unknown else str(value))
        return said.astype(str)

    def file(self, place: int) -> Path:
        """Where the image of a row was, by its place."""
        number = int(np.searchsorted(self._before, place, "right")) - 1
        columns = self.runs[number].columns
        path = os.fsdecode(columns.path[place - self._before[number]])
        return under(self.folder, columns.root) / path


def names_and_numbers(what: str, wanted: Sequence[str | int]) -> tuple[list[str], list[int]]:
    """What words can mean, of persons or of cameras: those that are not known have no name and no
    number."""
    words = [utf8(str(each)) for each in wanted]
    least = JUNK if what == "person" else 0
    numbers = [n for word in words if (n := whole_number(word)) is not None and n >= least]
    # A name holds no NUL, and numpy takes `Ann\0` for `Ann`.
    names = [word for word in words if word and "\0" not in word]
    # As they are written, and as another system writes the same letters.
    forms = (form(name) for name in names if not name.isascii() for form in (composed, decomposed))
    return list(dict.fromkeys((*names, *forms))), numbers


def checked_queries(features: ArrayLike, dim: int) -> NDArray[np.float64]:
    """(Q, D) unit queries, float64; OptionError says which feature cannot be one."""
    values = np.asarray(features)
    if values.dtype.kind not in "fiub":
        raise OptionError(f"features of {values.dtype}; real numbers are wanted")
    values = values[None] if values.ndim == 1 else values
    if values.ndim != 2 or values.shape[1] != dim:
        raise OptionError(
            f"query features of shape {' × '.join(map(str, np.shape(features)))}; the gallery's "
            f"have {dim:,} dimensions: extract both with one model"
        )
    values = values.astype(np.float64)
    for name, is_bad in (
        ("holds NaN or infinity", ~np.isfinite(values).all(axis=1)),
        ("is zero", ~values.any(axis=1)),
    ):
        if is_bad.any():
            raise OptionError(f"query feature {int(np.argmax(is_bad))} (from 0) {name}")
    return unit_queries(values)


def checked_top(top: Any) -> int:
    """How many rows are wanted; OptionError for what is no whole number from 1."""
    if isinstance(top, bool) or not isinstance(top, (int, np.integer)):
        raise OptionError(f"top {top!r}: a whole number is wanted")
    if top < 1:
        raise OptionError(f"top {top}: give 1 or more")
    return int(top)


def _kept(known: dict[Filter, T], which: Filter, find: Callable[[], T]) -> T:
    """What is known of the last filters; the oldest one is forgotten for a new one."""
    if which not in known:
        while len(known) >= FILTERS_KEPT:
            del known[next(iter(known))]
        known[which] = find()
    return known[which]


def _both(
    chosen: NDArray[np.int32] | None, places: NDArray[np.int32], count: int
) -> NDArray[np.int32]:
    """Places that are in both, ascending."""
    if chosen is None or len(places) == 0:
        return places
    has = np.zeros(count, bool)
    has[chosen] = True
    return places[has[places]]
