"""How a process of ours ends."""

from __future__ import annotations

import atexit
import gc


def end_without_collecting() -> None:
    """Has Python look for no cycles of garbage as the process ends, of which torch, once imported,
    has a million objects to look through: it takes a fifth of a short command's time. What must be
    closed is closed before."""
    atexit.register(gc.freeze)
