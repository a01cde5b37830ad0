import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from rich.console import Console

from distreid.data.manifest import Manifest, Status, build_manifest
from distreid.errors import DataError, OptionError, StoreError
from distreid.evaluation.evaluate import Evaluation, evaluate
from distreid.evaluation.protocol import PRESETS
from distreid.report.mat_file import write_mat
from distreid.report.scores import score_table, write_metrics
from distreid.store import FeatureStore
from distreid.store.plan import Plan
from distreid.store.run_folder import begin, finish
from distreid.store.shards import Rows, write_shard

# Six rows: features are directions in the plane, by angle in degrees.
ANGLES = [0, 90, 10, 80, 20, 45]
PATHS = [b"q0.jpg", b"q1.jpg", b"g0.jpg", b"g1.jpg", b"g2.jpg", b"g3.jpg"]
SPLITS = ["query", "query", "gallery", "gallery", "gallery", "gallery"]
PERSONS = [1, 2, 1, 2, 2, -1]
CAMERAS = [1, 1, 2, 2, 1, 3]


def example(**columns: Any) -> Manifest:
    given: dict[str, Any] = {"person_id": PERSONS, "camera_id": CAMERAS, "split": SPLITS} | columns
    return build_manifest(root=Path("/data"), layout="csv", path=PATHS, **given)


def store_of(
    run: Path,
    manifest: Manifest,
    bad: tuple[int, ...] = (),
    angles: list[int] = ANGLES,
    length: float = 1.0,
) -> FeatureStore:
    plan = Plan(
        manifest=manifest,
        identity={"manifest": manifest.fingerprint()},
        provenance={},
        dim=2,
        dtype="float32",
        shard_rows=4,
    )
    radians = np.radians(angles)
    features = np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32) * length
    status = np.zeros(6, np.uint8)
    status[list(bad)] = Status.UNREADABLE
    features[list(bad)] = np.nan
    for shard in begin(run, plan):
        rows = slice(shard.start, shard.stop)
        norm = features[rows, 0] * 0 + 3
        values = Rows(features=features[rows], norm=norm, status=status[rows])
        write_shard(run, plan, shard, values)
    finish(run, plan)
    return FeatureStore.open(run)


@pytest.mark.parametrize(
    ("peer", "names"),
    [
        ("timm", ["torchreid", "fastreid", "layumi"]),
        ("Person_reID_baseline_pytorch", ["layumi", "torchreid", "fastreid"]),
        ("CLIP-ReID", ["transreid", "torchreid", "layumi"]),
    ],
)
def test_the_protocol_of_the_checkpoints_own_project_comes_first(
    tmp_path: Path, peer: str, names: list[str]
) -> None:
    store = store_of(tmp_path, example())
    store = replace(store, plan=replace(store.plan, provenance={"peer": peer}))
    found = evaluate(store)
    assert [scores.protocol.name for scores in found.scores] == names
    assert found.of_a_search.protocol.name == ({"fastreid", "transreid"} & set(names)).pop()


def test_the_figures_and_their_counts(tmp_path: Path) -> None:
    found = evaluate(store_of(tmp_path, example()))
    assert found.counts == {
        "queries": 2,
        "valid_queries": 2,
        "queries_without_match": 0,
        "gallery": 4,
        "junk": 1,
        "distractors": 0,
        "bad_queries": 0,
        "bad_gallery": 0,
        "unlabelled_queries": 0,
    }
    assert [scores.protocol.name for scores in found.scores] == ["torchreid", "fastreid", "layumi"]
    _, standard, baseline = found.scores
    assert standard.protocol.camera_rule == "cross"
    # Query 0 finds its one match first; so does query 1, whose own camera's is left out.
    assert standard.mAP == baseline.mAP == standard.mINP == 1.0
    assert found.scores[0].per_query.matches.tolist() == [1, 1]


def test_a_query_without_a_match_counts_in_one_convention_only(tmp_path: Path) -> None:
    found = evaluate(store_of(tmp_path, example(person_id=[1, 9, 1, 2, 2, -1])))
    _, standard, baseline = found.scores
    assert (standard.queries, standard.mAP) == (1, 1.0)
    assert (baseline.queries, baseline.mAP) == (2, 0.5)
    assert found.counts["queries_without_match"] == 1


def test_bad_images_are_left_out_and_counted(tmp_path: Path) -> None:
    found = evaluate(store_of(tmp_path, example(), bad=(1, 2)))
    assert found.counts["queries"] == 1
    assert found.counts["bad_queries"] == 1
    assert found.counts["bad_gallery"] == 1
    assert found.counts["valid_queries"] == 0


@pytest.mark.parametrize(
    ("columns", "diagnosis"),
    [
        (
            {"camera_id": [1] * 6},
            "0 of 2 queries have a match in another camera: all camera ids are equal; "
            "the column 'no camera rule' counts them",
        ),
        (
            {"camera_id": [1, 2, 1, 2, 2, 3]},
            "0 of 2 queries have a match in another camera: every match is in the query's own; "
            "the column 'no camera rule' counts them",
        ),
        (
            {"person_id": [7, 8, 1, 2, 2, -1]},
            "0 of 2 queries have a match: query and gallery have no person in common",
        ),
        (
            {"person_id": [-1] * 6},
            "0 of 2 queries have a match: every query's person is -1, which is junk",
        ),
    ],
)
def test_an_absurd_result_is_explained(
    tmp_path: Path, columns: dict[str, list[int]], diagnosis: str
) -> None:
    found = evaluate(store_of(tmp_path, example(**columns)))
    assert found.diagnosis == [diagnosis]
    assert found.to_json()["scores"][0]["mAP"] is None
    assert found.to_json()["scores"][2]["mAP"] == 0.0


def test_equal_features_are_noticed(tmp_path: Path) -> None:
    found = evaluate(store_of(tmp_path, example(), angles=[30] * 6))
    assert found.diagnosis == ["all gallery features are the same: was the checkpoint trained?"]


def test_features_that_are_not_normalised_are_noticed(tmp_path: Path) -> None:
    found = evaluate(store_of(tmp_path, example(), length=1.1))
    assert found.diagnosis == ["a similarity is above 1: the features are not L2-normalised"]


@pytest.mark.parametrize("cameras", [[-1] * 6, [1, 2, -1, -1, -1, -1], [-1, -1, 1, 2, 1, 3]])
def test_where_a_side_has_no_cameras_the_camera_rule_is_off_and_said(
    tmp_path: Path, cameras: list[int]
) -> None:
    found = evaluate(store_of(tmp_path, example(camera_id=cameras)))
    assert {scores.protocol.camera_rule for scores in found.scores} == {"none"}
    assert shown(found).count("no camera rule ┃") == 3
    assert found.scores[0].per_query.matches.tolist() == [1, 2]


def shown(found: Evaluation) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(score_table(found))
    return captured.get()


def test_one_camera_for_all_is_scored_without_the_rule_too(tmp_path: Path) -> None:
    found = evaluate(store_of(tmp_path, example(camera_id=[4] * 6)))
    *by_rule, without = found.scores
    assert [scores.queries for scores in by_rule] == [0, 0, 2]
    assert (without.protocol.name, without.protocol.camera_rule) == ("no camera rule", "none")
    assert without.per_query.matches.tolist() == [1, 2]
    assert without.queries == 2
    assert found.of_a_search is without
    assert "no camera rule ┃" in shown(found)
    asked = evaluate(store_of(tmp_path / "b", example(camera_id=[4] * 6)), [PRESETS["layumi"]])
    assert [scores.protocol.ap for scores in asked.scores] == ["trapezoid"] * 2


def test_persons_that_nobody_shares_get_no_column_without_the_rule(tmp_path: Path) -> None:
    found = evaluate(store_of(tmp_path, example(person_id=[7, 8, 1, 2, 2, -1])))
    assert len(found.scores) == 3


CLOTHES = {"clothes": ["a", "b", "a", "b", "c", ""]}


@pytest.mark.parametrize(
    ("same", "matches"),
    [
        ("camera", [1, 1]),  # as the camera rule
        ("clothes", [0, 1]),
        ("camera,clothes", [1, 2]),  # nobody shares both
        ("shop", [1, 2]),  # not known
    ],
)
def test_what_is_equal_in_all_columns_is_left_out(
    tmp_path: Path, same: str, matches: list[int]
) -> None:
    store = store_of(tmp_path, example(extra=CLOTHES | {"shop": [""] * 6}))
    found = evaluate(store, [replace(PRESETS["fastreid"], exclude_same=same)])
    assert found.scores[0].per_query.matches.tolist() == matches
    said = f"not the same {same.replace(',', ' and ')}"
    assert said in shown(found)


def test_each_protocol_leaves_out_by_its_own_columns(tmp_path: Path) -> None:
    store = store_of(tmp_path, example(extra=CLOTHES))
    protocols = [
        replace(PRESETS["fastreid"], exclude_same=same) for same in ("camera", "clothes", "")
    ]
    found = evaluate(store, protocols)
    matches = [scores.per_query.matches.tolist() for scores in found.scores]
    assert matches == [[1, 1], [0, 1], [1, 1]]


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    store = store_of(tmp_path, example(extra=CLOTHES))
    with pytest.raises(DataError, match="no column hat; there are camera, clothes"):
        evaluate(store, [replace(PRESETS["fastreid"], exclude_same="camera,hat")])
    with pytest.raises(OptionError, match="--exclude-same camera,: columns separated by commas"):
        replace(PRESETS["fastreid"], exclude_same="camera,")
    with pytest.raises(OptionError, match="without --camera-rule none"):
        replace(PRESETS["fastreid"], exclude_same="camera", camera_rule="none")


def test_an_unknown_camera_is_like_no_other(tmp_path: Path) -> None:
    found = evaluate(store_of(tmp_path, example(camera_id=[-1, 1, -1, 2, 1, 3])))
    assert found.scores[0].per_query.matches.tolist() == [1, 1]


INSTEAD = "; --protocol leave-one-out wants persons alone"


@pytest.mark.parametrize(
    ("columns", "bad", "why"),
    [
        ({"split": [""] * 6}, (), f"no row is marked as query{INSTEAD}"),
        ({"split": ["query"] * 6}, (), f"no row is marked as gallery{INSTEAD}"),
        ({"person_id": [-2] * 6}, (), "the query rows have no person ids"),
        ({}, (0, 1), "none of the query images could be read"),
        (
            {"person_id": [-2, 1, 1, 2, 2, -1]},
            (1,),
            "no query image that could be read has a person id",
        ),
    ],
)
def test_what_cannot_be_scored_says_why(
    tmp_path: Path, columns: dict[str, list[str]], bad: tuple[int, ...], why: str
) -> None:
    store = store_of(tmp_path, example(**columns), bad)
    with pytest.raises(DataError, match=f"not evaluated: {why}; scores want images of"):
        evaluate(store)


def test_multi_query_features_are_the_mean_of_the_person_and_camera(tmp_path: Path) -> None:
    splits = ["query", "query", "multi-query", "multi-query", "gallery", "gallery"]
    manifest = example(split=splits, person_id=[1, 2, 1, 1, 1, 2], camera_id=[1, 1, 1, 1, 2, 2])
    store = store_of(tmp_path, manifest, angles=[0, 90, 60, 90, 80, 10])
    found = {scores.protocol.name: scores.per_query.first_rank for scores in evaluate(store).scores}
    # Query 0 alone is nearer to person 2; the mean of person 1's two images is not.
    assert found["layumi"].tolist() == [2, 2]
    assert found["layumi-multi"].tolist() == [1, 2]


def test_a_multi_query_score_of_no_such_images_is_refused(tmp_path: Path) -> None:
    splits = ["query", "query", "multi-query", "multi-query", "gallery", "gallery"]
    of_nobody = example(split=splits, person_id=[1, 2, -2, -2, 1, 2])
    for name, manifest in (("none", example()), ("of nobody", of_nobody)):
        store = store_of(tmp_path / name, manifest)
        with pytest.raises(DataError, match="no multi-query image with a person; extract with"):
            evaluate(store, [PRESETS["layumi-multi"]])
        names = [scores.protocol.name for scores in evaluate(store).scores]
        assert names == ["torchreid", "fastreid", "layumi"]


def test_metrics_json_has_every_figure_with_its_protocol(tmp_path: Path) -> None:
    store = store_of(tmp_path, example())
    content = json.loads(write_metrics(store, evaluate(store)).read_text())
    _, standard, baseline = content["scores"]
    assert standard["mAP"] == 1.0
    assert len(standard["cmc"]) == 50
    assert standard["protocol"] == PRESETS["fastreid"].to_json()
    assert baseline["protocol"]["denominator"] == "all"
    assert content["counts"]["queries"] == 2
    assert content["identity"] == store.plan.identity


def test_the_table_shows_what_people_look_for(tmp_path: Path) -> None:
    console = Console(width=120, record=True, file=None, quiet=False, force_terminal=False)
    with console.capture() as captured:
        console.print(score_table(evaluate(store_of(tmp_path, example(), bad=(5,)))))
    text = captured.get()
    for expected in ("Rank-1", "Rank-5", "Rank-10", "mAP", "mINP", "100.00 %", "trapezoid AP"):
        assert expected in text
    assert "2 queries, 0 without a match; gallery 3, 0 junk, 0 distractors" in text
    assert "1 image could not be read and is left out" in text


def test_the_mat_file_is_as_the_origin_system_reads_it(tmp_path: Path) -> None:
    store = store_of(tmp_path, example(split=[*SPLITS[:5], "multi-query"]), bad=(2,))
    files = write_mat(store)
    assert [file.name for file in files] == ["pytorch_result.mat", "multi_query.mat"]
    result = scipy.io.loadmat(files[0])
    # As evaluate_gpu.py indexes it: [0] of labels and cameras.
    assert result["query_label"][0].tolist() == [1, 2]
    assert result["query_cam"][0].tolist() == [1, 1]
    assert result["gallery_label"][0].tolist() == [2, 2]
    assert result["gallery_cam"][0].tolist() == [2, 1]
    assert result["gallery_f"].shape == (2, 2)
    assert result["gallery_f"].dtype == np.float32
    assert [path.item() for path in result["gallery_path"][0]] == ["g1.jpg", "g2.jpg"]
    assert scipy.io.loadmat(files[1])["mquery_label"][0].tolist() == [-1]


def test_nobody_is_no_person_of_the_mat_file(tmp_path: Path) -> None:
    store = store_of(tmp_path, example(person_id=[1, -2, -2, 2, -1, 1]))
    (file,) = write_mat(store)
    found = scipy.io.loadmat(file)
    assert found["query_label"].tolist() == [[1]] and len(found["query_f"]) == 1
    assert found["gallery_label"].tolist() == [[-1, 2, -1, 1]]


def test_a_mat_file_that_would_be_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_of(tmp_path, example())
    large = replace(store, plan=replace(store.plan, dim=1 << 30))
    with pytest.raises(StoreError, match=r"a \.mat variable ends at 4 GiB"):
        write_mat(large)
    assert not list(tmp_path.glob("*.mat*"))
