"""What goes wrong around the output folder: no room, no permission, no mount, another job."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import LIMIT_S, draw, error_line, needs_mounts, start_halting, wait_until

from distreid import cli, extract
from distreid.errors import OptionError, StoreError
from distreid.host.folder_lock import hold, holders
from distreid.inference.extractor import check_precision
from distreid.store import FeatureStore
from distreid.store.root_file import existing_plan, write_root
from distreid.store.shards import shard_file
from distreid.store.verification import verify_run

Extract = Callable[..., int]
IMAGES = 60


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def run(tmp_path: Path, osnet_file: Path) -> Extract:
    """Extracts a CSV of six images into `out`."""
    for number in range(6):
        draw(tmp_path / f"{number}.jpg", number)
    lines = ["path,split,person_id"]
    lines += [f"{n}.jpg,{'query' if n < 2 else 'gallery'},{n % 2}" for n in range(6)]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    shutil.copy(osnet_file, tmp_path / "net.pth")

    def go(out: Path, *more: str) -> int:
        line = ["--data", tmp_path / "list.csv", "--checkpoint", tmp_path / "net.pth"]
        line += ["--out", out, "--num-workers", "0", "--shard-rows", "2", "--mat"]
        return extract.main([*map(str, line), *more])

    return go


def shards(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((out / "shards").iterdir())}


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Mounts on `mnt/`; unmounted at the end."""
    (tmp_path / "mnt").mkdir()

    def mount(*options: str | Path) -> None:
        subprocess.run(["mount", *options, tmp_path / "mnt"], check=True)

    yield mount
    while subprocess.run(["mountpoint", "-q", tmp_path / "mnt"], check=False).returncode == 0:
        subprocess.run(["umount", "-l", tmp_path / "mnt"], check=True)


def grow_until_done(
    go: Callable[[], int],
    grow: Callable[[int], None],
    capsys: pytest.CaptureFixture[str],
    step: int = 2048,
) -> set[str]:
    """Makes room step by step; gives the files that had none, each said in one line."""
    full: set[str] = set()
    for size in range(0, 400_000, step):
        grow(size)
        if go() == 0:
            return full
        error = error_line(capsys)
        assert error.endswith(("; make room", "; check the path")), error
        full.add(Path(error.partition(": ")[0]).name)
    raise AssertionError("never done")


def kinds(names: set[str]) -> set[str]:
    """Shards and locks under one name each."""
    return {
        "lock" if name.endswith(".lock") else "shard" if name[:6].isdigit() else name
        for name in names
    }


@needs_mounts
def test_a_full_disk_is_one_line_for_every_file_and_the_job_goes_on_as_room_is_made(
    run: Extract,
    mounted: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    mounted("-t", "tmpfs", "-o", "size=4k", "full")
    out = tmp_path / "mnt" / "run"

    def grow(size: int) -> None:
        mounted("-o", f"remount,size={size + 4096}")

    found = kinds(grow_until_done(lambda: run(out), grow, capsys, step=resource.getpagesize()))
    assert found >= {"plan.h5", "shard", "store.h5", "pytorch_result.mat"}, found
    assert run(tmp_path / "reference") == 0
    assert shards(out) == shards(tmp_path / "reference")
    assert verify_run(out).problem() == ""
    assert not list(out.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("shard_rows", "full"), [("2", {"lock", "plan.h5", "store.h5"}), ("6", {"shard"})]
)
def test_a_quota_is_one_line_for_every_file_and_the_job_goes_on_as_it_is_raised(
    run: Extract,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    shard_rows: str,
    full: set[str],
) -> None:
    (soft, hard), limit = resource.getrlimit(resource.RLIMIT_FSIZE), [0]

    def go() -> int:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit[0], hard))
        try:
            return run(tmp_path / "run", "--shard-rows", shard_rows)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    found = grow_until_done(go, lambda size: limit.__setitem__(0, size), capsys)
    assert kinds(found) >= full
    assert run(tmp_path / "reference", "--shard-rows", shard_rows) == 0
    assert shards(tmp_path / "run") == shards(tmp_path / "reference")
    assert verify_run(tmp_path / "run").problem() == ""


@needs_mounts
def test_a_read_only_folder_is_one_line_and_can_still_be_looked_at(
    run: Extract,
    mounted: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    assert run(tmp_path / "data" / "run") == 0
    mounted("--bind", tmp_path / "data")
    mounted("-o", "remount,ro,bind")
    capsys.readouterr()
    assert run(tmp_path / "mnt" / "new") == 2
    assert error_line(capsys) == f"{tmp_path}/mnt/new: Read-only file system; check the path"
    out = tmp_path / "mnt" / "run"
    assert run(out) == 2
    assert "Read-only file system; check the folder" in error_line(capsys)
    assert cli.main(["evaluate", str(out)]) == 2
    assert "metrics.json: Read-only file system" in error_line(capsys)
    assert cli.main(["verify", str(out), "--repair"]) == 2
    assert "Read-only file system" in error_line(capsys)
    assert cli.main(["verify", str(out)]) == 0
    assert cli.main(["status", str(out)]) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_folder_without_permission_is_one_line() -> None:
    with tempfile.TemporaryDirectory() as folder:
        (run := Path(folder)).chmod(0o755)
        os.seteuid(65534)
        try:
            for out in (run, run / "new"):
                with (
                    pytest.raises(StoreError, match=f"{out}.*: Permission denied; "),
                    hold(out, print),
                ):
                    pass
        finally:
            os.seteuid(0)
        (run / "store.h5").touch()
        (run / "store.h5").chmod(0)
        os.seteuid(65534)
        try:
            with pytest.raises(StoreError, match=r"store\.h5: Permission denied; check the folder"):
                existing_plan(run)
        finally:
            os.seteuid(0)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number in range(IMAGES):
        draw(tmp_path / "images" / f"{number:02d}.jpg", number)
    return tmp_path / "images"


def small_shards(data: Path, checkpoint: Path, out: Path) -> list[str]:
    """Of a job of many."""
    line = ["--data", data, "--checkpoint", checkpoint, "--out", out, "--num-workers", "0"]
    return [*map(str, line), "--shard-rows", "1", "--batch-size", "1"]


def start(folder: Path, options: list[str], out: Path, shard: int = 0) -> subprocess.Popen[str]:
    """A job that has written its first shards, up to this one, and goes on once there is a file
    `go_on` in the folder."""
    job = start_halting(folder, options, after=shard + 1)
    wait_until(shard_file(out, shard).exists, job)
    return job


@needs_mounts
def test_a_mount_that_is_lost_is_one_line_and_the_job_goes_on_when_it_is_back(
    mounted: Callable[..., None],
    images: Path,
    osnet_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "disk").mkdir()
    mounted("--bind", tmp_path / "disk")
    out = tmp_path / "mnt" / "run"
    job = start(tmp_path, options := small_shards(images, osnet_file, out), out)
    subprocess.run(["umount", "-l", tmp_path / "mnt"], check=True)
    (tmp_path / "go_on").touch()
    _, error = job.communicate(timeout=LIMIT_S)
    assert job.returncode == 2, error
    assert "Traceback" not in error
    assert f"no such folder {out}" in error.splitlines()[-1]
    mounted("--bind", tmp_path / "disk")
    assert extract.main(options) == 0
    assert f"of {IMAGES} shards are done already" in capsys.readouterr().err
    assert verify_run(out).problem() == ""


def test_a_second_job_is_refused_while_the_first_works_and_status_tells_of_it(
    run: Extract,
    images: Path,
    osnet_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    job = start(tmp_path, options := small_shards(images, osnet_file, out), out, shard=2)
    try:
        job.send_signal(signal.SIGSTOP)
        # By the clock of the file system, and the first as if a former job had written it.
        began = (out / "plan.h5").stat().st_mtime
        for file, after_s in zip(sorted((out / "shards").glob("*.h5")), (-100, 5, 10), strict=True):
            os.utime(file, (began + after_s,) * 2)
        assert run(out) == 2
        error = error_line(capsys)
        assert f"another job is at work there (process {job.pid} on " in error
        assert cli.main(["verify", str(out), "--repair"]) == 2
        assert f"process {job.pid} on " in error_line(capsys)
        assert cli.main(["status", str(out), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["job"].startswith(f"process {job.pid} on ")
        assert 0 < found["rows_done"] < found["rows"] == IMAGES
        assert found["images_per_second"] == pytest.approx((found["rows_done"] - 1) / 10)
        left = (IMAGES - found["rows_done"]) / found["images_per_second"]
        assert found["seconds_left"] == pytest.approx(left)
        assert cli.main(["status", str(out)]) == 0
        assert f" left; at work: process {job.pid} on " in capsys.readouterr().out
    finally:
        job.kill()
        job.communicate()
    assert cli.main(["status", str(out)]) == 0
    assert "; no job is at work" in capsys.readouterr().out
    assert cli.main(["evaluate", str(out)]) == 2
    assert "run the same extraction again to finish it" in error_line(capsys)
    assert len(holders(out)) == 1
    assert extract.main(options) == 0
    assert holders(out) == {}


def test_a_signal_leaves_no_lock_behind(images: Path, osnet_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    job = start(tmp_path, small_shards(images, osnet_file, out), out)
    job.send_signal(signal.SIGTERM)
    job.communicate(timeout=LIMIT_S)
    assert job.returncode == 128 + signal.SIGTERM
    assert holders(out) == {}


def test_status_counts_the_images_that_could_not_be_read(
    run: Extract, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "3.jpg").write_bytes(b"no image")
    out = tmp_path / "run"
    assert run(out, "--on-bad-image", "record") == 0
    capsys.readouterr()
    assert cli.main(["status", str(out)]) == 0
    assert "complete; 6 of 6 images, 3 of 3 shards, 1 bad image\n" in capsys.readouterr().out
    shard_file(out, 0).unlink()
    assert cli.main(["status", str(out)]) == 0
    assert "not complete; 4 of 6 images, 2 of 3 shards, 1 bad image" in capsys.readouterr().out


def test_status_is_known_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from distreid import cli; cli.main(['status', sys.argv[1]]);"
        "cli.main(['verify', sys.argv[1]]); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], check=False, capture_output=True)
    assert done.returncode == 0


def test_verify_names_every_bad_file_and_what_it_repairs_is_mended_by_the_same_command(
    run: Extract, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert run(out) == 0
    before = shards(out)
    for index in (0, 2):
        with shard_file(out, index).open("r+b") as stream:
            stream.seek(4100)
            stream.write(b"x")
    capsys.readouterr()
    assert cli.main(["verify", str(out)]) == 2
    captured = capsys.readouterr()
    assert "1 of 3 shards there and good" in captured.out
    lines = captured.err.splitlines()
    assert [line.partition(":")[0] for line in lines[:2]] == [
        str(shard_file(out, index)) for index in (0, 2)
    ]
    assert lines[2].startswith(f"distreid: error: {out}: 2 files missing or damaged; ")
    assert cli.main(["evaluate", str(out)]) == 2
    assert f"{shard_file(out, 0)}: its bytes" in (error := error_line(capsys))
    assert "1 more" in error
    assert cli.main(["verify", str(out), "--repair"]) == 0
    assert "removed 2 files" in capsys.readouterr().out
    assert cli.main(["verify", str(out)]) == 2
    assert "not finished; run the same extraction again" in error_line(capsys)
    assert run(out) == 0
    assert shards(out) == before
    capsys.readouterr()
    assert cli.main(["verify", str(out)]) == 0
    assert "6 rows in 3 shards, each exactly once; every checksum fits" in capsys.readouterr().out


def other_weights(folder: Path) -> list[str]:
    content = torch.load(folder / "net.pth", weights_only=False)
    content["state_dict"]["fc.0.bias"][0] += 1
    torch.save(content, folder / "net.pth")
    return []


def other_order(folder: Path) -> list[str]:
    head, first, second, *rest = (folder / "list.csv").read_text().splitlines()
    (folder / "list.csv").write_text("\n".join([head, second, first, *rest]))
    return []


def other_data(folder: Path) -> list[str]:
    draw(folder / "6.jpg", 6)
    with (folder / "list.csv").open("a") as file:
        file.write("\n6.jpg,gallery,1")
    return []


def other_precision(folder: Path) -> list[str]:
    try:
        check_precision("bf16", torch.device("cpu"))
    except OptionError as error:
        pytest.skip(str(error))
    return ["--precision", "bf16"]


def other_preprocessing(folder: Path) -> list[str]:
    """As by a version of distreid whose preset was another."""
    plan = FeatureStore.open(folder / "run").plan
    preprocess = plan.identity["preprocess"] | {"height": 384}
    (folder / "run" / "store.h5").unlink()
    other = replace(plan, identity=plan.identity | {"preprocess": preprocess})
    write_root(folder / "run" / "plan.h5", other)
    return []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (other_weights, "weights: "),
        (other_order, "manifest: "),
        (other_data, "manifest: "),
        (other_precision, "precision: it has fp32, asked for is bf16"),
        (other_preprocessing, "preprocess.height: it has 384, asked for is 256"),
        (lambda folder: ["--flip"], "augmentation.flip: it has False, asked for is True"),
        (
            lambda folder: ["--scales", "1,1.1"],
            "augmentation.scales: it has [1.0], asked for is [1.0, 1.1]",
        ),
        (lambda folder: ["--dtype", "float16"], "dtype: it has float32, asked for is float16"),
        (lambda folder: ["--shard-rows", "3"], "shard_rows: it has 2, asked for is 3"),
    ],
)
def test_another_identity_is_refused_by_the_field_and_nothing_is_touched(
    run: Extract,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    change: Callable[[Path], list[str]],
    field: str,
) -> None:
    out = tmp_path / "run"
    assert run(out) == 0
    changed = change(tmp_path)
    before = {file: file.read_bytes() for file in out.rglob("*.h5")}
    capsys.readouterr()
    assert run(out, *changed) == 2
    assert f"{out} holds another run ({field}" in error_line(capsys)
    assert {file: file.read_bytes() for file in out.rglob("*.h5")} == before
