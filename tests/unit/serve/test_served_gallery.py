"""An answer of a generation that was taken away is asked of the newest one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from small_runs import DIM, make_run

from distreid.errors import StoreError
from distreid.search.changes import Manner, create, remove
from distreid.serve.served_gallery import Held, ServedGallery
from distreid.store.run_folder import CALIBRATION

HOW = Manner(say=lambda _: None, timeout_s=0.1)


@pytest.fixture
def served(tmp_path: Path) -> ServedGallery:
    create(tmp_path / "g", [make_run(tmp_path / "a", 1)], HOW, copy=True)
    return ServedGallery(tmp_path / "g")


def test_an_erasure_that_another_request_has_seen_is_no_error(served: ServedGallery) -> None:
    first = [True]

    def rows(held: Held) -> int:
        if first:
            first.clear()
            remove(served.folder, HOW, rows=[3], erase=True)
            assert served.take_over()  # as another request does
        return len(held.gallery.search(np.ones(DIM), 99).rows[0])

    assert served.answer(rows) == 29


def test_what_the_newest_generation_cannot_answer_is_an_error(served: ServedGallery) -> None:
    asked = []

    def fail(held: Held) -> None:
        asked.append(held.gallery.generation)
        raise StoreError("damaged")

    with pytest.raises(StoreError, match="damaged"):
        served.answer(fail)
    remove(served.folder, HOW, rows=[3])
    with pytest.raises(StoreError, match="damaged"):
        served.answer(fail)
    assert asked == [1, 1, 2]


def test_a_threshold_is_said_once_for_many_generations(
    tmp_path: Path, served: ServedGallery, capsys: pytest.CaptureFixture[str]
) -> None:
    points = {"identification": [{"threshold": 0.5, "false_rate": 0.01}]}
    (copied,) = (tmp_path / "g" / "runs").iterdir()
    for threshold, lines in ((0.5, 1), (0.5, 0), (0.75, 1)):
        points["identification"][0]["threshold"] = threshold
        (copied / CALIBRATION).write_text(json.dumps(points))
        remove(served.folder, HOW, rows=[int(100 * threshold) - 50 + lines])
        assert served.take_over()
        with served.reading() as held:
            assert held.threshold == threshold
        assert capsys.readouterr().err.count("in the gallery from") == lines
