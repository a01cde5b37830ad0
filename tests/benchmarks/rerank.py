"""How long re-ranking takes and how much memory, on synthetic features of a data set's size.

    python tests/benchmarks/rerank.py --size market

Prints a table and one line of JSON. `market` and `small` are compared with the algorithm on
dense N × N matrices, as the well-known implementations run it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from distreid.evaluation.metrics import score_ranks
from distreid.evaluation.rerank import RERANKINGS, Reranking, estimate, map_reranked
from distreid.nearest.similarity import score_blocks

Floats = NDArray[np.float32]

SIZES = {  # queries, gallery, dimensions, persons
    "small": (300, 1_500, 256, 100),
    "market": (3_368, 15_913, 512, 750),
    "msmt17": (11_659, 82_161, 2048, 3_060),
}
SCORED = 1_000  # first queries, of which average precisions are computed
LOOKS = 24  # dimensions in which persons differ: few, so that persons resemble each other


def synthetic(size: str, seed: int = 0) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Query and gallery features, L2-normalised, and the person of each row."""
    queries, gallery, dimensions, persons = SIZES[size]
    random = np.random.default_rng(seed)
    who_N = random.integers(persons, size=queries + gallery)
    centre = random.standard_normal((persons, LOOKS), np.float32)
    looks_NL = centre[who_N] + random.standard_normal((len(who_N), LOOKS), np.float32) * 0.75
    rows_ND = looks_NL @ random.standard_normal((LOOKS, dimensions), np.float32)
    for start in range(0, len(rows_ND), 1000):
        part = rows_ND[start : start + 1000]
        part += random.standard_normal(part.shape, np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return rows_ND[:queries], rows_ND[queries:], who_N


def dense(query_QD: Floats, gallery_GD: Floats, how: Reranking) -> Floats:
    """(Q, G): the algorithm on N × N matrices, row by row."""
    queries = len(query_QD)
    rows_ND = np.concatenate([query_QD, gallery_GD])
    count = len(rows_ND)
    distance_NN = np.maximum(2 - 2 * rows_ND @ rows_ND.T, 0)
    if how.power > 1:
        distance_NN = distance_NN**how.power
    if how.relative:
        distance_NN /= distance_NN.max(axis=1, keepdims=True)
    rank_NN = np.argsort(distance_NN, axis=1).astype(np.int32)
    k1, half = how.k1 + (not how.counts_itself), round(how.k1 / 2) + 1

    def reciprocal(row: int, k: int) -> NDArray[np.int32]:
        near_K = rank_NN[row, :k]
        return np.asarray(near_K[(rank_NN[near_K, :k] == row).any(axis=1)])

    vector_NN = np.zeros_like(distance_NN)
    for row in range(count):
        near = extended = reciprocal(row, k1)
        for other in near:
            theirs = reciprocal(other, half)
            if 3 * len(np.intersect1d(theirs, near)) > 2 * len(theirs):
                extended = np.append(extended, theirs)
        extended = np.unique(extended)
        weight = np.exp(-distance_NN[row, extended])
        vector_NN[row, extended] = weight / weight.sum()
    distance_QN = distance_NN[:queries].copy()
    del distance_NN
    if how.k2 > 1:
        mean_NN = np.empty_like(vector_NN)
        for row in range(count):
            mean_NN[row] = vector_NN[rank_NN[row, : how.k2]].mean(axis=0)
        vector_NN = mean_NN
    holders = [np.flatnonzero(vector_NN[:, column]) for column in range(count)]
    for row in range(queries):
        shared_N = np.zeros(count, np.float32)
        for column in np.flatnonzero(vector_NN[row]):
            held = holders[column]
            shared_N[held] += np.minimum(vector_NN[row, column], vector_NN[held, column])
        distance_QN[row] *= how.weight if how.relative else how.weight / 2
        distance_QN[row] += (1 - how.weight) * (1 - shared_N / (2 - shared_N))
    return np.asarray(distance_QN[:, queries:])


def mean_average_precision(
    blocks: Iterator[tuple[int, Floats]], who_N: NDArray[np.int64], queries: int
) -> float:
    """Of blocks of scores, without cameras, over the first queries."""
    found = []
    for first, scores_BG in blocks:
        for row, scores_G in enumerate(scores_BG[: max(0, SCORED - first)], first):
            is_match_G = who_N[queries:] == who_N[row]
            ranks = 1 + np.flatnonzero(is_match_G[np.argsort(-scores_G, kind="stable")])
            found.append(ranks)
    per_query = score_ranks(found)
    return float(per_query.ap[per_query.matches > 0].mean())


def seconds() -> tuple[float, float]:
    """Of the clock, and of this process on all cores: less in doubt where others use them."""
    return time.perf_counter(), time.process_time()


def memory(field: str) -> int:
    """Bytes of this process by a field of /proc/self/status: VmRSS now, VmHWM at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


def measure(size: str, how: Reranking) -> dict[str, float]:
    """Seconds, bytes, mAP and, but for the largest size, what the dense algorithm gives."""
    query_QD, gallery_GD, who_N = synthetic(size)
    queries, gallery = len(query_QD), len(gallery_GD)
    need = estimate(queries, gallery, query_QD.shape[1], how)
    result = {"estimated_seconds": need.seconds, "estimated_bytes": need.bytes}
    result["map_before"] = mean_average_precision(
        score_blocks(query_QD[:SCORED], gallery_GD), who_N, queries
    )
    result["feature_bytes"] = query_QD.nbytes + gallery_GD.nbytes
    result |= {"seconds": 0.0, "cpu_seconds": 0.0}
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before = memory("VmRSS")

    def timed_scores() -> Iterator[tuple[int, Floats]]:
        started = seconds()
        for first, distance_BG in map_reranked(copied, query_QD, gallery_GD, how, progress=show):
            result["seconds"] += seconds()[0] - started[0]
            result["cpu_seconds"] += seconds()[1] - started[1]
            result["peak_bytes"] = memory("VmHWM") - before
            yield first, -distance_BG
            started = seconds()

    result["map_after"] = mean_average_precision(timed_scores(), who_N, queries)
    if size != "msmt17":
        started = seconds()
        theirs_QG = dense(query_QD, gallery_GD, how)
        result["dense_seconds"] = seconds()[0] - started[0]
        result["dense_cpu_seconds"] = seconds()[1] - started[1]
        result["times_faster"] = result["dense_seconds"] / result["seconds"]
        result["largest_difference"] = max(
            float(np.abs(distance_BG - theirs_QG[first : first + len(distance_BG)]).max())
            for first, distance_BG in map_reranked(copied, query_QD, gallery_GD, how)
        )
    return result


def copied(_: int, distance_BG: Floats) -> Floats:
    """A block that stays when the next one is made."""
    kept: Floats = distance_BG.copy()
    return kept


def show(what: str, done: int, total: int) -> None:
    """Progress on stderr."""
    print(f"\r{what} {done:,} of {total:,}  ", end="", file=sys.stderr, flush=True)


def main() -> None:
    """Parses the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--how", choices=RERANKINGS, default="zhong")
    options = parser.parse_args()
    result = measure(options.size, RERANKINGS[options.how])
    print(f"\r{options.size}, {options.how}, {torch.get_num_threads()} threads", file=sys.stderr)
    for name, value in result.items():
        text = f"{value / 1e9:.2f} GB" if name.endswith("bytes") else f"{value:.4g}"
        print(f"{name:<20} {text}")
    print(json.dumps(vars(options) | {"threads": torch.get_num_threads()} | result))


if __name__ == "__main__":
    main()
