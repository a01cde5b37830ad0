"""One's own protocol: a TOML file with the fields of a benchmark, each checked."""

from __future__ import annotations

import importlib
import re
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from distreid.errors import DistreidError, OptionError
from distreid.evaluation.protocol import CHOICES, PRESETS, Protocol
from distreid.evaluation.protocols.known import BENCHMARKS
from distreid.evaluation.protocols.rule import Benchmark, Draw

tomllib: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
LIKE = "like"


def read_protocols(file: Path) -> list[Benchmark]:
    """The benchmarks of a file: its own fields are one, or each `[[protocol]]` is one.

    `like = "NAME"` starts from a known one. OptionError names the field and the line of what is
    wrong.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise OptionError(f"--protocol-file {file}: {error.strerror}; check its name") from error
    except UnicodeDecodeError as error:
        raise OptionError(f"--protocol-file {file}: not UTF-8 at byte {error.start}") from error
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise OptionError(f"--protocol-file {file}: no TOML: {error}") from error
    except RecursionError as error:
        raise OptionError(f"--protocol-file {file}: no TOML: nested too deep") from error
    several = content.pop("protocol", None)
    if several is None:
        several = [content]
    elif content or not isinstance(several, list):
        stray = next(iter(content), "protocol")
        raise OptionError(f"{_where(file, text, stray)}: write each protocol below [[protocol]]")
    for number, each in enumerate(several):
        if not isinstance(each, dict):
            place = _where(file, text, "protocol")
            raise OptionError(f"{place}: {each!r}, number {number}: write it below [[protocol]]")
    if not several:
        raise OptionError(f"{_where(file, text, 'protocol')}: there is none")
    made = [_benchmark(file, text, each, number) for number, each in enumerate(several)]
    for number, benchmark in enumerate(made):
        if benchmark.name in [*PRESETS, *BENCHMARKS, *(each.name for each in made[:number])]:
            raise OptionError(
                f"{_where(file, text, 'name', number)}: {benchmark.name} is taken; choose another"
            )
    return made


def _benchmark(file: Path, text: str, content: dict[str, Any], number: int) -> Benchmark:
    def wrong(field: str, reason: str) -> OptionError:
        flag = field.replace("_", "-")
        # Errors begin with the field, or with its option.
        reason = re.sub(rf"^(draw\.{field}|--{flag}|{field})( =|:|) ", "", reason)
        return OptionError(f"{_where(file, text, field, number)}: {reason}")

    content = dict(content)
    like = content.pop(LIKE, None)
    if like is not None and not (isinstance(like, str) and like in BENCHMARKS):
        raise wrong(LIKE, f"{like!r} is no benchmark; distreid protocols lists them")
    if "name" not in content:
        raise OptionError(f"--protocol-file {file}: name: each protocol needs one")
    found = BENCHMARKS[like] if like else Benchmark(name="own")
    known = {field.name for field in fields(Benchmark)} - {"layouts"}
    found = replace(found, layouts=())
    for field, value in content.items():
        if field not in known:
            raise wrong(field, f"no such field; there are {', '.join(sorted(known))}")
        try:
            found = replace(found, **{field: _value(found, field, value)})
        except (OptionError, TypeError, ValueError) as error:
            at = getattr(error, "field", field)
            raise wrong(at, str(error)) from error
    return found


def _value(found: Benchmark, field: str, value: Any) -> Any:
    """A field's value as the description wants it; OptionError or TypeError if it cannot be."""
    if field == "draw":
        return _table(found.draw or Draw(), value, "draw")
    if field == "counting":
        names = {each.name for each in fields(Protocol)} - {"name", "as_in"}
        if wrong := sorted(set(_dict(value, "counting")) - names):
            raise _Wrong(f"no such field; there are {', '.join(sorted(names))}", wrong[0])
        for name, choice in value.items():
            if name in CHOICES and choice not in CHOICES[name]:
                raise _Wrong(f"{choice!r}: choose one of {', '.join(CHOICES[name])}", name)
            _check_kind(name, choice, getattr(found.counting, name))
        try:
            return replace(found.counting, name="own", as_in="", **value)
        except OptionError as error:
            flags = {f"--{name.replace('_', '-')}": name for name in value}
            named = next((flags[flag] for flag in flags if str(error).startswith(flag)), field)
            raise _Wrong(str(error), named) from error
    if field == "places":
        return tuple((str(camera), str(at)) for camera, at in _dict(value, field).items())
    before = getattr(found, field)
    if isinstance(before, tuple):
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise OptionError('a list of texts is wanted, such as ["same person, same clothes"]')
        return tuple(value)
    _check_kind(field, value, before)
    return value


def _table(draw: Draw, value: Any, name: str) -> Draw:
    changes: dict[str, Any] = {}
    for field, each in _dict(value, name).items():
        if field not in {one.name for one in fields(Draw)}:
            known = ", ".join(one.name for one in fields(Draw))
            raise _Wrong(f"no such field; there are {known}", field)
        before = getattr(draw, field)
        is_texts = isinstance(each, list) and all(isinstance(one, str) for one in each)
        wanted = tuple(each) if isinstance(before, tuple) and is_texts else each
        _check_kind(field, wanted, before)
        changes[field] = wanted
    try:
        return replace(draw, **changes)
    except OptionError as error:
        # Its text begins with draw.FIELD.
        named = next((field for field in changes if f"draw.{field}" in str(error)), name)
        raise _Wrong(str(error), named) from error


def _dict(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise OptionError(f"{value!r}: a table is wanted, [{name}]")
    return value


def _check_kind(field: str, value: Any, before: Any) -> None:
    """_Wrong unless a value is of the kind of the one that it replaces."""
    if type(value) is not type(before):
        raise _Wrong(f"{value!r}: {_kind(before)} is wanted", field)


def _kind(value: Any) -> str:
    kinds = {bool: "true or false", int: "a whole number", tuple: "a list of texts"}
    return kinds.get(type(value), "a text in quotes")


class _Wrong(DistreidError, ValueError):
    """Something wrong in a field of a table."""

    def __init__(self, reason: str, field: str) -> None:
        super().__init__(reason)
        self.field = field


def _where(file: Path, text: str, field: str, number: int = 0) -> str:
    """The file, the line of a field in the protocol of this number, and the field."""
    block = -1
    pattern = re.compile(rf"\s*(\[?\[?\s*)?[\"']?{re.escape(field)}[\"']?\s*(=|\])")
    for line, content in enumerate(text.splitlines(), start=1):
        block += content.strip().startswith("[[protocol]]")
        if max(block, 0) == number and pattern.match(content):
            return f"--protocol-file {file}, line {line}: {field}"
    return f"--protocol-file {file}: {field}"
