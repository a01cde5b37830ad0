"""The pages of the manual that are made of the code, so that they cannot be stale."""

from __future__ import annotations

import argparse
import ast
import configparser
import html
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distreid.cli import command_parser

if TYPE_CHECKING:
    from distreid.data.layouts import Layout

REPOSITORY = Path(__file__).parent.parent
PACKAGE = REPOSITORY / "distreid"


def pages() -> dict[str, str]:
    """What `write` writes, by file name."""
    # Only here: torch takes seconds to import.
    from distreid.data import layouts
    from distreid.evaluation.protocols.listing import protocol_sections
    from distreid.models.description import models_table

    return {
        "commands.md": "\n".join(_commands(command_parser())),
        "floors.html": floors_figure(),
        "layouts.md": "\n".join(_layouts(layouts.table_rows())),
        "models.md": "\n".join(_models(models_table().split("\n"))),
        "protocols.md": "\n".join(protocol_sections()),
        "sketches.md": "\n".join(_sketches(layouts.LAYOUTS)),
        "tour.md": "\n".join(_tour()),
    }


def write(folder: Path) -> None:
    """Writes the pages that changed; Sphinx reads again what is newer than its last build."""
    folder.mkdir(exist_ok=True)
    for name, text in pages().items():
        file = folder / name
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")


def _cells(rows: Sequence[str]) -> Iterator[list[str]]:
    """The cells of a table in Markdown, without its heading."""
    return ([cell.strip() for cell in row.strip("|").split(" | ")] for row in rows[2:])


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown; on a narrow screen the cells of a row stand below each other."""
    lines = [" | ".join(row) for row in (heading, ["---"] * len(heading), *rows)]
    table = "\n".join(f"| {line} |" for line in lines)
    return f":::{{container}} stack\n{table}\n:::\n"


def _layouts(rows: Sequence[str]) -> Iterator[str]:
    """The table of layouts, in three columns that fit on a page."""
    yield _table(
        ("`--layout`", "what", "query, gallery, person, camera"),
        (
            (
                name,
                f"{data}<br>recognised by: {found}"
                + (f"<br>published: {counts}" if counts != "–" else ""),
                labels,
            )
            for name, data, found, labels, counts in _cells(rows)
        ),
    )


def _models(rows: Sequence[str]) -> Iterator[str]:
    """The table of models, one for each project, in three columns."""
    projects: dict[str, list[tuple[str, str, str]]] = {}
    for name, project, size, feature, dimensions, mirror in _cells(rows):
        more = "<br>mirror image: summed" if mirror == "summed" else ""
        found = (name, size, f"{feature}<br>{dimensions} dimensions{more}")
        projects.setdefault(project, []).append(found)
    for project, known in projects.items():
        yield f"### {project}\n"
        yield _table(("`--model`", "input", "feature"), known)


def _sketches(known: Mapping[str, Layout]) -> Iterator[str]:
    """Markdown: what lies in the folder of each layout; equal ones stand together."""
    names: dict[tuple[str, ...], list[str]] = {}
    for name, layout in known.items():
        names.setdefault(layout.sketch, []).append(f"`{name}`")
    for sketch, alike in names.items():
        if sketch:
            lines = "\n".join(sketch)
            yield f"{', '.join(alike)}\n\n```text\n{lines}\n```\n"


def _commands(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Markdown: a section for each command and each of those below it, with its usage and every
    option."""
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    summaries = {choice.dest: choice.help or "" for choice in commands._choices_actions}
    for name, command in commands.choices.items():
        yield f"## {parser.prog} {name}\n"
        yield _sentence(summaries[name])
        if command.description and command.description != summaries[name]:
            yield _sentence(command.description)
        if any(isinstance(action, argparse._SubParsersAction) for action in command._actions):
            yield from _commands(command)
            continue
        yield f"```text\n{' '.join(_usage(command).split())}\n```\n"
        for group in command._action_groups:
            yield from _options(command, group)


def _usage(command: argparse.ArgumentParser) -> str:
    """The command with what must be given; optional ones stand below it."""
    if command.usage:
        return command.usage % {"prog": command.prog}
    needed = [
        _written(action)
        for action in command._actions
        if action.required or not action.option_strings
    ]
    return f"{command.prog} {' '.join(needed)} [OPTIONS]"


def _options(command: argparse.ArgumentParser, group: argparse._ArgumentGroup) -> Iterator[str]:
    actions = [a for a in group._group_actions if not isinstance(a, argparse._HelpAction)]
    if not actions:
        return
    if group.title not in ("options", "positional arguments"):
        yield f"**{(group.title or '').capitalize()}**\n"
    for action in actions:
        # argparse's own expansion of %(default)s and %%.
        said = command._get_formatter()._expand_help(action) if action.help else ""
        if action.choices and action.metavar is None:
            said += ("; " if said else "") + "one of " + ", ".join(map(str, action.choices))
        yield f"`{_written(action)}`\n" + (f": {_escaped(said)}\n" if said else "")


def _written(action: argparse.Action) -> str:
    """An option as one would type it."""
    name = action.metavar or (action.dest.upper() if action.choices is None else "NAME")
    if isinstance(name, tuple):
        name = " ".join(name)
    if action.nargs in ("+", "*"):
        name += " …"
    if not action.option_strings:
        return name
    flags = ", ".join(action.option_strings)
    return flags if action.nargs == 0 else f"{flags} {name}"


def _sentence(text: str) -> str:
    text = text[0].upper() + text[1:]
    return _escaped(text if text.endswith((".", "…", "?")) else f"{text}.") + "\n"


def _escaped(text: str) -> str:
    """Plain text in Markdown, with what is quoted, options and file names as code."""
    parts = re.split(r"(?<!\w)'([^']+)'(?!\w)", text)
    return "".join(f"`{part}`" if i % 2 else _words(part) for i, part in enumerate(parts))


def _words(text: str) -> str:
    words = []
    for word in text.split(" "):
        core = word.strip("(),.;:'")
        is_code = core.startswith("--") or any(mark in core for mark in "*_<>$|\\")
        words.append(word.replace(core, f"`{core}`") if core and is_code else word)
    return " ".join(words)


def floors() -> list[list[str]]:
    """The packages of each floor from the top, as the contract of import-linter has them."""
    settings = configparser.ConfigParser()
    settings.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    layers = settings["importlinter:contract:floors"]["layers"].split("\n")
    return [[name.strip() for name in layer.split("|")] for layer in layers if layer.strip()]


def floors_figure() -> str:
    """HTML: the house, a row of boxes for each floor."""
    rows = []
    for number, names in zip(range(len(floors()), 0, -1), floors(), strict=True):
        boxes = "".join(
            f'<span class="room" title="{html.escape(_first_sentence(_source(name)))}">'
            f"{name}</span>"
            for name in names
        )
        rows.append(f'<div class="floor"><span class="number">{number}</span>{boxes}</div>')
    return f'<div class="house">{"".join(rows)}</div>\n'


def _tour() -> Iterator[str]:
    """Markdown: a section for each package in the order of the floors, a line for each file."""
    for names in floors():
        for name in names:
            source = _source(name)
            if source.name != "__init__.py":
                yield f"### `{source.name}`\n\n{_first_sentence(source)}\n"
                continue
            yield f"### `{name}/`\n\n{_first_sentence(source)}\n"
            yield "| file | what is in it |\n|---|---|"
            for file in sorted(source.parent.glob("*.py")):
                if file.name != "__init__.py":
                    yield f"| `{file.name}` | {_first_sentence(file)} |"
            yield ""


def _source(name: str) -> Path:
    file = PACKAGE / f"{name}.py"
    return file if file.exists() else PACKAGE / name / "__init__.py"


def _first_sentence(file: Path) -> str:
    """The first paragraph of a module's docstring, in one line."""
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return " ".join(text.partition("\n\n")[0].split()).replace("|", "\\|")
