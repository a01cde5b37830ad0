"""Where the time goes."""

from __future__ import annotations

import pytest

from distreid.host.phases import Phases, seconds_since_start


def test_a_phase_within_another_is_not_in_the_outer_one(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 4.0, 6.0, 10.0, 10.5])
    monkeypatch.setattr("distreid.host.phases.time.monotonic", lambda: next(clock))
    phases = Phases()
    with phases("planning"), phases("listing"):
        pass
    with phases("planning"):
        pass
    assert phases.seconds == {"planning": 3.5, "listing": 3.0}
    assert list(phases.seconds) == ["planning", "listing"]


def test_what_is_said_leaves_out_what_took_no_time() -> None:
    phases = Phases()
    phases.seconds |= {"start": 3.14, "listing": 0.01, "extracting": 125.0}
    assert phases.describe() == "start 3.1 s, extracting 2 min 05 s; 2 min 08 s in all"


def test_a_phase_that_fails_counts_too() -> None:
    phases = Phases()
    with pytest.raises(KeyError), phases("scoring"):
        raise KeyError
    assert phases.seconds.keys() == {"scoring"}
    with phases("later"):
        pass
    assert phases.seconds["scoring"] >= 0


def test_the_process_was_started_before_now() -> None:
    first = seconds_since_start()
    assert 0 < first <= seconds_since_start()
