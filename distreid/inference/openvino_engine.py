"""OpenVINO: Intel's engine, which is the fastest that we measured on x86 CPUs."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import io
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from distreid.errors import EngineError
from distreid.host.machine import cpu_kind
from distreid.inference.kept_files import kept

if TYPE_CHECKING:
    from distreid.inference.engines import Runtime

HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}
"""A precision in OpenVINO's words. It must always be said: on a CPU with bf16, that is the
engine's own default. Of a network in int8, it is that of the layers that are not."""
SMALL = 16 << 20
"""Bytes of a graph up to which what was compiled is kept: OSNet x0.25 (0.9 MB) is ready in 0.35
instead of 0.95 processor seconds, HACNN (11 MB) in 0.92 instead of 1.24; DenseNet-121 (27 MB),
ResNet-50 and Swin-T gain nothing, a ViT-B (354 MB) loses."""
CAPABILITIES = {"bf16": "BF16", "fp16": "FP16"}
"""What the CPU must have for it, in OpenVINO's words."""


class OpenVINO:
    """Networks through OpenVINO's CPU plugin."""

    name = "openvino"
    extra = "engines"
    device = "cpu"

    def version(self) -> str:
        """Of the package."""
        return importlib.metadata.version(self.name)

    def precisions(self) -> tuple[str, ...]:
        """Of this CPU, `fp32` first."""
        has = core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return ("fp32", *(name for name, needs in CAPABILITIES.items() if needs in has))

    def load(
        self,
        graph: bytes,
        precision: str,
        threads: int,
        weights: bytes = b"",
        *,
        notes: list[str] | None = None,
    ) -> Runtime:
        """See `engines.Engine`. With `weights`, both are OpenVINO's own format."""
        compiled, note = self._compiled(graph, precision, threads, weights)
        if note and notes is not None:
            notes.append(note)
        of_thread = threading.local()

        def run(images_BHWC: Tensor, cameras_B: Tensor | None) -> Tensor:
            if not hasattr(of_thread, "request"):
                of_thread.request = compiled.create_infer_request()
            given = [images_BHWC] if cameras_B is None else [images_BHWC, cameras_B]
            found = of_thread.request.infer([each.numpy() for each in given], share_inputs=True)[0]
            return torch.from_numpy(np.array(found))  # the request writes over it the next time

        return run

    def _compiled(
        self, graph: bytes, precision: str, threads: int, weights: bytes
    ) -> tuple[Any, str]:
        """Compiled, or as it was at another start on this kind of CPU if that is faster; and what
        there is to say of it."""

        def compiled() -> Any:
            try:
                network = core().read_model(graph, weights) if weights else core().read_model(graph)
            except RuntimeError as error:
                raise _cannot(error) from error
            return compile_network(network, precision, threads)

        if len(graph) + len(weights) > SMALL:
            return compiled(), ""
        parts = (self.version(), cpu_kind(), precision, str(threads))
        digest = hashlib.sha256("\n".join(parts).encode())
        for content in (graph, weights):
            digest.update(hashlib.sha256(content).digest())
        made: list[Any] = []

        def make() -> bytes:
            made.append(compiled())
            content: bytes = made[0].export_model().getvalue()
            return content

        name = f"{digest.hexdigest()[:32]}.openvino"
        content, note = kept(name, make)
        if made:
            return made[0], note
        given = io.BytesIO(content), "CPU", settings(precision, threads)
        try:
            return core().import_model(*given), note
        except RuntimeError:
            return compiled(), f"OpenVINO does not take {name}, which was kept, and compiles anew"


def settings(precision: str, threads: int) -> dict[str, Any]:
    """OpenVINO's, for so many callers at once."""
    return {
        "INFERENCE_PRECISION_HINT": HINTS[precision],
        # A pass is one thread's, so that its bits do not depend on how many there are.
        "NUM_STREAMS": threads,
        "INFERENCE_NUM_THREADS": threads,
    }


def compile_network(network: Any, precision: str, threads: int) -> Any:
    """OpenVINO's network for so many callers at once; EngineError if it cannot take it."""
    try:
        return core().compile_model(network, "CPU", settings(precision, threads))
    except RuntimeError as error:
        raise _cannot(error) from error


def _cannot(error: RuntimeError) -> EngineError:
    return EngineError(f"OpenVINO cannot take it: {' '.join(str(error).split())[:200]}")


@functools.cache
def core() -> Any:
    """OpenVINO's own, one for the process."""
    with without_telemetry():
        import openvino
    return openvino.Core()


@contextlib.contextmanager
def without_telemetry() -> Iterator[None]:
    """OpenVINO and NNCF send what they are used for to Google Analytics, if this package can be
    imported when they are."""
    name = "openvino_telemetry"
    before = sys.modules.get(name)
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before
