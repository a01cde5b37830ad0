"""When Python looks for cycles of garbage among its objects, of which torch alone has a million."""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


def end_without_collecting() -> None:
    """As the process ends Python looks for none: it would take a fifth of a short command's time.
    What must be closed is closed before."""
    atexit.register(gc.freeze)


@contextmanager
def imports_not_collected() -> Iterator[None]:
    """While modules are imported Python looks for none, and later not among what they made: a tenth
    of the time of importing torch."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
