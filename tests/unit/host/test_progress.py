import io
import time

import pytest
from conftest import wait_until
from rich.console import Console

from distreid.host import progress
from distreid.host.progress import ProgressReport, Steps, duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (125, "2 min 05 s"),
        (3600, "1 h 00 min"),
        (93_784, "26 h 03 min"),
    ],
)
def test_a_duration_is_said_as_people_say_it(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_rate_counts_what_this_run_has_done(monkeypatch: pytest.MonkeyPatch) -> None:
    report = ProgressReport(Console(file=io.StringIO()), 1000, lambda: 400)
    monkeypatch.setattr(time, "monotonic", lambda: report.started + 10)
    assert report.describe(400) == "starting"
    assert report.describe(500) == "10 images/s, 50 s left"


def test_where_there_is_no_terminal_it_prints_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_INTERVAL_S", 0.05)
    text = io.StringIO()
    done = [0]
    with ProgressReport(Console(file=text, width=200), 100, lambda: done[0]):
        done[0] = 50
        wait_until(lambda: "50 of 100 images" in text.getvalue())
    assert "50 of 100 images (50%), " in text.getvalue()
    assert "images/s" in text.getvalue()


def test_on_a_terminal_it_draws_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "BAR_REFRESH_S", 0.05)
    text = io.StringIO()
    done = [0]
    with ProgressReport(Console(file=text, width=120, force_terminal=True), 100, lambda: done[0]):
        done[0] = 100
        wait_until(lambda: "100 of 100 images" in text.getvalue())
    assert "100 of 100 images" in text.getvalue()


def test_each_step_of_a_work_is_shown_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_INTERVAL_S", 0.05)
    text = io.StringIO()
    with Steps(Console(file=text, width=200)) as steps:
        for step, done, total in (("neighbours", 5, 10), ("ranking", 1, 4), ("ranking", 2, 4)):
            steps(step, done, total)
            line = f"{step}: {done} of {total} rows"
            wait_until(lambda: line in text.getvalue())  # noqa: B023
    said = text.getvalue().splitlines()
    assert "neighbours: 5 of 10 rows (50%), starting" in said
    assert any(line.startswith("ranking: 2 of 4 rows (50%), ") for line in said)
    assert said.index("ranking: 1 of 4 rows (25%), starting") > said.index(
        "neighbours: 5 of 10 rows (50%), starting"
    )


def test_a_step_that_starts_again_is_timed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_INTERVAL_S", 0.05)
    text = io.StringIO()
    with Steps(Console(file=text, width=200)) as steps:
        steps("ranking", 4, 4)
        steps("ranking", 1, 9)
        wait_until(lambda: "1 of 9 rows" in text.getvalue())
    assert "ranking: 1 of 9 rows (11%), starting" in text.getvalue()
