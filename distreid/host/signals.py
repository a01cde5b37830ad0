"""Signals that ask the job to end: within a context they raise Stopped, or wait."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from distreid.errors import Stopped

# torchrun and SLURM end a job by SIGTERM, a person by SIGINT, submitit announces by SIGUSR2.
STOPPING_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


@contextlib.contextmanager
def signals_wait() -> Iterator[None]:
    """Within it, a signal to end waits until `signals_stop`: an exception in the midst of the
    import of torch would abort the process."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def signals_stop(*, continues: bool = True) -> Iterator[Callable[[], None]]:
    """Within it, a signal to end raises Stopped, so that what is open is closed; it says whether
    the same command `continues` what was begun.

    Gives a function that raises it again, if a signal came where exceptions are lost: in a
    destructor, or in a callback of the fork of a worker. In another thread than the main one,
    which alone gets signals, it changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)
        # What was half-made when the signal came complains when it is thrown away.
        sys.unraisablehook = lambda unraisable: None
        raise Stopped(number, continues=continues)

    def check() -> None:
        if received:
            raise Stopped(received[0], continues=continues)

    before = {number: signal.signal(number, stop) for number in STOPPING_SIGNALS}
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING_SIGNALS)
        yield check
    except Exception:
        check()  # what a worker process says that got the signal too
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
