"""What computes a file in ONNX or in OpenVINO's format, as the file is."""

from __future__ import annotations

import platform
import queue
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from distreid.errors import EngineError, OptionError
from distreid.inference.engines import TORCH, X86, find_engine, installed
from distreid.inference.onnxruntime_engine import OnnxRuntime, open_session
from distreid.inference.openvino_engine import OpenVINO, compile_network, core
from distreid.models.architecture import Program

Arrays = dict[str, NDArray[Any]]
OF_KIND = {
    "onnx": (OpenVINO.name, OnnxRuntime.name),
    "openvino": (OpenVINO.name,),
    "torchscript": (TORCH,),
    "export": (TORCH,),
}
"""Who can compute a kind of `Program`, the first choice first."""


def engine_for(program: Program, asked: str, device: torch.device) -> str:
    """`auto` to an engine's name: for ONNX OpenVINO on an x86 CPU, else ONNX Runtime.

    OptionError if what was asked for cannot compute it, or is not installed.
    """
    if program.resizes:
        raise OptionError(
            f"{program.file}: resizes images itself, for other programs; extract by the checkpoint "
            "or by an export without --with-resize"
        )
    able = OF_KIND[program.kind]
    if device.type != "cpu":
        raise OptionError(f"{program.file}: is computed on a CPU; give --device cpu")
    if asked == "auto":
        slow = program.kind == "onnx" and platform.machine() not in X86
        there = [name for name in able if installed(name) and not (slow and name == able[0])]
        asked = (there or list(able))[0]
    if asked not in able:
        raise OptionError(f"--engine {asked}: {program.file} is computed by {' or '.join(able)}")
    return asked if asked == TORCH else find_engine(asked, device).name


def open_program(program: Program, engine: str, threads: int) -> Callable[..., Tensor]:
    """(B, 3, H, W), and cameras (B,) if it takes them → (B, dim), for so many callers at once.

    A program of a fixed number of rows is given as many as it takes, filled up with zeros.
    EngineError if the engine cannot take the file, or does not compute it.
    """
    run = (_by_openvino if engine == OpenVINO.name else _by_onnxruntime)(program, threads)

    def forward(images_BCHW: Tensor, cameras_B: Tensor | None = None) -> Tensor:
        given = {program.images: images_BCHW}
        if program.cameras and cameras_B is not None:
            given[program.cameras] = cameras_B
        count = len(images_BCHW)
        rows = program.rows or count
        parts = []
        for start in range(0, count, rows):
            some = {name: value[start : start + rows] for name, value in given.items()}
            more = rows - len(some[program.images])
            arrays = {
                name: F.pad(value, (0, 0) * (value.ndim - 1) + (0, more)).contiguous().numpy()
                for name, value in some.items()
            }
            try:
                found = run(arrays)
            except Exception as error:  # each runtime raises errors of its own
                text = " ".join(str(error).split())
                raise EngineError(f"{program.file}: {engine} fails: {text[:200]}") from error
            parts.append(torch.from_numpy(found).flatten(1)[: rows - more])
        return torch.cat(parts)

    return forward


def _by_onnxruntime(program: Program, threads: int) -> Callable[[Arrays], NDArray[Any]]:
    session = open_session(program.file.read_bytes())

    def run(given: Arrays) -> NDArray[Any]:
        found: NDArray[Any] = session.run([program.features], given)[0]
        return found

    return run


def _by_openvino(program: Program, threads: int) -> Callable[[Arrays], NDArray[Any]]:
    try:
        network = core().read_model(str(program.file))
    except RuntimeError as error:
        text = " ".join(str(error).split())
        raise EngineError(f"{program.file}: OpenVINO cannot take it: {text[:200]}") from error
    compiled = compile_network(network, "fp32", threads)
    # All made here: made by threads that compute already, they could wait for each other.
    free: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for _ in range(threads):
        free.put(compiled.create_infer_request())

    def run(given: Arrays) -> NDArray[Any]:
        request = free.get()
        try:
            found = request.infer(given, share_inputs=True)
            return np.array(found[program.features])  # the request writes over it the next time
        finally:
            free.put(request)

    return run
