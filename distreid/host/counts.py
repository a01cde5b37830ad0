"""Counts of things in words, of which one is not many, and numbers in texts."""

from __future__ import annotations

import re

WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")
"""In 64 bits, and in no digits but ours."""


def whole_number(text: str) -> int | None:
    """The number that a text is; None if it is none."""
    return int(text) if WHOLE_NUMBER.fullmatch(text) else None


def counted(count: int, one: str, many: str | None = None) -> str:
    """`1 camera`, `2,000 cameras`; `many` where it is not `one` with an s."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
