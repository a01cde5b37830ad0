"""What the routes stand on: the gallery, the queue of images, the one writer, the meters."""

from __future__ import annotations

import asyncio
import functools
import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from fastapi import Request
from numpy.typing import NDArray
from PIL import Image

from distreid.host.machine import cores
from distreid.interface.loaded_model import Model
from distreid.serve.access import Access
from distreid.serve.feature_queue import FeatureQueue
from distreid.serve.gallery_writer import GalleryWriter
from distreid.serve.messages import Found
from distreid.serve.meters import Meters
from distreid.serve.problems import LOG, Problem
from distreid.serve.search_queue import SearchQueue
from distreid.serve.searching import Wanted, search_together
from distreid.serve.served_gallery import ServedGallery

LOOK_S = 0.25  # for a new generation
Result = TypeVar("Result")


class Service:
    """Of one gallery, one model, or both."""

    def __init__(self, gallery: ServedGallery | None, model: Model | None, access: Access) -> None:
        self._gallery, self.model, self.access = gallery, model, access
        self.meters = Meters()
        self._queue = None if model is None else FeatureQueue(model, self.meters)
        self._search_queue = None if gallery is None else self._searches(gallery)
        self._threads = ThreadPoolExecutor(cores(), "look")
        self.writer = None if gallery is None else GalleryWriter(gallery, model)
        self._followers = ThreadPoolExecutor(1, "follow")
        self.is_draining = False

    @property
    def gallery(self) -> ServedGallery:
        """Problem where none is served."""
        if self._gallery is None:
            raise Problem(
                404, "features alone are served here; start distreid serve with a gallery"
            )
        return self._gallery

    @property
    def queue(self) -> FeatureQueue:
        """Problem where no checkpoint is served."""
        if self._queue is None:
            raise Problem(404, "no checkpoint is served; start distreid serve with --checkpoint")
        return self._queue

    @property
    def problem(self) -> str:
        """Why it is not ready; mostly empty."""
        if self.is_draining:
            return "it is being stopped"
        return self._gallery.problem if self._gallery else ""

    async def in_thread(self, does: Callable[[], Result]) -> Result:
        """Off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, does)

    def _searches(self, gallery: ServedGallery) -> SearchQueue[Wanted, Found]:
        return SearchQueue(functools.partial(search_together, gallery, self.meters))

    async def search(self, wanted: Wanted) -> Found:
        """Problem where no gallery is served."""
        _ = self.gallery
        assert self._search_queue
        return await self._search_queue.answer(wanted)

    async def features(self, images: Sequence[bytes]) -> NDArray[np.float32]:
        """(N, D); Problem where no checkpoint is served."""
        return await self.queue.features(images)

    def kept(self, image: bytes) -> bytes:
        """A PNG of what the network sees of an image, and nothing else that its file held;
        ImageError."""
        assert self.model
        stream = io.BytesIO()
        picture = Image.fromarray(self.model.preprocess.decode(image))
        picture.save(stream, "PNG", compress_level=4)
        return stream.getvalue()

    def count(self) -> None:
        """Has the meters tell of the newest generation."""
        if self._gallery:
            self.meters.generation.set(self._gallery.now.generation)
            self.meters.rows.set(len(self._gallery.now))

    async def run(self) -> None:
        """Computes, writes, and takes over new generations, until it is cancelled."""
        does = [self._follow()]
        if self._search_queue:
            does.append(self._search_queue.run())
        if self._queue:
            does.append(self._queue.run())
        if self.writer:
            does.append(self.writer.run())
        await asyncio.gather(*does)

    async def _follow(self) -> None:
        said, loop = "", asyncio.get_running_loop()
        while self._gallery:
            # In a thread of its own: an erasing that is under way waits for it.
            await loop.run_in_executor(self._followers, self._gallery.take_over)
            self.count()
            if self._gallery.problem != said and (said := self._gallery.problem):
                LOG.warning("the generation before is still served: %s", said)
            await asyncio.sleep(LOOK_S)


def service_of(request: Request) -> Service:
    """That which answers it."""
    service: Service = request.app.state.service
    return service
