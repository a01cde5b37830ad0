"""A signal that asks the job to end, wherever it comes."""

import contextlib
import signal
import threading

import pytest

from distreid.errors import Stopped
from distreid.host.signals import STOPPING_SIGNALS, signals_stop, signals_wait


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
@pytest.mark.parametrize(("continues", "said"), [(True, "again to continue$"), (False, "again$")])
def test_each_signal_stops_and_what_was_done_with_it_before_is_done_again(
    number: signal.Signals, continues: bool, said: str
) -> None:
    before = [signal.getsignal(each) for each in STOPPING_SIGNALS]
    with (
        pytest.raises(Stopped, match=f"^stopped by {number.name}; .*{said}"),
        signals_stop(continues=continues),
    ):
        signal.raise_signal(number)
    assert [signal.getsignal(each) for each in STOPPING_SIGNALS] == before


def lose_a_signal() -> None:
    """As in a destructor."""
    with contextlib.suppress(Stopped):
        signal.raise_signal(signal.SIGTERM)


def test_a_signal_that_was_lost_on_its_way_is_raised_again() -> None:
    def go_on() -> None:
        with signals_stop() as check:
            check()
            lose_a_signal()
            check()
            raise AssertionError("it goes on")

    with pytest.raises(Stopped):
        go_on()


@pytest.mark.parametrize(("lost", "raised"), [(True, Stopped), (False, RuntimeError)])
def test_what_a_worker_says_that_got_the_signal_too_is_no_error(
    lost: bool, raised: type[BaseException]
) -> None:
    def fail() -> None:
        with signals_stop():
            if lost:
                lose_a_signal()
            raise RuntimeError("a worker has ended")

    with pytest.raises(raised):
        fail()


def test_a_signal_waits_for_whoever_can_stop() -> None:
    done: list[str] = []

    def load_torch_and_work() -> None:
        with signals_wait():
            signal.raise_signal(signal.SIGUSR2)
            done.append("torch")
            with signals_stop():
                done.append("work")

    with pytest.raises(Stopped):
        load_torch_and_work()
    assert done == ["torch"]
    assert signal.SIGUSR2 not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_in_another_thread_nothing_is_changed() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[object] = []

    def look() -> None:
        with signals_stop() as check:
            seen.append(signal.getsignal(signal.SIGINT))
            check()

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [before]
