"""From images to a benchmark's figures: one extraction, whoever asks and is asked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from small_runs import make_run

import distreid
from distreid import cli
from distreid.data.source import SAMPLE_VIDEO_FOLDER
from distreid.evaluation.breakdown import person_scores
from distreid.evaluation.by_benchmark import ask, labelled_by
from distreid.evaluation.evaluate import evaluate
from distreid.evaluation.protocols.known import BENCHMARKS
from distreid.images.preprocess import decode, read
from distreid.report.run_page import ranked_queries
from distreid.store import FeatureStore


def draw_persons(root: Path, names: dict[str, int]) -> None:
    """An image for each name, of the colours of its person among as many others, so that some are
    mistaken."""
    random = np.random.default_rng(0)
    for name, person in names.items():
        colours = np.random.default_rng(person).integers(0, 255, (4, 2, 3))
        mixed = (colours + 2 * random.integers(0, 255, (4, 2, 3))) // 3
        pixels = np.repeat(np.repeat(mixed, 8, axis=0), 8, axis=1).astype(np.uint8)
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / name)


def extract(data: Path, run: Path) -> None:
    command = ["extract", "--data", str(data), "--checkpoint", "sample", "--out", str(run)]
    assert cli.main([*command, "--num-workers", "0", "--engine", "torch"]) == 0


def scores_of(capsys: pytest.CaptureFixture[str], *command: object) -> list[dict[str, object]]:
    capsys.readouterr()
    assert cli.main([*map(str, command), "--json"]) == 0
    found: list[dict[str, object]] = json.loads(capsys.readouterr().out)["scores"]
    return found


def test_an_image_listed_twice_is_extracted_once_and_does_not_find_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Row 26: a CSV that lists each image as query and as gallery, without cameras."""
    names = {f"{person}_{n}.png": person for person in range(5) for n in range(3)}
    draw_persons(tmp_path, names)
    lines = [f"{name},{person},{split}" for split in ("query", "gallery") for name, person in
             names.items()]  # fmt: skip
    (tmp_path / "list.csv").write_text("\n".join(["path,person_id,split", *lines]) + "\n")
    extract(tmp_path / "list.csv", tmp_path / "run")
    said = capsys.readouterr()
    assert "15 images are listed as query and as gallery: one row each" in said.out + said.err
    assert "15 queries are in the gallery: none finds itself" in said.out
    store = FeatureStore.open(tmp_path / "run")
    assert len(store.manifest) == 15
    (usual,) = scores_of(capsys, "evaluate", tmp_path / "run", "--protocol", "fastreid")
    (own,) = scores_of(capsys, "evaluate", tmp_path / "run", "--protocol", "leave-one-out")
    assert own["benchmark"] == "leave-one-out" and "benchmark" not in usual
    for name in ("rank1", "rank5", "rank10", "mAP", "mINP", "queries"):
        assert usual[name] == own[name], name
    features = store.features(np.arange(15))
    products = features @ features.T
    np.fill_diagonal(products, -np.inf)
    persons = store.manifest.person_id
    assert own["rank1"] == np.mean(persons[products.argmax(axis=1)] == persons)
    assert own["mAP"] < 1  # type: ignore[operator]
    # The page draws, calibrates and breaks down the same.
    assert cli.main(["report", str(tmp_path / "run")]) == 0
    calibration = tmp_path / "run" / "calibration.json"
    assert cli.main(["calibrate", str(tmp_path / "run")]) == 0
    assert json.loads(calibration.read_text())["matches"]["total"] == 5 * 3 * 2


def test_vehicleid_has_ten_draws_of_one_extraction_and_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Row 32."""
    names = {f"image/{n:07d}.jpg": 40 + n % 6 for n in range(1, 25)}
    draw_persons(tmp_path, names)
    (tmp_path / "train_test_split").mkdir()
    listed = [f"{Path(name).stem} {vehicle}" for name, vehicle in names.items()]
    (tmp_path / "train_test_split/test_list_800.txt").write_text("\n".join(listed) + "\n")
    extract(tmp_path, tmp_path / "run")
    out = capsys.readouterr().out
    assert "vehicleid-800 ┃ vehicleid-800-fastreid" in out and "mean of 10 draws" in out
    assert len(FeatureStore.open(tmp_path / "run").manifest) == 24
    first, second = json.loads((tmp_path / "run/metrics.json").read_text())["scores"]
    for scores in (first, second):
        assert [draw["queries"] for draw in scores["draws"]] == [18] * 10
        assert scores["rank1"] == pytest.approx(
            np.mean([draw["rank1"] for draw in scores["draws"]])
        )
    assert first["draws"] != second["draws"]
    assert cli.main(["report", str(tmp_path / "run")]) == 0
    page = (tmp_path / "run/report.html").read_text()
    assert "vehicleid-800-fastreid" in page
    assert "what they find first, in their first draw" in page
    # Tables add up to the mean of the draws, pictures show what the first draw counts.
    store = FeatureStore.open(tmp_path / "run")
    (scores,) = evaluate(store, [BENCHMARKS["vehicleid-800"]]).scores
    sides = labelled_by(store, BENCHMARKS["vehicleid-800"], ask(store, BENCHMARKS["vehicleid-800"]))
    weight = scores.values.weight
    assert weight is not None
    persons = sides[0].person_id
    weights = {person: weight[persons == person].sum() for person in persons.tolist()}
    means = {person: mean for person, _, mean in person_scores(sides[0], scores)}
    assert sum(means[p] * weights[p] for p in weights) == pytest.approx(
        scores.mAP * sum(weights.values())
    )
    shown = ranked_queries(store, scores, *sides, np.arange(24))
    assert len(shown) == 24
    for query, row in enumerate(shown):
        assert len(row.ranked) == 6, "one image of each"
        found = [image.correct for image in row.ranked].index(True) + 1
        assert found == scores.per_query.first_rank[query]
        assert row.ap == scores.per_query.ap[query]
    capsys.readouterr()
    run = str(tmp_path / "run")
    assert cli.main(["compare", run, run, "--protocol", "vehicleid-800"]) == 0
    assert "vehicleid-800: 24 queries of 6 persons" in capsys.readouterr().out
    csv = tmp_path / "queries.csv"
    assert cli.main(["evaluate", run, "--protocol", "vehicleid-800", "--csv", str(csv)]) == 0
    assert len(csv.read_text().splitlines()) == 1 + 24
    assert "this data is known as" not in capsys.readouterr().err
    assert cli.main(["evaluate", run, "--protocol", "fastreid"]) == 0
    said = capsys.readouterr().err
    assert "this data is known as vehicleid_small, which is scored by vehicleid-800," in said


def test_python_scores_a_store_by_a_benchmark_and_by_ones_own(tmp_path: Path) -> None:
    names = {f"imgs/p{person}/{n}.png": person for person in range(4) for n in range(3)}
    draw_persons(tmp_path, names)
    distreid.extract_features(tmp_path, "sample", tmp_path / "run", num_workers=0)
    store = distreid.open_store(tmp_path / "run")
    (tmp_path / "mine.toml").write_text('name = "mine"\nlike = "leave-one-out"\n')
    by_name = distreid.evaluate(store, protocol="leave-one-out").to_dict()["scores"][0]
    by_file = distreid.evaluate(store, protocol=tmp_path / "mine.toml").to_dict()["scores"][0]
    assert by_name["benchmark"] == "leave-one-out" and by_file["benchmark"] == "mine"
    assert by_name["mAP"] == by_file["mAP"] and by_name["queries"] == 12
    with pytest.raises(distreid.errors.OptionError, match="'leave-one-out' wants a store"):
        distreid.evaluate(
            query_features=np.eye(2),
            gallery_features=np.eye(2),
            query_ids=[1, 2],
            gallery_ids=[1, 2],
            protocol="leave-one-out",
        )


def test_person_search_has_a_report_with_its_frames(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """PRW as distributed, made of the sample video: each sixteenth frame of both cameras."""
    root, run = tmp_path / "prw", tmp_path / "run"
    (root / "frames").mkdir(parents=True)
    (root / "annotations").mkdir()
    names: list[str] = []
    queries: list[str] = []
    detections = ["path,x1,y1,x2,y2,score"]
    for camera, video in enumerate(("plaza", "park"), start=1):
        text = (SAMPLE_VIDEO_FOLDER / f"{video}.txt").read_text()
        lines = [line.split(",") for line in text.splitlines()]
        for frame in range(8, 100, 16):
            if not (inside := [line[1:6] for line in lines if int(line[0]) == frame]):
                continue
            names.append(f"c{camera}s1_{frame:06d}")
            pixels = decode(read(SAMPLE_VIDEO_FOLDER / f"{video}.mp4#/{frame:06d}.ppm"))
            Image.fromarray(pixels).save(root / f"frames/{names[-1]}.jpg")
            boxes = {"box_new": np.array(inside, np.float64)}
            savemat(root / f"annotations/{names[-1]}.jpg.mat", boxes)
            for person, *corner in inside:
                x, y, w, h = map(float, corner)
                detections.append(f"{names[-1]}.jpg,{x},{y},{x + w},{y + h},0.9")
                if camera == 1 and len(queries) < 3:
                    queries.append(" ".join([person, *corner, names[-1]]))
    listed = np.empty((len(names), 1), object)
    listed[:, 0] = names
    savemat(root / "frame_test.mat", {"img_index_test": listed})
    (root / "query_info.txt").write_text("\n".join(queries) + "\n")
    (tmp_path / "found.csv").write_text("\n".join(detections) + "\n")
    what = ["extract", "--data", str(root), "--boxes", str(tmp_path / "found.csv")]
    how = ["--checkpoint", "sample", "--out", str(run), "--num-workers", "0", "--engine", "torch"]
    assert cli.main([*what, *how]) == 0
    assert cli.main(["report", str(run)]) == 0
    page = (run / "report.html").read_text()
    assert "prw-other-cameras" in page and "in their frames" in page
    with Image.open(run / "pictures/worst_frames.png") as shown:
        assert shown.size == (1768, 56 + 3 * 386 + 20)
    told = json.loads((run / "breakdown.json").read_text())
    assert told["protocol"] == "prw" and len(told["worst_queries"]) == 3
    # A row's frame, and what has none.
    whole = tmp_path / "frame.png"
    assert cli.main(["show", str(run), "--row", "0", "--out", str(whole), "--frame"]) == 0
    with Image.open(whole) as shown:
        assert shown.size == (384, 288)


def test_a_whole_image_has_no_frame(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", 1)
    line = ["show", str(run), "--row", "3", "--out", str(tmp_path / "a.png"), "--frame"]
    assert cli.main(line) == 2
    assert "--frame: row 3 is a whole image, no box of a frame" in capsys.readouterr().err
