"""`distreid rank`: what each query finds, in every form, against a sort of all products."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pyarrow import parquet

from distreid import cli

QUERIES, GALLERY, DIM = 5, 40, 8


def unit(seed: int, rows: int) -> NDArray[np.float32]:
    features = np.random.default_rng(seed).normal(size=(rows, DIM))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features, np.float32)


def unlabelled(folder: Path, start: str = "") -> Path:
    """A challenge's test set: no persons, no cameras; two gallery rows are the same."""
    features = unit(0, QUERIES + GALLERY)
    features[-1] = features[QUERIES]
    names = [f"{start}q/{n:06d}.jpg" for n in range(QUERIES)]
    names += [f"{start}g/{n:06d}.jpg" for n in range(GALLERY)]
    splits = ["query"] * QUERIES + ["gallery"] * GALLERY
    np.savez(folder / "f.npz", features=features, path=np.array(names), split=np.array(splits))
    return folder / "f.npz"


def expected(top: int) -> list[list[int]]:
    features = unit(0, QUERIES + GALLERY)
    features[-1] = features[QUERIES]
    products = features[:QUERIES] @ features[QUERIES:].T
    return [np.argsort(-row, kind="stable")[:top].tolist() for row in products]


def ranked(capsys: pytest.CaptureFixture[str], file: Path, *options: object) -> str:
    assert cli.main(["rank", str(file), *map(str, options)]) == 0
    return capsys.readouterr().err


def test_every_form_holds_the_same_lists_without_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, top = unlabelled(tmp_path), 7
    lists = expected(top)
    for ending in ("csv", "json", "parquet", "txt"):
        said = ranked(capsys, file, "--top", top, "--out", tmp_path / f"r.{ending}")
        assert "5 queries, the first 7 of 40 images each" in said
    names = [[f"g/{row:06d}.jpg" for row in rows] for rows in lists]
    with (tmp_path / "r.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["image"] for row in rows] == [name for some in names for name in some]
    assert [int(row["rank"]) for row in rows] == [*range(1, top + 1)] * QUERIES
    scores = [float(row["score"]) for row in rows[:top]]
    assert scores == sorted(scores, reverse=True)
    content = json.loads((tmp_path / "r.json").read_text())
    assert [each["images"] for each in content] == names
    assert [each["query"] for each in content] == [f"q/{n:06d}.jpg" for n in range(QUERIES)]
    assert parquet.read_table(tmp_path / "r.parquet")["image"].to_pylist() == [
        name for some in names for name in some
    ]
    lines = (tmp_path / "r.txt").read_text().splitlines()
    assert [line.split()[1:] for line in lines] == names


def test_the_ai_city_form_is_checked_and_has_numbers_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = unlabelled(tmp_path)
    options = ("--top", 50, "--format", "aicity", "--out", tmp_path / "track2.txt")
    said = ranked(capsys, file, *options)
    lines = (tmp_path / "track2.txt").read_text().splitlines()
    assert [line.split() for line in lines] == [
        [f"{row:06d}" for row in rows] for rows in expected(50)
    ]
    assert "the shortest list has 40: the gallery holds no more for it" in said
    with np.load(file) as arrays:
        content = dict(arrays)
    for wrong, message in (
        ("g/car.jpg", "wants images named by numbers"),
        ("h/000000.jpg", "has the same number"),
    ):
        content["path"][-1] = wrong
        np.savez(file, allow_pickle=False, **content)
        assert cli.main(["rank", str(file), *map(str, options)]) == 2
        assert message in capsys.readouterr().err


def test_what_a_protocol_leaves_out_is_in_no_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    features = unit(1, 30)
    persons, clothes = np.arange(30) % 3, np.arange(30) % 2
    np.savez(
        tmp_path / "f.npz",
        features=features,
        path=np.array([f"{n}.jpg" for n in range(30)]),
        person_id=persons,
        camera_id=np.arange(30) % 5,
        clothes=clothes,
        split=np.array(["query"] * 6 + ["gallery"] * 24),
    )
    out = tmp_path / "r.json"
    ranked(capsys, tmp_path / "f.npz", "--out", out, "--protocol", "ltcc-changed-clothes")
    content = json.loads(out.read_text())
    for query, each in enumerate(content):
        found = {int(name.removesuffix(".jpg")) for name in each["images"]}
        left_out = {
            row
            for row in range(6, 30)
            if persons[row] == persons[query]
            and (clothes[row] == clothes[query] or row % 5 == query % 5)
        }
        assert left_out and found == set(range(6, 30)) - left_out
    ranked(capsys, tmp_path / "f.npz", "--out", out, "--protocol", "leave-one-out", "--top", 29)
    for query, each in enumerate(json.loads(out.read_text())):
        assert f"{query}.jpg" not in each["images"] and len(each["images"]) == 29


def test_lists_are_re_ranked_as_the_scores_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = unlabelled(tmp_path)
    ranked(capsys, file, "--out", tmp_path / "a.json", "--top", 40)
    ranked(capsys, file, "--out", tmp_path / "b.json", "--top", 40, "--rerank", "zhong")
    plain, again = (json.loads((tmp_path / f"{n}.json").read_text()) for n in "ab")
    assert plain != again
    assert [sorted(a["images"]) for a in plain] == [sorted(b["images"]) for b in again]


def test_names_and_options_that_cannot_be_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = unlabelled(tmp_path, start="my cars/")
    for options, message in (
        (("--out", tmp_path / "r.txt"), "a name with a space"),
        (("--out", tmp_path / "r.xyz"), "say its --format, among csv, json"),
        (("--out", tmp_path / "r.csv", "--top", 0), "--top must be at least 1"),
        (("--out", tmp_path / "r.csv", "--protocol", "mars-x"), "no such name; mars"),
    ):
        assert cli.main(["rank", str(file), *map(str, options)]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "r.csv").exists()


def test_a_query_without_a_person_does_not_find_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = np.array([f"{n}.jpg" for n in range(6)])
    split = np.array(["query+gallery"] * 6)
    np.savez(tmp_path / "f.npz", features=unit(0, 6), path=names, split=split)
    ranked(capsys, tmp_path / "f.npz", "--top", 5, "--out", tmp_path / "r.json")
    for each in json.loads((tmp_path / "r.json").read_text()):
        assert sorted([each["query"], *each["images"]]) == names.tolist()


def test_a_file_of_protocols_gives_its_only_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    features, names = unit(0, 6), np.array([f"{n}.jpg" for n in range(6)])
    np.savez(
        tmp_path / "f.npz",
        features=features,
        path=names,
        split=np.array(["query", "gallery"] * 3),
        person_id=np.array([1, 1, 2, 2, 1, 2]),
    )
    own = tmp_path / "own.toml"
    own.write_text('name = "own"\nasks = "person = 2"\n[draw]\n[counting]\ncamera_rule = "none"\n')
    line = ["--protocol-file", own, "--out", tmp_path / "r.json"]
    said = ranked(capsys, tmp_path / "f.npz", *line)
    assert "3 queries, the first 3 of 3 images each" in said
    assert "own draws: the lists are of all that it draws from" in said
    own.write_text('[[protocol]]\nname = "a"\n[[protocol]]\nname = "b"\n')
    assert cli.main(["rank", str(tmp_path / "f.npz"), *map(str, line)]) == 2
    assert "say which by --protocol: a, b" in capsys.readouterr().err


def test_lists_do_not_replace_what_they_are_made_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = unlabelled(tmp_path)
    before = file.read_bytes()
    assert cli.main(["import", str(file), "--out", str(tmp_path / "run")]) == 0
    run = tmp_path / "run"
    (tmp_path / "link.csv").symlink_to(file)
    capsys.readouterr()
    for source, out in (
        (file, file),
        (file, tmp_path / "link.csv"),
        (run, run / "store.h5"),
        (run, run / "shards/000000.h5"),
        (run, run / "metrics.json"),
    ):
        assert cli.main(["rank", str(source), "--format", "csv", "--out", str(out)]) == 2
        assert "would replace what is read" in capsys.readouterr().err
    assert file.read_bytes() == before
    assert cli.main(["verify", str(run)]) == 0
    ranked(capsys, run, "--out", run / "lists.csv")


def test_of_what_there_are_no_lists_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = unlabelled(tmp_path)
    for protocol, message in (
        ("layumi-multi", "--query multi: lists are of single queries"),
        ("cuhk-sysu-50", "--protocol cuhk-sysu-50: of person search there are no lists"),
    ):
        line = ["rank", str(file), "--out", str(tmp_path / "r.csv"), "--protocol", protocol]
        assert cli.main(line) == 2
        assert message in capsys.readouterr().err
    assert cli.main(["calibrate", str(file), "--protocol", "cuhk-sysu-50"]) == 2
    assert "pairs of person search are not counted" in capsys.readouterr().err
