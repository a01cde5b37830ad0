"""What this device makes of three networks, in every precision and every way to run them.

    python tests/benchmarks/device.py --rows 100000            on a GPU; most of it is compiling
    python tests/benchmarks/device.py --rows 1000 --device cpu --networks "OSNet x1.0"
    python tests/benchmarks/device.py --parts peak forward --precisions bf16 --ways eager

The peak is the rate of a large matrix product. Forward passes alone, on images that are on the
device: images/s, the share of that peak in the same precision, the least cosine to eager fp32. Then
for each network the real command on one process, from JPEG files to the store, beside those forward
passes alone and beside the plain PyTorch loop of the peers. No mirror images. The files are a few
of the sample's under many names, the weights those that torch starts with. The start is the real
command on the sample alone. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
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

from distreid.benchmark.peer_loop import PeerImages, peer_loop
from distreid.data.source import open_data
from distreid.errors import CompileError, OptionError
from distreid.host.machine import cores
from distreid.images.loader import ImageRows
from distreid.inference.compilation import EAGER, MODES
from distreid.inference.extractor import PRECISIONS, Extractor, check_precision
from distreid.inference.views import Augmentation
from distreid.models.checkpoint import Model, load_model

WAYS = {"eager": EAGER, "compiled": "auto", "compiled, graphs": "max"}
PARTS = ("peak", "start", "forward", "end_to_end", "plain")
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


def peaks(precisions: list[str], device: torch.device) -> dict[str, float]:
    """Of those of the precisions that the device has."""
    found = {}
    for precision in precisions:
        try:
            check_precision(precision, device)
        except OptionError as error:
            print(f"{precision}: {error}", file=sys.stderr)
            continue
        found[precision] = peak(precision, device)
    return found


def forward_rates(
    file: Path, device: torch.device, batch_size: int, seconds: float,
    precisions: list[str], ways: list[str],
) -> list[dict[str, Any]]:  # fmt: skip
    """Of those of the ways and precisions that the device has; fp32 eager, to which the others are
    compared, is always computed once."""
    found: list[dict[str, Any]] = []
    model = load_model(str(file))
    of_an_image = operations(model)
    images = ImageRows(open_data("sample"), model.architecture.preprocess)[range(batch_size)]
    batch = images.images_BCHW.to(device)

    def make(precision: str) -> Extractor:
        return Extractor(
            model, Augmentation(flip=False), precision=precision, device=device, threads=cores()
        )

    exact, _ = make("fp32")(batch)
    for precision in precisions:
        for way in ways:
            option = WAYS[way]
            torch._dynamo.reset()
            try:
                extractor = make(precision)
                if option != EAGER:
                    extractor.compile(MODES[option], batch_size, batch)
            except (OptionError, CompileError) as error:
                print(f"{precision}, {way}: {error}", file=sys.stderr)
                continue
            features, _ = extractor(batch)

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


def start(device: str) -> dict[str, Any]:
    """Seconds of the whole command on the sample, and where it says that they went."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "distreid.extract", "--data", "sample", "--checkpoint"]
        command += ["sample", "--device", device, "--out", f"{folder}/run"]
        began = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - began
    if done.returncode:
        sys.exit(done.stderr)
    phases = [line for line in done.stderr.splitlines() if line.startswith("phases")]
    return {"seconds": seconds, "phases": " ".join("".join(phases).split()[1:])}


def end_to_end(
    file: Path, data: str, device: str, batch_size: int, options: list[str]
) -> dict[str, Any]:
    """Images/s from JPEG files to a verified store, and where the time went."""
    line = [
        "--data", data, "--layout", "folder", "--checkpoint", str(file), "--no-flip",
        "--device", device, "--batch-size", str(batch_size),
    ]  # fmt: skip
    rate, split = measure(1, 1, [*line, *options])
    return {"images_per_second": rate, "split": split, "options": options}


def forward_table(title: str, found: list[dict[str, Any]]) -> Table:
    """For people."""
    table = Table("precision", "way", "images/s", "of the peak", "cosine", title=title)
    for each in found:
        table.add_row(
            each["precision"], each["way"], f"{each['images_per_second']:,.0f}",
            f"{each['share_of_peak']:.0%}", f"{each['cosine']:.6f}",
        )  # fmt: skip
    return table


def main() -> None:
    """A table for each network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS), choices=PRECISIONS)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument(
        "--options", default=" ".join(FASTEST), help=f"of the end to end ({' '.join(FASTEST)})"
    )
    known = parser.parse_args()
    device = torch.device(known.device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{cores()} CPU cores"
    console = Console(highlight=False)
    result: dict[str, Any] = {"device": name, "batch_size": known.batch_size}
    if "peak" in known.parts:
        result["peak"] = peaks(known.precisions, device)
        for precision, rate in result["peak"].items():
            console.print(f"matrix peak, {precision}: {rate / 1e12:.3g} TFLOP/s")
    if "start" in known.parts:
        result["start"] = start(known.device)
        console.print(
            "the sample, start to end: {seconds:.1f} s ({phases})".format(**result["start"])
        )
    of_networks = set(known.parts) & {"forward", "end_to_end", "plain"}
    with tempfile.TemporaryDirectory() as folder:
        if of_networks & {"end_to_end", "plain"}:
            link(Path(folder) / "data", known.rows)
        for network in known.networks if of_networks else ():
            file = untrained(network, Path(folder) / network)
            line: dict[str, Any] = {"network": network}
            if "forward" in known.parts:
                line["forward"] = forward_rates(
                    file, device, known.batch_size, known.seconds, known.precisions, known.ways
                )
                console.print(forward_table(network, line["forward"]))
            if "end_to_end" in known.parts:
                line["end_to_end"] = end_to_end(
                    file, f"{folder}/data", known.device, known.batch_size, known.options.split()
                )
            if "plain" in known.parts:
                line["plain"] = plain_rate(file, f"{folder}/data", device, 5 * known.seconds)
            console.print(in_words(line))
            result.setdefault("networks", []).append(line)
    print(json.dumps(result))


def in_words(line: dict[str, Any]) -> str:
    """What a network reaches from files to a store, beside what it might."""
    if "end_to_end" not in line:
        return ""
    found = line["end_to_end"]
    rate = found["images_per_second"]
    text = f"end to end, {' '.join(found['options'])}: {rate:,.0f} images/s ({found['split']})"
    if alone := max((each["images_per_second"] for each in line.get("forward", ())), default=0):
        text += f"; {rate / alone:.0%} of the fastest forward passes alone"
    if "plain" in line:
        text += f"; {rate / line['plain']:.1f} times the plain loop's {line['plain']:,.0f}"
    return text


if __name__ == "__main__":
    main()
