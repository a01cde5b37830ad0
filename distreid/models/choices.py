"""What the user says of a network because no file tells it. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from distreid.errors import OptionError

EMBEDDING = "embedding"
FEATURES = ("before-neck", "after-neck", "trunk", EMBEDDING)
POOLINGS = ("avg", "max", "gem", "avg+max", "token")
INTERPOLATIONS = ("bilinear", "bicubic", "lanczos", "nearest", "opencv")
CHANNELS = ("rgb", "bgr")
RANGES = ("0-1", "0-255")
ASPECTS = ("no", "pad", "crop")
LEAST_STD = 1e-6  # what is divided by less soon overflows
Triple = tuple[float, float, float]
MOST_SHORTER = 4096  # twice the side of the largest input
KEY = "--"
"""Under which readers of checkpoints find the choices among the options."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Options of the command line; None where the user says nothing. OptionError if one cannot be
    meant."""

    weights: str | None = None
    """Which of several networks in the file."""
    feature: str | None = None
    """One of `FEATURES`."""
    last_stride: int | None = None
    """1 or 2: of a ResNet's last stage."""
    pooling: str | None = None
    """One of `POOLINGS`, or `gem=P` with its exponent."""
    semantic_weight: float | None = None
    """SOLIDER's, 0 to 1."""
    viewpoints: int | None = None
    """1 or more: for how many each camera of a vehicle network has an embedding."""
    mean: Triple | None = None
    std: Triple | None = None
    """Of the three channels in the order of `channels`, on the scale of `range`."""
    interpolation: str | None = None
    channels: str | None = None
    range: str | None = None
    keep_aspect: str | None = None
    """One of `ASPECTS`, or `crop=SHORTER`."""
    input_name: str | None = None
    output_name: str | None = None
    """Of a file in ONNX or OpenVINO's format that has several."""

    def __post_init__(self) -> None:
        for name, known in (
            ("feature", FEATURES),
            ("interpolation", INTERPOLATIONS),
            ("channels", CHANNELS),
            ("range", RANGES),
            ("last_stride", (1, 2)),
        ):
            value = getattr(self, name)
            if value is not None and value not in known:
                listed = ", ".join(map(str, known))
                raise OptionError(f"{flag(name)} {value}: choose one of {listed}")
        _check_numbered("pooling", self.pooling, POOLINGS, "gem", float)
        _check_numbered("keep_aspect", self.keep_aspect, ASPECTS, "crop", int)
        shorter = (self.keep_aspect or "").partition("=")[2]
        if shorter and int(shorter) > MOST_SHORTER:
            raise OptionError(
                f"--keep-aspect {self.keep_aspect}: at most {MOST_SHORTER} pixels are taken"
            )
        if self.std is not None and min(self.std) < LEAST_STD:
            given = ",".join(map(str, self.std))
            raise OptionError(f"--std {given}: pixels cannot be divided by less than {LEAST_STD:g}")
        if self.mean is not None and any(self.mean):
            given, largest = ",".join(f"{value:g}" for value in self.mean), max(self.mean)
            if self.range != "0-255" and largest > 1:
                raise OptionError(
                    f"--mean {given}: is above 1, as of pixels from 0 to 255; give --range 0-255, "
                    "too, or divide --mean and --std by 255"
                )
            if self.range == "0-255" and 0 < largest <= 1:
                raise OptionError(
                    f"--mean {given}: is as of pixels from 0 to 1; leave out --range 0-255, or "
                    "multiply --mean and --std by 255"
                )
        if self.semantic_weight is not None and not 0 <= self.semantic_weight <= 1:
            raise OptionError(f"--semantic-weight {self.semantic_weight}: from 0 to 1")
        if self.viewpoints is not None and self.viewpoints < 1:
            raise OptionError(f"--viewpoints {self.viewpoints}: 1 or more")

    def given(self) -> dict[str, Any]:
        """What the user says, by field."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


NETWORK = ("feature", "last_stride", "pooling", "semantic_weight", "viewpoints",
           "input_name", "output_name")  # fmt: skip
"""The choices that only some networks leave open."""
INPUT = ("mean", "std", "interpolation", "channels", "range", "keep_aspect")
"""The choices that every network's preprocessing has."""


def choices_in(options: Mapping[str, Any]) -> Choices:
    """The choices among a reader's options."""
    found = options.get(KEY)
    return found if isinstance(found, Choices) else Choices()


def flag(name: str) -> str:
    """A field's option."""
    return "--" + name.replace("_", "-")


def _check_numbered(
    name: str, value: str | None, known: tuple[str, ...], numbered: str, kind: type
) -> None:
    if value is None or value in known:
        return
    word, sign, number = value.partition("=")
    try:
        if word == numbered and sign and kind(number) > 0:
            return
    except ValueError:
        pass
    raise OptionError(f"{flag(name)} {value}: choose one of {', '.join(known)}, {numbered}=N")


NO_CHOICES = Choices()
"""Nothing is said beside the checkpoint."""
