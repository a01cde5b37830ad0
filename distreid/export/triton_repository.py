"""A network in ONNX to model repositories of the Triton inference server.

    onnx_backend/distreid/             for a server with Triton's ONNX backend, on GPUs or CPUs
    python_backend/distreid/           the same by ONNX Runtime in Triton's Python backend
    python_backend/distreid_pixels/    image files to pixels
    python_backend/distreid_files/     image files to features: the two in a row, an ensemble

Two, because a server that lacks a backend refuses to start with a repository that wants it. All
models take batches of any size up to `MAX_BATCH`; Triton makes them of requests that come together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distreid.export import triton_models

MAX_BATCH = 32
DELAY_MICROSECONDS = 2000
"""How long the first request of a batch waits for others."""
NETWORK, PIXELS, FILES = "distreid", "distreid_pixels", "distreid_files"
ONNX_BACKEND, PYTHON_BACKEND = "onnx_backend", "python_backend"
BATCHING = f"""dynamic_batching {{
  preferred_batch_size: [ 8, 16, {MAX_BATCH} ]
  max_queue_delay_microseconds: {DELAY_MICROSECONDS}
}}
"""
ON_CPU = "instance_group [ { kind: KIND_CPU, count: 1 } ]\n"
FILES_WRITTEN = (
    f"{PYTHON_BACKEND}/{NETWORK}/1/model.onnx",
    f"{PYTHON_BACKEND}/{NETWORK}/1/model.py",
    f"{PYTHON_BACKEND}/{NETWORK}/config.pbtxt",
    f"{PYTHON_BACKEND}/{PIXELS}/1/model.py",
    f"{PYTHON_BACKEND}/{PIXELS}/1/preprocess.json",
    f"{PYTHON_BACKEND}/{PIXELS}/config.pbtxt",
    f"{PYTHON_BACKEND}/{FILES}/config.pbtxt",
    f"{ONNX_BACKEND}/{NETWORK}/1/model.onnx",
    f"{ONNX_BACKEND}/{NETWORK}/config.pbtxt",
)
"""In an export's folder; the gate tries the first."""
Tensors = Sequence[tuple[str, str, Sequence[int]]]
"""Names, Triton's types, dimensions without the batch's."""


def write_repositories(
    graph: bytes,
    preprocess: Mapping[str, Any],
    dim: int,
    folder: Path,
    *,
    cameras: bool,
    threads: int,
) -> None:
    """Both, into the folder.

    `graph` is the whole network in ONNX, `preprocess` the identity of its preprocessing, `threads`
    those of a pass in the Python backend.
    """
    size = preprocess["height"], preprocess["width"]
    images = ("images", "TYPE_UINT8", (3, *size))
    features = ("features", "TYPE_FP32", (dim,))
    # One number for each image: a batch of single values has a dimension of 1 on the wire.
    camera: Tensors = [("cameras", "TYPE_INT64", (1,))] if cameras else []
    files = ("files", "TYPE_STRING", (1,))
    in_onnx = [("cameras", "TYPE_INT64", (1,), "reshape: { shape: [ ] }")] if cameras else []
    _write(
        folder / ONNX_BACKEND / NETWORK,
        _config(NETWORK, "onnxruntime", [images, *in_onnx], [features]) + BATCHING,
        {"model.onnx": graph},
    )
    served = folder / PYTHON_BACKEND
    _write(
        served / NETWORK,
        _config(NETWORK, "python", [images, *camera], [features])
        + BATCHING
        + ON_CPU
        + f'parameters: {{ key: "threads", value: {{ string_value: "{threads}" }} }}\n',
        {"model.onnx": graph, "model.py": _code("compute_features")},
    )
    _write(
        served / PIXELS,
        _config(PIXELS, "python", [files], [images]) + BATCHING + ON_CPU,
        {
            "model.py": _code("decode_files"),
            "preprocess.json": json.dumps(dict(preprocess), indent=2).encode() + b"\n",
        },
    )
    passed = [name for name, _, _ in camera]
    steps = [
        _step(PIXELS, {"files": "files"}, {"images": "pixels"}),
        _step(
            NETWORK,
            {"images": "pixels"} | {name: name for name in passed},
            {"features": "features"},
        ),
    ]
    _write(
        served / FILES,
        _config(FILES, None, [files, *camera], [features])
        + "ensemble_scheduling {\n  step [\n"
        + ",\n".join(steps)
        + "\n  ]\n}\n",
        {},
    )


def _config(
    name: str,
    backend: str | None,
    inputs: Sequence[tuple[Any, ...]],
    outputs: Sequence[tuple[Any, ...]],
) -> str:
    """The beginning of a config.pbtxt; without a backend, of an ensemble."""
    lines = [
        f'name: "{name}"',
        'platform: "ensemble"' if backend is None else f'backend: "{backend}"',
        f"max_batch_size: {MAX_BATCH}",
    ]
    for field, tensors in (("input", inputs), ("output", outputs)):
        texts = [
            f'  {{ name: "{tensor}", data_type: {kind}, dims: [ {", ".join(map(str, dims))} ]'
            + "".join(f", {extra}" for extra in more)
            + " }"
            for tensor, kind, dims, *more in tensors
        ]
        lines += [f"{field} [", ",\n".join(texts), "]"]
    return "\n".join(lines) + "\n"


def _step(model: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> str:
    maps = [
        f'      {field} {{ key: "{tensor}", value: "{named}" }}'
        for field, names in (("input_map", inputs), ("output_map", outputs))
        for tensor, named in names.items()
    ]
    lines = "\n".join(maps)
    return f'    {{\n      model_name: "{model}"\n      model_version: -1\n{lines}\n    }}'


def _code(module: str) -> bytes:
    return (Path(triton_models.__file__).with_name(f"{module}.py")).read_bytes()


def _write(model: Path, config: str, files: Mapping[str, bytes]) -> None:
    version = model / "1"
    version.mkdir(parents=True)
    (model / "config.pbtxt").write_text(config, encoding="utf-8")
    for name, content in files.items():
        (version / name).write_bytes(content)
