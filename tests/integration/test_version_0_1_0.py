"""What distreid 0.1.0 (commit e78bd64) wrote is opened, verified, compared, scored and finished.

`tests/data/version_0_1_0` holds what it made of 20 of the sample's images in shards of 8 rows: a
complete run, and one that ended after its first shard because an image was missing.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, Run
from PIL import Image

from distreid import cli
from distreid.data.source import SAMPLE_FOLDER, open_data
from distreid.images.loader import ImageRows
from distreid.inference.extractor import Extractor
from distreid.inference.views import Augmentation
from distreid.job.provenance import library_versions
from distreid.models.checkpoint import load_model
from distreid.store import FeatureStore
from distreid.store.plan import plan_shards
from distreid.store.root_file import read_plan

OLD = REPOSITORY / "tests/data/version_0_1_0"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A folder with the two runs, and the images that they are of."""
    shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
    for line in (OLD / "rows.csv").read_text().splitlines()[1:]:
        path = Path(line.split(",")[0])
        split = "query" if path.parent.name == "query" else "bounding_box_test"
        (tmp_path / path.parent).mkdir(parents=True, exist_ok=True)
        shutil.copy(SAMPLE_FOLDER / split / path.name, tmp_path / path)
    return tmp_path


def needs_its_versions(run: Path) -> None:
    root = next(run / name for name in ("store.h5", "plan.h5") if (run / name).exists())
    named = read_plan(root).identity["versions"]
    here = library_versions()
    if any(named[name] != here[name] for name in here):
        pytest.skip(f"the run names {named}, and here are {here}")


def extract(folder: Path, out: Path, *more: str) -> int:
    what = ["--data", str(folder / "rows.csv"), "--checkpoint", "sample", "--out", str(out)]
    return cli.main(["extract", *what, "--shard-rows", "8", *more])


def shard_bytes(run: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((run / "shards").iterdir())}


def test_a_complete_run_is_verified_and_has_the_scores_that_it_had(
    old: Path, run_here: Run
) -> None:
    before = json.loads((old / "complete/metrics.json").read_text())
    assert run_here("distreid", "verify", old / "complete").returncode == 0
    scored = run_here("distreid", "evaluate", old / "complete", "--json")
    assert scored.returncode == 0, scored.stderr
    after = json.loads(scored.stdout)
    assert after["counts"] == before["counts"]
    assert after["identity"] == before["identity"]
    for ours, theirs in zip(after["scores"], before["scores"], strict=True):
        assert ours.keys() == theirs.keys()
        assert ours["protocol"] == theirs["protocol"]
        assert ours["mAP"] == pytest.approx(theirs["mAP"], abs=1e-7)
        assert ours["cmc"] == pytest.approx(theirs["cmc"], abs=1e-7)


def test_an_old_run_and_a_new_one_of_the_same_rows_are_compared(old: Path, run_here: Run) -> None:
    assert extract(old, old / "new", "--no-evaluate") == 0
    assert FeatureStore.open(old / "new").plan.identity["passes"] == "filled"
    done = run_here("distreid", "compare", old / "complete", old / "new", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["queries"] == 6


def test_a_run_half_done_is_finished_by_the_rule_that_it_was_begun_with(old: Path) -> None:
    needs_its_versions(old / "half")
    first = shard_bytes(old / "half")
    assert list(first) == ["000000.h5"]
    assert extract(old, old / "half") == 0
    assert shard_bytes(old / "half")["000000.h5"] == first["000000.h5"]
    store = FeatureStore.open(old / "half")
    assert "passes" not in store.plan.identity
    complete = FeatureStore.open(old / "complete")
    assert store.plan.identity == complete.plan.identity
    # The last shard has 4 rows, and 0.1.0 gave the network these 4 alone.
    model = load_model("sample")
    images = ImageRows(open_data(str(old / "rows.csv")), model.architecture.preprocess)
    by_its_rule = Extractor(
        model,
        Augmentation(flip=False),
        precision="fp32",
        device=torch.device("cpu"),
        threads=1,
        fills_passes=False,
    )
    for shard in plan_shards(20, 8)[1:]:
        rows = range(shard.start, shard.stop)
        expected, _ = by_its_rule(images[rows].images_BCHW)
        assert np.array_equal(store.features(np.array(rows)), expected.numpy())
    # Another kind of CPU than that of 0.1.0's run has other last bits.
    assert np.abs(store.features(np.arange(20)) - complete.features(np.arange(20))).max() < 1e-5


def test_a_run_of_tall_images_that_pillow_13_resized_is_not_continued(
    old: Path, run_here: Run
) -> None:
    needs_its_versions(old / "half")
    assert read_plan(old / "half/plan.h5").identity["versions"]["Pillow"] == "13.0.0"
    row = open_data(str(old / "rows.csv")).file(17)
    Image.new("RGB", (64, 400)).save(row)
    before = shard_bytes(old / "half")
    what = ("--data", old / "rows.csv", "--checkpoint", "sample", "--out", old / "half")
    done = run_here("distreid", "extract", *what, "--shard-rows", "8")
    assert done.returncode == 2
    assert "half: begun by distreid 0.1.0 with Pillow 13.0.0, which resizes tall" in done.stderr
    assert f"such as row 17, {row}" in done.stderr
    assert shard_bytes(old / "half") == before


def test_a_complete_run_is_done_for_the_same_command(
    old: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needs_its_versions(old / "complete")
    before = shard_bytes(old / "complete")
    times = {name: os.stat(old / "complete/shards" / name).st_mtime_ns for name in before}
    assert extract(old, old / "complete") == 0
    assert "3 of 3 shards are done already" in capsys.readouterr().err
    assert shard_bytes(old / "complete") == before
    assert times == {n: os.stat(old / "complete/shards" / n).st_mtime_ns for n in before}
