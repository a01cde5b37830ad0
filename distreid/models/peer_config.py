"""What the weights do not tell, and a configuration of fast-reid, TransReID or CLIP-ReID does.

Their programs are configured by YAML files with the same sections (MODEL, INPUT, TEST). fast-reid
writes its own as `config.yaml` beside the weights; of the others, a user can put it there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distreid.errors import CheckpointError

Triple = tuple[float, float, float]
"""Of red, green, blue."""
HALF: Triple = (0.5, 0.5, 0.5)
"""The mean and the standard deviation of their ViTs."""


def settings(
    options: Mapping[str, Any], defaults: Mapping[str, Any]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The values by path, such as MODEL.SIE_COE: the file's, else the default.

    With them a note of the defaults that were taken, or none. CheckpointError if the file has a
    value of another kind.
    """
    values, guessed = {}, []
    for path, default in defaults.items():
        value = _find(options, path)
        if value is None:
            value = default
            guessed.append(f"{path} taken as {default}")
        elif isinstance(default, float) and type(value) is int:
            value = float(value)
        elif isinstance(default, tuple) and isinstance(value, list):
            value = tuple(value)
        if type(value) is not type(default):
            raise CheckpointError(f"config.yaml: {path} is {value!r}, not such as {default}")
        values[path] = value
    note = (
        f"not in the weights: {', '.join(guessed)} (if it was trained otherwise, put its "
        "configuration beside it as config.yaml)"
    )
    return values, (note,) if guessed else ()


def refuse_others(options: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """CheckpointError if the file has, at a path of `known`, another value than the one there."""
    for path, only in known.items():
        value = _find(options, path)
        if value not in (None, only):
            raise CheckpointError(f"config.yaml: {path} is {value!r}; only {only} is supported")


def size_of(value: tuple[Any, ...]) -> tuple[int, int]:
    """INPUT.SIZE_TEST as height and width; CheckpointError if it is no size."""
    if len(value) != 2 or not all(type(side) is int and side > 0 for side in value):
        raise CheckpointError(f"config.yaml: INPUT.SIZE_TEST is {value!r}, not height and width")
    return value[0], value[1]


def colour_of(options: Mapping[str, Any], path: str, default: Triple, white: int = 1) -> Triple:
    """A mean or a standard deviation of colours up to `white`, as one of colours up to 1."""
    value = _find(options, path)
    if value is None:
        return default
    if not (
        isinstance(value, list | tuple)
        and len(value) == 3
        and all(type(colour) in (int, float) for colour in value)
    ):
        raise CheckpointError(f"config.yaml: {path} is {value!r}, not three numbers")
    # Rounded, so that 123.675 is 0.485 again.
    red, green, blue = (round(colour / white, 9) for colour in value)
    return red, green, blue


def _find(options: Any, path: str) -> Any:
    for part in path.split("."):
        options = options.get(part) if isinstance(options, Mapping) else None
    return options
