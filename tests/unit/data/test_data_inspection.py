"""The dry run, and the published counts."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Run, draw, touch

from distreid import cli
from distreid.data import source as datasets
from distreid.data.inspection import duplicates, file_sizes, inspect, without_match
from distreid.data.source import LAYOUTS, open_data
from distreid.data.summary import check_counts, different_counts
from distreid.errors import DataError

NAMES = (
    "query/0001_c1s1_000001_00.jpg",
    "query/0001_c1s1_000002_00.jpg",
    "query/0002_c2s1_000001_00.jpg",
    "query/0009_c1s1_000001_00.jpg",
    "bounding_box_test/0001_c1s1_000001_00.jpg",
    "bounding_box_test/0001_c3s1_000001_00.jpg",
    "bounding_box_test/0002_c2s1_000001_00.jpg",
    "bounding_box_test/-1_c2s1_000001_00.jpg",
    "bounding_box_test/0000_c2s1_000001_00.jpg",
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    touch(tmp_path, *NAMES)
    for number, name in enumerate(NAMES):
        (tmp_path / name).write_bytes(bytes([number]) * 100)
    return tmp_path


def test_inspection_says_what_would_hurt_a_score(root: Path) -> None:
    (root / NAMES[6]).write_bytes((root / NAMES[2]).read_bytes())
    found = inspect(open_data(str(root)))
    pairs = [[found.manifest.path[row].decode() for row in pair] for pair in found.duplicates]
    assert pairs == [[NAMES[2], NAMES[6]]]
    assert found.lines() == [
        "query: 4, 3 persons, 2 cameras",
        "gallery: 5, 2 persons, 3 cameras, 1 junk (-1), 1 distractor (0000)",
        "junk is in no ranking, as in all projects; in re-ranking's graph it is with "
        "Person_reID_baseline_pytorch alone, whose data sets keep it",
        "query images by camera: 1: 3, 2: 1",
        "query images by person: 1 to 2, median 1",
        "gallery images by camera: 1: 1, 2: 3, 3: 1",
        "gallery images by person: 1 to 2, median 1.5",
        "not as many images as market1501 was published with: 4 query images instead of 3,368, "
        "4 gallery images instead of 15,913",
        f"queries that have matches in their own camera only: 1, {NAMES[2]!r}",
        f"queries that show a person who is not in the gallery: 1, {NAMES[3]!r}",
        f"1 query image is in the gallery, byte for byte: {NAMES[2]!r}",
    ]


def test_only_files_of_equal_size_are_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / NAMES[5]).write_bytes(b"another size")
    (root / NAMES[1]).write_bytes(b"ANOTHER size")
    manifest = open_data(str(root))
    read: list[str] = []
    real = Path.read_bytes

    def note(file: Path) -> bytes:
        read.append(str(file.relative_to(root)))
        return real(file)

    monkeypatch.setattr(Path, "read_bytes", note)
    manifest = replace(manifest, split=manifest.split.copy())
    manifest.split[:] = b""
    manifest.split[[1, 5]] = b"query", b"gallery"
    assert duplicates(manifest, file_sizes(manifest)) == []
    assert sorted(read) == []
    row = manifest.path.tolist().index(NAMES[5].encode())
    manifest.split[:] = b""
    manifest.split[[1, row]] = b"query", b"gallery"
    assert duplicates(manifest, file_sizes(manifest)) == []
    assert sorted(read) == sorted([NAMES[1], NAMES[5]])
    # A second query of the same size does not have the gallery read again.
    (root / NAMES[0]).write_bytes(b"Another Size")
    manifest.split[0] = b"query"
    read.clear()
    assert duplicates(manifest, file_sizes(manifest)) == []
    assert sorted(read) == sorted([NAMES[0], NAMES[1], NAMES[5]])


def test_files_that_a_list_names_and_nobody_has_are_counted(tmp_path: Path) -> None:
    names = [f"0000/0000_00{n}_0{n}_0303morning_0008_0.jpg" for n in range(1, 7)]
    touch(tmp_path, f"test/{names[0]}")
    (tmp_path / "list_query.txt").write_text(f"{names[0]} 0\n")
    (tmp_path / "list_gallery.txt").write_text("".join(f"{name} 0\n" for name in names[1:]))
    said = inspect(open_data(str(tmp_path))).lines()
    assert said[-2].startswith("5 files are not there: 'test/0000/0000_002_02")
    assert said[-2].endswith(", …")
    assert said[-1] == "no query image is in the gallery, byte for byte"
    assert "every query has a match" in said


def test_a_query_of_unknown_person_or_camera(tmp_path: Path) -> None:
    file = tmp_path / "m.csv"
    file.write_text(
        "path,person_id,camera_id,split\na,,1,query\nb,5,,query\nc,5,2,query\nd,5,2,gallery\n"
    )
    assert without_match(open_data(str(file))) == {
        "have no person": [0],
        "have matches in their own camera only": [2],
    }


def test_data_without_a_split_is_inspected_too(tmp_path: Path) -> None:
    assert inspect(open_data(str(touch(tmp_path, "a/b/1.jpg")))).lines() == [
        "images: 1",
        "no query and no gallery images, so no score",
    ]


def test_published_counts_are_checked_when_asked_for(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = open_data(str(root))
    message = (
        "not the market1501 that was published: 4 query images instead of 3,368, "
        "4 gallery images instead of 15,913"
    )
    with pytest.raises(DataError, match=message):
        check_counts(manifest)
    # Junk does not count, distractors do.
    complete = replace(LAYOUTS["market1501"], counts={"query": 4, "gallery": 4})
    monkeypatch.setitem(datasets.LAYOUTS, "market1501", complete)
    check_counts(manifest)
    assert different_counts(manifest) == ""
    assert "as many images as published" in inspect(manifest).lines()
    with pytest.raises(DataError, match="no published counts of folder are known"):
        check_counts(open_data(str(root), "folder"))


def test_the_command_inspects_and_is_strict(root: Path, run_here: Run) -> None:
    done = run_here("distreid", "inspect", "--data", root)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{root}: market1501\n  query: 4, 3 persons")
    done = run_here("distreid", "inspect", "--data", root, "--strict-counts")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "instead of 3,368" in done.stderr
    done = run_here("distreid", "inspect", "--data", root, "--json")
    found = json.loads(done.stdout)
    assert found["splits"]["query"]["by_camera"] == {"1": 3, "2": 1}
    assert found["without_match"] == {
        "have matches in their own camera only": [NAMES[2]],
        "show a person who is not in the gallery": [NAMES[3]],
    }
    done = run_here("distreid", "inspect", "--checkpoint", "sample", "--json")
    assert done.returncode == 2
    pattern = r"(?P<person>\d+)_c(?P<camera>\d)"
    done = run_here("distreid", "inspect", "--data", root, "--pattern", pattern)
    assert f"{root}: pattern" in done.stdout
    assert "query: 4, 3 persons, 2 cameras" in done.stdout


def test_the_main_job_is_strict_too(root: Path, run_here: Run, osnet_file: Path) -> None:
    for number, name in enumerate(NAMES):
        draw(root / name, number)
    job = ("distreid", "extract", "--data", root, "--checkpoint", osnet_file, "--device", "cpu")
    done = run_here(*job, "--out", root / "run", "--strict-counts")
    assert done.returncode == 2 and "instead of 15,913" in done.stderr
    assert not (root / "run").exists()


def test_images_that_lie_elsewhere_than_their_list_are_inspected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(tmp_path / "images/0.jpg", 1)
    (tmp_path / "list.csv").write_text("path,person_id\n0.jpg,1\n")
    line = ["inspect", "--data", str(tmp_path / "list.csv")]
    assert cli.main(line) == 0
    assert "not there" in capsys.readouterr().out
    assert cli.main([*line, "--data-root", str(tmp_path / "images")]) == 0
    assert "not there" not in capsys.readouterr().out
    assert cli.main([*line, "--data-root", str(tmp_path / "nothing")]) == 2
    assert f"this host has no folder {tmp_path}/nothing" in capsys.readouterr().err
