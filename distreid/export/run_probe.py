"""An export by its own runtime, in a process of its own."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distreid.errors import CheckpointError, exit_status
from distreid.export.export_description import ExportDescription
from distreid.export.gate import batches
from distreid.export.probe import Probe
from distreid.inference.engines import ENGINES, TORCH
from distreid.inference.program_runtime import OF_KIND, open_program
from distreid.models.checkpoint import Model, load_model

OWN_RUNTIME = {"onnx": "onnxruntime", "openvino": "openvino"}
"""Of a format; ONNX files run in OpenVINO, too."""


def run_probe(folder: Path) -> dict[str, NDArray[Any]]:
    """The features of each of `gate.batches`, by their names, and as `about` what `gate.examine`
    wants to know, as JSON."""
    about, probe = ExportDescription.read(folder), Probe.read(folder)
    started = time.monotonic()
    model = _model(folder, about)
    forward, runtime = _forward(model)
    seconds = time.monotonic() - started
    images = _as_taken(model, torch.from_numpy(probe.images))
    cameras = torch.from_numpy(probe.cameras) if len(probe.cameras) else None
    found: dict[str, NDArray[Any]] = {}
    errors: dict[str, str] = {}
    for name, parts in batches(len(images)).items():
        try:
            with torch.inference_mode():
                features = [
                    forward(images[rows], *(() if cameras is None else (cameras[rows],)))
                    for rows in map(torch.from_numpy, parts)
                ]
            found[name] = torch.cat(features).numpy()
        except Exception as error:  # runtimes raise nearly anything
            errors[name] = " ".join(str(error).split())[:300]
    said = {
        "precision": about.identity["precision"],
        "runtime": runtime,
        "load_seconds": round(seconds, 3),
        "errors": errors,
    }
    return found | {"about": np.array(json.dumps(said))}


def forward_of(folder: Path) -> Callable[..., Tensor]:
    """The export in a folder by its own runtime: its inputs → (N, D)."""
    return _forward(_model(folder, ExportDescription.read(folder)))[0]


def _model(folder: Path, about: ExportDescription) -> Model:
    kind = about.format if about.format in ("torchscript", "export") else "auto"
    return load_model(str(folder / about.file), kind)


def _forward(model: Model) -> tuple[Callable[..., Tensor], str]:
    program = model.architecture.program
    if program is None:
        raise CheckpointError(f"{model.checkpoint.file}: no export of distreid's")
    name = OWN_RUNTIME.get(program.kind, TORCH)
    assert name in OF_KIND[program.kind]
    if name == TORCH:
        return model.network, f"torch {torch.__version__.partition('+')[0]}"
    return open_program(program, name, 1), f"{name} {ENGINES[name].version()}"


def _as_taken(model: Model, images_NCHW: Tensor) -> Tensor:
    program = model.architecture.program
    if program and program.normalises:
        return images_NCHW
    return model.architecture.preprocess.normalise(images_NCHW)


def main(folder: str, output: str) -> None:
    """Writes `run_probe` as an .npz file."""
    arrays: dict[str, Any] = run_probe(Path(folder))
    np.savez(output, **arrays)


def run() -> NoReturn:
    """The process that the gate starts: `main` of its arguments."""
    sys.exit(exit_status(lambda: main(*sys.argv[1:])))
