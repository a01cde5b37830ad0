"""Marks of hits become labels that are scored, change, and go with the rows that are erased."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from small_runs import features_of, make_run

from distreid.cli import main
from distreid.errors import OptionError, StoreError
from distreid.search.changes import Manner, create, mark_hits, remove
from distreid.search.gallery import Gallery
from distreid.search.gallery_check import verify_gallery
from distreid.search.marks import NO_ROW, Labels, Marks, persons_of, read_labels

QUIET = Manner(say=lambda line: None)
ROWS = features_of(1, 30)


@pytest.fixture
def gallery(tmp_path: Path) -> Path:
    """Of 30 persons, so that marks alone say who is whom."""
    run = make_run(tmp_path / "run", 1, persons=[*range(1, 31)])
    create(tmp_path / "g", [run], QUIET)
    return tmp_path / "g"


def labels_of(gallery: Path) -> Labels:
    entry = Gallery(gallery).generation.labels
    assert entry
    return read_labels(gallery / entry)


def mark(gallery: Path, feature: int, *, row: int | None = None, **marks: list[int]) -> int:
    right, wrong = marks.get("right", []), marks.get("wrong", [])
    said = Marks(
        feature=ROWS[feature], row=row, right=right, wrong=wrong, unmarked=marks.get("none", [])
    )
    return mark_hits(gallery, said, QUIET)


def test_evaluate_and_calibrate_take_the_file(
    gallery: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nearest = np.argsort(-(ROWS @ ROWS[0])).tolist()
    near, far = nearest[1], nearest[-1]
    assert mark(gallery, 0, right=[0, far], wrong=[near]) == 2
    assert mark(gallery, near, row=near, right=[], wrong=[0]) == 3
    file = gallery / str(Gallery(gallery).generation.labels)
    capsys.readouterr()
    assert main(["evaluate", str(file), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)["scores"][0]
    # Of the three rows that were marked the first query finds its own at places 1 and 3; the second
    # query is a row, and has no other match than itself, which is not counted.
    assert scores["queries"] == 1 and scores["mAP"] == pytest.approx((1 + 2 / 3) / 2)
    assert main(["calibrate", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["matches"]["total"], found["nonmatches"]["total"]) == (2, 3)
    assert verify_gallery(gallery) == []


def test_marks_are_replaced_and_taken_back(gallery: Path) -> None:
    mark(gallery, 4, row=4, right=[5], wrong=[6])
    mark(gallery, 4, row=4, right=[6])
    labels = labels_of(gallery)
    assert labels.query_row.tolist() == [4] and labels.gallery_row.tolist() == [5, 6]
    assert labels.mark_right.all() and np.array_equal(labels.query_features[0], ROWS[4])
    assert np.array_equal(labels.gallery_features, ROWS[5:7])
    mark(gallery, 4, none=[5, 6])  # another query: it is no row
    assert len(labels_of(gallery).mark_right) == 2
    mark(gallery, 4, row=4, none=[5])
    assert labels_of(gallery).gallery_row.tolist() == [6]
    mark(gallery, 4, row=4, none=[6])
    assert Gallery(gallery).generation.labels is None
    with pytest.raises(OptionError, match="row 99"):
        mark(gallery, 4, right=[99])


def test_persons_follow_from_marks() -> None:
    def ids(
        persons: list[int], marks: list[tuple[int, int, bool]], rows: list[int]
    ) -> tuple[list[int], list[int]]:
        count = len(rows)
        labels = Labels(
            query_features=np.zeros((count, 2), np.float32),
            query_row=np.array(rows),
            gallery_features=np.zeros((len(persons), 2), np.float32),
            gallery_row=np.arange(len(persons)),
            known_person=np.array(persons),
            mark_query=np.array([m[0] for m in marks]),
            mark_hit=np.array([m[1] for m in marks]),
            mark_right=np.array([m[2] for m in marks]),
        )
        queries, hits = persons_of(labels)
        return queries.tolist(), hits.tolist()

    # A right mark joins; rows of one person of the gallery are one, those that are unknown not.
    (query,), hits = ids([8, 8, 9, 0, 0], [(0, 0, True), (0, 2, False)], [NO_ROW])
    assert hits[0] == hits[1] == query and len({*hits}) == 4
    # The gallery is mistaken about person 8: only what was marked right is the query's.
    (query,), hits = ids([8, 8, 8], [(0, 0, True), (0, 1, False)], [NO_ROW])
    assert hits[0] == query and len({*hits}) == 3
    # Two queries meet in a row; a query that is a row is that row.
    queries, hits = ids([1, 2, 3], [(0, 0, True), (1, 0, True), (1, 2, False)], [NO_ROW, 1])
    assert queries[0] == queries[1] == hits[0] == hits[1] != hits[2]


def test_marks_go_with_erased_rows(gallery: Path) -> None:
    mark(gallery, 4, row=4, right=[5], wrong=[6])
    mark(gallery, 9, right=[6, 8])
    remove(gallery, QUIET, rows=[6], erase=True)
    labels = labels_of(gallery)
    assert labels.gallery_row.tolist() == [5, 8] and labels.query_row.tolist() == [4, NO_ROW]
    remove(gallery, QUIET, rows=[4], erase=True)
    labels = labels_of(gallery)
    assert labels.gallery_row.tolist() == [8] and labels.query_row.tolist() == [NO_ROW]
    kept = [file.read_bytes() for file in gallery.rglob("*") if file.is_file()]
    assert not any(ROWS[4].tobytes() in content for content in kept)
    assert any(ROWS[9].tobytes() in content for content in kept)
    remove(gallery, QUIET, rows=[8], erase=True)
    assert Gallery(gallery).generation.labels is None and not [*(gallery / "labels").iterdir()]


def test_a_damaged_file_is_named(gallery: Path) -> None:
    mark(gallery, 4, right=[5])
    file = gallery / str(Gallery(gallery).generation.labels)
    content = bytearray(file.read_bytes())
    content[content.index(ROWS[4].tobytes())] ^= 255
    file.write_bytes(content)
    assert any(str(file) in line for line in verify_gallery(gallery))
    with pytest.raises(StoreError, match="missing or damaged"):
        mark(gallery, 4, right=[6])
