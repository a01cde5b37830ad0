"""A network to ONNX, kept for the next start: uint8 images in, features summed over the scales out,
a fixed number of rows. Mirror images pass through the same graph once more. It is known by all that
it is made of: weights, network, scales, preprocessing, our code and the versions of torch and of
the libraries whose layers the network has.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

import distreid
from distreid.errors import EngineError
from distreid.inference.graph import Graph
from distreid.inference.kept_files import kept
from distreid.inference.quiet_converters import quiet_converter
from distreid.inference.views import Augmentation
from distreid.models.checkpoint import Model
from distreid.store.plan import to_json

OPSET = 20  # of 2023; the first with affine_grid, which HACNN has
BF16_OPSET = 22  # the first whose convolutions have bfloat16
INPUT, CAMERAS, OUTPUT = "images", "cameras", "features"


@dataclass(frozen=True)
class Converted:
    """A graph in ONNX."""

    graph: bytes
    note: str
    """What there is to say of where it came from; mostly nothing."""


def convert(
    model: Model, augmentation: Augmentation, rows: int, dtype: torch.dtype = torch.float32
) -> Converted:
    """The graph of so many rows at once, from the cache if it is there, the network in that type;
    EngineError if torch cannot convert it."""
    one_side = replace(augmentation, flip=False)
    key = _key(model, one_side, rows, dtype)
    if key is None:
        return Converted(_exported(model, one_side, rows, dtype), "")
    return Converted(*kept(f"{key}.onnx", lambda: _exported(model, one_side, rows, dtype)))


def _exported(model: Model, augmentation: Augmentation, rows: int, dtype: torch.dtype) -> bytes:
    architecture = model.architecture
    preprocess = architecture.preprocess
    network = model.network if dtype == torch.float32 else copy.deepcopy(model.network).to(dtype)
    graph = Graph(
        network, preprocess, augmentation, fixed_size=architecture.fixed_size, dtype=dtype
    ).eval()
    size, device = (rows, preprocess.height, preprocess.width, 3), _device_of(network)
    inputs: tuple[torch.Tensor, ...] = (torch.zeros(size, dtype=torch.uint8, device=device),)
    names = [INPUT]
    if architecture.cameras is not None:
        cameras = torch.zeros(rows, dtype=torch.int64, device=device)
        inputs, names = (*inputs, cameras), [INPUT, CAMERAS]
    try:
        with tempfile.TemporaryDirectory() as folder, quiet_converter(), torch.inference_mode():
            file = Path(folder) / "graph.onnx"
            # The exporter of torch.export takes ten times as long.
            torch.onnx.export(
                graph, inputs, file, input_names=names, output_names=[OUTPUT],
                opset_version=BF16_OPSET if dtype == torch.bfloat16 else OPSET, dynamo=False,
            )  # fmt: skip
            return with_own_biases(file.read_bytes())
    except Exception as error:  # exporters raise nearly anything
        text = next(iter(str(error).strip().splitlines()), "")
        raise EngineError(f"torch cannot convert it to ONNX: {text[:200]}") from error


def with_own_biases(graph: bytes) -> bytes:
    """The graph, in which no two convolutions share a bias.

    OpenVINO adds a bias within its convolution only where nothing else uses it: OSNet x0.25, whose
    gates are called several times, is 9 % faster so.
    """
    import onnx

    model = onnx.load_from_string(graph)
    shared = {tensor.name: tensor for tensor in model.graph.initializer}
    used: dict[str, int] = {}
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if node.op_type == "Conv" and place == 2 and name in shared:
                used[name] = times = used.get(name, 0) + 1
                if times > 1:
                    own = model.graph.initializer.add()
                    own.CopyFrom(shared[name])
                    own.name = node.input[place] = f"{name}.{times}"
    content: bytes = model.SerializeToString()
    return content


def _device_of(network: nn.Module) -> torch.device:
    return next((each.device for each in network.parameters()), torch.device("cpu"))


def _key(model: Model, augmentation: Augmentation, rows: int, dtype: torch.dtype) -> str | None:
    """None for a network of the user's own code, which may change where nothing else does."""
    architecture = model.architecture
    if "source" in architecture.options:
        return None
    parts = {
        "weights": model.checkpoint.sha256,
        "model": architecture.identity(),
        "preprocess": architecture.preprocess.identity(),
        "augmentation": augmentation.identity(),
        "rows": rows,
        "type": str(dtype),
        "torch": torch.__version__,
        "libraries": _libraries(model.network),
        "code": _code(),
    }
    return hashlib.sha256(to_json(parts).encode()).hexdigest()[:32]


def _libraries(network: nn.Module) -> dict[str, str]:
    """Those whose code the network has in it, with their versions."""
    kinds = {kind for module in network.modules() for kind in type(module).__mro__}
    names = {kind.__module__.partition(".")[0] for kind in kinds} & {"timm", "torchvision"}
    return {name: sys.modules[name].__version__ for name in sorted(names)}


@functools.cache
def _code() -> str:
    """The SHA-256 of what builds networks and graphs."""
    package = Path(distreid.__file__).parent
    digest = hashlib.sha256()
    for folder in ("models", "inference", "images"):
        for file in sorted((package / folder).glob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()
