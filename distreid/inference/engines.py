"""What computes a network's features: torch itself, or an inference engine that takes ONNX.

A new engine is a file with a class like `OpenVINO`, and a line in `ENGINES`.
"""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from distreid.errors import OptionError
from distreid.inference.onnxruntime_engine import OnnxRuntime
from distreid.inference.openvino_engine import OpenVINO
from distreid.inference.tensorrt_engine import TensorRT

TORCH = "torch"
INT8 = "int8"
X86 = ("x86_64", "AMD64")

Runtime = Callable[[Tensor, "Tensor | None"], Tensor]
"""(B, H, W, 3) uint8, contiguous, and int64 cameras (B,) of a network that takes them → (B, dim)
float32, the sum over the scales; all on the engine's device. In a thread of the caller's; any
number of threads may call it at once."""
WHERE = {
    "cpu": "on a CPU; give --device cpu, or use torch",
    "cuda": "on a GPU; give --device cuda, or use auto",
}


class Engine(Protocol):
    """An inference engine."""

    name: str
    """As in `--engine`, which is also the Python package's."""
    extra: str
    """Of distreid, which installs it."""
    device: str
    """What it computes on, in torch's word: `cpu` or `cuda`."""

    def version(self) -> str:
        """Of the package."""

    def precisions(self) -> tuple[str, ...]:
        """That this machine's device has in this engine, `fp32` first. A CPU's engine takes the
        graph in fp32 for all of them, a GPU's the graph in that precision."""

    def load(
        self, graph: bytes, precision: str, threads: int, *, notes: list[str] | None = None
    ) -> Runtime:
        """A graph in ONNX, ready for so many callers at once, each on one thread of a CPU;
        EngineError if the engine cannot take it. What there is to say of it is added to `notes`."""


ENGINES: dict[str, Engine] = {
    engine.name: engine for engine in (OpenVINO(), OnnxRuntime(), TensorRT())
}


def installed(name: str) -> bool:
    """Whether an engine's package is there."""
    return name == TORCH or importlib.util.find_spec(name) is not None


def find_engine(name: str, device: torch.device) -> Engine:
    """One of `ENGINES`; OptionError if it computes on another kind of device, or is not
    installed."""
    engine = ENGINES[name]
    if device.type != engine.device:
        raise OptionError(f"--engine {name}: {WHERE[engine.device]}")
    if not installed(name):
        raise OptionError(f"--engine {name}: not installed; pip install 'distreid[{engine.extra}]'")
    return engine


def choose_engine(asked: str, precision: str, device: torch.device) -> str:
    """`auto` to an engine's name: OpenVINO on an x86 CPU if it is installed and has the precision,
    else torch. OptionError if what was asked for is not to be had here."""
    if precision == INT8 and asked != TensorRT.name:
        if asked not in ("auto", OpenVINO.name) or device.type != "cpu":
            raise OptionError(f"--precision {INT8}: by --engine {OpenVINO.name}, on a CPU")
        return find_engine(OpenVINO.name, device).name
    if asked == TORCH:
        return TORCH
    if asked == "auto":
        able = device.type == "cpu" and platform.machine() in X86 and installed(OpenVINO.name)
        able = able and precision in ENGINES[OpenVINO.name].precisions()
        return OpenVINO.name if able else TORCH
    has = find_engine(asked, device).precisions()
    if precision not in has:
        here = "this CPU" if device.type == "cpu" else "this GPU"
        raise OptionError(
            f"--precision {precision}: {asked} on {here} has {', '.join(has)}; use one of these"
        )
    return asked
