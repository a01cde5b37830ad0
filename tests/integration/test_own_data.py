"""Labels as people bring them, from the files to the scores, by the command."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from conftest import error_line

from distreid import cli
from distreid.data.source import SAMPLE_FOLDER
from distreid.store import FeatureStore
from distreid.store.root_file import read_plan, write_root

PERSONS = ("0001", "0002", "0003", "0004")


def sample_images() -> list[tuple[str, str, int, Path]]:
    """Split, person, camera and file of some of the sample's images."""
    found = []
    for file in sorted(SAMPLE_FOLDER.glob("*/*.jpg")):
        person, camera = file.name.split("_")[:2]
        if person in PERSONS:
            split = "query" if file.parent.name == "query" else "gallery"
            found.append((split, person, int(camera[1]), file))
    return found


def copied(root: Path, name: str, **words: str) -> Path:
    """The images under names made of split, person, camera and a number."""
    for number, (split, person, camera, file) in enumerate(sample_images()):
        target = root / name.format(
            split=words.get(split, split), person=person, camera=camera, number=number
        )
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    return root


def extracted(
    data: Path, *options: str | Path, run: Path | None = None
) -> dict[str, dict[str, Any]]:
    """The scores by the names of their protocols."""
    out = run or data.parent / "run"
    what = ["extract", "--data", data, "--checkpoint", "sample", "--out", out]
    assert cli.main([*map(str, [*what, "--num-workers", "0", *options])]) == 0
    content = json.loads((out / "metrics.json").read_text())
    return {each["protocol"]["name"]: each for each in content["scores"]}


@pytest.fixture(scope="module")
def true_scores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """By the layout that the images are distributed in."""
    root = tmp_path_factory.mktemp("market") / "data"
    words = {"gallery": "bounding_box_test"}
    return extracted(copied(root, "{split}/{person}_c{camera}s1_{number:06}_00.jpg", **words))


def test_ids_of_five_digits_score_as_those_of_four(
    tmp_path: Path, true_scores: dict[str, dict[str, Any]]
) -> None:
    name = "{split}/1{person}/1{person}_c00{camera}_{number}.jpg"
    found = extracted(copied(tmp_path / "data", name))
    for protocol in ("torchreid", "fastreid", "layumi"):
        assert found[protocol]["mAP"] == true_scores[protocol]["mAP"]
        assert 0 < found[protocol]["mAP"] < 1


def test_a_csv_of_names_scores_as_numbers_do(
    tmp_path: Path, true_scores: dict[str, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    copied(tmp_path / "images", "{number:03}.jpg")
    rows = [
        {"image": f"{number:03}.jpg", "pid": f"cow_{person}", "camera": f"gate-{camera}",
         "set": {"query": "probe", "gallery": "ref"}[split], "weather": "sun"}
        for number, (split, person, camera, _) in enumerate(sample_images())
    ]  # fmt: skip
    file = tmp_path / "cows.csv"
    pandas.DataFrame(rows).to_csv(file, sep=";", lineterminator="\r\n", encoding="utf-8-sig")
    found = extracted(file, "--data-root", tmp_path / "images")
    assert found["fastreid"]["mAP"] == true_scores["fastreid"]["mAP"]
    said = capsys.readouterr().err
    assert "path is image, person_id is pid, camera_id is camera, split is set; --columns" in said
    assert "probe is query" in said and "ref is gallery" in said
    assert "columns between semicolons" in said
    run = tmp_path / "run"
    store = FeatureStore.open(run)
    assert set(store.manifest.names("camera_name").values()) == {
        f"gate-{camera}" for _, _, camera, _ in sample_images()
    }
    assert cli.main(["evaluate", str(run), "--csv", str(tmp_path / "q.csv")]) == 0
    with (tmp_path / "q.csv").open() as stream:
        assert {row["person_name"] for row in csv.DictReader(stream)} == {
            f"cow_{person}" for person in PERSONS
        }
    capsys.readouterr()
    same = ["--exclude-same", "camera,weather", "--json"]
    assert cli.main(["evaluate", str(run), *same]) == 0
    (score,) = json.loads(capsys.readouterr().out)["scores"]
    assert score["mAP"] == true_scores["fastreid"]["mAP"]  # the weather is one


def test_a_run_that_was_begun_without_names_is_continued(tmp_path: Path) -> None:
    copied(tmp_path / "images", "{number:03}.jpg")
    lines = [
        f"images/{number:03}.jpg,{int(person)},{camera},gate-{camera},{split}"
        for number, (split, person, camera, _) in enumerate(sample_images())
    ]
    header = "path,person_id,camera_id,camera,split"
    (tmp_path / "rows.csv").write_text("\n".join([header, *lines]))
    run = tmp_path / "run"
    expected = extracted(tmp_path / "rows.csv", "--shard-rows", "16", run=run)
    # As 0.1.0 wrote it: it kept the column `camera` by its own name.
    plan = read_plan(run / "store.h5")
    columns = plan.manifest.extra
    old = plan.manifest.__class__(
        **plan.manifest.__dict__ | {"extra": {"camera": columns["camera_name"]}}
    )
    old_plan = plan.__class__(
        **plan.__dict__
        | {"manifest": old, "identity": plan.identity | {"manifest": old.fingerprint()}}
    )
    shutil.rmtree(run)
    (run / "shards").mkdir(parents=True)
    write_root(run / "plan.h5", old_plan)
    assert extracted(tmp_path / "rows.csv", "--shard-rows", "16", run=run) == expected
    assert [*FeatureStore.open(run).manifest.extra] == ["camera"]


@pytest.mark.parametrize("name", ["{split}/{person}/{number}.jpg", "{split}/{person}_{number}.jpg"])
def test_persons_without_cameras_are_scored_without_the_rule(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = extracted(copied(tmp_path / "data", name, query="probe"))
    assert {each["protocol"]["camera_rule"] for each in found.values()} == {"none"}
    assert all(0 < each["mAP"] <= 1 for each in found.values())
    assert "no camera rule ┃" in capsys.readouterr().out


def test_one_camera_for_all_is_scored_without_the_rule_in_a_column(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = extracted(copied(tmp_path / "data", "{split}/{person}/{person}_c1_{number}.jpg"))
    assert found["fastreid"]["mAP"] is None
    assert 0 < found["no camera rule"]["mAP"] <= 1
    assert "no camera rule ┃" in capsys.readouterr().out
    assert cli.main(["calibrate", str(tmp_path / "run")]) == 0
    assert "no person is in two cameras: pairs of one camera count" in capsys.readouterr().err


def test_a_test_set_without_labels_has_features(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied(tmp_path / "data", "image_{split}/{number:06}.jpg", gallery="test")
    what = ["--data", tmp_path / "data", "--checkpoint", "sample", "--out", tmp_path / "run"]
    assert cli.main(["extract", *map(str, what), "--num-workers", "0"]) == 0
    assert "the query rows have no person ids" in capsys.readouterr().err
    store = FeatureStore.open(tmp_path / "run")
    assert len(store.manifest.rows("query")) == sum(
        split == "query" for split, *_ in sample_images()
    )
    assert np.isfinite(store.features(store.manifest.rows("query"))).all()


BROKEN = {
    "fraction.csv": "path,person_id\na.jpg,1.5\n",
    "large.csv": "path,person_id\na.jpg,99999999999999999999\n",
    "empty.csv": "",
    "twice.csv": "path,pid,pid\na.jpg,1,2\n",
    "again.csv": "path,pid\na.jpg,1\na.jpg,2\n",
    "ambiguous.csv": "path,pid,identity\na.jpg,1,2\n",
    "word.csv": "path,split\na.jpg,querry\n",
    "wide.csv": "path" + ",c" * 1_000_000,
    "time.csv": "path,time\na.jpg,yesterday\n",
    "damaged.parquet": "PAR1",
    "damaged.xlsx": "PK",
    "damaged.json": "[{",
    "nul.csv": "path\na\0.jpg\n",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_table_that_cannot_be_meant_is_refused_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / name).write_text(BROKEN[name])
    what = ["--data", tmp_path / name, "--checkpoint", "sample", "--out", tmp_path / "run"]
    assert cli.main(["extract", *map(str, what)]) == 2
    assert name in error_line(capsys)
    assert not (tmp_path / "run").exists()
