"""CUHK-SYSU and PRW as distributed, with the projects' figures for their detections."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import GOLDEN
from numpy.typing import NDArray
from scipy.io import savemat

from distreid.data.box_request import BoxRequest
from distreid.data.locators import frame_of
from distreid.data.manifest import Manifest
from distreid.data.source import open_data
from distreid.errors import DataError
from distreid.evaluation.evaluate import evaluate
from distreid.evaluation.protocols.choice import chosen_protocols
from distreid.store.array_store import ArrayStore
from distreid.store.plan import Plan

PROTOCOLS = GOLDEN / "protocols"


def inputs(name: str) -> dict[str, NDArray[Any]]:
    with np.load(PROTOCOLS / name / "inputs.npz") as arrays:
        return dict(arrays)


def objects(values: list[Any]) -> NDArray[Any]:
    made = np.empty((len(values), 1), object)
    for place, value in enumerate(values):
        made[place, 0] = value
    return made


def write_prw(root: Path, z: dict[str, NDArray[Any]]) -> None:
    texts = json.loads((PROTOCOLS / "prw/texts.json").read_text())
    (root / "query_info.txt").write_text(texts["query_info.txt"], newline="")
    (root / "frames").mkdir()
    (root / "annotations").mkdir()
    for number, name in enumerate(z["image_names"].tolist()):
        (root / f"frames/{name}.jpg").touch()
        inside = z["box_image"] == number
        boxes = np.concatenate([z["box_pids"][inside, None], z["boxes_xywh"][inside]], axis=1)
        array = "anno_file" if number % 2 else "box_new"
        savemat(root / f"annotations/{name}.jpg.mat", {array: boxes.astype(np.float64)})
    savemat(root / "frame_test.mat", {"img_index_test": objects(z["image_names"].tolist())})


def structs(**fields: list[Any]) -> NDArray[Any]:
    """An array of structs, of (n, 1)."""
    count = len(next(iter(fields.values())))
    made = np.empty((count, 1), [(name, object) for name in fields])
    for name, values in fields.items():
        for place, value in enumerate(values):
            made[name][place, 0] = value
    return made


def write_cuhk(root: Path, z: dict[str, NDArray[Any]]) -> None:
    names = z["image_names"].tolist()
    (root / "Image/SSM").mkdir(parents=True)
    for name in names:
        (root / "Image/SSM" / name).touch()
    folder = root / "annotation/test/train_test"
    folder.mkdir(parents=True)
    of_image = [z["boxes_xywh"][z["box_image"] == number] for number in range(len(names))]
    boxes = [structs(idlocate=[*each.astype(np.float64)]) for each in of_image]
    savemat(root / "annotation/Images.mat", {"Img": structs(imname=names, box=boxes)})
    savemat(root / "annotation/pool.mat", {"pool": objects(names)})
    for size in (50, 100):
        queries, galleries = [], []
        for number, person in enumerate(z["query_pids"].tolist()):
            image, box = int(z["query_image"][number]), z["query_boxes_xywh"][number]
            queries.append(structs(imname=[names[image]], idlocate=[box.astype(np.float64)]))
            listed = z[f"gallery{size}_images"][number].tolist()
            shown = []
            for frame in listed:
                own = z["boxes_xywh"][(z["box_image"] == frame) & (z["box_pids"] == person)]
                shown.append(own[0].astype(np.float64) if len(own) else np.zeros((0, 0)))
            galleries.append(structs(imname=[names[f] for f in listed], idlocate=shown))
        tests = structs(Query=queries, Gallery=galleries)
        savemat(folder / f"TestG{size}.mat", {f"TestG{size}": tests})


def write_detections(file: Path, z: dict[str, NDArray[Any]]) -> None:
    lines = ["path,x1,y1,x2,y2,score"]
    found = z["detections_xyxy_score"].tolist()
    for image, row in zip(z["image_names"][z["det_image"]].tolist(), found, strict=True):
        lines.append(",".join([image if "." in image else f"{image}.jpg", *map(repr, row)]))
    file.write_text("\n".join(lines) + "\n")


def store_of(manifest: Manifest, z: dict[str, NDArray[Any]], root: Path) -> ArrayStore:
    """Features of queries by their persons' order, of detections by frame and score."""
    names = [name if "." in name else f"{name}.jpg" for name in z["image_names"].tolist()]
    at = {name.encode(): number for number, name in enumerate(names)}
    features = np.zeros((len(manifest), z["features"].shape[1]), np.float32)
    features[:, 0] = 1
    scores = z["detections_xyxy_score"][:, 4]
    for row in range(len(manifest)):
        image = at[frame_of(bytes(manifest.path[row])).rpartition(b"/")[2]]
        box = np.array([float(v) for v in bytes(manifest.extra["box"][row]).split(b",")])
        if manifest.split[row] == b"query":
            own = (z["query_image"] == image) & (z["query_pids"] == manifest.person_id[row])
            own &= (z["query_boxes_xywh"][:, :2] == box[:2]).all(axis=1)
            features[row] = z["query_features"][np.flatnonzero(own)[0]]
        elif manifest.extra["score"][row]:
            near = np.abs(scores - float(manifest.extra["score"][row]))
            near[z["det_image"] != image] = np.inf
            features[row] = z["features"][int(np.argmin(near))]
    norm = np.linalg.norm(features, axis=1)
    plan = Plan(
        manifest=manifest, identity={}, provenance={}, dim=features.shape[1], dtype="float32",
        shard_rows=len(manifest),
    )  # fmt: skip
    status = np.zeros(len(manifest), np.uint8)
    return ArrayStore(run=root, plan=plan, norm=norm, status=status, array=features / norm[:, None])


@pytest.mark.parametrize(
    ("name", "write", "figures"),
    [
        (
            "prw",
            write_prw,
            {
                "prw": ("whole_gallery", "deep_person_search"),
                "prw-other-cameras": ("other_cameras_only", "seqnet"),
            },
        ),
        (
            "cuhk_sysu",
            write_cuhk,
            {
                f"cuhk-sysu-{size}": (f"gallery_{size}", "deep_person_search")
                for size in (50, 100, "all")
            },
        ),
    ],
)
def test_the_folder_with_its_detections_gives_the_projects_figures(
    tmp_path: Path, name: str, write: Any, figures: dict[str, tuple[str, str]]
) -> None:
    z, root = inputs(name), tmp_path / "data"
    root.mkdir()
    write(root, z)
    write_detections(tmp_path / "found.csv", z)
    manifest = open_data(str(root), boxes=BoxRequest(file=str(tmp_path / "found.csv")))
    assert manifest.layout == name
    counts = (len(z["query_pids"]), len(z["det_image"]), len(z["box_image"]))
    assert len(manifest) == sum(counts)
    store = store_of(manifest, z, root)
    expected = json.loads((PROTOCOLS / name / "outputs.json").read_text())
    for protocol, (gallery, project) in figures.items():
        (scores,) = evaluate(store, chosen_protocols([protocol], {})).scores
        found = expected[gallery][project]
        assert scores.mAP == pytest.approx(found["mAP"], abs=1e-6)
        for k, share in found["top"].items():
            assert scores.rank(int(k)) == pytest.approx(share, abs=1e-6)


def test_the_layouts_are_recognised_and_say_that_detections_lack(tmp_path: Path) -> None:
    write_prw(tmp_path, inputs("prw"))
    manifest = open_data(str(tmp_path))
    assert manifest.layout == "prw"
    assert any("no detections: give --boxes FILE" in note for note in manifest.notes)
    assert manifest.camera_id.min() == 1 and manifest.camera_id.max() == 6
    (tmp_path / "query_info.txt").write_text("901 1.0 2.0 3.0 c6s3_001832\n")
    with pytest.raises(DataError, match="line 1: person, x, y, w, h, frame are wanted"):
        open_data(str(tmp_path))


def test_a_detection_without_a_score_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write_prw(tmp_path / "data", inputs("prw"))
    boxes = tmp_path / "found.csv"
    boxes.write_text("path,x,y,w,h\nc1s1_000127.jpg,1,1,9,9\n")
    with pytest.raises(DataError, match=r"found\.csv, line 2: a detection needs a score"):
        open_data(str(tmp_path / "data"), boxes=BoxRequest(file=str(boxes)))
