"""Extraction from a video: the features of its frames as files, for any number of processes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from conftest import REPOSITORY, Run, error_line
from PIL import Image

from distreid.cli import main
from distreid.store import FeatureStore

COUNT = 150


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`v.mov`, which is lossless, and `frames/` with its frames."""
    folder = tmp_path_factory.mktemp("video")
    (folder / "frames").mkdir()
    noise = np.random.default_rng(0)
    with av.open(str(folder / "v.mov"), "w") as container:
        stream = container.add_stream("png", rate=25)
        stream.width, stream.height, stream.pix_fmt = 60, 120, "rgb24"
        for number in range(COUNT):
            small = noise.integers(0, 256, (6, 3, 3), dtype=np.uint8)
            picture = np.asarray(Image.fromarray(small).resize((60, 120)))
            Image.fromarray(picture).save(folder / "frames" / f"{number + 1:06d}.png")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return folder


def options(data: Path, run: Path) -> list[str]:
    return [
        *("--data", str(data), "--checkpoint", "sample", "--out", str(run)),
        *("--no-evaluate", "--shard-rows", "64"),
    ]


def features(run: Path) -> Any:
    store = FeatureStore.open(run)
    return store.features(np.arange(len(store.manifest)))


@pytest.fixture(scope="module")
def expected(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    run = tmp_path_factory.mktemp("files") / "run"
    assert main(["extract", *options(data / "frames", run)]) == 0
    return features(run)


def test_a_videos_frames_have_the_features_of_the_files(
    data: Path, expected: Any, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert main(["extract", *options(data / "v.mov", run)]) == 0
    assert features(run).tobytes() == expected.tobytes()
    identity = FeatureStore.open(run).plan.identity
    assert identity["video"]["decoder"] == f"PyAV {av.__version__}"
    # A shard that is computed again seeks into the middle.
    (run / "shards" / "000001.h5").unlink()
    (run / "store.h5").unlink()
    assert main(["extract", *options(data / "v.mov", run)]) == 0
    assert features(run).tobytes() == expected.tobytes()


def test_three_processes_give_the_same(
    data: Path, expected: Any, tmp_path: Path, run_command: Run
) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=3"]
    line = [*launch, "-m", "distreid.extract", *options(data / "v.mov", tmp_path / "run")]
    done = run_command(*line, PYTHONPATH=str(REPOSITORY), OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert features(tmp_path / "run").tobytes() == expected.tobytes()


def test_a_frame_each_second_and_a_picture_of_a_row(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main(["extract", *options(data / "v.mov", run), "--every", "1s"]) == 0
    assert FeatureStore.open(run).manifest.extra["frame"].tolist() == [
        b"%d" % number for number in range(1, COUNT, 25)
    ]
    shown = tmp_path / "row.png"
    assert main(["show", str(run), "--row", "2", "--out", str(shown)]) == 0
    with Image.open(shown) as found, Image.open(data / "frames" / "000051.png") as wanted:
        assert (np.asarray(found.convert("RGB")) == np.asarray(wanted)).all()


def test_every_is_of_videos_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["extract", *options(Path("sample"), tmp_path / "run"), "--every", "2"]) == 2
    assert "--every 2: of videos" in error_line(capsys)
