"""Decoded images kept between runs: never others than those that a run without would see."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import draw
from PIL import Image

from distreid.data.manifest import Manifest, Status, build_manifest
from distreid.errors import OptionError
from distreid.images import image_cache as cache
from distreid.images.image_cache import ImageCache, seal_of, stamp
from distreid.images.loader import Batch, ImageRows
from distreid.images.preprocess import IMAGENET_STD, Preprocess
from distreid.store.plan import Plan

ROWS = 10
SMALL = Preprocess(height=64, width=32)
RECORD = 8192  # 64 × 32 × 3 and 28 bytes, in whole pages


def planned(manifest: Manifest) -> Plan:
    return Plan(
        manifest=manifest,
        identity={"manifest": manifest.fingerprint()},
        provenance={},
        dim=1,
        dtype="float32",
        shard_rows=4,
    )


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """Ten images of several sizes and kinds, the fourth missing, the sixth damaged."""
    names = [f"{number}.{'jpg' if number % 2 else 'bmp'}" for number in range(ROWS)]
    for number, name in enumerate(names):
        draw(tmp_path / "data" / name, number)
    (tmp_path / "data" / names[3]).unlink()
    (tmp_path / "data" / names[5]).write_bytes(b"\xff\xd8\xff nothing")
    return build_manifest(
        root=tmp_path / "data", layout="folder", path=[name.encode() for name in names]
    )


@pytest.fixture
def images(manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ImageRows:
    """The same rows through a cache, which need not wait for the file system's clock."""
    monkeypatch.setattr(cache, "TICK_NS", 0)
    kept = ImageCache(tmp_path / "cache", planned(manifest), SMALL)
    return ImageRows(manifest, SMALL, kept)


def file_of(images: ImageRows) -> Path:
    assert images.cache
    return images.cache.file


def assert_as_without(images: ImageRows, rows: range, found: int) -> None:
    """What is read is what a run without the cache reads; `found` of them come from it."""
    batch, plain = images[rows], ImageRows(images.manifest, images.preprocess)[rows]
    assert torch.equal(batch.images_BCHW, plain.images_BCHW)
    assert batch.images_BCHW.stride() == plain.images_BCHW.stride()
    assert batch.status_B.tolist() == plain.status_B.tolist()
    assert batch.failures == plain.failures
    assert (batch.cache.found, batch.cache.fault) == (found, "")


def test_the_second_reading_is_the_first_without_decoding(images: ImageRows) -> None:
    assert_as_without(images, range(ROWS), 0)
    assert_as_without(images, range(ROWS), 8)
    statuses = images[range(ROWS)].status_B
    assert [statuses[3], statuses[5]] == [Status.MISSING, Status.UNREADABLE]


def test_what_is_in_the_cache_is_taken(images: ImageRows) -> None:
    images[range(ROWS)]
    grey = np.full((64, 32, 3), 99, np.uint8)
    its_stamp = stamp(images.manifest.file(7))
    assert its_stamp
    with file_of(images).open("r+b") as stream:
        stream.seek(7 * RECORD)
        stream.write(grey.tobytes() + seal_of(grey, its_stamp))
    assert (images[range(6, 9)].images_BCHW[1] == 99).all()


def test_any_batches_find_what_others_left(images: ImageRows) -> None:
    for start in range(0, ROWS, 3):
        images[range(start, min(start + 3, ROWS))]
    assert_as_without(images, range(1, 8), 5)
    assert_as_without(images, range(8, 10), 2)


def test_an_image_that_was_changed_is_read_again_alone(images: ImageRows) -> None:
    images[range(ROWS)]
    file = images.manifest.file(4)
    before = file.stat()
    pixels = np.asarray(Image.open(file))
    Image.fromarray(255 - pixels).save(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert_as_without(images, range(ROWS), 7)
    assert_as_without(images, range(ROWS), 8)


def test_an_image_that_is_gone_is_missing_though_it_was_kept(images: ImageRows) -> None:
    images[range(ROWS)]
    images.manifest.file(0).unlink()
    assert_as_without(images, range(ROWS), 7)
    assert images[range(1)].status_B[0] == Status.MISSING


def test_an_image_that_was_mended_is_read(images: ImageRows) -> None:
    images[range(ROWS)]
    for number in (3, 5):
        draw(images.manifest.file(number), number)
    assert_as_without(images, range(ROWS), 8)
    assert_as_without(images, range(ROWS), 10)


def test_an_image_that_may_still_change_unseen_is_not_kept(
    images: ImageRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "TICK_NS", 10**12)
    assert_as_without(images, range(ROWS), 0)
    monkeypatch.setattr(cache, "TICK_NS", 0)
    assert_as_without(images, range(ROWS), 0)


@pytest.mark.parametrize("place", [0, 6143, 6144, 6151, 6152, 6160, 6168, 6171])
def test_a_damaged_record_is_read_again(images: ImageRows, place: int) -> None:
    images[range(ROWS)]
    with file_of(images).open("r+b") as stream:
        stream.seek(2 * RECORD + place)
        byte = stream.read(1)[0]
        stream.seek(2 * RECORD + place)
        stream.write(bytes([byte ^ 1]))
    assert_as_without(images, range(ROWS), 7)
    assert_as_without(images, range(ROWS), 8)


@pytest.mark.parametrize("length", [0, 1, 4 * RECORD, 4 * RECORD + 6144, 4 * RECORD + 6171])
def test_a_file_cut_anywhere_gives_what_is_whole(images: ImageRows, length: int) -> None:
    images[range(ROWS)]
    os.truncate(file_of(images), length)
    assert_as_without(images, range(ROWS), 3 if length > 1 else 0)
    assert_as_without(images, range(ROWS), 8)


def test_only_what_makes_the_pixels_makes_the_file(
    manifest: Manifest, tmp_path: Path, images: ImageRows
) -> None:
    def name(preprocess: Preprocess = SMALL, rows: Manifest = manifest) -> str:
        return ImageCache(tmp_path, planned(rows), preprocess).file.name

    normalised = replace(SMALL, mean=IMAGENET_STD, std=IMAGENET_STD, scale="0..255")
    assert name(normalised) == name() == file_of(images).name
    (tmp_path / "other").mkdir()
    others = {
        name(replace(SMALL, height=32, width=64)),
        name(replace(SMALL, interpolation="bilinear")),
        name(replace(SMALL, exif_transpose=True)),
        name(rows=replace(manifest, root=tmp_path / "other")),
        name(rows=replace(manifest, path=manifest.path[::-1])),
    }
    assert len(others | {name()}) == 6


def test_a_folder_that_is_a_link_to_other_images_has_a_file_of_its_own(
    manifest: Manifest, tmp_path: Path
) -> None:
    link, names = tmp_path / "link", []
    for root in (manifest.root, tmp_path):
        link.unlink(missing_ok=True)
        link.symlink_to(root)
        names.append(ImageCache(tmp_path, planned(replace(manifest, root=link)), SMALL).file)
    assert names[0] == ImageCache(tmp_path, planned(manifest), SMALL).file
    assert names[0] != names[1]


def test_images_in_a_mat_file_are_kept_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "TICK_NS", 0)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 16), dtype=np.uint8)
    mat = tmp_path / "cuhk-03.mat"
    with h5py.File(mat, "w") as file:
        file["image"] = pixels
        file["cells"] = np.array([[file["image"].ref]], dtype=h5py.ref_dtype)
        file["detected"] = np.array([[file["cells"].ref]], dtype=h5py.ref_dtype)
    path = [b"cuhk-03.mat#detected/1_001_1_01.png"]
    manifest = build_manifest(root=tmp_path, layout="csv", path=path)
    images = ImageRows(manifest, SMALL, ImageCache(tmp_path / "cache", planned(manifest), SMALL))
    assert_as_without(images, range(1), 0)
    assert_as_without(images, range(1), 1)
    with h5py.File(mat, "r+") as file:
        file["image"][...] = 255 - pixels
    assert_as_without(images, range(1), 0)


@contextlib.contextmanager
def little_room() -> Iterator[None]:
    """Room for two records and a part of the third."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * RECORD + 5000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def same(batch: Batch, other: Batch) -> bool:
    return torch.equal(batch.images_BCHW, other.images_BCHW) and batch.failures == other.failures


def test_a_full_disk_is_told_and_costs_nothing_else(images: ImageRows) -> None:
    plain = ImageRows(images.manifest, SMALL)[range(ROWS)]
    for found in (0, 2):
        with little_room():
            batch = images[range(ROWS)]
        assert same(batch, plain)
        assert (batch.cache.found, batch.cache.fault) == (found, "File too large")


def test_a_folder_that_cannot_be_is_told_and_costs_nothing_else(images: ImageRows) -> None:
    plain = ImageRows(images.manifest, SMALL)[range(ROWS)]
    file_of(images).parent.write_text("no folder")
    assert images.cache
    assert images.cache.prepare(ROWS).endswith("cache: File exists; the job goes on without it")
    batch = images[range(ROWS)]
    assert same(batch, plain)
    assert batch.cache.fault == "File exists"


def test_what_it_will_take_is_said_before(images: ImageRows) -> None:
    assert images.cache
    assert ": 0 bytes, may take 81.9 kB more of " in images.cache.prepare(ROWS)
    images[range(ROWS)]
    # The file ends with its last record, which is two pages of two.
    assert ": 65.5 kB, may take 8.2 kB more of " in images.cache.prepare(1)


def test_a_disk_that_has_less_is_refused_before_anything_is_read(
    manifest: Manifest, tmp_path: Path
) -> None:
    vast = Preprocess(height=1 << 21, width=1 << 21)
    with pytest.raises(OptionError, match=r"--cache .*: 10 images may take 131.9 TB, the disk has"):
        ImageCache(tmp_path, planned(manifest), vast).prepare(ROWS)
    assert not list(tmp_path.glob("*.u8"))
