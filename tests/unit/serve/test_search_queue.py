"""Searches that wait are searched together, and each request gets its own answer or error."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from small_runs import make_run

from distreid.cli import main
from distreid.errors import OptionError
from distreid.interface.opened_gallery import open_gallery
from distreid.serve.messages import Asked, Found
from distreid.serve.meters import Meters
from distreid.serve.problems import Problem
from distreid.serve.search_queue import AT_ONCE, SearchQueue
from distreid.serve.searching import Wanted, search_together
from distreid.serve.served_gallery import ServedGallery


def test_what_waits_is_searched_together_and_who_left_is_not() -> None:
    batches: list[list[int]] = []
    begun, may_end = threading.Event(), threading.Event()

    def search(asked: Sequence[int]) -> list[int | Exception]:
        batches.append([*asked])
        if len(batches) == 1:
            begun.set()
            assert may_end.wait(60)
        return [OptionError("a five") if each == 5 else 10 * each for each in asked]

    async def ask() -> None:
        queue = SearchQueue(search)
        running = asyncio.ensure_future(queue.run())
        first = asyncio.ensure_future(queue.answer(0))
        while not begun.is_set():
            await asyncio.sleep(0.001)
        others = [asyncio.ensure_future(queue.answer(i)) for i in range(1, AT_ONCE + 3)]
        await asyncio.sleep(0)
        others[1].cancel()
        may_end.set()
        assert await first == 0
        found = await asyncio.gather(*others, return_exceptions=True)
        assert isinstance(found[1], asyncio.CancelledError) and isinstance(found[4], OptionError)
        assert [found[i] for i in (0, 2, 3, 5, -1)] == [10, 30, 40, 60, 10 * (AT_ONCE + 2)]
        assert batches == [[0], [1, *range(3, AT_ONCE + 2)], [AT_ONCE + 2]]
        running.cancel()

    asyncio.run(ask())


def test_a_search_that_fails_is_told_to_all_that_share_it_and_the_next_goes_on() -> None:
    def search(asked: Sequence[int]) -> list[int | Exception]:
        if 1 in asked:
            raise OSError("the disk is gone")
        return [*asked]

    async def ask() -> None:
        queue = SearchQueue(search)
        running = asyncio.ensure_future(queue.run())
        with pytest.raises(OSError, match="the disk is gone"):
            await queue.answer(1)
        assert await queue.answer(2) == 2
        running.cancel()

    asyncio.run(ask())


def test_answers_together_are_those_that_each_has_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 1, 40, missing=[3])
    assert main(["gallery", "create", str(tmp_path / "g"), "--run", str(run)]) == 0
    gallery, meters = ServedGallery(tmp_path / "g"), Meters()
    with open_gallery(tmp_path / "g") as opened:
        some = opened.features([5, 7])
    wanted = [
        Wanted(asked=Asked(top=4), row=0),
        Wanted(asked=Asked(top=4), features=some),
        Wanted(asked=Asked(top=4), row=99),
        Wanted(asked=Asked(top=4), row=3),
        Wanted(asked=Asked(top=4), features=np.ones(3)),
        Wanted(asked=Asked(top=4), features=np.full(some.shape[1], np.nan)),
        Wanted(asked=Asked(top=2, persons=["1"]), row=0),
        Wanted(asked=Asked(top=4, fuse="mean"), features=some),
        Wanted(asked=Asked(top=4, fuse="max"), features=some),
        Wanted(asked=Asked(top=4), row=1),
    ]
    together = search_together(gallery, meters, wanted)
    # One search for all that ask for the same rows, one for the filter, one for each fusion.
    assert 'distreid_stage_seconds_count{stage="search"} 4.0' in meters.text().decode()
    for each, answer in zip(wanted, together, strict=True):
        (alone,) = search_together(gallery, meters, [each])
        if isinstance(answer, Exception):
            assert (type(alone), str(alone)) == (type(answer), str(answer))
        else:
            assert alone == answer
    kinds = [type(each) for each in together]
    assert kinds == [Found, Found, Problem, Problem, OptionError, OptionError, *[Found] * 4]
    by_row, by_two, last = together[0], together[1], together[-1]
    assert isinstance(by_row, Found) and by_row.hits and by_row.hits[0].row == 0
    assert isinstance(last, Found) and last.hits and last.hits[0].row == 1
    assert isinstance(by_two, Found) and by_two.answers and by_two.hits is None
    assert [answer.hits[0].row for answer in by_two.answers] == [5, 7]
    gallery.now.close()
