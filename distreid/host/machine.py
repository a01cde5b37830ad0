"""What this process may use of its machine."""

from __future__ import annotations

import functools
import os
import platform
from pathlib import Path

VECTORS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile")


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


@functools.cache
def cpu_kind() -> str:
    """The CPU's name, with its instructions for vectors, as the kernel has them, or the
    architecture's: on another kind, the last bits of a float may differ."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.machine()
    said = {name.strip(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    if "model name" not in said:
        return platform.machine()
    has = [flag for flag in VECTORS if flag in said.get("flags", "").split()]
    return f"{said['model name']} ({', '.join(has)})" if has else said["model name"]
