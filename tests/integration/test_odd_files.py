"""The real job on a folder with every odd file at once."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import LIMIT_S, REPOSITORY, draw, wait_until
from PIL import Image

from distreid import extract
from distreid.data.manifest import Status
from distreid.store import FeatureStore

Run = Callable[..., "subprocess.CompletedProcess[str]"]

OK = {
    b"a b 'c' \"d\".jpg",
    b"two\nlines.jpg",
    "snow\N{SNOWMAN}.jpg".encode(),
    b"no utf-8 \xff.jpg",
    b"\x1b[2J[red]x.jpg",
    b"<script>x.jpg",
    b"a png.jpg",
    b"a gif.png",
}
BAD = {
    b"bomb.png": Status.UNREADABLE,
    b"empty.jpg": Status.UNREADABLE,
    b"folder link.jpg": Status.UNREADABLE,
    b"gone.jpg": Status.MISSING,
    b"pipe.jpg": Status.UNREADABLE,
    b"text.jpg": Status.UNREADABLE,
    b"truncated\x1b]0;title\x07.jpg": Status.UNREADABLE,
}


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything in `OK` and `BAD`."""
    top = os.fsencode(tmp_path_factory.mktemp("odd"))
    place = {name: os.path.join(top, name) for name in OK | BAD.keys()}
    draw(Path(os.fsdecode(top)) / "plain.jpg", 1)
    for name in OK:
        shutil.copy(os.path.join(top, b"plain.jpg"), place[name])
    with Image.open(os.path.join(top, b"plain.jpg")) as image:
        image.save(os.fsdecode(place[b"a png.jpg"]), "PNG")
        image.save(os.fsdecode(place[b"a gif.png"]), "GIF", save_all=True, append_images=[image])
        Image.new("1", (10_000, 9_000)).save(os.fsdecode(place[b"bomb.png"]), "PNG")
    with open(os.path.join(top, b"plain.jpg"), "rb") as stream:
        half = stream.read()[:1500]
    for name, content in ((b"empty.jpg", b""), (b"text.jpg", b"hello")):
        with open(place[name], "wb") as stream:
            stream.write(content)
    with open(place[b"truncated\x1b]0;title\x07.jpg"], "wb") as stream:
        stream.write(half)
    os.mkfifo(place[b"pipe.jpg"])
    os.symlink(b"nowhere", place[b"gone.jpg"])
    os.mkdir(os.path.join(top, b"folder"))
    os.symlink(b"folder", place[b"folder link.jpg"])
    return Path(os.fsdecode(top))


def csv_of(odd: Path, folder: Path) -> Path:
    """All of them but those whose names are no UTF-8, so that a folder is an image too."""
    file = folder / "rows.csv"
    names = sorted(name for name in OK | BAD.keys() if b"\xff" not in name)
    quoted = [str(odd / name.decode()).replace('"', '""') for name in names]
    file.write_text("path\n" + "".join(f'"{name}"\n' for name in quoted), newline="")
    return file


Here = Callable[..., str]


@pytest.fixture
def here(
    osnet_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Here:
    """Extracts `rows.csv` in this process, and gives the error's line, or nothing."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)

    def go(*more: str) -> str:
        line = ["--data", tmp_path / "rows.csv", "--checkpoint", osnet_file]
        line += ["--out", tmp_path / "run", "--num-workers", "0", "--shard-rows", "4", *more]
        status = extract.main([str(part) for part in line])
        said = capsys.readouterr().err.splitlines()[-1]
        assert status == (2 if "error" in said else 0)
        return said if status else ""

    return go


def job(run_command: Run, data: Path, checkpoint: Path, out: Path, *more: str) -> Any:
    return run_command(
        *(sys.executable, "-m", "distreid.extract", "--data", data, "--layout", "auto"),
        *("--checkpoint", checkpoint, "--out", out, "--num-workers", "1", "--shard-rows", "4"),
        *more,
    )


def test_every_odd_file_gets_its_status_and_no_name_reaches_the_terminal_as_it_is(
    run_command: Run, odd: Path, osnet_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    done = job(run_command, csv_of(odd, tmp_path), osnet_file, out, "--on-bad-image", "record")
    assert done.returncode == 0, done.stderr
    store = FeatureStore.open(out)
    statuses = {
        os.path.basename(path): status
        for path, status in zip(store.manifest.path.tolist(), store.status.tolist(), strict=True)
    }
    assert statuses == {name: Status.OK for name in OK if b"\xff" not in name} | BAD
    good = np.isfinite(store.features(np.arange(len(statuses)))).all(axis=1)
    assert good.tolist() == (store.status == Status.OK).tolist()
    assert f"{len(BAD)} images could not be read" in done.stderr
    assert "\x1b" not in done.stderr + done.stdout
    assert "\x07" not in done.stderr + done.stdout


def test_a_folder_of_odd_files_keeps_names_that_are_no_utf8(
    here: Here, odd: Path, tmp_path: Path
) -> None:
    (odd / "folder" / "[red]x.jpg").write_text("hello")
    os.rename(
        odd / "folder" / "[red]x.jpg", os.path.join(os.fsencode(odd), b"folder/\xff[red].jpg")
    )
    assert here("--data", str(odd), "--on-bad-image", "record", "--layout", "folder") == ""
    paths = FeatureStore.open(tmp_path / "run").manifest.path.tolist()
    assert b"no utf-8 \xff.jpg" in paths
    assert b"folder/\xff[red].jpg" in paths


def test_fail_stops_at_once_with_the_path(odd: Path, here: Here, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(f"path\n{odd}/plain.jpg\n{odd}/text.jpg\n{odd}/gone.jpg\n")
    assert here() == (
        f"distreid: error: row 1, {odd}/text.jpg: no image of a known kind (JPEG, PNG, PPM, BMP, "
        "GIF, TIFF, WEBP); mend or remove it, or use --on-bad-image record"
    )


def copies(folder: Path, names: list[str], table: Path) -> None:
    """A CSV of copies of these files beside it, one for each name."""
    lines = ["path"]
    for number, name in enumerate(names):
        lines.append(f"{number:02}-{name}")
        shutil.copy(folder / name, table.with_name(lines[-1]))
    table.write_text("\n".join(lines) + "\n")


def test_max_bad_counts_the_whole_run_also_what_former_attempts_found(
    odd: Path, here: Here, tmp_path: Path
) -> None:
    copies(odd, ["text.jpg", "plain.jpg", "plain.jpg", "plain.jpg"] * 3, tmp_path / "rows.csv")
    out = tmp_path / "run"
    record = ("--on-bad-image", "record", "--max-bad")
    assert here(*record, "1") == (
        f"distreid: error: {out}: 2 images could not be read, --max-bad allows 1; allow more and "
        "run again to continue, or mend them and give another --out"
    )
    assert [file.name for file in (out / "shards").iterdir()] == ["000000.h5"]
    assert "1 image could not be read, --max-bad allows 0" in here(*record, "0")
    assert "1 image could not be read, --on-bad-image fail allows none" in here()
    assert here(*record, "3") == ""
    assert int((FeatureStore.open(out).status == Status.UNREADABLE).sum()) == 3
    assert "3 images could not be read, --max-bad allows 2" in here(*record, "2")


def test_max_bad_counts_over_all_ranks(
    run_command: Run, odd: Path, osnet_file: Path, tmp_path: Path
) -> None:
    copies(odd, ["text.jpg", "plain.jpg"] * 2, tmp_path / "rows.csv")
    with socket.create_server(("localhost", 0)) as probe:
        port = str(probe.getsockname()[1])
    ranks = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}

    def rank(number: str) -> Any:
        return run_command(
            *(sys.executable, "-m", "distreid.extract", "--data", tmp_path / "rows.csv"),
            *("--checkpoint", osnet_file, "--out", tmp_path / "run"),
            *("--num-workers", "0", "--shard-rows", "2"),
            *("--on-bad-image", "record", "--max-bad", "1"),
            **ranks | {"RANK": number, "LOCAL_RANK": number, "MASTER_PORT": port},
        )

    with ThreadPoolExecutor() as both:
        done = list(both.map(rank, "01"))
    assert done[0].returncode == 2  # rank 1 may have ended before rank 0 counts them all
    assert "2 images could not be read, --max-bad allows 1" in done[0].stderr + done[1].stderr
    assert not (tmp_path / "run" / "store.h5").exists()


def decoders(process: int) -> list[int]:
    """The decoding processes of a job, by the name that torch gives them."""
    found = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    names = {}
    for child in map(int, found):
        with contextlib.suppress(OSError):  # it has ended since
            names[child] = Path(f"/proc/{child}/comm").read_text()
    return [child for child, name in names.items() if "data_worker" in name]


def test_a_killed_decoding_process_is_one_line_that_names_its_rows(
    osnet_file: Path, tmp_path: Path
) -> None:
    Image.new("RGB", (64, 128)).save(tmp_path / "a.png")
    copies(tmp_path, ["a.png"] * 8, tmp_path / "rows.csv")
    # Its decoding process never comes to an end with the first batch.
    (tmp_path / "endless.py").write_text(
        "import sys, time\nfrom distreid.extract import main\n"
        "from torch.utils.data import get_worker_info\n"
        "from distreid.images.loader import ImageRows\n"
        "read = ImageRows.__getitem__\n"
        "def endless(self, rows):\n"
        "    if not get_worker_info():\n        return read(self, rows)\n"
        f"    open({str(tmp_path / 'reads')!r}, 'w').close()\n"
        f"    time.sleep({LIMIT_S})\n"
        "ImageRows.__getitem__ = endless\n"
        "if __name__ == '__main__':\n    sys.exit(main())\n"
    )
    with subprocess.Popen(
        [
            *(sys.executable, tmp_path / "endless.py", "--data", tmp_path / "rows.csv"),
            *("--checkpoint", osnet_file, "--out", tmp_path / "run"),
            *("--num-workers", "1", "--batch-size", "2"),
        ],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        wait_until((tmp_path / "reads").exists, running)
        os.kill(decoders(running.pid)[0], signal.SIGKILL)
        _, said = running.communicate(timeout=LIMIT_S)
    assert running.returncode == 2
    assert "Traceback" not in said
    last = said.splitlines()[-1]
    assert last.startswith("distreid: error: rank 0 on ")
    assert ": a decoding process died while it read rows 0 to 3 (DataLoader worker (pid" in last
    assert last.endswith("else look at these images; run again to continue")
