import contextlib
import os
import re
import resource
import shutil
import signal
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import little_memory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from distreid.data.manifest import Status, build_manifest
from distreid.errors import StoreError
from distreid.host.atomic_files import (
    CHECKSUM_BYTES,
    CHECKSUM_LINE,
)
from distreid.job.status import run_status
from distreid.store import FeatureStore
from distreid.store.plan import Plan, differences, shard_rows_for
from distreid.store.run_folder import begin, finish, verify
from distreid.store.shards import (
    CHECKED_BYTES,
    Rows,
    ShardWriter,
    done_shards,
    read_shard,
    shard_file,
    verify_shard,
    write_shard,
)
from distreid.store.verification import repair_run, verify_run

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
    writer.wait()


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
    for some in ([0, 1, 2], [3, 5, 6], [3, 5], [30, 31, 33, 64, 69], []):
        pieces = store.pieces(np.array(some, np.intp))
        assert [row.tolist() for piece in pieces for row in piece] == features()[some].tolist()
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
        mapped = read_shard(run, example(), shard).features
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
        match=r"model\.stride: it has 2, asked for is 1; shard_rows: it has 32, asked for is 16; "
        r"weights: it has aa, asked for is bb\); "
        "give another --out",
    ):
        begin(run, plan)
    assert FeatureStore.open(run).plan.identity["weights"] == "aa"


def test_identities_are_compared_field_by_field() -> None:
    assert differences({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 2}}) == []
    assert differences({"a": 1}, {"b": 2}) == ["a: 1, not none", "b: none, not 2"]
    assert differences({"engine": "onnx"}, {}) == ["engine: onnx, not torch"]


@pytest.mark.parametrize(
    ("rows", "per_shard"),
    [
        (1, 64),
        (4096, 64),
        (4097, 128),
        (100_000, 1600),
        (524_288, 8192),
        (524_289, 8192),
        (10**8, 8192),
    ],
)
def test_a_set_of_a_size_is_always_cut_alike(rows: int, per_shard: int) -> None:
    """A run that an earlier version began is continued only so."""
    assert shard_rows_for(rows) == per_shard


def resealed(file: Path) -> None:
    """Gives a changed file a checksum that fits, as a writer gone wrong would."""
    content = file.read_bytes()[:-CHECKSUM_BYTES]
    file.write_bytes(content + CHECKSUM_LINE.format(zlib.crc32(content)).encode())


def flip_a_byte(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def truncate(file: Path) -> None:
    os.truncate(file, 3000)


def cut_the_last_byte(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def empty(file: Path) -> None:
    file.write_bytes(b"")


def append(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\0")


def make_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def make_a_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def leave_a_dangling_link(file: Path) -> None:
    file.unlink()
    file.symlink_to("nowhere")


def write_text(file: Path) -> None:
    file.write_text("features, honestly\n" * 100)


ANY_FILE = [
    (flip_a_byte, "its bytes do not fit their checksum"),
    (truncate, "its bytes do not fit their checksum, or were cut"),
    (cut_the_last_byte, "its bytes do not fit their checksum, or were cut"),
    (empty, "its bytes do not fit their checksum, or were cut"),
    (append, "its bytes do not fit their checksum"),
    (make_a_folder, "no file, but a folder or a device"),
    (make_a_pipe, "no file, but a folder or a device"),
    (write_text, "its bytes do not fit their checksum"),
]


def swap(file: Path) -> None:
    file.rename(file.with_name("x"))
    file.with_name("000000.h5").rename(file)
    file.with_name("x").rename(file.with_name("000000.h5"))


def copy_from_another_run(file: Path) -> None:
    other = file.parent.parent.parent / "other"
    write(other, example(weights="bb"))
    shutil.copy(shard_file(other, 1), file)


def lose_a_dataset(file: Path) -> None:
    with h5py.File(file, "r+") as hdf5:
        del hdf5["status"]
    resealed(file)


def turn_its_norm_around(file: Path) -> None:
    """The same bytes, read as other numbers."""
    with h5py.File(file, "r+") as hdf5:
        norm = hdf5["norm"][()]
        del hdf5["norm"]
        hdf5.create_dataset("norm", data=norm.view(">f4"))
    resealed(file)


def cut_a_row(file: Path) -> None:
    with h5py.File(file, "r+") as hdf5:
        values = hdf5["features"][1:]
        del hdf5["features"]
        hdf5.create_dataset("features", data=values)
    resealed(file)


def compress(file: Path) -> None:
    with h5py.File(file, "r+") as hdf5:
        values = hdf5["features"][()]
        del hdf5["features"]
        hdf5.create_dataset("features", data=values, compression="gzip")
    resealed(file)


def zero_a_row(file: Path) -> None:
    with h5py.File(file, "r+") as hdf5:
        hdf5["features"][3] = 0
    resealed(file)


def lose_a_row_to_nan(file: Path) -> None:
    with h5py.File(file, "r+") as hdf5:
        hdf5["features"][3, 7] = np.nan
    resealed(file)


def lose_a_norm(file: Path) -> None:
    with h5py.File(file, "r+") as hdf5:
        hdf5["norm"][3] = np.inf
    resealed(file)


def let_a_row_grow_to_infinity(file: Path) -> None:
    with h5py.File(file, "r+") as hdf5:
        hdf5["features"][3, 7] = -np.inf
    resealed(file)


def call_a_good_row_unreadable(file: Path) -> None:
    with h5py.File(file, "r+") as hdf5:
        hdf5["status"][3] = Status.UNREADABLE
    resealed(file)


def change_a_norm(file: Path) -> None:
    """A shard that is right by itself."""
    with h5py.File(file, "r+") as hdf5:
        hdf5["norm"][3] += 1
    resealed(file)


def change_the_status_of_a_row(file: Path) -> None:
    """A shard that is right by itself, of the same identity, where the image was not readable."""
    with h5py.File(file, "r+") as hdf5:
        hdf5["features"][3] = hdf5["norm"][3] = np.nan
        hdf5["status"][3] = Status.UNREADABLE
    resealed(file)


SHARD_ONLY = [
    (Path.unlink, r"000001\.h5: missing; run the extraction again"),
    (leave_a_dangling_link, r"000001\.h5: missing"),
    (swap, r"000000\.h5: its row is \[32, 63\], the plan says \[0, 31\]"),
    (copy_from_another_run, r"000001\.h5: its identity is"),
    (lose_a_dataset, r"000001\.h5: damaged"),
    (turn_its_norm_around, r"000001\.h5: its norm is 32 >f4, the plan says 32 float32"),
    (cut_a_row, r"000001\.h5: its features is 31 × 16 float32, the plan says 32 × 16"),
    (compress, r"000001\.h5: its features cannot be mapped"),
    (zero_a_row, r"000001\.h5: the features of row 35 do not fit its status"),
    (lose_a_row_to_nan, r"000001\.h5: the features of row 35 do not fit its status"),
    (lose_a_norm, r"000001\.h5: the features of row 35 do not fit its status"),
    (let_a_row_grow_to_infinity, r"000001\.h5: the features of row 35 do not fit its status"),
    (call_a_good_row_unreadable, r"000001\.h5: the features of row 35 do not fit its status"),
    (change_a_norm, r"store\.h5: it and the shard of row 35 differ in its status or norm"),
    (change_the_status_of_a_row, r"store\.h5: it and the shard of row 35 differ in its status"),
]
Damage = Callable[[Path], None]


@pytest.mark.parametrize(
    ("damage", "message"),
    [*((damage, rf"000001\.h5: {message}") for damage, message in ANY_FILE), *SHARD_ONLY],
)
def test_every_damage_of_a_shard_is_found_by_name_before_work_starts(
    run: Path, damage: Damage, message: str
) -> None:
    damage(shard_file(run, 1))
    with pytest.raises(StoreError, match=message) as caught:
        FeatureStore.open(run)
    assert "\n" not in str(caught.value)
    if damage not in (change_the_status_of_a_row, change_a_norm):  # which are right by themselves
        with pytest.raises(StoreError, match=message):
            verify(run, example())
    assert any(re.search(message, found) for found in verify_run(run).bad.values())


@pytest.mark.parametrize("name", ["store.h5", "plan.h5"])
@pytest.mark.parametrize(("damage", "message"), ANY_FILE)
def test_every_damage_of_a_root_file_is_found_by_name(
    run: Path, damage: Damage, message: str, name: str
) -> None:
    (run / "store.h5").rename(run / name)
    damage(run / name)
    with pytest.raises(StoreError, match=rf"{name}: {message}") as caught:
        FeatureStore.open(run)
    assert "\n" not in str(caught.value)
    findings = verify_run(run)
    assert findings.good == 3
    assert list(findings.bad) == [run / name]


def claims(name: str, rows: int) -> Damage:
    """A column that is larger than its file."""

    def damage(file: Path) -> None:
        with h5py.File(file, "r+") as hdf5:
            kind = hdf5[name].dtype
            del hdf5[name]
            hdf5.create_dataset(name, shape=(rows,), dtype=kind)
        resealed(file)

    return damage


def takes_person_id_from_elsewhere(file: Path) -> None:
    with h5py.File(file, "r+") as hdf5:
        del hdf5["person_id"]
        where = [(str(file), 0, 8 * ROWS)]
        hdf5.create_dataset("person_id", (ROWS,), "<i8", external=where)
    resealed(file)


def cuts_shards_of(rows: int) -> Damage:
    def damage(file: Path) -> None:
        with h5py.File(file, "r+") as hdf5:
            hdf5.attrs["shard_rows"] = rows
        resealed(file)

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (claims("norm", 10**13), "/norm is no column of 70 rows"),
        (claims("path", 10**13), "/path is no column of 10,000,000,000,000 rows"),
        (takes_person_id_from_elsewhere, "/person_id is no column of 70 rows"),
        (cuts_shards_of(0), "shard_rows must be positive, got 0"),
        (cuts_shards_of(-5), "shard_rows must be positive, got -5"),
    ],
)
def test_a_root_file_made_to_harm_is_refused_before_memory_is_taken_and_repaired(
    run: Path, damage: Damage, message: str
) -> None:
    damage(run / "store.h5")
    with little_memory(), pytest.raises(StoreError, match=rf"store\.h5: damaged, .*\({message}"):
        FeatureStore.open(run)
    with little_memory(), contextlib.suppress(StoreError):  # it looks at less
        run_status(run)
    assert list(repair_run(run).bad) == [run / "store.h5"]
    write(run, example())
    finish(run, example())
    assert verify_run(run).problem() == ""


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "missing"),
        (truncate, "damaged"),
        (swap, "its row is"),
        (copy_from_another_run, "its identity is"),
        (cut_a_row, "its features is"),
    ],
)
def test_coverage_is_checked_even_where_the_caller_has_checked_the_bytes(
    run: Path, damage: Damage, message: str
) -> None:
    damage(shard_file(run, 1))
    with pytest.raises(StoreError, match=rf"00000\d\.h5: {message}"):
        FeatureStore.open(run, checksum=False)


def test_the_bytes_of_every_shard_are_read_once_by_whoever_opens_the_run(run: Path) -> None:
    store = FeatureStore.open(run)
    shutil.copy(shard_file(run, 1), run / "kept")
    flip_a_byte(shard_file(run, 1))
    store.features(np.arange(ROWS))  # checked already
    shutil.copy(run / "kept", shard_file(run, 1))
    assert np.array_equal(store.features(np.arange(ROWS)), features())


def test_no_byte_of_a_file_can_be_changed_unseen(tmp_path: Path) -> None:
    """Every byte in turn, in the data, in HDF5's own records, and in what fills its pages."""
    plan = replace(example(), dim=2, shard_rows=64)
    shard = begin(tmp_path, plan)[0]
    rows = Rows(features=features()[:64, :2], norm=norms()[:64], status=np.zeros(64, np.uint8))
    write_shard(tmp_path, plan, shard, rows)
    file = shard_file(tmp_path, 0)
    good = file.read_bytes()
    verify_shard(tmp_path, plan, shard)
    with file.open("r+b", buffering=0) as stream:
        for place, byte in enumerate(good):
            os.pwrite(stream.fileno(), bytes([byte ^ 1 << place % 8]), place)
            with pytest.raises(StoreError):
                verify_shard(tmp_path, plan, shard)
            os.pwrite(stream.fileno(), bytes([byte]), place)
    verify_shard(tmp_path, plan, shard)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_reader_gives_what_was_written_or_says_that_it_cannot(
    run: Path, data: st.DataObject
) -> None:
    """Bytes changed, put in, cut off, in any file of a run."""
    file = data.draw(st.sampled_from([run / "store.h5", *(run / "shards").iterdir()]))
    good = file.read_bytes()
    bad = bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(bad)))
        piece = data.draw(st.binary(max_size=8))
        ends = {"change": place + len(piece), "insert": place, "cut": len(bad)}
        bad[place : ends[data.draw(st.sampled_from(sorted(ends)))]] = piece
    file.write_bytes(bad)
    if bad == good:
        assert np.array_equal(FeatureStore.open(run).features(np.arange(ROWS)), features())
    else:
        with pytest.raises(StoreError, match=file.name):
            FeatureStore.open(run)
    file.write_bytes(good)


def test_a_run_with_more_shards_than_open_files_are_allowed_is_read(tmp_path: Path) -> None:
    plan = replace(example(), shard_rows=1)
    for shard in begin(tmp_path, plan):
        rows = Rows(
            features=features()[shard.start : shard.stop],
            norm=norms()[shard.start : shard.stop],
            status=np.zeros(1, np.uint8),
        )
        write_shard(tmp_path, plan, shard, rows)
    finish(tmp_path, plan)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (60, hard))
    try:
        pieces = FeatureStore.open(tmp_path).pieces(np.arange(ROWS))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert np.array_equal(np.concatenate(pieces), features())


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
    writer.wait()
    with pytest.raises(StoreError, match=r"000000\.h5: the features of row 3 do not fit"):
        finish(tmp_path, plan)


def test_a_bad_row_far_into_a_large_shard_is_found(tmp_path: Path) -> None:
    """Which is read in several parts."""
    plan = replace(example(), dim=CHECKED_BYTES // 4 // 20, shard_rows=ROWS)
    (shard,) = begin(tmp_path, plan)
    values = np.ones((ROWS, plan.dim), np.float32)
    values[65] = 0
    rows = Rows(features=values, norm=norms(), status=np.zeros(ROWS, np.uint8))
    write_shard(tmp_path, plan, shard, rows)
    with pytest.raises(StoreError, match=r"000000\.h5: the features of row 65 do not fit"):
        finish(tmp_path, plan)


def test_a_shard_that_could_not_be_written_is_told_though_the_next_one_could(
    tmp_path: Path,
) -> None:
    shard_file(tmp_path, 0).mkdir(parents=True)
    writer, status = ShardWriter(tmp_path, example()), np.zeros(ROWS, np.uint8)

    def write_all() -> None:
        for shard in example().shards:
            part = slice(shard.start, shard.stop)
            rows = Rows(features=features()[part], norm=norms()[part], status=status[part])
            writer.add(range(shard.start, shard.stop), rows)

    with pytest.raises(StoreError, match=r"000000\.h5: a folder, which is not replaced"):
        write_all()


def test_a_run_without_one_readable_image_is_not_finished(tmp_path: Path) -> None:
    plan = example()
    writer = ShardWriter(tmp_path, plan)
    for shard in begin(tmp_path, plan):
        values = np.full((len(shard), DIM), np.nan, np.float32)
        status = np.full(len(shard), Status.UNREADABLE, np.uint8)
        rows = Rows(features=values, norm=values[:, 0], status=status)
        writer.add(range(shard.start, shard.stop), rows)
    writer.wait()
    with pytest.raises(StoreError, match="none of 70 images could be read"):
        finish(tmp_path, plan)
    assert not (tmp_path / "store.h5").exists()
    # Of which it is not said that the same extraction would finish it.
    with pytest.raises(StoreError, match="all shards are done, and the run was not"):
        FeatureStore.open(tmp_path)


@contextlib.contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """The system refuses to write beyond this size, as a full disk or a quota does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, previous)


def test_the_old_root_file_stays_until_the_new_one_is_there(run: Path) -> None:
    shard_file(run, 1).unlink()
    with no_file_beyond(1000), pytest.raises(StoreError, match=r"plan\.h5: File too large"):
        begin(run, example())
    assert (run / "store.h5").exists()
    write(run, example())
    with no_file_beyond(1000), pytest.raises(StoreError, match=r"store\.h5: File too large"):
        finish(run, example())
    assert (run / "plan.h5").exists()


def test_rows_changed_in_the_root_file_are_found(run: Path) -> None:
    with h5py.File(run / "store.h5", "r+") as file:
        file["person_id"][4] = 99
    with pytest.raises(StoreError, match=r"store\.h5: its bytes do not fit their checksum"):
        FeatureStore.open(run)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no run"):
        FeatureStore.open(tmp_path)
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "000000.h5").touch()
    with pytest.raises(StoreError, match="shards without a plan"):
        begin(tmp_path, example())


@pytest.mark.parametrize("name", ["store.h5", "plan.h5"])
def test_a_run_of_another_format_is_left_to_the_version_that_wrote_it(run: Path, name: str) -> None:
    (run / "store.h5").rename(run / name)
    for written in (1, 3):
        with h5py.File(run / name, "r+") as file:
            file.attrs["format"] = written
        resealed(run / name)
        with pytest.raises(StoreError, match=f"{name}: format {written}, this distreid reads 2;"):
            FeatureStore.open(run)
        with pytest.raises(StoreError, match="use the version that wrote it"):
            begin(run, example())


def test_a_run_that_lost_its_root_alone_gets_a_plan_again(run: Path) -> None:
    (run / "store.h5").unlink()
    assert begin(run, example()) == []
    assert (run / "plan.h5").exists()
    finish(run, example())
    assert verify_run(run).problem() == ""


def test_a_plan_that_was_lost_is_made_again_around_its_own_shards(run: Path) -> None:
    shard_file(run, 1).unlink()
    (run / "store.h5").unlink()
    with pytest.raises(StoreError, match=r"shards without a plan, and not of this run \(000000"):
        begin(run, example(weights="bb"))
    with pytest.raises(StoreError, match=r"not of this run \(000000"):
        begin(run, replace(example(), shard_rows=ROWS))
    shutil.copy(shard_file(run, 0), shard_file(run, 3))  # one more than the plan has
    with pytest.raises(StoreError, match=r"not of this run \(000003"):
        begin(run, example())
    shard_file(run, 3).unlink()
    assert [shard.index for shard in begin(run, example())] == [1]
    write(run, example())
    finish(run, example())
    assert np.array_equal(FeatureStore.open(run).features(np.arange(ROWS)), features())


@pytest.mark.parametrize(
    ("lost", "found"),
    [
        (["shards/000001.h5"], {1}),
        (["shards/000000.h5", "shards/000002.h5"], {0, 2}),
        (["store.h5"], set()),
        (["shards/000002.h5", "store.h5"], {2}),
    ],
)
@pytest.mark.parametrize("damage", [flip_a_byte, make_a_folder, empty])
def test_a_repair_removes_what_is_bad_and_the_same_run_mends_it(
    run: Path, damage: Damage, lost: list[str], found: set[int]
) -> None:
    before = {file: file.read_bytes() for file in run.glob("*/*.h5")}
    for name in lost:
        damage(run / name)
    assert set(repair_run(run).bad) == {run / name for name in lost}
    assert not (run / "store.h5").exists()
    assert (run / "plan.h5").exists() != ("store.h5" in lost)
    assert done_shards(run) == {0, 1, 2} - found
    assert [shard.index for shard in begin(run, example())] == sorted(found)
    write(run, example())
    finish(run, example())
    assert {file: file.read_bytes() for file in run.glob("*/*.h5")} == before
    assert verify_run(run).problem() == ""


def test_a_repair_of_a_good_run_changes_nothing(run: Path) -> None:
    before = {file: file.read_bytes() for file in run.rglob("*.h5")}
    assert repair_run(run).problem() == ""
    assert {file: file.read_bytes() for file in run.rglob("*.h5")} == before


def test_a_repair_removes_a_shard_that_the_plan_does_not_have(run: Path) -> None:
    shutil.copy(shard_file(run, 0), shard_file(run, 3))
    assert list(repair_run(run).bad) == [shard_file(run, 3)]
    assert done_shards(run) == {0, 1, 2}


def test_a_shard_under_another_name_is_none(run: Path) -> None:
    shard_file(run, 1).rename(run / "shards" / "0000001.h5")
    assert done_shards(run) == {0, 2}
    assert [shard.index for shard in begin(run, example())] == [1]


def test_a_repair_never_empties_a_folder(run: Path) -> None:
    make_a_folder(shard_file(run, 1))
    (shard_file(run, 1) / "mine.txt").touch()
    with pytest.raises(StoreError, match=r"000001\.h5: cannot be removed: Directory not empty"):
        repair_run(run)
    assert (shard_file(run, 1) / "mine.txt").exists()


def test_an_incomplete_run_is_verified_as_far_as_it_is(run: Path) -> None:
    shard_file(run, 1).unlink()
    begin(run, example())
    flip_a_byte(shard_file(run, 2))
    findings = verify_run(run)
    assert (findings.good, list(findings.bad)) == (1, [shard_file(run, 2)])
    repair_run(run)
    findings = verify_run(run)
    assert findings.describe() == "1 of 3 shards there and good"
    assert findings.problem() == "not finished; run the same extraction again"


def test_files_left_by_a_killed_writer_are_no_shards_and_are_cleared(tmp_path: Path) -> None:
    begin(tmp_path, example())
    left = tmp_path / "shards" / "000000.h5.host-1.tmp"
    left.write_bytes(b"half")
    # Of a job that is about to be refused, by what it will find once it has announced itself.
    announcing = tmp_path / "job-host-2-aa.lock.host-2.tmp"
    announcing.touch()
    assert done_shards(tmp_path) == set()
    begin(tmp_path, example())
    assert not left.exists()
    assert announcing.exists()


def test_a_full_disk_is_said_in_one_line_and_the_run_goes_on_after_room_is_made(
    tmp_path: Path,
) -> None:
    plan = example()
    todo = begin(tmp_path, plan)
    part = slice(0, SHARD_ROWS)
    status = np.zeros(SHARD_ROWS, np.uint8)
    rows = Rows(features=features()[part], norm=norms()[part], status=status)
    full = pytest.raises(StoreError, match=r"000000\.h5: File too large; make room")
    with no_file_beyond(1000), full:
        write_shard(tmp_path, plan, todo[0], rows)
    assert begin(tmp_path, plan) == todo
    write(tmp_path, plan)
    finish(tmp_path, plan)
