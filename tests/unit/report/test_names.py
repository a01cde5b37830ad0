"""Persons and cameras that have names are shown by them, wherever a run is shown."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from distreid.data.inspection import inspect
from distreid.data.manifest import Manifest, build_manifest
from distreid.errors import StoreError
from distreid.evaluation.evaluate import evaluate, labelled
from distreid.evaluation.protocol import PRESETS
from distreid.evaluation.with_progress import compare_runs
from distreid.interface.opened_store import Store
from distreid.report.notebook import store_html
from distreid.report.run_page import ranked_queries, write_page
from distreid.report.scores import write_query_csv
from distreid.store import FeatureStore
from distreid.store.plan import Plan
from distreid.store.run_folder import begin, finish
from distreid.store.shards import Rows, write_shard

CONSOLE = Console(quiet=True)
WHO = ["cow <17>", "ann", "cow <17>", "ann", "ann", ""]
WHERE = ["entrance-1", "hall", "hall", "entrance-1", "entrance-1", "hall"]


def rows(**extra: list[str]) -> Manifest:
    return build_manifest(
        root=Path("/data"),
        layout="csv",
        path=[f"{number}.jpg".encode() for number in range(6)],
        person_id=[1, 0, 1, 0, 0, -1],
        camera_id=[0, 1, 1, 0, 0, 1],
        split=["query"] * 2 + ["gallery"] * 4,
        extra=extra,
    )


def stored(run: Path, manifest: Manifest) -> FeatureStore:
    plan = Plan(
        manifest=manifest,
        identity={"manifest": manifest.fingerprint(), "model": {"name": "none"}},
        provenance={"command": "none"},
        dim=2,
        dtype="float32",
        shard_rows=6,
    )
    angle = np.radians([0, 90, 10, 80, 20, 45])
    features = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    values = Rows(features=features, norm=np.ones(6, np.float32), status=np.zeros(6, np.uint8))
    for shard in begin(run, plan):
        write_shard(run, plan, shard, values)
    finish(run, plan)
    return FeatureStore.open(run)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return stored(tmp_path / "run", rows(person_name=WHO, camera_name=WHERE, shop=["n", "s"] * 3))


def test_a_store_keeps_names_beside_numbers(store: FeatureStore) -> None:
    assert store.manifest.names("person_name") == {1: "cow <17>", 0: "ann"}
    table = Store(store).dataframe()
    assert table["person_name"].tolist() == WHO
    assert table["camera_id"].tolist() == [0, 1, 1, 0, 0, 1]


def test_the_page_its_breakdown_and_its_tables_name_them(store: FeatureStore) -> None:
    text = write_page(store, CONSOLE).read_text(encoding="utf-8")
    assert ">ann<" in text and ">cow &lt;17&gt;<" in text
    assert "By shop of the query (fastreid)" in text
    breakdown = json.loads((store.run / "breakdown.json").read_text())
    assert {each["person_name"]: each["person_id"] for each in breakdown["persons"]} == {
        "ann": 0,
        "cow <17>": 1,
    }
    assert breakdown["camera_pairs"]["camera_names"] == ["entrance-1", "hall"]


def test_pictures_write_names(store: FeatureStore) -> None:
    evaluation = evaluate(store)
    query, gallery = labelled(store, "query"), labelled(store, "gallery")
    shown = ranked_queries(store, evaluation.of_a_search, query, gallery, np.arange(2))
    assert [(each.person_name, each.camera_name) for each in shown] == [
        ("cow <17>", "entrance-1"),
        ("ann", "hall"),
    ]
    assert shown[0].ranked[0].person_name == "cow <17>"


def test_the_csv_and_the_notebook_name_them(store: FeatureStore, tmp_path: Path) -> None:
    write_query_csv(store, evaluate(store), tmp_path / "queries.csv")
    with (tmp_path / "queries.csv").open() as stream:
        first = next(csv.DictReader(stream))
    assert (first["person_id"], first["person_name"]) == ("1", "cow <17>")
    assert first["camera_name"] == "entrance-1"
    assert "cow &lt;17&gt;" in store_html(store)


def test_a_dry_run_names_them(store: FeatureStore) -> None:
    found = inspect(store.manifest)
    assert "gallery images by camera: entrance-1: 2, hall: 2" in found.lines()
    assert found.to_json()["splits"]["query"]["by_person"] == {"ann": 1, "cow <17>": 1}


def test_runs_of_one_camera_are_compared_without_the_rule(tmp_path: Path) -> None:
    manifest = rows()
    manifest.camera_id[:] = 1
    store = stored(tmp_path / "one", manifest)
    assert compare_runs(store, store, PRESETS["fastreid"], CONSOLE).queries == 2


def test_runs_are_compared_by_the_columns_that_both_have(
    store: FeatureStore, tmp_path: Path
) -> None:
    without = stored(tmp_path / "without", rows())
    assert compare_runs(store, without, PRESETS["fastreid"], CONSOLE).queries == 2
    other = rows(person_name=WHO, camera_name=WHERE)
    other.person_id[:] = [7, 5, 7, 5, 5, -1]  # numbered in another way
    renumbered = stored(tmp_path / "renumbered", other)
    assert compare_runs(store, renumbered, PRESETS["fastreid"], CONSOLE).queries == 2
    stranger = rows(person_name=["x", *WHO[1:]], camera_name=WHERE)
    with pytest.raises(StoreError, match="are not of the same images: their rows differ"):
        compare_runs(store, stored(tmp_path / "x", stranger), PRESETS["fastreid"], CONSOLE)
