"""From JPEG files to features on the disk, beside Daft and Ray Data, the usual choice for many
machines.

    python tests/benchmarks/pipelines.py                       3,000 images, the built-in network
    python tests/benchmarks/pipelines.py --checkpoint FILE --images 1000 --repeat 1

All sides in turn, without the mirror image, each a process of its own that is timed whole, with its
start and its end. Ours is the real command. Theirs are written as their manuals do: the library
reads the files, Pillow and torchvision's transforms make pixels, torch computes batches of 32 with
all cores, Parquet is written; Ray's stages are processes, as it wants. The cosine is the least of
all images to ours. Those that are not installed are left out (pip install daft 'ray[data]').
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from distreid.benchmark.peer_loop import PeerImages
from distreid.data.source import open_data
from distreid.host.machine import cores
from distreid.models.checkpoint import load_model
from distreid.store import FeatureStore

BATCH = 32


class Pixels:
    """The peers' transform of a file's bytes."""

    def __init__(self, checkpoint: str) -> None:
        preprocess = load_model(checkpoint).architecture.preprocess
        self.transform = PeerImages(open_data("sample"), preprocess).transform

    def __call__(self, data: bytes) -> torch.Tensor:
        with Image.open(io.BytesIO(data)) as image:
            return self.transform(image.convert("RGB"))  # type: ignore[no-any-return]


class Network:
    """(B, 3, H, W) normalised images → (B, D) features of norm 1."""

    def __init__(self, checkpoint: str) -> None:
        torch.set_num_threads(cores())
        self.network = load_model(checkpoint).network

    def __call__(self, images: torch.Tensor) -> NDArray[np.float32]:
        with torch.inference_mode():
            return F.normalize(self.network(images)).numpy()


def by_daft(folder: str, checkpoint: str, out: str) -> None:
    """A row for each image: path, feature."""
    daft: Any = importlib.import_module("daft")
    kind = daft.DataType.list(daft.DataType.float32())

    @daft.cls(use_process=False)
    class Features:
        def __init__(self) -> None:
            self.pixels, self.network = Pixels(checkpoint), Network(checkpoint)

        @daft.method.batch(return_dtype=kind, batch_size=BATCH)  # type: ignore[untyped-decorator]
        def of(self, data: Any) -> Any:
            return list(self.network(torch.stack([self.pixels(each) for each in data.to_pylist()])))

    files = daft.from_glob_path(f"{folder}/*.jpg")
    found = files.with_column("feature", Features().of(files["path"].download()))
    found.select("path", "feature").write_parquet(out)


def by_ray(folder: str, checkpoint: str, out: str) -> None:
    """The same."""
    ray: Any = importlib.import_module("ray")
    ray.init(num_cpus=cores(), logging_level="ERROR", include_dashboard=False)
    ray.data.DataContext.get_current().enable_progress_bars = False

    class Decoded:
        def __init__(self) -> None:
            self.pixels = Pixels(checkpoint)

        def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
            return {"path": row["path"], "image": self.pixels(row["bytes"]).numpy()}

    class Features:
        def __init__(self) -> None:
            self.network = Network(checkpoint)

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            images = torch.from_numpy(np.stack(batch["image"]))
            return {"path": batch["path"], "feature": self.network(images)}

    files = ray.data.read_binary_files(folder, include_paths=True)
    one = ray.data.ActorPoolStrategy(size=1)
    images = files.map(Decoded, compute=one, num_cpus=1)
    images.map_batches(Features, batch_size=BATCH, compute=one, num_cpus=1).write_parquet(out)


SIDES = {"daft": by_daft, "ray": by_ray}


def ours(folder: str, checkpoint: str, out: str) -> dict[str, NDArray[np.float32]]:
    """Name of a file → its feature."""
    command = [
        sys.executable, "-m", "distreid.extract", "--data", folder, "--layout", "folder",
        "--no-flip", "--no-evaluate", "--checkpoint", checkpoint, "--out", out,
    ]  # fmt: skip
    subprocess.run(command, capture_output=True, check=True)
    store = FeatureStore.open(Path(out))
    names = [Path(os.fsdecode(path)).name for path in store.manifest.path]
    return dict(zip(names, store.features(np.arange(len(names))), strict=True))


def theirs(side: str, folder: str, checkpoint: str, out: str) -> dict[str, NDArray[np.float32]]:
    """The same."""
    command = [sys.executable, __file__, "--only", side, folder, checkpoint, out]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True)
    table = pyarrow.parquet.read_table(out)
    names = [path.rpartition("/")[2] for path in table["path"].to_pylist()]
    return dict(zip(names, np.stack(table["feature"].to_numpy()), strict=True))


def main() -> None:
    """A line for each side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default="sample")
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.only:
        side, *rest = asked.only
        SIDES[side](*rest)
        return
    sides = ["distreid", *(side for side in SIDES if importlib.util.find_spec(side))]
    sample = open_data("sample")
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    features: dict[str, dict[str, NDArray[np.float32]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder, "images")
        images.mkdir()
        for number in range(asked.images):
            data = sample.file(number % len(sample)).read_bytes()
            (images / f"{number:06d}.jpg").write_bytes(data)
        for turn in range(asked.repeat):
            for side in sides:
                out = f"{folder}/{side}-{turn}"
                given = str(images), asked.checkpoint, out
                started = time.perf_counter()
                features[side] = ours(*given) if side == "distreid" else theirs(side, *given)
                seconds[side].append(time.perf_counter() - started)
    result = []
    for side in sides:
        own = features[side]
        assert own.keys() == features["distreid"].keys()
        cosine = min(float(own[name] @ each) for name, each in features["distreid"].items())
        rate = asked.images / statistics.median(seconds[side])
        times = statistics.median(seconds[side]) / statistics.median(seconds["distreid"])
        result.append({"side": side, "images_per_second": rate, "times": times, "cosine": cosine})
        print(f"{side:10} {rate:7.1f} images/s, {times:.2f} times our time, cosine {cosine:.6f}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
