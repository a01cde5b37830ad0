"""What several tests need: golden packs, small data sets, checkpoints."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import settings
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

GOLDEN = Path(__file__).parent / "golden"
sys.path.insert(0, str(GOLDEN))

import fill  # noqa: E402

REPOSITORY = Path(__file__).parent.parent

# The same examples on every machine, so that a commit that passes once passes everywhere;
# tests/stress/fuzz.py looks for new ones.
settings.register_profile("repeatable", derandomize=True, database=None, print_blob=True)
settings.load_profile("repeatable")

needs_mounts = pytest.mark.skipif(
    os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], check=False).returncode != 0,
    reason="only root can mount a file system",
)


@dataclass(frozen=True)
class Pack:
    """What a peer's own code returned for one model."""

    folder: Path

    @property
    def spec(self) -> dict[str, Any]:
        return json.loads((self.folder / "spec.json").read_text())  # type: ignore[no-any-return]

    @property
    def state(self) -> dict[str, Tensor]:
        return dict(fill.to_torch(fill.from_spec(self.spec)))

    @property
    def features(self) -> NDArray[np.float32]:
        with np.load(self.folder / "features.npz") as arrays:
            return np.asarray(arrays["features"])

    @property
    def images(self) -> list[Path]:
        with np.load(self.folder / "features.npz") as arrays:
            return [GOLDEN / "images" / str(name) for name in arrays["names"]]

    @property
    def cameras(self) -> Tensor | None:
        """The cameras' numbers from 0, if the peer's network took them."""
        if "used (side information" not in self.spec.get("camera_labels", ""):
            return None
        with np.load(self.folder / "features.npz") as arrays:
            return torch.from_numpy(arrays["camids"].astype(np.int64))

    def save(self, folder: Path) -> Path:
        """The checkpoint as the peer writes it, with its opts.yaml if it has one."""
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "net_last.pth"
        content: dict[str, Any] = self.state
        if self.spec["checkpoint"]["wrapping"].startswith("{'state_dict'"):
            content = {
                "state_dict": content,
                "epoch": 60,
                "rank1": np.float32(0.9),
                "optimizer": {"state": {}, "param_groups": [{"lr": 0.1, "params": [0]}]},
            }
        elif self.spec["checkpoint"]["wrapping"].startswith("{'model'"):
            content = {"model": content, "epoch": 60}
        torch.save(content, file)
        if "options" in self.spec:
            options = {k: v for k, v in self.spec["options"].items() if k != "ms"}
            file.with_name("opts.yaml").write_text(yaml.safe_dump(options))
        return file


@pytest.fixture
def pack() -> Callable[[str], Pack]:
    """A golden pack by `project/model`."""
    return lambda name: Pack(GOLDEN / name)


@pytest.fixture(scope="session")
def osnet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A torchreid checkpoint of osnet_x0_25 with golden weights."""
    return Pack(GOLDEN / "torchreid/osnet_x0_25").save(tmp_path_factory.mktemp("osnet"))


def draw(file: Path, seed: int) -> None:
    """A small noisy JPEG or PNG that no other seed gives."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((64, 128)).save(file)


def touch(root: Path, *names: str) -> Path:
    """Empty files: the layouts look at names alone."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


@pytest.fixture(scope="session")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 images in Market-1501's layout: 20 persons, 3 cameras, distractors, junk, litter."""
    root = tmp_path_factory.mktemp("market")
    for person in range(1, 21):
        for camera in (1, 2, 3):
            name = f"{person:04d}_c{camera}s1_000001_00.jpg"
            draw(root / "query" / name, person * 10 + camera)
            draw(root / "bounding_box_test" / name.replace("_00", "_01"), person * 10 + camera)
    for number in range(20):
        draw(root / "bounding_box_test" / f"0000_c1s1_{number:06d}_00.jpg", 1000 + number)
    for number in range(10):
        draw(root / "bounding_box_test" / f"-1_c2s1_{number:06d}_00.jpg", 2000 + number)
    (root / "bounding_box_test" / "Thumbs.db").write_bytes(b"no image")
    return root


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run_command() -> Run:
    """Runs a real command line in the environment of the tests, without torchrun's variables."""

    def run(*command: str | Path, timeout: float = 120, **settings: str) -> Any:
        environment = {
            name: value
            for name, value in os.environ.items()
            if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
        }
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
        return subprocess.run(
            [str(part) for part in command],
            env=environment | {"OMP_NUM_THREADS": "1"} | settings,
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


@contextlib.contextmanager
def little_memory(limit: int = 100_000_000) -> Iterator[None]:
    """Fails if the process takes more than `limit` bytes at any moment of the context."""

    def resident(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))

    Path("/proc/self/clear_refs").write_text("5")  # forgets the highest
    before = resident("VmRSS")
    yield
    assert resident("VmHWM") - before < limit


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of error."""
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if line.startswith("distreid: error: ")]
    assert len(errors) == 1, lines
    assert lines[-1] == errors[0]
    return errors[0].removeprefix("distreid: error: ")


def opened(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png))


def pixel(png: bytes, x: int, y: int) -> tuple[int, ...]:
    found = opened(png).convert("RGB").getpixel((x, y))
    assert isinstance(found, tuple)
    return found
