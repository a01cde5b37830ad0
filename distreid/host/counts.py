"""Counts of things in words, of which one is not many."""

from __future__ import annotations


def counted(count: int, one: str, many: str | None = None) -> str:
    """`1 camera`, `2,000 cameras`; `many` where it is not `one` with an s."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
