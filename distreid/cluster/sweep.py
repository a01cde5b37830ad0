"""A sweep file to the command lines of its jobs: CSV, or a YAML list of mappings.

A column is an option of the main job without its dashes; an empty cell leaves it out. In YAML,
true and false are a flag and its --no-, and a list is several values, such as checkpoints.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
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
            lines = list(csv.DictReader(text.splitlines(), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise OptionError(f"--array {file}: cannot be read ({reason})") from error
    if not isinstance(lines, list) or not lines:
        raise OptionError(f"--array {file}: no job in it; give a CSV with a header, or a YAML list")
    for number, line in enumerate(lines, 1):
        if not isinstance(line, Mapping) or None in line or None in line.values():
            raise OptionError(f"--array {file}: job {number} does not fit the header or is no map")
    return [_options(line) for line in lines]


def _options(line: Mapping[str, Any]) -> list[str]:
    options = []
    for name, value in line.items():
        flag = str(name).strip().replace("_", "-")
        if value is True or value is False:
            options.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, list):
            options += [f"--{flag}", *map(str, value)]
        elif str(value) != "":
            options += [f"--{flag}", str(value)]
    return options
