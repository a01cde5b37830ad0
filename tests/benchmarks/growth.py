"""Whether a row costs more when there are more of them: rate, memory and start of the main job.

    python tests/benchmarks/growth.py --rows 10000,1000000,10000
    python tests/benchmarks/growth.py --rows 1000000 --checkpoint FILE --input-size 64x32

Without --checkpoint the network is one that takes next to no time, so that everything else shows:
a real network's time varies by more than all else takes. The rows are a few images of the sample
under many names, hard links. Each line is the real command in one process, evaluation left out.
The memory is the job's process and its decoding processes together, what they share counted once
and libraries, which other programs use too, not at all (Pss_Anon and Pss_Shmem of Linux's
smaps_rollup): when the first shard is there, before the last one is, and the most of the whole run,
in which the files are listed. The last line is JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from throughput import TIME_LINE
from torch import nn

from distreid.images.preprocess import Preprocess

SAMPLE = Path(__file__).parents[2] / "distreid/sample"
IMAGES = 20
LINKS = 1000  # names in each folder
FIRST_ROWS = 512  # of the first shard, whose file shows from outside that the work has begun
POLL_S = 0.5


def build() -> nn.Module:
    """A network of nearly nothing, `--model growth:build`."""
    network = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(3 * 8 * 4, 64))
    network.preprocess = Preprocess(height=32, width=16)  # type: ignore[assignment]
    return network


def main() -> None:
    """A line for each number of rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="10000,1000000")
    parser.add_argument("--checkpoint")
    parser.add_argument("--folder", type=Path, help="instead of the system's temporary one")
    known, rest = parser.parse_known_args()
    found = []
    for rows in map(int, known.rows.split(",")):
        with tempfile.TemporaryDirectory(dir=known.folder) as folder:
            link(Path(folder) / "data", rows)
            options = [*network(known.checkpoint, Path(folder)), *rest]
            measured = measure(Path(folder), rows, options)
        print(
            f"{rows:10,} rows {measured['images_per_second']:8,.0f} images/s, "
            f"{measured['first_rows_s']:.1f} s from the start to the first {FIRST_ROWS} rows, "
            f"{measured['first_bytes'] / 1e6:,.0f} MB then, {measured['last_bytes'] / 1e6:,.0f} "
            f"at the end, {measured['peak_bytes'] / 1e6:,.0f} at most",
            flush=True,
        )
        found.append({"rows": rows} | measured)
    print(json.dumps({"options": sys.argv[1:], "runs": found}))


def network(checkpoint: str | None, folder: Path) -> list[str]:
    """The options for it."""
    if checkpoint:
        return ["--checkpoint", checkpoint]
    torch.save(build().state_dict(), folder / "net.pth")
    return ["--checkpoint", str(folder / "net.pth"), "--model", "growth:build"]


def link(folder: Path, rows: int) -> None:
    """That many names for a few images, a thousand in each folder, as a file may have only so
    many."""
    images = sorted(SAMPLE.rglob("*.jpg"))[:IMAGES]
    for first in range(0, rows, LINKS):
        home = folder / f"{first:08d}"
        home.mkdir(parents=True)
        for number in range(min(LINKS, rows - first)):
            file = home / f"{number:04d}.jpg"
            if number < IMAGES:
                file.write_bytes(images[number].read_bytes())
            else:
                os.link(home / f"{number % IMAGES:04d}.jpg", file)


def measure(folder: Path, rows: int, options: list[str]) -> dict[str, Any]:
    """Runs the job, and looks at its memory and its first shard from outside."""
    command = [
        sys.executable, "-m", "distreid.extract", "--data", str(folder / "data"),
        "--layout", "folder", "--out", str(folder / "run"), "--no-evaluate",
        "--shard-rows", str(FIRST_ROWS), *options,
    ]  # fmt: skip
    shards = folder / "run/shards"
    last_shard = shards / f"{(rows - 1) // FIRST_ROWS:06d}.h5"
    started, first_rows_s = time.monotonic(), 0.0
    first = last = peak = 0
    with open(folder / "log", "w+") as log:
        # For growth:build.
        path = f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}"
        environment = os.environ | {"PYTHONPATH": path}
        job = subprocess.Popen(command, stderr=log, text=True, env=environment)
        while job.poll() is None:
            taken = memory(job.pid)
            peak = max(peak, taken)
            if not first and (shards / "000000.h5").exists():
                first_rows_s, first = time.monotonic() - started, taken
            if not last_shard.exists():
                last = taken
            time.sleep(POLL_S)
        log.seek(0)
        said = log.read()
    found = TIME_LINE.search(said)
    if job.returncode or not found:
        sys.exit(said)
    rate = float(found["rate"].replace(",", ""))
    sizes = {"first_bytes": first, "last_bytes": last, "peak_bytes": peak}
    return {"images_per_second": rate, "first_rows_s": first_rows_s} | sizes


def memory(pid: int) -> int:
    """Of a process and its children, in bytes."""
    total = 0
    with contextlib.suppress(OSError):  # one that has just ended
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                total += 1024 * int(line.split()[1])
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            total += memory(int(child))
    return total


if __name__ == "__main__":
    main()
