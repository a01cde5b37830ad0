"""Requests that begin before their images are decoded: which, and each but once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import draw
from object_servers import Faults, files_over_http

from distreid.data import objects
from distreid.data.source import open_data
from distreid.images.loader import ImageRows, open_loader
from distreid.images.preprocess import Preprocess
from distreid.images.sampler import ShardSampler
from distreid.store.plan import Shard

pytest.importorskip("s3fs")
IMAGES = 22


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Faults, Path]]:
    for number in range(IMAGES):
        draw(tmp_path / f"images/{number:02d}.jpg", number)
    with files_over_http(tmp_path / "images") as (address, faults):
        yield address, faults, tmp_path / "images"


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_are_those_of_files_and_each_image_is_asked_for_once(
    workers: int, served: tuple[str, Faults, Path]
) -> None:
    address, faults, folder = served
    batches = []
    for data in (str(folder), address):
        manifest = open_data(data)
        sampler = ShardSampler([Shard(0, 0, 13), Shard(1, 13, IMAGES)], rank=0, world_size=1)
        loader = open_loader(
            manifest, Preprocess(), sampler, batch_size=3, num_workers=workers, pin_memory=False
        )
        batches.append([(batch.rows, batch.images_BCHW.clone()) for batch in loader])
    for (rows, ours), (their_rows, theirs) in zip(*batches, strict=True):
        assert rows == their_rows
        assert torch.equal(ours, theirs)
    gets = {path: n for (method, path), n in faults.asked.items() if method == "GET"}
    assert gets == {"/": 1} | {f"/{number:02d}.jpg": 1 for number in range(IMAGES)}


def test_the_next_batch_is_begun_with_the_one_before(served: tuple[str, Faults, Path]) -> None:
    manifest = open_data(served[0])
    images = ImageRows(manifest, Preprocess(), batches=[range(3), range(3, 8), range(8, 9)])
    begun = []
    for rows in (range(3), range(3, 8), range(8, 9), range(20, 21)):
        assert not images[rows].failures
        begun.append(sorted(os.path.basename(each.address) for each in objects._started))
    assert begun == [[f"{n:02d}.jpg" for n in range(3, 8)], ["08.jpg"], [], []]
