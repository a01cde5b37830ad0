import multiprocessing
import os
from collections.abc import Callable
from multiprocessing import active_children
from pathlib import Path

import pytest
from conftest import wait_until

from distreid.benchmark.load import own_seconds
from distreid.benchmark.turns import Side, in_turn


def test_the_order_turns_around_from_round_to_round() -> None:
    seen: list[str] = []

    def measure(name: str) -> Callable[[], float]:
        def once() -> float:
            seen.append(name)
            return float(len(seen))

        return once

    assert in_turn([measure("a"), measure("b")], 3) == [(1, 4, 5), (2, 3, 6)]
    assert seen == ["a", "b", "b", "a", "a", "b"]


def state(process: int) -> str:
    """By proc(5): T while it stands still."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


def count_up(path: Path) -> None:
    """For ever, a byte at a time."""
    while True:
        with path.open("ab") as file:
            file.write(b"x")


def counting(path: Path) -> Callable[[], Callable[[], int]]:
    """Work that is done when a process of its own, started at the first turn, has written more."""

    def start() -> Callable[[], int]:
        path.touch()
        context = multiprocessing.get_context("fork")
        process = context.Process(target=count_up, args=(path,), daemon=True)
        process.start()

        def work() -> int:
            before = path.stat().st_size
            wait_until(lambda: path.stat().st_size > before)
            return 1

        return work

    return start


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_each_sides_processes_stand_still_while_it_is_the_others_turn(tmp_path: Path) -> None:
    before = active_children()
    sides = [Side(counting(tmp_path / name), seconds=0.01) for name in "ab"]
    try:
        for _ in range(3):
            for side in sides:
                assert side.rate() > 0
                workers = [each for each in active_children() if each not in before]
                wait_until(lambda: all(state(each.pid or 0) == "T" for each in workers))  # noqa: B023
        assert len(workers) == 2
        for side in sides:
            side.release()
        wait_until(lambda: all(state(each.pid or 0) != "T" for each in workers))
    finally:
        for worker in active_children():
            if worker not in before:
                worker.kill()
                worker.join()


def test_the_time_of_our_own_threads_is_counted() -> None:
    before, cpu = own_seconds(), os.times()
    while os.times().user - cpu.user < 0.05:
        pass
    assert own_seconds() - before >= 0.04


def test_a_turn_does_not_count_what_was_computed_in_another() -> None:
    pieces = iter([10**18, 1] * 3)  # the first of each turn comes at once
    side = Side(lambda: lambda: next(pieces), seconds=0)
    assert all(side.rate() < 10**15 for _ in range(3))
    assert list(pieces) == []
