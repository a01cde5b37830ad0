"""TensorRT: NVIDIA's engine for its GPUs, by versions from 10 on."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from distreid.errors import EngineError
from distreid.inference.kept_files import kept
from distreid.inference.onnx_conversion import CAMERAS, INPUT, OUTPUT

if TYPE_CHECKING:
    from distreid.inference.engines import Runtime

BF16_CAPABILITY = 8  # NVIDIA's Ampere generation
TYPES = {INPUT: torch.uint8, CAMERAS: torch.int64, OUTPUT: torch.float32}


class TensorRT:
    """Networks through TensorRT, on the process's GPU.

    A network is computed in the types that its graph has ("strongly typed"): from version 11 on
    there is no other way.
    """

    name = "tensorrt"
    extra = "tensorrt"
    device = "cuda"

    def version(self) -> str:
        """Of the package; EngineError if it cannot be loaded."""
        version: str = _package().__version__
        return version

    def precisions(self) -> tuple[str, ...]:
        """Of this GPU, `fp32` first."""
        recent = torch.cuda.get_device_capability()[0] >= BF16_CAPABILITY
        return ("fp32", "bf16", "fp16") if recent else ("fp32", "fp16")

    def load(
        self, graph: bytes, precision: str, threads: int, *, notes: list[str] | None = None
    ) -> Runtime:
        """See `engines.Engine`. Batches of any size are computed in passes of the graph's rows."""
        engine, note = self._engine(graph, precision)
        if note and notes is not None:
            notes.append(note)
        return _runtime(engine)

    def _engine(self, graph: bytes, precision: str) -> tuple[Any, str]:
        """TensorRT's engine, built now or at another start on such a GPU, and what there is to say
        of it. Which kernels it has was found by trying them: another one built from the same graph
        may have other last bits."""
        name = f"{_key(graph, precision, self.version())}.tensorrt"
        plan, note = kept(name, lambda: _built(graph))
        engine = _opened(plan)
        if engine is None:
            engine = _opened(_built(graph))
            note = f"TensorRT does not take {name}, which was kept, and builds anew"
        if engine is None:
            raise EngineError(f"TensorRT cannot take it: {_line(*_log().errors)}")
        return engine, note


def _key(graph: bytes, precision: str, version: str) -> str:
    """Of what an engine depends on; the number of rows stands in the graph."""
    gpu = torch.cuda.get_device_name(), *map(str, torch.cuda.get_device_capability())
    digest = hashlib.sha256("\n".join((version, precision, *gpu)).encode())
    digest.update(hashlib.sha256(graph).digest())
    return digest.hexdigest()[:32]


def _built(graph: bytes) -> bytes:
    """An engine for this GPU, as TensorRT writes it; EngineError if it cannot take the graph."""
    trt = _package()
    log = _log()
    log.errors.clear()
    try:
        builder = trt.Builder(log)
        typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = builder.create_network(typed)
        parser = trt.OnnxParser(network, log)
        if not parser.parse(graph):
            raise EngineError(f"TensorRT cannot take it: {_line(parser.get_error(0).desc())}")
        config = builder.create_builder_config()
        # Else what the graph has in fp32 would be computed in TF32.
        config.clear_flag(trt.BuilderFlag.TF32)
        plan = builder.build_serialized_network(network, config)
    except (TypeError, RuntimeError) as error:  # TypeError: without a GPU there is no builder
        raise EngineError(f"TensorRT cannot take it: {_line(*log.errors, str(error))}") from error
    if plan is None:
        raise EngineError(f"TensorRT cannot take it: {_line(*log.errors)}")
    return bytes(plan)


def _opened(plan: bytes) -> Any:
    """The engine of a plan; None if TensorRT does not take it."""
    return _package().Runtime(_log()).deserialize_cuda_engine(plan)


def _runtime(engine: Any) -> Runtime:
    device = torch.device("cuda", torch.cuda.current_device())
    context = engine.create_execution_context()
    if context is None:
        raise EngineError(f"TensorRT cannot take it: {_line(*_log().errors)}")
    # Its own memory for every input and output, and its own stream: on torch's default stream
    # TensorRT would have the host wait for every pass.
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    buffers = {
        name: torch.zeros(tuple(engine.get_tensor_shape(name)), dtype=TYPES[name], device=device)
        for name in map(engine.get_tensor_name, range(engine.num_io_tensors))
    }
    for name, buffer in buffers.items():
        context.set_tensor_address(name, buffer.data_ptr())
    turn = threading.Lock()

    def compute() -> None:
        if not context.execute_async_v3(stream.cuda_stream):
            raise EngineError(f"TensorRT fails: {_line(*_log().errors)}")

    def run(images_BHWC: Tensor, cameras_B: Tensor | None) -> Tensor:
        given = {INPUT: images_BHWC} | ({} if cameras_B is None else {CAMERAS: cameras_B})
        callers = torch.cuda.current_stream(device)
        with turn, torch.cuda.stream(stream):
            stream.wait_stream(callers)
            features = _in_passes(buffers, compute, given)
            callers.wait_stream(stream)
        features.record_stream(callers)  # else its memory could be given to the next pass
        return features

    return run


def _in_passes(
    buffers: dict[str, Tensor], compute: Callable[[], None], given: dict[str, Tensor]
) -> Tensor:
    """The output for any number of rows, by passes of as many as the buffers have; `compute` fills
    the output's from the inputs'."""
    count, rows = len(given[INPUT]), len(buffers[INPUT])
    parts = []
    for start in range(0, count, rows):
        for name, tensor in given.items():
            some = tensor[start : start + rows]
            # What another pass has left below them does no harm: rows are independent.
            buffers[name][: len(some)].copy_(some)
        compute()
        parts.append(buffers[OUTPUT][: count - start].clone())
    return torch.cat(parts)


@functools.cache
def _package() -> Any:
    """NVIDIA's; EngineError if it, or what it needs, is not there."""
    try:
        import tensorrt
    except (ImportError, OSError) as error:
        raise EngineError(f"TensorRT cannot be loaded: {_line(str(error))}") from error
    return tensorrt


@functools.cache
def _log() -> Any:
    """What TensorRT tells of errors, which it does nowhere else; the rest is not kept."""
    trt = _package()

    class Log(trt.ILogger):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors = [*self.errors[-8:], text]

    return Log()


def _line(*texts: str) -> str:
    """The first that says something, as one line."""
    said = (" ".join(text.split()) for text in texts)
    return next(filter(None, said), "it does not say why")[:200]
