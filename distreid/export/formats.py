"""A whole network to a file of each format, with its identity inside."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distreid.errors import CheckpointError, EngineError, OptionError
from distreid.export.export_options import TENSORRT
from distreid.export.triton_repository import FILES_WRITTEN, write_repositories
from distreid.host.machine import cores
from distreid.inference.onnx_conversion import with_own_biases
from distreid.inference.openvino_engine import core, without_telemetry
from distreid.inference.quantisation import quantise
from distreid.inference.quiet_converters import quiet_converter
from distreid.models.program_files import CAMERAS, EXTRA_FILE, FEATURES, METADATA

OPSETS = (17, 20)
"""The first is of 2022, which ONNX Runtime 1.12 and every Triton of today read; the second is the
first with affine_grid, which HACNN has."""
ONNX_FILE = "model.onnx"
FILES = {
    "onnx": (ONNX_FILE,),
    "openvino": ("model.xml", "model.bin"),
    "torchscript": ("model.torchscript",),
    "export": ("model.pt2",),
    "triton": FILES_WRITTEN,
    TENSORRT: (ONNX_FILE,),
}
"""The files of a format; the first is the one that is named."""
OUTSIDE_NETWORK = rf"{FEATURES}|/(?!network/).*"
"""Nodes that are not quantised: a norm that is divided by in whole numbers is not 1 any more."""
ELSEWHERE = "try another --format"


def write(
    format_name: str,
    network: nn.Module,
    inputs: tuple[Tensor, ...],
    image_name: str,
    metadata: str,
    folder: Path,
    calibration: Sequence[NDArray[Any]] = (),
) -> None:
    """Writes `FILES[format_name]` into the folder.

    `inputs`: two images, and two cameras for a network that takes them. `calibration`: batches of
    images on which the ranges of a network in int8 are seen; without any, it stays as it is.
    CheckpointError says what the format cannot express.
    """
    names = [image_name, CAMERAS][: len(inputs)]
    files = [folder / name for name in FILES[format_name]]
    try:
        with quiet_converter(), torch.inference_mode(format_name != "export"):
            if format_name == "torchscript":
                _write_torchscript(network, inputs, files[0], metadata)
            elif format_name == "export":
                _write_export(network, inputs, files[0], metadata)
            elif format_name in ("onnx", TENSORRT):
                files[0].write_bytes(with_metadata(_onnx(network, inputs, names, folder), metadata))
            elif format_name == "triton":
                _write_triton(_onnx(network, inputs, names, folder), metadata, folder)
            else:
                graph = _onnx(network, inputs, names, folder)
                if calibration:
                    attention = any("attn" in name for name, _ in network.named_modules())
                    quantised = quantise(graph, calibration, attention, OUTSIDE_NETWORK)
                    _write_openvino(quantised.xml, files, metadata, quantised.weights)
                else:
                    _write_openvino(graph, files, metadata)
    except (OptionError, EngineError):
        raise
    except Exception as error:  # exporters raise nearly anything
        text = " ".join(str(error).split())
        raise CheckpointError(
            f"--format {format_name} cannot express the network: {text[:300]}; {ELSEWHERE}"
        ) from error


def with_metadata(graph: bytes, metadata: str) -> bytes:
    """A graph in ONNX with our text in it."""
    import onnx

    network = onnx.load_model_from_string(graph)
    onnx.helper.set_model_props(network, {METADATA: metadata})
    # Tracing leaves the dimension open, and readers want to know it.
    network.graph.output[0].type.tensor_type.shape.dim[1].dim_value = json.loads(metadata)["dim"]
    onnx.checker.check_model(network)
    content: bytes = network.SerializeToString()
    return content


def _onnx(
    network: nn.Module, inputs: tuple[Tensor, ...], names: Sequence[str], folder: Path
) -> bytes:
    file = folder / f"{ONNX_FILE}.part"
    for opset in OPSETS:
        try:
            # The exporter of torch.export takes ten times as long.
            torch.onnx.export(
                network,
                inputs,
                file,
                input_names=list(names),
                output_names=[FEATURES],
                dynamic_axes={name: {0: "N"} for name in (*names, FEATURES)},
                opset_version=opset,
                dynamo=False,
            )
            break
        except Exception:  # of all kinds; the last opset's is the one that is told
            if opset == OPSETS[-1]:
                raise
    content = file.read_bytes()
    file.unlink()
    return with_own_biases(content)


def _write_openvino(
    graph: bytes, files: Sequence[Path], metadata: str, weights: bytes | None = None
) -> None:
    """`graph` is in ONNX, or with `weights` in OpenVINO's own format."""
    with without_telemetry():
        import openvino
    network = core().read_model(graph, weights) if weights else core().read_model(graph)
    network.set_rt_info(metadata, [METADATA])
    half = '"precision": "fp16"' in metadata
    openvino.save_model(network, str(files[0]), compress_to_fp16=half)


def _write_triton(graph: bytes, metadata: str, folder: Path) -> None:
    about = json.loads(metadata)
    write_repositories(
        with_metadata(graph, metadata),
        about["preprocess"],
        about["dim"],
        folder,
        cameras=about["cameras"] is not None,
        threads=cores(),
    )


def _write_torchscript(
    network: nn.Module, inputs: tuple[Tensor, ...], file: Path, metadata: str
) -> None:
    traced: Any = torch.jit.trace(network, inputs, check_trace=False)  # type: ignore[no-untyped-call]
    torch.jit.save(traced, str(file), _extra_files={EXTRA_FILE: metadata})


def _write_export(
    network: nn.Module, inputs: tuple[Tensor, ...], file: Path, metadata: str
) -> None:
    count = torch.export.Dim("N", min=1, max=1 << 16)
    program = torch.export.export(network, inputs, dynamic_shapes=tuple({0: count} for _ in inputs))
    torch.export.save(program, file, extra_files={EXTRA_FILE: metadata})
