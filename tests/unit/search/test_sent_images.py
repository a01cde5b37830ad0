"""Images that are sent become rows once, with their pictures, and go without a trace."""

from __future__ import annotations

import json
import shutil
import unicodedata
import zlib
from pathlib import Path

import numpy as np
import pytest
from small_runs import DIM, features_of, make_run

from distreid.data.labels import CAMERA, PERSON
from distreid.data.manifest import JUNK, NO_CAMERA, NO_PERSON
from distreid.errors import OptionError
from distreid.search import sent_images
from distreid.search.changes import Manner, compact, create, remove
from distreid.search.changes import add as add_run
from distreid.search.gallery import Filter, Gallery
from distreid.search.gallery_check import verify_gallery
from distreid.search.generation import read_generation
from distreid.search.sent_images import AddedImages, SentImages, _numbered, add_images

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
    (damaged,), (gone,) = gallery.rglob("images/31.png"), gallery.rglob("images/32.png")
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


def test_of_pictures_sent_before_their_checksums_were_kept_it_is_said_which_are_gone(
    gallery: Path,
) -> None:
    add(gallery, sent(0, 2))
    rows = gallery / read_generation(gallery).segments[-1].rows
    facts, checksums = rows / "run.json", rows / "checksums.json"
    known = json.loads(facts.read_text())
    del known["has_pictures"]
    facts.write_text(json.dumps(known))
    said = json.loads(checksums.read_text())
    del said["picture.npy"]
    said["run.json"] = f"{zlib.crc32(facts.read_bytes()):08x}"
    checksums.write_text(json.dumps(said))
    (rows / "picture.npy").unlink()
    assert verify_gallery(gallery) == []
    (gone,) = gallery.rglob("images/31.png")
    gone.unlink()
    (line,) = verify_gallery(gallery)
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
