"""A sweep file to the command lines of its jobs: CSV, or a YAML list of mappings.

A column is an option of the main job without its dashes; an empty cell leaves it out. In YAML,
true and false are a flag and its --no-, and a list is several values, such as checkpoints. Blanks
around names and values are not part of them.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from distreid.errors import OptionError


def read_sweep(file: Path) -> list[list[str]]:
    """The options of each job; OptionError if the file is no such table, or has no line."""
    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix in (".yaml", ".yml"):
            lines = yaml.safe_load(text)
        else:
            reader = csv.DictReader(text.splitlines(), strict=True)
            lines = list(reader)
            _check_names(file, reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise OptionError(f"--array {file}: cannot be read ({reason})") from error
    if not isinstance(lines, list) or not lines:
        raise OptionError(f"--array {file}: no job in it; give a CSV with a header, or a YAML list")
    for number, line in enumerate(lines, 1):
        if not isinstance(line, Mapping) or None in line or None in line.values():
            raise OptionError(f"--array {file}: job {number} does not fit the header or is no map")
        _check_names(file, line)
    return [_options(f"--array {file}: job {number}", line) for number, line in enumerate(lines, 1)]


def _check_names(file: Path, names: Iterable[object]) -> None:
    """OptionError if a name is empty, or stands twice: the last would count, in silence."""
    flags = [_flag(name) for name in names]
    if "" in flags:
        raise OptionError(
            f"--array {file}: a column without a name; each is named as an option of the job"
        )
    if twice := next((flag for flag in flags if flags.count(flag) > 1), None):
        raise OptionError(f"--array {file}: the column {twice} stands twice; give it once")


def _options(where: str, line: Mapping[str, Any]) -> list[str]:
    options = []
    for name, value in line.items():
        flag = _flag(name)
        if value is True or value is False:
            options.append(f"--{flag}" if value else f"--no-{flag}")
            continue
        values = value if isinstance(value, list) else [value]
        if not all(type(each) in (str, int, float) for each in values):
            raise OptionError(f"{where}: {flag} is neither a text nor a number, nor a list of such")
        texts = [str(each).strip() for each in values]
        if texts != [""]:
            options += [f"--{flag}", *texts]
    return options


def _flag(name: object) -> str:
    return str(name).strip().lstrip("-").replace("_", "-")
