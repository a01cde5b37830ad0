"""Progress of the whole job on stderr: a bar, or plain lines where stderr is no terminal."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

BAR_REFRESH_S = 0.5
LINE_INTERVAL_S = 5.0


class ProgressReport:
    """While the context lasts, shows how many are done, the rate, and the time left.

    `count` is asked from a thread of its own, also while the main thread waits for others.
    """

    def __init__(
        self,
        console: Console,
        total: int,
        count: Callable[[], int],
        unit: str = "images",
        title: str = "",
    ) -> None:
        self.console = console
        self.total = total
        self.count = count
        self.unit = unit
        self.title = title
        self.started = time.monotonic()
        self.at_start = count()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> ProgressReport:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def describe(self, done: int) -> str:
        """`rate images/s, time left`; the rate counts what this run has done."""
        elapsed = time.monotonic() - self.started
        fresh = done - self.at_start
        if fresh <= 0 or elapsed <= 0:
            return "starting"
        rate = fresh / elapsed
        return f"{rate:,.0f} {self.unit}/s, {duration((self.total - done) / rate)} left"

    def _run(self) -> None:
        if self.console.is_terminal:
            self._draw_bar()
        else:
            self._print_lines()

    def _draw_bar(self) -> None:
        columns: list[ProgressColumn] = [
            *([TextColumn(self.title)] if self.title else []),
            BarColumn(),
            TextColumn("{task.completed:,.0f} of {task.total:,.0f} " + self.unit),
            _Rate(self),
        ]
        with Progress(*columns, console=self.console, auto_refresh=False) as bar:
            task = bar.add_task("", total=self.total, completed=self.at_start)
            while not self._stop.wait(BAR_REFRESH_S):
                bar.update(task, completed=self.count(), refresh=True)
            bar.update(task, completed=self.count(), refresh=True)

    def _print_lines(self) -> None:
        while not self._stop.wait(LINE_INTERVAL_S):
            done = self.count()
            line = (
                f"{done:,} of {self.total:,} {self.unit} ({done / self.total:.0%}), "
                f"{self.describe(done)}"
            )
            self.console.print(f"{self.title}: {line}" if self.title else line)


class Steps:
    """Shows one step of a work after another: a progress callback, called with the step's name,
    how many rows are done, and of how many; a context to end the last one."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._step = ""
        self._done = 0
        self._shown = contextlib.ExitStack()

    def __enter__(self) -> Steps:
        return self

    def __exit__(self, *error: object) -> None:
        self._shown.close()

    def __call__(self, step: str, done: int, total: int) -> None:
        """Takes note of a block; a new step, or one that starts again, is timed by itself."""
        if step != self._step or done < self._done:
            self._shown.close()
            self._step, self._done = step, done
            report = ProgressReport(self.console, total, lambda: self._done, "rows", title=step)
            self._shown.enter_context(report)
        self._done = done


class _Rate(ProgressColumn):
    """rich's own columns count what earlier runs have done too."""

    def __init__(self, report: ProgressReport) -> None:
        super().__init__()
        self.report = report

    def render(self, task: Task) -> Text:
        """The rate and the time left."""
        return Text(self.report.describe(int(task.completed)))


def duration(seconds: float) -> str:
    """`0.3 s`, `42 s`, `2 min 05 s`, `1 h 07 min`."""
    whole = round(seconds)
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
