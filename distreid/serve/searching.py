"""What requests ask of a gallery, searched together where they ask for the same rows."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distreid.data.locators import locate
from distreid.errors import OptionError, StoreError
from distreid.interface.opened_gallery import SearchResult
from distreid.search.gallery import checked_queries
from distreid.serve.messages import Answer, Asked, Found, Hit
from distreid.serve.meters import Meters
from distreid.serve.problems import Problem
from distreid.serve.served_gallery import Held, ServedGallery

THUMBNAIL = 192  # pixels wide, for a screen of double density


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One request."""

    asked: Asked
    row: int | None = None
    features: NDArray[np.floating[Any]] | None = None
    """(Q, D), or (D,); the row's without."""


def search_together(
    gallery: ServedGallery, meters: Meters, wanted: Sequence[Wanted]
) -> list[Found | Exception]:
    """Each one's answer, or why it has none, in their order. Answers that are searched together are
    of one generation."""
    groups: dict[object, list[int]] = {}
    for place, each in enumerate(wanted):
        # What is fused is one answer for several queries: it goes alone.
        alone = place if each.asked.fuse else None
        groups.setdefault((each.asked.top, each.asked.filter(), alone), []).append(place)
    answers: list[Found | Exception | None] = [None] * len(wanted)
    for places in groups.values():
        group = functools.partial(_group, meters, [wanted[place] for place in places])
        try:
            found: list[Found | Exception] = gallery.answer(group)
        except Exception as error:
            found = [error] * len(places)
        for place, answer in zip(places, found, strict=True):
            answers[place] = answer
    return [answer for answer in answers if answer is not None]


def _group(meters: Meters, group: Sequence[Wanted], held: Held) -> list[Found | Exception]:
    """Requests for the same rows; what one of them cannot be meant by is its own error."""
    answers: dict[int, Found | Exception] = {}
    queries: dict[int, NDArray[Any]] = {}
    for place, each in enumerate(group):
        try:
            if each.row is not None:
                place_of_row(held, each.row)
                given = held.gallery.features([each.row])
            else:
                assert each.features is not None
                given = each.features
            checked_queries(given, held.gallery.dim)
            queries[place] = np.atleast_2d(given)
        except StoreError:
            raise
        except Exception as error:
            answers[place] = error
    if queries:
        asked = group[0].asked
        which = asked.filter()
        with meters.seconds.labels("search").time():
            result = held.gallery.search(
                np.concatenate([*queries.values()]),
                asked.top,
                cameras=which.cameras,
                persons=which.persons,
                not_persons=which.not_persons,
                since=which.since,
                until=which.until,
                fuse=asked.fuse,
            )
        first = 0
        for place, given in queries.items():
            count = len(result) if asked.fuse else len(given)
            answers[place] = _found(held, group[place], result.part(first, first + count))
            first += count
    return [answers[place] for place in range(len(group))]


def _found(held: Held, wanted: Wanted, result: SearchResult) -> Found:
    gallery, asked = held.gallery, wanted.asked
    threshold = held.threshold if asked.threshold is None else asked.threshold
    if asked.fuse == "rank":
        threshold = None
    own = None if wanted.row is None else [frozenset([wanted.row])]
    answers = [
        Answer(
            hits=[
                Hit(
                    row=each.row,
                    score=each.score,
                    person=each.labels[0],
                    camera=each.labels[1],
                    time=None if math.isnan(each.time) else each.time,
                    image=thumbnail(each.row),
                    frame=_frame(each.row, each.path),
                    same=answer.is_same(each),
                )
                for each in answer.found
            ],
            exact=answer.exact,
        )
        for answer in result.answers(threshold=threshold, own=own)
    ]
    return Found(
        hits=answers[0].hits if len(answers) == 1 else None,
        answers=answers if len(answers) > 1 else None,
        exact=all(answer.exact for answer in answers),
        generation=gallery.generation,
        threshold=threshold,
        unmatched=result.unmatched,
    )


def place_of_row(held: Held, row: int, *, hidden: bool = False) -> int:
    """The row's place; Problem where it is not there, or cannot be found and `hidden` is false."""
    reader = held.gallery.reader
    try:
        run, place = reader.find(row)
    except OptionError:
        raise Problem(404, f"row {row}: the gallery has no such row") from None
    at = int(np.searchsorted(reader.hidden, row))
    is_hidden = at < len(reader.hidden) and reader.hidden[at] == row
    if not hidden and (is_hidden or not reader.runs[run].columns.has_image[place]):
        raise Problem(404, f"row {row}: it was removed, or has no image")
    return int(reader.place_of(np.array([row], np.int64))[0])


def _frame(row: int, path: str) -> str | None:
    return f"v1/images/{row}?frame=true" if locate(Path(path)).box else None


def thumbnail(row: int) -> str:
    """The address of a row's small picture."""
    return f"v1/images/{row}?width={THUMBNAIL}"
