"""What several tests need: golden packs, small data sets, checkpoints."""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Several tests run at once: threads of OpenMP that wait for each other leave the cores to those
# that work. It is read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, settings
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from distreid import cli
from distreid.models.choices import Choices

GOLDEN = Path(__file__).parent / "golden"
sys.path.insert(0, str(GOLDEN))

import fill  # noqa: E402

REPOSITORY = Path(__file__).parent.parent

# A slow machine's patience with what takes seconds on others. No test measures time.
LIMIT_S = 600

# The same examples on every machine, and none that is too slow, so that a commit that passes once
# passes everywhere; tests/stress/fuzz.py looks for new ones.
settings.register_profile(
    "repeatable",
    derandomize=True,
    database=None,
    print_blob=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("repeatable")

# What is kept between starts is kept between these tests, and with nobody else's.
os.environ["XDG_CACHE_HOME"] = str(Path(tempfile.gettempdir()) / f"distreid-tests-{os.getuid()}")

needs_mounts = pytest.mark.skipif(
    os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], check=False).returncode != 0,
    reason="only root can mount a file system",
)


# In this order: what takes longest, or waits for others, begins first.
FOLDERS = ("slurm", "integration", "browser", "unit", "gpu")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts tests by their folders, each in its own order."""
    tests = Path(__file__).parent
    items.sort(key=lambda item: FOLDERS.index(item.path.relative_to(tests).parts[0]))


_crashes: list[object] = []


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(error: object) -> None:
    """Of pytest-xdist: a process has ended, in good order or, with an error, not."""
    if error:
        _crashes.append(error)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """After a crash some tests never ran, which is another status than that of failed ones."""
    if _crashes:
        session.exitstatus = pytest.ExitCode.INTERNAL_ERROR


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    """A table of what was skipped and why, after everything else."""
    yield
    reports = terminalreporter.stats.get("skipped", [])
    reasons = Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in reports)
    if reasons:
        terminalreporter.section("skipped")
        terminalreporter.line("count  reason")
        for reason, count in sorted(reasons.items(), key=lambda each: (-each[1], each[0])):
            terminalreporter.line(f"{count:5}  {' '.join(reason.split())}")


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
    def is_large(self) -> bool:
        """Of its images, four are enough. What becomes of every odd one is seen with the small
        networks, and in test_preprocess.py."""
        entries = self.spec["checkpoint"]["entries"]
        return bool(sum(math.prod(shape) for _, shape, *_ in entries) > 20_000_000)

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
        elif self.spec["checkpoint"]["wrapping"].startswith("{'net_dict'"):
            content = {"net_dict": content, "acc": 91.2, "epoch": 40}
        elif self.spec["checkpoint"]["wrapping"].startswith("{'meta'"):
            content = {"meta": {"epoch": 6}, "state_dict": content, "optimizer": {"state": {}}}
        elif self.spec["checkpoint"]["wrapping"].startswith("Lightning"):
            hyper = argparse.Namespace(lr=0.1)
            content = {"epoch": 6, "state_dict": content, "hyper_parameters": hyper}
        elif self.spec["checkpoint"]["wrapping"].startswith("model.safetensors"):
            (folder / "config.json").write_text(json.dumps(self.spec["config"]))
            save_file(content, folder / "model.safetensors")
            return folder
        torch.save(content, file)
        if "options" in self.spec:
            options = {k: v for k, v in self.spec["options"].items() if k != "ms"}
            file.with_name("opts.yaml").write_text(yaml.safe_dump(options))
        return file


GOLDEN_MODELS = sorted(
    f"{folder.parent.name}/{folder.name}"
    for project in (
        "torchreid",
        "person_reid_baseline_pytorch",
        "roboflow_reid",
        "fastreid",
        "transreid",
        "clipreid",
        "boxmot",
        "deep_sort_pytorch",
        "mmtracking",
        "open_metric_learning",
        "pass_reid",
        "reid_strong_baseline",
        "solider_reid",
        "transreid_ssl",
        "wildlife_megadescriptor",
    )
    for folder in (GOLDEN / project).iterdir()
    if folder.name != "bagtricks_R50_fliptest"  # holds that project's fault, see test_extractor.py
)
# What no file tells, as the peer's own command said it.
GOLDEN_SAID = {
    "boxmot/osnet_x0_25": Choices(interpolation="opencv"),
    "open_metric_learning/resnet50_projector_gem5": Choices(pooling="gem=5"),
    "reid_strong_baseline/resnet50_before": Choices(feature="before-neck"),
    "reid_strong_baseline/resnet50_ibn_a_before": Choices(feature="before-neck"),
    "solider_reid/swin_tiny_sw1": Choices(semantic_weight=1.0),
}


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


@pytest.fixture(scope="session")
def run_command() -> Run:
    """Runs a real command line in the environment of the tests, without torchrun's variables."""

    def run(*command: str | Path, timeout: float = LIMIT_S, **settings: str) -> Any:
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


@pytest.fixture(scope="session")
def run_here() -> Run:
    """As `run_command`, for what does not depend on a process: `distreid …` runs in this one, which
    has imported everything."""

    def run(*command: str | Path) -> Any:
        program, *arguments = map(str, command)
        assert program == "distreid"
        out, said = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
            try:
                status = cli.main(arguments)
            except SystemExit as end:
                status = int(end.code or 0)
        return subprocess.CompletedProcess(command, status, out.getvalue(), said.getvalue())

    return run


def wait_until(true: Callable[[], bool], job: subprocess.Popen[Any] | None = None) -> None:
    """Until it is so; fails after a long time, or when the job has ended and it is not so."""
    deadline = time.monotonic() + LIMIT_S
    while not true():
        if job and job.poll() is not None:
            assert true(), f"the job has ended with status {job.returncode}"
            return
        assert time.monotonic() < deadline, "gave up waiting"
        time.sleep(0.005)


HALTING = """
import os, sys, time
from distreid.extract import main
from distreid.store.shards import ShardWriter

add, after, file = ShardWriter.add, int(sys.argv.pop(1)), sys.argv.pop(1)
started_by = os.getppid()

def halting(self, rows, values):
    add(self, rows, values)
    while rows.stop >= after and not os.path.exists(file) and os.getppid() == started_by:
        time.sleep(0.01)

ShardWriter.add = halting
sys.exit(main())
"""


def start_halting(
    folder: Path, options: Sequence[str], *, after: int, launcher: Sequence[str] = ()
) -> subprocess.Popen[str]:
    """The main job, in a session of its own. Each of its processes halts when it has computed a
    row of at least this number (from 1), until there is a file `go_on` in the folder."""
    (folder / "halting.py").write_text(HALTING)
    return subprocess.Popen(
        [
            *(sys.executable, *launcher, str(folder / "halting.py")),
            *(str(after), str(folder / "go_on"), *options),
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@contextlib.contextmanager
def little_memory(limit: int = 100_000_000) -> Iterator[None]:
    """Fails if the process takes more than `limit` bytes at any moment of the context; pages of
    libraries' files, which the system drops and reads again as it likes, are not counted."""

    def resident(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))

    gc.collect()  # what other tests left would make room, and hide what is taken
    Path("/proc/self/clear_refs").write_text("5")  # forgets the highest
    before, files = resident("VmRSS"), resident("RssFile")
    yield
    read_again = max(0, resident("RssFile") - files)
    assert resident("VmHWM") - before - read_again < limit


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
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
