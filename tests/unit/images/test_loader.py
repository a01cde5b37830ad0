"""Batches arrive as they were decoded, in memory that is used again but never too early."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import LIMIT_S, REPOSITORY, wait_until
from torch import Tensor

from distreid.data.source import open_data
from distreid.images.device_resize import originals_or_resized, resize_batch
from distreid.images.loader import Batch, BatchLoader, ImageRows, open_loader
from distreid.images.preprocess import Preprocess
from distreid.images.sampler import ShardSampler
from distreid.images.shared_memory import SLOTS
from distreid.store.plan import Shard

ROWS = 60
BATCH = 4
SMALL = Preprocess(height=32, width=16)


def loader(workers: int, batch_size: int = BATCH, preprocess: Preprocess = SMALL) -> BatchLoader:
    shard = Shard(index=0, start=0, stop=ROWS)
    return open_loader(
        open_data("sample"),
        preprocess,
        ShardSampler([shard], rank=0, world_size=1),
        batch_size=batch_size,
        num_workers=workers,
        pin_memory=False,
    )


@pytest.fixture(scope="module")
def expected() -> Tensor:
    return ImageRows(open_data("sample"), SMALL)[range(ROWS)].images_BCHW


def assert_the_same(batches: Iterator[Batch] | list[Batch], expected: Tensor) -> None:
    seen = 0
    for batch in batches:
        assert batch.rows.start == seen
        assert torch.equal(batch.images_BCHW, expected[seen : batch.rows.stop])
        assert batch.images_BCHW.is_contiguous(memory_format=torch.channels_last)
        in_dev_shm = batch.images_BCHW.is_shared()  # type: ignore[no-untyped-call]
        assert not in_dev_shm, "it may be full"
        seen = batch.rows.stop
    assert seen == ROWS


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("batch_size", [1, 7, ROWS, 10**18])
def test_any_workers_give_the_images_of_one_process(
    workers: int, batch_size: int, expected: Tensor
) -> None:
    assert_the_same(iter(loader(workers, batch_size)), expected)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(("size", "as_they_are"), [((256, 128), True), ((64, 32), False)])
def test_small_originals_travel_as_they_are_and_are_resized_to_the_same_pixels(
    workers: int, size: tuple[int, int], as_they_are: bool
) -> None:
    preprocess = Preprocess(height=size[0], width=size[1])
    rows = ImageRows(open_data("sample"), preprocess)[range(ROWS)].images_BCHW
    batches = open_loader(
        open_data("sample"),
        preprocess,
        ShardSampler([Shard(index=0, start=0, stop=ROWS)], rank=0, world_size=1),
        batch_size=BATCH,
        num_workers=workers,
        pin_memory=False,
        originals=True,
    )
    for batch in batches:
        images = batch.images_BCHW
        assert (batch.sizes is not None) == as_they_are
        if batch.sizes is not None:
            assert images.shape == (len(batch.rows), 3, 128, 64)
            images = resize_batch(images, batch.sizes, *size, preprocess.interpolation)
        assert torch.equal(images, rows[batch.rows.start : batch.rows.stop])


def test_a_large_image_among_originals_has_them_all_resized() -> None:
    images = [np.full((20, 10, 3), 7, np.uint8), np.full((9, 300, 3), 9, np.uint8)]
    batch, sizes = originals_or_resized(images, SMALL)
    assert (batch.shape, sizes) == ((2, 3, 32, 16), None)
    assert torch.equal(batch, SMALL.resize(images))
    batch, sizes = originals_or_resized(images[:1] * 2, SMALL)
    assert (batch.shape, sizes) == ((2, 3, 20, 10), ((20, 10), (20, 10)))


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_that_are_kept_are_never_written_over(workers: int, expected: Tensor) -> None:
    assert_the_same(list(loader(workers)), expected)


def test_a_view_keeps_its_memory_when_the_batch_is_gone(expected: Tensor) -> None:
    firsts = []
    for batch in loader(1):
        firsts.append(torch.split(batch.images_BCHW, 1)[0])
        del batch
    for place, first in enumerate(firsts):
        assert torch.equal(first, expected[BATCH * place : BATCH * place + 1])


def test_memory_is_used_again() -> None:
    batches, places = loader(1), set()
    for batch in batches:
        places.add(batch.images_BCHW.data_ptr())
        del batch
    assert isinstance(batches.collate_fn, functools.partial)
    (send,) = batches.collate_fn.args
    slots = send.__self__
    assert places <= {slots.bytes_PN[place].ctypes.data for place in range(SLOTS)}
    assert not slots.taken_P.any()


def test_a_machine_that_has_no_room_for_slots_does_without(
    expected: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("Cannot allocate memory")

    monkeypatch.setattr("distreid.images.shared_memory.mmap.mmap", refuse)
    assert_the_same(iter(loader(1)), expected)


def test_two_iterations_at_once_do_not_mix(expected: Tensor) -> None:
    both = loader(2)
    for one, other in zip(both, both, strict=True):
        part = expected[one.rows.start : one.rows.stop]
        assert torch.equal(one.images_BCHW, part)
        assert torch.equal(other.images_BCHW, part)


def with_tests() -> dict[str, str]:
    """An environment in which this file and its conftest can be imported."""
    here = Path(__file__).parent
    return os.environ | {"PYTHONPATH": f"{here}:{REPOSITORY / 'tests'}"}


def test_workers_that_are_not_forked_do_without() -> None:
    program = (
        "import multiprocessing; multiprocessing.set_start_method('spawn')\n"
        "import test_loader as t\n"
        "if __name__ == '__main__':\n"
        "    t.assert_the_same(list(t.loader(1)), t.ImageRows(t.open_data('sample'), t.SMALL)"
        "[range(t.ROWS)].images_BCHW)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env=with_tests())


def test_a_worker_ends_when_its_rank_is_killed_while_it_hands_over_a_batch() -> None:
    program = (
        "import time, test_loader as t\n"
        "batches = iter(t.loader(1, preprocess=t.Preprocess()))\n"
        "kept = [next(batches) for _ in range(t.SLOTS)]  # further ones go through the pipe\n"
        "print(batches._workers[0].pid, flush=True)\n"
        "time.sleep(10_000)"
    )
    command = [sys.executable, "-c", program]
    rank = subprocess.Popen(command, env=with_tests(), stdout=subprocess.PIPE, text=True)
    assert rank.stdout
    worker = Path(f"/proc/{int(rank.stdout.readline())}/task")
    wait_until(lambda: any("pipe_write" in (t / "wchan").read_text() for t in worker.iterdir()))
    rank.kill()
    rank.communicate(timeout=LIMIT_S)  # once nobody has its output open any more
