"""Where the time of a process goes, phase by phase."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from distreid.host.progress import duration

SHOWN_S = 0.05  # a shorter phase is not worth a word


class Phases:
    """Seconds of each phase, in the order in which they began. A phase within another is not in
    the outer one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inner: list[float] = []

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Adds the time of the context to a phase."""
        self.seconds.setdefault(name, 0.0)
        self._inner.append(0.0)
        began = time.monotonic()
        try:
            yield
        finally:
            took = time.monotonic() - began
            self.seconds[name] += took - self._inner.pop()
            if self._inner:
                self._inner[-1] += took

    def describe(self) -> str:
        """`start 3.1 s, listing 0.2 s, extracting 42 s; 45 s in all`."""
        shown = [
            f"{name} {duration(took)}" for name, took in self.seconds.items() if took >= SHOWN_S
        ]
        return f"{', '.join(shown)}; {duration(sum(self.seconds.values()))} in all"


def seconds_since_start() -> float:
    """How long ago this process was started, by proc(5), to a hundredth of a second."""
    # The name, in parentheses, may hold anything.
    fields = Path("/proc/self/stat").read_text(errors="replace").rpartition(")")[2].split()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
