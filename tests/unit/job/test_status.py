import os
from pathlib import Path

import numpy as np
import pytest

from distreid.data.manifest import build_manifest
from distreid.host.folder_lock import hold
from distreid.job.status import RunStatus, run_status
from distreid.store.plan import Plan
from distreid.store.run_folder import begin
from distreid.store.shards import Rows, shard_file, write_shard

ROWS, SHARD_ROWS, BEGAN = 70, 20, 1_000_000


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that was begun at `BEGAN` by the clock of its file system."""
    manifest = build_manifest(
        root=tmp_path, layout="folder", path=[b"%d.jpg" % row for row in range(ROWS)]
    )
    identity = {"manifest": manifest.fingerprint()}
    plan = Plan(
        manifest=manifest,
        identity=identity,
        provenance={},
        dim=4,
        dtype="float32",
        shard_rows=SHARD_ROWS,
    )
    folder = tmp_path / "run"
    for shard in begin(folder, plan):
        count = len(shard)
        features = np.full((count, 4), 0.5, np.float32)
        norm, status = np.ones(count, np.float32), np.zeros(count, np.uint8)
        write_shard(folder, plan, shard, Rows(features=features, norm=norm, status=status))
    os.utime(folder / "plan.h5", (BEGAN, BEGAN))
    return folder


def written(run: Path, *after_s: float) -> None:
    """The first shards were written so long after the beginning; there are no others."""
    for index in range(4):
        file = shard_file(run, index)
        if index < len(after_s):
            os.utime(file, (BEGAN + after_s[index],) * 2)
        else:
            file.unlink()


def status_at_work(run: Path) -> RunStatus:
    """While this process holds the folder."""
    with hold(run, print):
        return run_status(run)


def test_the_rate_is_that_of_the_shards_since_the_job_began(run: Path) -> None:
    written(run, 5, 10)
    found = status_at_work(run)
    assert (found.rows_done, found.shards_done, found.rows) == (40, 2, ROWS)
    assert found.images_per_second == pytest.approx(40 / 10)
    assert found.seconds_left == pytest.approx(30 / 4)
    assert "; 4 images/s, " in found.describe()


def test_shards_of_a_former_job_do_not_count_for_the_rate(run: Path) -> None:
    written(run, -100, 0, 10)
    found = status_at_work(run)
    assert found.rows_done == 60
    assert found.images_per_second == pytest.approx(20 / 10)
    assert found.seconds_left == pytest.approx(10 / 2)


@pytest.mark.parametrize("after_s", [(), (-100,), (-100, 0)])
def test_before_the_jobs_first_shard_there_is_no_rate(run: Path, after_s: tuple[int, ...]) -> None:
    written(run, *after_s)
    found = status_at_work(run)
    assert found.job
    assert found.images_per_second is None
    assert found.seconds_left is None
    assert "images/s" not in found.describe()


def test_there_is_no_rate_where_nobody_is_at_work(run: Path) -> None:
    written(run, 5, 10)
    found = run_status(run)
    assert (found.job, found.images_per_second) == ("", None)
    assert found.describe().endswith("; no job is at work")


def test_a_file_that_is_still_being_written_is_no_shard(run: Path) -> None:
    written(run, 5)
    (run / "shards/000001.h5.0.tmp").write_bytes(b"half")
    found = status_at_work(run)
    assert found.rows_done == 20
    assert found.images_per_second == pytest.approx(20 / 5)
