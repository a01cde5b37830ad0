"""Work of a search on all the cores that this process may use."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
Cut = tuple[int, int]
"""From the first to before the last."""


def threads() -> int:
    """How many run at once."""
    return len(os.sched_getaffinity(0))


def cuts(count: int, unit: int = 1, most: int | None = None) -> list[Cut]:
    """A range of so many things for each thread, of whole units; `most` ranges at most."""
    units = -(-count // unit)
    into = min(most or threads(), units)
    edges = [units * number // into * unit for number in range(into)] + [count]
    return list(itertools.pairwise(edges))


def for_each(work: Callable[[T], None], tasks: Iterable[T]) -> None:
    """Every task, several at a time; raises what the first that fails raised."""
    tasks = list(tasks)
    if len(tasks) < 2:
        for task in tasks:
            work(task)
        return
    for _ in _pool(os.getpid()).map(work, tasks):
        pass


@functools.cache
def _pool(process: int) -> ThreadPoolExecutor:
    """Of this process; a fork has no threads of its parent's."""
    return ThreadPoolExecutor(threads(), initializer=torch.set_num_threads, initargs=(1,))
