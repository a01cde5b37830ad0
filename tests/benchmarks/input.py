"""What an image costs before the model sees it, beside the transforms of the peers' test scripts.

    python tests/benchmarks/input.py                       64×128 JPEGs of 5 kB to 256×128
    python tests/benchmarks/input.py --source 252x88       others, as hand-cut crops have them
    python tests/benchmarks/input.py --data DIR --size 384x128

Without --data, the images are the sample's with noise, so that they are as large as photographs,
enlarged to --source.

All sides in turn, from warm files to batches, ours uint8, theirs float32: in one process, and by
one worker process of a DataLoader for another, as jobs do. Ours once more with `--cache`, which is
full. The rate is per core: images divided by the CPU seconds of all processes. First, ours are
compared with Pillow's pixels. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, set_start_method
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from distreid.benchmark.peer_loop import PeerImages
from distreid.data.manifest import Manifest
from distreid.data.source import open_data
from distreid.host.memory import keep_freed_memory
from distreid.images.image_cache import TICK_NS, ImageCache
from distreid.images.loader import ImageRows, open_loader
from distreid.images.preprocess import Preprocess
from distreid.images.sampler import ShardSampler
from distreid.job.options import input_size
from distreid.store.plan import Plan, Shard

BATCH = 64
SIDES = ("ours", "theirs", "cached")


def noisy(folder: Path, height: int, width: int) -> str:
    """The sample's images in this size with noise, in one folder."""
    manifest, generator = open_data("sample"), np.random.default_rng(0)
    for row in range(len(manifest)):
        with Image.open(manifest.file(row)) as image:
            large = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
            pixels = large + generator.normal(0, 12, large.shape)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(
            folder / f"{row:04d}.jpg", quality=92
        )
    return str(folder)


def full_cache(folder: str, manifest: Manifest, preprocess: Preprocess) -> ImageCache:
    """A cache in the folder that has all images; the second time, it is there."""
    plan = Plan(
        manifest=manifest,
        identity={"manifest": manifest.fingerprint()},
        provenance={},
        dim=1,
        dtype="float32",
        shard_rows=len(manifest),
    )
    cache = ImageCache(Path(folder), plan, preprocess)
    if not cache.file.exists():
        time.sleep(TICK_NS / 1e9)  # files that are so new are not kept
        for _ in ours(manifest, preprocess, len(manifest), 0, cache):
            pass
    return cache


def ours(
    manifest: Manifest, preprocess: Preprocess, rows: int, workers: int, cache: ImageCache | None
) -> Iterable[object]:
    """Batches of the job's loader."""
    passes = [
        Shard(index=i, start=0, stop=len(manifest)) for i in range(max(1, rows // len(manifest)))
    ]
    sampler = ShardSampler(passes, rank=0, world_size=1)
    return open_loader(
        manifest,
        preprocess,
        sampler,
        batch_size=BATCH,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        cache=cache,
    )


def theirs(manifest: Manifest, preprocess: Preprocess, rows: int, workers: int) -> Iterable[object]:
    """Batches of a plain DataLoader."""
    images = PeerImages(manifest, preprocess)
    order = list(range(len(manifest))) * max(1, rows // len(manifest))
    return DataLoader(
        images, BATCH, sampler=order, num_workers=workers, pin_memory=torch.cuda.is_available()
    )


def measure(
    side: str, workers: int, data: str, preprocess: Preprocess, rows: int, cached: str
) -> float:
    """Images a CPU second of one side, in a process of its own."""
    torch.set_num_threads(1)
    set_start_method("fork", force=True)  # of the worker, as in the job
    manifest = open_data(data)
    if side == "theirs":
        loader = theirs(manifest, preprocess, rows, workers)
    else:
        keep_freed_memory()  # as the job does
        cache = full_cache(cached, manifest, preprocess) if side == "cached" else None
        loader = ours(manifest, preprocess, rows, workers, cache)
    started = time.process_time()
    for _ in loader:
        pass
    own = time.process_time() - started
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    images = max(1, rows // len(manifest)) * len(manifest)
    return images / (own + children.ru_utime + children.ru_stime)


def differing(manifest: Manifest, preprocess: Preprocess) -> int:
    """How many images are not Pillow's, across first, in any bit."""
    method = Image.Resampling[preprocess.interpolation.upper()]
    size = (preprocess.width, preprocess.height)
    found = 0
    for start in range(0, len(manifest), BATCH):
        rows = range(start, min(start + BATCH, len(manifest)))
        batch = ImageRows(manifest, preprocess)[rows].images_BCHW.movedim(1, -1).numpy()
        for row, pixels in zip(rows, batch, strict=True):
            with Image.open(manifest.file(row)) as image:
                across = image.convert("RGB").resize((size[0], image.height), method)
                expected = across.resize(size, method)
            found += pixels.tobytes() != expected.tobytes()
    return found


def main() -> None:
    """Prints a line for each side, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data")
    parser.add_argument("--source", type=input_size, default=(128, 64))
    parser.add_argument("--size", type=input_size, default=(256, 128))
    parser.add_argument("--interpolation", default="bicubic", choices=["bicubic", "bilinear"])
    parser.add_argument("--rows", type=int, default=6000)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    height, width = options.size
    preprocess = Preprocess(height=height, width=width, interpolation=options.interpolation)
    rounds: dict[tuple[str, int], list[float]] = {
        (side, workers): [] for workers in (0, 1) for side in SIDES
    }
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as cached:
        data = options.data or noisy(Path(folder), *options.source)
        manifest = open_data(data)
        size = sum(manifest.file(row).stat().st_size for row in range(len(manifest)))
        print(
            f"{platform.machine()}; {len(manifest)} images of {size / len(manifest):,.0f} bytes → "
            f"{height}×{width}, of which {differing(manifest, preprocess)} differ from Pillow's"
        )
        for _ in range(options.repeat):
            for (side, workers), found in rounds.items():
                rows = options.rows // 5 if side == "theirs" else options.rows
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                    measured = pool.submit(measure, side, workers, data, preprocess, rows, cached)
                    found.append(measured.result())
    result = []
    for workers, how in ((0, "in one process"), (1, "through a worker")):
        mine, plain, kept = (statistics.median(rounds[side, workers]) for side in SIDES)
        print(
            f"{how:16} {mine:6,.0f} images/s per core, the plain transforms {plain:6,.0f}: "
            f"{mine / plain:.1f} times; from the cache {kept:6,.0f}"
        )
        result.append(
            {"workers": workers, "ours": mine, "theirs": plain, "ratio": mine / plain}
            | {"cached": kept}
        )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
