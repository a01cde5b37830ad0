"""A GPU's pass as one CUDA graph: launched at once, where kernel by kernel the host is slower than
the GPU. The kernels are the same, and so are the features.

The way of capturing is that of torch's manual, "CUDA semantics", section "CUDA Graphs".
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from torch import Tensor

WARM_UPS = 3  # passes before: libraries choose and set up what a capture must not contain

Result = tuple[Tensor, Tensor]
Compute = Callable[[Tensor, "Tensor | None"], Result]


class CapturedPass:
    """Any thread may call it; passes run one after the other."""

    def __init__(
        self, compute: Compute, rows: int, images_BCHW: Tensor, cameras_B: Tensor | None
    ) -> None:
        """Captures `compute` for so many rows, on the device of these images, which are no more;
        RuntimeError where it cannot be captured, because it waits for the device."""
        self.rows = rows
        self._device = images_BCHW.device
        shape, last = (rows, *images_BCHW.shape[1:]), torch.channels_last
        self._images = torch.zeros(shape, dtype=torch.uint8, device=self._device)
        self._images = self._images.contiguous(memory_format=last)
        self._cameras: Tensor | None = None
        if cameras_B is not None:
            self._cameras = torch.zeros(rows, dtype=cameras_B.dtype, device=self._device)
        self._turn = threading.Lock()
        self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._fill(images_BCHW, cameras_B)
        callers = torch.cuda.current_stream(self._device)
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        stream.wait_stream(callers)
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                compute(self._images, self._cameras)
        callers.wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        # Threads that read and copy images meanwhile are none of its business.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._result = compute(self._images, self._cameras)
        self._done.record(callers)

    def __call__(self, images_BCHW: Tensor, cameras_B: Tensor | None) -> Result:
        """What `compute` gives for at most `rows` images, the caller's own."""
        count, callers = len(images_BCHW), torch.cuda.current_stream(self._device)
        with self._turn:
            callers.wait_event(self._done)  # of the pass before, which may be another stream's
            # What another pass has left below them does no harm: rows are independent.
            self._fill(images_BCHW, cameras_B)
            self._graph.replay()
            features_BD, norm_B = (part[:count].clone() for part in self._result)
            self._done.record(callers)
        return features_BD, norm_B

    def _fill(self, images_BCHW: Tensor, cameras_B: Tensor | None) -> None:
        self._images[: len(images_BCHW)].copy_(images_BCHW)
        if self._cameras is not None and cameras_B is not None:
            self._cameras[: len(cameras_B)].copy_(cameras_B)
