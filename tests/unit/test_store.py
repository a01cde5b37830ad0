import os
import resource
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from distreid.errors import StoreError
from distreid.files import publish
from distreid.manifest import Status, build_manifest
from distreid.plan import Plan, differences
from distreid.shards import Rows, ShardWriter, done_shards, read_shard, shard_file, write_shard
from distreid.store import FeatureStore, begin, finish, verify

ROWS, DIM, SHARD_ROWS = 70, 16, 32


def example(dtype: str = "float32", weights: str = "aa") -> Plan:
    manifest = build_manifest(
        root=Path("/data"),
        layout="csv",
        path=[f"é{row}.jpg".encode() for row in range(ROWS - 1)] + [b"caf\xe9.jpg"],
        person_id=list(range(ROWS)),
        split=["query"] * 10 + ["gallery"] * (ROWS - 10),
        extra={"time": [""] * ROWS},
        notes=("a note",),
    )
    return Plan(
        manifest=manifest,
        identity={"manifest": manifest.fingerprint(), "weights": weights, "model": {"stride": 2}},
        provenance={"host": "here"},
        dim=DIM,
        dtype=dtype,
        shard_rows=SHARD_ROWS,
    )


def features() -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((ROWS, DIM), dtype=np.float32)


def norms() -> NDArray[np.float32]:
    return np.linspace(1, 9, ROWS, dtype=np.float32)


def write(run: Path, plan: Plan, batch: int = 7) -> None:
    """Fills every shard of a run as a rank does."""
    writer = ShardWriter(run, plan)
    status = np.zeros(ROWS, np.uint8)
    for shard in begin(run, plan):
        for start in range(shard.start, shard.stop, batch):
            rows = range(start, min(start + batch, shard.stop))
            part = slice(rows.start, rows.stop)
            writer.add(
                rows, Rows(features=features()[part], norm=norms()[part], status=status[part])
            )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A complete run of three shards."""
    folder = tmp_path / "run"
    write(folder, example())
    finish(folder, example())
    return folder


def test_what_is_written_is_read_in_order(run: Path) -> None:
    store = FeatureStore.open(run)
    assert np.array_equal(store.features(np.arange(ROWS)), features())
    rows = np.array([0, 31, 32, 69])
    assert np.array_equal(store.features(rows), features()[rows])
    assert store.features(np.array([], dtype=np.intp)).shape == (0, DIM)
    assert store.status.tolist() == [Status.OK] * ROWS
    assert np.array_equal(store.norm, norms())
    plan = example()
    assert store.manifest.fingerprint() == plan.manifest.fingerprint()
    assert store.manifest.notes == plan.manifest.notes
    assert store.plan.identity == plan.identity
    assert store.plan.provenance == plan.provenance


def test_a_shard_is_mapped_from_a_page_of_the_file(run: Path) -> None:
    for shard in example().shards:
        file = shard_file(run, shard.index)
        mapped = read_shard(run, example(), shard, checksum=True).features
        assert isinstance(mapped, np.memmap)
        # A last shard of a few rows needs no page of its own.
        assert mapped.offset % 4096 == 0 or mapped.nbytes < 1024
        assert mapped.dtype == np.dtype("<f4")
        # Beside the features: one page of HDF5's own, and what fills the last page.
        assert file.stat().st_size <= mapped.nbytes + 3 * 4096


def test_any_hdf5_tool_sees_one_dataset_also_after_a_move(run: Path, tmp_path: Path) -> None:
    shutil.move(run, tmp_path / "moved")
    with h5py.File(tmp_path / "moved" / "store.h5") as file:
        assert np.array_equal(file["features"][()], features())
        assert file["path"].asstr()[3] == "é3.jpg"
        assert file["path"][ROWS - 1] == b"caf\xe9.jpg"
        assert file["person_id"][5] == 5
        assert h5py.check_enum_dtype(file["status"].dtype) == {
            "ok": 0,
            "missing": 1,
            "unreadable": 2,
        }


def test_the_size_of_a_batch_does_not_change_a_byte_of_a_shard(run: Path, tmp_path: Path) -> None:
    write(tmp_path / "other", example(), batch=32)
    for shard in example().shards:
        ours, theirs = (shard_file(r, shard.index).read_bytes() for r in (run, tmp_path / "other"))
        assert ours == theirs


def test_float16_halves_the_features(tmp_path: Path) -> None:
    write(tmp_path, example("float16"))
    finish(tmp_path, example("float16"))
    read = FeatureStore.open(tmp_path).features(np.arange(ROWS))
    assert np.array_equal(read, features().astype(np.float16).astype(np.float32))


def test_an_unfinished_run_says_how_far_it_is(tmp_path: Path) -> None:
    plan = example()
    assert begin(tmp_path, plan) == plan.shards
    with pytest.raises(StoreError, match="0 of 3 shards are done; run the same extraction again"):
        FeatureStore.open(tmp_path)
    with pytest.raises(StoreError, match=r"000000\.h5: missing"):
        finish(tmp_path, plan)
    assert not (tmp_path / "store.h5").exists()


def test_a_run_is_continued_with_what_is_missing(run: Path) -> None:
    assert begin(run, example()) == []
    shard_file(run, 1).unlink()
    todo = begin(run, example())
    assert [shard.index for shard in todo] == [1]
    # It must not look complete while it is mended.
    with pytest.raises(StoreError, match="2 of 3 shards are done"):
        FeatureStore.open(run)
    write(run, example())
    finish(run, example())
    assert np.array_equal(FeatureStore.open(run).features(np.arange(ROWS)), features())


def test_a_run_of_another_identity_is_refused_naming_the_fields(run: Path) -> None:
    plan = example(weights="bb")
    plan = replace(plan, identity=plan.identity | {"model": {"stride": 1}}, shard_rows=16)
    with pytest.raises(
        StoreError,
        match=r"model\.stride: 1, not 2; weights: bb, not aa; shard_rows: 16, not 32\); "
        "give another --out",
    ):
        begin(run, plan)
    assert FeatureStore.open(run).plan.identity["weights"] == "aa"


def test_identities_are_compared_field_by_field() -> None:
    assert differences({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 2}}) == []
    assert differences({"a": 1}, {"b": 2}) == ["a: 1, not None", "b: None, not 2"]


def flip_a_byte(run: Path) -> None:
    file = shard_file(run, 1)
    data = bytearray(file.read_bytes())
    data[5000] ^= 1
    file.write_bytes(data)


def truncate(run: Path) -> None:
    os.truncate(shard_file(run, 1), 3000)


def cut_the_last_byte(run: Path) -> None:
    file = shard_file(run, 1)
    os.truncate(file, file.stat().st_size - 1)


def empty(run: Path) -> None:
    shard_file(run, 1).write_bytes(b"")


def remove(run: Path) -> None:
    shard_file(run, 1).unlink()


def make_a_folder(run: Path) -> None:
    shard_file(run, 1).unlink()
    shard_file(run, 1).mkdir()


def swap(run: Path) -> None:
    shard_file(run, 1).rename(run / "x")
    shard_file(run, 0).rename(shard_file(run, 1))
    (run / "x").rename(shard_file(run, 0))


def copy_from_another_run(run: Path) -> None:
    other = run.parent / "other"
    write(other, example(weights="bb"))
    shutil.copy(shard_file(other, 1), shard_file(run, 1))


def lose_a_dataset(run: Path) -> None:
    with h5py.File(shard_file(run, 1), "r+") as file:
        del file["status"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_a_byte, r"000001\.h5: its bytes do not fit their checksum"),
        (truncate, r"000001\.h5: damaged"),
        (cut_the_last_byte, r"000001\.h5: damaged"),
        (empty, r"000001\.h5: damaged"),
        (remove, r"000001\.h5: missing"),
        (make_a_folder, r"000001\.h5: damaged"),
        (swap, r"000000\.h5: its row is \[32 63\], the plan says \[0, 31\]"),
        (copy_from_another_run, r"000001\.h5: its identity is"),
        (lose_a_dataset, r"000001\.h5: damaged"),
    ],
)
def test_every_damage_of_a_shard_is_found_by_name(
    run: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(run)
    store = FeatureStore.open(run)
    with pytest.raises(StoreError, match=message):
        verify(run, store.plan)
    with pytest.raises(StoreError, match=message) as caught:
        store.features(np.arange(ROWS))
    assert "\n" not in str(caught.value)


def test_a_nan_row_with_a_good_status_is_found(tmp_path: Path) -> None:
    plan = example()
    writer = ShardWriter(tmp_path, plan)
    for shard in begin(tmp_path, plan):
        values = features()[shard.start : shard.stop]
        values[3] = np.nan
        rows = Rows(
            features=values,
            norm=norms()[shard.start : shard.stop],
            status=np.zeros(len(shard), np.uint8),
        )
        writer.add(range(shard.start, shard.stop), rows)
    with pytest.raises(StoreError, match=r"000000\.h5: the features of row 3 do not fit"):
        finish(tmp_path, plan)


def test_a_run_without_one_readable_image_is_not_finished(tmp_path: Path) -> None:
    plan = example()
    writer = ShardWriter(tmp_path, plan)
    for shard in begin(tmp_path, plan):
        values = np.full((len(shard), DIM), np.nan, np.float32)
        status = np.full(len(shard), Status.UNREADABLE, np.uint8)
        rows = Rows(features=values, norm=values[:, 0], status=status)
        writer.add(range(shard.start, shard.stop), rows)
    with pytest.raises(StoreError, match="none of the 70 images could be read"):
        finish(tmp_path, plan)
    assert not (tmp_path / "store.h5").exists()


def test_a_damaged_root_file_is_named(run: Path) -> None:
    os.truncate(run / "store.h5", 1000)
    with pytest.raises(StoreError, match=r"store\.h5: damaged"):
        FeatureStore.open(run)


def test_rows_changed_in_the_root_file_are_found(run: Path) -> None:
    with h5py.File(run / "store.h5", "r+") as file:
        file["person_id"][4] = 99
    with pytest.raises(StoreError, match=r"store\.h5: its rows do not fit their fingerprint"):
        FeatureStore.open(run)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no run"):
        FeatureStore.open(tmp_path)
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "000000.h5").touch()
    with pytest.raises(StoreError, match="shards without a plan"):
        begin(tmp_path, example())


def test_files_left_by_a_killed_writer_are_no_shards_and_are_cleared(tmp_path: Path) -> None:
    begin(tmp_path, example())
    left = tmp_path / "shards" / "000000.h5.host-1.tmp"
    left.write_bytes(b"half")
    assert done_shards(tmp_path) == set()
    begin(tmp_path, example())
    assert not left.exists()


def test_a_full_disk_is_said_in_one_line_and_the_run_goes_on_after_room_is_made(
    tmp_path: Path,
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    plan = example()
    todo = begin(tmp_path, plan)
    part = slice(0, SHARD_ROWS)
    status = np.zeros(SHARD_ROWS, np.uint8)
    rows = Rows(features=features()[part], norm=norms()[part], status=status)
    # The system refuses to write beyond this size, as a full disk or a quota does.
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(StoreError, match=r"000000\.h5: File too large; make room"):
            write_shard(tmp_path, plan, todo[0], rows)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, previous)
    assert begin(tmp_path, plan) == todo
    write(tmp_path, plan)
    finish(tmp_path, plan)


def test_a_publication_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("old")

    def half(aside: Path) -> None:
        aside.write_text("ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(StoreError, match=r"a\.txt: No space left on device; make room"):
        publish(file, half)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]
