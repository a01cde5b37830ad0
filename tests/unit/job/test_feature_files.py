"""Features that other programs saved, through the command as a user has it."""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas
import pytest
import scipy.io
import torch
from conftest import GOLDEN, error_line
from numpy.typing import NDArray

import distreid
from distreid import cli
from distreid.store import FeatureStore
from distreid.store.identity import feature_space, how_computed

Arrays = dict[str, NDArray[Any]]


def golden(name: str) -> tuple[Arrays, dict[str, Any]]:
    with np.load(GOLDEN / "eval" / f"{name}.inputs.npz") as arrays:
        values = {key: arrays[key] for key in arrays if key != "note"}
    results = json.loads((GOLDEN / "eval" / f"{name}.outputs.json").read_text())
    return values, results["results"]


def together(values: Arrays) -> pandas.DataFrame:
    """A row for each feature, query and gallery mixed."""
    sides = [
        pandas.DataFrame(
            {
                "feature": list(values[f"{side}_features"]),
                "person_id": values[f"{side}_ids"],
                "camera_id": values[f"{side}_cams"],
                "split": side,
            }
        )
        for side in ("query", "gallery")
    ]
    # The order inside a side decides ties.
    return pandas.concat(sides, ignore_index=True)


def npz(folder: Path, values: Arrays) -> Path:
    np.savez_compressed(folder / "f.npz", **{k: v for k, v in values.items() if "multi" not in k})  # type: ignore[arg-type]
    return folder / "f.npz"


def npz_by_short_names(folder: Path, values: Arrays) -> Path:
    short = {"features": "f", "ids": "_pids", "cams": "_camids"}
    named = {
        side[0] + short[kind]: values[f"{side}_{kind}"].astype(float if kind == "ids" else None)
        for side in ("query", "gallery")
        for kind in short
    }
    np.savez(folder / "f.npz", **named)  # type: ignore[arg-type]
    return folder / "f.npz"


def npz_together(folder: Path, values: Arrays) -> Path:
    table = together(values)
    columns = {name: table[name].to_numpy() for name in ("person_id", "camera_id")}
    np.savez(
        folder / "f.npz",
        features=np.stack(table["feature"].to_list()),
        split=table["split"].to_numpy(dtype=str),
        **columns,
    )
    return folder / "f.npz"


def npz_in_the_plural(folder: Path, values: Arrays) -> Path:
    table = together(values)
    np.savez(
        folder / "f.npz",
        feats=np.stack(table["feature"].to_list()),
        pids=table["person_id"].to_numpy(),
        camids=table["camera_id"].to_numpy(),
        split=table["split"].to_numpy(dtype=str),
        epoch=3,
        query_idx=np.arange(7),
    )
    return folder / "f.npz"


def npy_and_csv(folder: Path, values: Arrays) -> Path:
    table = together(values)
    np.save(folder / "f.npy", np.stack(table["feature"].to_list()).astype(np.float64))
    table.drop(columns="feature").to_csv(folder / "f.csv")
    return folder / "f.npy"


def mat(folder: Path, values: Arrays) -> Path:
    """As Person_reID_baseline_pytorch writes it."""
    content = {
        f"{side}_{ours}": values[f"{side}_{kind}"]
        for side in ("query", "gallery")
        for ours, kind in (("f", "features"), ("label", "ids"), ("cam", "cams"))
    }
    scipy.io.savemat(folder / "pytorch_result.mat", content)
    return folder / "pytorch_result.mat"


def mat_7_3(folder: Path, values: Arrays) -> Path:
    file = folder / "pytorch_result.mat"
    with h5py.File(file, "w", userblock_size=512) as hdf5:
        for side in ("query", "gallery"):
            hdf5[f"{side}_f"] = values[f"{side}_features"].T
            hdf5[f"{side}_label"] = values[f"{side}_ids"][:, None].astype(float)
            hdf5[f"{side}_cam"] = values[f"{side}_cams"][:, None].astype(float)
    with file.open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file")
    return file


def torch_tensors(folder: Path, values: Arrays) -> Path:
    content: dict[str, Any] = {
        side: {
            "feats": torch.from_numpy(values[f"{side}_features"]),
            "pids": values[f"{side}_ids"].tolist(),
            "camids": torch.from_numpy(values[f"{side}_cams"]),
        }
        for side in ("query", "gallery")
    }
    torch.save(content | {"epoch": 3}, folder / "f.pt")
    return folder / "f.pt"


def parquet(folder: Path, values: Arrays) -> Path:
    together(values).to_parquet(folder / "f.parquet")
    return folder / "f.parquet"


def hdf5(folder: Path, values: Arrays) -> Path:
    with h5py.File(folder / "f.h5", "w") as file:
        for side in ("query", "gallery"):
            file.create_dataset(f"{side}/features", data=values[f"{side}_features"], compression=4)
            file[f"{side}/ids"] = [str(person) for person in values[f"{side}_ids"]]
            file[f"{side}/cameras"] = values[f"{side}_cams"]
    return folder / "f.h5"


FORMATS = [
    *(npz, npz_by_short_names, npz_together, npz_in_the_plural, npy_and_csv, mat, mat_7_3),
    *(torch_tensors, parquet, hdf5),
]


def evaluated(
    capsys: pytest.CaptureFixture[str], *arguments: str | Path
) -> dict[str, dict[str, Any]]:
    capsys.readouterr()
    assert cli.main(["evaluate", *map(str, arguments), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    return {each["protocol"]["name"]: each for each in content["scores"]}


# Whose figures the columns of `distreid evaluate` are.
PEERS = {
    "torchreid": "T.euclidean.python",
    "fastreid": "F.cosine.python",
    "transreid": "R.euclidean_normalised",
    "layumi": "L.evaluate_gpu",
}


@pytest.mark.parametrize("write", FORMATS)
@pytest.mark.parametrize("name", ["s1_plain_50x300", "s2_junk_distractors_100x800"])
def test_every_format_gives_the_peers_own_figures(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    write: Callable[[Path, Arrays], Path],
    name: str,
) -> None:
    values, results = golden(name)
    file = write(tmp_path, values)
    before = sorted(os.listdir(tmp_path))
    found = evaluated(capsys, file, "--protocol", ",".join(PEERS))
    for ours, peer in PEERS.items():
        for figure in ("rank1", "rank5", "rank10", "mAP", "mINP"):
            if figure in results[peer]:
                assert found[ours][figure] == pytest.approx(results[peer][figure], abs=1e-6)
    assert sorted(os.listdir(tmp_path)) == before


def test_ties_of_vectors_that_are_not_normalised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values, results = golden("s4_exact_ties_100x600")
    file = npz(tmp_path, values)
    found = evaluated(capsys, file)["torchreid"]
    bounds = results["bounds.euclidean"]
    for figure in ("rank1", "mAP"):
        worst, best = bounds["worst_tie_order"][figure], bounds["best_tie_order"][figure]
        assert worst - 1e-6 <= found[figure] <= best + 1e-6
    cli.main(["evaluate", str(file)])
    assert "the features are not of length 1: normalised; --features raw takes" in (
        capsys.readouterr().err
    )
    raw = evaluated(capsys, file, "--features", "raw", "--distance", "euclidean")
    assert raw["fastreid, changed"]["mAP"] == found["mAP"]


def test_one_camera_has_a_column_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values, results = golden("s6_one_camera_50x300")
    found = evaluated(capsys, npz(tmp_path, values))
    assert found["layumi"]["mAP"] == results["L.evaluate_gpu"]["mAP"] == 0
    assert found["fastreid"]["mAP"] is None
    assert 0.1 < found["no camera rule"]["mAP"] <= 1


@pytest.mark.parametrize("write", [npz, parquet])
def test_re_ranking_and_thresholds_are_those_of_a_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], write: Callable[[Path, Arrays], Path]
) -> None:
    values, results = golden("s1_plain_50x300")
    file = write(tmp_path, values)
    found = evaluated(capsys, file, "--protocol", "layumi", "--rerank", "zhong")
    assert found["layumi, changed"]["mAP"] == pytest.approx(results["L.rerank"]["mAP"], abs=1e-6)
    assert cli.main(["import", str(file), "--out", str(tmp_path / "run")]) == 0
    thresholds = []
    for what in (file, tmp_path / "run"):
        capsys.readouterr()
        assert cli.main(["calibrate", str(what), "--json"]) == 0
        thresholds.append(json.loads(capsys.readouterr().out)["verification"])
    assert thresholds[0] == thresholds[1]


def test_multi_query_features_are_scored_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values, results = golden("s1_plain_50x300")
    named = {key.replace("multiquery", "mquery"): value for key, value in values.items()}
    np.savez(tmp_path / "f.npz", **named)  # type: ignore[arg-type]
    found = evaluated(capsys, tmp_path / "f.npz")["layumi-multi"]
    assert found["mAP"] == pytest.approx(results["L.multi_query"]["mAP"], abs=1e-6)


def test_an_import_is_a_run_like_any(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values, _ = golden("s2_junk_distractors_100x800")
    file, run = npz(tmp_path, values), tmp_path / "run"
    for _ in range(2):  # done already
        assert cli.main(["import", str(file), "--out", str(run), "--space", "mine"]) == 0
    store = FeatureStore.open(run)
    assert feature_space(store.plan.identity) == {
        "imported": "mine",
        "model": {"name": "imported"},
        "dim": 64,
    }
    assert {"file", "manifest", "dtype"} == set(how_computed(store.plan.identity))
    ours = np.concatenate([values["query_features"], values["gallery_features"]])
    assert np.allclose(distreid.open_store(run).features[:], ours, atol=1e-6)
    assert evaluated(capsys, run).items() == evaluated(capsys, file).items()
    assert cli.main(["verify", str(run)]) == cli.main(["status", str(run)]) == 0
    assert cli.main(["compare", str(run), str(run)]) == 0
    assert cli.main(["report", str(run)]) == 0
    capsys.readouterr()
    assert cli.main(["import", str(file), "--out", str(run), "--space", "other"]) == 2
    assert "holds another run (imported: it has mine, asked for is other)" in error_line(capsys)
    what = ["--data", "sample", "--checkpoint", "sample", "--out", str(run)]
    assert cli.main(["extract", *what]) == 2
    assert "run: holds imported features; give another --out" in error_line(capsys)


@pytest.mark.parametrize("arrays", [["gallery_features", "gallery_ids"], ["gallery_features"]])
def test_a_gallery_alone_is_imported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arrays: list[str]
) -> None:
    values, _ = golden("s1_plain_50x300")
    np.savez(tmp_path / "f.npz", **{name: values[name] for name in arrays})  # type: ignore[arg-type]
    np.savez(tmp_path / "features.npz", features=values["gallery_features"])
    assert cli.main(["import", str(tmp_path / "f.npz"), "--out", str(tmp_path / "run")]) == 0
    store = FeatureStore.open(tmp_path / "run")
    assert len(store.manifest.rows("gallery")) == 300
    assert set(store.manifest.person_id.tolist()) == (
        set(values["gallery_ids"].tolist()) if len(arrays) == 2 else {-2}
    )
    out = str(tmp_path / "unlabelled")
    assert cli.main(["import", str(tmp_path / "features.npz"), "--out", out]) == 0
    capsys.readouterr()
    assert cli.main(["evaluate", out]) == 2
    assert "no row is marked as query" in error_line(capsys)


def test_what_a_store_exports_is_read_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values, _ = golden("s1_plain_50x300")
    assert cli.main(["import", str(npz(tmp_path, values)), "--out", str(tmp_path / "run")]) == 0
    store = distreid.open_store(tmp_path / "run")
    expected = evaluated(capsys, tmp_path / "run")
    for file in (store.to_npz(tmp_path / "back.npz"), store.to_parquet(tmp_path / "b.parquet")):
        assert evaluated(capsys, file) == expected


def test_names_and_further_columns_of_arrays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    angles = np.radians([0, 10, 20, 90])
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    np.savez(
        tmp_path / "f.npz",
        query_features=features[:1],
        query_ids=np.array(["ann"]),
        query_clothes=np.array(["red"]),
        query_paths=np.array(["q/0.jpg"]),
        gallery_features=features[1:],
        gallery_ids=np.array(["ann", "ann", "bert"]),
        gallery_clothes=np.array(["red", "blue", "red"]),
        gallery_paths=np.array(["g/1.jpg", "g/2.jpg", "g/3.jpg"]),
        gallery_centre=np.ones(2),  # of neither meaning nor length
    )
    everything = evaluated(capsys, tmp_path / "f.npz")["fastreid"]
    assert everything["protocol"]["camera_rule"] == "none"
    csv = tmp_path / "queries.csv"
    same = ("--exclude-same", "clothes", "--csv", csv)
    evaluated(capsys, tmp_path / "f.npz", *same)
    line = pandas.read_csv(csv).iloc[0]
    assert (line["matches"], line["path"], line["person_name"]) == (1, "q/0.jpg", "ann")


def test_a_matrix_of_distances_is_ranked_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values, _ = golden("s2_junk_distractors_100x800")
    values["query_ids"][3] = -2  # nobody: this query is left out
    distances = 1 - values["query_features"] @ values["gallery_features"].T
    np.save(tmp_path / "d.npy", distances)
    labels = {key: value for key, value in values.items() if "features" not in key}
    np.savez(tmp_path / "labels.npz", **labels)  # type: ignore[arg-type]
    matrix = ("--distance-matrix", tmp_path / "d.npy")
    by_features = evaluated(capsys, npz(tmp_path, values))
    given = evaluated(capsys, tmp_path / "labels.npz", *matrix)
    assert given.keys() == by_features.keys()
    for name in given:
        assert given[name]["mAP"] == pytest.approx(by_features[name]["mAP"], abs=1e-6)
        assert given[name]["protocol"]["distance"] == "given"
    together(values).drop(columns="feature").to_csv(tmp_path / "labels.csv", index=False)
    assert evaluated(capsys, tmp_path / "labels.csv", *matrix) == given
    assert cli.main(["evaluate", str(tmp_path / "f.npz"), *map(str, matrix)]) == 0
    assert "given distances" in capsys.readouterr().out
    for wrong in (["--rerank", "zhong"], ["--query", "multi"]):
        arguments = ["evaluate", str(tmp_path / "f.npz"), *map(str, matrix), *wrong]
        assert cli.main(arguments) == 2
        assert "distances are ranked as they are" in error_line(capsys)
    for wrong in (["--distance", "cosine"], ["--features", "raw"]):
        arguments = ["evaluate", str(tmp_path / "f.npz"), *map(str, matrix), *wrong]
        assert cli.main(arguments) == 2
        assert error_line(capsys).startswith(f"{wrong[0]}: is not for a --distance-matrix")
    # What the message on --distance given asks for is taken.
    both = ["evaluate", str(tmp_path / "f.npz"), *map(str, matrix), "--distance", "given"]
    assert cli.main(both) == 0
    capsys.readouterr()
    # Not in the first row of a block, nor in the first column.
    for value in (np.nan, np.inf):
        spoilt = distances.copy()
        spoilt[40, 700] = value
        np.save(tmp_path / "spoilt.npy", spoilt)
        asked = ["--distance-matrix", str(tmp_path / "spoilt.npy")]
        assert cli.main(["evaluate", str(tmp_path / "f.npz"), *asked]) == 2
        assert f"row 40, column 700 (from 0) is {value}, which is no" in error_line(capsys)
    asked = ["--distance-matrix", str(tmp_path / "labels.npz")]
    assert cli.main(["evaluate", str(tmp_path / "f.npz"), *asked]) == 2
    assert error_line(capsys).endswith("labels.npz: no .npy, but an .npz; numpy.save writes one")
    np.save(tmp_path / "d.npy", distances[:, 1:])
    assert cli.main(["evaluate", str(tmp_path / "f.npz"), *map(str, matrix)]) == 2
    assert "100 × 799 float32; distances of 100 queries × 800 gallery rows" in error_line(capsys)
    assert cli.main(["evaluate", str(tmp_path / "f.npz"), "--distance", "given"]) == 2
    assert "--distance given: give --distance-matrix FILE" in error_line(capsys)


SMALL: Arrays = {
    "query_features": np.eye(2, 4, dtype=np.float32),
    "gallery_features": np.ones((3, 4), np.float32),
    "query_ids": np.array([1, 2]),
    "gallery_ids": np.array([1, 2, 2]),
    "query_cameras": np.array([1, 1]),
    "gallery_cameras": np.array([2, 2, 2]),
}


def changed(name: str, *values: Any) -> Arrays:
    array = SMALL[name].astype(np.asarray(values[1]).dtype if len(values) > 1 else float)
    if len(values) > 1:
        array[values[0]] = values[1]
    return SMALL | {name: array}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (changed("gallery_features", 1, np.nan), "row 2 of gallery: its feature holds NaN or"),
        (changed("query_features", 0, 0.0), "row 1 of query: its feature holds NaN or"),
        (changed("query_ids", 1, 1.5), "row 2 of query: person_id is '1.5'; it must be a whole"),
        (changed("query_ids", 0, np.uint64(2**63)), "person_id is '9223372036854775808'"),
        (changed("gallery_ids", 2, -7), "row 3 of gallery: person_id is '-7'"),
        (SMALL | {"query_ids": np.array([1])}, "query has 2 features, but (1,) of person_id"),
        (SMALL | {"gallery_features": np.ones((3, 5))}, r"dimensions (query (2, 4), gallery"),
        (SMALL | {"q_pids": np.array([1, 2])}, "q_pids and another array are query_person_id"),
        (SMALL | {"query_features": np.ones((2, 4), complex)}, "features of 5 × 4 complex128"),
        ({k: v for k, v in SMALL.items() if k != "gallery_features"}, "no gallery_features"),
        ({k: v for k, v in SMALL.items() if k != "query_cameras"}, "but none of query; give both"),
        ({k: v for k, v in SMALL.items() if k != "query_ids"}, "the query rows have no person"),
        ({"x": np.ones(3)}, "it holds x; wanted are query_features, gallery_features"),
        ({"features": np.ones((3, 4)), "person_id": np.ones(2)}, "but (2,) of person_id"),
        ({"features": np.ones((2, 4)), "embeddings": np.ones((2, 4))}, "could be the features"),
        ({"features": np.ones((0, 4)), "person_id": np.ones(0)}, "it has no row"),
        (SMALL | {"query_ids": np.ones((2, 2))}, "but (2, 2) of person_id"),
        (SMALL | {"query_features": np.ones((2, 2, 2))}, "features of different dimensions"),
    ],
)
def test_what_does_not_fit_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arrays: Arrays, message: str
) -> None:
    np.savez(tmp_path / "f.npz", **arrays)  # type: ignore[arg-type]
    assert cli.main(["evaluate", str(tmp_path / "f.npz")]) == 2
    assert message in error_line(capsys)
    if "have no person" not in message:
        out = tmp_path / "run"
        assert cli.main(["import", str(tmp_path / "f.npz"), "--out", str(out)]) == 2
        assert message in error_line(capsys)
        assert not out.exists()


def bomb() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as parts, parts.open("a.npy", "w") as p:
        for _ in range(1 << 9):
            p.write(bytes(1 << 20))
    return stream.getvalue()


def claiming(shape: str) -> bytes:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    npy = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as parts:
        parts.writestr("features.npy", npy)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("f.npz", b"PK", "no .npz, or a damaged one"),
        ("f.npz", claiming("(1000000000000, 512)"), "no .npz, or a damaged one"),
        ("f.npy", b"\x93NUMPY", "no .npy, or a damaged one"),
        ("f.mat", b"MATLAB 5", "no MATLAB file"),
        ("f.mat", b"MATLAB 7.3", "no HDF5, or a damaged one"),
        ("f.pt", b"\x80", "not a checkpoint"),
        ("f.h5", b"\x89HDF", "no HDF5, or a damaged one"),
        ("f.parquet", b"PAR1", "no Parquet, or a damaged one"),
        ("f.csv", b"path\na.jpg\n", "no features; a table has a column for each of their numbers"),
        ("f.doc", b"", "no file of features by its ending; .npz, .npy, .mat"),
    ],
)
def test_damaged_files_are_refused_in_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: bytes,
    message: str,
) -> None:
    (tmp_path / name).write_bytes(content)
    assert cli.main(["evaluate", str(tmp_path / name)]) == 2
    said = error_line(capsys)
    assert message in said and name in said


def test_an_archive_that_unpacks_to_far_more_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "f.npz").write_bytes(bomb())
    assert cli.main(["evaluate", str(tmp_path / "f.npz")]) == 2
    assert "a.npy unpacks to 536,870,912 bytes" in error_line(capsys)


def test_an_array_that_claims_more_than_its_file_holds_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file.create_dataset("features", (1 << 30, 512), "f4", chunks=(1, 512))
    assert cli.main(["evaluate", str(tmp_path / "f.h5")]) == 2
    assert "features would take 2,199,023,255,552 bytes, and 0 of it lie" in error_line(capsys)


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch hacked",)


def test_code_in_a_file_is_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"query_features": torch.ones(1, 2), "x": Hostile()}, "f.pt")
    np.save("f.npy", np.array([Hostile()], dtype=object), allow_pickle=True)
    np.savez("f.npz", features=np.array([Hostile()], dtype=object))
    for name, message in (
        ("f.pt", "holds posix.system, which loading would run"),
        ("f.npy", "no .npy, or a damaged one"),
        ("f.npz", "no .npz, or a damaged one"),
    ):
        assert cli.main(["evaluate", name]) == 2
        assert message in error_line(capsys)
    assert not Path("hacked").exists()


def test_labels_of_an_npy_lie_beside_it_or_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values, _ = golden("s1_plain_50x300")
    file = npy_and_csv(tmp_path, values)
    expected = evaluated(capsys, file)
    shutil.move(tmp_path / "f.csv", tmp_path / "people.csv")
    assert cli.main(["evaluate", str(file)]) == 2
    assert "f.npy: no labels; give --labels FILE, a table with a row for each" in error_line(capsys)
    assert evaluated(capsys, file, "--labels", tmp_path / "people.csv") == expected
    text = (tmp_path / "people.csv").read_text()
    (tmp_path / "people.csv").write_text(text.replace("person_id", "who").replace("query", "B"))
    said = ("--columns", "person_id=who", "--split-names", "query=B")
    assert evaluated(capsys, file, "--labels", tmp_path / "people.csv", *said).keys() == (
        expected.keys()
    )
    (tmp_path / "people.csv").write_text(text.rsplit("\n", 2)[0])
    assert cli.main(["evaluate", str(file), "--labels", str(tmp_path / "people.csv")]) == 2
    assert "350 features and 349 rows of labels" in error_line(capsys)
    assert cli.main(["evaluate", str(tmp_path), "--labels", str(file)]) == 2
    assert "--labels: " in error_line(capsys)


def test_arrays_of_other_names_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values, _ = golden("s1_plain_50x300")
    expected = evaluated(capsys, npz(tmp_path, values))
    values["Q"] = values.pop("query_features")
    values = {key: value for key, value in values.items() if "multi" not in key}
    np.savez(tmp_path / "f.npz", **values)  # type: ignore[arg-type]
    assert evaluated(capsys, tmp_path / "f.npz", "--columns", "query_features=Q") == expected


def test_of_several_columns_of_lists_none_is_guessed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = 4
    table = pandas.DataFrame(
        {
            "image": [{"bytes": b"x", "path": "a"}] * rows,
            "vector": list(np.eye(rows, 8, dtype=np.float32)),
            "person_id": range(rows),
            "split": ["query", "gallery"] * 2,
        }
    )
    table.to_parquet(tmp_path / "f.parquet")
    line = ["import", str(tmp_path / "f.parquet"), "--out", str(tmp_path / "run")]
    assert cli.main(line) == 0
    assert FeatureStore.open(tmp_path / "run").plan.dim == 8
    table["bbox"] = [[1.0, 2.0, 3.0, 4.0]] * rows
    table.to_parquet(tmp_path / "f.parquet")
    capsys.readouterr()
    assert cli.main(line) == 2
    assert "columns vector and bbox could be the features; leave one out" in error_line(capsys)
    table.rename(columns={"vector": "features"}).to_parquet(tmp_path / "f.parquet")
    assert cli.main([*line[:-1], str(tmp_path / "named")]) == 0
    assert FeatureStore.open(tmp_path / "named").plan.dim == 8


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("f0,f1,f3", "no column for number 2 of the features"),
        ("f0,f00,f1", "f00 and another column are one number"),
        ("f_0,f_1,emb_0,emb_1", "f_0, … and emb_0, … could be the features; leave one out"),
    ],
)
def test_columns_of_numbers_that_are_no_feature_are_named(
    header: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = ",".join("1" * len(header.split(",")))
    (tmp_path / "f.csv").write_text(f"path,person_id,{header}\na.jpg,1,{numbers}\n")
    assert cli.main(["import", str(tmp_path / "f.csv"), "--out", str(tmp_path / "run")]) == 2
    assert message in error_line(capsys)


def test_tensors_that_hold_no_plain_numbers_are_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = {
        "features": torch.eye(2, 8),
        "person_id": torch.tensor([1, 2]),
        "other": torch.eye(2).to_sparse(),
        "meta": torch.empty(2, device="meta"),
        "complex": torch.ones(2, dtype=torch.complex64).conj(),
    }
    torch.save(content, tmp_path / "f.pt")
    assert cli.main(["import", str(tmp_path / "f.pt"), "--out", str(tmp_path / "run")]) == 0
    torch.save({"features": torch.eye(2, 8).to_sparse()}, tmp_path / "f.pt")
    capsys.readouterr()
    assert cli.main(["import", str(tmp_path / "f.pt"), "--out", str(tmp_path / "other")]) == 2
    assert error_line(capsys)
