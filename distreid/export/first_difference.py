"""The first layer of an export whose output is another than the network's own: where to look.

Layers have other names in each format, and exporters fuse them (a convolution with the batch norm
after it), so layers are compared by value: an output of a module in the export is right if any
module of the network has nearly the same.
"""

from __future__ import annotations

import re
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distreid.inference.drift import LEAST_COSINE
from distreid.inference.openvino_engine import core
from distreid.inference.quiet_converters import quiet_converter

LEAST_OF_LOWER_PRECISION = 0.99
"""The cosine of a layer's output that is taken for the same in precisions below fp32."""
AT_ONCE = 1024
"""Layers times images whose outputs are computed together, which bounds the memory."""
Values = Iterator[tuple[str, NDArray[np.float64]]]
"""The module that gave it, and what it gave for the image, in the order of computation."""


def first_difference(
    network: nn.Module, file: Path, inputs: Sequence[Tensor], place: int, *, exact: bool
) -> str | None:
    """The module and its cosine; None if all layers are right, or the file does not show them
    (TorchScript).

    `network`: in fp32, what was exported. `inputs`: (N, 3, H, W), and cameras (N,) where there
    are any; the image at `place` decides. `exact`: whether the export is in fp32.
    """
    if file.suffix not in OF_FILE:
        return None
    own = _own_outputs(network, inputs, place)
    least = LEAST_COSINE if exact else LEAST_OF_LOWER_PRECISION
    for module, found in OF_FILE[file.suffix](file, inputs, place):
        likely = own[found.shape]
        if not likely:  # of a shape that no module gives
            continue
        if not np.isfinite(found).all():
            return f"the first layer that differs is {module}, not finite"
        unit, nearest = _unit(found), -1.0
        for _ in range(len(likely)):
            nearest = max(nearest, _cosine(unit, likely[0]))
            if nearest >= least:
                break
            likely.rotate(-1)  # both are in the order of computation: the next is likely the next
        else:
            return f"the first layer that differs is {module}, cosine {nearest:.7f}"
    return None


def _own_outputs(
    network: nn.Module, inputs: Sequence[Tensor], place: int
) -> dict[tuple[int, ...], deque[NDArray[np.float64]]]:
    """What the modules give for the image, by its shape, of norm 1."""
    found: dict[tuple[int, ...], deque[NDArray[np.float64]]] = defaultdict(deque)

    def keep(_module: nn.Module, _given: Any, output: Any) -> None:
        for each in output if isinstance(output, (tuple, list)) else [output]:
            if isinstance(each, Tensor) and each.is_floating_point():
                some = _of_image(each.detach().float().numpy(), len(inputs[0]), place)
                found[some.shape].append(_unit(some))

    handles = [module.register_forward_hook(keep) for module in network.modules()]
    try:
        with quiet_converter(), torch.inference_mode():
            network(*inputs)
            # Traced, as for ONNX, each view is a pass of its own.
            torch.jit.trace(network, tuple(inputs), check_trace=False)  # type: ignore[no-untyped-call]
    finally:
        for handle in handles:
            handle.remove()
    return found


def _of_image(value: NDArray[Any], count: int, place: int) -> NDArray[np.float64]:
    """Its rows in each view, where the first axis counts images; else all, or of windows, which are
    many for an image, some. A copy."""
    whole = value.ndim == 0 or len(value) % count
    return np.array(value if whole else value[place::count], np.float64)


def _unit(value: NDArray[np.float64]) -> NDArray[np.float64]:
    norm = np.linalg.norm(value)
    return value / norm if norm else value


def _cosine(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Of two of norm 1; 1 if both are zero."""
    return 1 - float(np.square(one - other).sum()) / 2


def _last_of_modules(names: Iterable[tuple[str, str]]) -> dict[str, str]:
    """(module, value) in the order of computation → each innermost module's last value, and the
    module. A module that holds others may go on after them, so its output is not known."""
    last = {module: value for module, value in names}
    holding = {module[:place] for module in last for place, c in enumerate(module) if c in "/."}
    return {
        value: module
        for module, value in last.items()
        # What the second `attn` of `blocks.0` does is in `blocks.0/attn_1` in ONNX, what it holds
        # in `blocks.0/attn`.
        if module and not {module, re.sub(r"_\d+$", "", module)} & holding
    }


def _in_turns(
    values: dict[str, str],
    compute: Callable[[list[str]], Sequence[NDArray[Any]]],
    count: int,
    place: int,
) -> Values:
    names, layers = list(values), max(1, AT_ONCE // count)
    for start in range(0, len(names), layers):
        some = names[start : start + layers]
        for name, value in zip(some, compute(some), strict=True):
            yield values[name], _of_image(value, count, place)


def _scope(value: str) -> str:
    """`/network/conv1/Conv_output_0`, as torch names values in ONNX, to `network/conv1`."""
    return value.rpartition("/")[0].removeprefix("/")


def _of_onnx(file: Path, inputs: Sequence[Tensor], place: int) -> Values:
    import onnx
    import onnxruntime

    graph = onnx.load(file)
    floats = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
    kinds = {
        each.name: each.type.tensor_type.elem_type
        for each in onnx.shape_inference.infer_shapes(graph).graph.value_info
    }
    values = _last_of_modules(
        (_scope(name), name)
        for node in graph.graph.node
        for name in node.output[:1]
        if kinds.get(name) in floats
    )
    names = [each.name for each in graph.graph.input]
    given = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}

    def compute(some: list[str]) -> Sequence[NDArray[Any]]:
        wider = onnx.ModelProto()
        wider.CopyFrom(graph)
        wider.graph.output.extend(onnx.ValueInfoProto(name=name) for name in some)
        session = onnxruntime.InferenceSession(
            wider.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        found: Sequence[NDArray[Any]] = session.run(some, given)
        return found

    yield from _in_turns(values, compute, len(inputs[0]), place)


def _of_openvino(file: Path, inputs: Sequence[Tensor], place: int) -> Values:
    names = [
        (_scope(name), name)
        for node in core().read_model(str(file)).get_ordered_ops()
        for output in node.outputs()[:1]
        for name in sorted(output.get_names())
        if output.get_element_type().is_real()
    ]

    def compute(some: list[str]) -> Sequence[NDArray[Any]]:
        network = core().read_model(str(file))
        before = len(network.outputs)
        network.add_outputs(some)
        found = core().compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(
            [each.numpy() for each in inputs]
        )
        return [found[before + number] for number in range(len(some))]

    yield from _in_turns(_last_of_modules(names), compute, len(inputs[0]), place)


class _Recorder(torch.fx.Interpreter):
    """Keeps what some nodes give."""

    def __init__(
        self,
        module: torch.fx.GraphModule,
        wanted: dict[str, str],
        of_image: Callable[[NDArray[Any]], NDArray[np.float64]],
    ) -> None:
        super().__init__(module)
        self.wanted = wanted
        self.of_image = of_image
        self.found: list[tuple[str, NDArray[np.float64]]] = []

    def run_node(self, n: torch.fx.Node) -> Any:
        """As the class above, and keeps it."""
        value = super().run_node(n)
        if n.name in self.wanted and isinstance(value, Tensor) and value.is_floating_point():
            self.found.append((self.wanted[n.name], self.of_image(value.float().numpy())))
        return value


def _of_torch_export(file: Path, inputs: Sequence[Tensor], place: int) -> Values:
    module: Any = torch.export.load(file).module()
    names = []
    for node in module.graph.nodes:
        stack = node.meta.get("nn_module_stack")
        if node.op == "call_function" and stack:
            names.append((list(stack.values())[-1][0].removeprefix("L['self']."), node.name))
    recorder = _Recorder(
        module, _last_of_modules(names), lambda value: _of_image(value, len(inputs[0]), place)
    )
    with torch.inference_mode():
        recorder.run(*inputs)
    yield from recorder.found


OF_FILE = {".onnx": _of_onnx, ".xml": _of_openvino, ".pt2": _of_torch_export}
"""The ending of a file's name to what gives its layers' outputs."""
