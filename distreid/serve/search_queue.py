"""Searches of many requests to answers: those that come while others are searched are searched
together.

One reading of the gallery's codes serves them all. An answer is the same, whatever is searched
beside it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeAlias, TypeVar

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")

AT_ONCE = 64  # requests; with more, the first waits for the last without any gain


class SearchQueue(Generic[Asked, Answer]):
    """Of one gallery, within one event loop; `run` searches until it is cancelled."""

    def __init__(
        self, search: Callable[[Sequence[Asked]], Sequence[Answer | Exception]], threads: int
    ) -> None:
        """`search` gives each its answer, or why there is none; so many are under way at once."""
        self._search, self._threads = search, threads
        self._searchers = ThreadPoolExecutor(threads, "search")
        self._waiting: deque[_Waiting[Asked, Answer]] = deque()
        self._there = asyncio.Event()

    async def answer(self, asked: Asked) -> Answer:
        """Raises what `search` says of it. If it is cancelled before it is begun, it is not
        searched."""
        found: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, found))
        self._there.set()
        return await found

    async def run(self) -> None:
        """Searches what waits."""
        await asyncio.gather(*(self._run() for _ in range(self._threads)))

    async def _run(self) -> None:
        while True:
            await self._there.wait()
            taken: list[_Waiting[Asked, Answer]] = []
            while self._waiting and len(taken) < AT_ONCE:
                asked, found = self._waiting.popleft()
                if not found.done():  # nobody waits for one that is cancelled
                    taken.append((asked, found))
            if not self._waiting:
                self._there.clear()
            if taken:
                await self._answer(taken)

    async def _answer(self, taken: Sequence[_Waiting[Asked, Answer]]) -> None:
        loop = asyncio.get_running_loop()
        answers: Sequence[Answer | Exception]
        try:
            answers = await loop.run_in_executor(
                self._searchers, self._search, [asked for asked, _ in taken]
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
