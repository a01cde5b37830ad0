"""Two ways to do the same work, measured in turn: what one does while it is the other's turn would
spoil both figures."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing import active_children


class Side:
    """Work that can be measured again and again, whose own processes stand still in between, as if
    the time had been cut out: a loader would fill its queue, and find it full at its next turn."""

    def __init__(self, start: Callable[[], Callable[[], int]], seconds: float) -> None:
        """`start`, called in the first turn, gives the work, which gives how many it did; each turn
        lasts so long, and at least one piece of work."""
        self._start, self.seconds = start, seconds
        self._work: Callable[[], int] | None = None
        self._processes: set[int | None] = set()

    def rate(self) -> float:
        """How many a second in one turn. A piece of work before warms up, and ends what was begun
        in the last turn, and what the other side has begun in its own."""
        others = {child.pid for child in active_children()} - self._processes
        self._signal(signal.SIGCONT)
        try:
            if self._work is None:
                self._work = self._start()
            self._work()
            done, started = 0, time.perf_counter()
            while not done or time.perf_counter() - started < self.seconds:
                done += self._work()
            return done / (time.perf_counter() - started)
        finally:
            self._processes = {child.pid for child in active_children()} - others
            self._signal(signal.SIGSTOP)

    def release(self) -> None:
        """Lets its processes go on, so that they can end."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        for process in filter(None, self._processes):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)


def in_turn(measures: Sequence[Callable[[], float]], rounds: int) -> list[tuple[float, ...]]:
    """What each gave in every round. The order turns around from one round to the next, so that a
    machine that grows slower favours nobody."""
    found: list[list[float]] = [[] for _ in measures]
    for number in range(rounds):
        order = range(len(measures))
        for place in reversed(order) if number % 2 else order:
            found[place].append(measures[place]())
    return [tuple(each) for each in found]
