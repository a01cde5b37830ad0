"""Searches of many requests to answers: those that come while others are searched are searched
together.

One reading of the gallery's codes serves them all. Whoever has just had an answer may ask again:
where several were searched together, as many are waited for, `GATHER_S` at most. An answer is the
same, whatever is searched beside it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeAlias, TypeVar

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")

GATHER_S, LOOK_S = 0.01, 0.001
AT_ONCE = 64  # requests; with more, the first waits for the last without any gain


class SearchQueue(Generic[Asked, Answer]):
    """Of one gallery, within one event loop; `run` searches until it is cancelled."""

    def __init__(self, search: Callable[[Sequence[Asked]], Sequence[Answer | Exception]]) -> None:
        """`search` gives each its answer, or why there is none; it uses all cores, so one is under
        way at a time."""
        self._search = search
        self._searcher = ThreadPoolExecutor(1, "search")
        self._waiting: deque[_Waiting[Asked, Answer]] = deque()
        self._there = asyncio.Event()
        self._last = 1
        """How many were searched together."""

    async def answer(self, asked: Asked) -> Answer:
        """Raises what `search` says of it. If it is cancelled before it is begun, it is not
        searched."""
        found: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, found))
        self._there.set()
        return await found

    async def run(self) -> None:
        """Searches what waits."""
        while True:
            await self._there.wait()
            await self._gather()
            taken: list[_Waiting[Asked, Answer]] = []
            while self._waiting and len(taken) < AT_ONCE:
                asked, found = self._waiting.popleft()
                if not found.done():  # nobody waits for one that is cancelled
                    taken.append((asked, found))
            if not self._waiting:
                self._there.clear()
            if taken:
                self._last = len(taken)
                await self._answer(taken)

    async def _gather(self) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + GATHER_S
        while 0 < len(self._waiting) < self._last and loop.time() < until:
            await asyncio.sleep(LOOK_S)

    async def _answer(self, taken: Sequence[_Waiting[Asked, Answer]]) -> None:
        loop = asyncio.get_running_loop()
        answers: Sequence[Answer | Exception]
        try:
            answers = await loop.run_in_executor(
                self._searcher, self._search, [asked for asked, _ in taken]
            )
        except Exception as error:
            answers = [error] * len(taken)
        for (_, found), answer in zip(taken, answers, strict=True):
            if found.done():
                continue
            if isinstance(answer, Exception):
                found.set_exception(answer)
            else:
                found.set_result(answer)


_Waiting: TypeAlias = "tuple[Asked, asyncio.Future[Answer]]"
