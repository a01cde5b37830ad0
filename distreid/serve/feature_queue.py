"""Images of many requests to features: decoded in threads, computed together.

A request's images are decoded and wait in groups. Those that arrive while batches are computed make
the next one. A batch that would leave a pass on a CPU unfilled waits for images that are being
decoded, `FILL_S` at most, and while another batch is computed for a small part of the time that the
last one took: a pass takes as long for one image as for eight. The features are the job's, whatever
images share a pass.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeAlias, TypeVar

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

UNDER_WAY = 2  # batches: one of a single pass leaves a CPU's other cores to the next
FILL_S = 0.004
FILL_SHARE = 0.1  # of the last batch's seconds
LOOK_S = 0.0005
Made = TypeVar("Made")


class ComputesFeatures(Protocol):
    """What the queue wants of a model."""

    def pixels(self, image: bytes) -> Tensor:
        """(3, H, W) uint8; ImageError."""

    def features_of_pixels(self, pixels: Tensor) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """(N, D) of (N, 3, H, W), and (N,) which of them are features."""


Waiting: TypeAlias = "tuple[Tensor, asyncio.Future[NDArray[np.float32]]]"
"""(n, 3, H, W) pixels of at most `CPU_ROWS` images, and what becomes of them, (n, D)."""


class Decoding:
    """Of one request: its groups in the decoders, and whether somebody waits for them still."""

    def __init__(self) -> None:
        self.left = threading.Event()
        self.groups: list[tuple[Future[Any], range]] = []


class FeatureQueue:
    """Of one model, within one event loop; `run` computes until it is cancelled."""

    def __init__(
        self, model: ComputesFeatures, meters: Meters, most: int = MAX_WAITING_IMAGES
    ) -> None:
        """`most`: images that are sent and not yet answered."""
        self._model, self._meters, self._most = model, meters, most
        self._decoders = ThreadPoolExecutor(cores(), "decode")
        self._computer = ThreadPoolExecutor(UNDER_WAY, "compute")
        self._at_once = CPU_ROWS * cores()
        self._waiting: deque[Waiting] = deque()
        self._held = self._decoding = 0
        self._under_way: set[asyncio.Task[None]] = set()
        self._last_s = 0.0
        self._there = asyncio.Event()

    async def features(self, images: Sequence[bytes]) -> NDArray[np.float32]:
        """(N, D) unit vectors; ImageError names an image by its place. Busy where too many wait. If
        it is cancelled, what has not been begun is not computed."""

        async def of_group(places: range, decoding: Decoding) -> NDArray[np.float32]:
            return await self._computed(
                torch.stack(await self._in_decoder(images, places, self._model.pixels, decoding))
            )

        return np.concatenate(await self._in_groups(len(images), of_group))

    async def features_of_pixels(self, pixels: Tensor) -> NDArray[np.float32]:
        """(N, D) of (N, 3, H, W) uint8, the network's input; otherwise as `features`."""

        def of_group(places: range, _: Decoding) -> Awaitable[NDArray[np.float32]]:
            return self._computed(pixels[places.start : places.stop])

        return np.concatenate(await self._in_groups(len(pixels), of_group))

    async def made(self, images: Sequence[bytes], does: Callable[[bytes], Made]) -> list[Made]:
        """What a function that decodes makes of each image; ImageError and Busy as `features`."""
        groups = await self._in_groups(
            len(images),
            lambda places, decoding: self._in_decoder(images, places, does, decoding),
        )
        return [*itertools.chain.from_iterable(groups)]

    async def _in_groups(
        self, count: int, does: Callable[[range, Decoding], Awaitable[Made]]
    ) -> list[Made]:
        """What is made of groups of so many images, in order, while the images are counted: those
        in a decoder until it is done with them, whoever has left."""
        if self._held + count > self._most:
            raise Busy(f"{self._held} images are waiting, and {self._most} are the most")
        self._count(count)
        size = min(CPU_ROWS, -(-count // cores()))
        groups = [range(first, min(first + size, count)) for first in range(0, count, size)]
        decoding = Decoding()
        tasks = [asyncio.ensure_future(does(group, decoding)) for group in groups]
        try:
            return await asyncio.gather(*tasks)
        finally:
            decoding.left.set()
            for task in tasks:
                task.cancel()
            still = [(group, places) for group, places in decoding.groups if not group.done()]
            self._count(sum(len(places) for _, places in still) - count)
            for group, places in still:
                group.add_done_callback(self._counts_down(len(places)))

    def _counts_down(self, images: int) -> Callable[[object], None]:
        """What a decoder's thread calls when it is done with so many images."""
        loop = asyncio.get_running_loop()

        def count(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # the service has ended
                loop.call_soon_threadsafe(self._count, -images)

        return count

    def _count(self, more: int) -> None:
        self._held += more
        self._meters.waiting.set(self._held)

    async def _in_decoder(
        self,
        images: Sequence[bytes],
        places: range,
        does: Callable[[bytes], Made],
        decoding: Decoding,
    ) -> list[Made]:
        """Of the images at these places, one after the other; an ImageError says which it is of."""

        def of_all() -> list[Made]:
            made = []
            for place in places:
                if decoding.left.is_set():
                    break
                try:
                    with self._meters.seconds.labels("decode").time():
                        made.append(does(images[place]))
                except ImageError as error:
                    raise ImageError(f"image {place} (from 0): {error}") from error
            return made

        self._decoding += 1
        try:
            group = self._decoders.submit(of_all)
            decoding.groups.append((group, places))
            return await asyncio.wrap_future(group)
        finally:
            self._decoding -= 1

    async def _computed(self, pixels: Tensor) -> NDArray[np.float32]:
        found: asyncio.Future[NDArray[np.float32]] = asyncio.get_running_loop().create_future()
        self._waiting.append((pixels, found))
        self._there.set()
        return await found

    def _images_waiting(self) -> int:
        return sum(len(pixels) for pixels, _ in self._waiting)

    async def run(self) -> None:
        """Computes what waits."""
        room = asyncio.Semaphore(UNDER_WAY)
        try:
            while True:
                await self._there.wait()
                await room.acquire()
                if not (batch := await self._batch()):
                    room.release()
                    continue
                task = asyncio.ensure_future(self._compute(batch))
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)
                task.add_done_callback(lambda _: room.release())
        finally:
            for task in self._under_way:
                task.cancel()

    def _patience_s(self) -> float:
        """How long a batch waits for its pass to be filled."""
        return max(
            FILL_S if self._decoding else 0.0, FILL_SHARE * self._last_s if self._under_way else 0.0
        )

    async def _batch(self) -> list[Waiting]:
        """What waits, as much as is computed at once; and what comes meanwhile, if that is less
        than a pass."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while self._images_waiting() < CPU_ROWS and loop.time() - began < self._patience_s():
            await asyncio.sleep(LOOK_S)
        batch: list[Waiting] = []
        room = self._at_once
        while self._waiting and len(self._waiting[0][0]) <= room:
            pixels, found = self._waiting.popleft()
            if not found.done():  # nobody waits for one that is cancelled
                batch.append((pixels, found))
                room -= len(pixels)
        if not self._waiting:
            self._there.clear()
        return batch

    async def _compute(self, batch: Sequence[Waiting]) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            pixels = torch.cat([each for each, _ in batch])
            self._meters.batch.observe(len(pixels))
            with self._meters.seconds.labels("forward").time():
                features, good = await loop.run_in_executor(
                    self._computer, self._model.features_of_pixels, pixels
                )
        except Exception as error:
            for _, found in batch:
                if not found.done():
                    found.set_exception(error)
            return
        finally:
            self._last_s = loop.time() - began
        first = 0
        for group, found in batch:
            own = slice(first, first + len(group))
            first = own.stop
            if found.done():
                continue
            if good[own].all():
                found.set_result(features[own])
            else:
                found.set_exception(
                    CheckpointError("the network gives NaN, infinity or a zero feature")
                )
