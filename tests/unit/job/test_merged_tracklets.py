"""Tracklets of a run: against means that are computed one by one."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from conftest import Run, draw, error_line
from numpy.typing import NDArray
from small_runs import features_of, make_run, path_of

from distreid import cli
from distreid.data.manifest import Status
from distreid.errors import DataError, StoreError
from distreid.job.merged_tracklets import check_mergeable, merge_tracklets
from distreid.store import FeatureStore

TRACKS = ["a", "b", "a", "", "b", "c", "a", "c", "a", "d"]
SCORES = ["0.5", "0.9", "0.7", "0.1", "0.9", "0.2", "0.7", "", "0.1", "0.3"]


def run_of_ten(tmp_path: Path, **more: object) -> FeatureStore:
    """Rows 5 and 9 have no feature."""
    extra = {"tracklet": TRACKS} | ({} if more.get("no_scores") else {"score": SCORES})
    run = make_run(
        tmp_path / "run", 1, 10, persons=[1] * 10, cameras=[1] * 10, extra=extra, missing=[5, 9],
        shard_rows=3,
    )  # fmt: skip
    return FeatureStore.open(run)


def mean_of(rows: list[int]) -> NDArray[np.float32]:
    mean = features_of(1, 10)[rows].astype(np.float64).mean(axis=0)
    unit: NDArray[np.float32] = (mean / np.linalg.norm(mean)).astype("f4")
    return unit


@pytest.mark.parametrize(
    ("top", "members"),
    [
        (None, [[0, 2, 6, 8], [1, 4], [3], [7]]),
        (0.5, [[2, 6], [1], [3], [7]]),
        (0.6, [[0, 2, 6], [1, 4], [3], [7]]),  # of 4, 2.4 are 3
        (1.0, [[0, 2, 6, 8], [1, 4], [3], [7]]),
    ],
)
def test_a_tracklets_feature_is_the_mean_of_its_images(
    top: float | None, members: list[list[int]], tmp_path: Path
) -> None:
    merged = merge_tracklets(run_of_ten(tmp_path), top)
    assert len(merged.manifest) == 5
    found = merged.features(np.arange(5))
    for feature, rows in zip(found, members, strict=False):
        assert np.abs(feature - mean_of(rows)).max() < 1e-6
    assert np.isnan(found[4]).all()
    assert merged.status.tolist() == [Status.OK] * 4 + [Status.MISSING]
    images = [len(rows) for rows in members] + [0]
    assert merged.manifest.extra["images"].tolist() == [b"%d" % n for n in images]
    # The best-scored image stands for the tracklet, of equal ones the first.
    names = [path_of(1, row).encode() for row in (2, 1, 3, 7, 9)]
    assert merged.manifest.path.tolist() == names
    assert merged.manifest.extra["tracklet"].tolist() == [b"a", b"b", b"", b"c", b"d"]


def test_without_scores_the_first_image_stands_for_a_tracklet(tmp_path: Path) -> None:
    store = run_of_ten(tmp_path, no_scores=True)
    merged = merge_tracklets(store)
    names = [path_of(1, row).encode() for row in (0, 1, 3, 7, 9)]
    assert merged.manifest.path.tolist() == names
    with pytest.raises(DataError, match=r"--merge-top: .* no column score"):
        merge_tracklets(store, 0.5)


def test_it_is_the_same_when_it_is_made_again_and_says_what_it_is(tmp_path: Path) -> None:
    store = run_of_ten(tmp_path)
    shard = merge_tracklets(store).run / "shards" / "000000.h5"
    before = shard.read_bytes()
    merged = merge_tracklets(store)
    assert shard.read_bytes() == before
    shard.unlink()
    merge_tracklets(store)
    assert shard.read_bytes() == before
    assert merged.run == store.run / "tracklets"
    assert merged.plan.identity["merged"] == {
        "by": "tracklet",
        "of": store.manifest.fingerprint(),
    }
    best = merge_tracklets(run_of_ten(tmp_path / "best"), 0.5)
    assert best.plan.identity["merged"]["top"] == 0.5


def test_by_another_part_of_the_images_it_is_another_run(tmp_path: Path) -> None:
    store = run_of_ten(tmp_path)
    assert merge_tracklets(store, 0.6).plan.identity["merged"]["top"] == 0.6
    for top in (None, 0.5):
        with pytest.raises(StoreError, match="holds another run"):
            merge_tracklets(store, top)


def test_a_tracklet_of_two_persons_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 1, 4, persons=[1, 2, 1, 1], extra={"tracklet": ["a"] * 4})
    with pytest.raises(DataError, match=r"row 1 \(from 0\) has another person_id"):
        merge_tracklets(FeatureStore.open(run))


def test_that_is_said_before_anything_is_computed_and_by_a_dry_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["path,person_id,split,tracklet"]
    for row, (person, split) in enumerate([(7, "query"), (8, "query"), (7, "gallery")]):
        draw(tmp_path / f"{row}.png", seed=row)
        lines.append(f"{row}.png,{person},{split},{split}")
    table = tmp_path / "rows.csv"
    table.write_text("\n".join(lines))
    said = "1.png: row 1 (from 0) has another person_id than the first image of its tracklet"
    out = tmp_path / "out"
    line = ["--data", str(table), "--checkpoint", "sample", "--out", str(out)]
    assert cli.main(["extract", *line, "--merge", "tracklet", "--num-workers", "0"]) == 2
    assert said in error_line(capsys)
    assert not (out / "shards").exists()
    assert cli.main(["inspect", "--data", str(table)]) == 0
    assert f"tracklets: {tmp_path}/{said}" in capsys.readouterr().out


def test_through_the_command(run_here: Run, tmp_path: Path) -> None:
    with (tmp_path / "rows.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "person_id", "camera_id", "tracklet"])
        for row in range(6):
            draw(tmp_path / f"{row}.png", seed=row)
            writer.writerow([f"{row}.png", 1, 1, f"t{row // 3}"])
    options = ["--data", tmp_path / "rows.csv", "--checkpoint", "sample", "--no-evaluate"]
    done = run_here(
        "distreid", "extract", *options, "--out", tmp_path / "out", "--merge", "tracklet"
    )
    assert done.returncode == 0, done.stderr
    assert "2 tracklets" in done.stderr
    images = FeatureStore.open(tmp_path / "out").features(np.arange(6)).astype(np.float64)
    found = FeatureStore.open(tmp_path / "out" / "tracklets").features(np.arange(2))
    for feature, rows in zip(found, (images[:3], images[3:]), strict=True):
        assert math.isclose(
            float(feature @ rows.mean(axis=0)), np.linalg.norm(rows.mean(axis=0)), rel_tol=1e-6
        )

    done = run_here(
        "distreid",
        "extract",
        *options,
        "--out",
        tmp_path / "no",
        "--merge",
        "tracklet",
        "--merge-top",
        "0.5",
    )
    assert done.returncode == 2
    assert "--merge-top:" in done.stderr
    assert not (tmp_path / "no" / "shards").exists()  # said before anything was computed


def test_a_score_that_is_no_number_is_told_with_its_row(tmp_path: Path) -> None:
    extra = {"tracklet": ["a"] * 4, "score": ["0.5", "", "high", "1"]}
    run = make_run(tmp_path / "run", 1, 4, persons=[1] * 4, cameras=[1] * 4, extra=extra)
    manifest = FeatureStore.open(run).manifest
    for top in (None, 0.5):
        with pytest.raises(DataError, match=r"column score: .* not 'high' \(row 2\)"):
            check_mergeable(manifest, top)
