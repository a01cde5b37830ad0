"""A gallery's rows, persons, filters, generations and readers."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import shutil
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import wait_until
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import DIM, features_of, make_run, path_of

from distreid.data.manifest import JUNK, NO_CAMERA, NO_PERSON
from distreid.errors import OptionError, StoreError
from distreid.host.atomic_files import publish_text
from distreid.host.folder_lock import DEAD_AFTER_S, Holder, hold
from distreid.interface.opened_gallery import open_gallery
from distreid.interface.search_command import calibrated_threshold
from distreid.nearest import exact_search
from distreid.nearest.codes import learn
from distreid.search import changes, index, readers
from distreid.search.changes import Manner, add, compact, create, remove
from distreid.search.fusion import search_fused
from distreid.search.gallery import Filter, Gallery
from distreid.search.gallery_check import verify_gallery
from distreid.search.generation import old_numbers, read_generation
from distreid.search.kept_columns import Columns, read_facts, write_arrays


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def how(said: list[str]) -> Manner:
    return Manner(say=said.append, wait=False, timeout_s=0.2)


def files_with(gallery: Path, needle: bytes) -> list[Path]:
    return [file for file in gallery.rglob("*") if file.is_file() and needle in file.read_bytes()]


def ids_of(gallery: Path) -> set[int]:
    opened = Gallery(gallery)
    found = opened.search(np.ones(DIM), max(1, opened.count)).rows[0]
    opened.close()
    return set(found.tolist())


def test_rows_have_numbers_for_life(tmp_path: Path, how: Manner) -> None:
    gallery = tmp_path / "g"
    create(gallery, [make_run(tmp_path / "a", 1), make_run(tmp_path / "b", 2)], how, copy=True)
    assert add(gallery, make_run(tmp_path / "c", 3), how, copy=True) == 60
    remove(gallery, how, rows=[31, 32], erase=True)
    remove(gallery, how, rows=[5])
    compact(gallery, how)
    # No number is given twice, though rows are gone.
    assert add(gallery, make_run(tmp_path / "d", 4), how) == 90
    opened = Gallery(gallery)
    wanted = {4: (1, 4), 33: (2, 3), 59: (2, 29), 60: (3, 0), 119: (4, 29)}
    for row, (run, place) in wanted.items():
        assert (opened.features([row])[0] == features_of(run, 30)[place]).all()
        hits = opened.search(features_of(run, 30)[place], 1)
        assert hits.rows.tolist() == [[row]]
        assert opened.column("path", hits.place).tolist() == [[path_of(run, place).encode()]]
    for row in (5, 31, 32, 120, -1):
        with pytest.raises(OptionError, match=f"row {row}:"):
            opened.features([row])
    assert opened.count == 117


def test_equal_numbers_are_one_person_unless_prefixed(tmp_path: Path, how: Manner) -> None:
    gallery = tmp_path / "g"
    create(gallery, [make_run(tmp_path / "a", 1)], how)
    add(gallery, make_run(tmp_path / "b", 2), how)
    add(gallery, make_run(tmp_path / "c", 3), how, prefix="north-")
    opened = Gallery(gallery)
    for who, runs in ((("2",), {0, 1}), (("north-2",), {2}), ((2, "north-2"), {0, 1, 2})):
        rows = opened.search(np.ones(DIM), 90, Filter(persons=who)).rows[0]
        assert {row // 30 for row in rows.tolist()} == runs
        assert {row % 30 % 5 for row in rows.tolist()} == {1}
    hits = opened.search(np.ones(DIM), 90)
    numbers = opened.column("person_id", hits.place)[0]
    by_run = {run: set(numbers[hits.rows[0] // 30 == run].tolist()) for run in range(3)}
    assert by_run[0] == by_run[1] == {1, 2, 3, 4, 5}
    assert not by_run[2] & by_run[0]


def test_a_prefix_that_makes_one_person_of_two_is_refused(tmp_path: Path, how: Manner) -> None:
    gallery = tmp_path / "g"

    def run(name: str, number: int, *persons: int) -> Path:
        return make_run(tmp_path / name, number, 2, persons=persons)

    create(gallery, [run("plain", 1, 2, 123)], how)
    add(gallery, run("shop1", 2, 23, 5), how, prefix="shop1")
    shop12 = run("shop12", 3, 3, 5)
    before = sorted(gallery.rglob("*"))
    for prefix, words in (
        ("shop12", "has a person shop123 of rows added with --prefix shop1; give another prefix"),
        ("12", "has a person 123 of rows added without --prefix; give another prefix"),
    ):
        with pytest.raises(OptionError, match=f"shop12: --prefix {prefix}: the gallery {words}"):
            add(gallery, shop12, how, copy=True, prefix=prefix)
    assert sorted(gallery.rglob("*")) == before
    assert add(gallery, shop12, how, copy=True, prefix="shop12-") == 4
    # The same prefix means the same persons, also whoever was named so meanwhile.
    named = {"person_name": ["shop17", "shop123"]}
    add(gallery, make_run(tmp_path / "named", 4, 2, persons=[1, 2], extra=named), how)
    add(gallery, run("again", 5, 23, 7), how, prefix="shop1")
    found = Gallery(gallery).search(np.ones(DIM), 9, Filter(persons=("shop123",)))
    assert sorted(found.rows[0].tolist()) == [2, 7, 8]
    found = Gallery(gallery).search(np.ones(DIM), 9, Filter(persons=("shop17",)))
    assert sorted(found.rows[0].tolist()) == [6, 9]


def test_names_decide_where_there_are_names(tmp_path: Path, how: Manner) -> None:
    gallery = tmp_path / "g"
    runs = []
    for number, (persons, names) in enumerate(
        [([1, 2], ["ann", "bob"]), ([1, 2], ["bob", "eve"]), ([1, 7], None)]
    ):
        extra = None if names is None else {"person_name": names}
        runs.append(make_run(tmp_path / f"{number}", number, 2, persons=persons, extra=extra))
    create(gallery, runs, how)
    opened = Gallery(gallery)
    place = np.arange(6)
    ann, bob, bob_again, eve, one, seven = opened.column("person_id", place).tolist()
    assert bob == bob_again and len({ann, bob, eve, one, seven}) == 5
    assert opened.names("person", place).tolist() == ["ann", "bob", "bob", "eve", "1", "7"]
    assert opened.search(np.ones(DIM), 9, Filter(persons=("bob",))).rows.shape == (1, 2)
    assert set(opened.search(np.ones(DIM), 9, Filter(persons=("1",))).rows[0].tolist()) == {4}
    # A number that the gallery gave is that person, whether he has a name or not.
    for person, rows in ((ann, {0}), (bob, {1, 2}), (eve, {3}), (one, {4}), (seven, {5})):
        found = opened.search(np.ones(DIM), 9, Filter(persons=(person,)))
        assert set(found.rows[0].tolist()) == rows
        found = opened.search(np.ones(DIM), 9, Filter(not_persons=(person,)))
        assert set(found.rows[0].tolist()) == set(range(6)) - rows
        assert not opened.unmatched(Filter(persons=(person,)))
    assert opened.unmatched(Filter(persons=(99,))) == ["person 99"]


def test_a_name_is_the_same_however_its_letters_are_composed(tmp_path: Path, how: Manner) -> None:
    one, two = "Zo\u00eb", "Zoe\u0308"
    runs = [
        make_run(tmp_path / "a", 1, 2, persons=[0, 1], extra={"person_name": ["Bob", two]}),
        make_run(tmp_path / "b", 2, 2, persons=[0, 1], extra={"person_name": [one, "Eve"]}),
        make_run(tmp_path / "c", 3, 1, persons=[0], extra={"camera_name": [two]}, cameras=[0]),
    ]
    create(tmp_path / "g", runs, how)
    opened = Gallery(tmp_path / "g")
    person = opened.column("person_id", np.arange(5)).tolist()
    assert person[1] == person[2] and len(set(person)) == 4
    for name in (one, two):
        for which, rows in ((Filter(persons=(name,)), {1, 2}), (Filter(cameras=(name,)), {4})):
            assert set(opened.search(np.ones(DIM), 9, which).rows[0].tolist()) == rows
            assert not opened.unmatched(which)
    assert remove(tmp_path / "g", how, which=Filter(persons=(one,)), erase=True).rows == 2


@pytest.mark.parametrize("is_named_first", [True, False])
def test_a_name_and_a_number_that_are_one_word_are_one_person(
    tmp_path: Path, how: Manner, is_named_first: bool
) -> None:
    names = {"person_name": ["5", "ann", "7"]}
    named = make_run(tmp_path / "named", 1, 3, persons=[1, 2, 3], extra=names)
    numbers = make_run(tmp_path / "numbers", 2, 3, persons=[1, 2, 5])
    runs = [named, numbers] if is_named_first else [numbers, named]
    runs += [
        make_run(tmp_path / "more", 3, 4, persons=[4, 5, 6, 7]),
        make_run(tmp_path / "again", 4, 1, persons=[1], extra={"person_name": ["5"]}),
    ]
    create(tmp_path / "g", runs, how)
    opened = Gallery(tmp_path / "g")
    place = np.arange(opened.count)
    words = opened.names("person", place).tolist()
    person = opened.column("person_id", place).tolist()
    assert len(set(zip(words, person, strict=True))) == len(set(words)) == len(set(person)) == 7
    assert words.count("5") == 4 and words.count("7") == 2
    found = opened.search(np.ones(DIM), 99, Filter(persons=("5",)))
    assert found.rows.shape == (1, 4)


def test_person_0_is_nobody_in_market_alone(tmp_path: Path, how: Manner) -> None:
    gallery, two = tmp_path / "g", (0, 5)
    named = {"person_name": ["ann", "bob"]}
    runs = [
        make_run(tmp_path / "named", 1, 2, persons=[0, 1], extra=named),
        make_run(tmp_path / "numbers", 2, 3, persons=[0, 1, 5]),
        make_run(tmp_path / "market", 3, 2, persons=two, layout="market1501"),
    ]
    create(gallery, runs, how)
    add(gallery, make_run(tmp_path / "others", 4, 2, persons=two), how, prefix="x-")
    opened = Gallery(gallery)
    names = ["ann", "bob", "0", "1", "5", "0", "5", "x-0", "x-5"]
    assert opened.names("person", np.arange(9)).tolist() == names
    numbers = opened.column("person_id", np.arange(9)).tolist()
    assert numbers[5] == 0 and numbers[4] == numbers[6]
    assert len(set(numbers)) == 8 and numbers.count(0) == 1
    for name, row in (("ann", 0), ("x-0", 7)):
        found, others = Filter(persons=(name,)), Filter(not_persons=(name,))
        assert opened.search(np.ones(DIM), 9, found).rows.tolist() == [[row]]
        assert set(opened.search(np.ones(DIM), 9, others).rows[0].tolist()) == {*range(9)} - {row}
    remove(gallery, how, which=Filter(persons=("ann",)), erase=True)
    assert 0 not in Gallery(gallery).search(np.ones(DIM), 9).rows


def test_rows_without_an_image_are_kept_and_never_found(tmp_path: Path, how: Manner) -> None:
    gallery = tmp_path / "g"
    create(gallery, [make_run(tmp_path / "a", 1, missing=[3, 4])], how)
    assert ids_of(gallery) == set(range(30)) - {3, 4}
    assert read_generation(gallery).segments[0].count == 30
    # But what the law wants erased is.
    assert remove(gallery, how, which=Filter(persons=(4, 5)), erase=True).rows == 12


def test_filters_are_of_cameras_persons_and_time(tmp_path: Path, how: Manner) -> None:
    times = ["" if i % 7 == 0 else str(1000 + i) for i in range(30)]
    gallery = tmp_path / "g"
    create(gallery, [make_run(tmp_path / "a", 1, extra={"time": times})], how)
    add(gallery, make_run(tmp_path / "b", 2), how)
    opened = Gallery(gallery)

    def found(**which: Any) -> set[int]:
        return set(opened.search(np.ones(DIM), 60, Filter(**which)).rows[0].tolist())

    every = set(range(60))
    assert found(cameras=(1, "3")) == {r for r in every if r % 30 % 3 in (0, 2)}
    assert found(not_persons=(1, 2)) == {r for r in every if r % 30 % 5 > 1}
    assert found(persons=(1, 2), not_persons=(2,)) == {r for r in every if r % 30 % 5 == 0}
    assert found(since=1010) == {r for r in range(10, 30) if r % 7}
    assert found(until=1010) == {r for r in range(11) if r % 7}
    assert found(since=1010, until=1010) == {10}
    nothing = opened.search(np.ones((3, DIM)), 5, Filter(persons=("nobody",)))
    assert nothing.rows.shape == nothing.scores.shape == (3, 0) and nothing.exact.all()


@pytest.mark.parametrize("word", ["--5", "-", "1_0", "9" * 5000, "²", "٥"])
def test_what_is_no_number_is_a_name_that_no_row_has(
    tmp_path: Path, how: Manner, word: str
) -> None:
    create(tmp_path / "g", [make_run(tmp_path / "a", 1)], how)
    opened, which = Gallery(tmp_path / "g"), Filter(persons=(word,), cameras=(word, 1))
    assert opened.search(np.ones(DIM), 9, which).rows.shape == (1, 0)
    assert opened.unmatched(which) == [f"camera {word}", f"person {word}"]
    (tmp_path / "g" / "generations" / "².json").write_text("{}")
    assert old_numbers(tmp_path / "g") == [1]


def test_what_is_not_known_is_meant_by_no_word(
    tmp_path: Path, how: Manner, said: list[str]
) -> None:
    persons, cameras = [NO_PERSON, 0, 1, JUNK], [NO_CAMERA, 0, 1, 2]
    names = {"person_name": ["", "Ann", "Bob", ""], "camera_name": ["", "yard", "", "gate"]}
    gallery = tmp_path / "g"
    runs = [
        make_run(tmp_path / "a", 1, 4, persons=persons, cameras=cameras, extra=names),
        make_run(tmp_path / "b", 2, 4, persons=persons, cameras=cameras),
    ]
    create(gallery, runs, how)
    opened = Gallery(gallery)
    for word in (NO_PERSON, "-2", "", "\0", "Ann\0", "\xff\0"):
        for which in (Filter(persons=(word,)), Filter(cameras=(word,))):
            assert opened.search(np.ones(DIM), 9, which).rows.shape == (1, 0), which
            assert len(opened.unmatched(which)) == 1
        assert opened.search(np.ones(DIM), 9, Filter(not_persons=(word,))).rows.shape == (1, 8)
    assert opened.search(np.ones(DIM), 9, Filter(cameras=(NO_CAMERA,))).rows.shape == (1, 0)
    # Junk has a number.
    assert set(opened.search(np.ones(DIM), 9, Filter(persons=(JUNK,))).rows[0].tolist()) == {3, 7}
    for which in (Filter(persons=("-2",)), Filter(cameras=("-1",))):
        assert remove(gallery, how, which=which, erase=True).rows == 0
    assert said == [f"{gallery}: no row has {word}" for word in ("person -2", "camera -1")]


def test_a_name_that_is_no_utf8_is_found_as_it_is_kept(tmp_path: Path, how: Manner) -> None:
    names = {"person_name": [r"Jos\xe9", "Ann"]}
    create(tmp_path / "g", [make_run(tmp_path / "a", 1, 2, persons=[1, 2], extra=names)], how)
    opened, word = Gallery(tmp_path / "g"), os.fsdecode(b"Jos\xe9")
    found = opened.search(np.ones(DIM), 9, Filter(persons=(word,)))
    assert found.rows.tolist() == [[0]] and opened.unmatched(Filter(persons=(word,))) == []
    other = Filter(cameras=(os.fsdecode(b"\xff"),))
    assert opened.unmatched(other) == [r"camera \xff"]


def test_another_feature_space_is_refused_by_its_fields(tmp_path: Path, how: Manner) -> None:
    gallery = tmp_path / "g"
    create(gallery, [make_run(tmp_path / "a", 1)], how)
    other = make_run(tmp_path / "b", 2, identity={"imported": "other"})
    wider = make_run(tmp_path / "c", 3, features=features_of(3, 9, 20))
    for run, field in ((other, "imported: the gallery has test, the run other"), (wider, "dim: ")):
        with pytest.raises(StoreError, match=field):
            add(gallery, run, how)
    assert read_generation(gallery).generation == 1
    # Of a gallery that cannot be made nothing is left.
    for copy in (False, True):
        with pytest.raises(StoreError, match="the gallery has test, the run other"):
            create(tmp_path / "new" / "g", [tmp_path / "a", other], how, copy=copy)
        assert not (tmp_path / "new").exists()


def test_another_engine_is_taken_and_said(tmp_path: Path, how: Manner, said: list[str]) -> None:
    gallery = tmp_path / "g"
    create(gallery, [make_run(tmp_path / "a", 1)], how)
    add(gallery, make_run(tmp_path / "b", 2, identity={"engine": "openvino"}), how)
    assert said == [
        "computed in another way, and taken: engine: the gallery's first run has torch, "
        "this openvino"
    ]
    for prefix, first in (("", None), ("north-", 60), ("north-", None)):
        if first is None:
            with pytest.raises(StoreError, match="has this run already"):
                add(gallery, tmp_path / "b", how, prefix=prefix)
        else:
            assert add(gallery, tmp_path / "b", how, prefix=prefix) == first


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_reader_keeps_its_generation(
    tmp_path: Path, how: Manner, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "LEAST_ROWS", 50)
    gallery = tmp_path / "g"
    create(gallery, [make_run(tmp_path / "a", 1, 60, dtype=dtype)], how, copy=True)
    before = Gallery(gallery)
    expected = before.search(features_of(1, 5), 60)
    add(gallery, make_run(tmp_path / "b", 2, dtype=dtype), how, copy=True)
    remove(gallery, how, which=Filter(cameras=(1,)))
    compact(gallery, how)
    again = before.search(features_of(1, 5), 60)
    assert (again.rows == expected.rows).all() and (again.scores == expected.scores).all()
    assert len(ids_of(gallery)) == 60 and len(old_numbers(gallery)) == 2
    before.close()
    remove(gallery, how, rows=[1])
    assert len(old_numbers(gallery)) == 1
    names = {entry.name for entry in (gallery / "rows").iterdir()}
    assert names == {Path(s.rows).name for s in read_generation(gallery).segments}


def test_earlier_generations_stay_as_long_as_is_asked(tmp_path: Path, how: Manner) -> None:
    gallery = tmp_path / "g"
    create(gallery, [make_run(tmp_path / "a", 1)], how)
    keeping = Manner(say=print, keep_s=3600)
    remove(gallery, keeping, rows=[1])
    remove(gallery, keeping, rows=[2])
    assert old_numbers(gallery) == [1, 2, 3]
    remove(gallery, how, rows=[3])
    assert old_numbers(gallery) == [4]


def test_what_is_erased_is_in_no_byte(
    tmp_path: Path, how: Manner, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "LEAST_ROWS", 50)
    gallery, elsewhere = tmp_path / "g", tmp_path / "b"
    names = {"person_name": [f"who{i % 5 + 1}" for i in range(30)]}
    create(gallery, [make_run(tmp_path / "a", 1, extra=names)], how, copy=True)
    add(gallery, make_run(elsewhere, 2, extra=names), how)
    remove(gallery, how, rows=[2])  # hidden first
    gone = [row for row in range(30) if row % 5 == 2]
    reader = Gallery(gallery)
    reader.search(np.ones(DIM))
    for run in (1, 2):
        assert files_with(gallery, path_of(run, 2).encode())
    done = remove(gallery, how, which=Filter(persons=("who3",)), erase=True)
    assert done.rows == 12 and done.elsewhere == (str(elsewhere),)
    assert "process" in done.readers and any("process" in line for line in said)
    with pytest.raises(StoreError, match="open the gallery again"):
        reader.search(np.ones(DIM))
    for run in (1, 2):
        for row in range(30):
            feature = features_of(run, 30)[row].tobytes()
            found = files_with(gallery, path_of(run, row).encode())
            assert bool(found) == (row not in gone)
            assert bool(files_with(gallery, feature)) == (run == 1 and row not in gone)
    assert not files_with(gallery, b"who3") and files_with(gallery, b"who2")
    assert ids_of(gallery) == {r for r in range(60) if r % 30 not in gone}
    assert verify_gallery(gallery) == []


def test_what_is_erased_is_overwritten_where_it_stood(tmp_path: Path, how: Manner) -> None:
    gallery = tmp_path / "g"
    create(gallery, [make_run(tmp_path / "a", 1)], how, copy=True)
    before = [file for folder in ("rows", "runs") for file in (gallery / folder).rglob("*.*")]
    kept = [tmp_path / f"kept {number}" for number in range(len(before))]
    for file, link in zip(before, kept, strict=True):
        os.link(file, link)
    remove(gallery, how, rows=[2], erase=True)
    assert not any(file.exists() for file in before)
    assert len(kept) > 5 and not any(any(link.read_bytes()) for link in kept)


def test_an_erasure_that_was_interrupted_is_said_and_finished_by_the_next_writer(
    tmp_path: Path, how: Manner, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery, path = tmp_path / "g", path_of(1, 2).encode()
    create(gallery, [make_run(tmp_path / "a", 1)], how)

    def killed(*_: Any) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(changes, "finish_erasing", killed)
        patch.setattr(changes, "sweep", lambda *_: None)
        with pytest.raises(KeyboardInterrupt):
            remove(gallery, how, rows=[2], erase=True)
    assert files_with(gallery, path)
    (line,) = verify_gallery(gallery)
    assert line.endswith("erasing was interrupted; run distreid gallery compact to finish it")
    compact(gallery, how)
    assert verify_gallery(gallery) == [] and not files_with(gallery, path)


def test_an_erasure_in_the_midst_of_a_search_leaves_it_without_an_answer(
    tmp_path: Path, how: Manner, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery = tmp_path / "g"
    create(gallery, [make_run(tmp_path / "a", 1)], how)
    opened = Gallery(gallery)

    def erasing(*arguments: Any) -> Any:
        found = exact_search.search(*arguments)
        remove(gallery, how, rows=[2], erase=True)
        return found

    monkeypatch.setattr("distreid.search.gallery.search", erasing)
    with pytest.raises(StoreError, match="is gone, with rows that were erased"):
        opened.search(np.ones(DIM))


def test_codes_of_two_levels_outlive_an_erasure(
    tmp_path: Path, how: Manner, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def learnt(*arguments: Any) -> Any:
        directions, tried = learn(*arguments)
        return dataclasses.replace(directions, scanned=directions.count // 2), tried

    monkeypatch.setattr(index, "LEAST_ROWS", 50)
    monkeypatch.setattr(index, "learn", learnt)
    gallery = tmp_path / "g"
    create(gallery, [make_run(tmp_path / "a", 1, 90), make_run(tmp_path / "b", 2)], how, copy=True)
    remove(gallery, how, rows=[3, 100], erase=True)
    assert verify_gallery(gallery) == [] and ids_of(gallery) == {*range(120)} - {3, 100}
    assert Gallery(gallery).search(features_of(1, 90)[50], 1).rows.tolist() == [[50]]
    # Where such an array is lost, that is said and mended.
    (missing, *_) = (gallery / "index").rglob("rest.npy")
    missing.unlink()
    checksums = missing.with_name("checksums.json")
    known = json.loads(checksums.read_text())
    checksums.write_text(json.dumps({name: known[name] for name in known if name != missing.name}))
    (line,) = verify_gallery(gallery)
    assert "rest.npy: missing" in line and "compact makes the codes anew" in line
    assert compact(gallery, how)["learnt_anew"] and "rest.npy" in "".join(said)
    assert verify_gallery(gallery) == [] and ids_of(gallery) == {*range(120)} - {3, 100}


def test_what_a_run_was_calibrated_to_is_copied_and_outlives_an_erasure(
    tmp_path: Path, how: Manner, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "a", 1)
    point = {"threshold": 0.75, "false_rate": 0.01}
    (run / "calibration.json").write_text(json.dumps({"identification": [point]}))
    create(tmp_path / "g", [run], how, copy=True)
    shutil.rmtree(run)
    for row in (3, 4):
        with open_gallery(tmp_path / "g") as opened:
            assert calibrated_threshold(opened) == 0.75
        assert "in the gallery from 0.7500" in capsys.readouterr().err
        remove(tmp_path / "g", how, rows=[row], erase=True)


def test_a_whole_run_can_be_erased_though_it_is_gone(tmp_path: Path, how: Manner) -> None:
    gallery, run = tmp_path / "g", tmp_path / "b"
    create(gallery, [make_run(tmp_path / "a", 1), make_run(run, 2)], how)
    shutil.rmtree(run)
    with pytest.raises(StoreError, match=r"000000\.h5: No such file"):
        Gallery(gallery)
    assert any("b: a run of the gallery that is gone" in line for line in verify_gallery(gallery))
    remove(gallery, how, rows=range(30, 60), erase=True)
    assert ids_of(gallery) == set(range(30))
    remove(gallery, how, rows=range(30), erase=True)
    assert Gallery(gallery).search(np.ones(DIM)).rows.shape == (1, 0)


def test_a_run_that_changed_underneath_is_named(tmp_path: Path, how: Manner) -> None:
    gallery, run = tmp_path / "g", tmp_path / "a"
    create(gallery, [make_run(run, 1)], how)
    shard = run / "shards" / "000001.h5"
    content = shard.read_bytes()
    shard.write_bytes(content)  # the same bytes, at another time
    assert Gallery(gallery).count == 30
    for changed, words in (
        (content[:-100], "another file than when the run was added"),
        (content[:5000] + b"?" + content[5001:], "do not fit their checksum"),
    ):
        shard.write_bytes(changed)
        with pytest.raises(StoreError, match=rf"000001\.h5.*{words}"):
            Gallery(gallery)
        assert any("000001.h5" in line for line in verify_gallery(gallery))


def test_small_runs_keep_no_file_open(tmp_path: Path, how: Manner) -> None:
    gallery, names = tmp_path / "g", {"person_name": ["ann", "bob", "eve"] * 10}
    create(gallery, [make_run(tmp_path / f"{n}", n, extra=names) for n in range(3)], how)
    opened = Gallery(gallery)
    found = opened.search(np.ones(DIM), 90, Filter(persons=("ann",), cameras=(1, 2)))
    assert set(opened.names("person", found.place).ravel().tolist()) == {"ann"}
    opened.column("path", found.place)
    files = [os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if entry.is_symlink()]
    assert [file for file in files if file.startswith(str(tmp_path))] == []


def test_too_many_open_files_are_no_damage(tmp_path: Path, how: Manner) -> None:
    gallery = tmp_path / "g"
    create(gallery, [make_run(tmp_path / "a", 1)], how)
    (segment,) = read_generation(gallery).segments
    opened = Columns(gallery / segment.rows)
    assert len(opened.facts) and len(opened.source)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    for does in (
        lambda: Columns(gallery / segment.rows).facts,
        lambda: Columns(gallery / segment.rows).row,
        lambda: opened.stored(Path(segment.run)),
    ):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
            with pytest.raises(StoreError, match=r"too many open files; raise the limit: ulimit"):
                does()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_damaged_byte_of_the_gallery_is_found(tmp_path: Path, how: Manner) -> None:
    gallery = tmp_path / "g"
    create(gallery, [make_run(tmp_path / "a", 1)], how)
    assert verify_gallery(gallery) == []
    file = next((gallery / "rows").glob("*/path.npy"))
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    assert any("path.npy: its bytes do not fit" in line for line in verify_gallery(gallery))


@pytest.mark.parametrize("ids", [range(30), [30, 32, 31, *range(33, 60)]])
def test_ids_that_are_not_those_of_a_run_are_found(
    tmp_path: Path, how: Manner, ids: Sequence[int]
) -> None:
    """In files that fit their checksums, as by a writer gone wrong."""
    gallery = tmp_path / "g"
    create(gallery, [make_run(tmp_path / "a", 1), make_run(tmp_path / "b", 2)], how)
    folder = gallery / read_generation(gallery).segments[1].rows
    arrays = {file.stem: np.load(file) for file in folder.glob("*.npy")}
    facts = read_facts(folder)
    assert arrays["row"].tolist() == [*range(30, 60)]
    shutil.rmtree(folder)
    write_arrays(folder, arrays | {"row": np.array(ids, np.int64)}, facts)
    assert verify_gallery(gallery) == [f"{folder}: its row ids are not those of its run"]


def test_a_generation_is_kept_before_it_is_the_gallerys(
    tmp_path: Path, how: Manner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or else whoever finds it there would take it for one that was erased."""
    gallery, published = tmp_path / "g", list[str]()
    create(gallery, [make_run(tmp_path / "a", 1)], how)

    def noted(file: Path, text: str) -> None:
        published.append(file.name)
        publish_text(file, text)

    monkeypatch.setattr("distreid.search.generation.publish_text", noted)
    remove(gallery, how, rows=[1])
    assert published == ["00000002.json", "gallery.json"]


def test_a_generation_that_goes_before_it_is_held_is_not_taken(
    tmp_path: Path, how: Manner, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery = tmp_path / "g"
    create(gallery, [make_run(tmp_path / "a", 1)], how)

    def too_late(file: Path, text: str) -> None:
        monkeypatch.undo()
        remove(gallery, how, rows=[1])
        publish_text(file, text)

    monkeypatch.setattr("distreid.search.readers.publish_text", too_late)
    held = readers.hold_current(gallery)
    assert held.generation.generation == 2 and held.is_valid
    held.release()
    assert not [*(gallery / "readers").iterdir()]


def test_a_reader_of_another_machine_is_one_as_long_as_it_gives_signs(
    tmp_path: Path, how: Manner
) -> None:
    gallery = tmp_path / "g"
    create(gallery, [make_run(tmp_path / "a", 1)], how)
    holder = dataclasses.replace(Holder.this_process(), host="node7", machine="another boot")
    living, dead = (gallery / "readers" / f"{n}-node7-1-0.hold" for n in (1, 2))
    for file in (living, dead):
        file.write_text(json.dumps(dataclasses.asdict(holder)))
    now = living.stat().st_mtime
    os.utime(dead, (now, now - DEAD_AFTER_S - 1))
    assert readers.read_generations(gallery) == {1: [living]}
    assert [*(gallery / "readers").iterdir()] == [living]


def test_one_writer_at_a_time(tmp_path: Path, how: Manner) -> None:
    gallery = tmp_path / "g"
    create(gallery, [make_run(tmp_path / "a", 1)], how)
    waiting: list[str] = []
    with hold(gallery, print):
        with pytest.raises(StoreError, match="another job is at work there"):
            remove(gallery, how, rows=[1])
        patient = Manner(say=waiting.append)
        thread = threading.Thread(target=remove, args=(gallery, patient), kwargs={"rows": [1]})
        thread.start()
        deadline = time.monotonic() + 60
        while not waiting and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "waiting for it" in waiting[0]
        assert read_generation(gallery).generation == 1
    thread.join()
    assert read_generation(gallery).generation == 2


def test_what_a_dead_writer_left_is_cleared(tmp_path: Path, how: Manner) -> None:
    gallery = tmp_path / "g"
    create(gallery, [make_run(tmp_path / "a", 1)], how)
    for left in ("rows/000001-00000002", "runs/000001", "index/000001-00000002"):
        (gallery / left).mkdir()
        (gallery / left / "half").write_bytes(b"half")
    (gallery / "generations" / "00000002.json").write_text("{}")
    dead = gallery / "readers" / "1-here-999999-00.hold"
    holder = {"host": "here", "pid": 99_999_999, "pid_start": 1, "machine": "", "started": ""}
    dead.write_text(json.dumps(holder | {"machine": Holder.this_process().machine}))
    assert add(gallery, make_run(tmp_path / "b", 2), how) == 30
    assert not list(gallery.rglob("half")) and not dead.exists()
    assert old_numbers(gallery) == [2]


@pytest.mark.parametrize("place", ["runs/market", "labels", "rows/x", "readers", "generations"])
def test_a_folder_of_the_users_is_no_place_for_a_gallery(
    tmp_path: Path, how: Manner, place: str
) -> None:
    own = tmp_path / "g" / place / "1.txt"
    own.parent.mkdir(parents=True)
    own.write_text("mine")
    with pytest.raises(StoreError, match="not empty, and no gallery; give another name"):
        create(tmp_path / "g", [make_run(tmp_path / "a", 1)], how)
    assert own.read_text() == "mine"
    assert [file for file in (tmp_path / "g").rglob("*") if file.is_file()] == [own]


def test_a_gallery_that_another_made_meanwhile_stays(tmp_path: Path, how: Manner) -> None:
    gallery, waiting = tmp_path / "g", list[str]()
    runs = [make_run(tmp_path / "a", 1), make_run(tmp_path / "b", 2)]
    with ThreadPoolExecutor(1) as threads:
        with hold(gallery, print):
            second = threads.submit(create, gallery, runs, Manner(say=waiting.append), copy=True)
            wait_until(lambda: bool(waiting))
            create(tmp_path / "h", runs[:1], how, copy=True)
            for entry in (tmp_path / "h").iterdir():
                entry.rename(gallery / entry.name)
        with pytest.raises(StoreError, match="there is a gallery already"):
            second.result()
    assert ids_of(gallery) == set(range(30))


def test_what_is_not_the_gallerys_is_left_where_it_is(tmp_path: Path, how: Manner) -> None:
    gallery = tmp_path / "g"
    create(gallery, [make_run(tmp_path / "a", 1)], how, copy=True)
    own = make_run(gallery / "runs" / "mine", 2)
    others = [gallery / "notes.tmp", gallery / "labels" / "1.txt", gallery / "index" / "12.faiss"]
    for file in others:
        file.write_text("mine")
    for copy in (False, True):
        with pytest.raises(OptionError, match="mine: lies in the folder of the gallery"):
            add(gallery, own, how, copy=copy)
    remove(gallery, how, rows=[1], erase=True)
    compact(gallery, how)
    assert (own / "store.h5").exists() and [file.read_text() for file in others] == ["mine"] * 3


def test_a_full_disk_in_add_leaves_the_gallery(
    tmp_path: Path, how: Manner, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery = tmp_path / "g"
    create(gallery, [make_run(tmp_path / "a", 1)], how)
    run = make_run(tmp_path / "b", 2)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        with pytest.raises(StoreError, match="No space left on device; make room"):
            add(gallery, run, how)
    assert ids_of(gallery) == set(range(30)) and len(list((gallery / "rows").iterdir())) == 1
    assert add(gallery, run, how) == 30


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no gallery; make one"),
        ("{", "damaged"),
        ('{"format": 99, "segments": []}', "format 99, this distreid reads 1"),
        ('{"format": 1}', "damaged"),
        ("[]", "damaged"),
    ],
)
def test_what_is_no_gallery_is_refused(tmp_path: Path, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / "gallery.json").write_text(content)
    with pytest.raises(StoreError, match=words):
        Gallery(tmp_path)
    with pytest.raises(StoreError, match=words):
        add(tmp_path, tmp_path, Manner(say=print))


@pytest.mark.parametrize(
    ("features", "words"),
    [
        (np.ones(DIM - 1), "16 dimensions"),
        (np.zeros((2, DIM)), r"feature 0 \(from 0\) is zero"),
        (np.array([[1.0] * DIM, [np.nan] * DIM]), r"feature 1 \(from 0\) holds NaN"),
        (np.array(["a"] * DIM), "real numbers"),
    ],
)
def test_what_cannot_be_a_query_is_refused(
    tmp_path: Path, how: Manner, features: Any, words: str
) -> None:
    create(tmp_path / "g", [make_run(tmp_path / "a", 1)], how)
    with pytest.raises(OptionError, match=words):
        Gallery(tmp_path / "g").search(features)


def test_more_than_there_are_gives_all(tmp_path: Path, how: Manner) -> None:
    create(tmp_path / "g", [make_run(tmp_path / "a", 1)], how)
    assert Gallery(tmp_path / "g").search(np.ones(DIM), 1000).rows.shape == (1, 30)


@pytest.mark.parametrize(
    ("top", "words"),
    [
        (0, "top 0: give 1 or more"),
        (10.0, r"top 10\.0: a whole number is wanted"),
        (True, "top True: a whole number"),
        ("3", "top '3': a whole number"),
    ],
)
def test_how_many_is_a_whole_number(tmp_path: Path, how: Manner, top: Any, words: str) -> None:
    create(tmp_path / "g", [make_run(tmp_path / "a", 1)], how)
    opened = Gallery(tmp_path / "g")
    assert opened.search(np.ones(DIM), np.int64(3)).rows.shape == (1, 3)
    with pytest.raises(OptionError, match=words):
        opened.search(np.ones(DIM), top)
    for fused in ("max", "rank"):
        with pytest.raises(OptionError, match=words):
            search_fused(opened, np.ones(DIM), fused, top)


def test_fused_answers_are_those_of_their_definitions(tmp_path: Path, how: Manner) -> None:
    create(tmp_path / "g", [make_run(tmp_path / "a", 1, 200)], how)
    opened, rows = Gallery(tmp_path / "g"), features_of(1, 200).astype(np.float64)
    queries = features_of(2, 30).astype(np.float64)
    scores = queries @ rows.T
    ranks = np.argsort(np.argsort(-scores, axis=1), axis=1) + 1
    wanted = {
        "mean": scores.mean(axis=0) / np.linalg.norm(queries.mean(axis=0)),
        "max": scores.max(axis=0),
        "rank": np.where(ranks <= 100, 1 / (60 + ranks), 0).sum(axis=0),
    }
    for name, score in wanted.items():
        hits = search_fused(opened, queries, name, 10)
        assert hits.rows[0].tolist() == np.argsort(-score)[:10].tolist(), name
        np.testing.assert_allclose(hits.scores[0], np.sort(score)[::-1][:10], atol=1e-6)
        assert hits.exact.tolist() == [True]


def test_of_rows_that_are_fused_to_one_score_the_smaller_comes_first(
    tmp_path: Path, how: Manner
) -> None:
    create(tmp_path / "g", [make_run(tmp_path / "a", 1, 2)], how)
    opened, rows = Gallery(tmp_path / "g"), features_of(1, 2)
    for queries in (rows, rows[::-1]):  # each row is first for one query and second for the other
        hits = search_fused(opened, queries, "rank", 2)
        assert hits.rows[0].tolist() == [0, 1]
        assert hits.scores[0, 0] == hits.scores[0, 1]


@pytest.mark.parametrize("fused", ["max", "mean"])
def test_equal_rows_of_a_fused_answer_are_ordered_by_their_ids(
    tmp_path: Path, how: Manner, fused: str
) -> None:
    same = np.tile(features_of(1, 1), (7, 1))
    create(tmp_path / "g", [make_run(tmp_path / "a", 1, features=same)], how)
    hits = search_fused(Gallery(tmp_path / "g"), features_of(2, 3), fused, 5)
    assert hits.rows.tolist() == [[0, 1, 2, 3, 4]]


def test_several_threads_search_one_gallery(
    tmp_path: Path, how: Manner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "LEAST_ROWS", 50)
    monkeypatch.setattr(index, "ASKED_ROWS", 5)
    create(tmp_path / "g", [make_run(tmp_path / "a", 1, 300), make_run(tmp_path / "b", 2, 40)], how)
    alone, opened = Gallery(tmp_path / "g"), Gallery(tmp_path / "g")
    queries = [features_of(seed, count) for seed, count in enumerate((1, 3, 9, 20) * 6)]
    wanted = [alone.search(query, 7) for query in queries]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda query: opened.search(query, 7), queries))
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.rows.tolist() == theirs.rows.tolist()
        assert ours.scores.tobytes() == theirs.scores.tobytes()


CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.booleans()),
        st.tuples(st.just("remove"), st.integers(0, 400)),
        st.tuples(st.just("erase"), st.integers(0, 400)),
        st.tuples(st.just("hide person"), st.integers(1, 5)),
        st.tuples(st.just("compact"), st.just(0)),
    ),
    max_size=6,
)


@settings(max_examples=25)
@given(CHANGES, st.integers(0, 2**32 - 1))
def test_any_history_answers_as_brute_force(
    tmp_path_factory: pytest.TempPathFactory, history: list[tuple[str, int]], seed: int
) -> None:
    root = tmp_path_factory.mktemp("history")
    gallery, how, rng = root / "g", Manner(say=lambda _: None), np.random.default_rng(seed)
    truth: dict[int, tuple[np.ndarray[Any, Any], int]] = {}
    hidden: set[int] = set()

    def insert(number: int, first: int) -> None:
        for i, feature in enumerate(features_of(number, 30)):
            truth[first + i] = feature, i % 5 + 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "LEAST_ROWS", 50)
        patch.setattr(index, "ASKED_ROWS", 5)
        create(gallery, [make_run(root / "0", 0)], how)
        insert(0, 0)
        for number, (what, value) in enumerate(history, start=1):
            if what == "add":
                run = make_run(root / f"{number}", number)
                insert(number, add(gallery, run, how, copy=bool(value)))
            elif what == "hide person":
                remove(gallery, how, which=Filter(persons=(value,)))
                hidden |= {row for row, (_, person) in truth.items() if person == value}
            elif what == "compact":
                compact(gallery, how)
            elif rows := [row for row in truth if row % 400 in range(value, value + 20)]:
                if any(row in hidden for row in rows) and what == "remove":
                    rows = [row for row in rows if row not in hidden]
                if rows and not (hidden and what == "erase"):
                    remove(gallery, how, rows=rows, erase=what == "erase")
                    hidden |= set(rows)
        opened = Gallery(gallery)
        queries = rng.standard_normal((3, DIM))
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
        for which, kept in (
            (Filter(), {1, 2, 3, 4, 5}),
            (Filter(persons=(2, 3)), {2, 3}),
            (Filter(not_persons=(1,)), {2, 3, 4, 5}),
        ):
            ids = np.array(
                sorted(r for r, (_, p) in truth.items() if p in kept and r not in hidden), int
            )
            hits = opened.search(queries, 7, which)
            assert hits.exact.all()
            for query, found in zip(queries, hits.rows, strict=True):
                scores = [np.float32((truth[r][0].astype(np.float64) * query).sum()) for r in ids]
                order = np.lexsort((ids, -np.array(scores)))[:7]
                assert found.tolist() == ids[order].tolist()
        opened.close()
        assert verify_gallery(gallery) == []
    shutil.rmtree(root)


def test_a_shard_that_is_being_wiped_is_another_file(tmp_path: Path) -> None:
    gallery = tmp_path / "g"
    create(gallery, [make_run(tmp_path / "run", 1)], Manner(say=print), copy=True)
    (shard, *_) = sorted((gallery / "runs").rglob("shards/*.h5"))
    shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(StoreError, match="another file than when the run was added"):
        Gallery(gallery)
