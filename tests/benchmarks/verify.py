"""How fast every byte of a run is verified, warm, beside the bare checksum.

    python tests/benchmarks/verify.py --rows 200000 --dim 2048 --dtype float32

The run is made of random features in a temporary folder (`--folder` for another disk), and is
verified `--repeat` times; the fastest is printed, by the clock and by the cores' own time, which
other jobs on the machine change less. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rows import fill, synthetic

from distreid.store import FeatureStore
from distreid.store.run_folder import begin, finish
from distreid.store.verification import verify_run


def rates(work: Callable[[], object], size: int, repeat: int) -> tuple[float, float]:
    """Bytes per second by the clock, and per second of one core; the best of several."""
    clock, cores = [], []
    for _ in range(repeat):
        started = time.perf_counter(), time.process_time()
        work()
        clock.append(time.perf_counter() - started[0])
        cores.append(time.process_time() - started[1])
    return size / min(clock), size / min(cores)


def main() -> None:
    """Makes a run, verifies it, prints the rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--dtype", default="float32", choices=("float32", "float16"))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        run = Path(folder)
        plan = synthetic(options.rows, options.dim, options.dtype)
        fill(run, plan, begin(run, plan))
        finish(run, plan)
        size = sum(file.stat().st_size for file in run.rglob("*.h5"))
        sample = np.random.default_rng(0).bytes(1 << 26)
        found = {
            "verify": rates(lambda: verify_run(run), size, options.repeat),
            "open": rates(lambda: FeatureStore.open(run), size, options.repeat),
            "crc32 alone": rates(lambda: zlib.crc32(sample), len(sample), options.repeat),
        }
    print(f"{size / 1e9:.2f} GB of {options.dtype}, {len(os.sched_getaffinity(0))} cores")
    for name, (clock, core) in found.items():
        print(f"{name:12} {clock / 1e9:5.2f} GB/s, {core / 1e9:5.2f} GB per second of a core")
    print(json.dumps({"bytes": size, "bytes_per_s": found}))


if __name__ == "__main__":
    main()
