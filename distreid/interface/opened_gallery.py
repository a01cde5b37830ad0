"""A gallery as a Python user holds it, and what a search of it gives."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distreid.data.manifest import NO_CAMERA, NO_PERSON
from distreid.errors import OptionError
from distreid.job.options import path_text
from distreid.nearest.similarity import checked_device
from distreid.search.approximate import search_approximately
from distreid.search.fusion import search_fused
from distreid.search.gallery import Filter, Hits
from distreid.search.gallery import Gallery as GalleryReader

if TYPE_CHECKING:
    from distreid.report.search_results import Answer


def open_gallery(path: str | os.PathLike[str], *, device: str = "cpu") -> Gallery:
    """Opens a gallery, the folder of `distreid gallery create`, as it is now.

    What others add or remove later is not seen: open it again. With the device `cuda` a GPU keeps
    the gallery's codes and multiplies them; the answers are the same. StoreError, whose text is one
    line, says what is missing or damaged; OptionError if there is no such device, or no room on it.
    """
    return Gallery(GalleryReader(Path(path_text("path", path)), device=checked_device(device)))


class Gallery:
    """One generation of a gallery. Made by `distreid.open_gallery`; close it, or use it in `with`,
    so that rows that are erased need not wait for it."""

    def __init__(self, reader: GalleryReader) -> None:
        self.reader = reader
        """What it stands on."""

    @property
    def folder(self) -> Path:
        """The gallery's folder."""
        return self.reader.folder

    @property
    def generation(self) -> int:
        """Its number: each change makes the next one."""
        return self.reader.generation.generation

    @property
    def dim(self) -> int:
        """Of a feature."""
        return self.reader.dim

    def __len__(self) -> int:
        """Rows that can be found."""
        return self.reader.count

    def features(self, rows: Sequence[int]) -> NDArray[np.float32]:
        """(n, D) the features of rows by their ids; OptionError for one that is not there, and for
        what is no list of integers."""
        if np.ndim(rows) != 1:
            raise OptionError(f"rows = {rows!r}: a list is wanted, of one row too, such as [3]")
        return self.reader.features(rows)

    def search(
        self,
        features: ArrayLike,
        top: int = 10,
        *,
        cameras: Sequence[str | int] | None = None,
        persons: Sequence[str | int] | None = None,
        not_persons: Sequence[str | int] | None = None,
        since: float | None = None,
        until: float | None = None,
        fuse: str | None = None,
        approximate: bool = False,
    ) -> SearchResult:
        """The `top` rows with the largest cosines for each feature, (Q, D) or one (D,).

        Persons and cameras are texts as `SearchResult.person` and `camera` have them, and a person
        also an integer as `person_id` has it; times are seconds since 1970. `fuse` gives one answer
        for all queries, of one person: `mean`, `max` or `rank`. `approximate` takes the index of
        `distreid index`. Fewer rows come where fewer may be found. OptionError for features that
        cannot be queries, StoreError if rows of this generation were erased meanwhile.
        """
        which = Filter(
            cameras=_tuple(cameras),
            persons=_tuple(persons),
            not_persons=_tuple(not_persons),
            since=_number("since", since),
            until=_number("until", until),
        )
        if approximate:
            if fuse is not None:
                raise OptionError("approximate answers are not fused: give fuse or approximate")
            hits = search_approximately(self.reader, features, top, which)
        elif fuse is None:
            hits = self.reader.search(features, top, which)
        else:
            hits = search_fused(self.reader, features, fuse, top, which)
        return SearchResult(self.reader, hits, which)

    def close(self) -> None:
        """Gives the generation back."""
        self.reader.close()

    def __enter__(self) -> Gallery:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<distreid.Gallery {self.folder}: {len(self):,} rows × {self.dim:,}>"


class SearchResult:
    """Answers to Q queries, the best row first: K is `top`, or less where fewer rows can be had."""

    def __init__(self, reader: GalleryReader, hits: Hits, which: Filter) -> None:
        self._reader, self.hits, self._which = reader, hits, which

    def part(self, first: int, last: int) -> SearchResult:
        """Those of the queries `first` to `last` − 1."""
        values = {f.name: getattr(self.hits, f.name)[first:last] for f in fields(self.hits)}
        return SearchResult(self._reader, Hits(**values), self._which)

    @property
    def rows(self) -> NDArray[np.int64]:
        """(Q, K) ids of the rows, the same for the gallery's life."""
        return self.hits.rows

    @property
    def scores(self) -> NDArray[np.float32]:
        """(Q, K) cosines: float64 inner products, rounded to float32."""
        return self.hits.scores

    @property
    def exact(self) -> NDArray[np.bool_]:
        """(Q,) whether the answer is proven to be brute force's."""
        return self.hits.exact

    @property
    def unmatched(self) -> list[str]:
        """What of the filters no row of the gallery has: `person Ann`, `camera 7`, `a time`."""
        return self._reader.unmatched(self._which)

    @functools.cached_property
    def person_id(self) -> NDArray[np.int64]:
        """(Q, K) the gallery's numbers of persons, −2 where nobody is known."""
        return self._reader.column("person_id", self.hits.place)

    @functools.cached_property
    def person(self) -> NDArray[np.str_]:
        """(Q, K) names of persons, or their numbers; empty where nobody is known."""
        return np.where(self.person_id == NO_PERSON, "", self._names("person"))

    @functools.cached_property
    def camera(self) -> NDArray[np.str_]:
        """(Q, K) names of cameras, or their numbers; empty where none is known."""
        return np.where(self.camera_id == NO_CAMERA, "", self._names("camera"))

    @functools.cached_property
    def time(self) -> NDArray[np.float64]:
        """(Q, K) seconds since 1970; NaN where no time is known."""
        return self._reader.column("time", self.hits.place)

    def _names(self, what: str) -> NDArray[np.str_]:
        return self._reader.names(what, self.hits.place)

    @functools.cached_property
    def camera_id(self) -> NDArray[np.int64]:
        """(Q, K) as the runs have them, −1 where none is known. Of cameras with names each run has
        numbers of its own: `camera` tells them."""
        return self._reader.column("camera_id", self.hits.place)

    @functools.cached_property
    def path(self) -> NDArray[np.str_]:
        """(Q, K) of the images, as their runs have them."""
        paths = self._reader.column("path", self.hits.place)
        return np.array([os.fsdecode(path) for path in paths.ravel().tolist()], dtype=str).reshape(
            paths.shape
        )

    def answers(
        self,
        queries: Sequence[str] | None = None,
        images: Sequence[Path | None] | None = None,
        threshold: float | None = None,
        own: Sequence[frozenset[int]] | None = None,
    ) -> list[Answer]:
        """For reports: with names and images of the queries, and of each the rows of the gallery
        that it is made of."""
        from distreid.report.search_results import Answer, FoundRow

        persons, cameras = self._names("person"), self._names("camera")
        return [
            Answer(
                query=queries[q] if queries else f"query {q}",
                image=images[q] if images else None,
                exact=bool(self.exact[q]),
                threshold=threshold,
                own=own[q] if own else frozenset(),
                found=[
                    FoundRow(
                        row=int(self.rows[q, k]),
                        score=float(self.scores[q, k]),
                        person=str(persons[q, k]),
                        person_id=int(self.person_id[q, k]),
                        camera=str(cameras[q, k]),
                        camera_id=int(self.camera_id[q, k]),
                        time=float(self.time[q, k]),
                        path=str(self.path[q, k]),
                        image=self._reader.file(int(self.hits.place[q, k])),
                    )
                    for k in range(self.rows.shape[1])
                ],
            )
            for q in range(len(self.rows))
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return (
            f"<distreid.SearchResult: {len(self.rows):,} queries × {self.rows.shape[1]:,} rows"
            + "".join(f"; no row has {word}" for word in self.unmatched)
            + ">"
        )

    def _repr_html_(self) -> str:
        from distreid.report.search_results import search_html

        return search_html(f"{len(self):,} queries in {self._reader.folder}", self.answers())


def _number(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if not isinstance(value, (int, float, np.integer, np.floating)) or np.isnan(value):
        raise OptionError(f"{name} = {value!r}: seconds since 1970 are wanted")
    return float(value)


def _tuple(values: Any) -> tuple[str | int, ...] | None:
    if values is None:
        return None
    if isinstance(values, (str, int, np.integer)):
        values = [values]
    return tuple(value if isinstance(value, str) else int(value) for value in values)
