"""What this device makes of three networks, in every precision and every way to run them.

    python tests/benchmarks/device.py --rows 100000            on a GPU; most of it is compiling
    python tests/benchmarks/device.py --rows 1000 --device cpu --networks "OSNet x1.0"

Forward passes alone, on images that are on the device: images/s, the share of the device's own
matrix peak in that precision (the largest product's rate, measured here), the least cosine to
eager fp32. Then for each network the real command on one process, from JPEG files to the store,
beside those forward passes alone and beside the plain PyTorch loop of the peers. No mirror images.
The files are a few of the sample's under many names, the weights those that torch starts with. The
last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from growth import link
from networks import NETWORKS, untrained
from rich.console import Console
from rich.table import Table
from throughput import measure
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from distreid.compilation import EAGER, MODES
from distreid.datasets import open_data
from distreid.errors import CompileError, OptionError
from distreid.inference import PRECISIONS, Augmentation, Extractor
from distreid.loader import ImageRows
from distreid.models.checkpoint import Model, load_model
from distreid.peer_loop import PeerImages, peer_loop
from distreid.provenance import cores

WAYS = {"eager": EAGER, "compiled": "auto", "compiled, graphs": "max"}
FASTEST = ["--precision", "bf16", "--compile", "max"]
PEAK_SIZE = {"cuda": 8192, "cpu": 2048}


def per_second(work: Callable[[], int], device: torch.device, seconds: float) -> float:
    """How many a second, once warm."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    work()
    wait()
    done, started = 0, time.perf_counter()
    while not done or time.perf_counter() - started < seconds:
        done += work()
        wait()
    return done / (time.perf_counter() - started)


def peak(precision: str, device: torch.device) -> float:
    """Operations a second of a large square product; a multiplication and an addition are two."""
    size = PEAK_SIZE[device.type]
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    square = torch.randn(size, size, device=device, dtype=PRECISIONS[precision])
    before = torch.get_num_threads()
    torch.set_num_threads(cores())
    rate = per_second(lambda: len(torch.mm(square, square)), device, seconds=1.0)
    torch.set_num_threads(before)
    return rate * 2 * size * size


def operations(model: Model) -> int:
    """Operations of one image."""
    pre = model.architecture.preprocess
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model.network(torch.zeros(1, 3, pre.height, pre.width))
    return int(counter.get_total_flops())


def forward_rates(
    file: Path, device: torch.device, batch_size: int, seconds: float
) -> list[dict[str, Any]]:
    """Of every way in every precision that the device has."""
    found: list[dict[str, Any]] = []
    exact: torch.Tensor | None = None
    model = load_model(str(file))
    of_an_image = operations(model)
    images = ImageRows(open_data("sample"), model.architecture.preprocess)[range(batch_size)]
    batch = images.images_BCHW.to(device)
    for precision in PRECISIONS:
        for way, option in WAYS.items():
            torch._dynamo.reset()
            try:
                extractor = Extractor(
                    model, Augmentation(flip=False), precision=precision, device=device,
                    threads=cores(),
                )  # fmt: skip
                if option != EAGER:
                    extractor.compile(MODES[option], batch_size, batch)
            except (OptionError, CompileError) as error:
                print(f"{precision}, {way}: {error}", file=sys.stderr)
                continue
            features, _ = extractor(batch)
            exact = features if exact is None else exact

            def two() -> int:
                # The next is begun before the last is waited for, as in the job.
                pending = [extractor.begin(batch) for _ in range(2)]  # noqa: B023
                return sum(len(each.result()[0]) for each in pending)

            rate = per_second(two, device, seconds)
            found.append(
                {
                    "precision": precision,
                    "way": way,
                    "images_per_second": rate,
                    "share_of_peak": rate * of_an_image / peak(precision, device),
                    "cosine": float((features * exact).sum(dim=1).min()),
                }
            )
    return found


def plain_rate(file: Path, data: str, device: torch.device, seconds: float) -> float:
    """Of the peers' loop, on all cores, with torch's own settings."""
    torch.backends.cudnn.allow_tf32 = True
    torch.set_num_threads(cores())
    model = load_model(str(file))
    images = PeerImages(open_data(data), model.architecture.preprocess)
    loader = DataLoader(images, 32, num_workers=cores())
    loop = peer_loop(model.network.to(device), loader, None, False, [])
    rate = per_second(lambda: next(loop), device, seconds)
    torch.set_num_threads(1)
    return rate


def main() -> None:
    """A table for each network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=2.0)
    known = parser.parse_args()
    device = torch.device(known.device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{cores()} CPU cores"
    console, result = Console(highlight=False), []
    with tempfile.TemporaryDirectory() as folder:
        link(Path(folder) / "data", known.rows)
        for network in known.networks:
            file = untrained(network, Path(folder) / network)
            found = forward_rates(file, device, known.batch_size, known.seconds)
            table = Table("precision", "way", "images/s", "of the peak", "cosine", title=network)
            for each in found:
                table.add_row(
                    each["precision"], each["way"], f"{each['images_per_second']:,.0f}",
                    f"{each['share_of_peak']:.0%}", f"{each['cosine']:.6f}",
                )  # fmt: skip
            options = [
                "--data", f"{folder}/data", "--layout", "folder", "--checkpoint", str(file),
                "--no-flip", "--device", known.device, "--batch-size", str(known.batch_size),
            ]  # fmt: skip
            rate, split = measure(1, 1, [*options, *FASTEST])
            alone = max(each["images_per_second"] for each in found if each["precision"] == "bf16")
            plain = plain_rate(file, f"{folder}/data", device, 5 * known.seconds)
            console.print(table)
            console.print(
                f"end to end, {' '.join(FASTEST)}: {rate:,.0f} images/s, {rate / alone:.0%} of the "
                f"forward passes alone ({split}); {rate / plain:.1f} times the plain loop's "
                f"{plain:,.0f}"
            )
            result.append(
                {"network": network, "forward": found, "end_to_end": rate, "plain": plain}
            )
    print(json.dumps({"device": name, "batch_size": known.batch_size, "networks": result}))


if __name__ == "__main__":
    main()
