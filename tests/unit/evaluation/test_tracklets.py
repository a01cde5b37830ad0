"""Tracklets: the mean of what the model gave, wherever the shards are cut."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from distreid.data.manifest import Manifest, Status, build_manifest
from distreid.errors import DataError, OptionError
from distreid.evaluation.evaluate import evaluate, labelled, usable_rows
from distreid.evaluation.protocol import PRESETS
from distreid.evaluation.protocols.known import BENCHMARKS
from distreid.evaluation.tracklets import first_rows
from distreid.store import FeatureStore
from distreid.store.plan import Plan
from distreid.store.run_folder import begin, finish
from distreid.store.shards import Rows, write_shard

SPLITS = ["query"] * 3 + ["gallery"] * 6
PERSONS = [1, 1, 2, 1, 1, 1, 2, 2, 2]
CAMERAS = [1, 1, 1, 2, 2, 2, 2, 2, 2]
TRACKLETS = ["a", "a", "b", "d", "c", "d", "c2", "", ""]
DIM = 16


def example(tracklets: list[str] = TRACKLETS, cameras: list[int] = CAMERAS) -> Manifest:
    return build_manifest(
        root=Path("/data"),
        layout="mars",
        path=[f"{number}.jpg".encode() for number in range(9)],
        person_id=PERSONS,
        camera_id=cameras,
        split=SPLITS,
        extra={"tracklet": tracklets},
    )


def outputs() -> NDArray[np.float32]:
    """What the model gave: (9, DIM), of very different lengths."""
    random = np.random.default_rng(0)
    return (random.normal(size=(9, DIM)) * np.arange(1, 10)[:, None]).astype(np.float32)


def store_of(
    run: Path, manifest: Manifest, shard_rows: int = 4, bad: tuple[int, ...] = ()
) -> FeatureStore:
    plan = Plan(
        manifest=manifest,
        identity={"manifest": manifest.fingerprint()},
        provenance={},
        dim=DIM,
        dtype="float32",
        shard_rows=shard_rows,
    )
    norm = np.linalg.norm(outputs(), axis=1).astype(np.float32)
    features = outputs() / norm[:, None]
    status = np.zeros(9, np.uint8)
    status[list(bad)] = Status.UNREADABLE
    features[list(bad)] = norm[list(bad)] = np.nan
    for shard in begin(run, plan):
        rows = slice(shard.start, shard.stop)
        values = Rows(features=features[rows], norm=norm[rows], status=status[rows])
        write_shard(run, plan, shard, values)
    finish(run, plan)
    return FeatureStore.open(run)


@pytest.mark.parametrize("shard_rows", [1, 2, 4, 9])
def test_a_tracklet_is_the_mean_of_its_images_outputs(tmp_path: Path, shard_rows: int) -> None:
    store = store_of(tmp_path, example(), shard_rows)
    gallery = labelled(store, "gallery")
    assert usable_rows(store, "gallery").tolist() == [3, 4, 6, 7, 8]
    out = outputs()
    expected = np.stack([(out[3] + out[5]) / 2, out[4], out[6], out[7], out[8]])
    assert np.allclose(gallery.features * gallery.norm[:, None], expected, atol=1e-5)
    assert np.allclose(np.linalg.norm(gallery.features, axis=1), 1)
    assert gallery.person_id.tolist() == [1, 1, 2, 2, 2]


def test_an_unreadable_image_is_left_out_of_its_tracklet(tmp_path: Path) -> None:
    store = store_of(tmp_path, example(), bad=(3, 4))
    assert usable_rows(store, "gallery").tolist() == [5, 6, 7, 8]
    gallery = labelled(store, "gallery")
    assert np.allclose(gallery.features[0] * gallery.norm[0], outputs()[5], atol=1e-5)


def test_tracklets_are_scored_as_torchreid_scores_their_means(tmp_path: Path) -> None:
    found = evaluate(store_of(tmp_path, example()), [PRESETS["torchreid"]])
    assert (found.counts["queries"], found.counts["gallery"]) == (2, 5)
    out = outputs().astype(np.float64)
    query = [(out[0] + out[1]) / 2, out[2]]
    gallery = [(out[3] + out[5]) / 2, out[4], out[6], out[7], out[8]]
    ap = []
    for feature, matches in zip(query, ({0, 1}, {2, 3, 4}), strict=True):
        order = np.argsort([((feature - other) ** 2).sum() for other in gallery])
        hits = [rank for rank, row in enumerate(order, start=1) if row in matches]
        ap.append(np.mean([(place + 1) / rank for place, rank in enumerate(hits)]))
    assert found.scores[0].mAP == pytest.approx(np.mean(ap))


def test_a_tracklet_of_two_cameras_is_refused(tmp_path: Path) -> None:
    store = store_of(tmp_path, example(cameras=[1, 1, 1, 2, 2, 3, 2, 2, 2]))
    with pytest.raises(DataError, match=r"row 5 \(from 0\) has another camera_id than"):
        evaluate(store)


def test_rows_without_a_tracklet_stay_single_wherever_they_stand(tmp_path: Path) -> None:
    tracklets = ["", "", "", "", "z", "", "z", "", "a"]
    store = store_of(tmp_path, example(tracklets, cameras=[1] * 9))
    assert first_rows(store, np.arange(9)).tolist() == [0, 1, 2, 3, 4, 5, 7, 8]
    assert first_rows(store, np.array([0, 1, 2])).tolist() == [0, 1, 2]


def test_distances_of_images_that_are_one_tracklet_are_refused(tmp_path: Path) -> None:
    store = store_of(tmp_path / "run", example())
    with pytest.raises(OptionError, match="by the column tracklet several are one"):
        evaluate(store, distance_QG=np.zeros((3, 6)))
    with pytest.raises(OptionError, match="by the column tracklet several are one"):
        evaluate(store, [BENCHMARKS["mars"]], distance_QG=np.zeros((3, 6)))
    alone = store_of(tmp_path / "alone", example([f"t{i}" for i in range(9)]))
    distances = np.arange(18.0).reshape(3, 6)
    assert evaluate(alone, [PRESETS["fastreid"]], distance_QG=distances).counts["queries"] == 3
    # Not among those that are shown by themselves, and refused where it is asked for.
    with pytest.raises(OptionError, match="without --rerank, --expand and --query multi"):
        evaluate(alone, [PRESETS["layumi-multi"]], distance_QG=distances)


def test_means_that_keep_their_length_are_said_to_rank_by_distance(tmp_path: Path) -> None:
    kept = replace(BENCHMARKS["mars"], tracklet_length="kept")
    (scores,) = evaluate(store_of(tmp_path, example()), [kept]).scores
    assert (scores.protocol.distance, scores.protocol.features) == ("sqeuclidean", "raw")
    assert scores.protocol.words[2] == "raw, Euclidean"
