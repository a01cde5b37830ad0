"""One HTML page that shows a run: a single file that needs no network and runs no script."""

from __future__ import annotations

import base64
import html
import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

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
    sections = {
        "Scores": _diagnosis(page.diagnosis) + _table(page.scores) + _counts(page.counts),
        "Pictures": _join(_figure(caption, png) for caption, png in page.pictures.items()),
        "Breakdown": _join(
            f"<h3>{_text(table.title)}</h3>\n{_table(table)}"
            for table in page.breakdowns
            if table.rows
        ),
        "Data": _join(f"<p>{_text(line)}</p>\n" for line in page.data),
        "Made by": _made_by(page),
    }
    return SKELETON.substitute(
        style=STYLE,
        title=_text(page.title),
        run=_text(str(page.run)),
        created=_text(page.created),
        sections=_join(
            f"<section>\n<h2>{heading}</h2>\n{content}</section>\n"
            for heading, content in sections.items()
            if content
        ),
    )


def _diagnosis(lines: Sequence[str]) -> str:
    if not lines:
        return ""
    items = _join(f"<li>{_text(line)}</li>\n" for line in lines)
    return f'<div class="warning">\n<strong>Read this first</strong>\n<ul>\n{items}</ul>\n</div>\n'


def _table(table: Table) -> str:
    if not table.rows:
        return ""
    columns = list(zip(*table.rows, strict=True))
    kinds = ["", *(' class="figure"' * all(map(_is_figure, column)) for column in columns[1:])]
    head = _join(
        f'<th scope="col"{kind}>{_text(name)}</th>'
        for name, kind in zip(table.header, kinds, strict=True)
    )
    body = _join(_row(row, kinds) for row in table.rows)
    # A region that scrolls must be within reach of the keyboard.
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{_text(table.title)}">\n'
        f"<table>\n<thead>\n<tr>{head}</tr>\n</thead>\n<tbody>\n{body}</tbody>\n</table>\n</div>\n"
    )


def _row(row: Sequence[str], kinds: Sequence[str]) -> str:
    name, *rest = map(_breakable, row)
    cells = (f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds[1:], rest, strict=True))
    return f'<tr><th scope="row">{name}</th>{_join(cells)}</tr>\n'


def _breakable(value: str) -> str:
    """A long name that can be wrapped after its slashes and underscores."""
    return _text(value).replace("/", "/<wbr>").replace("_", "_<wbr>")


def _is_figure(cell: str) -> bool:
    return not cell.strip("0123456789.,+-−–±×[]()% ")


def _counts(counts: Mapping[str, int]) -> str:
    words = {name.replace("_", " "): f"{count:,}" for name, count in counts.items()}
    return _pairs(words, "counts")


def _figure(caption: str, png: bytes) -> str:
    if not png.startswith(PNG_MAGIC):
        raise ValueError(f"the picture {caption!r} is no PNG")
    width, height = struct.unpack(">II", png[16:24])
    # Half as wide as it has pixels: sharp on a screen of double density.
    size = f'width="{width // 2}" height="{height // 2}"' + ' class="wide"' * (width > WIDE_PX)
    data = base64.b64encode(png).decode("ascii")
    return (
        '<figure>\n<div class="scroll">'
        f'<img src="data:image/png;base64,{data}" alt="{_text(caption)}" {size}></div>\n'
        f"<figcaption>{_text(caption)}</figcaption>\n</figure>\n"
    )


def _made_by(page: Page) -> str:
    command = f"<pre><code>{_text(page.command)}</code></pre>\n" if page.command else ""
    return command + _pairs(_flat(page.identity), "identity")


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested values by their dotted names, in the order of the names."""
    flat: dict[str, str] = {}
    for name, value in sorted(values.items()):
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = (
                value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            )
    return flat


def _pairs(pairs: Mapping[str, str], kind: str) -> str:
    items = _join(
        f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>\n"
        for name, value in pairs.items()
    )
    return f'<dl class="{kind}">\n{items}</dl>\n' if items else ""


def _text(value: str) -> str:
    """Safe in an element and in a quoted attribute."""
    return html.escape(printable(value))


def _join(parts: Iterable[str]) -> str:
    return "".join(parts)


STYLE = """
:root {
  color-scheme: light dark;
  --ink: #1c2024; --soft: #5b6570; --line: #d9dee3; --paper: #ffffff; --tint: #f4f6f8;
  --warn: #8a4b00; --warn-tint: #fff4e0;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --ink: #e6e9ec; --soft: #9aa5b0; --line: #363d45; --paper: #15181b; --tint: #1f2429;
    --warn: #ffc67a; --warn-tint: #33260f;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 60rem;
  background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif;
  overflow-wrap: anywhere;
}
h1 { margin: 0 0 .25rem; font-size: 1.9rem; line-height: 1.2; }
h2 { margin: 3rem 0 1rem; padding-bottom: .4rem; border-bottom: 1px solid var(--line);
     font-size: 1.3rem; }
h3 { margin: 2rem 0 .6rem; font-size: 1.05rem; }
p { margin: .25rem 0; }
header p, figcaption, dt { color: var(--soft); }
code, dl.identity dd { font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace;
  font-size: .875rem; }
pre { margin: 0 0 1.25rem; padding: .9rem 1rem; border-radius: .5rem; background: var(--tint);
  white-space: pre-wrap; }
.warning { margin: 0 0 1.5rem; padding: .9rem 1.1rem; border-left: .3rem solid var(--warn);
  border-radius: .3rem; background: var(--warn-tint); color: var(--warn); }
.warning ul { margin: .3rem 0 0; padding-left: 1.2rem; }
.scroll { overflow-x: auto; overflow-wrap: normal; }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .5rem .75rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
th:first-child { padding-left: 0; }
thead th { color: var(--soft); font-size: .875rem; font-weight: 600; vertical-align: bottom; }
tbody th, td { min-width: 8rem; overflow-wrap: anywhere; }
tbody th { font-weight: 500; }
th.figure, td.figure { min-width: 0; text-align: right; white-space: nowrap; }
dl { margin: 1.25rem 0 0; }
dt { font-size: .875rem; }
dd { margin: 0; }
dl.counts { display: flex; flex-wrap: wrap; gap: .75rem 2rem; }
dl.counts dd { font-size: 1.15rem; font-variant-numeric: tabular-nums; }
dl.identity div { display: grid; grid-template-columns: 15rem 1fr; gap: 0 1rem; padding: .3rem 0;
  border-bottom: 1px solid var(--line); }
figure { margin: 0 0 2rem; }
figure img { display: block; max-width: 100%; height: auto; margin: 0 auto; padding: .75rem;
  border: 1px solid var(--line); border-radius: .5rem; background: #ffffff; }
figure img.wide { min-width: 44rem; }
figcaption { margin-top: .5rem; font-size: .9rem; text-align: center; }
@media (max-width: 40rem) {
  body { padding-top: 1.5rem; }
  dl.identity div { grid-template-columns: 1fr; }
  figure img { padding: .25rem; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  figure, tr, dl div, .warning { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  figure img { max-height: 10cm; width: auto; }
  figure img.wide { min-width: 0; max-height: 22cm; }
  .scroll { overflow: visible; }
}
"""

SKELETON = Template(
    """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>$title</title>
<style>$style</style>
</head>
<body>
<header>
<h1>$title</h1>
<p>$run</p>
<p>$created</p>
</header>
<main>
$sections</main>
</body>
</html>
"""
)
