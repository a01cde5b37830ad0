"""Every benchmark against what the projects' own code gives, in each form that data comes in."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from array_stores import in_memory
from conftest import GOLDEN
from numpy.typing import NDArray
from scipy.io import savemat

from distreid import cli
from distreid.data.manifest import Manifest
from distreid.data.source import open_data
from distreid.evaluation.evaluate import evaluate
from distreid.evaluation.protocols.choice import chosen_protocols
from distreid.store.array_store import ArrayStore

TOLERANCE = 1e-6


@dataclass(frozen=True, kw_only=True)
class Case:
    """A protocol and where its figures are in `outputs.json`."""

    scenario: str
    protocol: str
    place: str
    seed: int | None = None
    in_folder: bool = True

    @property
    def expected(self) -> dict[str, float]:
        """The figures by their names in `--json`."""
        found = json.loads((GOLDEN / "protocols" / self.scenario / "outputs.json").read_text())
        for key in filter(None, self.place.split("/")):
            found = found[key]
        figures = {
            f"rank{k}": share
            for k, share in next(
                found[n] for n in ("cmc", "closed_set", "top") if n in found
            ).items()
        }
        figures |= {name: found[name] for name in ("mAP", "mINP") if name in found}
        if "map" in found:
            figures["mAP"] = found["map"]["all"]
        return figures


CASES = [
    Case(scenario="sysu_mm01", protocol="sysu-mm01-all-single", place="python/all_single/mean"),
    Case(
        scenario="sysu_mm01", protocol="sysu-mm01-indoor-single", place="python/indoor_single/mean"
    ),
    Case(scenario="regdb", protocol="regdb-visible-to-thermal", place="visible_to_thermal/mean"),
    Case(scenario="regdb", protocol="regdb-thermal-to-visible", place="thermal_to_visible/mean"),
    Case(scenario="ltcc", protocol="ltcc-general", place="general"),
    Case(scenario="ltcc", protocol="ltcc-same-clothes", place="same_clothes"),
    Case(scenario="ltcc", protocol="ltcc-changed-clothes", place="clothes_changing"),
    *(
        Case(scenario="prcc", protocol=f"prcc-{name}{ending}", place=f"{key}/{gallery}")
        for name, key in (
            ("same-clothes", "same_clothes"),
            ("changed-clothes", "clothes_changing"),
        )
        for ending, gallery in (("", "whole_gallery"), ("-single", "single_shot/mean"))
    ),
    Case(scenario="mars", protocol="mars", place="official"),
    Case(scenario="mars", protocol="mars-ap3d", place="ap3d"),
    Case(scenario="mars", protocol="mars-torchreid", place="torchreid"),
    Case(scenario="vehicleid", protocol="vehicleid-800", place="transreid/mean", seed=51),
    Case(scenario="vehicleid", protocol="vehicleid-800-fastreid", place="fastreid/mean"),
    Case(scenario="veri776", protocol="veri-776", place="image_to_image/official_matlab"),
    Case(scenario="veri776", protocol="veri-776-standard", place="image_to_image/fastreid"),
    Case(
        scenario="veri776",
        protocol="veri-776-track",
        place="image_to_track/all_images_of_each_track",
    ),
    Case(scenario="leave_one_out", protocol="leave-one-out", place="mmtracking"),
    Case(scenario="leave_one_out", protocol="leave-one-out-oml", place="oml"),
    Case(
        scenario="leave_one_out",
        protocol="leave-one-out-sequence",
        place="oml_sequence",
        in_folder=False,  # folders tell no sequences
    ),
    # The draws are made in the order of the rows, which is not that of the paths.
    Case(
        scenario="cuhk03_single_shot",
        protocol="cuhk03-single-shot",
        place="",
        seed=81,
        in_folder=False,
    ),
    # What asks is no image, or not told by the folder.
    Case(
        scenario="text_to_image", protocol="text-to-image", place="text_to_image", in_folder=False
    ),
    Case(
        scenario="text_to_image", protocol="image-to-text", place="image_to_text", in_folder=False
    ),
    Case(scenario="open_set", protocol="open-set", place="", in_folder=False),
    # Frames with boxes: their folders are read with detections, see test_person_search.py.
    *(
        Case(
            scenario="cuhk_sysu",
            protocol=f"cuhk-sysu-{size}",
            place=f"gallery_{size}/deep_person_search",
            in_folder=False,
        )
        for size in ("50", "100", "all")
    ),
    Case(
        scenario="prw",
        protocol="prw",
        place="whole_gallery/deep_person_search",
        in_folder=False,
    ),
    Case(
        scenario="prw",
        protocol="prw-other-cameras",
        place="other_cameras_only/seqnet",
        in_folder=False,
    ),
]


@dataclass(frozen=True, kw_only=True)
class Features:
    """A scenario as one table."""

    features: NDArray[np.float32]
    columns: dict[str, list[Any]]
    test_ids: list[int] = field(default_factory=list)


def inputs(scenario: str) -> dict[str, NDArray[Any]]:
    with np.load(GOLDEN / "protocols" / scenario / "inputs.npz") as arrays:
        return dict(arrays)


def texts(scenario: str) -> dict[str, str]:
    file = GOLDEN / "protocols" / scenario / "texts.json"
    found: dict[str, str] = json.loads(file.read_text()) if file.is_file() else {}
    return found


def table(scenario: str) -> Features:
    """The columns as a user of the protocol names them."""
    z = inputs(scenario)
    if scenario == "text_to_image":
        captions = [f"caption {number}" for number in range(len(z["caption_pids"]))]
        return Features(
            features=np.concatenate([z["text_features"], z["image_features"]]),
            columns={
                "path": captions + z["names"].tolist(),
                "person_id": z["caption_pids"].tolist() + z["image_pids"].tolist(),
                "modality": ["text"] * len(captions) + ["image"] * len(z["image_pids"]),
            },
        )
    if "detections_xyxy_score" in z:
        return of_frames(z)
    names = z["first_frame"] if scenario == "mars" else z["names"]
    columns: dict[str, list[Any]] = {"path": names.tolist(), "person_id": z["pids"].tolist()}
    if "camids" in z:
        columns["camera_id"] = z["camids"].tolist()
    rows = len(names)
    match scenario:
        case "ltcc":
            columns |= {"split": z["split"].tolist(), "clothes": z["clothes"].tolist()}
        case "prcc":
            columns |= {"camera": z["cam_letters"].tolist(), "clothes": z["clothes"].tolist()}
        case "regdb":
            trials: dict[str, list[str]] = {}
            for name, text in texts(scenario).items():
                if "test" in name:
                    for line in text.splitlines():
                        number = name.rpartition("_")[2].removesuffix(".txt")
                        trials.setdefault(line.split()[0], []).append(number)
            columns["modality"] = z["modality"].tolist()
            columns["trials"] = [" ".join(trials.get(name, [])) for name in z["names"].tolist()]
        case "mars":
            queries = set((z["query_IDX"] - 1).tolist())
            columns["split"] = ["query" if r in queries else "gallery" for r in range(rows)]
        case "veri776":
            queries = set(z["query_rows"].tolist())
            columns["split"] = ["query+gallery" if r in queries else "gallery" for r in range(rows)]
            columns["tracklet"] = z["tracks"].tolist()
        case "leave_one_out":
            columns["sequence"] = z["sequences"].tolist()
        case "cuhk03_single_shot":
            columns["split"] = ["query+gallery"] * rows
        case "open_set":
            columns["split"] = z["role"].tolist()
    test_ids = z["test_ids"].tolist() if "test_ids" in z else []
    return Features(features=z["features"], columns=columns, test_ids=test_ids)


def of_frames(z: dict[str, NDArray[Any]]) -> Features:
    """Queries, detections with their scores, and true boxes, which have features of no matter."""
    boxes = [z["query_boxes_xywh"], z["boxes_xywh"]]
    corners = [np.concatenate([b[:, :2], b[:, :2] + b[:, 2:]], axis=1) for b in boxes]
    found = z["detections_xyxy_score"]
    image = np.concatenate([z["query_image"], z["det_image"], z["box_image"]])
    counts = (len(boxes[0]), len(found), len(boxes[1]))
    split = ["query"] * counts[0] + ["gallery"] * (counts[1] + counts[2])
    all_corners = np.concatenate([corners[0], found[:, :4].astype(np.float64), corners[1]])
    columns: dict[str, list[Any]] = {
        "path": z["image_names"][image].tolist(),
        "person_id": [*z["query_pids"].tolist(), *[-2] * counts[1], *z["box_pids"].tolist()],
        "split": split,
        "box": [",".join(map(repr, each)) for each in all_corners.tolist()],
        "score": ["", *[""] * (counts[0] - 1), *map(repr, found[:, 4].tolist()), *[""] * counts[2]],
    }
    if "image_cameras" in z:
        columns["camera_id"] = z["image_cameras"][image].tolist()
    no_matter = np.zeros((counts[2], z["features"].shape[1]), np.float32)
    no_matter[:, 0] = 1
    return Features(
        features=np.concatenate([z["query_features"], z["features"], no_matter]), columns=columns
    )


def write_lists(folder: Path, scenario: str) -> None:
    """Of person search, the frames of each query."""
    z = inputs(scenario)
    for name in ("gallery50_images", "gallery100_images"):
        if name in z:
            rows = zip(z["query_pids"].tolist(), z["image_names"][z[name]].tolist(), strict=True)
            text = "".join(f"{person} {' '.join(frames)}\n" for person, frames in rows)
            (folder / f"TestG{name[7:-7]}.txt").write_text(text)


def write_npz(folder: Path, found: Features) -> list[str]:
    arrays = {name: np.array(values) for name, values in found.columns.items()}
    if found.test_ids:
        arrays["test_ids"] = np.array(found.test_ids)
    np.savez(folder / "f.npz", allow_pickle=False, features=found.features, **arrays)
    return [str(folder / "f.npz")]


def write_csv(folder: Path, found: Features) -> list[str]:
    """An .npy, and a CSV beside it."""
    np.save(folder / "f.npy", found.features)
    with (folder / "f.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(found.columns)
        writer.writerows(zip(*found.columns.values(), strict=True))
    return [str(folder / "f.npy"), *write_test_ids(folder, found)]


def write_one_csv(folder: Path, found: Features) -> list[str]:
    """The features in the table too."""
    columns = found.columns | {
        f"feature_{number}": column for number, column in enumerate(found.features.T.tolist())
    }
    with (folder / "all.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return [str(folder / "all.csv"), *write_test_ids(folder, found)]


def write_test_ids(folder: Path, found: Features) -> list[str]:
    if not found.test_ids:
        return []
    (folder / "test_id.txt").write_text(",".join(map(str, found.test_ids)) + "\n")
    return ["--test-ids", str(folder / "test_id.txt")]


@pytest.mark.parametrize("write", [write_npz, write_csv, write_one_csv])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.protocol)
def test_files_of_features_give_the_projects_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], case: Case, write: Any
) -> None:
    write_lists(tmp_path, case.scenario)
    command = ["evaluate", *write(tmp_path, table(case.scenario)), "--protocol", case.protocol]
    command += ["--seed", str(case.seed)] if case.seed is not None else []
    assert cli.main([*command, "--json"]) == 0
    (scores,) = json.loads(capsys.readouterr().out)["scores"]
    assert scores["benchmark"] == case.protocol
    assert {name: scores[name] for name in case.expected} == pytest.approx(
        case.expected, abs=TOLERANCE
    )


def write_tree(root: Path, scenario: str) -> Path:
    """The data set's folder, of empty images: only names are read."""
    files = (GOLDEN / "protocols" / scenario / "files.txt").read_text().splitlines()
    for name in files:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(texts(scenario).get(name, ""))
    if scenario == "mars":
        z = inputs(scenario)
        info = root / "MARS/info"
        savemat(info / "tracks_test_info.mat", {"track_test_info": z["track_test_info"]})
        savemat(info / "query_IDX.mat", {"query_IDX": z["query_IDX"][None]})
        (info / "test_name.txt").write_text("\n".join(z["test_names"].tolist()) + "\n")
    within = {"ltcc": "LTCC_ReID", "prcc": "prcc", "mars": "MARS"}
    return root / within.get(scenario, "")


def features_by_path(scenario: str, manifest: Manifest) -> NDArray[np.float32]:
    z = inputs(scenario)
    if scenario == "mars":
        first, last = z["track_test_info"][:, 0] - 1, z["track_test_info"][:, 1]
        of: Mapping[str, NDArray[np.float32]] = {
            name: feature
            for start, stop, feature in zip(first, last, z["features"], strict=True)
            for name in z["test_names"][start:stop].tolist()
        }
    else:
        names = [Path(name).name for name in z["names"].tolist()]
        if len(set(names)) < len(names):
            of = dict(zip(z["names"].tolist(), z["features"], strict=True))
            paths = [path.decode() for path in manifest.path.tolist()]
            start = "prcc/" if scenario == "prcc" else ""
            return np.stack([of[start + path] for path in paths])
        of = dict(zip(names, z["features"], strict=True))
    return np.stack([of[Path(path.decode()).name] for path in manifest.path.tolist()])


def store_of(manifest: Manifest, features: NDArray[np.float32]) -> ArrayStore:
    norm = np.linalg.norm(features, axis=1)
    return in_memory(manifest, features / norm[:, None], norm=norm)


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.in_folder], ids=lambda case: case.protocol
)
def test_folders_as_distributed_give_the_projects_figures(tmp_path: Path, case: Case) -> None:
    manifest = open_data(str(write_tree(tmp_path, case.scenario)))
    store = store_of(manifest, features_by_path(case.scenario, manifest))
    changes = {} if case.seed is None else {"seed": case.seed}
    (scores,) = evaluate(store, chosen_protocols([case.protocol], changes)).scores
    found = {f"rank{k}": scores.rank(k) for k in (1, 5, 10, 20)}
    found |= {"mAP": scores.mAP, "mINP": scores.mINP}
    assert {name: found[name] for name in case.expected} == pytest.approx(
        case.expected, abs=TOLERANCE
    )


def test_each_draw_has_the_figures_of_the_projects_draw() -> None:
    for scenario, protocol, place in (
        ("sysu_mm01", "sysu-mm01-all-single", ("python", "all_single")),
        ("vehicleid", "vehicleid-800-fastreid", ("fastreid",)),
        ("prcc", "prcc-changed-clothes-single", ("clothes_changing", "single_shot")),
    ):
        found = table(scenario)
        output = json.loads((GOLDEN / "protocols" / scenario / "outputs.json").read_text())
        for key in place:
            output = output[key]
        tested = set(found.test_ids)
        manifest = manifest_of_table(found)
        if tested:
            keep = np.isin(manifest.person_id, list(tested))
            split = np.where(keep, b"", b"other")
            manifest = replace_split(manifest, split)
        (scores,) = evaluate(
            store_of(manifest, found.features), chosen_protocols([protocol], {})
        ).scores
        assert len(scores.draws) == 10
        for draw, expected in zip(scores.draws, output["draws"], strict=True):
            assert draw.mAP == pytest.approx(expected["mAP"], abs=TOLERANCE)
            for k, share in expected["cmc"].items():
                assert draw.rank(int(k)) == pytest.approx(share, abs=TOLERANCE)


def manifest_of_table(found: Features) -> Manifest:
    from distreid.data.manifest import build_manifest

    extra = {
        name: [str(value) for value in values]
        for name, values in found.columns.items()
        if name not in ("path", "person_id", "camera_id", "split", "camera")
    }
    return build_manifest(
        root=Path("data"),
        layout="csv",
        path=[str(path).encode() for path in found.columns["path"]],
        person_id=found.columns["person_id"],
        camera_id=found.columns.get("camera_id"),
        split=found.columns.get("split"),
        extra=extra,
    )


def replace_split(manifest: Manifest, split: NDArray[np.bytes_]) -> Manifest:
    from dataclasses import replace

    return replace(manifest, split=split)


@pytest.mark.parametrize("mode", ["all", "indoor"])
def test_sysu_mm01_by_the_official_permutations(tmp_path: Path, mode: str) -> None:
    """As MATLAB's code draws: the first of each permutation of a person's images in a camera."""
    root = write_tree(tmp_path, "sysu_mm01")
    z = inputs("sysu_mm01")
    cells = np.empty((6, 1), object)
    for camera in range(1, 7):
        persons = np.empty((1, int(z["perm_pid"].max())), object)
        for person in range(1, persons.shape[1] + 1):
            rows = (z["perm_cam"] == camera) & (z["perm_pid"] == person)
            orders = z["perm_values"][rows][np.argsort(z["perm_trial"][rows])]
            length = int((orders > 0).sum(axis=1).max(initial=0))
            persons[0, person - 1] = orders[:, :length].astype(np.float64)
        cells[camera - 1, 0] = persons
    savemat(root / "exp/rand_perm_cam.mat", {"rand_perm_cam": cells})
    manifest = open_data(str(root))
    assert "draws by exp/rand_perm_cam.mat, the official permutations" in manifest.notes
    store = store_of(manifest, features_by_path("sysu_mm01", manifest))
    (scores,) = evaluate(store, chosen_protocols([f"sysu-mm01-{mode}-single"], {})).scores
    expected = Case(scenario="sysu_mm01", protocol="", place=f"matlab/{mode}_1shot/mean").expected
    found = {f"rank{k}": scores.rank(k) for k in (1, 5, 10, 20)} | {"mAP": scores.mAP}
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=TOLERANCE)


def test_regdbs_lists_are_read_beside_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = table("regdb")
    del found.columns["trials"]
    for name, text in texts("regdb").items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    command = ["evaluate", *write_npz(tmp_path, found), "--protocol", "regdb-visible-to-thermal"]
    assert cli.main([*command, "--json"]) == 0
    (scores,) = json.loads(capsys.readouterr().out)["scores"]
    case = Case(scenario="regdb", protocol="", place="visible_to_thermal/mean")
    assert {name: scores[name] for name in case.expected} == pytest.approx(
        case.expected, abs=TOLERANCE
    )


@pytest.mark.parametrize("has_paths", [True, False])
@pytest.mark.parametrize("scenario", ["leave_one_out", "veri776"])
def test_a_row_that_asks_and_is_asked_may_stand_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], scenario: str, has_paths: bool
) -> None:
    once = table(scenario)
    splits = once.columns.get("split", ["query+gallery"] * len(once.features))
    both = [row for row, split in enumerate(splits) if split == "query+gallery"]
    rows = np.array([*both, *range(len(once.features))])
    columns = {name: [values[r] for r in rows] for name, values in once.columns.items()}
    columns["split"] = ["query"] * len(both) + ["gallery"] * len(splits)
    if not has_paths:
        del columns["path"]
    (case,) = (c for c in CASES if c.protocol in ("leave-one-out", "veri-776")
               and c.scenario == scenario)  # fmt: skip
    file = write_npz(tmp_path, Features(features=once.features[rows], columns=columns))
    assert cli.main(["evaluate", *file, "--protocol", case.protocol, "--json"]) == 0
    (scores,) = json.loads(capsys.readouterr().out)["scores"]
    assert {name: scores[name] for name in case.expected} == pytest.approx(
        case.expected, abs=TOLERANCE
    )


def test_open_set_gives_the_rates_of_the_project(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", *write_npz(tmp_path, table("open_set")), "--protocol", "open-set"]
    assert cli.main([*command, "--json"]) == 0
    (scores,) = json.loads(capsys.readouterr().out)["scores"]
    expected = json.loads((GOLDEN / "protocols/open_set/outputs.json").read_text())
    closed = {f"rank{k}": share for k, share in expected["closed_set"].items()}
    assert {name: scores[name] for name in closed} == pytest.approx(closed, abs=TOLERANCE)
    assert scores["queries"] == expected["queries_with_a_gallery_match"]
    for place, found in enumerate(scores["open_set"]):
        assert found["asked_far"] == expected["asked_FAR"][place]
        assert found["far"] == pytest.approx(expected["reached_FAR"][place], abs=TOLERANCE)
        assert found["threshold"] == pytest.approx(expected["thresholds"][place], abs=TOLERANCE)
        assert list(found["dir"].values()) == pytest.approx(expected["DIR"][place], abs=TOLERANCE)
