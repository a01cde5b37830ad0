"""`distreid gallery`, `index` and `search` on the sample's run: what they print, and what a mistake
is answered with."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import error_line
from small_runs import DIM, features_of, make_run

import distreid
from distreid.cli import main
from distreid.data.manifest import NO_CAMERA, NO_PERSON
from distreid.data.source import SAMPLE_FOLDER
from distreid.errors import OptionError, StoreError


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("sample") / "run"
    distreid.extract_features("sample", "sample", run, num_workers=0, evaluate=False)
    return run


@pytest.fixture
def gallery(tmp_path: Path) -> Path:
    run = make_run(tmp_path / "run", 1)
    assert main(["gallery", "create", str(tmp_path / "g"), "--run", str(run)]) == 0
    return tmp_path / "g"


def printed(capsys: pytest.CaptureFixture[str], *words: str | Path) -> Any:
    capsys.readouterr()
    assert main([str(word) for word in words]) == 0
    return json.loads(capsys.readouterr().out)


def test_an_image_finds_itself_and_its_person(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gallery, page = tmp_path / "g", tmp_path / "found.html"
    assert main(["gallery", "create", str(gallery), "--run", str(sample), "--copy"]) == 0
    image = SAMPLE_FOLDER / "query/0001_c2s1_008029_00.jpg"
    arguments = ("search", gallery, "--image", image, "--checkpoint", "sample", "--json")
    found = printed(capsys, *arguments, "--threshold", "0.5", "--html", page)
    (answer,) = found["answers"]
    assert answer["exact"] and answer["in_gallery"]
    best = answer["found"][0]
    assert best["path"] == "query/0001_c2s1_008029_00.jpg" and best["score"] > 0.9999
    assert [each["person_id"] for each in answer["found"][:4]] == [1, 1, 1, 1]
    text = page.read_text()
    assert "data:image/png;base64," in text and "the same person from a score of 0.5000" in text
    # The same image among other persons is not in the gallery.
    found = printed(capsys, *arguments, "--threshold", "0.9", "--not-persons", "1")
    assert found["answers"][0]["in_gallery"] is False
    # The threshold of a run that was calibrated is taken, and said.
    assert main(["calibrate", str(sample)]) == 0
    (tmp_path / "h").mkdir()
    assert main(["gallery", "create", str(tmp_path / "h/g"), "--run", str(sample)]) == 0
    found = printed(capsys, "search", tmp_path / "h/g", "--row", "0", "--json")
    assert 0 < found["threshold"] < 1


def test_csv_has_a_line_for_each_row_found(
    gallery: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    words = ["search", str(gallery), "--row", "3", "4", "--top", "5", "--csv"]
    assert main(words) == 0
    lines = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert len(lines) == 10 and [line["row"] for line in lines if line["rank"] == "1"] == ["3", "4"]
    assert {line["exact"] for line in lines} == {"True"}


def test_features_of_a_file_are_fused(
    gallery: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "f.npy"
    np.save(file, features_of(1, 30)[[7, 9]])
    for how in ("mean", "max", "rank"):
        words = ("search", gallery, "--feature-file", file, "--fuse", how, "--json", "--top", "2")
        (answer,) = printed(capsys, *words)["answers"]
        rows = {each["row"] for each in answer["found"]}
        assert rows == {7, 9} or (how == "rank" and rows & {7, 9}), how


def test_the_life_of_a_gallery(
    gallery: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "more", 2)
    added = printed(capsys, "gallery", "add", gallery, "--run", run, "--copy", "--json")
    assert (added["first_row"], added["last_row"]) == (30, 59)
    hidden = printed(capsys, "gallery", "remove", gallery, "--persons", "2", "--json")
    assert (hidden["rows"], hidden["erased"]) == (12, False)
    rows = tmp_path / "rows.txt"
    rows.write_text("0\n30\n")
    words = ("gallery", "remove", gallery, "--rows", rows, "--erase", "--json")
    erased = printed(capsys, *words)
    assert erased["rows"] == 2 and erased["still_in"] == [str(tmp_path / "run")]
    listed = printed(capsys, "gallery", "list", gallery, "--json")
    assert (listed["rows"], listed["hidden"]) == (58, 12)
    assert printed(capsys, "gallery", "compact", gallery, "--json")["dropped"] == 12
    assert printed(capsys, "gallery", "verify", gallery, "--json")["problems"] == []
    assert main(["gallery", "list", str(gallery)]) == 0
    assert "46 rows × 16, 0 of them hidden" in capsys.readouterr().out


def test_times_are_iso_or_seconds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gallery = tmp_path / "g"
    times = [str(1_700_000_000 + 3600 * hour) for hour in range(30)]
    run = make_run(tmp_path / "run", 1, extra={"time": times})
    assert main(["gallery", "create", str(gallery), "--run", str(run)]) == 0
    since = ("--since", "2023-11-15T12:13:20", "--until", "1700060000", "--top", "30")
    found = printed(capsys, "search", gallery, "--row", "0", *since, "--json")
    assert {each["row"] for each in found["answers"][0]["found"]} == {14, 15, 16}
    assert {each["time"] for each in found["answers"][0]["found"]} == {
        1_700_000_000 + 3600 * hour for hour in (14, 15, 16)
    }
    assert main(["search", str(gallery), "--row", "0", *since, "--csv"]) == 0
    lines = csv.DictReader(capsys.readouterr().out.splitlines())
    assert min(line["time"] for line in lines) == "2023-11-15T12:13:20Z"
    assert main(["search", str(gallery), "--row", "0", *since]) == 0
    assert "2023-11-15T12:13:20Z" in capsys.readouterr().out
    assert main(["search", str(gallery), "--row", "0", "--since", "9", "--until", "8"]) == 2
    assert "since is later than until" in capsys.readouterr().err
    words = ("gallery", "remove", gallery, "--before", "20231115", "--json")
    assert printed(capsys, *words)["rows"] == 2


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["search", "nowhere", "--row", "0"], "nowhere: no gallery; make one by"),
        (["search", "g", "--row", "99"], "row 99: the gallery g has no such row"),
        (["search", "g", "--row", "0", "--top", "0"], "top 0: give 1 or more"),
        (["search", "g", "--feature-file", "short.npy"], "shape 2 × 9"),
        (["search", "g", "--feature-file", "nan.npy"], "holds NaN or infinity"),
        (["search", "g", "--feature-file", "zero.npy"], "is zero"),
        (["search", "g", "--feature-file", "none.npy"], "none.npy: No such file"),
        (
            ["search", "g", "--row", "0", "--threshold", "nan"],
            "--threshold nan: a cosine from -1 to",
        ),
        (["search", "g", "--row", "0", "--model", "ft_net"], "--model: of --image, which is not"),
        (["search", "milvus:no.db/g", "--feature-file", "nan.npy"], "no.db: no such file; push a"),
        (["search", "g", "--image", "a.jpg"], "--image: the gallery's features were made elsewh"),
        (["search", "g", "--row", "0", "--approximate"], "build one by distreid index g"),
        (["search", "g", "--row", "0", "--html", "no/page.html"], "no such folder no"),
        (["search", "g", "--row", "0", "--device", "tpu"], "--device: invalid choice: 'tpu'"),
        (["search", "g", "--row", "0", "--approximate", "--device", "cuda"], "exact search, not"),
        (
            ["search", "milvus:x", "--feature-file", "short.npy", "--device", "cuda"],
            "--device: of a gallery, not of a collection",
        ),
        (["search", "milvus:x", "--row", "0"], "searched by --feature-file"),
        (["gallery", "create", "g", "--run", "run"], "there is a gallery already"),
        (["gallery", "create", "run", "--run", "run"], "not empty, and no gallery"),
        (["gallery", "add", "g", "--run", "run"], "has this run already"),
        (["gallery", "add", "g", "--run", "g"], "g: a gallery, no run"),
        (
            ["gallery", "add", "run", "--run", "run"],
            "run: a run and no gallery; make one by distreid gallery create GALLERY --run run",
        ),
        (["gallery", "remove", "g"], "which rows?"),
        (["gallery", "remove", "g", "--rows", "short.npy"], "short.npy: no text; give row ids"),
        (["search", "g", "--row", str(10**25)], f"row {10**25}: the gallery g has no such row"),
        (["gallery", "remove", "g", "--rows", "huge.txt"], "huge.txt: '100000"),
        (["gallery", "remove", "g", "--rows", "rows.txt"], "row 1234: the gallery g has no"),
        (["gallery", "remove", "g", "--rows", "rows.txt", "--persons", "1"], "--rows: alone"),
        (["gallery", "remove", "g", "--before", "soon"], "'soon': it must be ISO 8601"),
        (["gallery", "remove", "g", "--before", "2026"], "for the year write 2026-01-01, for"),
        (["gallery", "remove", "g", "--before", "1767700000000"], "divide by 1000"),
        (["gallery", "add", "g", "--run", "run", "--keep", "long"], "'long': a time such as"),
    ],
)
def test_a_mistake_is_one_line(
    gallery: Path,
    words: list[str],
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(gallery.parent)
    np.save("short.npy", np.ones((2, 9)))
    np.save("nan.npy", np.full((1, DIM), np.nan))
    np.save("zero.npy", np.zeros((1, DIM)))
    Path("rows.txt").write_text("3\n1234\n")
    Path("huge.txt").write_text(f"3\n{10**25}\n")
    before = (gallery / "gallery.json").read_bytes()
    capsys.readouterr()
    try:
        status = main(words)
    except SystemExit as end:
        status = int(end.code or 0)
    assert status == 2
    assert line in error_line(capsys)
    assert (gallery / "gallery.json").read_bytes() == before


def test_an_image_is_searched_as_the_gallery_was_extracted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, gallery = tmp_path / "images", tmp_path / "g"
    images.mkdir()
    files = sorted((SAMPLE_FOLDER / "query").glob("*.jpg"))[:4]
    for file in files:
        shutil.copy(file, images)
    how = ["--keep-aspect", "pad", "--mean", "0.5,0.5,0.5"]
    extract = ["extract", "--data", str(images), "--checkpoint", "sample", "--num-workers", "0"]
    assert main([*extract, "--out", str(tmp_path / "run"), *how]) == 0
    assert main(["gallery", "create", str(gallery), "--run", str(tmp_path / "run")]) == 0
    asked = ["search", str(gallery), "--image", str(files[2]), "--checkpoint", "sample", "--json"]
    capsys.readouterr()
    assert main(asked) == 2
    assert "give the options of the gallery's distreid extract" in error_line(capsys)
    found = printed(capsys, *asked, *how)
    assert found["answers"][0]["found"][0]["row"] == 2
    assert main(["search", str(gallery), "--row", "0", "--mean", "0.5,0.5,0.5"]) == 2
    assert error_line(capsys).startswith("--mean: of --image, which is not given")


def test_an_image_of_another_feature_space_is_refused(
    sample: Path, osnet_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gallery = tmp_path / "g"
    assert main(["gallery", "create", str(gallery), "--run", str(sample)]) == 0
    image = str(SAMPLE_FOLDER / "query/0001_c2s1_008029_00.jpg")
    assert main(["search", str(gallery), "--image", image]) == 2
    assert "give the --checkpoint" in error_line(capsys)
    words = ["search", str(gallery), "--image", image, "--checkpoint", str(osnet_file)]
    assert main(words) == 2
    assert "another feature space (weights: the gallery has" in error_line(capsys)
    cut = gallery / "gallery.json"
    cut.write_bytes(cut.read_bytes()[:100])
    assert main(["search", str(gallery), "--row", "0"]) == 2
    assert "gallery.json: damaged" in error_line(capsys)
    assert main(["gallery", "verify", str(gallery)]) == 2


def test_python_has_the_same_answers(gallery: Path) -> None:
    with distreid.open_gallery(gallery) as opened:
        assert len(opened) == 30 and opened.dim == DIM and opened.generation == 1
        found = opened.search(features_of(1, 30)[3:5], top=4, cameras=[1, 2])
        assert found.rows.shape == found.scores.shape == (2, 4) and found.exact.all()
        assert (found.rows.dtype.name, found.scores.dtype.name) == ("int64", "float32")
        assert found.rows[:, 0].tolist() == [3, 4]
        assert set(found.camera_id.ravel().tolist()) <= {1, 2}
        assert found.path[0, 0] == "run0001/image-00003.jpg"
        assert found.person_id[1, 0] == 5
        shown = found._repr_html_()
        assert "data:image/png;base64," in shown and "run0001/" in shown
        one = opened.search(features_of(1, 30)[3], top=1)
        assert one.rows.tolist() == [[3]]
        if not torch.cuda.is_available():
            with pytest.raises(distreid.errors.OptionError, match="cuda: torch sees no GPU"):
                distreid.open_gallery(gallery, device="cuda")
        with pytest.raises(distreid.errors.OptionError, match="not fused"):
            opened.search(np.ones(DIM), fuse="max", approximate=True)
        assert opened.search(np.ones(DIM)).unmatched == []
        typed = opened.search(np.ones((2, DIM)), not_persons=["Ann", 1], cameras=[99])
        assert typed.unmatched == typed.part(0, 1).unmatched == ["camera 99", "person Ann"]
        assert "; no row has camera 99; no row has person Ann>" in repr(typed)
        for wrong in (1.5, float("nan"), np.float32(1)):
            with pytest.raises(distreid.errors.OptionError, match=f"row {wrong}: whole numbers"):
                opened.features([wrong])  # type: ignore[list-item]
    assert not list((gallery / "readers").iterdir())


def test_the_strictest_threshold_of_the_runs_is_taken_and_damage_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [make_run(tmp_path / name, number) for number, name in enumerate("abc")]
    assert main(["gallery", "create", str(tmp_path / "g"), "--run", *map(str, runs)]) == 0
    for run, points in zip(runs, ([0.6, 0.7], [0.9, 0.8], None), strict=True):
        each = [{"threshold": t, "false_rate": 0.01 + n} for n, t in enumerate(points or [])]
        text = json.dumps({"identification": each}) if points else "{"
        (run / "calibration.json").write_text(text)
    assert printed(capsys, "search", tmp_path / "g", "--row", "0", "--json")["threshold"] == 0.9
    assert main(["search", str(tmp_path / "g"), "--row", "0", "--json"]) == 0
    said = capsys.readouterr().err
    assert "c/calibration.json: damaged, and passed over; write it anew: distreid calibrate" in said
    assert "b/calibration.json: in the gallery from 0.9000, with 1 % false alarms" in said


def test_unknown_labels_and_queries_without_a_hit_are_said_as_such(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", 1, 2, persons=[NO_PERSON, 0], cameras=[NO_CAMERA, 0])
    gallery = str(tmp_path / "g")
    assert main(["gallery", "create", gallery, "--run", str(run)]) == 0
    found = printed(capsys, "search", gallery, "--row", "0", "--json")["answers"][0]["found"]
    assert [(each["person"], each["camera"]) for each in found] == [(None, None), ("0", "0")]
    rows = {}
    for options in ([], ["--persons", "12"], ["--persons", "12", "--threshold", "0.5"]):
        capsys.readouterr()
        assert main(["search", gallery, "--row", "0", *options, "--csv"]) == 0
        lines = csv.DictReader(capsys.readouterr().out.splitlines())
        rows[len(options)] = [(r["person"], r["camera"], r["in_gallery"]) for r in lines]
    assert rows == {0: [("", "", ""), ("0", "0", "")], 2: [("", "", "")], 4: [("", "", "False")]}
    page = tmp_path / "page.html"
    options = ["--persons", "12", "--html", str(page)]
    assert main(["search", gallery, "--row", "0", *options]) == 0
    assert "no row may be found" in capsys.readouterr().out + page.read_text()
    # The row that is searched for says nothing of its person; with it alone nothing is known.
    features = features_of(1, 2).astype(np.float64)
    score, expected = float(features[0] @ features[1]), []
    for threshold, top in ((score + 0.01, 2), (score - 0.01, 2), (score, 1)):
        options = ["--row", "0", "--threshold", str(threshold), "--top", str(top), "--csv"]
        assert main(["search", gallery, *options]) == 0
        lines = csv.DictReader(capsys.readouterr().out.splitlines())
        expected.append({row["in_gallery"] for row in lines})
    assert expected == [{"False"}, {"True"}, {""}]
    for threshold, says in ((score + 0.01, "no"), (score - 0.01, "yes")):
        words = ["search", gallery, "--row", "0", "--threshold", str(threshold), "--top", "2"]
        assert main(words) == 0
        header, *_, own, other = (
            [cell.strip() for cell in re.split("[│┃]", line)]
            for line in capsys.readouterr().out.splitlines()
            if "row" in line
        )
        place = header.index("same")
        assert (own[place], other[place]) == ("", says)


def test_what_no_row_has_is_said_when_rows_are_removed(
    gallery: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--persons", "01", "bob", "--cameras", "1", "9", "--before", "2030-01-01"]
    assert main(["gallery", "remove", str(gallery), *words]) == 0
    said = capsys.readouterr().err
    for word in ("person bob", "camera 9", "a time"):
        assert f"no row has {word}" in said
    assert "person 01" not in said and "camera 1" not in said
    (tmp_path / "none.txt").write_text("\n")
    assert main(["gallery", "remove", str(gallery), "--rows", str(tmp_path / "none.txt")]) == 0
    assert "none.txt: empty, no row is named" in capsys.readouterr().err
    # As a shell in latin-1 gives what it was typed.
    assert main(["gallery", "remove", str(gallery), "--persons", os.fsdecode(b"Jos\xe9")]) == 0
    assert r"no row has person Jos\xe9" in capsys.readouterr().err


def test_row_ids_are_read_from_a_file_with_a_byte_order_mark(
    gallery: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.txt").write_bytes(b"\xef\xbb\xbf3\r\n4\r\n")
    words = ("gallery", "remove", gallery, "--rows", tmp_path / "rows.txt", "--json")
    assert printed(capsys, *words)["rows"] == 2


def test_what_no_row_has_is_said_when_they_are_searched(
    gallery: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["search", str(gallery), "--row", "0", "--csv"]
    assert main([*line, "--not-persons", "bob", "1", "--cameras", "1", "9"]) == 0
    words = [f"distreid: {gallery}: no row has {word}\n" for word in ("camera 9", "person bob")]
    assert capsys.readouterr().err == "".join(words)
    assert main([*line, "--not-persons", "1"]) == 0
    assert capsys.readouterr().err == ""


def test_a_closed_gallery_answers_no_more(gallery: Path) -> None:
    opened = distreid.open_gallery(gallery)
    wrong: Any = "2020-01-01"
    with pytest.raises(OptionError, match="since = '2020-01-01': seconds since 1970 are wanted"):
        opened.search(features_of(1, 1), since=wrong)
    opened.close()
    with pytest.raises(StoreError, match="was closed; open the gallery again"):
        opened.search(features_of(1, 1))


def test_a_gallery_is_a_local_folder(
    gallery: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(gallery.parent)
    before = sorted(gallery.parent.iterdir())
    line = ["gallery", "create", "s3://bucket/g", "--run", str(gallery.parent / "run"), "--copy"]
    assert main(line) == 2
    assert error_line(capsys) == "s3://bucket/g: a gallery lies in a local folder; give one"
    assert sorted(gallery.parent.iterdir()) == before
