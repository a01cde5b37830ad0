"""A collection of milvus-lite has the gallery's rows, whatever was pushed before."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import features_of, make_run, path_of

from distreid.errors import OptionError, StoreError
from distreid.search import milvus
from distreid.search.changes import Manner, add, create, remove
from distreid.search.gallery import Filter, Gallery
from distreid.search.milvus import expression, push, search_collection, target

pytest.importorskip("pymilvus")
pytest.importorskip("milvus_lite")
pytestmark = pytest.mark.filterwarnings("ignore")  # the client's own, of its libraries
HOW = Manner(say=lambda _: None)


def test_pushing_twice_changes_nothing_and_removal_follows(tmp_path: Path) -> None:
    gallery, uri = tmp_path / "g", str(tmp_path / "m.db")
    times = [str(1000 + i) for i in range(30)]
    create(gallery, [make_run(tmp_path / "a", 1, extra={"time": times})], HOW)
    first, again = push(gallery, uri, "shop"), push(gallery, uri, "shop")
    assert (first.inserted, first.deleted, first.rows, first.recall) == (30, 0, 30, 1.0)
    assert (again.inserted, again.deleted, again.rows) == (0, 0, 30)
    remove(gallery, HOW, rows=[3, 4])
    names = {"person_name": [f"who{i % 5}" for i in range(30)]}
    add(gallery, make_run(tmp_path / "b", 2, extra=names), HOW)
    after = push(gallery, uri, "shop")
    assert (after.inserted, after.deleted, after.rows, after.recall) == (30, 2, 58, 1.0)
    opened, queries = Gallery(gallery), features_of(1, 30)[:4]
    for which in (
        Filter(),
        Filter(persons=(2, "who1")),
        Filter(not_persons=(1,), cameras=(2, 3)),
        Filter(since=1005, until=1020),
    ):
        expected = opened.search(queries, 6, which)
        found = search_collection(uri, "shop", queries, 6, which)
        assert [[hit["row"] for hit in hits] for hits in found] == expected.rows.tolist(), which
        scores = [[hit["score"] for hit in hits] for hits in found]
        np.testing.assert_allclose(scores, expected.scores, atol=1e-6)
    (named,) = search_collection(uri, "shop", features_of(2, 30)[7], 1)
    assert named[0] | {"score": 1} == {
        "row": 37,
        "score": 1,
        "person_id": named[0]["person_id"],
        "person": "who2",
        "camera": "2",
        "camera_id": 2,
        "time": named[0]["time"],
        "path": "run0002/image-00007.jpg",
    }
    assert math.isnan(named[0]["time"])


def test_a_push_that_was_interrupted_is_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery, uri = tmp_path / "g", str(tmp_path / "m.db")
    create(gallery, [make_run(tmp_path / "a", 1)], HOW)
    monkeypatch.setattr(milvus, "PUSHED_AT_ONCE", 10)
    entities, left = milvus._entities, [2]

    def failing(*arguments: Any) -> Any:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return entities(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(milvus, "_entities", failing)
        with pytest.raises(KeyboardInterrupt):
            push(gallery, uri, "shop")
    done = push(gallery, uri, "shop")
    assert (done.inserted, done.rows) == (10, 30)


def test_another_gallerys_rows_are_replaced(tmp_path: Path) -> None:
    uri = str(tmp_path / "m.db")
    runs = {name: make_run(tmp_path / name, number) for number, name in enumerate("ab", start=1)}
    # Of the same paths, persons and identity; other features.
    paths = [path_of(1, row) for row in range(30)]
    runs["c"] = make_run(tmp_path / "c", 1, features=features_of(3, 30), paths=paths)
    runs["d"] = make_run(tmp_path / "d", 1, paths=paths, persons=[9] * 30)
    for name, run in runs.items():
        create(tmp_path / f"g{name}", [run], HOW, copy=True)
        done = push(tmp_path / f"g{name}", uri, "shop")
        assert (done.inserted, done.deleted, done.rows, done.recall) == (30, 0, 30, 1.0)
        again = push(tmp_path / f"g{name}", uri, "shop")
        assert (again.inserted, again.rows) == (0, 30)
    (hits,) = search_collection(uri, "shop", features_of(1, 30)[7], 1)
    assert (hits[0]["row"], hits[0]["person_id"]) == (7, 9) and hits[0]["score"] > 0.999


def test_a_collection_without_origins_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery, uri = tmp_path / "g", str(tmp_path / "m.db")
    create(gallery, [make_run(tmp_path / "a", 1)], HOW)
    with monkeypatch.context() as patch:
        patch.setattr(milvus, "ORIGIN", "other")
        push(gallery, uri, "shop")
    with pytest.raises(StoreError, match="collection shop: of an earlier distreid"):
        push(gallery, uri, "shop")


def test_cameras_of_several_runs_are_told_apart_by_their_names(tmp_path: Path) -> None:
    gallery, uri = tmp_path / "g", str(tmp_path / "m.db")
    runs = []
    for number, names in enumerate((("gate", "yard"), ("1", "gate"), None)):
        extra = None if names is None else {"camera_name": [names[row % 2] for row in range(6)]}
        cameras = [row % 2 for row in range(6)]
        runs.append(make_run(tmp_path / f"r{number}", number, 6, cameras=cameras, extra=extra))
    create(gallery, runs, HOW)
    push(gallery, uri, "shop")
    queries = features_of(0, 1)
    for camera, rows in (("gate", {0, 2, 4, 7, 9, 11}), ("1", {6, 8, 10, 13, 15, 17})):
        (hits,) = search_collection(uri, "shop", queries, 18, Filter(cameras=(camera,)))
        assert {hit["row"] for hit in hits} == rows
        assert {hit["camera"] for hit in hits} == {camera}


def test_another_feature_space_is_refused(tmp_path: Path) -> None:
    uri = str(tmp_path / "m.db")
    create(tmp_path / "g", [make_run(tmp_path / "a", 1)], HOW)
    other = make_run(tmp_path / "b", 2, identity={"imported": "other"})
    create(tmp_path / "h", [other], HOW)
    push(tmp_path / "g", uri, "shop")
    with pytest.raises(StoreError, match="another feature space"):
        push(tmp_path / "h", uri, "shop")
    with pytest.raises(StoreError, match="no collection market"):
        search_collection(uri, "market", features_of(1, 1), 1)


def test_a_filter_has_names_and_numbers() -> None:
    words = ("Ann", "7", "--5")
    assert expression(Filter(persons=words, cameras=("3", 4))) == (
        '(person_name in ["Ann", "7", "--5"] or (person_name == "" and person in [7])) and '
        '(camera_name in ["3", "4"] or (camera_name == "" and camera in [3, 4]))'
    )
    # Who is not known has no name and no number.
    assert expression(Filter(persons=("", -2, "-1", "Ann\0"), cameras=("-1", "yard"))) == (
        '(person_name in ["-2", "-1"] or (person_name == "" and person in [-1])) and '
        '(camera_name in ["-1", "yard"] or (camera_name == "" and camera in []))'
    )


def test_addresses_are_a_file_or_a_server() -> None:
    assert target("milvus:a/b.db/shop") == ("a/b.db", "shop")
    assert target("milvus://here:19530/shop") == ("http://here:19530", "shop")
    for wrong in ("milvus:shop", "milvus:a.db/", "milvus://shop"):
        with pytest.raises(OptionError, match="is wanted"):
            target(wrong)
