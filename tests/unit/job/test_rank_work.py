from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from distreid.data.manifest import Status, build_manifest
from distreid.host.phases import Phases
from distreid.images.loader import Batch
from distreid.job.options import ExtractOptions
from distreid.job.rank_work import (
    Job,
    RankReport,
    RunWork,
    count_rows,
    make_extractor,
    missing_shards,
)
from distreid.job.runs import Computed, Run, make_plan
from distreid.models.checkpoint import load_model
from distreid.ranks.group import Group, World
from distreid.store import FeatureStore
from distreid.store.run_folder import begin, finish
from distreid.store.shards import Rows


def rows(count: int) -> Rows:
    return Rows(
        features=np.ones((count, 512), np.float32),
        norm=np.ones(count, np.float32),
        status=np.full(count, Status.OK, np.uint8),
    )


@pytest.fixture
def works(osnet_file: Path, tmp_path: Path) -> list[RunWork]:
    """Two runs of 10 rows in shards of 4, of which the second has its first shard already."""
    options = ExtractOptions(
        data="d", checkpoints=(str(osnet_file),), out=tmp_path, shard_rows=4, device="cpu"
    )
    job = Job(options, Group(World(), None), torch.device("cpu"), Console(), lambda: None, Phases())
    paths = [b"%d.jpg" % number for number in range(10)]
    manifest = build_manifest(root=tmp_path, layout="folder", path=paths)
    model = load_model(str(osnet_file))
    plan = make_plan(options, manifest, model, {})
    todo = [begin(tmp_path / name, plan) for name in ("a", "b")]
    runs = [
        Run(folder=tmp_path / name, model=model, plan=plan, todo=shards)
        for name, shards in zip(("a", "b"), (todo[0], todo[1][1:]), strict=True)
    ]
    made = [RunWork(job, run, make_extractor(job, model, Computed())) for run in runs]
    store(made[1], range(4))
    return made


def store(work: RunWork, taken: range) -> None:
    """As the loop does, and waits for what is full."""
    work.writer.add(taken, rows(len(taken)))
    work.writer.wait()


def test_a_row_counts_once_it_has_its_features_of_every_checkpoint(works: list[RunWork]) -> None:
    todo = missing_shards([work.run for work in works])
    assert [shard.index for shard in todo] == [0, 1, 2]
    done = count_rows(works, todo)
    assert done() == 0
    store(works[0], range(2))
    assert done() == 2
    store(works[0], range(2, 4))
    assert done() == 4
    store(works[0], range(4, 8))
    assert done() == 4
    store(works[1], range(4, 8))
    assert done() == 8


def test_rows_that_are_being_written_count(works: list[RunWork]) -> None:
    done = count_rows(works[:1], missing_shards([works[0].run]))
    works[0].writer.add(range(4), rows(4))
    assert done() == 4
    works[0].writer.wait()
    assert done() == 4


@pytest.mark.parametrize("in_flight", [2, 3])  # as on a CPU and on a GPU
def test_rows_keep_their_order_and_the_oldest_batch_in_flight_is_finished_first(
    works: list[RunWork], in_flight: int
) -> None:
    work, share = works[0], RankReport()
    work.extractor.in_flight = in_flight
    images = torch.randint(0, 256, (10, 3, 256, 128), dtype=torch.uint8)
    for begun, first in enumerate(range(0, 10, 2), start=1):
        status = np.full(2, Status.OK, np.uint8)
        work.take(Batch(range(first, first + 2), images[first : first + 2], status, {}), share)
        assert share.last_row == 2 * max(0, begun - in_flight + 1) - 1
    work.end(share)
    assert share.last_row == 9
    finish(work.run.folder, work.run.plan)
    store = FeatureStore.open(work.run.folder)
    assert np.array_equal(store.features(np.arange(10)), work.extractor(images)[0].numpy())
