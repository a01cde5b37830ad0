"""What exports of one checkpoint take and give: a line for each format and precision.

    python tests/benchmarks/exports.py [--checkpoint sample] [--data sample] [--only onnx-fp32 …]
        [--beside FILE.onnx …]

Size of the network's files, seconds to load it, views/s (an image through the network is one) in
batches of 1, 8 and 32 on one thread, the gate's least and middle cosine, and the points of mAP that
it loses on the labelled images of the gate. The first line is the job's own: torch, on one thread.
The last ones are others' exports of the checkpoint, that take normalised images: by ONNX Runtime as
ours are, the normalisation outside their time. BoxMOT's:

    boxmot export --weights osnet_x0_25_msmt17.pt --include onnx [--dynamic]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from distreid.data.source import open_data
from distreid.errors import UserError
from distreid.export.export_options import FORMATS, ExportOptions
from distreid.export.exporting import export
from distreid.export.formats import FILES
from distreid.export.gate import Figures, batches, examine
from distreid.export.probe import Probe, make_probe
from distreid.export.run_probe import forward_of
from distreid.images.preprocess import Preprocess
from distreid.inference.extractor import Extractor
from distreid.inference.program_runtime import open_program
from distreid.inference.views import Augmentation
from distreid.models.checkpoint import load_model

Forward = Callable[..., Tensor]
BATCHES = (1, 8, 32)
SECONDS = 3.0  # of each measurement


def rate(forward: Callable[[Tensor], object], images: Tensor, views: int) -> float:
    """Views a second, of the fastest pass."""
    forward(images)
    fastest, started = float("inf"), time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        before = time.perf_counter()
        forward(images)
        fastest = min(fastest, time.perf_counter() - before)
    return len(images) * views / fastest


def line_of(
    name: str, size: int, forward: Forward, images: Mapping[int, Tensor], views: int, found: Figures
) -> str:
    """Of the table."""
    rates = "".join(f"{rate(forward, images[count], views):14.1f}" for count in BATCHES)
    lost = 100 * ((found.mAP_exact or 0) - (found.mAP or 0))
    return (
        f"{name:20}{size / 1e6:8.1f}{found.load_seconds:8.2f}{rates}"
        f"{found.least_cosine:12.7f}{found.middle_cosine:12.7f}{lost:10.2f}"
    )


def open_beside(file: str, probe: Probe, preprocess: Preprocess) -> tuple[Forward, Figures]:
    """An export of others: its forward pass, and what the gate finds."""
    program = load_model(file).architecture.program
    assert program is not None, file
    forward = open_program(program, "onnxruntime", 1)
    images = preprocess.normalise(torch.from_numpy(probe.images))
    features = {
        name: torch.cat([F.normalize(forward(images[rows])) for rows in parts]).numpy()
        for name, parts in batches(len(images)).items()
    }
    about = {"precision": "fp32", "runtime": "", "load_seconds": float("nan"), "errors": {}}
    return forward, examine(probe, features, about, 100)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default="sample")
    parser.add_argument("--data", default="sample")
    parser.add_argument("--only", nargs="+", metavar="FORMAT-PRECISION")
    parser.add_argument("--beside", nargs="+", metavar="FILE.onnx", default=[])
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model(given.checkpoint)
    preprocess = model.architecture.preprocess
    views = 1 + model.architecture.flip
    shape = (3, preprocess.height, preprocess.width)
    images = {count: torch.randint(0, 256, (count, *shape), dtype=torch.uint8) for count in BATCHES}
    print(f"{model.architecture.name}, {views} views, one thread")
    heads = "".join(f"{f'views/s by {count}':>14}" for count in BATCHES)
    print(f"{'':20}{'MB':>8}{'load s':>8}{heads}{'least cos':>12}{'middle':>12}{'mAP lost':>10}")
    augmentation = Augmentation(flip=model.architecture.flip)
    ours = Extractor(
        model,
        augmentation,
        precision="fp32",
        device=torch.device("cpu"),
        threads=1,
        fills_passes=False,
    )
    rates = "".join(f"{rate(ours, images[count], views):14.1f}" for count in BATCHES)
    print(f"{'torch':20}{'':>8}{'':>8}{rates}", flush=True)
    for kind, precisions in FORMATS.items():
        for precision in precisions:
            name = f"{kind}-{precision}"
            if kind == "triton" or (given.only and name not in given.only):
                continue  # its file is that of onnx
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder, "out")
                options = ExportOptions(
                    checkpoint=given.checkpoint, format=kind, precision=precision, out=out,
                    data=given.data, max_map_loss=100,
                )  # fmt: skip
                try:
                    found = export(options, lambda line: None)
                except UserError as error:
                    print(f"{name:20}refused: {str(error).rpartition('not published: ')[2]}")
                    continue
                size = sum((out / file).stat().st_size for file in FILES[kind])
                print(line_of(name, size, forward_of(out), images, views, found), flush=True)
    if given.beside:
        probe = make_probe(model, augmentation, open_data(given.data))
        normalised = {count: preprocess.normalise(some) for count, some in images.items()}
    for file in given.beside:
        forward, found = open_beside(file, probe, preprocess)
        size = Path(file).stat().st_size
        print(line_of(Path(file).parent.name, size, forward, normalised, 1, found), flush=True)
        if found.problem:
            print(f"{'':20}{found.problem}")


if __name__ == "__main__":
    main()
