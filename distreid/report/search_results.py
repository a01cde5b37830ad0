"""What a search found, as text, JSON, CSV, and one HTML page with pictures."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.table import Table as RichTable

from distreid.data.manifest import NO_CAMERA, NO_PERSON
from distreid.errors import printable
from distreid.report.frames_picture import frames_gallery
from distreid.report.html import Picture, Table, render
from distreid.report.ranking_picture import RANKS, RankedImage, RankedQuery, ranking_gallery

COLUMNS = (
    "query", "rank", "row", "score", "person", "camera", "time", "path", "in_gallery", "exact"
)  # fmt: skip
NOT_THERE = "not in the gallery"
NOTHING = "no row may be found"
LAST_DATE_S = 2.5e11  # the year 9892
LEAST_DATE_S = 1e8  # less is no date, but seconds of a video


@dataclass(frozen=True, kw_only=True)
class FoundRow:
    """A row of the gallery in an answer."""

    row: int
    score: float
    person: str
    person_id: int
    camera: str
    camera_id: int
    """Of a camera with a name its run's own number, which in another run is another camera's."""
    path: str
    image: Path
    time: float = math.nan
    """Seconds since 1970; NaN where it is unknown."""

    @property
    def labels(self) -> tuple[str | None, str | None]:
        """Person and camera by name or number; None where they are unknown."""
        return (
            None if self.person_id == NO_PERSON else self.person,
            None if self.camera_id == NO_CAMERA else self.camera,
        )

    @property
    def when(self) -> str:
        """The time for people, in UTC; empty where it is unknown."""
        if math.isnan(self.time):
            return ""
        if not LEAST_DATE_S <= self.time <= LAST_DATE_S:
            return f"{self.time:g}"
        return datetime.fromtimestamp(self.time, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What was found for a query, the best first."""

    query: str
    """For people: a file, a row, a number."""
    image: Path | None
    found: Sequence[FoundRow]
    exact: bool
    """Whether it is proven that no other row belongs there."""
    threshold: float | None
    """The least score of the same person; None where that is not known."""
    own: frozenset[int] = frozenset()
    """Rows of the gallery that the query is made of."""

    @property
    def in_gallery(self) -> bool | None:
        """Whether the best row beside the query's own reaches the threshold; None without one, and
        where no row but its own was asked for."""
        others = [each.score for each in self.found if each.row not in self.own]
        if self.threshold is None or (self.found and not others):
            return None
        return bool(others) and others[0] >= self.threshold

    def is_same(self, found: FoundRow) -> bool | None:
        """Whether a row's score reaches the threshold; None without one, and of the query's own
        row."""
        if self.threshold is None or found.row in self.own:
            return None
        return found.score >= self.threshold

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "query": self.query,
            "in_gallery": self.in_gallery,
            "exact": self.exact,
            "found": [
                {
                    "row": each.row,
                    "score": each.score,
                    "person_id": each.person_id,
                    "person": each.labels[0],
                    "camera_id": each.camera_id if each.camera == str(each.camera_id) else None,
                    "camera": each.labels[1],
                    "time": None if math.isnan(each.time) else each.time,
                    "path": printable(each.path),
                }
                for each in self.found
            ],
        }


def answers_json(answers: Sequence[Answer], facts: dict[str, Any]) -> str:
    """All answers, and what holds for all of them."""
    content = facts | {"answers": [answer.to_json() for answer in answers]}
    return json.dumps(content, indent=2, ensure_ascii=False)


def answers_csv(answers: Sequence[Answer]) -> str:
    """A line for each row found, and one for a query for which none is. Unknown persons and cameras
    are empty; `in_gallery` is of the query."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for answer in answers:
        if not answer.found:
            nothing = [None] * (len(COLUMNS) - 3)
            writer.writerow([answer.query, *nothing, answer.in_gallery, answer.exact])
        for rank, each in enumerate(answer.found, start=1):
            labels = *each.labels, each.when or None
            row = (rank, each.row, f"{each.score:.7g}", *labels, printable(each.path))
            writer.writerow([answer.query, *row, answer.in_gallery, answer.exact])
    return stream.getvalue()


def answers_table(answers: Sequence[Answer]) -> RichTable:
    """For a terminal."""
    table = RichTable()
    is_timed = any(each.when for answer in answers for each in answer.found)
    is_judged = any(answer.threshold is not None for answer in answers)
    shown = ["query", "rank", "row", "score", *["same"] * is_judged, "person", "camera"]
    shown += [*["time"] * is_timed, "path"]
    for name in shown:
        table.add_column(name, justify="right" if name in ("rank", "row", "score") else "left")
    for answer in answers:
        if said := _said(answer):
            cells = {"query": answer.query, "person": said}
            table.add_row(*(printable(cells.get(name, "")) for name in shown))
        for rank, each in enumerate(answer.found, start=1):
            cells = {
                "query": answer.query,
                "rank": str(rank),
                "row": str(each.row),
                "score": f"{each.score:.4f}",
                "same": {True: "yes", False: "no", None: ""}[answer.is_same(each)],
                "person": each.person,
                "camera": each.camera,
                "time": each.when,
                "path": each.path,
            }
            table.add_row(*(printable(cells[name]) for name in shown))
    return table


def search_page(title: str, lines: Sequence[str], answers: Sequence[Answer]) -> str:
    """HTML 5 in a single file: a row of pictures for each query, framed green from the threshold
    on, red below it, grey where there is none."""
    return render(
        "search_page.html",
        title=title,
        lines=lines,
        pictures=_pictures(answers),
        tables=[_html_table(answers)],
    )


def search_html(heading: str, answers: Sequence[Answer]) -> str:
    """A piece of HTML for a notebook."""
    return render(
        "notebook.html",
        heading=heading,
        lines=[],
        tables=[_html_table(answers)],
        pictures=_pictures(answers),
        details={},
    )


def _pictures(answers: Sequence[Answer]) -> list[Picture]:
    rows = [
        RankedQuery(
            image=answer.image or Path(),
            person=0,
            camera=0,
            person_name=answer.query,
            camera_name=" ",
            ap=math.nan,
            above="in the gallery" if answer.in_gallery else _said(answer) or " ",
            ranked=[
                RankedImage(
                    image=each.image,
                    person=each.person_id,
                    camera=each.camera_id,
                    person_name="" if each.person == str(each.person_id) else each.person,
                    camera_name="" if each.camera == str(each.camera_id) else each.camera,
                    score=each.score,
                    correct=answer.is_same(each),
                )
                for each in answer.found[:RANKS]
            ],
        )
        for answer in answers
    ]
    if not rows:
        return []
    found = [Picture(caption="The queries, and what they find first", png=ranking_gallery(rows))]
    if frames := frames_gallery(rows):
        found.append(Picture(caption="The same in their frames", png=frames))
    return found


def _said(answer: Answer) -> str:
    """That the query's person is not there, or that no row could be found."""
    if answer.in_gallery is False:
        return NOT_THERE
    return "" if answer.found else NOTHING


def _html_table(answers: Sequence[Answer]) -> Table:
    rows = [
        [
            answer.query,
            str(rank),
            str(each.row),
            f"{each.score:.4f}",
            each.person,
            each.camera,
            each.when,
            each.path,
            _said(answer),
        ]
        for answer in answers
        for rank, each in enumerate(answer.found, start=1)
    ]
    rows += [[answer.query, *[""] * 7, _said(answer)] for answer in answers if not answer.found]
    header = ["query", "rank", "row", "score", "person", "camera", "time", "path", "answer"]
    return Table(title="What was found", header=header, rows=rows)
