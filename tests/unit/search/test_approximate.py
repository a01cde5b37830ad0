"""Approximate answers have the recall that they say, and never what was removed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import DIM, features_of, make_run

from distreid.errors import OptionError, StoreError
from distreid.search import approximate
from distreid.search.approximate import Reader, build, search_approximately
from distreid.search.changes import Manner, add, compact, create, remove
from distreid.search.gallery import Filter, Gallery
from distreid.search.generation import read_generation

pytest.importorskip("faiss")
HOW = Manner(say=lambda _: None)


@pytest.fixture
def gallery(tmp_path: Path) -> Path:
    create(tmp_path / "g", [make_run(tmp_path / "a", 1, 900, shard_rows=200)], HOW)
    return tmp_path / "g"


def recall(gallery: Path, queries: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> float:
    opened = Gallery(gallery)
    exact = opened.search(queries).rows
    found = search_approximately(opened, queries).rows
    shares = [np.isin(a, b).mean() for a, b in zip(exact, found, strict=True)]
    return float(np.mean(shares))


@pytest.mark.parametrize("kind", ["hnsw", "ivfpq"])
def test_the_recall_is_measured_and_reached(gallery: Path, kind: str) -> None:
    built = build(gallery, kind, 0.9, HOW)
    assert built.recall >= 0.9 and built.rows == 900 and built.bytes > 0
    known = read_generation(gallery).approximate
    assert known is not None and known["recall"] == built.recall
    assert recall(gallery, features_of(1, 900)[:100]) > 0.85
    hits = search_approximately(Gallery(gallery), features_of(1, 900)[:3])
    assert not hits.exact.any() and hits.rows[:, 0].tolist() == [0, 1, 2]
    assert (np.diff(hits.scores) <= 0).all()


@pytest.mark.parametrize("kind", ["hnsw", "ivfpq"])
def test_removed_rows_never_come_back_and_added_ones_are_found(
    gallery: Path, tmp_path: Path, kind: str
) -> None:
    build(gallery, kind, 0.5, HOW)
    remove(gallery, HOW, rows=range(0, 900, 2))
    add(gallery, make_run(tmp_path / "b", 2, 40), HOW)
    opened = Gallery(gallery)
    hits = search_approximately(opened, features_of(1, 900)[:50], 20)
    assert not {*hits.rows.ravel().tolist()} & {*range(0, 900, 2)}
    hits = search_approximately(opened, features_of(2, 40), 5)
    assert hits.rows[:, 0].tolist() == list(range(900, 940))
    assert opened.column("path", hits.place)[3, 0] == b"run0002/image-00003.jpg"
    some = search_approximately(opened, features_of(1, 900)[:9], 5, Filter(persons=(2,)))
    assert (opened.column("person_id", some.place) == 2).all() and some.rows.shape[1] == 5


@pytest.mark.parametrize("kind", ["hnsw", "ivfpq"])
@pytest.mark.parametrize("few", [100, 0])  # searched without the index, or with it
def test_a_filter_gives_all_that_are_wanted(
    gallery: Path, kind: str, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approximate, "FEW_ALLOWED", few)
    build(gallery, kind, 0.9, HOW)
    remove(gallery, HOW, rows=range(15, 900))
    opened = Gallery(gallery)
    persons, queries = Filter(persons=(2,)), features_of(1, 900)[:60]
    exact = opened.search(queries, 10, persons)
    found = search_approximately(opened, queries, 10, persons)
    assert found.rows.tolist() == exact.rows.tolist() and found.rows.shape == (60, 3)
    assert few == 0 or found.exact.all()


def test_only_a_query_with_too_few_answers_is_answered_exactly(
    gallery: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(gallery, "hnsw", 0.9, HOW)
    answer = Reader.answer

    def short(self: Reader, *arguments: Any) -> Any:
        scores, places = answer(self, *arguments)
        places[1, 2:] = -1
        return scores, places

    opened, queries = Gallery(gallery), features_of(1, 900)[:3]
    before, exact = search_approximately(opened, queries, 7), opened.search(queries, 7)
    monkeypatch.setattr(Reader, "answer", short)
    found = search_approximately(opened, queries, 7)
    assert found.exact.tolist() == [False, True, False]
    assert found.rows[[0, 2]].tolist() == before.rows[[0, 2]].tolist()
    assert found.rows[1].tolist() == exact.rows[1].tolist()
    assert found.place[1].tolist() == exact.place[1].tolist()


def test_a_filter_raises_the_effort(gallery: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approximate, "FEW_ALLOWED", 0)
    build(gallery, "hnsw", 0.97, HOW)
    opened, queries = Gallery(gallery), features_of(2, 100)
    for which in (Filter(persons=(2,)), Filter(persons=(1, 3), cameras=(1, 2))):
        exact = opened.search(queries, 10, which)
        found = search_approximately(opened, queries, 10, which)
        shares = [np.isin(a, b).mean() for a, b in zip(exact.rows, found.rows, strict=True)]
        assert np.mean(shares) > 0.95 and not found.exact.all()


def test_another_gallery_of_the_same_path_has_its_own_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2):
        here = tmp_path / str(number)
        create(here / "g", [make_run(here / "run", number, 100)], HOW)
        build(here / "g", "hnsw", 0.9, HOW)
        monkeypatch.chdir(here)
        hits = search_approximately(Gallery(Path("g")), features_of(number, 100)[:5], 1)
        assert hits.rows[:, 0].tolist() == [0, 1, 2, 3, 4], number
    # Also where one lies in the very place of the other.
    Path("g").rename(tmp_path / "away")
    (tmp_path / "1" / "g").rename("g")
    hits = search_approximately(Gallery(Path("g")), features_of(1, 100)[:5], 1)
    assert hits.rows[:, 0].tolist() == [0, 1, 2, 3, 4]


def test_erasing_takes_the_index_with_it(gallery: Path) -> None:
    build(gallery, "hnsw", 0.5, HOW)
    feature = features_of(1, 900)[5].tobytes()
    assert any(feature in f.read_bytes() for f in (gallery / "index").rglob("*.npy"))
    remove(gallery, HOW, rows=[5], erase=True)
    assert not any(feature in f.read_bytes() for f in gallery.rglob("*") if f.is_file())
    with pytest.raises(StoreError, match="build one by distreid index"):
        search_approximately(Gallery(gallery), np.ones(DIM))
    assert compact(gallery, HOW)["dropped"] == 0


def test_what_cannot_be_reached_is_said(gallery: Path) -> None:
    for kind, wanted, words in (
        ("tree", 0.9, "--kind tree: choose one of hnsw, ivfpq"),
        ("hnsw", 1.5, "--recall 1.5"),
    ):
        with pytest.raises(OptionError, match=words):
            build(gallery, kind, wanted, HOW)


def test_codes_are_learned_from_sixteen_rows(tmp_path: Path) -> None:
    few, enough = tmp_path / "few", tmp_path / "enough"
    for folder, count in ((few, 15), (enough, 16)):
        create(folder, [make_run(tmp_path / f"run{count}", 1, count, shard_rows=8)], HOW)
    with pytest.raises(OptionError, match=r"--kind ivfpq: .* 16 rows .* has 15; take hnsw"):
        build(few, "ivfpq", 0.5, HOW)
    assert build(enough, "ivfpq", 0.5, HOW).rows == 16
    assert build(few, "hnsw", 0.5, HOW).rows == 15
