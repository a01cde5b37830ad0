"""Boxes in frames give the features of the same crops saved as PNG files, byte for byte."""

from __future__ import annotations

import os
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import REPOSITORY, error_line
from numpy.typing import NDArray
from PIL import Image

from distreid import cli
from distreid.data.locators import locate
from distreid.images import preprocess
from distreid.images.loader import open_loader
from distreid.images.sampler import ShardSampler
from distreid.store import FeatureStore
from distreid.store.plan import Plan

FRAMES, BOXES = 7, 40
WIDTH, HEIGHT = 160, 120


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames as JPEG, PNG and grey, with boxes of which some reach out of them."""
    root = tmp_path_factory.mktemp("street")
    generator = np.random.default_rng(7)
    (root / "frames").mkdir()
    names = []
    for number in range(FRAMES):
        pixels = generator.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        image = image.convert("L") if number == 3 else image
        names.append(f"{number:06d}.{'png' if number == 4 else 'jpg'}")
        image.save(root / "frames" / names[-1])
    lines = ["path,x,y,w,h,score,person_id,camera_id,split"]
    for box in range(BOXES):
        x, y = generator.uniform(-20, WIDTH - 10), generator.uniform(-20, HEIGHT - 10)
        w, h = generator.uniform(21, 60), generator.uniform(21, 90)
        split = "query" if box % 4 == 0 else "gallery"
        name = names[int(generator.integers(FRAMES))]
        lines.append(f"{name},{x!r},{y!r},{w!r},{h!r},{box / BOXES},{box % 5},{box % 2},{split}")
    (root / "boxes.csv").write_text("\n".join(lines) + "\n")
    return root


def command(data: Path, run: Path, *options: str) -> list[str]:
    line = ["--data", str(data), "--checkpoint", "sample", "--out", str(run)]
    return [*line, "--num-workers", "0", "--shard-rows", "16", *options]


def features(run: Path) -> NDArray[np.float32]:
    store = FeatureStore.open(run)
    return store.features(np.arange(len(store.manifest)))


@pytest.fixture(scope="module")
def extracted(street: Path) -> Path:
    run = street / "run"
    boxes = ("--boxes", str(street / "boxes.csv"))
    assert cli.main(["extract", *command(street / "frames", run, *boxes)]) == 0
    return run


def test_features_are_those_of_the_crops_saved_as_png(
    street: Path, extracted: Path, tmp_path: Path
) -> None:
    manifest = FeatureStore.open(extracted).manifest
    for row in range(len(manifest)):
        place = locate(manifest.file(row))
        assert place.box is not None
        x1, y1, x2, y2 = place.box
        with Image.open(place.file) as image:
            whole = image.convert("RGB")
        inside = (max(x1, 0), max(y1, 0), min(x2, WIDTH), min(y2, HEIGHT))
        (tmp_path / "crops").mkdir(exist_ok=True)
        whole.crop(inside).save(tmp_path / f"crops/{row:04d}.png")
    assert cli.main(["extract", *command(tmp_path / "crops", tmp_path / "run")]) == 0
    assert features(tmp_path / "run").tobytes() == features(extracted).tobytes()
    out = tmp_path / "12.png"
    assert cli.main(["show", str(extracted), "--row", "12", "--out", str(out)]) == 0
    with Image.open(out) as ours, Image.open(tmp_path / "crops/0012.png") as theirs:
        assert np.array_equal(np.asarray(ours), np.asarray(theirs))


def test_three_processes_and_frames_in_a_tar_give_the_same(
    street: Path, extracted: Path, tmp_path: Path, run_command: Any
) -> None:
    with tarfile.open(tmp_path / "frames.tar", "w") as archive:
        archive.add(street / "frames", ".")
    boxes = ("--boxes", str(street / "boxes.csv"), "--num-workers", "1")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=3"]
    line = command(tmp_path / "frames.tar", tmp_path / "run", *boxes)
    done = run_command(
        *launch, "-m", "distreid.extract", *line, PYTHONPATH=str(REPOSITORY), OMP_NUM_THREADS="1"
    )
    assert done.returncode == 0, done.stderr
    assert features(tmp_path / "run").tobytes() == features(extracted).tobytes()


def test_a_frame_is_decoded_once_for_all_its_boxes(
    extracted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan: Plan = FeatureStore.open(extracted).plan
    decoded = 0
    decode = preprocess.decode

    def counting(*arguments: Any, **options: Any) -> Any:
        nonlocal decoded
        decoded += 1
        return decode(*arguments, **options)

    monkeypatch.setattr(preprocess, "decode", counting)
    sampler = ShardSampler(plan.shards, rank=0, world_size=1)
    loader = open_loader(
        plan.manifest,
        preprocess.Preprocess(),
        sampler,
        batch_size=16,
        num_workers=0,
        pin_memory=False,
    )
    assert sum(len(batch.rows) for batch in loader) == BOXES
    frames = [locate(plan.manifest.file(row)).file for row in range(BOXES)]
    in_each_shard = [{*frames[shard.start : shard.stop]} for shard in plan.shards]
    assert decoded == sum(map(len, in_each_shard)) < BOXES


def test_how_boxes_are_cut_is_part_of_the_identity(
    street: Path, extracted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    boxes = ("--boxes", str(street / "boxes.csv"))
    identity = FeatureStore.open(extracted).plan.identity
    assert identity["crop"] == {
        "rule": "corners rounded half to even, clipped, the second exclusive",
        "origin": 0,
        "margin": 0.0,
        "aspect": None,
    }
    capsys.readouterr()
    other = command(street / "frames", extracted, *boxes, "--box-margin", "0.1")
    assert cli.main(["extract", *other]) == 2
    assert "crop.margin: it has 0.0, asked for is 0.1" in error_line(capsys)


def test_a_box_without_area_is_a_bad_image(
    street: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    boxes = tmp_path / "boxes.csv"
    names = sorted(os.listdir(street / "frames"))
    boxes.write_text(
        f"path,x1,y1,x2,y2\n{names[0]},1,1,30,60\n{names[0]},{WIDTH},0,{WIDTH + 9},9\n"
        f"gone.jpg,0,0,5,5\n{names[1]},4,4,4.4,50\n{names[1]},4,4,40,50\n"
    )
    line = command(street / "frames", tmp_path / "run", "--boxes", str(boxes))
    assert cli.main(["extract", *line]) == 2
    assert "the box has no area inside its frame of 160×120 pixels" in error_line(capsys)
    assert cli.main(["extract", *line, "--on-bad-image", "record"]) == 0
    store = FeatureStore.open(tmp_path / "run")
    assert store.status.tolist() == [0, 2, 2, 0, 1]
