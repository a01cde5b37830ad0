"""What images cost in an archive, beside the same images as files.

    python tests/benchmarks/archives.py                 100,000 JPEGs of 64×128, warm
    python tests/benchmarks/archives.py --images 5000

The images are the sample's, again and again under other names. Each side reads, decodes and resizes
all of them in one process, in turn; the median of the ratios of CPU time to the files of the same
turn is printed, with the seconds that listing took. The last line is JSON.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

import torch

from distreid.data.archives import indexes_of
from distreid.data.manifest import Manifest
from distreid.data.source import open_data
from distreid.images.loader import ImageRows
from distreid.images.preprocess import Preprocess

BATCH = 64


def written(folder: Path, images: int) -> dict[str, str]:
    """The images as files, in a tar and in zip files; what `--data` is for each."""
    sample = open_data("sample")
    pictures = [sample.file(row).read_bytes() for row in range(len(sample))]
    data = {kind: str(folder / kind) for kind in ("files", "x.tar", "stored.zip", "deflated.zip")}
    with (
        tarfile.open(data["x.tar"], "w") as tar,
        zipfile.ZipFile(data["stored.zip"], "w") as stored,
        zipfile.ZipFile(data["deflated.zip"], "w", zipfile.ZIP_DEFLATED) as deflated,
    ):
        for number in range(images):
            name, picture = f"{number // 1000:04d}/{number:07d}.jpg", pictures[number % len(sample)]
            file = folder / "files" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(picture)
            info = tarfile.TarInfo(name)
            info.size = len(picture)
            tar.addfile(info, io.BytesIO(picture))
            stored.writestr(name, picture)
            deflated.writestr(name, picture)
    return data


def seconds(manifest: Manifest) -> float:
    """Of this process, to read, decode and resize all rows."""
    rows = ImageRows(manifest, Preprocess())
    started = time.process_time()
    for start in range(0, len(manifest), BATCH):
        batch = rows[range(start, min(start + BATCH, len(manifest)))]
        assert not batch.failures, batch.failures
    return time.process_time() - started


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--turns", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        manifests: dict[str, Manifest] = {}
        listing: dict[str, float] = {}
        for kind, data in written(Path(folder), asked.images).items():
            started = time.perf_counter()
            manifests[kind] = open_data(data, "folder")
            indexes_of(manifests[kind])
            listing[kind] = time.perf_counter() - started
        turns = [{k: seconds(m) for k, m in manifests.items()} for _ in range(asked.turns + 1)]
    ratios = {
        kind: statistics.median(turn[kind] / turn["files"] for turn in turns[1:])
        for kind in manifests
    }
    for kind, ratio in ratios.items():
        rate = asked.images / statistics.median(turn[kind] for turn in turns[1:])
        print(
            f"{kind:14} {ratio:.3f} × files, {rate:,.0f} images/s, listed in {listing[kind]:.1f} s"
        )
    print(json.dumps({"images": asked.images, "ratio": ratios, "listing_s": listing}))


if __name__ == "__main__":
    main()
