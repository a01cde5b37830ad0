"""CUHK03 from a small file that is arranged as the real cuhk-03.mat, and from image folders."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from conftest import touch
from PIL import Image

from distreid.data.mat_images import in_mat
from distreid.data.source import open_data
from distreid.errors import DataError, ImageError, OptionError
from distreid.images.loader import open_loader
from distreid.images.preprocess import Preprocess, decode, read
from distreid.images.sampler import ShardSampler
from distreid.store.plan import plan_shards

PAIRS, PERSONS, IMAGES = 5, 3, 10


def pixels(kind: str, pair: int, person: int, image: int) -> np.ndarray[tuple[int, ...], np.dtype]:
    """What a cell shows, (h, w, 3); no two are alike."""
    seed = [kind == "labeled", pair, person, image]
    return np.random.default_rng(seed).integers(0, 256, (12 + image, 6, 3), dtype=np.uint8)


def is_empty(pair: int, person: int, image: int) -> bool:
    return (pair * person + image) % 3 == 0


def write_mat(file: Path) -> None:
    """As MATLAB 7.3 writes cells: references to datasets that are transposed, empty ones
    holding their size, behind a header of 512 bytes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(file, "w", userblock_size=512) as mat:
        for kind in ("detected", "labeled"):
            pairs = mat.create_dataset(kind, (1, PAIRS), h5py.ref_dtype)
            for pair in range(1, PAIRS + 1):
                cells = mat.create_dataset(
                    f"#refs#/{kind}{pair}", (IMAGES, PERSONS), h5py.ref_dtype
                )
                pairs[0, pair - 1] = cells.ref
                for person in range(1, PERSONS + 1):
                    for image in range(1, IMAGES + 1):
                        name = f"#refs#/{kind}{pair}_{person}_{image}"
                        if is_empty(pair, person, image):
                            cell = mat.create_dataset(name, data=np.zeros(2, np.uint64))
                            cell.attrs["MATLAB_empty"] = np.uint8(1)
                        else:
                            cell = mat.create_dataset(
                                name, data=pixels(kind, pair, person, image).T
                            )
                        cells[image - 1, person - 1] = cell.ref
        testsets = mat.create_dataset("testsets", (1, 20), h5py.ref_dtype)
        for split in range(20):
            tested = np.array([[1 + split % 5, 2], [5, 3]], np.float64)
            testsets[0, split] = mat.create_dataset(f"#refs#/t{split}", data=tested.T).ref
    with file.open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64")


def write_config(file: Path, names: list[str]) -> None:
    filelist = np.empty((len(names), 1), object)
    for place, name in enumerate(names):
        filelist[place, 0] = name
    scipy.io.savemat(
        file,
        {
            "filelist": filelist,
            "labels": np.array([[10], [10], [11], [11], [12]], np.uint16),
            "camId": np.array([[1], [2], [1], [2], [1]], np.uint8),
            "train_idx": np.array([[5]], np.uint16),
            "query_idx": np.array([[4], [1]], np.uint16),
            "gallery_idx": np.array([[2], [3]], np.uint16),
        },
    )


NAMES = [
    f"{name}.png" for name in ["1_001_1_01", "1_001_2_06", "2_003_1_01", "2_003_2_07", "3_001_1_01"]
]


@pytest.fixture
def release(tmp_path: Path) -> Path:
    write_mat(tmp_path / "cuhk03_release/cuhk-03.mat")
    for kind in ("detected", "labeled"):
        write_config(tmp_path / f"cuhk03_new_protocol_config_{kind}.mat", NAMES)
    return tmp_path


def test_the_new_protocol_reads_images_where_they_are(release: Path) -> None:
    before = sorted(release.rglob("*"))
    manifest = open_data(str(release))
    assert manifest.layout == "cuhk03_detected"
    assert manifest.path.tolist() == [
        f"cuhk03_release/cuhk-03.mat#detected/{NAMES[place]}".encode() for place in (0, 3, 1, 2)
    ]
    assert manifest.person_id.tolist() == [10, 11, 10, 11]
    assert manifest.camera_id.tolist() == [1, 2, 2, 1]
    assert manifest.split.tolist() == [b"query"] * 2 + [b"gallery"] * 2
    assert np.array_equal(decode(read(manifest.file(0))), pixels("detected", 1, 1, 1))
    labeled = open_data(str(release), "cuhk03_labeled")
    assert np.array_equal(decode(read(labeled.file(1))), pixels("labeled", 2, 3, 7))
    assert sorted(release.rglob("*")) == before
    assert "fast-reid takes --layout cuhk03_labeled" in manifest.notes[-1]
    assert not [note for note in labeled.notes if "fast-reid" in note]


def unpack(root: Path, kind: str) -> None:
    """As torchreid unpacks the .mat file."""
    folder = root / f"images_{kind}"
    folder.mkdir()
    for pair in range(1, PAIRS + 1):
        for person in range(1, PERSONS + 1):
            for image in range(1, IMAGES + 1):
                if not is_empty(pair, person, image):
                    view = 1 if image <= 5 else 2
                    name = f"{pair}_{person:03d}_{view}_{image:02d}.png"
                    Image.fromarray(pixels(kind, pair, person, image)).save(folder / name)
    touch(folder, "Thumbs.db", "cover.png")


@pytest.mark.parametrize("layout", ["cuhk03_labeled", "cuhk03_classic_labeled"])
def test_unpacked_images_are_the_same_rows_and_pixels(release: Path, layout: str) -> None:
    packed = open_data(str(release), layout, split=0)
    load = Preprocess(height=32, width=16).load
    before = [load(packed.file(row)) for row in range(len(packed))]
    unpack(release, "labeled")
    unpacked = open_data(str(release), layout, split=0)
    assert unpacked.file(0).parent.name == "images_labeled"
    assert [unpacked.file(r).name for r in range(len(packed))] == [
        packed.file(r).name for r in range(len(packed))
    ]
    for name in ("person_id", "camera_id", "split"):
        assert np.array_equal(getattr(packed, name), getattr(unpacked, name))
    for row in range(len(packed)):
        assert (load(unpacked.file(row)) == before[row]).all()


def test_the_classic_protocol_searches_its_test_persons_among_themselves(release: Path) -> None:
    manifest = open_data(str(release), "cuhk03_classic_detected", split=3)
    query, gallery = manifest.rows("query"), manifest.rows("gallery")
    assert manifest.path[query].tolist() == manifest.path[gallery].tolist()
    expected = [
        f"{pair}_{person:03d}_{1 if image <= 5 else 2}_{image:02d}.png"
        for pair, person in ((4, 2), (5, 3))
        for image in range(1, 11)
        if not is_empty(pair, person, image)
    ]
    assert [manifest.file(row).name for row in query] == expected
    assert set(manifest.person_id.tolist()) == {4002, 5003}
    assert [manifest.camera_id[row] for row in query] == [int(name[6]) for name in expected]
    with pytest.raises(OptionError, match="--split 20: cuhk03_classic_detected has splits 0 to 19"):
        open_data(str(release), "cuhk03_classic_detected", split=20)


def test_the_classic_protocol_without_the_mat_file(
    release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpack(release, "detected")
    by_mat = open_data(str(release), "cuhk03_classic_detected", split=1)
    shutil.rmtree(release / "cuhk03_release")
    with pytest.raises(DataError, match=r"no file splits_classic_detected\.json"):
        open_data(str(release), "cuhk03_classic_detected", split=1)
    few = open_data(str(release), "cuhk03_classic_detected")
    assert "all persons: no splits_classic_detected.json says which are tested" in few.notes
    assert set(few.split.tolist()) == {b"query+gallery"}
    monkeypatch.setattr("distreid.data.cuhk03.TESTED", 1)
    with pytest.raises(DataError, match=r"no file splits_classic_detected\.json"):
        open_data(str(release), "cuhk03_classic_detected")
    names = [by_mat.file(row).name for row in by_mat.rows("query")]
    entries = [[f"/elsewhere/cuhk03/images_detected/{name}", 0, 0] for name in names]
    splits = [{"query": [], "gallery": []}, {"query": entries, "gallery": entries}]
    (release / "splits_classic_detected.json").write_text(json.dumps(splits))
    by_json = open_data(str(release), "cuhk03_classic_detected", split=1)
    assert by_json.fingerprint() == by_mat.fingerprint()
    with pytest.raises(DataError, match="no splits as torchreid saves them"):
        open_data(str(release), "cuhk03_classic_detected", split=2)


def test_workers_read_the_mat_file_side_by_side(release: Path) -> None:
    manifest = open_data(str(release), "cuhk03_classic_labeled")
    preprocess = Preprocess(height=32, width=16)
    shards = ShardSampler(plan_shards(len(manifest), 5), rank=0, world_size=1)
    loader = open_loader(
        manifest, preprocess, shards, batch_size=2, num_workers=2, pin_memory=False
    )
    read_rows = 0
    for batch in loader:
        assert not batch.failures
        for row, image in zip(batch.rows, batch.images_BCHW, strict=True):
            (expected,) = preprocess.resize([preprocess.load(manifest.file(row))])
            assert image.equal(expected)
        read_rows += len(batch.rows)
    assert read_rows == len(manifest)


def test_an_image_that_the_mat_file_does_not_hold_is_missing(release: Path) -> None:
    root = release / "cuhk03_release"
    assert is_empty(1, 2, 1)
    with pytest.raises(FileNotFoundError, match="has no image detected 1_002, 01"):
        read(root / "cuhk-03.mat#detected/1_002_1_01.png")
    with pytest.raises(ImageError, match="not to be read from"):
        read(root / "cuhk-03.mat#detected/1_009_1_01.png")
    with pytest.raises(FileNotFoundError):
        read(root / "cuhk-04.mat#detected/1_001_1_01.png")
    (root / "cuhk-03.mat").write_bytes(b"no HDF5")
    with pytest.raises(ImageError, match="not to be read from"):
        read(root / "cuhk-03.mat#detected/1_001_1_01.png")
    assert not in_mat(root / "a.mat#1.jpg")


def test_a_missing_or_damaged_part_of_cuhk03_is_named(release: Path) -> None:
    mat = release / "cuhk03_release/cuhk-03.mat"
    with h5py.File(mat, "a") as file:
        del file["testsets"]
    with pytest.raises(DataError, match=r"cuhk-03\.mat: not arranged as CUHK03's own"):
        open_data(str(release), "cuhk03_classic_labeled")
    mat.unlink()
    touch(release, "cuhk03_release/README.md")
    with pytest.raises(DataError, match=r"neither cuhk03_release/cuhk-03\.mat nor the folder ima"):
        open_data(str(release))
    write_mat(mat)
    config = release / "cuhk03_new_protocol_config_detected.mat"
    config.write_bytes(b"no MATLAB")
    with pytest.raises(DataError, match=r"config_detected\.mat: no MATLAB file"):
        open_data(str(release))
    config.unlink()
    with pytest.raises(DataError, match=r"no file cuhk03_new_protocol_config_detected\.mat"):
        open_data(str(release))
