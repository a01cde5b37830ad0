"""A batch of uint8 images to L2-normalised features.

Exactness. The default reproduces the peers' features: fp32, without TF32, the mirror
image and the scales summed, normalised in fp32. On the CPU, a matrix product's last
bits depend on how many threads share it and on how many rows it has. So there every
forward pass is one thread's, over `CPU_ROWS` images, filled up with zeros where fewer are
left, and threads run several of them: the bytes of a feature depend on its image alone,
whatever the number of threads, processes and images per batch, and it is faster besides.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from distreid.errors import CompileError, EngineError, OptionError
from distreid.host.memory import keep_freed_memory
from distreid.images.device_resize import Sizes, resize_batch
from distreid.inference.compilation import (
    as_compiled,
    check_drift,
    compiled,
    compiling,
)
from distreid.inference.cuda_graph import CapturedPass
from distreid.inference.drift import LEAST_COSINE, Drift, drift
from distreid.inference.engines import TORCH, Runtime, find_engine
from distreid.inference.onnx_conversion import convert
from distreid.inference.openvino_engine import OpenVINO
from distreid.inference.program_runtime import open_program
from distreid.inference.quantisation import Quantised
from distreid.inference.views import Augmentation
from distreid.models.checkpoint import Model

CPU_ROWS = 8
TIMED = 4  # passes, of which the fastest counts
PRECISIONS = {
    "fp32": torch.float32,
    "tf32-conv": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
TF32_CAPABILITY = 8  # NVIDIA's Ampere generation, the first with TF32 and bfloat16


Features = tuple[Tensor, Tensor]
"""(B, dim) float32 of norm 1, and (B,) the norms before."""


@dataclass(frozen=True)
class Pending:
    """Features that the device computes meanwhile."""

    result: Callable[[], Features]
    """Waits for them, on the CPU."""
    cancel: Callable[[], None]
    """Lets go of what has not been begun."""


class Extractor:
    """Calls a model on batches; the same for every rank and every batch."""

    def __init__(
        self,
        model: Model,
        augmentation: Augmentation,
        *,
        precision: str,
        device: torch.device,
        threads: int,
        fills_passes: bool = True,
        engine: str = TORCH,
    ) -> None:
        """`threads` is how many forward passes run at once on the CPU. With an engine other than
        torch, `load_engine` is to be called before anything is computed, but for a model that is a
        program: that engine computes it as it is. OptionError if torch
        is to compute in a precision that the device has not."""
        if engine == TORCH:
            check_precision(precision, device)
        self.model = model
        self.engine = TORCH
        """What computes."""
        self.runtime: Runtime | None = None
        """That, if it is not torch."""
        self.fills_passes = fills_passes
        """Whether a pass on a CPU is filled up to `CPU_ROWS`; distreid 0.1.0 did not."""
        self.preprocess = model.architecture.preprocess
        self.fixed_size = model.architecture.fixed_size
        self.parts = model.architecture.parts
        self.augmentation = augmentation
        self.device = device
        self.precision = precision
        self.dtype = torch.float32
        # An engine is compared with torch in fp32.
        self._set(precision if engine == TORCH else "fp32")
        self.precision = precision
        # cuDNN may choose another algorithm at every start; this keeps to the reproducible ones.
        torch.backends.cudnn.deterministic = True
        self.network = model.network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.forward: Callable[..., Tensor] = self.network
        if engine != TORCH and (program := model.architecture.program):
            self.engine, self.forward = engine, open_program(program, engine, threads)
        self.compiled_for: torch.Size | None = None
        """The shape of the images that a compiled pass takes; None while it is not compiled."""
        self.captured: CapturedPass | None = None
        """A pass on a GPU as one CUDA graph."""
        self.threads = threads if device.type == "cpu" else 0
        """How many forward passes run at once; 0 on a GPU, which has one after the other."""
        self.copies: Any = None if self.threads else torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.in_flight = 2 if self.threads else 3
        """How many batches should be begun before the first of them is waited for. A GPU has the
        next ones waiting while the host stores what came back and launches another."""
        self.views_at_once = not self.threads
        """Whether image and mirror image share a pass. It halves what the host has to launch on
        a GPU; a CPU core takes the same time for two passes, of half the memory."""
        if self.threads:
            torch.set_num_threads(1)
            keep_freed_memory()
        if augmentation.scales != (1.0,):
            self._try_views()

    def _try_views(self) -> None:
        """OptionError for scales at which the network cannot take an image."""
        height, width = self.preprocess.height, self.preprocess.width
        self.augmentation.check(height, width)
        images = torch.zeros(1, 3, height, width, dtype=torch.uint8, device=self.device)
        cameras = None if self.model.architecture.cameras is None else images.new_zeros(1).long()
        try:
            self._padded(images, cameras)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            given = ",".join(f"{scale:g}" for scale in self.augmentation.scales)
            why = next(iter(str(error).splitlines()), "")
            raise OptionError(
                f"--scales {given}: {self.model.architecture.name} cannot take images of "
                f"{height}x{width} scaled so ({why}); choose others"
            ) from error

    def __call__(self, images_BCHW: Tensor, cameras_B: Tensor | None = None) -> Features:
        """(B, 3, H, W) uint8 → (B, dim) float32 of norm 1, and (B,) the norms before; on the CPU.

        `cameras_B` is for a network with embeddings of cameras: see `Architecture.cameras`.
        A feature of norm 0 has no direction and comes out as NaN.
        """
        with self.as_compiled():
            return self.begin(images_BCHW, cameras_B).result()

    def as_compiled(self) -> contextlib.AbstractContextManager[None]:
        """Within it, a call that would have to be compiled anew raises RuntimeError, in every
        thread of the process."""
        return as_compiled() if self.compiled_for else contextlib.nullcontext()

    def begin(
        self, images_BCHW: Tensor, cameras_B: Tensor | None = None, sizes: Sizes | None = None
    ) -> Pending:
        """Begins what a call does, and returns at once; to be used within `as_compiled`.

        With `sizes`, the images are original pixels, as `originals_or_resized` gives them, which
        the device resizes.
        """
        if not self.threads:
            return self._begin_on_gpu(images_BCHW, cameras_B, sizes)
        if sizes is not None:
            images_BCHW = self._resized(images_BCHW, sizes)
        pool = _threads(self.threads)
        images = torch.split(images_BCHW, CPU_ROWS)
        cameras = [None] * len(images) if cameras_B is None else torch.split(cameras_B, CPU_ROWS)
        passes = [
            pool.submit(self._padded, *inputs) for inputs in zip(images, cameras, strict=True)
        ]

        def result() -> Features:
            features, norms = zip(*(one.result() for one in passes), strict=True)
            return torch.cat(features), torch.cat(norms)

        def cancel() -> None:
            for one in passes:
                one.cancel()

        return Pending(result, cancel)

    def _resized(self, images_BCHW: Tensor, sizes: Sizes) -> Tensor:
        preprocess = self.preprocess
        resized = resize_batch(
            images_BCHW, sizes, preprocess.height, preprocess.width, preprocess.interpolation
        )
        return resized.contiguous(memory_format=torch.channels_last)

    def _begin_on_gpu(
        self, images_BCHW: Tensor, cameras_B: Tensor | None, sizes: Sizes | None
    ) -> Pending:
        computing = torch.cuda.current_stream(self.device)
        # A stream of their own: a batch arrives, and is resized, while those before are computed.
        with torch.cuda.stream(self.copies):
            images_BCHW = images_BCHW.to(self.device, non_blocking=True)
            cameras_B = None if cameras_B is None else cameras_B.to(self.device, non_blocking=True)
            if sizes is not None:
                images_BCHW = self._resized(images_BCHW, sizes)
        computing.wait_stream(self.copies)
        for tensor in (images_BCHW, cameras_B):
            if tensor is not None:
                tensor.record_stream(computing)  # else its memory could be given to another
        # To page-locked memory, so that the host need not wait.
        features_BD, norm_B = (
            tensor.to("cpu", non_blocking=True) for tensor in self._padded(images_BCHW, cameras_B)
        )
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record(computing)

        def result() -> Features:
            done.synchronize()
            return features_BD, norm_B

        return Pending(result, lambda: None)

    def compile(
        self,
        mode: str,
        rows: int,
        images_BCHW: Tensor,
        cameras_B: Tensor | None = None,
        *,
        limit_s: float | None = None,
    ) -> Drift:
        """Compiles the network for batches of at most `rows`; gives its drift on some images.

        `mode` is torch's name of one. CompileError if that fails, is not ready after so many
        seconds, or gives other features than eager's; then the extractor stays as it was.
        """
        first = slice(0, CPU_ROWS if self.threads else rows)
        try:
            with compiling(limit_s):
                exact_BD, _ = self(images_BCHW, cameras_B)
                self.captured = None
                self.forward = compiled(self.network, mode)
                self.compiled_for = torch.Size((first.stop, *images_BCHW.shape[1:]))
                # In this thread alone; afterwards nothing is compiled any more.
                self._padded(
                    images_BCHW[first].to(self.device),
                    None if cameras_B is None else cameras_B[first].to(self.device),
                )
                found = drift(exact_BD, self(images_BCHW, cameras_B)[0])
            check_drift(found, self.precision)
        except CompileError:
            self.forward, self.compiled_for = self.network, None
            raise
        return found

    @torch.inference_mode()
    def capture(self, rows: int, images_BCHW: Tensor, cameras_B: Tensor | None = None) -> Drift:
        """On a GPU, has passes of up to `rows` rows run as one CUDA graph from now on; gives its
        drift, on some images, from passes that are launched kernel by kernel. EngineError if it
        cannot be captured, or gives other features; then the extractor stays as it was."""
        images_BCHW = images_BCHW[:rows]
        cameras_B = None if cameras_B is None else cameras_B[:rows]
        self.captured = None
        exact_BD, _ = self(images_BCHW, cameras_B)
        images_BCHW = images_BCHW.to(self.device)
        cameras_B = None if cameras_B is None else cameras_B.to(self.device)
        try:
            self.captured = CapturedPass(self._features, rows, images_BCHW, cameras_B)
            found = drift(exact_BD, self(images_BCHW, cameras_B)[0])
        except RuntimeError as error:
            self.captured = None
            raise EngineError(" ".join(str(error).split())[:200]) from error
        if not found.cosine >= LEAST_COSINE:  # NaN is not
            self.captured = None
            raise EngineError(f"it gives other features: least cosine {found.cosine:.7f}")
        return found

    def load_engine(
        self,
        name: str,
        images_BCHW: Tensor,
        cameras_B: Tensor | None = None,
        quantised: Quantised | None = None,
        *,
        gpu_rows: int = CPU_ROWS,
    ) -> tuple[Drift, str]:
        """Has an engine of `engines.ENGINES` compute from now on; in int8, a network that is
        `quantised`. On a GPU, a pass of its has `gpu_rows`.

        Gives its drift from torch in fp32 on at most `CPU_ROWS` of the images, and what there is
        to say besides. EngineError if it cannot take the network, or gives other features in
        fp32, or none; then torch goes on computing in fp32.
        """
        engine, first = find_engine(name, self.device), slice(0, CPU_ROWS)
        images_BCHW = images_BCHW[first]
        cameras_B = None if cameras_B is None else cameras_B[first]
        self.engine, self.runtime = TORCH, None
        exact_BD, _ = self(images_BCHW, cameras_B)
        notes: list[str] = []
        if quantised:
            self.runtime = OpenVINO().load(
                quantised.xml, self.precision, self.threads, quantised.weights, notes=notes
            )
        else:
            rows, dtype = CPU_ROWS, torch.float32
            if not self.threads:
                rows, dtype = gpu_rows, PRECISIONS[self.precision]
            converted = convert(self.model, self.augmentation, rows, dtype)
            notes += filter(None, [converted.note])
            self.runtime = engine.load(converted.graph, self.precision, self.threads, notes=notes)
        self.engine = name
        try:
            found = drift(exact_BD, self(images_BCHW, cameras_B)[0])
            least = LEAST_COSINE if self.precision == "fp32" else -1
            if not found.cosine >= least:  # NaN is not
                raise EngineError(
                    f"its features are not torch's: least cosine {found.cosine:.7f}, not {least}"
                )
        except EngineError:
            self.engine, self.runtime = TORCH, None
            raise
        notes += filter(None, [self.why_slow(images_BCHW, cameras_B)])
        return found, "; ".join(notes)

    def why_slow(self, images_BCHW: Tensor, cameras_B: Tensor | None = None) -> str:
        """On a CPU, a line if a pass in this precision takes longer than one in fp32."""
        if self.precision == "fp32" or not self.threads:
            return ""
        first = slice(0, CPU_ROWS)
        images_BCHW = images_BCHW[first]
        cameras_B = None if cameras_B is None else cameras_B[first]
        precision, here = self.precision, self.runtime
        exact = None
        if here:
            graph = convert(self.model, self.augmentation, CPU_ROWS).graph
            exact = find_engine(self.engine, self.device).load(graph, "fp32", self.threads)
        seconds: dict[str, list[float]] = {"fp32": [], precision: []}
        for _ in range(TIMED):
            for one, self.runtime in (("fp32", exact), (precision, here)):
                if not here:
                    self._set(one)
                started = time.perf_counter()
                self._padded(images_BCHW, cameras_B)
                seconds[one].append(time.perf_counter() - started)
        plain, other = (len(images_BCHW) / min(seconds[one]) for one in ("fp32", precision))
        if other >= plain:
            return ""
        return (
            f"{precision} is slower than fp32 here: {other:,.1f} images/s on a core, fp32 "
            f"{plain:,.1f}"
        )

    def compute_by_torch(self, precision: str) -> None:
        """Without an engine, in this precision; OptionError if torch has none such here."""
        check_precision(precision, self.device)
        self.engine, self.runtime = TORCH, None
        self._set(precision)

    def _set(self, precision: str) -> None:
        self.precision, self.dtype, self.captured = precision, PRECISIONS[precision], None
        self._allow_tf32()

    def _allow_tf32(self) -> None:
        """As the precision says: torch's switches are the process's, so each pass sets them."""
        torch.backends.cuda.matmul.allow_tf32 = self.precision == "tf32"
        torch.backends.cudnn.allow_tf32 = self.precision in ("tf32", "tf32-conv")

    def drift_from_fp32(self, images_BCHW: Tensor, cameras_B: Tensor | None = None) -> Drift:
        """Of torch in the extractor's precision, on some images."""
        precision = self.precision
        self._set("fp32")
        exact_BD, _ = self(images_BCHW, cameras_B)
        self._set(precision)
        return drift(exact_BD, self(images_BCHW, cameras_B)[0])

    @torch.inference_mode()
    def _padded(self, images_BCHW: Tensor, cameras_B: Tensor | None) -> Features:
        """A pass on the device, filled up with zeros to the rows that it is to have."""
        rows = len(images_BCHW)
        self._allow_tf32()
        if self.captured and rows <= self.captured.rows:
            return self.captured(images_BCHW, cameras_B)
        filled = CPU_ROWS if self.threads and self.fills_passes else rows
        if self.compiled_for:
            filled = self.compiled_for[0]
            # torch refuses others too, but for two threads at once it may crash or run eager.
            if rows > filled or images_BCHW.shape[1:] != self.compiled_for[1:]:
                raise RuntimeError(
                    f"images {tuple(images_BCHW.shape)}, and the network is compiled for at most "
                    f"{tuple(self.compiled_for)}"
                )
        if more := filled - rows:
            images_BCHW = F.pad(images_BCHW, (0, 0) * 3 + (0, more))
            cameras_B = None if cameras_B is None else F.pad(cameras_B, (0, more))
        features_BD, norm_B = self._features(images_BCHW, cameras_B)
        return features_BD[:rows], norm_B[:rows]

    def _features(self, images_BCHW: Tensor, cameras_B: Tensor | None) -> Features:
        if self.runtime:
            # As images lie in memory already. A mirror image has a pass of its own: half the graph
            # to convert and compile, half the memory. torch mirrors ten times as fast as numpy.
            views = [images_BCHW, images_BCHW.flip(3)] if self.augmentation.flip else [images_BCHW]
            of_views = (self.runtime(view.movedim(1, -1).contiguous(), cameras_B) for view in views)
            sum_BD = reduce(torch.add, of_views)
        else:
            sum_BD = self._of_views(images_BCHW, cameras_B)
        if self.parts > 1:
            sum_BD = normalise_parts(sum_BD, self.parts)
        # Not F.normalize: it would turn a feature of norm 0 into zeros that look like one.
        norm_B = torch.linalg.vector_norm(sum_BD, dim=1)
        return sum_BD / norm_B[:, None], norm_B

    def _of_views(self, images_BCHW: Tensor, cameras_B: Tensor | None) -> Tensor:
        """The sum of the features of all views, by torch."""
        program = self.model.architecture.program
        if not (program and program.normalises):
            images_BCHW = self.preprocess.normalise(images_BCHW)
        if program and program.whole:
            given = [images_BCHW] if cameras_B is None else [images_BCHW, cameras_B]
            return self.forward(*given).float()
        inputs = images_BCHW
        passes = (
            self.augmentation.passes(inputs, self.fixed_size)
            if self.views_at_once
            else [[view] for view in self.augmentation.views(inputs, self.fixed_size)]
        )
        return reduce(torch.add, (self._summed(same, cameras_B) for same in passes))

    def _summed(self, views: list[Tensor], cameras_B: Tensor | None) -> Tensor:
        """The sum of the features of views of one size, all in one pass."""
        inputs = [torch.cat(views)] if len(views) > 1 else views
        if cameras_B is not None:
            inputs = [*inputs, cameras_B.repeat(len(views))]
        half = self.dtype != torch.float32
        with torch.autocast(self.device.type, dtype=self.dtype if half else None, enabled=half):
            features = self.forward(*inputs)
        return reduce(torch.add, features.float().chunk(len(views)))


@functools.cache
def _threads(count: int) -> ThreadPoolExecutor:
    """The same for all models of a process: a thread keeps the memory that it once took."""
    return ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))


# A forked process has none of the threads, and would wait for them for ever.
os.register_at_fork(after_in_child=_threads.cache_clear)


def normalise_parts(features_BD: Tensor, parts: int) -> Tensor:
    """Every part to norm 1/√parts; column d belongs to part d % parts."""
    # Without len(), which an export would freeze.
    features_BCP = features_BD.reshape(-1, features_BD.shape[1] // parts, parts)
    norm_B1P = torch.linalg.vector_norm(features_BCP, dim=1, keepdim=True)
    return torch.flatten(features_BCP / (norm_B1P * math.sqrt(parts)), 1)


def choose_device(
    name: str, local_rank: int, *, bound: bool = False, processes: int = 1, share: bool = False
) -> torch.device:
    """`auto`, `cpu` or `cuda` to this process's device; OptionError if there is none.

    `bound`: who started this process may have given it a GPU of its own, and shows it no other;
    else the host's GPUs are its `processes`', in order. So the first of too many says so for all;
    with `share`, they go round.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if count == 0:
        raise OptionError(
            f"--device {name}: torch sees no GPU on {socket.gethostname()}; ask the cluster for "
            "GPUs (--gpus-per-node), or use --device cpu"
        )
    if bound and count == 1:
        local_rank, processes = 0, 1
    if share:
        local_rank, processes = local_rank % count, 1
    if max(local_rank + 1, processes) > count:
        raise OptionError(
            f"--device {name}: {max(local_rank + 1, processes)} processes on "
            f"{socket.gethostname()}, and torch sees {count} GPU{'s' if count > 1 else ''}; start "
            f"{count} here, or use --device cpu; --share-gpu puts several on one GPU, which is "
            "rarely faster, as one process fills it"
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


def check_precision(precision: str, device: torch.device) -> None:
    """OptionError if the device cannot compute in this precision."""
    if precision == "fp32":
        return
    mkldnn = torch.ops.mkldnn
    on_cpu: dict[str, Callable[[], bool]] = {
        "bf16": lambda: bool(mkldnn._is_mkldnn_bf16_supported()),
        "fp16": lambda: bool(mkldnn._is_mkldnn_fp16_supported()),
        "tf32-conv": lambda: False,
        "int8": lambda: False,
        "tf32": lambda: False,
    }
    if device.type == "cpu":
        supported, name = on_cpu[precision](), "this CPU"
    else:
        recent = torch.cuda.get_device_capability(device)[0] >= TF32_CAPABILITY
        supported = precision == "fp16" or (recent and precision != "int8")
        name = torch.cuda.get_device_name(device)
    if not supported:
        raise OptionError(f"--precision {precision}: {name} has none; use --precision fp32")


def choose_precision(asked: str, device: torch.device, engine: str = "auto") -> str:
    """`auto` to what reproduces the peers' features: `fp32`, and by torch on a GPU that has TF32
    `tf32-conv`, which is what it does there; whether it holds is to be measured."""
    if asked != "auto":
        return asked
    if engine not in ("auto", TORCH):
        return "fp32"
    try:
        check_precision("tf32-conv", device)
    except OptionError:
        return "fp32"
    return "tf32-conv"
