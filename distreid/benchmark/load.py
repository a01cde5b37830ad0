"""How much else a machine has to do, by its load average less what this process adds to it."""

from __future__ import annotations

import contextlib
import math
import os
import time
from dataclasses import dataclass
from multiprocessing import active_children
from pathlib import Path

from distreid.host.machine import cores

AVERAGED_S = 60  # the load average forgets so slowly


@dataclass(frozen=True, kw_only=True)
class Load:
    """Of a machine, while something was measured on it. In threads that run or want to."""

    cores: int
    before: float
    """The load average at the start."""
    after: float
    """The one at the end."""
    ours: float
    """How many of the threads were this process's and its children's, on average."""
    seconds: float
    """That it took."""

    @property
    def others(self) -> float:
        """What others did: the load at the start, or the one at the end less our share of it."""
        share = 1 - math.exp(-self.seconds / AVERAGED_S)
        return max(self.before, self.after - self.ours * share, 0.0)

    @property
    def busy(self) -> bool:
        """Whether others alone could have kept every core at work."""
        return self.others > self.cores

    def warning(self) -> str:
        """One line if the figures are worth little, else empty."""
        if not self.busy:
            return ""
        return (
            f"the machine was busy with other work (a load of {self.others:.1f} without ours, on "
            f"{self.cores} cores): these figures are worth little"
        )


class LoadMeter:
    """Begins when it is made."""

    def __init__(self) -> None:
        self._before = os.getloadavg()[0]
        self._own, self._started = own_seconds(), time.monotonic()

    def read(self) -> Load:
        """Since then."""
        seconds = time.monotonic() - self._started
        return Load(
            cores=cores(),
            before=self._before,
            after=os.getloadavg()[0],
            ours=max(0.0, own_seconds() - self._own) / max(seconds, 1e-9),
            seconds=seconds,
        )


def own_seconds() -> float:
    """For which the threads of this process and of its children have run or wanted to; of those
    that have ended, and where the kernel does not tell, for which they have run."""
    taken = os.times()
    total = taken.children_user + taken.children_system
    if not Path("/proc/self/schedstat").exists():
        return total + taken.user + taken.system
    processes = [os.getpid(), *(child.pid for child in active_children())]
    return total + sum(
        _scheduled(thread)
        for process in processes
        for thread in Path(f"/proc/{process}/task").glob("*")
    )


def _scheduled(thread: Path) -> float:
    """Seconds on a core, and waiting for one."""
    with contextlib.suppress(OSError):  # it has just ended
        running, waiting, *_ = (thread / "schedstat").read_text().split()
        return (int(running) + int(waiting)) / 1e9
    return 0.0
