"""torch.compile for a network: when it pays, how it is done, and how far from eager it may be.

Compiled, a network has its batch norms folded into its convolutions and its weights laid out
for the machine ("freezing"). It takes inputs of the shapes that it was compiled with, and
refuses others rather than be compiled anew in the middle of a run.

Most of the time is torch's tracing and lowering in Python, and grows with the number of operations.
OSNet x1.0 calls 187 convolutions and 79 batch norms, ResNet-50 53 of each: on a CPU they took 56
and 29 seconds of a core, and with the batch norms folded beforehand 32 and 16.
"""

from __future__ import annotations

import contextlib
import copy
import os
import shutil
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from types import FrameType

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
# Seconds after which a compilation is given up, by mode: a run is meant to gain from it. On an H200
# with 16 cores ResNet-50 and ViT-B/16 are ready in 11 to 14 s.
LIMIT_S = {"default": 120.0, "max-autotune": 600.0}
# Of a precision below fp32, which is rounded anew: the least cosine to eager in that precision.
LEAST_COSINE_OTHERWISE = 0.99
REASON_LENGTH = 200
# Functions of torch, by module, that are called for each operation of a network and may fail: in
# tracing, rewriting, lowering and the writing of code. Those that are called too while patterns are
# prepared, once for the process, are not among them. What follows is the C++ compiler's work.
STEPS = {
    ("torch._dynamo.symbolic_convert", "step"),
    ("torch.fx.experimental.symbolic_shapes", "run_node"),
    ("torch.fx.passes.fake_tensor_prop", "run_node"),
    ("torch._inductor.constant_folding", "run_node"),
    ("torch._inductor.graph", "run_node"),
    ("torch._inductor.loop_body", "run_node"),
}
NORMS = nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d


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
    run = torch.compile(folded(network), dynamic=False, fullgraph=True, mode=mode)

    def forward(*inputs: Tensor) -> Tensor:
        # A CUDA graph writes every result to the same place.
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        features: Tensor = run(*inputs).clone()
        return features

    return forward


def folded(network: nn.Module) -> nn.Module:
    """With its batch norms folded into the convolutions and linear layers before them; the network
    itself where torch cannot trace it, or where such a layer is called more than once."""
    from torch.fx.experimental.optimization import fuse

    try:
        traced = torch.fx.symbolic_trace(copy.deepcopy(network))
        layers = traced.graph.find_nodes(op="call_module")
        calls = Counter(node.target for node in layers)
        for node in layers:
            is_norm = isinstance(traced.get_submodule(node.target), NORMS)
            if is_norm and max(calls[node.target], calls[node.args[0].target]) > 1:
                return network
        return fuse(traced, inplace=True, no_trace=True)
    except Exception:  # tracing runs the network's own code, with arguments that are no tensors
        return network


class _TooLongError(BaseException):
    """Not an Exception, of which compilers catch what they can."""


@contextlib.contextmanager
def _at_most(seconds: float | None) -> Iterator[None]:
    """Ends a compilation that takes longer, at the next of its `STEPS`; by an alarm of the system,
    which only a program's main thread has: in another, it takes as long as it takes."""
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def at_step(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and (frame.f_globals.get("__name__"), frame.f_code.co_name) in STEPS:
            raise _TooLongError

    def too_late(number: int, frame: FrameType | None) -> None:
        # Not an exception at once: torch may be putting back what it had changed for the time of
        # the compilation, and would be left with half of it.
        sys.setprofile(at_step)

    profile, handler = sys.getprofile(), signal.signal(signal.SIGALRM, too_late)
    try:
        # And again each second: an exception that torch drops has ended the profile.
        signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        sys.setprofile(profile)


@contextlib.contextmanager
def compiling(limit_s: float | None = None) -> Iterator[None]:
    """Within it, calls compile without a word; what goes wrong, or is not ready after so many
    seconds, is a CompileError."""
    import torch._inductor.config as inductor

    try:
        with _at_most(limit_s), quiet(), inductor.patch(freezing=True):
            yield
    except _TooLongError:
        torch._dynamo.reset()
        raise CompileError(f"it was not ready in {limit_s:g} s") from None
    except Exception as error:  # compilers raise nearly anything
        text = next(iter(str(error).strip().splitlines()), "")
        raise CompileError(f"{type(error).__name__}: {text[:REASON_LENGTH]}") from error


def as_compiled() -> contextlib.AbstractContextManager[None]:
    """Within it, a call that would have to be compiled anew raises RuntimeError."""
    return torch.compiler.set_stance("fail_on_recompile")  # type: ignore[no-any-return]
