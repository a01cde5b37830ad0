"""Images of many requests to features: decoded in threads, computed together.

Images that arrive while a batch is computed make the next one. A batch that would leave a pass on a
CPU unfilled waits for images that are being decoded, `FILL_S` at most. The features are the job's,
whatever images share a pass.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distreid.errors import CheckpointError, ImageError
from distreid.host.machine import cores
from distreid.inference.extractor import CPU_ROWS
from distreid.serve.limits import MAX_WAITING_IMAGES
from distreid.serve.meters import Meters
from distreid.serve.problems import Busy

FILL_S = 0.004
LOOK_S = 0.0005
Image = TypeVar("Image")
Made = TypeVar("Made")


class ComputesFeatures(Protocol):
    """What the queue wants of a model."""

    def pixels(self, image: bytes) -> Tensor:
        """(3, H, W) uint8; ImageError."""

    def features_of_pixels(self, pixels: Tensor) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """(N, D) of (N, 3, H, W), and (N,) which of them are features."""


Waiting: TypeAlias = "tuple[Tensor, asyncio.Future[NDArray[np.float32]]]"


class FeatureQueue:
    """Of one model, within one event loop; `run` computes until it is cancelled."""

    def __init__(
        self, model: ComputesFeatures, meters: Meters, most: int = MAX_WAITING_IMAGES
    ) -> None:
        """`most`: images that are sent and not yet answered."""
        self._model, self._meters, self._most = model, meters, most
        self._decoders = ThreadPoolExecutor(cores(), "decode")
        self._computer = ThreadPoolExecutor(1, "compute")
        self._at_once = CPU_ROWS * cores()
        self._waiting: deque[Waiting] = deque()
        self._held = self._decoding = 0
        self._there = asyncio.Event()

    async def features(self, images: Sequence[bytes]) -> NDArray[np.float32]:
        """(N, D) unit vectors; ImageError names an image by its place. Busy where too many wait. If
        it is cancelled, what has not been begun is not computed."""
        found = await self._of_each(images, self._feature)
        return np.stack(found)

    async def features_of_pixels(self, pixels: Tensor) -> NDArray[np.float32]:
        """(N, D) of (N, 3, H, W) uint8, the network's input; otherwise as `features`."""
        return np.stack(await self._of_each([*pixels], self._computed))

    async def made(self, images: Sequence[bytes], does: Callable[[bytes], Made]) -> list[Made]:
        """What a function that decodes makes of each image; ImageError and Busy as `features`."""
        return await self._of_each(images, lambda image: self._in_decoder(lambda: does(image)))

    async def _of_each(
        self, images: Sequence[Image], does: Callable[[Image], Awaitable[Made]]
    ) -> list[Made]:
        """In the images' order, while they are counted; an ImageError says which it is of."""

        async def of_one(place: int, image: Image) -> Made:
            try:
                return await does(image)
            except ImageError as error:
                raise ImageError(f"image {place} (from 0): {error}") from error

        if self._held + len(images) > self._most:
            raise Busy(f"{self._held} images are waiting, and {self._most} are the most")
        self._count(len(images))
        tasks = [asyncio.ensure_future(of_one(i, image)) for i, image in enumerate(images)]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            self._count(-len(images))

    def _count(self, more: int) -> None:
        self._held += more
        self._meters.waiting.set(self._held)

    async def _in_decoder(self, does: Callable[[], Made]) -> Made:
        def timed() -> Made:
            with self._meters.seconds.labels("decode").time():
                return does()

        self._decoding += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._decoders, timed)
        finally:
            self._decoding -= 1

    async def _feature(self, image: bytes) -> NDArray[np.float32]:
        return await self._computed(await self._in_decoder(lambda: self._model.pixels(image)))

    async def _computed(self, pixels: Tensor) -> NDArray[np.float32]:
        found: asyncio.Future[NDArray[np.float32]] = asyncio.get_running_loop().create_future()
        self._waiting.append((pixels, found))
        self._there.set()
        return await found

    async def run(self) -> None:
        """Computes what waits."""
        loop = asyncio.get_running_loop()
        while True:
            await self._there.wait()
            until = loop.time() + FILL_S
            while len(self._waiting) < CPU_ROWS and self._decoding and loop.time() < until:
                await asyncio.sleep(LOOK_S)
            batch: list[Waiting] = []
            while self._waiting and len(batch) < self._at_once:
                pixels, found = self._waiting.popleft()
                if not found.done():  # nobody waits for one that is cancelled
                    batch.append((pixels, found))
            if not self._waiting:
                self._there.clear()
            if batch:
                await self._compute(batch)

    async def _compute(self, batch: Sequence[Waiting]) -> None:
        self._meters.batch.observe(len(batch))
        pixels = torch.stack([each for each, _ in batch])
        loop = asyncio.get_running_loop()
        try:
            with self._meters.seconds.labels("forward").time():
                features, good = await loop.run_in_executor(
                    self._computer, self._model.features_of_pixels, pixels
                )
        except Exception as error:
            for _, found in batch:
                if not found.done():
                    found.set_exception(error)
            return
        for (_, found), feature, is_good in zip(batch, features, good, strict=True):
            if found.done():
                continue
            if is_good:
                found.set_result(feature)
            else:
                found.set_exception(
                    CheckpointError("the network gives NaN, infinity or a zero feature")
                )
