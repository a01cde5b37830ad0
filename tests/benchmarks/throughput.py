"""Images per second of the main job, and where its time goes.

    python tests/benchmarks/throughput.py                    the sample, 1 and 2 processes
    python tests/benchmarks/throughput.py --data DIR --checkpoint FILE --processes 1,2,4

Each line is a run of the real command, start and evaluation left out, the median of
`--repeat` runs. The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

TIME_LINE = re.compile(
    r"time +(?P<images>[\d,]+) images in .*?, (?P<rate>[\d,]+) images/s: (?P<split>.*)"
)


def measure(processes: int, repeat: int, options: list[str]) -> tuple[float, str]:
    """The median rate, and that run's split of the time."""
    runs = []
    for _ in range(repeat):
        with tempfile.TemporaryDirectory() as folder:
            command = [
                f"{Path(sys.executable).parent}/torchrun", f"--nproc_per_node={processes}",
                "-m", "distreid.extract", "--out", f"{folder}/run", "--no-evaluate", *options,
            ]  # fmt: skip
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=False
            )
        found = TIME_LINE.search(done.stderr)
        if done.returncode or not found:
            sys.exit(done.stderr)
        runs.append((float(found["rate"].replace(",", "")), found["split"]))
    rate = statistics.median_low([rate for rate, _ in runs])
    return rate, dict(runs)[rate]


def main() -> None:
    """Prints a line for each number of processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="sample")
    parser.add_argument("--checkpoint", default="sample")
    parser.add_argument("--processes", default="1,2")
    parser.add_argument("--repeat", type=int, default=3)
    known, rest = parser.parse_known_args()
    options = ["--data", known.data, "--checkpoint", known.checkpoint, *rest]
    print(f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores: {' '.join(options)}")
    rates = {}
    for processes in map(int, known.processes.split(",")):
        rate, split = measure(processes, known.repeat, options)
        rates[processes] = rate
        print(f"{processes} processes  {rate:7,.0f} images/s  {split}", flush=True)
    print(json.dumps({"images_per_second": rates, "options": options}))


if __name__ == "__main__":
    main()
