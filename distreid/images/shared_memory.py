"""Shared memory that images travel in from a decoding process to its rank, used again and again.

New memory for every batch would take a third of an image's time: the kernel clears each page, and
both processes have to map it. Here a worker writes into one of its own slots that is free, and the
rank reads there. A slot is free again when the last tensor over it is gone, so that nothing is
ever written over what is still read, however long somebody keeps it; where none is free, the
images travel through a pipe. Not as torch sends tensors: where /dev/shm is full, as in containers
that have little, its worker says so and the rank waits for ever.
"""

from __future__ import annotations

import itertools
import math
import mmap
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import get_worker_info

SLOTS = 4  # of each worker: a DataLoader asks for two batches ahead, and the loop holds two

_of_this_process: weakref.WeakValueDictionary[int, Slots] = weakref.WeakValueDictionary()
_numbers = itertools.count()


class Slots:
    """Made before the workers are forked, who inherit the memory. For one iteration: two workers
    of the same number would take the same slots."""

    def __init__(self, workers: int, batch_size: int, height: int, width: int) -> None:
        shape = (workers * SLOTS, batch_size * height * width * 3)
        # Not in /dev/shm; it takes room when it is first written.
        self.bytes_PN: NDArray[np.uint8] = np.frombuffer(
            mmap.mmap(-1, math.prod(shape)), np.uint8
        ).reshape(shape)
        self.taken_P = np.frombuffer(mmap.mmap(-1, len(self.bytes_PN)), np.uint8)
        self.number = next(_numbers)
        _of_this_process[self.number] = self

    def send(self, images_BCHW: Tensor) -> Tensor:
        """In a worker: what to send instead of the images, which arrives as the same ones."""
        worker = get_worker_info()
        assert worker, "only a worker has slots"
        mine = slice(worker.id * SLOTS, (worker.id + 1) * SLOTS)
        free = np.flatnonzero(self.taken_P[mine] == 0)
        if not len(free) or images_BCHW.nbytes > self.bytes_PN.shape[1]:
            return by_pipe(images_BCHW)
        place = mine.start + int(free[0])
        self.taken_P[place] = True
        images_BHWC = images_BCHW.movedim(1, -1)
        shape = tuple(images_BHWC.shape)
        self._images(place, shape)[:] = images_BHWC
        return cast(Tensor, _Sent(_received, (self.number, place, shape)))

    def _images(self, place: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        return self.bytes_PN[place, : math.prod(shape)].reshape(shape)

    def receive(self, place: int, shape: tuple[int, ...]) -> Tensor:
        """In the rank: images of this shape (B, h, w, 3) as (B, 3, h, w), whose last tensor frees
        the slot."""
        images_BHWC = self._images(place, shape)
        # A tensor's memory holds this very array, and every view of the tensor holds the memory.
        weakref.finalize(images_BHWC, self._free, place).atexit = False
        return _tensor(images_BHWC)

    def _free(self, place: int) -> None:
        self.taken_P[place] = False


def by_pipe(images_BCHW: Tensor) -> Tensor:
    """In a worker: what to send instead of the images, for which there is no slot."""
    return cast(Tensor, _Sent(_tensor, (images_BCHW.movedim(1, -1).numpy(),)))


@dataclass(frozen=True)
class _Sent:
    """Stands for a tensor on its way between processes."""

    arrive: Callable[..., Tensor]
    what: tuple[Any, ...]

    def __reduce__(self) -> tuple[Callable[..., Tensor], tuple[Any, ...]]:
        """Unpickled it is the tensor."""
        return self.arrive, self.what


def _received(slots: int, place: int, shape: tuple[int, ...]) -> Tensor:
    return _of_this_process[slots].receive(place, shape)


def _tensor(images_BHWC: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(images_BHWC).movedim(-1, 1)
