"""What computes a network's features: torch itself, or an inference engine that takes ONNX.

A new engine is a file with a class like `OpenVINO`, and a line in `ENGINES`.
"""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from distreid.errors import OptionError
from distreid.inference.onnxruntime_engine import OnnxRuntime
from distreid.inference.openvino_engine import OpenVINO

TORCH = "torch"
INT8 = "int8"
X86 = ("x86_64", "AMD64")

Runtime = Callable[[NDArray[np.uint8], "NDArray[np.int64] | None"], NDArray[np.float32]]
"""(B, H, W, 3) uint8, and the cameras (B,) of a network that takes them → (B, dim) float32, the sum
over the scales, in a thread of the caller's; any number of threads may call it at once."""


class Engine(Protocol):
    """An inference engine on a CPU."""

    name: str
    """As in `--engine`, which is also the Python package's."""

    def version(self) -> str:
        """Of the package."""

    def precisions(self) -> tuple[str, ...]:
        """That this machine's CPU has in this engine for a graph as it is, `fp32` first."""

    def load(
        self, graph: bytes, precision: str, threads: int, *, notes: list[str] | None = None
    ) -> Runtime:
        """A graph in ONNX, ready for so many callers at once, each on one thread; EngineError if
        the engine cannot take it. What there is to say of it is added to `notes`."""


ENGINES: dict[str, Engine] = {engine.name: engine for engine in (OpenVINO(), OnnxRuntime())}


def installed(name: str) -> bool:
    """Whether an engine's package is there."""
    return name == TORCH or importlib.util.find_spec(name) is not None


def find_engine(name: str) -> Engine:
    """One of `ENGINES`; OptionError if it is not installed."""
    if not installed(name):
        raise OptionError(f"--engine {name}: not installed; pip install 'distreid[engines]'")
    return ENGINES[name]


def choose_engine(asked: str, precision: str, device: torch.device) -> str:
    """`auto` to an engine's name: OpenVINO on an x86 CPU if it is installed and has the precision,
    else torch. OptionError if what was asked for is not to be had here."""
    if precision == INT8:
        if asked not in ("auto", OpenVINO.name) or device.type != "cpu":
            raise OptionError(f"--precision {INT8}: by --engine {OpenVINO.name}, on a CPU")
        return find_engine(OpenVINO.name).name
    if asked == TORCH:
        return TORCH
    if asked == "auto":
        able = device.type == "cpu" and platform.machine() in X86 and installed(OpenVINO.name)
        able = able and precision in ENGINES[OpenVINO.name].precisions()
        return OpenVINO.name if able else TORCH
    if device.type != "cpu":
        raise OptionError(f"--engine {asked}: on a CPU; with a GPU use torch")
    has = find_engine(asked).precisions()
    if precision not in has:
        raise OptionError(
            f"--precision {precision}: {asked} on this CPU has {', '.join(has)}; use one of these"
        )
    return asked
