"""Whether a row costs more when there are more of them: rate, memory and start of the main job.

    python tests/benchmarks/growth.py --rows 10000,1000000
    python tests/benchmarks/growth.py --rows 1000000 --checkpoint FILE --input-size 64x32

The rows are a few images of the sample under many names, hard links. Each line is the real
command in one process, evaluation left out. The memory is the most that the job's process and
its decoding processes took together, what they share counted once and libraries, which other
programs use too, not at all (Pss_Anon and Pss_Shmem of Linux's smaps_rollup). The
last line is JSON.
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

from throughput import TIME_LINE

SAMPLE = Path(__file__).parents[2] / "distreid/sample"
IMAGES = 20
LINKS = 1000  # names in each folder
FIRST_ROWS = 512  # of the first shard, whose file shows from outside that the work has begun
POLL_S = 0.5


def main() -> None:
    """A line for each number of rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="10000,1000000")
    parser.add_argument("--checkpoint", default="sample")
    parser.add_argument("--folder", type=Path, help="instead of the system's temporary one")
    known, rest = parser.parse_known_args()
    options = ["--checkpoint", known.checkpoint, *rest]
    found = []
    for rows in map(int, known.rows.split(",")):
        with tempfile.TemporaryDirectory(dir=known.folder) as folder:
            link(Path(folder) / "data", rows)
            measured = measure(Path(folder), options)
        print(
            f"{rows:10,} rows {measured['images_per_second']:8,.0f} images/s, "
            f"{measured['first_rows_s']:.1f} s from the start to the first {FIRST_ROWS} rows, "
            f"{measured['peak_bytes'] / 1e6:,.0f} MB",
            flush=True,
        )
        found.append({"rows": rows} | measured)
    print(json.dumps({"options": options, "runs": found}))


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


def measure(folder: Path, options: list[str]) -> dict[str, Any]:
    """Runs the job, and looks at its memory and its first shard from outside."""
    command = [
        sys.executable, "-m", "distreid.extract", "--data", str(folder / "data"),
        "--layout", "folder", "--out", str(folder / "run"), "--no-evaluate",
        "--shard-rows", str(FIRST_ROWS), *options,
    ]  # fmt: skip
    started, first, peak = time.monotonic(), 0.0, 0
    with open(folder / "log", "w+") as log:
        job = subprocess.Popen(command, stderr=log, text=True)
        while job.poll() is None:
            if not first and (folder / "run/shards/000000.h5").exists():
                first = time.monotonic() - started
            peak = max(peak, memory(job.pid))
            time.sleep(POLL_S)
        log.seek(0)
        said = log.read()
    found = TIME_LINE.search(said)
    if job.returncode or not found:
        sys.exit(said)
    rate = float(found["rate"].replace(",", ""))
    return {"images_per_second": rate, "first_rows_s": first, "peak_bytes": peak}


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
