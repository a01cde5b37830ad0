"""How much memory can be had, a refusal before work that needs more, and keeping what was had."""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path

from distreid.errors import UserError


def check_memory(what: str, need: int) -> None:
    """UserError if that many bytes cannot be had."""
    limit = available_memory()
    if need > limit:
        raise UserError(
            f"{what} needs about {need / 1e9:.1f} GB of memory, {limit / 1e9:.1f} GB can be had: "
            "free some, or leave rows out"
        )


def available_memory() -> int:
    """Bytes that may be used without swapping: what the machine has left, or the process's
    control group (version 2) where that is less: containers, SLURM. Linux."""
    fields = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    left = [1024 * int(field[1]) for field in fields if field[0] == "MemAvailable:"]
    group = Path("/proc/self/cgroup").read_text().splitlines()[-1].split(":", 2)[2]
    folder = Path("/sys/fs/cgroup" + group)
    while folder.is_relative_to("/sys/fs/cgroup"):
        try:
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            cached = int(stat["inactive_file"]) + int(stat["active_file"])  # given up on demand
            used = int((folder / "memory.current").read_text()) - cached
            left.append(int((folder / "memory.max").read_text()) - used)
        except (OSError, ValueError):  # none here, or the word max: no limit
            pass
        folder = folder.parent
    return max(0, min(left))


# glibc's numbers of what mallopt sets, of its malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_KEPT = 32 << 20  # bytes; glibc keeps no larger piece
KEPT = 256 << 20  # bytes, of each thread


def keep_freed_memory() -> None:
    """Has glibc keep what this process frees, for the next batch needs as much of it.

    Else every layer's result is given back to the kernel and taken anew, page by page: 28 % of a
    small network's time on a CPU. Other C libraries do as they like.
    """
    with contextlib.suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
        mallopt(M_TRIM_THRESHOLD, KEPT)
