"""The layouts as lines for a terminal and as rows for programs."""

from __future__ import annotations

from typing import Any

from distreid.data.layouts import LAYOUTS, in_words, recognised_by


def layout_lines() -> list[str]:
    """For each layout its name and what it is, what lies in its folder, and how it is found."""
    lines = []
    for name, layout in LAYOUTS.items():
        counts = ", ".join(f"{part} {count:,}" for part, count in layout.counts.items())
        published = f"; published: {counts}" if counts else ""
        lines += [f"{name}: {in_words(layout.data)}{published}"]
        lines += [f"    {path}" for path in layout.sketch]
        lines += [f"  recognised by: {in_words(recognised_by(layout))}", ""]
    return lines


def layout_rows() -> list[dict[str, Any]]:
    """The same for programs."""
    return [
        {
            "name": name,
            "data": in_words(layout.data),
            "sketch": list(layout.sketch),
            "recognised_by": in_words(recognised_by(layout)),
            "labels": in_words(layout.labels),
            "counts": dict(layout.counts),
            "splits": layout.splits,
            "multi_query": layout.multi_query,
        }
        for name, layout in LAYOUTS.items()
    ]
