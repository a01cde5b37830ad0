"""How many images of a run may be bad."""

from pathlib import Path

import numpy as np
import pytest
from small_runs import make_run

from distreid.data.manifest import Status, build_manifest
from distreid.data.objects import CHANGED
from distreid.errors import DataError, ImageError
from distreid.store import FeatureStore
from distreid.store.bad_images import OUT_OF_MEMORY, BadImages
from distreid.store.plan import Plan
from distreid.store.run_folder import begin
from distreid.store.shards import Rows, write_shard


@pytest.fixture
def plan() -> Plan:
    """Of ten images in shards of four."""
    manifest = build_manifest(
        root=Path("/data"), layout="folder", path=[b"%d.jpg" % row for row in range(10)]
    )
    identity = {"manifest": manifest.fingerprint()}
    return Plan(
        manifest=manifest, identity=identity, provenance={}, dim=2, dtype="float32", shard_rows=4
    )


def counting(run: Path, plan: Plan, most: int | None) -> BadImages:
    return BadImages(run=run, plan=plan, on_bad_image="record", max_bad=most)


def test_an_image_counts_once_before_and_after_its_shard_is_there(
    tmp_path: Path, plan: Plan
) -> None:
    first = begin(tmp_path, plan)[0]
    bad = counting(tmp_path, plan, 3)
    bad.add({1: "missing", 2: "cut"})
    bad.add({5: "cut"})
    assert bad.count() == 3
    values = np.array([[1, 0], [np.nan] * 2, [np.nan] * 2, [0, 1]], np.float32)
    status = np.array([Status.OK, Status.MISSING, Status.UNREADABLE, Status.OK], np.uint8)
    write_shard(tmp_path, plan, first, Rows(features=values, norm=values[:, 1], status=status))
    assert bad.count() == 3
    assert counting(tmp_path, plan, None).count() == 2
    with pytest.raises(ImageError, match="4 images could not be read, --max-bad allows 3"):
        bad.add({6: "cut"})


def test_any_number_may_be_bad_and_none_where_it_fails(tmp_path: Path, plan: Plan) -> None:
    begin(tmp_path, plan)
    counting(tmp_path, plan, None).add(dict.fromkeys(range(10), "cut"))
    strict = BadImages(run=tmp_path, plan=plan, on_bad_image="fail", max_bad=None)
    strict.add({})
    with pytest.raises(ImageError, match=r"^row 3, /data/3\.jpg: cut; mend or remove it"):
        strict.add({7: "missing", 3: "cut"})


def test_what_is_no_fault_of_an_image_ends_the_job_however_many_may_be_bad(
    tmp_path: Path, plan: Plan
) -> None:
    bad = counting(tmp_path, plan, None)
    with pytest.raises(ImageError, match="fewer --num-workers and run again to continue"):
        bad.add({4: OUT_OF_MEMORY})
    with pytest.raises(DataError, match=r"^row 4, /data/4\.jpg: it, or the archive that it is in"):
        bad.add({4: CHANGED})


def test_images_that_are_missing_are_counted_in_a_complete_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 1, 30, missing=[3, 20, 29])
    plan = FeatureStore.open(run).plan
    assert counting(run, plan, None).count() == 3
