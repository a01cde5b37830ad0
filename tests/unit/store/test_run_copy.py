"""The working copy of a run in an object store, with fsspec's store in memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from object_servers import store_in_memory

from distreid.data import objects
from distreid.data.locators import path_of
from distreid.data.manifest import build_manifest
from distreid.errors import OptionError, StoreError
from distreid.job.options import ExtractOptions
from distreid.job.runs import run_folders
from distreid.job.status import run_status
from distreid.store import FeatureStore
from distreid.store.plan import Plan, Shard
from distreid.store.run_copy import RECORD, RunCopy, copy_of, local_run
from distreid.store.run_folder import begin, finish
from distreid.store.shards import Rows, done_shards, shard_file, write_shard

pytest.importorskip("fsspec")
ADDRESS = path_of("gs://bucket/runs/x")
ROWS, DIM, SHARD_ROWS = 10, 4, 4
OTHER = "b" * 9000  # by its size alone the store in memory tells a version from the next


def example(weights: str = "aa") -> Plan:
    manifest = build_manifest(
        root=Path("/data"),
        layout="csv",
        path=[f"{row}.jpg".encode() for row in range(ROWS)],
        person_id=list(range(ROWS)),
        split=["gallery"] * ROWS,
    )
    return Plan(
        manifest=manifest,
        identity={"manifest": manifest.fingerprint(), "weights": weights},
        provenance={},
        dim=DIM,
        dtype="float32",
        shard_rows=SHARD_ROWS,
    )


def write(run: Path, plan: Plan, shard: Shard) -> Path:
    features = np.eye(ROWS, DIM, dtype=np.float32)[[0] * len(shard)]
    norm = np.arange(shard.start + 1, shard.stop + 1, dtype=np.float32)
    rows = Rows(features=features, norm=norm, status=np.zeros(len(shard), np.uint8))
    write_shard(run, plan, shard, rows)
    return shard_file(run, shard.index)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(objects, "PAUSE_S", 0.0)
    return store_in_memory(monkeypatch)


def calls(store: Any) -> list[str]:
    """What was done since it was last asked: `write store.h5`, …"""
    done = [f"{what} {path.partition('/runs/x/')[2]}" for what, path in store.calls]
    store.calls.clear()
    return done


def whole_run(plan: Plan) -> Path:
    copy = copy_of(ADDRESS)
    for shard in begin(copy.folder, plan):
        write(copy.folder, plan, shard)
    finish(copy.folder, plan)
    copy.send_all()
    return copy.folder


def empty(store: Any) -> None:
    for key in list(store.store):
        store.rm_file(key)


def test_the_plan_goes_first_and_the_store_last(store: Any) -> None:
    copy, plan = copy_of(ADDRESS), example()
    todo = begin(copy.folder, plan)
    copy.send_all()
    assert calls(store) == ["write plan.h5"]
    for shard in todo[1:]:
        copy.send(write(copy.folder, plan, shard))
    assert calls(store) == ["write shards/000001.h5", "write shards/000002.h5"]
    status = run_status(ADDRESS)
    assert (status.complete, status.shards_done, status.rows_done) == (False, 2, 6)
    assert (status.job, status.bad_images) == (None, None)
    assert status.describe() == "not complete; 6 of 10 images, 2 of 3 shards"
    assert calls(store) == ["read plan.h5"]
    write(copy.folder, plan, todo[0])
    finish(copy.folder, plan)
    (copy.folder / "pictures").mkdir()
    for name in ("metrics.json", "pictures/roc.png", "pictures/x", "x.tmp", "job-1.lock"):
        (copy.folder / name).write_text("{}")
    copy.send_all()
    assert calls(store) == [
        "write metrics.json",
        "write shards/000000.h5",
        "write pictures/roc.png",
        "write store.h5",
        "remove plan.h5",
    ]
    copy.send_all()
    assert calls(store) == []


def test_a_copy_is_made_and_only_what_differs_is_read(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    folder = whole_run(example())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    calls(store)
    opened = FeatureStore.open(ADDRESS)
    assert opened.run == copy_of(ADDRESS).folder != folder
    assert opened.norm.tolist() == list(range(1, ROWS + 1))
    assert "copying 3 shards" in capsys.readouterr().err
    assert calls(store)[0] == "read store.h5" and calls(store) == []
    for index in range(3):
        ours, theirs = shard_file(opened.run, index), shard_file(folder, index)
        assert ours.read_bytes() == theirs.read_bytes()
    FeatureStore.open(ADDRESS)
    assert calls(store) == []
    # Files whose end never reached the disk, of the time that was noted.
    for name in ("store.h5", "shards/000002.h5"):
        time = (opened.run / name).stat().st_mtime_ns
        os.truncate(opened.run / name, 100)
        os.utime(opened.run / name, ns=(time, time))
        FeatureStore.open(ADDRESS)
        assert calls(store) == [f"read {name}"]
    # A file that was touched, that is gone, and of whose line only a part was written.
    os.utime(shard_file(opened.run, 0), (1, 1))
    shard_file(opened.run, 1).unlink()
    lines = (opened.run / RECORD).read_bytes().splitlines(keepends=True)
    assert lines[-1].endswith(b" shards/000002.h5\n")
    (opened.run / RECORD).write_bytes(b"".join(lines[:-1]) + lines[-1][:9])
    FeatureStore.open(ADDRESS)
    assert calls(store) == [f"read shards/{index:06d}.h5" for index in range(3)]
    assert local_run(folder) == folder


def test_what_the_store_has_comes_first_and_what_it_lacks_stays(store: Any) -> None:
    copy, plan = copy_of(ADDRESS), example()
    todo = begin(copy.folder, plan)
    copy.send_all()
    write(copy.folder, plan, todo[0])
    copy.fetch_root(copy.listed())
    assert done_shards(copy.folder) == {0}
    assert len(begin(copy.folder, plan)) == 2
    copy.send_all()
    assert "write shards/000000.h5" in calls(store)
    # The store has another run now.
    for name in copy.listed():
        store.rm_file(f"{ADDRESS}/{name}")
    copy.fetch_root(copy.listed())
    assert done_shards(copy.folder) == set()
    assert not (copy.folder / "plan.h5").exists()


@pytest.mark.parametrize("name", ["market", "shards", "tracklets", "pictures"])
def test_a_run_above_another_leaves_that_alone(
    name: str, store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    above, below = (copy_of(path_of(f"gs://bucket/runs/x{end}")) for end in ("", f"/{name}"))
    assert below == above.of(below.folder)

    def run(copy: RunCopy, weights: str) -> None:
        copy.fetch_root(copy.listed())
        for shard in begin(copy.folder, example(weights)):
            write(copy.folder, example(weights), shard)
        finish(copy.folder, example(weights))
        (copy.folder / "metrics.json").write_text(weights)
        copy.send_all()

    run(below, "aa")
    empty(store)
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
        run(copy_of(below.address), OTHER)
    before = {key: file.getvalue() for key, file in store.store.items()}
    unsent = {file for file in below.folder.rglob("*") if file.is_file()}
    run(above, "above")
    assert {*below.folder.rglob("*")} >= unsent
    after = {key: file.getvalue() for key, file in store.store.items()}
    assert after.items() >= before.items()
    assert len(after) == 2 * len(before)
    below.fetch_root(below.listed())
    assert sorted(done_shards(above.folder)) == [0, 1, 2]
    below.send_all()
    assert {key: file.getvalue() for key, file in store.store.items()} == after


def test_whether_several_checkpoints_may_lie_there_is_asked_of_the_store(store: Any) -> None:
    copy = copy_of(ADDRESS)
    options = ExtractOptions(data="d", checkpoints=("a.pth", "b.pth"), out=copy.folder)
    whole_run(example())
    with pytest.raises(StoreError, match=r": itself a run, and several checkpoints need"):
        run_folders(options, copy)
    empty(store)
    before = sorted(copy.folder.rglob("*"))
    assert run_folders(options, copy) == [copy.folder / "a", copy.folder / "b"]
    assert sorted(copy.folder.rglob("*")) == before


def test_nothing_of_a_run_that_is_gone_is_sent_with_the_next(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, beside = copy_of(ADDRESS), ("metrics.json", "int8.xml", "pictures/roc.png")
    (copy.folder / "pictures").mkdir(parents=True)
    for name in beside:
        (copy.folder / name).write_text("old")
    whole_run(example())
    (copy.folder / "job-1.lock").touch()
    empty(store)
    # The prefix was emptied; then it has another machine's run.
    copy.fetch_root(copy.listed())
    assert [file.name for file in copy.folder.rglob("*") if file.is_file()] == ["job-1.lock"]
    for name in beside:
        (copy.folder / name).write_text("old")
    whole_run(example())
    empty(store)
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
        whole_run(example(OTHER))
    there = copy.listed()
    copy.fetch_root(there)
    copy.fetch_shards(there, print)
    calls(store)
    copy.send_all()
    assert calls(store) == []
    assert copy.listed() == there


def test_what_the_store_lost_is_sent_again_and_what_is_newer_there_stays(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = copy_of(ADDRESS)
    copy.folder.mkdir(parents=True)
    for name in ("metrics.json", "ranks.csv", "calibration.json"):
        (copy.folder / name).write_text("old")
    whole_run(example())
    store.pipe_file(f"{ADDRESS}/metrics.json", b"newer")
    store.rm_file(f"{ADDRESS}/ranks.csv")
    (copy.folder / "calibration.json").write_text("changed")
    calls(store)
    copy.fetch_root(copy.listed())
    copy.send_all()
    assert calls(store) == ["write calibration.json", "write ranks.csv"]


def test_what_a_job_elsewhere_continues_from_is_there_before_the_plan(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = copy_of(ADDRESS)
    begin(copy.folder, example())
    needed = ("archives.npz", "int8.xml", "int8.bin")
    for name in needed:
        (copy.folder / name).write_text(name)
    copy.send_all()
    assert calls(store) == [*(f"write {name}" for name in needed), "write plan.h5"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    other = copy_of(ADDRESS)
    assert other.folder != copy.folder
    plan = other.fetch_root(other.listed())
    assert plan and plan.digest == example().digest
    assert [(other.folder / name).read_text() for name in needed] == [*needed]


def test_a_damaged_object_is_named_and_none_of_it_is_kept(store: Any) -> None:
    whole_run(example())
    name = f"{ADDRESS}/shards/000001.h5"
    good = store.cat_file(name)
    for content in (good[:-1], b"", good[:50], good + b"\n", b"\1" + good):
        store.pipe_file(name, content)
        with pytest.raises(StoreError, match=rf"^{name}: its bytes do not fit their checksum"):
            FeatureStore.open(ADDRESS)
    store.rm_file(name)
    with pytest.raises(StoreError, match=rf"^{name}: missing; run the extraction again"):
        FeatureStore.open(ADDRESS)


def test_a_run_whose_shards_are_all_there_is_not_complete_before_it_is_finished(store: Any) -> None:
    copy, plan = copy_of(ADDRESS), example()
    for shard in begin(copy.folder, plan):
        write(copy.folder, plan, shard)
    copy.send_all()
    calls(store)
    with pytest.raises(StoreError, match=rf"^{ADDRESS}: all shards are done, and the run was not"):
        FeatureStore.open(ADDRESS)
    assert calls(store) == []


def test_an_object_that_another_job_has_written_meanwhile_is_said(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = copy_of(ADDRESS)
    begin(copy.folder, example())
    pipe = type(store).pipe_file

    def write_twice(self: Any, path: str, value: bytes, **how: Any) -> None:
        pipe(self, path, value, **how)
        pipe(self, path, b"of another", **how)

    monkeypatch.setattr(type(store), "pipe_file", write_twice)
    with pytest.raises(StoreError, match=rf"^{ADDRESS}/plan\.h5: another job writes it; run one"):
        copy.send_all()


def test_a_store_that_writes_nothing_is_said_with_what_stays(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = copy_of(ADDRESS)
    begin(copy.folder, example())

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError("denied")

    monkeypatch.setattr(type(store), "pipe_file", refuse)
    with pytest.raises(StoreError, match=rf"^{ADDRESS}: access is refused: .* to write it"):
        copy.try_writing()
    with pytest.raises(StoreError) as refused:
        copy.send_all()
    assert str(refused.value).startswith(f"{ADDRESS}/plan.h5: access is refused")
    assert f"{copy.folder / 'plan.h5'} stays, and the same command" in str(refused.value)
    assert copy.listed() == {}


@pytest.mark.parametrize(
    "address", ["https://host/x", "hf://me/x", "s3://bucket/../x", "s3://me:secret@bucket/x"]
)
def test_addresses_that_take_no_run(address: str) -> None:
    with pytest.raises(OptionError) as refused:
        copy_of(Path(address))
    assert "secret" not in str(refused.value)


def test_an_address_has_one_folder_however_it_is_written(store: Any) -> None:
    folder = copy_of(ADDRESS).folder
    for text in ("gs://bucket/runs/x/", "gs:/bucket/runs//x", "gs://bucket/runs/./x"):
        assert copy_of(Path(text)).folder == folder
        assert str(copy_of(Path(text)).address) == str(ADDRESS)
    place = copy_of(ADDRESS).place
    assert str(place(folder)) == str(ADDRESS)
    assert str(place(folder / "shards/0.h5")) == f"{ADDRESS}/shards/0.h5"
