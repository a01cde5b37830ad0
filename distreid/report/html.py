"""HTML from the templates beside this file: every text is escaped, and made printable."""

from __future__ import annotations

import base64
import functools
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from markupsafe import Markup

from distreid.errors import printable

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
WIDE_PX = 1400  # a picture with more details than a phone is wide: it scrolls there


@dataclass(frozen=True, kw_only=True)
class Table:
    """Figures for people, written out; a row starts with its name."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(f"{self.title}: {len(self.header)} columns, but a row {row}")

    def column_classes(self) -> list[str]:
        """`figure` for a column of numbers, which stand to the right; the first one names the
        row."""
        columns = list(zip(*self.rows, strict=True))[1:]
        return ["", *("figure" if all(map(_is_figure, column)) else "" for column in columns)]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG within the page. ValueError for other bytes."""

    caption: str
    """Says what it shows: it is also the alternative text."""
    png: bytes

    def __post_init__(self) -> None:
        if not self.png.startswith(PNG_MAGIC):
            raise ValueError(f"the picture {self.caption!r} is no PNG")

    @property
    def pixels(self) -> tuple[int, int]:
        """Width and height."""
        width, height = struct.unpack(">II", self.png[16:24])
        return width, height

    @property
    def width(self) -> int:
        """Half as wide as it has pixels: sharp on a screen of double density."""
        return self.pixels[0] // 2

    @property
    def height(self) -> int:
        """Half as high as it has pixels."""
        return self.pixels[1] // 2

    @property
    def is_wide(self) -> bool:
        """Whether it has more details than a phone is wide."""
        return self.pixels[0] > WIDE_PX

    @property
    def source(self) -> str:
        """The picture itself, as an address."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode('ascii')}"


def render(template: str, **values: Any) -> str:
    """A template of this package, filled in."""
    return _templates().get_template(template).render(**values)


@functools.cache
def _templates() -> jinja2.Environment:
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("distreid.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        keep_trailing_newline=True,
    )
    templates.filters["split_name"] = lambda text: re.findall(r"[^/_]*[/_]?", text)
    return templates


def _shown(value: Any) -> Any:
    """In one line, without what would command a terminal or turn the text's direction."""
    return value if isinstance(value, Markup) else printable(str(value))


def _is_figure(cell: str) -> bool:
    return not cell.strip("0123456789.,+-−–±×[]()% ")
