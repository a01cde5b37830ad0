"""One HTML page that shows a run: a single file that needs no network and runs no script."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distreid.report.html import Picture, Table, render


@dataclass(frozen=True, kw_only=True)
class Page:
    """What the page says. Texts may hold anything a file name can; what is empty is left out."""

    title: str
    run: Path
    command: str
    """The command line that made the run."""
    created: str
    """When the page was made."""
    identity: Mapping[str, Any]
    """What the features depend on, as `Plan.identity`; JSON values."""
    data: Sequence[str]
    """What the images are, in lines."""
    scores: Table
    """A row for each protocol."""
    counts: Mapping[str, int]
    """What the scores were computed from."""
    diagnosis: Sequence[str]
    """What is wrong with the data, in words."""
    pictures: Mapping[str, bytes]
    """PNGs by their captions, which say what they show: they are also the alternative texts."""
    breakdowns: Sequence[Table]


def render_page(page: Page) -> str:
    """The page as HTML 5, encodable as UTF-8. ValueError for a picture that is no PNG."""
    return render(
        "run_page.html",
        page=page,
        counts={name.replace("_", " "): f"{count:,}" for name, count in page.counts.items()},
        pictures=[Picture(caption=caption, png=png) for caption, png in page.pictures.items()],
        identity=by_dotted_names(page.identity),
    )


def by_dotted_names(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested values by their dotted names, in the order of the names."""
    flat: dict[str, str] = {}
    for name, value in sorted(values.items()):
        if isinstance(value, Mapping):
            flat |= by_dotted_names(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = (
                value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            )
    return flat
