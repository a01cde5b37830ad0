"""Several checkpoints in one pass: each run is what it would be alone, and images are read once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from conftest import LIMIT_S, REPOSITORY, Pack, draw, opened, start_halting, wait_until

from distreid import cli, extract
from distreid.data.manifest import Status
from distreid.host.folder_lock import hold, holders
from distreid.inference.extractor import CPU_ROWS
from distreid.store import FeatureStore

sys.path.insert(0, str(REPOSITORY / "tests/stress"))

from crashes import children, differences

NAMES = ("net_5", "net_10", "net_20")
# The job, and a line for every image that any of its processes opens: workers are forked.
WATCHED = """
import os, sys
from distreid.extract import main

log = os.open(sys.argv.pop(1), os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def watch(event, arguments):
    if event == "open" and str(arguments[0]).endswith(".jpg"):
        os.write(log, f"{arguments[0]}\\n".encode())

sys.addaudithook(watch)
sys.exit(main())
"""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A job that has completed."""

    out: Path
    stdout: str
    stderr: str
    opened: Counter[str]
    """How often any of its processes opened each image."""


@pytest.fixture(scope="module")
def images(market: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six persons of `market`: 36 images."""
    root = tmp_path_factory.mktemp("images")
    for file in market.glob("*/000[1-6]_*.jpg"):
        (root / file.parent.name).mkdir(exist_ok=True)
        shutil.copy(file, root / file.parent.name)
    return root


@pytest.fixture(scope="module")
def checkpoints(osnet_file: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A network at two epochs, and a larger network."""
    folder = tmp_path_factory.mktemp("checkpoints")
    files = [folder / f"{name}.pth" for name in NAMES]
    content = torch.load(osnet_file, weights_only=False)
    torch.save(content, files[0])
    content["state_dict"]["fc.0.weight"] *= 1 + 0.5 * torch.randn(
        512, 512 // 4, generator=torch.Generator().manual_seed(0)
    )
    torch.save(content, files[1])
    larger = REPOSITORY / "tests/golden/torchreid/osnet_x0_5"
    shutil.move(Pack(larger).save(folder / "larger"), files[2])
    return files


def line(images: Path, checkpoints: list[Path], out: Path) -> list[str]:
    """A job of nine shards."""
    options = ["--data", images, "--out", out, "--shard-rows", "4", "--num-workers", "1"]
    return [*map(str, options), "--checkpoint", *map(str, checkpoints)]


def start(script: Path, processes: int, options: list[str]) -> subprocess.Popen[str]:
    """The job by torchrun, in a process group of its own."""
    torchrun = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}"]
    return subprocess.Popen(
        [sys.executable, *torchrun, str(script), *options],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def alone(images: Path, checkpoints: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with each checkpoint's run by itself."""
    out = tmp_path_factory.mktemp("alone")
    for name, checkpoint in zip(NAMES, checkpoints, strict=True):
        assert extract.main(line(images, [checkpoint], out / name)) == 0
    return out


@pytest.fixture(scope="module")
def together(
    images: Path, checkpoints: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Ended:
    """All three in one job of two processes, given out of order."""
    folder = tmp_path_factory.mktemp("together")
    (folder / "watched.py").write_text(WATCHED)
    options = line(images, [checkpoints[2], *checkpoints[:2]], folder / "runs")
    job = start(folder / "watched.py", 2, [str(folder / "opened"), *options])
    stdout, stderr = job.communicate(timeout=LIMIT_S)
    assert job.returncode == 0, stderr
    opened = Counter((folder / "opened").read_text().splitlines())
    return Ended(out=folder / "runs", stdout=stdout, stderr=stderr, opened=opened)


@pytest.mark.parametrize("name", NAMES)
def test_each_run_is_what_its_checkpoint_gives_alone(
    together: Ended, alone: Path, name: str
) -> None:
    assert differences(together.out / name, alone / name) == []


def test_every_image_is_opened_once_for_all_checkpoints(together: Ended, images: Path) -> None:
    plan = FeatureStore.open(together.out / NAMES[0]).plan
    # Each of the two processes tries each checkpoint's engine on the first pass of images.
    tries = 2 * len(NAMES) if "engine" in plan.identity else 0
    assert together.opened == {
        str(plan.manifest.file(row)): 1 + (tries if row < CPU_ROWS else 0) for row in range(36)
    }
    assert "36 images, each read once for 3 checkpoints, in " in together.stderr


def test_the_need_of_memory_is_said_before(together: Ended) -> None:
    # 4 rows of 512 float32 for each of three checkpoints.
    assert "3 checkpoints at once: each process holds " in together.stderr
    assert "of weights and up to 24.6 kB of unfinished shards" in together.stderr


def test_the_scores_stand_in_one_table_by_epoch_and_the_best_is_named(together: Ended) -> None:
    found = json.loads((together.out / "comparison.json").read_text())
    assert [each["run"] for each in found["checkpoints"]] == list(NAMES)
    assert [each["number"] for each in found["checkpoints"]] == [5, 10, 20]
    for each in found["checkpoints"]:
        figures = json.loads((together.out / each["run"] / "metrics.json").read_text())
        (score,) = (s for s in figures["scores"] if s["protocol"]["name"] == "fastreid")
        for measure in ("rank1", "mAP", "mINP"):
            assert each[measure] == score[measure]
        assert f"{100 * score['mAP']:.2f} %" in together.stdout
    best = max(found["checkpoints"], key=lambda each: each["mAP"])
    assert found["best"] == best["run"]
    assert best["lead_of_best"] is None
    assert f"best mAP by fastreid: {best['run']}, {100 * best['mAP']:.2f} %" in together.stdout
    pytest.importorskip("matplotlib", reason="pip install 'distreid[pictures]'")
    assert opened((together.out / "epochs.png").read_bytes()).size == (1200, 900)


def marks(folder: Path) -> dict[Path, tuple[int, int]]:
    """Of every shard: one that is written again has others."""
    files = {file.relative_to(folder): file.stat() for file in folder.glob("*/shards/*.h5")}
    return {name: (status.st_ino, status.st_mtime_ns) for name, status in files.items()}


def test_killed_and_continued_on_another_number_of_processes_the_runs_are_the_same(
    images: Path, checkpoints: list[Path], alone: Path, tmp_path: Path
) -> None:
    out = tmp_path / "runs"
    options = line(images, checkpoints, out)
    torchrun = ["-m", "torch.distributed.run", "--nproc_per_node=2"]
    # Each process halts in its second shard, which the first checkpoint has, and the last has not.
    job = start_halting(tmp_path, options, after=12, launcher=torchrun)
    wait_until(lambda: len(marks(out)) == 8, job)
    for process in (job.pid, *children(job.pid)):
        os.kill(process, signal.SIGKILL)
    job.communicate()
    before = marks(out)
    assert len(before) == 8
    assert not list(out.glob("*/store.h5"))
    assert extract.main(options) == 0
    for name in NAMES:
        assert differences(out / name, alone / name) == []
    assert before.items() <= marks(out).items()


def test_only_what_a_run_lacks_is_computed(
    images: Path,
    checkpoints: list[Path],
    alone: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(alone / "net_5", tmp_path / "runs/net_5")
    shutil.copytree(alone / "net_20", tmp_path / "runs/net_20")
    lost = [Path("net_20/shards/000003.h5"), Path("net_20/shards/000007.h5")]
    for file in lost:
        (tmp_path / "runs" / file).unlink()
    before = marks(tmp_path / "runs")
    two = [checkpoints[0], checkpoints[2]]
    assert extract.main(line(images, two, tmp_path / "runs")) == 0
    said = capsys.readouterr().err
    assert "9 of 9 shards are done already" in said
    assert "7 of 9 shards are done already" in said
    assert "8 images, each read once for 2 checkpoints" in said
    after = marks(tmp_path / "runs")
    assert before.items() <= after.items()
    assert after.keys() - before.keys() == set(lost)
    assert differences(tmp_path / "runs/net_20", alone / "net_20") == []
    assert extract.main(line(images, two, tmp_path / "runs")) == 0
    assert "images/s" not in capsys.readouterr().err


Error = Callable[[], str]


@pytest.fixture
def error(capsys: pytest.CaptureFixture[str]) -> Error:
    """The one line of error, which is the last."""

    def last() -> str:
        lines = capsys.readouterr().err.splitlines()
        (found,) = (line for line in lines if line.startswith("distreid: error: "))
        assert lines[-1] == found
        return found.removeprefix("distreid: error: ")

    return last


def test_checkpoints_that_want_other_pixels_are_refused_before_anything_is_written(
    images: Path, checkpoints: list[Path], tmp_path: Path, error: Error
) -> None:
    smaller = Pack(REPOSITORY / "tests/golden/torchreid/hacnn").save(tmp_path)
    assert extract.main(line(images, [checkpoints[0], smaller], tmp_path / "runs")) == 2
    assert error() == (
        f"--checkpoint {checkpoints[0]} and {smaller}: their preprocessing differs "
        "(height: 256, not 160; width: 128, not 64); extract one after the other"
    )
    assert not (tmp_path / "runs").exists()


def test_a_checkpoint_given_twice_is_refused(
    images: Path, checkpoints: list[Path], tmp_path: Path, error: Error
) -> None:
    assert extract.main(line(images, [checkpoints[0]] * 2, tmp_path / "runs")) == 2
    assert error() == (
        f"--checkpoint {checkpoints[0]} and {checkpoints[0]}: both would be {tmp_path}/runs/"
        f"{checkpoints[0].parent.name}-net_5; give each once, or rename one"
    )
    assert not (tmp_path / "runs").exists()


def test_a_run_cannot_be_a_folder_of_runs(
    images: Path, checkpoints: list[Path], alone: Path, error: Error
) -> None:
    assert extract.main(line(images, checkpoints, alone / "net_5")) == 2
    assert error().startswith(f"{alone}/net_5: itself a run, and several checkpoints need")


@pytest.mark.parametrize("command", ["status", "evaluate", "verify"])
def test_a_command_on_a_folder_of_runs_names_them(alone: Path, command: str, error: Error) -> None:
    assert cli.main([command, str(alone)]) == 2
    assert error() == f"{alone}: a folder of runs; give one of them: net_10, net_20, net_5"


def test_a_run_of_something_else_is_refused_by_its_name(
    images: Path, checkpoints: list[Path], alone: Path, tmp_path: Path, error: Error
) -> None:
    shutil.copytree(alone / "net_5", tmp_path / "runs/net_10")
    assert extract.main(line(images, checkpoints[:2], tmp_path / "runs")) == 2
    assert error().startswith(f"{tmp_path}/runs/net_10 holds another run (weights: ")


def test_a_run_that_another_job_works_at_is_refused_by_its_name(
    images: Path, checkpoints: list[Path], tmp_path: Path, error: Error
) -> None:
    with hold(tmp_path / "runs/net_10", print):
        assert extract.main(line(images, checkpoints[:2], tmp_path / "runs")) == 2
    assert error().startswith(f"{tmp_path}/runs/net_10: another job is at work there (process ")
    assert not holders(tmp_path / "runs/net_5")


def test_a_bad_image_counts_once_in_each_run_and_is_named_once(
    checkpoints: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for number in range(3):
        draw(tmp_path / "data" / f"{number}.jpg", number)
    (tmp_path / "data/1.jpg").write_bytes(b"no image")
    options = line(tmp_path / "data", checkpoints[:2], tmp_path / "runs")
    assert extract.main([*options, "--on-bad-image", "record", "--max-bad", "1"]) == 0
    assert capsys.readouterr().err.count("row 1, ") == 1
    for name in NAMES[:2]:
        store = FeatureStore.open(tmp_path / "runs" / name)
        assert store.status.tolist() == [Status.OK, Status.UNREADABLE, Status.OK]
    assert not (tmp_path / "runs/comparison.json").exists()


def test_without_matplotlib_the_picture_is_left_out_and_it_is_said(
    images: Path,
    checkpoints: list[Path],
    alone: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in NAMES[:2]:
        shutil.copytree(alone / name, tmp_path / "runs" / name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert extract.main(line(images, checkpoints[:2], tmp_path / "runs")) == 0
    assert "no epochs.png: pictures need matplotlib: pip install" in capsys.readouterr().err
    assert (tmp_path / "runs/comparison.json").exists()
    assert not (tmp_path / "runs/epochs.png").exists()
