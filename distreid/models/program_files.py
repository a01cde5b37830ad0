"""Networks that other runtimes take: ONNX, OpenVINO's .xml with its .bin, and what we exported.

A file that `distreid export` wrote says in itself what it is: its text `METADATA` is the identity
of its features. Any other file is a network that takes normalised images, of which the user says
the rest. Nothing is computed here: the files are parsed, and what cannot be meant is refused.
"""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from distreid.errors import CheckpointError, OptionError
from distreid.host.digests import sha256
from distreid.images.preprocess import Preprocess
from distreid.models.architecture import MOST_PIXELS, Architecture, Program, Size, resized
from distreid.models.choices import CHANNELS, INTERPOLATIONS, RANGES, Choices

METADATA = "distreid"
"""Under which a file that we exported holds its identity, as JSON."""
EXTRA_FILE = "distreid.json"
"""The same in the archives of torch, and the description of an export in its folder."""
IMAGES, NORMALISED, CAMERAS, FEATURES = "images", "images_normalised", "cameras", "features"
ENDINGS = {".onnx": "onnx", ".xml": "openvino"}
MAX_BYTES = 2 << 30
"""Protocol buffers hold no more."""
DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
"""Of operators that ONNX Runtime itself brings."""
MEMORY_FACTOR = 64
"""A weight may be stored in a packed type; a file that claims more than this is no network."""


@dataclass(frozen=True)
class Port:
    """An input or output of a graph."""

    name: str
    shape: tuple[int | None, ...]
    """None: any length."""


@dataclass(frozen=True)
class Ports:
    """What a file says of itself."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    metadata: str | None


def open_graph(file: Path, size: Size | None, choices: Choices) -> tuple[nn.Module, Architecture]:
    """An .onnx or .xml file as a network that its runtime computes; CheckpointError if it cannot be
    taken, OptionError if an option contradicts it."""
    kind = ENDINGS[file.suffix.lower()]
    ports = _onnx_ports(file) if kind == "onnx" else _openvino_ports(file)
    if ports.metadata is not None:
        return nn.Identity(), exported_architecture(file, kind, ports.metadata, size, choices)
    image = _named(ports.inputs, choices.input_name, "--input-name")
    feature = _named(ports.outputs, choices.output_name, "--output-name")
    if len(image.shape) != 4:
        raise CheckpointError(f"its input {image.name} is no batch of images (N, 3, H, W)")
    if image.shape[1] and image.shape[1] != 3:
        shape = ", ".join(str(length or "N") for length in image.shape)
        raise CheckpointError(
            f"its input {image.name} takes ({shape}), not (N, 3, H, W); export it with channels "
            "in the second place"
        )
    own = image.shape[2:]
    fixed = (own[0], own[1]) if own[0] and own[1] else None
    if size and fixed and size != fixed:
        raise OptionError(f"--input-size: the network takes {fixed[0]}x{fixed[1]} only")
    dim = math.prod(length or 0 for length in feature.shape[1:])
    if not dim:
        raise CheckpointError(f"its output {feature.name} says no dimension; export it with one")
    preprocess = resized(Preprocess(), size or fixed or (256, 128))
    notes = []
    if not (choices.mean and choices.std):
        notes.append("mean and standard deviation: not in the file; ImageNet's are taken")
    if not (size or fixed):
        notes.append("input size: not in the file; --input-size HxW says it")
    return nn.Identity(), Architecture(
        name=kind,
        peer="an export by others",
        build=nn.Identity,
        dim=dim,
        feature=f"its output {feature.name}",
        preprocess=preprocess,
        flip=False,
        fixed_size=fixed is not None,
        options={"input": image.name},
        obeys=("input_name", "output_name"),
        notes=tuple(notes),
        program=Program(
            kind=kind,
            file=file,
            images=image.name,
            features=feature.name,
            rows=image.shape[0],
            precision="fp32",
        ),
    )


def exported_architecture(
    file: Path, kind: str, metadata: str, size: Size | None, choices: Choices
) -> Architecture:
    """The architecture that a file of ours says it has: its features lie in its checkpoint's space.

    CheckpointError if the text is none of ours, or the file another than was exported; OptionError
    for options that would change it.
    """
    _check_as_exported(file)
    try:
        about: Mapping[str, Any] = json.loads(metadata)
        model, input_name = dict(about["model"]), about["input"]
        preprocess = Preprocess.from_identity(about["preprocess"])
        augmentation = about["augmentation"]
        program = Program(
            kind=kind,
            file=file,
            images=input_name,
            cameras=CAMERAS if about["cameras"] else None,
            features=FEATURES,
            precision=about["precision"],
            whole=True,
            normalises=input_name == IMAGES,
            weights=about["weights"],
            resizes=about.get("resizes") is not None,
        )
        architecture = Architecture(
            name=model.pop("name"),
            peer=about["peer"],
            build=nn.Identity,
            dim=about["dim"],
            feature=model.pop("feature"),
            preprocess=preprocess,
            flip=augmentation["flip"],
            options=model,
            cameras=about["cameras"],
            viewpoints=about["viewpoints"],
            fixed_size=True,
            program=program,
            notes=(f"exported by distreid to {kind}, {about['precision']}",),
        )
        if not _can_be(architecture, program):
            raise ValueError(metadata)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError("what it says of itself is none of distreid's exports") from error
    here = preprocess.height, preprocess.width
    if size not in (None, here):
        raise OptionError(f"--input-size: the export takes {here[0]}x{here[1]} only")
    if given := choices.given():
        raise OptionError(
            f"--{next(iter(given)).replace('_', '-')}: the export has its preprocessing in it; "
            "take it away"
        )
    return architecture


def _can_be(architecture: Architecture, program: Program) -> bool:
    """Whether all values are of the kind that they have in our exports."""
    preprocess = architecture.preprocess
    counts = [architecture.dim, architecture.viewpoints, preprocess.height, preprocess.width]
    if architecture.cameras is not None:
        counts.append(architecture.cameras)
    colours = preprocess.mean, preprocess.std
    texts = [
        architecture.name, architecture.peer, architecture.feature, preprocess.keep_aspect,
        program.images, program.precision, program.weights,
    ]  # fmt: skip
    return (
        all(isinstance(count, int) and count > 0 for count in counts)
        and preprocess.height * preprocess.width <= MOST_PIXELS
        and all(len(three) == 3 and all(map(math.isfinite, three)) for three in colours)
        and all(isinstance(text, str) for text in texts)
        and preprocess.interpolation in INTERPOLATIONS
        and preprocess.channels in CHANNELS
        and preprocess.scale in [each.replace("-", "..") for each in RANGES]
    )


def _check_as_exported(file: Path) -> None:
    """By the checksums beside it, where it lies in its export's folder."""
    beside = file.with_name(EXTRA_FILE)
    try:
        digests = json.loads(beside.read_text(encoding="utf-8"))["files"]
        own = [name for name in (file.name, f"{file.stem}.bin") if name in digests]
        changed = [name for name in own if sha256(file.with_name(name)) != digests[name]]
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{EXTRA_FILE} beside it is damaged; export again") from error
    if changed:
        raise CheckpointError(f"{changed[0]} is not the file that was exported; export again")


def _named(ports: Sequence[Port], name: str | None, option: str) -> Port:
    names = ", ".join(port.name for port in ports)
    if name is None:
        if len(ports) == 1:
            return ports[0]
        raise OptionError(f"{option}: say which of {names or 'none'}")
    for port in ports:
        if port.name == name:
            return port
    raise OptionError(f"{option} {name}: the file has {names or 'none'}")


def _onnx_ports(file: Path) -> Ports:
    try:
        import onnx
    except ImportError as error:
        raise OptionError("an .onnx file: pip install 'distreid[engines]'") from error
    size = file.stat().st_size if file.is_file() else None
    if size is None:
        raise CheckpointError("no such file")
    if size > MAX_BYTES:
        raise CheckpointError("more than 2 GiB, which no ONNX file has")
    try:
        network = onnx.load_model_from_string(file.read_bytes())
    except Exception as error:  # protobuf raises errors of its own
        raise CheckpointError("no ONNX file, or damaged") from error
    graph = network.graph
    tensors = [*graph.initializer]
    for node in graph.node:
        tensors += [each.t for each in node.attribute if each.HasField("t")]
    for tensor in tensors:
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise CheckpointError(
                f"{tensor.name} lies in another file, which is not read; save it as one file"
            )
        if min(tensor.dims, default=1) < 0 or math.prod(tensor.dims) > MEMORY_FACTOR * size:
            raise CheckpointError(f"{tensor.name} claims {tuple(tensor.dims)}, more than it holds")
    own = {function.name for function in network.functions}
    for node in graph.node:
        if node.domain not in DOMAINS and node.op_type not in own:
            raise CheckpointError(
                f"it has the custom operator {node.domain}::{node.op_type}; export it without"
            )
    if not graph.node:
        raise CheckpointError("no ONNX file, or an empty one")
    weights = {tensor.name for tensor in graph.initializer}
    return Ports(
        inputs=tuple(_onnx_port(each) for each in graph.input if each.name not in weights),
        outputs=tuple(_onnx_port(each) for each in graph.output),
        metadata=next(
            (each.value for each in network.metadata_props if each.key == METADATA), None
        ),
    )


def _onnx_port(value: Any) -> Port:
    dims = value.type.tensor_type.shape.dim
    return Port(value.name, tuple(each.dim_value if each.dim_value > 0 else None for each in dims))


def _openvino_ports(file: Path) -> Ports:
    try:
        root = ET.parse(file).getroot()
    except FileNotFoundError as error:
        raise CheckpointError("no such file") from error
    except (ET.ParseError, OSError, ValueError) as error:
        raise CheckpointError("no OpenVINO file, or damaged") from error
    if root.tag != "net":
        raise CheckpointError("no OpenVINO file")
    inputs, outputs = [], []
    names: dict[tuple[str, str], str] = {}
    edges = {
        edge.get("to-layer"): (edge.get("from-layer", ""), edge.get("from-port", ""))
        for edge in root.iter("edge")
    }
    layers = list(root.iter("layer"))
    for layer in layers:
        for port in layer.iterfind("output/port"):
            name = port.get("names", layer.get("name", "")).split(",")[0]
            names[layer.get("id", ""), port.get("id", "")] = name
            if layer.get("type") == "Parameter":
                inputs.append(Port(name, _dims(port)))
    for layer in layers:
        given = layer.find("input/port")
        if layer.get("type") == "Result" and given is not None:
            name = layer.get("output_names") or names.get(edges.get(layer.get("id"), ("", "")), "")
            outputs.append(Port(name.split(",")[0], _dims(given)))
    stored = root.find(f"rt_info/{METADATA}")
    return Ports(
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        metadata=None if stored is None else stored.get("value"),
    )


def _dims(port: ET.Element) -> tuple[int | None, ...]:
    try:
        lengths = [int(dim.text or -1) for dim in port.iterfind("dim")]
    except ValueError as error:
        raise CheckpointError("no OpenVINO file, or damaged") from error
    return tuple(length if length > 0 else None for length in lengths)
