"""Images of many requests are computed together; too many are refused; who leaves costs nothing."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from distreid.errors import CheckpointError, ImageError
from distreid.host.machine import cores
from distreid.serve import feature_queue
from distreid.serve.feature_queue import FeatureQueue
from distreid.serve.meters import Meters
from distreid.serve.problems import Busy


class Doubles:
    """An image is a number in one byte, and its feature twice that; 0 has none."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def pixels(self, image: bytes) -> torch.Tensor:
        if len(image) != 1:
            raise ImageError("no image")
        return torch.full((3, 1, 1), image[0], dtype=torch.uint8)

    def features_of_pixels(
        self, pixels: torch.Tensor
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        values = pixels[:, 0, 0, 0].numpy()
        self.batches.append(values.tolist())
        return 2 * values[:, None].astype(np.float32), values > 0


class Waits(Doubles):
    """One of the batches, counted from 1, ends when it is told."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number, self.goes_on = number, threading.Event()

    def features_of_pixels(
        self, pixels: torch.Tensor
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        found = super().features_of_pixels(pixels)
        if len(self.batches) == self.number:
            assert self.goes_on.wait(60)
        return found


@contextlib.asynccontextmanager
async def running(queue: FeatureQueue) -> AsyncIterator[None]:
    task = asyncio.ensure_future(queue.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def images(*values: int) -> list[bytes]:
    return [bytes([value]) for value in values]


def test_each_request_gets_its_own_features_in_order() -> None:
    async def ask() -> None:
        model = Doubles()
        queue = FeatureQueue(model, Meters())
        asking = [queue.features(images(i, i + 100)) for i in range(1, 9)]
        # Nothing is computed before `run`, which then takes what waits together.
        tasks = [asyncio.ensure_future(each) for each in asking]
        while queue._images_waiting() < 16:
            await asyncio.sleep(0)
        async with running(queue):
            found = await asyncio.gather(*tasks)
        assert [each.ravel().tolist() for each in found] == [
            [2 * i, 2 * (i + 100)] for i in range(1, 9)
        ]
        assert sum(map(len, model.batches)) == 16 and len(model.batches[0]) >= 8

    asyncio.run(ask())


def test_the_next_batch_is_computed_beside_one_that_is_under_way() -> None:
    async def ask() -> None:
        model = Waits(1)
        queue = FeatureQueue(model, Meters())
        async with running(queue):
            first = asyncio.ensure_future(queue.features(images(1)))
            while not model.batches:
                await asyncio.sleep(0.001)
            assert (await asyncio.wait_for(queue.features(images(2)), 60)).tolist() == [[4]]
            model.goes_on.set()
            assert (await first).tolist() == [[2]]

    asyncio.run(ask())


def test_while_a_batch_is_computed_the_next_one_waits_until_its_pass_is_full(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However long they take to come: `FILL_SHARE` is made so large that its time cannot end."""
    monkeypatch.setattr(feature_queue, "FILL_SHARE", 1e9)

    async def ask() -> None:
        model = Waits(2)
        queue = FeatureQueue(model, Meters())
        async with running(queue):
            assert (await queue.features(images(1))).tolist() == [[2]]
            second = asyncio.ensure_future(queue.features(images(2)))
            while len(model.batches) < 2:
                await asyncio.sleep(0.001)
            one_by_one = []
            for value in range(3, 11):
                one_by_one.append(asyncio.ensure_future(queue.features(images(value))))
                await asyncio.sleep(0.02)
            assert len(await asyncio.wait_for(asyncio.gather(*one_by_one), 60)) == 8
            model.goes_on.set()
            assert (await second).tolist() == [[4]]
        assert [sorted(batch) for batch in model.batches] == [[1], [2], [*range(3, 11)]]

    asyncio.run(ask())


def test_a_batch_that_cannot_be_put_together_fails_its_requests_and_the_next_goes_on() -> None:
    async def ask() -> None:
        queue = FeatureQueue(Doubles(), Meters())
        two_sizes = [torch.ones(1, 3, side, 1, dtype=torch.uint8) for side in (1, 2)]
        asked = [asyncio.ensure_future(queue.features_of_pixels(each)) for each in two_sizes]
        while queue._images_waiting() < 2:
            await asyncio.sleep(0)
        async with running(queue):
            answers = asyncio.gather(*asked, return_exceptions=True)
            found = await asyncio.wait_for(answers, 60)
            assert [type(each) for each in found] == [RuntimeError, RuntimeError]
            assert (await queue.features(images(3))).tolist() == [[6]]

    asyncio.run(ask())


def test_a_bad_image_fails_its_own_request_alone() -> None:
    async def ask() -> None:
        queue = FeatureQueue(Doubles(), Meters())
        async with running(queue):
            good, none, bad = await asyncio.gather(
                queue.features(images(1)),
                queue.features(images(2, 0)),
                queue.features([*images(3), b"??"]),
                return_exceptions=True,
            )
        assert isinstance(good, np.ndarray) and good.tolist() == [[2.0]]
        assert isinstance(none, CheckpointError)
        assert isinstance(bad, ImageError) and str(bad) == "image 1 (from 0): no image"

    asyncio.run(ask())


def test_more_than_it_holds_is_refused_at_once_and_who_leaves_is_not_computed() -> None:
    async def ask() -> None:
        model, meters = Doubles(), Meters()
        queue = FeatureQueue(model, meters, most=3)
        leaving = asyncio.ensure_future(queue.features(images(1, 2)))
        while len(queue._waiting) < 2:
            await asyncio.sleep(0)
        assert b"distreid_waiting_images 2.0" in meters.text()
        with pytest.raises(Busy, match="2 images are waiting, and 3 are the most; try again"):
            await queue.features(images(3, 4))
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        async with running(queue):
            assert (await queue.features(images(5, 6, 7))).tolist() == [[10.0], [12.0], [14.0]]
        # In the order in which they were decoded.
        assert sorted(each for batch in model.batches for each in batch) == [5, 6, 7]
        assert b"distreid_waiting_images 0.0" in meters.text()

    asyncio.run(ask())


def test_who_leaves_frees_the_decoders_and_counts_until_they_are_done() -> None:
    class Slow(Doubles):
        """Whose decoding of each image ends when it is told."""

        def __init__(self) -> None:
            super().__init__()
            self.begun: list[int] = []
            self.goes_on = threading.Event()

        def pixels(self, image: bytes) -> torch.Tensor:
            self.begun.append(image[0])
            assert self.goes_on.wait(60)
            return super().pixels(image)

    async def ask() -> None:
        model, meters = Slow(), Meters()
        queue = FeatureQueue(model, meters, most=8 * cores())
        threads = cores()
        leaving = asyncio.ensure_future(queue.features(images(*range(1, 8 * threads + 1))))
        while len(model.begun) < threads:
            await asyncio.sleep(0.001)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        assert f"distreid_waiting_images {8.0 * threads}".encode() in meters.text()
        with pytest.raises(Busy, match=f"{8 * threads} images are waiting"):
            await queue.features(images(1))
        model.goes_on.set()
        while queue._held:
            await asyncio.sleep(0.001)
        assert b"distreid_waiting_images 0.0" in meters.text()
        assert len(model.begun) == threads, "one image in each thread"
        async with running(queue):
            assert (await queue.features(images(5))).tolist() == [[10.0]]

    asyncio.run(ask())
