"""Who and where, told by texts: whole numbers stay numbers, names are numbered in sorted order."""

from __future__ import annotations

import datetime
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from distreid.data.manifest import (
    BOTH,
    GALLERY,
    JUNK,
    MULTI_QUERY,
    NO_CAMERA,
    NO_PERSON,
    NO_SPLIT,
    OTHER,
    QUERY,
    composed,
    utf8,
)
from distreid.errors import DataError
from distreid.host.counts import counted

# What programs write where a value is missing.
MISSING = frozenset({"", "nan", "NaN", "None", "null", "<NA>"})
# What R, SQL and persons write there, and what could be a name, too.
MISSING_OR_NAME = frozenset({"NA", "N/A", "NULL", "NONE"})
WHOLE = re.compile(r"(-?\d{1,18})(\.0*)?", flags=re.ASCII)  # 12.0: as pandas writes 12 beside NaN
NUMBER = re.compile(r"[-+]?\d*\.?\d+([eE][-+]?\d+)?", flags=re.ASCII)
SHOWN = 3

# The words of the split, and which rows they are.
SPLIT_WORDS = {
    **dict.fromkeys(("query", "queries", "probe", "probes", "q"), QUERY),
    **dict.fromkeys(
        ("gallery", "galleries", "test", "g", "ref", "reference", "database", "db"), GALLERY
    ),
    **dict.fromkeys(("multi-query", "multi_query"), MULTI_QUERY),
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
}
SPLITS = (QUERY, GALLERY, BOTH, MULTI_QUERY, "train", "val", "none")
"""What `--split-names` names; `none`: neither searched for nor found."""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """A column of persons or of cameras."""

    numbers: list[int]
    names: list[str] | None = None
    """Where the texts are no numbers; empty where nobody is named."""
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What a column is of."""

    what: str
    unknown: int
    least: int
    """The smallest number that there is."""


PERSON = Kind(what="person", unknown=NO_PERSON, least=JUNK)
CAMERA = Kind(what="camera", unknown=NO_CAMERA, least=0)


def labels_of(
    texts: Sequence[str],
    kind: Kind,
    *,
    as_text: bool = False,
    where: Callable[[int], str] | None = None,
) -> Labels:
    """A column of texts as labels. All are names if one of them is no whole number, or by
    `as_text` (`--ids text`); the person -1 is junk also among names. `MISSING_OR_NAME` is unknown
    in a table and among whole numbers; a folder of that name beside others with names is one.

    With `where`, which gives a row's place, a number that is no whole one, or that 64 bits do not
    hold, is a DataError; without, it is a name.
    """
    counts = Counter(texts)
    clean = {text: composed(text.strip()) for text in counts}
    if not as_text:  # a number among names is written without its point, too
        clean = {text: _without_point(value) for text, value in clean.items()}
    # Our own exports write the number of the unknown, and pandas may write it with a point.
    missing = MISSING | {str(kind.unknown)}
    known = {text for text in clean.values() if _without_point(text) not in missing}
    number_of = {text: _whole(text, kind) for text in known}
    wrong = {text for text, number in number_of.items() if number is None}
    marks = wrong & MISSING_OR_NAME
    if not as_text and (where or wrong == marks):
        missing, known, wrong = missing | marks, known - marks, wrong - marks
    notes = taken_for_unknown(kind.what, counts, missing)
    if marks & missing:
        notes.append(f"{kind.what}: --ids text takes {', '.join(sorted(marks))} for a name")
    if not as_text and not wrong:
        numbers = {text: number for text, number in number_of.items() if number is not None}
        notes += _written_twice(numbers, kind)
        of = {text: numbers.get(value, kind.unknown) for text, value in clean.items()}
        return Labels(numbers=[of[text] for text in texts], notes=notes)
    if where and not as_text and all(map(NUMBER.fullmatch, wrong)):
        row = next(row for row, text in enumerate(texts) if clean[text] in wrong)
        raise DataError(
            f"{where(row)}: {kind.what}_id is {texts[row].strip()!r}; it must be a whole number "
            f"from {kind.least} of 18 digits at most, or empty; --ids text takes numbers for names"
        )
    junk = {str(JUNK)} & known  # of cameras it is the number of the unknown
    names = sorted(known - junk, key=os.fsencode)
    place = {name: number for number, name in enumerate(names)} | dict.fromkeys(junk, JUNK)
    of = {text: place.get(value, kind.unknown) for text, value in clean.items()}
    shown = {text: utf8(clean[text]) if value >= 0 else "" for text, value in of.items()}
    some = ", ".join(map(repr, map(utf8, names[:SHOWN])))
    notes.append(
        f"{kind.what}: {counted(len(names), 'name')}, numbered in sorted order: {some}"
        + (", …" if len(names) > SHOWN else "")
    )
    return Labels(
        numbers=[of[text] for text in texts], names=[shown[text] for text in texts], notes=notes
    )


def taken_for_unknown(what: str, counts: Mapping[str, int], missing: Collection[str]) -> list[str]:
    """A note on texts, with their numbers of rows, that say that something is not known; none on
    empty ones."""
    written = {
        text: text.strip()
        for text in counts
        if text.strip() and _without_point(text.strip()) in missing
    }
    if not written:
        return []
    rows = counted(sum(counts[text] for text in written), "row")
    return [f"{what}: {', '.join(sorted({*written.values()}))} is taken for unknown ({rows})"]


def split_rows(
    words: Sequence[str], split_names: Mapping[str, str], what: str = "the split"
) -> tuple[list[str], list[str]]:
    """Which split each row is of, and notes on the words that were taken for others.

    `split_names` (word → split) comes before `SPLIT_WORDS`. DataError names the words that are
    not known, with their rows, and words that were given and do not occur.
    """
    counts = Counter(words)
    taken = {word: split_of(word, split_names) for word in counts}
    if unknown := {word: counts[word] for word, split in taken.items() if split is None}:
        first = next(iter(unknown))
        said = ", ".join(f"{word!r} ({counted(rows, 'row')})" for word, rows in unknown.items())
        raise DataError(
            f"{what}: {said} is not known; say which is which, such as "
            f"--split-names query={first}, among {', '.join(SPLITS)}"
        )
    if absent := split_names.keys() - counts.keys():
        raise DataError(
            f"{what}: --split-names: no row has {', '.join(sorted(absent))}; there are "
            + ", ".join(f"{word!r} ({rows:,})" for word, rows in counts.items())
        )
    said = ", ".join(
        f"{word} is {split or 'none'}" for word, split in taken.items() if word and word != split
    )
    return [taken[word] or NO_SPLIT for word in words], [f"{what}: {said}"] if said else []


def split_of(word: str, split_names: Mapping[str, str]) -> str | None:
    """Which split a word means; None if it is not known."""
    if word in split_names:
        return NO_SPLIT if split_names[word] == "none" else split_names[word]
    if word.strip() in MISSING:
        return NO_SPLIT
    return {BOTH: BOTH, OTHER: OTHER}.get(word, SPLIT_WORDS.get(word.strip().lower()))


def is_date(text: str) -> bool:
    """Whether these are the eight digits of a day from 1990 to 2099, such as 20260131."""
    if not re.fullmatch(r"(199|20\d)\d{5}", text, flags=re.ASCII):
        return False
    try:
        datetime.date(int(text[:4]), int(text[4:6]), int(text[6:]))
    except ValueError:
        return False
    return True


def begins_with_date(name: str) -> bool:
    """Whether a file's name begins with such a day: 20260131_120000.jpg, 2026-01-31-12.jpg."""
    match = re.match(r"(\d{4})([-_. ]?)(\d\d)\2(\d\d)(?!\d)", name, flags=re.ASCII)
    return match is not None and is_date(match[1] + match[3] + match[4])


def _whole(text: str, kind: Kind) -> int | None:
    match = WHOLE.fullmatch(text)
    number = int(match[1]) if match else None
    return number if number is not None and number >= kind.least else None


def _without_point(text: str) -> str:
    """12 of 12.0, and any other text as it is."""
    match = WHOLE.fullmatch(text)
    return match[1] if match else text


def _written_twice(numbers: Mapping[str, int], kind: Kind) -> list[str]:
    """A note if one number is written in two ways, such as 012 and 12."""
    first: dict[int, str] = {}
    for text in sorted(numbers):
        if first.setdefault(numbers[text], text) != text:
            return [
                f"{kind.what}: {first[numbers[text]]} and {text} are taken for one number; "
                "--ids text keeps them apart"
            ]
    return []
