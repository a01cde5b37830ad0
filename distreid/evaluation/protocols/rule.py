"""What a benchmark counts, as data: who asks, who is asked, what is left out, what is drawn.

Imports nothing heavy, so that `--help` answers at once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

from distreid.errors import OptionError
from distreid.evaluation.protocol import PRESETS, Protocol

UNITS = ("image", "tracklet", "nearest")
CMC = ("images", "persons", "one of each person")
DRAWS = ("choice", "shuffle", "listed")
ORDERS = ("path", "list", "number")
SEEDED = ("once", "each")
CONDITION = re.compile(r"\s*([\w-]+)\s*(!?=)\s*([^=]*?)\s*")
TERM = re.compile(r"(same|other) ([\w-]+)")

MOST_TIMES = 1000  # each draw is scored
# Of person search: what of a benchmark it has not, what of its counting, and what may be changed.
NOT_OF_FRAMES = ("draw", "query_unit", "gallery_unit", "cmc", "open_set", "by_person")
COUNTING_NOT_OF_FRAMES = ("exclude_same", "gallery_shots", "rerank", "expand")
OF_FRAMES = {"ap", "denominator", "depth"}

# Ways of counting that most benchmarks share. Their parts, not their names, are what counts.
STANDARD = replace(PRESETS["fastreid"], name="standard", as_in="")
NO_CAMERAS = replace(STANDARD, name="no cameras", camera_rule="none")


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Which rows are meant: those whose column has one of the values, or has none of them."""

    column: str
    values: tuple[str, ...]
    negated: bool = False


@dataclass(frozen=True, kw_only=True)
class Draw:
    """What is drawn anew each time. OptionError if a value is not known."""

    times: int = 10
    how: str = "choice"
    """`choice`: some rows of each group, by Python's `random.choice`. `shuffle`: the first of each
    group after `random.shuffle` of all rows. `listed`: by the column `listed`, the numbers of the
    draws, from 1, in which a row takes part."""
    listed: str = ""
    """A column that the data set's own file of draws has been read into. With `choice`, a row's
    places in the permutations, one for each draw, which are taken instead where they are there."""
    take: int = 1
    """How many rows of each group."""
    each: tuple[str, ...] = ("person",)
    """The columns whose values make a group."""
    order: str = "path"
    """In which order the groups are drawn from: `path`: as the rows' paths first name them; `list`:
    as the data set's list does; `number`: by the values of `each`. In a group rows are in the order
    of their paths, or of the list."""
    seeded: str = "once"
    """`once`: one generator for all draws. `each`: a new one for each, whose seed is one more."""
    rest_asks: bool = False
    """What is not drawn asks; otherwise those who ask stay the same."""

    def __post_init__(self) -> None:
        _check("draw.how", self.how, DRAWS)
        _check("draw.order", self.order, ORDERS)
        _check("draw.seeded", self.seeded, SEEDED)
        for name, value in (("times", self.times), ("take", self.take)):
            if value < 1:
                raise OptionError(f"draw.{name} must be at least 1, got {value}")
        if self.times > MOST_TIMES:
            raise OptionError(f"draw.times must be at most {MOST_TIMES:,}, got {self.times:,}")
        if self.how == "listed" and not self.listed:
            raise OptionError("draw.listed: name the column that lists the draws of each row")
        if not self.each:
            raise OptionError("draw.each: name a column at least, such as person")


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One benchmark's rule. OptionError if a value is not known.

    A condition is `column = value | value`, or `!=`; several are joined by ` and `. After `;`
    stands what is taken where the data has no such column. Columns are those of the table, and
    `person`, `camera`, `split`. A row of the split `query+gallery` is of both.
    """

    name: str
    data: str = ""
    """The data set, for people."""
    rule: str = ""
    """One sentence, for people."""
    source: str = ""
    """Whose code or paper says so."""
    trap: str = ""
    """What one should know, for people."""
    layouts: tuple[str, ...] = ()
    """The layouts that are scored so unless something else is asked for."""
    asks: str = "split = query"
    asked: str = "split = gallery"
    leaves_out: tuple[str, ...] = ()
    """What a query does not find, beside junk, its own file and what the camera rule of `counting`
    leaves out: each is a list of `same COLUMN` and `other COLUMN`, all of which must hold, such as
    `same person, same clothes`; `same sequence` leaves out whoever is in it."""
    places: tuple[tuple[str, str], ...] = ()
    """Of cameras: camera → the location it shares, for the column `location`."""
    draw: Draw | None = None
    query_unit: str = "image"
    gallery_unit: str = "image"
    """`tracklet`: the mean of the rows with one value in a column of `tracklets`. `nearest`: such
    rows rank by the one that is nearest."""
    tracklets: tuple[str, ...] = ("tracklet",)
    """The first of these columns that is there."""
    tracklet_length: str = "one"
    """Of a mean: `one`: brought to length 1. `kept`: as it is, and ranked by Euclidean distance."""
    cmc: str = "images"
    """`persons`: each person keeps only the best of its images. `one of each person`: the mean over
    ten galleries of one random image of each, for each query anew, by numpy's `RandomState`."""
    unmatched_ap: str = "zero"
    """Of a query without a match, where all queries are divided by: `zero`, or `none`: there is no
    mAP."""
    frames: str = ""
    """Of person search, see `evaluation.person_search`: in which frames a query is sought. `all`
    but its own, or the name of a list of each query's frames, such as `TestG50`. Empty: rows are
    images."""
    open_set: bool = False
    """Identification at false accept rates, beside the CMC of those who are in the gallery."""
    by_person: bool = False
    """Also the mean over persons of their Rank-1: balanced accuracy."""
    counting: Protocol = field(default=STANDARD)
    """How it is counted; the seed of draws is here."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", self.name):
            raise OptionError(f"name {self.name!r}: small letters, digits and hyphens")
        for name in ("asks", "asked"):
            alternatives(getattr(self, name), name)
        for rule in self.leaves_out:
            terms(rule)
        for name, values in (
            ("query_unit", UNITS[:2]),
            ("gallery_unit", UNITS),
            ("tracklet_length", ("one", "kept")),
            ("cmc", CMC),
            ("unmatched_ap", ("zero", "none")),
        ):
            _check(name, getattr(self, name), values)
        if self.counting.query == "multi":
            raise OptionError(f"--query multi: {self.name} asks with single queries")
        one_of_each = [self.cmc == CMC[2], self.counting.gallery_shots == "single"]
        if all(one_of_each):
            raise OptionError(f"--gallery-shots single: {self.name} has cmc {CMC[2]!r} already")
        if any(one_of_each) and self.open_set:
            raise OptionError("open_set: wants one rank of each query, and not one of each draw")
        if self.frames:
            self._check_frames()

    def _check_frames(self) -> None:
        """Person search ranks by cosine, and has a rule of its own."""
        kinds: tuple[tuple[object, object, tuple[str, ...]], ...] = (
            (self, Benchmark(name=self.name), NOT_OF_FRAMES),
            (self.counting, STANDARD, COUNTING_NOT_OF_FRAMES),
        )
        for ours, plain, names in kinds:
            for name in names:
                if getattr(ours, name) != getattr(plain, name):
                    raise OptionError(f"{name}: {self.name} is person search, which has none")
        if not self.counting.by_cosine:
            raise OptionError(f"features: {self.name} is person search, which ranks by cosine")

    def changed(self, changes: dict[str, Any]) -> Benchmark:
        """The same benchmark with conventions changed, as `--ap` and others do."""
        if not changes:
            return self
        others = {name for name, value in changes.items() if value != getattr(self.counting, name)}
        if self.frames and (others := others - OF_FRAMES):
            flag = "--" + min(others).replace("_", "-")
            raise OptionError(
                f"{flag}: {self.name} is person search; only {', '.join(sorted(OF_FRAMES))} change "
                "how it counts"
            )
        if changes.get("exclude_same"):
            changes = {"camera_rule": "cross"} | changes
        counting = replace(self.counting, name=f"{self.name}, changed", as_in="", **changes)
        return replace(self, counting=counting)


def alternatives(text: str, name: str) -> list[list[Condition]]:
    """What a condition means: each alternative is a list of which all must hold."""
    found = []
    for alternative in text.split(";"):
        parts = []
        for part in re.split(r"\band\b", alternative):
            match = CONDITION.fullmatch(part)
            if match is None:
                raise OptionError(
                    f"{name} = {text!r}: conditions are such as split = query, or "
                    "camera != 1 | 2, joined by and"
                )
            column, operator, values = match.groups()
            if "|" in values and not all(value.strip() for value in values.split("|")):
                raise OptionError(f"{name} = {text!r}: there is nothing between two |")
            parts.append(
                Condition(
                    column=column,
                    values=tuple(value.strip() for value in values.split("|")),
                    negated=operator == "!=",
                )
            )
        found.append(parts)
    return found


def terms(rule: str) -> list[tuple[str, str]]:
    """(`same` or `other`, column) of a rule of what is left out; one at least is `same`."""
    found = []
    for part in rule.split(","):
        match = TERM.fullmatch(part.strip())
        if match is None:
            raise OptionError(
                f"leaves_out: {rule!r}: rules are such as 'same person, other clothes'"
            )
        found.append((match[1], match[2]))
    if all(how == "other" for how, _ in found):
        raise OptionError(f"leaves_out: {rule!r}: something must be the same")
    return found


def _check(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise OptionError(f"{name} {value!r}: choose one of {', '.join(choices)}")
