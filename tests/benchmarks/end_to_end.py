"""From JPEG files to a finished store, beside the plain PyTorch loop of the peers' test scripts.

    python tests/benchmarks/end_to_end.py                        ft_net, a ResNet-50
    python tests/benchmarks/end_to_end.py --checkpoint sample    the built-in network, trained
    python tests/benchmarks/end_to_end.py --network ViT-B/16     or another of networks.py

All sides in turn, each in a process of its own with all cores, over the sample's images. Ours are
the real command in one process: the rate counts from the first batch to the verified store, without
the start and the compilation. Theirs is the loop alone: a DataLoader with a worker for each core,
Pillow and torchvision's transforms, fp32, a forward pass for each view; once as it is and once with
batch norms fused into convolutions, as Person_reID_baseline_pytorch does. The cosine is the least
of all images to the plain loop's features, mAP by Person_reID_baseline_pytorch's protocol. Without
--checkpoint the weights are those that torch starts with. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, set_start_method
from pathlib import Path
from typing import Any

import numpy as np
import torch
from networks import FT_NET, NETWORKS, untrained
from numpy.typing import NDArray
from throughput import TIME_LINE
from torch.fx.experimental.optimization import fuse
from torch.utils.data import DataLoader

from distreid.benchmark.peer_loop import PeerImages, peer_loop
from distreid.data.source import open_data
from distreid.errors import EXIT_USER
from distreid.host.machine import cores
from distreid.models.checkpoint import load_model
from distreid.store import FeatureStore

THEIRS = {"plain loop": False, "plain loop, fused": True}
OURS = {
    "the default": [],
    "torch fp32": ["--engine", "torch"],
    "torch fp32, compiled": ["--compile", "max"],
    "torch bf16, compiled": ["--compile", "max", "--precision", "bf16"],
    "onnxruntime fp32": ["--engine", "onnxruntime"],
    "openvino bf16": ["--precision", "bf16", "--engine", "openvino"],
    "openvino int8": ["--precision", "int8", "--calibrate-on", "sample", "--max-map-loss", "100"],
}
Side = tuple[float, NDArray[np.float32], float | None]


def theirs(checkpoint: str, fused: bool) -> Side:
    """Images a second, and the features."""
    set_start_method("fork", force=True)  # of the workers
    torch.set_num_threads(cores())
    model = load_model(checkpoint)
    network = fuse(model.network) if fused else model.network
    images = PeerImages(open_data("sample"), model.architecture.preprocess)
    loader = DataLoader(images, 32, num_workers=cores())
    features: list[torch.Tensor] = []
    loop = peer_loop(network, loader, None, True, features)
    started, done = time.perf_counter(), 0
    while done < len(images):
        done += next(loop)
    return done / (time.perf_counter() - started), torch.cat(features).numpy(), None


def ours(checkpoint: str, options: list[str]) -> Side | None:
    """Images a second, the features, and mAP; None where this machine has no such precision."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "distreid.extract", "--data", "sample", "--flip",
            "--checkpoint", checkpoint, "--out", folder, *options,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = TIME_LINE.search(done.stderr)
        if done.returncode == EXIT_USER and "--precision" in done.stderr:
            return None
        if done.returncode or not found or "not compiled: " in done.stderr:
            sys.exit(done.stderr)
        store = FeatureStore.open(Path(folder))
        features = store.features(np.arange(len(store.manifest)))
        scores = json.loads((Path(folder) / "metrics.json").read_text())["scores"]
        return float(found["rate"].replace(",", "")), features, _mean_ap(scores)


def _mean_ap(scores: list[dict[str, Any]]) -> float:
    return next(float(each["mAP"]) for each in scores if each["protocol"]["name"] == "layumi")


def main() -> None:
    """A line for each side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint")
    parser.add_argument("--network", default=FT_NET, choices=NETWORKS, help="untrained")
    parser.add_argument("--sides", default="", help="the first words of ours, by commas")
    parser.add_argument("--repeat", type=int, default=3)
    known = parser.parse_args()
    wanted = {
        side: options
        for side, options in OURS.items()
        if any(map(side.startswith, known.sides.split(",")))
    }
    rounds: dict[str, list[Side]] = {side: [] for side in (*THEIRS, *wanted)}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = known.checkpoint or str(untrained(known.network, Path(folder)))
        for _ in range(known.repeat):
            for side, fused in THEIRS.items():
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                    rounds[side].append(pool.submit(theirs, checkpoint, fused).result())
            for side, options in wanted.items():
                if mine := ours(checkpoint, options):
                    rounds[side].append(mine)
    rounds = {side: found for side, found in rounds.items() if found}
    rates = {side: statistics.median(each[0] for each in found) for side, found in rounds.items()}
    exact = rounds["plain loop"][0][1].astype(np.float64)
    print(f"{os.uname().machine}, {cores()} cores; {known.checkpoint or known.network}, medians")
    result = []
    for side, found in rounds.items():
        _, features, mean_ap = found[-1]
        line = {
            "side": side,
            "images_per_second": rates[side],
            "times_plain": rates[side] / rates["plain loop"],
            "cosine": float((features * exact).sum(axis=1).min()),
            "mAP": mean_ap,
        }
        result.append(line)
        print(
            f"{side:20} {rates[side]:8.1f} images/s, {line['times_plain']:5.2f} times the plain "
            f"loop, cosine {line['cosine']:.6f}"
            + ("" if mean_ap is None else f", mAP {100 * mean_ap:.2f} %")
        )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
