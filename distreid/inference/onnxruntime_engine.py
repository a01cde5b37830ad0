"""ONNX Runtime: on many kinds of CPU, and beside OpenVINO a second opinion."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from distreid.errors import EngineError
from distreid.inference.onnx_conversion import CAMERAS, INPUT

if TYPE_CHECKING:
    from distreid.inference.engines import Runtime

ERRORS_ONLY = 3  # of its levels of logging


class OnnxRuntime:
    """Networks through ONNX Runtime's CPU provider."""

    name = "onnxruntime"
    extra = "engines"
    device = "cpu"

    def version(self) -> str:
        """Of the package."""
        return importlib.metadata.version(self.name)

    def precisions(self) -> tuple[str, ...]:
        """On a CPU it computes a graph in the types that the graph has."""
        return ("fp32",)

    def load(
        self, graph: bytes, precision: str, threads: int, *, notes: list[str] | None = None
    ) -> Runtime:
        """See `engines.Engine`. It computes in the threads that call it, however many there are."""
        session = open_session(graph)

        def run(images_BHWC: Tensor, cameras_B: Tensor | None) -> Tensor:
            given = {INPUT: images_BHWC.numpy()}
            if cameras_B is not None:
                given[CAMERAS] = cameras_B.numpy()
            return torch.from_numpy(session.run(None, given)[0])

        return run


def open_session(graph: bytes) -> Any:
    """ONNX Runtime's session, for callers of one thread each; EngineError if it cannot take the
    graph."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # it has an exception of its own for every kind of fault
        text = " ".join(str(error).split())
        raise EngineError(f"ONNX Runtime cannot take it: {text[:200]}") from error
