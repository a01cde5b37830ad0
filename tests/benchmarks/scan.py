"""The scan of codes by one query, beside other kernels: python tests/benchmarks/scan.py

One thread; nanoseconds a row, least of several rounds, of the sides in turns. Ours multiplies codes
of 8 bits with a query of 16 bits, and keeps the largest of each block. The others take a query of 8
bits, whose rounding would be part of the bound, and write every product; finding the largest of
each block by numpy is timed apart. Those that are not installed are left out (pip install simsimd
numkong).
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from distreid.nearest.codes import BLOCK
from distreid.nearest.scan_loops import loops


def sides(codes: Any, query: Any, blocks: int) -> dict[str, Callable[[], Any]]:
    """Name → one scan."""
    wide, narrow = query.astype(np.int16) * 256, query[None]
    largest = np.empty(blocks, np.int32)
    column, floats = torch.from_numpy(query.astype(np.float32)), torch.from_numpy(codes).float()
    found: dict[str, Callable[[], Any]] = {
        "distreid": lambda: loops.block_bounds(codes, wide, 0, blocks, largest),
        "float32, torch": lambda: floats @ column,
    }
    for name in ("simsimd", "numkong"):
        try:
            library = importlib.import_module(name)
        except ImportError:
            continue
        # With the default number of threads, one.
        found[name] = functools.partial(library.cdist, narrow, codes, metric="dot")
    products = np.zeros(blocks * BLOCK, np.int32)
    found["largest of each block, numpy"] = lambda: products.reshape(-1, BLOCK).max(axis=1)
    return found


def main() -> None:
    """Prints a line for each width and side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 96, 128, 320])
    parser.add_argument("--rounds", type=int, default=9)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    blocks = asked.rows // BLOCK
    for width in asked.widths:
        codes = rng.integers(-127, 128, (blocks * BLOCK, width), np.int8)
        scans = sides(codes, rng.integers(-127, 128, width, np.int8), blocks)
        seconds: dict[str, list[float]] = {name: [] for name in scans}
        for _ in range(asked.rounds):
            for name, scan in scans.items():
                started = time.perf_counter()
                scan()
                seconds[name].append(time.perf_counter() - started)
        ours = min(seconds["distreid"])
        for name, each in seconds.items():
            figures = {
                "ns_a_row": round(1e9 * min(each) / len(codes), 2),
                "of_ours": round(min(each) / ours, 2),
                "gb_a_second": round(codes.nbytes / min(each) / 1e9, 1),
            }
            print(json.dumps({"width": width, "side": name} | figures), flush=True)


if __name__ == "__main__":
    main()
