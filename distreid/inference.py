"""A batch of uint8 images to L2-normalised features.

Exactness. The default reproduces the peers' features: fp32, without TF32, the mirror
image and the scales summed, normalised in fp32. On the CPU, a matrix product's last
bits depend on how many threads share it and on the batch around it. So there every
forward pass is one thread's, over `CPU_ROWS` images, and threads run several of them:
the bytes are the same for any number of threads, processes and images per batch, and it
is faster besides.
"""

from __future__ import annotations

import contextlib
import functools
import math
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from distreid.compilation import Drift, as_compiled, check_drift, compiled, compiling, drift
from distreid.errors import CompileError, OptionError
from distreid.memory import keep_freed_memory
from distreid.models.checkpoint import Model

CPU_ROWS = 8
PRECISIONS = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
TF32_CAPABILITY = 8  # NVIDIA's Ampere generation, the first with TF32 and bfloat16


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Test-time augmentation: what is summed before the L2 norm."""

    flip: bool
    """Whether the mirror image is summed too."""
    scales: tuple[float, ...] = (1.0,)
    """Factors of the *area*: a side grows by √scale, as Person_reID_baseline_pytorch defines it."""
    scale_mode: str = "independent"
    """`independent`: each scale resizes the input. `compound`: each resizes the previous one's
    result, as Person_reID_baseline_pytorch's `--ms` loop does."""

    def identity(self) -> dict[str, Any]:
        """The description that a store carries."""
        return asdict(self)

    def views(self, images_BCHW: Tensor, fixed_size: bool) -> Iterator[Tensor]:
        """The inputs whose features are summed, in the peer's order.

        With `fixed_size`, a scaled image is cropped or padded to the size it came in.
        """
        height, width = images_BCHW.shape[2:]
        for image in (images_BCHW, images_BCHW.flip(3)) if self.flip else (images_BCHW,):
            scaled = image
            for scale in self.scales:
                if scale != 1:
                    source = scaled if self.scale_mode == "compound" else image
                    scaled = F.interpolate(
                        source,
                        scale_factor=math.sqrt(scale),
                        mode="bicubic",
                        align_corners=False,
                    )
                elif self.scale_mode == "independent":
                    scaled = image
                yield centre(scaled, height, width) if fixed_size else scaled


def centre(images_BCHW: Tensor, height: int, width: int) -> Tensor:
    """Crops or pads the borders, the same on both sides, to height × width.

    An odd row or column more is cut or added below or on the right. The padding is 0,
    which in a normalised image is the mean colour.
    """
    down, right = height - images_BCHW.shape[2], width - images_BCHW.shape[3]
    # F.pad crops where an amount is negative; // rounds a cut up and a margin down.
    top, left = int(down / 2), int(right / 2)
    return F.pad(images_BCHW, (left, right - left, top, down - top))


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
    ) -> None:
        """`threads` is how many forward passes run at once on the CPU; OptionError if the
        device has no such precision."""
        check_precision(precision, device)
        self.preprocess = model.architecture.preprocess
        self.fixed_size = model.architecture.fixed_size
        self.parts = model.architecture.parts
        self.augmentation = augmentation
        self.device = device
        self.precision = precision
        self.dtype = PRECISIONS[precision]
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        # cuDNN may choose another algorithm at every start; this keeps to the reproducible ones.
        torch.backends.cudnn.deterministic = True
        self.network = model.network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.forward: Callable[..., Tensor] = self.network
        self.compiled_rows: int | None = None
        """How many rows at once the compiled network takes; None while it is not compiled."""
        self.pool = _threads(threads) if device.type == "cpu" else None
        self.copies: Any = None if self.pool else torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.views_at_once = not self.pool
        """Whether image and mirror image share a pass. It halves what the host has to launch on
        a GPU; a CPU core takes the same time for two passes, of half the memory."""
        if self.pool:
            torch.set_num_threads(1)
            keep_freed_memory()

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
        return as_compiled() if self.compiled_rows else contextlib.nullcontext()

    def begin(self, images_BCHW: Tensor, cameras_B: Tensor | None = None) -> Pending:
        """Begins what a call does, and returns at once; to be used within `as_compiled`."""
        if self.pool is None:
            return self._begin_on_gpu(images_BCHW, cameras_B)
        images = torch.split(images_BCHW, CPU_ROWS)
        cameras = [None] * len(images) if cameras_B is None else torch.split(cameras_B, CPU_ROWS)
        passes = [
            self.pool.submit(self._padded, *inputs) for inputs in zip(images, cameras, strict=True)
        ]

        def result() -> Features:
            features, norms = zip(*(one.result() for one in passes), strict=True)
            return torch.cat(features), torch.cat(norms)

        def cancel() -> None:
            for one in passes:
                one.cancel()

        return Pending(result, cancel)

    def _begin_on_gpu(self, images_BCHW: Tensor, cameras_B: Tensor | None) -> Pending:
        computing = torch.cuda.current_stream(self.device)
        # A stream of their own: this batch arrives while the one before is computed.
        with torch.cuda.stream(self.copies):
            images_BCHW = images_BCHW.to(self.device, non_blocking=True)
            cameras_B = None if cameras_B is None else cameras_B.to(self.device, non_blocking=True)
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
        self, mode: str, rows: int, images_BCHW: Tensor, cameras_B: Tensor | None = None
    ) -> Drift:
        """Compiles the network for batches of at most `rows`; gives its drift on some images.

        `mode` is torch's name of one. CompileError if that fails, or gives other features
        than eager's; then the extractor stays as it was.
        """
        first = slice(0, CPU_ROWS if self.pool else rows)
        try:
            with compiling():
                exact_BD, _ = self(images_BCHW, cameras_B)
                self.forward, self.compiled_rows = compiled(self.network, mode), first.stop
                # In this thread alone; afterwards nothing is compiled any more.
                self._padded(
                    images_BCHW[first].to(self.device),
                    None if cameras_B is None else cameras_B[first].to(self.device),
                )
                found = drift(exact_BD, self(images_BCHW, cameras_B)[0])
            check_drift(found, self.precision)
        except CompileError:
            self.forward, self.compiled_rows = self.network, None
            raise
        return found

    @torch.inference_mode()
    def _padded(self, images_BCHW: Tensor, cameras_B: Tensor | None) -> Features:
        """Passes over at most as many rows as were compiled, on the device."""
        rows = len(images_BCHW)
        if self.compiled_rows and (more := self.compiled_rows - rows):
            images_BCHW = F.pad(images_BCHW, (0, 0) * 3 + (0, more))
            cameras_B = None if cameras_B is None else F.pad(cameras_B, (0, more))
        features_BD, norm_B = self._features(images_BCHW, cameras_B)
        return features_BD[:rows], norm_B[:rows]

    def _features(self, images_BCHW: Tensor, cameras_B: Tensor | None) -> Features:
        inputs = self.preprocess.normalise(images_BCHW)
        views = self.augmentation.views(inputs, self.fixed_size)
        passes = _by_size(views) if self.views_at_once else ([view] for view in views)
        sum_BD = reduce(torch.add, (self._summed(same, cameras_B) for same in passes))
        if self.parts > 1:
            sum_BD = normalise_parts(sum_BD, self.parts)
        # Not F.normalize: it would turn a feature of norm 0 into zeros that look like one.
        norm_B = torch.linalg.vector_norm(sum_BD, dim=1)
        return sum_BD / norm_B[:, None], norm_B

    def _summed(self, views: list[Tensor], cameras_B: Tensor | None) -> Tensor:
        """The sum of the features of views of one size, all in one pass."""
        inputs = [torch.cat(views)] if len(views) > 1 else views
        if cameras_B is not None:
            inputs = [*inputs, cameras_B.repeat(len(views))]
        half = self.dtype != torch.float32
        with torch.autocast(self.device.type, dtype=self.dtype if half else None, enabled=half):
            features = self.forward(*inputs)
        return reduce(torch.add, features.float().chunk(len(views)))


def _by_size(views: Iterator[Tensor]) -> Iterator[list[Tensor]]:
    """The views of each size together."""
    found: dict[torch.Size, list[Tensor]] = {}
    for view in views:
        found.setdefault(view.shape, []).append(view)
    yield from found.values()


@functools.cache
def _threads(count: int) -> ThreadPoolExecutor:
    """The same for all models of a process: a thread keeps the memory that it once took."""
    return ThreadPoolExecutor(count)


def normalise_parts(features_BD: Tensor, parts: int) -> Tensor:
    """Every part to norm 1/√parts; column d belongs to part d % parts."""
    features_BCP = features_BD.reshape(len(features_BD), -1, parts)
    norm_B1P = torch.linalg.vector_norm(features_BCP, dim=1, keepdim=True)
    return torch.flatten(features_BCP / (norm_B1P * math.sqrt(parts)), 1)


def choose_device(name: str, local_rank: int, *, bound: bool = False) -> torch.device:
    """`auto`, `cpu` or `cuda` to this process's device; OptionError if there is none.

    `bound`: who started this process may have given it a GPU of its own, and shows it no other;
    else the hosts' GPUs are the processes', in order.
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
        local_rank = 0
    if local_rank >= count:
        raise OptionError(
            f"--device {name}: local rank {local_rank} has no GPU of its own; torch sees {count} "
            f"(start {count} processes on this host, or use --device cpu)"
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
        "tf32": lambda: False,
    }
    if device.type == "cpu":
        supported, name = on_cpu[precision](), "this CPU"
    else:
        recent = torch.cuda.get_device_capability(device)[0] >= TF32_CAPABILITY
        supported, name = recent or precision == "fp16", torch.cuda.get_device_name(device)
    if not supported:
        raise OptionError(f"--precision {precision}: {name} has none; use --precision fp32")
