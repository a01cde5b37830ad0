"""torch.compile for a network: when it pays, how it is done, and how far from eager it may be.

Compiled, a network has its batch norms folded into its convolutions and its weights laid out
for the machine ("freezing"). It takes inputs of the shapes that it was compiled with, and
refuses others rather than be compiled anew in the middle of a run.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from distreid.errors import CompileError
from distreid.inference.drift import LEAST_COSINE, Drift
from distreid.inference.quiet_converters import quiet

EAGER = "off"
# `--compile` to torch's name of the mode, which a store's identity carries.
MODES = {"auto": "default", "max": "max-autotune"}
# Compiling takes a minute or so at every start. What it saves is a quarter of the forward
# passes on a CPU (measured with ResNet-50 in fp32), which as many rows take minutes for.
ROWS_WORTH_IT = {"cpu": 20_000, "cuda": 500_000}
# Of a precision below fp32, which is rounded anew: the least cosine to eager in that precision.
LEAST_COSINE_OTHERWISE = 0.99
REASON_LENGTH = 200


def check_drift(found: Drift, precision: str) -> None:
    """CompileError if the compiled network is not the same one."""
    least = LEAST_COSINE if precision == "fp32" else LEAST_COSINE_OTHERWISE
    if not found.cosine >= least:  # NaN is not
        raise CompileError(f"its features are not eager's: cosine {found.cosine:.7f}, not {least}")


def why_eager(option: str, rows: int, device: torch.device) -> str | None:
    """Why a run of so many rows stays eager; None if it is to be compiled.

    It depends on the rows of the whole run, not on the number of processes or their speed.
    """
    if option == EAGER:
        return "--compile off"
    if option == "auto" and rows < (least := ROWS_WORTH_IT[device.type]):
        return f"compiling pays from {least:,} images on this device"
    if option == "auto" and device.type == "cpu" and not shutil.which(os.environ.get("CXX", "g++")):
        return "there is no C++ compiler (g++, or what CXX says)"
    return None


def compiled(network: nn.Module, mode: str) -> Callable[..., Tensor]:
    """The network, to be called first within `compiling`; its result is the caller's own."""
    run = torch.compile(network, dynamic=False, fullgraph=True, mode=mode)

    def forward(*inputs: Tensor) -> Tensor:
        # A CUDA graph writes every result to the same place.
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        features: Tensor = run(*inputs).clone()
        return features

    return forward


@contextlib.contextmanager
def compiling() -> Iterator[None]:
    """Within it, calls compile without a word; what goes wrong is a CompileError."""
    import torch._inductor.config as inductor

    try:
        with quiet(), inductor.patch(freezing=True):
            yield
    except Exception as error:  # compilers raise nearly anything
        text = next(iter(str(error).strip().splitlines()), "")
        raise CompileError(f"{type(error).__name__}: {text[:REASON_LENGTH]}") from error


def as_compiled() -> contextlib.AbstractContextManager[None]:
    """Within it, a call that would have to be compiled anew raises RuntimeError."""
    return torch.compiler.set_stance("fail_on_recompile")  # type: ignore[no-any-return]
