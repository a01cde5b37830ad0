"""Images that are sent become rows once, with their pictures, and go without a trace."""

from __future__ import annotations

import contextlib
import json
import shutil
import unicodedata
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY
from small_runs import DIM, features_of, make_run

from distreid.data.labels import CAMERA, PERSON
from distreid.data.manifest import JUNK, NO_CAMERA, NO_PERSON
from distreid.errors import OptionError
from distreid.search import approximate, index, sent_images
from distreid.search.approximate import build, search_approximately
from distreid.search.changes import Manner, compact, create, remove
from distreid.search.changes import add as add_run
from distreid.search.gallery import Filter, Gallery
from distreid.search.gallery_check import verify_gallery
from distreid.search.generation import read_generation
from distreid.search.sent_images import AddedImages, SentImages, _numbered, add_images
from distreid.store import FeatureStore

QUIET = Manner(say=lambda line: None)
HOW = {"file": "f" * 64}


def sent(first: int, count: int, key: str = "", **known: list[str]) -> SentImages:
    """Rows of `features_of(9)`, whose pictures say which they are."""
    empty = [""] * count
    return SentImages(
        key=key,
        images=[b"picture %d" % (first + i) for i in range(count)],
        features=features_of(9, 40)[first : first + count],
        persons=known.get("persons", empty),
        cameras=known.get("cameras", empty),
        times=[float(first + i) for i in range(count)],
    )


@pytest.fixture
def gallery(tmp_path: Path) -> Path:
    names = {"person_name": ["Eve", "7"] * 15}
    run = make_run(tmp_path / "run", 1, persons=[1, 2] * 15, extra=names)
    create(tmp_path / "g", [run], QUIET)
    return tmp_path / "g"


def add(gallery: Path, *asked: SentImages) -> list[AddedImages | OptionError]:
    return add_images(gallery, asked, HOW, QUIET)


def test_requests_of_a_group_are_one_generation_with_their_pictures(gallery: Path) -> None:
    one = sent(0, 2, persons=["Eve", ""], cameras=["yard", "3"])
    two = sent(2, 3, persons=["7", "Bob", "12"])
    assert add(gallery, one, two) == [
        AddedImages(first_row=30, count=2, generation=2),
        AddedImages(first_row=32, count=3, generation=2),
    ]
    moved = shutil.move(gallery, gallery.parent / "moved")
    assert verify_gallery(Path(moved)) == []
    opened = Gallery(Path(moved))
    found = opened.search(features_of(9, 5), 1)
    assert found.rows[:, 0].tolist() == [*range(30, 35)]
    assert opened.names("person", found.place)[:, 0].tolist() == [
        "Eve",
        "unknown",
        "7",
        "Bob",
        "12",
    ]
    assert opened.names("camera", found.place)[:, 0].tolist() == [
        "yard",
        "3",
        "unknown",
        "unknown",
        "unknown",
    ]
    assert opened.column("time", found.place)[:, 0].tolist() == [0, 1, 2, 3, 4]
    # Persons that the gallery knew by name are who they were.
    for name, row in (("Eve", 30), ("7", 32)):
        ids = opened.search(features_of(9, 5), 99, Filter(persons=(name,))).rows[0]
        assert row in ids and len(ids) == 16
    for place, number in zip(found.place[:, 0].tolist(), range(5), strict=True):
        assert opened.file(place).read_bytes() == b"picture %d" % number


def test_a_number_that_is_sent_is_whom_a_run_has_by_it(gallery: Path, tmp_path: Path) -> None:
    add(gallery, sent(0, 2, persons=["7", "12"]))
    add_run(gallery, make_run(tmp_path / "more", 2, 2, persons=[7, 12]), QUIET)
    opened = Gallery(gallery)
    persons = opened.column("person_id", np.arange(opened.count)).tolist()
    assert persons[30:32] == persons[32:34] and persons[30] == persons[1]


def test_a_request_with_a_key_adds_once(gallery: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = add(gallery, sent(0, 1, "a"), sent(1, 1, "b"), sent(0, 1, "a"))
    assert [done.first_row for done in first if isinstance(done, AddedImages)] == [30, 31, 30]
    again = add(gallery, sent(1, 1, "b"))
    assert again == [first[1]]
    assert Gallery(gallery).generation.generation == 2, "nothing was added"
    (other,) = add(gallery, sent(2, 1, "b"))
    assert isinstance(other, OptionError) and "used for other images" in str(other)
    # Erasing the row does not forget the key; a day does.
    remove(gallery, QUIET, rows=[31], erase=True)
    assert add(gallery, sent(1, 1, "b")) == [first[1]]
    monkeypatch.setattr(sent_images, "KEPT_S", -1)
    (late,) = add(gallery, sent(1, 1, "b"))
    assert isinstance(late, AddedImages) and late.first_row == 32


def test_erasing_takes_the_picture_and_leaves_the_others(gallery: Path) -> None:
    add(gallery, sent(0, 3, persons=["Eve", "Bob", "Bob"]))
    before = [file for file in gallery.rglob("*") if file.is_file() and b"picture 1" in read(file)]
    assert len(before) == 1
    done = remove(gallery, QUIET, rows=[31], erase=True)
    assert done.rows == 1 and done.elsewhere == ()
    assert not any(b"picture 1" in read(f) for f in gallery.rglob("*") if f.is_file())
    opened = Gallery(gallery)
    found = opened.search(features_of(9, 3), 1)
    assert found.rows[[0, 2], 0].tolist() == [30, 32] and found.scores[1, 0] < 0.99
    assert opened.file(int(found.place[2, 0])).read_bytes() == b"picture 2"
    opened.close()
    remove(gallery, QUIET, rows=[30])
    assert compact(gallery, QUIET)["dropped"] == 1
    assert not any(b"picture 0" in read(f) for f in gallery.rglob("*") if f.is_file())
    assert verify_gallery(gallery) == []


def test_a_picture_that_is_gone_or_damaged_is_found(gallery: Path) -> None:
    add(gallery, sent(0, 3))
    remove(gallery, QUIET, rows=[30], erase=True)
    assert verify_gallery(gallery) == []
    (damaged,), (gone,) = gallery.rglob("images/*/31.png"), gallery.rglob("images/*/32.png")
    damaged.write_bytes(b"picture 2")
    gone.unlink()
    assert verify_gallery(gallery) == [
        f"{damaged}: its bytes do not fit their checksum; restore the picture, or erase row 31",
        f"{gone}: No such file or directory; restore the picture, or erase row 32",
    ]
    # What can be done about it can be done one by one.
    remove(gallery, QUIET, rows=[31], erase=True)
    (line,) = verify_gallery(gallery)
    assert line.endswith("32.png: No such file or directory; restore the picture, or erase row 32")
    remove(gallery, QUIET, rows=[32], erase=True)
    assert verify_gallery(gallery) == []


WHO = ["Eve", "", "12", "Bob", "7"] * 5
WHERE = ["yard", "3", "", "gate", "5"] * 5


def send(gallery: Path, first: int, last: int) -> list[list[int]]:
    """Sends rows one by one; gives how many rows each run of images has after each."""
    counts = []
    for i in range(first, last):
        (done,) = add(gallery, sent(i, 1, persons=[WHO[i]], cameras=[WHERE[i]]))
        assert isinstance(done, AddedImages) and done.first_row == 30 + i
        counts.append([segment.count for segment in read_generation(gallery).segments[1:]])
    return counts


def test_images_that_are_sent_one_by_one_become_few_runs(
    gallery: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sent_images, "MOST_JOINED_ROWS", 8)
    counts = send(gallery, 0, 10)
    assert counts[:9] == [[1], [2], [2, 1], [4], [4, 1], [4, 2], [4, 2, 1], [8], [8, 1]]
    remove(gallery, QUIET, rows=[37, 39])
    assert send(gallery, 10, 21)[-1] == [8, 8, 4, 1]

    def check(place_of: Path, left: list[int]) -> None:
        assert verify_gallery(place_of) == []
        opened = Gallery(place_of)
        found = opened.search(features_of(9, 21), 1)
        assert found.rows[left, 0].tolist() == [30 + i for i in left]
        assert np.array_equal(
            opened.features([30 + i for i in left]), features_of(9, 40)[:21][left]
        )
        place = opened.place_of(np.array([30 + i for i in left]))
        who, where = opened.names("person", place), opened.names("camera", place)
        assert who.tolist() == [WHO[i] or "unknown" for i in left]
        assert where.tolist() == [WHERE[i] or "unknown" for i in left]
        assert opened.column("time", place).tolist() == left
        for i, at in zip(left, place.tolist(), strict=True):
            assert opened.file(at).read_bytes() == b"picture %d" % i
        for name in ("Eve", "7"):
            asked = opened.search(features_of(9, 1), 99, Filter(persons=(name,))).rows[0]
            own = {30 + i for i in left if WHO[i] == name}
            assert {row for row in asked.tolist() if row >= 30} == own and len(asked) > len(own)
        for camera in ("yard", "3"):
            asked = opened.search(features_of(9, 1), 99, Filter(cameras=(camera,))).rows[0]
            assert own_rows(asked) == {30 + i for i in left if WHERE[i] == camera}
        for run in opened.runs[1:]:  # within a run a number is one camera
            manifest = FeatureStore.open(run.run).manifest
            numbers, names = manifest.camera_id.tolist(), manifest.extra["camera_name"].tolist()
            assert len({*numbers}) == len({*zip(numbers, names, strict=True)})
        opened.close()

    def own_rows(rows: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> set[int]:
        return {row for row in rows.tolist() if row >= 30}

    left = [i for i in range(21) if i not in (7, 9)]
    check(gallery, left)
    moved = gallery.parent / "moved"
    shutil.move(gallery, moved)
    remove(moved, QUIET, rows=[33, 50], erase=True)
    left = [i for i in left if i not in (3, 20)]
    check(moved, left)
    assert compact(moved, QUIET)["dropped"] == 2
    check(moved, left)
    # What nobody reads is gone, and everything that is there can be found.
    pictures = sorted(moved.rglob("*.png"))
    assert sorted(int(file.stem) for file in pictures) == [30 + i for i in left]
    assert len([*(moved / "runs").iterdir()]) == 3, "the run of row 50 is gone with it"


def test_only_runs_that_are_next_to_each_other_and_alike_are_joined(
    gallery: Path, tmp_path: Path
) -> None:
    send(gallery, 0, 2)
    add_images(gallery, [sent(2, 2)], HOW | {"precision": "bf16"}, QUIET)
    add(gallery, sent(4, 3))
    add_run(gallery, make_run(tmp_path / "more", 2, 3), QUIET, copy=True)
    add(gallery, sent(7, 9))
    counts = [segment.count for segment in read_generation(gallery).segments]
    assert counts == [30, 2, 2, 3, 3, 9]
    add(gallery, sent(16, 2), sent(18, 7))
    assert [each.count for each in read_generation(gallery).segments][-2:] == [3, 18]
    found = Gallery(gallery).search(features_of(9, 25), 1).rows[:, 0].tolist()
    assert found == [*range(30, 37), *range(40, 58)]
    assert verify_gallery(gallery) == []


@pytest.mark.parametrize("kind", ["hnsw", "ivfpq"])
def test_an_index_and_codes_know_which_rows_of_a_joined_run_are_new(
    gallery: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faiss")
    monkeypatch.setattr(index, "LEAST_ROWS", 32)
    send(gallery, 0, 2)
    build(gallery, kind, 0.9, QUIET)
    send(gallery, 2, 8)
    remove(gallery, QUIET, rows=[36])
    last = read_generation(gallery).segments[-1]
    assert last.count == 8 and last.index is not None and last.index.startswith("index/000008")
    assert verify_gallery(gallery) == []
    opened = Gallery(gallery)
    exact, found = (
        search(opened, features_of(9, 8), 37) for search in (Gallery.search, search_approximately)
    )
    left = [0, 1, 2, 3, 4, 5, 7]
    assert exact.rows[left, 0].tolist() == found.rows[left, 0].tolist() == [30 + i for i in left]
    for rows in found.rows.tolist():
        assert len({*rows}) == len(rows) and 36 not in rows
    monkeypatch.setattr(approximate, "FEW_ALLOWED", 0)
    only = search_approximately(opened, features_of(9, 8)[7], 5, Filter(persons=("12",)))
    assert only.rows[0].tolist() == [37, 32]
    opened.close()


def test_a_reader_keeps_what_was_joined_and_the_next_writer_removes_it(gallery: Path) -> None:
    send(gallery, 0, 1)
    with_one = Gallery(gallery)
    send(gallery, 1, 2)
    assert with_one.search(features_of(9, 1), 1).rows[0, 0] == 30
    assert len([*(gallery / "runs").iterdir()]) == 2
    with_one.close()
    send(gallery, 2, 3)
    assert [segment.count for segment in read_generation(gallery).segments[1:]] == [2, 1]
    assert len([*(gallery / "runs").iterdir()]) == 2
    assert len([*gallery.rglob("*.png")]) == 3


def test_pictures_that_a_writer_left_who_died_are_removed(gallery: Path) -> None:
    send(gallery, 0, 2)
    folder = gallery / "images/000000"
    own = [gallery / "images/notes.png", folder / "holiday.png", gallery / "images/mine/40.png"]
    own[2].parent.mkdir()
    left = [folder / "32.png", folder / "31.png.1-2.tmp", gallery / "images/000001/1000.png"]
    left[2].parent.mkdir()
    for file in (*own, *left):
        file.write_bytes(b"picture of somebody")
    remove(gallery, QUIET, rows=[31])
    assert all(map(Path.exists, own)) and not any(map(Path.exists, left))
    assert {file.name for file in folder.iterdir()} == {"30.png", "31.png", "holiday.png"}


def test_an_erasure_that_dies_before_the_pictures_is_finished(
    gallery: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(gallery, 0, 3)

    def die(*_: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("distreid.search.changes.finish_erasing", die)
        # The sweep that follows is the dead writer's, too.
        patch.setattr("distreid.search.changes.sweep", lambda *_: None)
        with pytest.raises(KeyboardInterrupt):
            remove(gallery, QUIET, rows=[31], erase=True)
    (picture,) = gallery.rglob("31.png")
    kept = gallery / "other name of the file"
    kept.hardlink_to(picture)
    assert verify_gallery(gallery)[0].startswith(f"{gallery}: erasing was interrupted")
    compact(gallery, QUIET)
    assert not picture.exists() and kept.read_bytes() == bytes(len(b"picture 1")), "overwritten"
    assert verify_gallery(gallery) == []


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """What the code before joined runs made: four rows of `make_run`, and `picture 0` to `3`, in
    runs of one and of three rows that have their pictures in their own folders."""
    with zipfile.ZipFile(REPOSITORY / "tests/data/gallery_with_pictures_in_runs.zip") as packed:
        packed.extractall(tmp_path / "earlier")
    return tmp_path / "earlier/g"


def test_a_gallery_whose_runs_have_their_pictures_stays_one(earlier: Path) -> None:
    assert verify_gallery(earlier) == []
    add(earlier, sent(4, 9, persons=["Eve", "Bob"] + [""] * 7))
    assert [segment.count for segment in read_generation(earlier).segments] == [4, 1, 3, 9]
    remove(earlier, QUIET, rows=[6], erase=True)
    assert not any(b"picture 2" in read(f) for f in earlier.rglob("*") if f.is_file())
    with contextlib.closing(Gallery(earlier)) as opened:
        found = opened.search(features_of(9, 6), 1)
        assert np.delete(found.rows[:, 0], 2).tolist() == [4, 5, 7, 8, 9]
        assert opened.file(int(found.place[3, 0])).read_bytes() == b"picture 3"
        names = opened.names("person", found.place)[:, 0].tolist()
        assert np.delete(names, 2).tolist() == ["Eve", "unknown", "Bob", "Eve", "Bob"]
    remove(earlier, QUIET, rows=[5])
    assert compact(earlier, QUIET)["dropped"] == 1
    assert not [*earlier.rglob("5.png")] and verify_gallery(earlier) == []
    # A picture that is gone is found.
    (gone,) = earlier.rglob("7.png")
    gone.unlink()
    (line,) = verify_gallery(earlier)
    assert line.startswith(f"{gone}: No such file")


def test_of_pictures_sent_before_their_checksums_were_kept_it_is_said_which_are_gone(
    earlier: Path,
) -> None:
    rows = earlier / read_generation(earlier).segments[-1].rows
    facts, checksums = rows / "run.json", rows / "checksums.json"
    known = json.loads(facts.read_text())
    del known["has_pictures"]
    facts.write_text(json.dumps(known))
    said = json.loads(checksums.read_text())
    del said["picture.npy"]
    said["run.json"] = f"{zlib.crc32(facts.read_bytes()):08x}"
    checksums.write_text(json.dumps(said))
    (rows / "picture.npy").unlink()
    assert verify_gallery(earlier) == []
    (gone,) = earlier.rglob("images/6.png")
    gone.unlink()
    (line,) = verify_gallery(earlier)
    assert line.startswith(f"{gone}: No such file")


def read(file: Path) -> bytes:
    return file.read_bytes()


def test_features_of_another_kind_of_cpu_are_taken_and_dimensions_stay(gallery: Path) -> None:
    said: list[str] = []
    how = Manner(say=said.append)
    add_images(gallery, [sent(0, 1)], HOW | {"precision": "bf16"}, how)
    assert any("computed in another way" in line for line in said)
    assert Gallery(gallery).features([30]).shape == (1, DIM)
    assert np.array_equal(Gallery(gallery).features([30])[0], features_of(9, 40)[0])


def test_names_that_are_sent_are_whom_they_look_like(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "José") for form in ("NFC", "NFD"))
    extra = {"person_name": ["Eve", apart, "Kim "], "camera_name": ["yard", apart, " gate"]}
    create(tmp_path / "g", [make_run(tmp_path / "run", 1, 3, extra=extra)], QUIET)
    words = [" Eve ", composed, apart, "Kim ", "Zo\u0065\u0301", " 12 ", "yard ", " gate", "gate"]
    add(tmp_path / "g", sent(0, 9, persons=words, cameras=words))
    # Another request, in the form of the first: the names are known now.
    add(tmp_path / "g", sent(9, 1, persons=["Zo\u00e9"], cameras=["\u00a0yard"]))
    opened = Gallery(tmp_path / "g")
    place = np.arange(3, 13)
    names = ["Eve", apart, apart, "Kim ", "Zo\u00e9", "12", "yard", "gate", "gate", "Zo\u00e9"]
    assert opened.names("person", place).tolist() == names
    names = ["Eve", apart, apart, "Kim", "Zo\u00e9", "12", "yard", " gate", "gate", "yard"]
    assert opened.names("camera", place).tolist() == names
    for name, rows in (
        ("Eve", {0, 3}),
        (apart, {1, 4, 5}),
        ("Kim ", {2, 6}),
        ("Zo\u00e9", {7, 12}),
    ):
        found = opened.search(np.ones(DIM), 99, Filter(persons=(name,)))
        assert {*found.rows[0].tolist()} == rows


def test_labels_that_are_sent_mean_what_they_mean_in_tables() -> None:
    words = ["", "-1", "-2", "12", "12.0", " 7 ", "ann", "NaN", "ann"]
    numbers, names = _numbered(words, PERSON, {})
    assert numbers[:6] == [NO_PERSON, JUNK, NO_PERSON, 12, 12, 7]
    assert numbers[6] == numbers[8] > 12 and numbers[7] == NO_PERSON
    assert names == ["", "", "", "", "", "", "ann", "", "ann"]
    assert _numbered(["-1", "3", "gate"], CAMERA, {}) == ([NO_CAMERA, 3, 4], ["", "", "gate"])
    assert _numbered(["12"], PERSON, {"12": 40}) == ([1], ["12"])  # somebody's name already
