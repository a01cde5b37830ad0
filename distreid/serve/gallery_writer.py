"""The one writer of the served gallery: images of many requests become one generation together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias, TypeVar

from distreid.inference.engines import ENGINES, TORCH
from distreid.interface.loaded_model import Model
from distreid.job.provenance import library_versions
from distreid.search.changes import Manner
from distreid.search.sent_images import AddedImages, SentImages, add_images
from distreid.serve.limits import ANSWER_S, MAX_GROUP_IMAGES
from distreid.serve.problems import LOG
from distreid.serve.served_gallery import ServedGallery
from distreid.store.identity import FILLED, PASSES
from distreid.store.identity import how_computed as of_identity
from distreid.store.root_file import FORMAT

Result = TypeVar("Result")
Waiting: TypeAlias = "tuple[SentImages, asyncio.Future[AddedImages]]"


class GalleryWriter:
    """Within one event loop; `run` writes images until it is cancelled."""

    def __init__(self, gallery: ServedGallery, model: Model | None) -> None:
        self._gallery = gallery
        self._how_computed = {} if model is None else how_computed(model)
        self._thread = ThreadPoolExecutor(1, "write")
        self._waiting: deque[Waiting] = deque()
        self._there = asyncio.Event()
        self.manner = Manner(say=LOG.info, timeout_s=ANSWER_S / 2)

    async def change(self, does: Callable[[], Result]) -> Result:
        """Changes the gallery in the writer's thread; what was begun is finished, though nobody
        waits for it any more. The answer comes when the service's own gallery has it."""

        def changed() -> Result:
            done = does()
            self._gallery.take_over()
            return done

        return await asyncio.get_running_loop().run_in_executor(self._thread, changed)

    async def add(self, images: SentImages) -> AddedImages:
        """What it added, or had added before by the same key; durable. OptionError for a key that
        belongs to other images."""
        answer: asyncio.Future[AddedImages] = asyncio.get_running_loop().create_future()
        self._waiting.append((images, answer))
        self._there.set()
        return await answer

    async def run(self) -> None:
        """Writes what waits; what comes meanwhile is the next group."""
        while True:
            await self._there.wait()
            group: list[Waiting] = []
            count = 0
            while self._waiting and count < MAX_GROUP_IMAGES:
                if not self._waiting[0][1].done():
                    group.append(self._waiting[0])
                    count += len(group[-1][0].images)
                self._waiting.popleft()
            if not self._waiting:
                self._there.clear()
            if group:
                await self._write(group)

    async def _write(self, group: list[Waiting]) -> None:
        asked = [images for images, _ in group]
        try:
            done = await self.change(
                lambda: add_images(self._gallery.folder, asked, self._how_computed, self.manner)
            )
        except Exception as error:
            done_or_not: list[AddedImages | Exception] = [error] * len(group)
        else:
            done_or_not = [*done]
        for (_, answer), said in zip(group, done_or_not, strict=True):
            if answer.done():
                continue
            if isinstance(said, Exception):
                answer.set_exception(said)
            else:
                answer.set_result(said)


def how_computed(model: Model) -> dict[str, Any]:
    """That part of the identity of features that a model computes here, as a job says it."""
    own = {} if model.engine == TORCH else {model.engine: ENGINES[model.engine].version()}
    return of_identity(model.identity) | {
        PASSES: FILLED,
        "versions": library_versions() | {"store": FORMAT} | own,
    }
