"""The evaluation against the bare matrix product that it cannot do without, in one run.

    python tests/benchmarks/evaluation.py --size market       3,368 × 15,913 × 512
    python tests/benchmarks/evaluation.py --size market500k   3,368 × 519,732 × 512
    python tests/benchmarks/evaluation.py --size msmt17       11,659 × 82,161 × 2048
    python tests/benchmarks/evaluation.py --size million      1,000 × 1,000,000 × 256

With `--torchreid MODULE`, the module that torchreid's `rank_cylib/rank_cy.pyx` compiles to, its
distances and ranking are timed too.

Both sides use all cores, in turn, `--repeat` times; the ratio is taken pair by pair and its
median printed. The memory is the peak above the features. The last line is JSON.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import time
from collections import deque
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from distreid.evaluation.evaluate import summarise
from distreid.evaluation.protocol import PRESETS
from distreid.evaluation.ranking import LabelledFeatures, score_queries
from distreid.nearest.similarity import block_rows, map_blocks

SIZES = {  # queries, gallery rows, dimensions, persons
    "small": (200, 2000, 128, 100),
    "market": (3368, 15_913, 512, 751),
    "market500k": (3368, 519_732, 512, 25_000),
    "msmt17": (11_659, 82_161, 2048, 3060),
    "million": (1000, 1_000_000, 256, 50_000),
}
SIGNAL = 3.9  # cosine of two images of one person, in deviations of that of two persons'
CAMERAS = 6


def synthetic(rows: int, dim: int, persons: int, seed: int) -> LabelledFeatures:
    """Features around a direction for each person, L2-normalised; made in blocks."""
    centres = np.random.default_rng(0).standard_normal((persons, dim), dtype=np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    generator = np.random.default_rng(seed)
    person = generator.integers(0, persons, rows)
    # Two features of one person have the cosine 1 / (1 + noise²), of two persons ±1 / √dim.
    noise_size = np.float32((dim**0.5 / SIGNAL - 1) ** 0.5 / dim**0.5)
    features = np.empty((rows, dim), np.float32)
    for first in range(0, rows, 4096):
        part = slice(first, min(first + 4096, rows))
        noise = generator.standard_normal((part.stop - first, dim), dtype=np.float32)
        features[part] = centres[person[part]] + noise * noise_size
        features[part] /= np.linalg.norm(features[part], axis=1, keepdims=True)
    return LabelledFeatures(
        pieces=[features],
        norm=np.ones(rows, np.float32),
        person_id=person + 1,
        camera_id=generator.integers(1, CAMERAS + 1, rows),
    )


def product(query_QD: NDArray[np.float32], gallery_GD: NDArray[np.float32]) -> float:
    """Seconds of the product alone, in the same blocks: of two ways the faster. Each block is
    shared by all cores, or each core has blocks of its own."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    query, gallery = torch.from_numpy(query_QD), torch.from_numpy(gallery_GD)
    size = block_rows(len(gallery_GD))
    out = torch.empty(size, len(gallery_GD))
    started = time.perf_counter()
    for first in range(0, len(query), size):
        block = query[first : first + size]
        torch.mm(block, gallery.T, out=out[: len(block)])
    shared = time.perf_counter() - started
    started = time.perf_counter()
    deque(map_blocks(lambda first, scores_BG: None, query_QD, gallery_GD), maxlen=0)
    return min(shared, time.perf_counter() - started)


def torchreid(module: str, query: LabelledFeatures, gallery: LabelledFeatures) -> float:
    """Seconds of torchreid's way: the matrix of squared distances, then its compiled ranking."""
    evaluate_cy = importlib.import_module(module).evaluate_cy
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    left, right = torch.from_numpy(query.features), torch.from_numpy(gallery.pieces[0])
    started = time.perf_counter()
    norms = left.square().sum(dim=1, keepdim=True) + right.square().sum(dim=1)
    distances = torch.addmm(norms, left, right.T, alpha=-2).numpy()
    people = (query.person_id, gallery.person_id, query.camera_id, gallery.camera_id)
    evaluate_cy(distances, *people, 50)
    return time.perf_counter() - started


def peak_bytes() -> int:
    """The largest resident size since `reset_peak`."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def reset_peak() -> int:
    """Forgets the peak; gives the resident size now."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes()


def main() -> None:
    """Prints both sides and their ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="market", choices=SIZES)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--torchreid", metavar="MODULE")
    options = parser.parse_args()
    queries, rows, dim, persons = SIZES[options.size]
    gallery = synthetic(rows, dim, persons, seed=1)
    query = synthetic(queries, dim, persons, seed=2)
    print(f"{queries:,} × {rows:,} × {dim}, {len(os.sched_getaffinity(0))} cores", flush=True)
    ratios, seconds, products, peers, peak = [], [], [], [], 0
    before = reset_peak()
    for _ in range(options.repeat):
        products.append(product(query.features, gallery.pieces[0]))
        reset_peak()
        started = time.perf_counter()
        scores = summarise(
            *score_queries(query, gallery, PRESETS["fastreid"]),
            PRESETS["fastreid"],
            query.person_id,
        )
        seconds.append(time.perf_counter() - started)
        peak = max(peak, peak_bytes() - before)
        ratios.append(seconds[-1] / products[-1])
        print(
            f"product {products[-1]:.2f} s, evaluation {seconds[-1]:.2f} s, "
            f"ratio {ratios[-1]:.2f}, {peak / 1e6:.0f} MB above the features; "
            f"Rank-1 {scores.rank(1):.3f}, mAP {scores.mAP:.3f}",
            flush=True,
        )
        if options.torchreid:
            peers.append(torchreid(options.torchreid, query, gallery))
            print(
                f"torchreid {peers[-1]:.2f} s, {peers[-1] / seconds[-1]:.1f} times ours", flush=True
            )
    result = {
        "size": options.size,
        "product_s": statistics.median(products),
        "evaluation_s": statistics.median(seconds),
        "ratio": statistics.median(ratios),
        "peak_bytes_above_features": peak,
        "mAP": scores.mAP,
        "torchreid_s": statistics.median(peers) if peers else None,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
