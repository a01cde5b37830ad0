"""What frames cost: those of a video beside PyAV's own loop, and boxes beside their frames.

    python tests/benchmarks/frames.py                      1280×720, 300 frames, 10 boxes a frame
    python tests/benchmarks/frames.py --size 1920x1080 --boxes 20

Three parts, each in one process with one thread, sides in turn, by CPU seconds:

1. all frames of an H.264 video as RGB pixels, by `distreid` and by a loop of PyAV that does nothing
   else, in the order of the video;
2. k boxes of each frame, which are JPEG files, beside decoding each frame once and resizing k crops
   that were cut beforehand;
3. where there is an `ffmpeg`: whether the decoded planes are its bit for bit, and the largest
   difference of a pixel of ours from its PNG.

The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from distreid.data.box_request import BoxRequest
from distreid.data.locators import locate
from distreid.data.source import open_data
from distreid.host.memory import keep_freed_memory
from distreid.images.loader import open_loader
from distreid.images.preprocess import Preprocess, decode, pixels_of
from distreid.images.sampler import ShardSampler
from distreid.store.plan import Shard

Pixels = NDArray[np.uint8]
BATCH = 64
BOX = 192, 96  # pixels of height and width


def picture(number: int, height: int, width: int) -> Pixels:
    """Of a scene that moves: smooth, with some noise, as a camera's is."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    waves = [
        np.sin(x / 70 + number * (c + 1) / 25) + np.cos(y / 50 - number / 30) for c in range(3)
    ]
    noise = np.random.default_rng(number).normal(0, 4, (height, width, 1))
    return (np.stack(waves, axis=-1) * 60 + 128 + noise).clip(0, 255).astype(np.uint8)


def written(folder: Path, count: int, boxes: int, height: int, width: int) -> tuple[Path, Path]:
    """A video of so many frames, and a third of the frames as JPEGs with a table of boxes."""
    video, table = folder / "v.mp4", folder / "boxes.csv"
    (folder / "frames").mkdir()
    lines = ["path,x1,y1,x2,y2"]
    places = np.random.default_rng(0)
    with av.open(str(video), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(count):
            pixels = picture(number, height, width)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            if number % 3 == 0:
                Image.fromarray(pixels).save(folder / f"frames/{number:06d}.jpg", quality=92)
                for _ in range(boxes):
                    y, x = places.integers(0, (height - BOX[0], width - BOX[1]))
                    lines.append(f"{number:06d}.jpg,{x},{y},{x + BOX[1]},{y + BOX[0]}")
        container.mux(stream.encode())
    table.write_text("\n".join(lines))
    return video, table


def ratio(ours: Callable[[], None], theirs: Callable[[], None], turns: int) -> tuple[float, float]:
    """The median of our CPU seconds by theirs of the same turn, and of ours alone."""
    pairs = []
    for _ in range(turns + 1):
        pair = []
        for side in (ours, theirs):
            started = time.process_time()
            side()
            pair.append(time.process_time() - started)
        pairs.append(pair)
    return (
        statistics.median(a / b for a, b in pairs[1:]),
        statistics.median(a for a, _ in pairs[1:]),
    )


def of_video(video: Path, turns: int) -> tuple[float, float]:
    """Part 1."""
    manifest = open_data(str(video))

    def ours() -> None:
        for row in range(len(manifest)):
            pixels_of(manifest.file(row))

    def plain() -> None:
        with av.open(str(video)) as container:
            container.streams.video[0].codec_context.thread_count = 1
            for frame in container.decode(video=0):
                frame.to_ndarray(format="rgb24", threads=1)

    return ratio(ours, plain, turns)


def of_boxes(table: Path, turns: int) -> tuple[float, float]:
    """Part 2."""
    manifest = open_data(str(table.parent / "frames"), boxes=BoxRequest(file=str(table)))
    preprocess = Preprocess()
    shard = Shard(index=0, start=0, stop=len(manifest))
    loader = open_loader(
        manifest,
        preprocess,
        ShardSampler([shard], rank=0, world_size=1),
        batch_size=BATCH,
        num_workers=0,
        pin_memory=False,
    )
    frames = list(dict.fromkeys(locate(manifest.file(row)).frame for row in range(len(manifest))))
    load = preprocess.loader()
    crops = [load(manifest.file(row)) for row in range(len(manifest))]

    def ours() -> None:
        for batch in loader:
            assert not batch.failures, batch.failures

    def parts() -> None:
        for file in frames:
            pixels_of(file)
        for start in range(0, len(crops), BATCH):
            preprocess.resize(crops[start : start + BATCH])

    return ratio(ours, parts, turns)


def against_ffmpeg(video: Path, folder: Path) -> tuple[bool, int] | None:
    """Part 3: whether the planes are the same, and the largest difference of a pixel of RGB."""
    if shutil.which("ffmpeg") is None:
        return None
    quiet = ("ffmpeg", "-v", "error", "-i", os.fspath(video), "-fps_mode", "passthrough")
    planes = folder / "planes"
    subprocess.run([*quiet, "-f", "rawvideo", "-pix_fmt", "yuv420p", planes], check=True)
    pictures = folder / "png"
    pictures.mkdir()
    subprocess.run([*quiet, "-frames:v", "50", pictures / "%06d.png"], check=True)
    with av.open(str(video)) as container, planes.open("rb") as theirs:
        same = all(
            theirs.read(frame.width * frame.height * 3 // 2) == frame.to_ndarray().tobytes()
            for frame in container.decode(video=0)
        )
    largest = 0
    for file in sorted(pictures.iterdir()):
        ours = pixels_of(Path(f"{video}#/{file.stem}.ppm")).astype(int)
        largest = max(largest, int(np.abs(ours - decode(file.read_bytes())).max()))
    return same, largest


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--boxes", type=int, default=10, help="of each frame")
    parser.add_argument("--size", default="1280x720")
    parser.add_argument("--turns", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as the job does
    width, height = map(int, asked.size.split("x"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        video, table = written(folder, asked.frames, asked.boxes, height, width)
        of_frames, seconds = of_video(video, asked.turns)
        print(
            f"video          {1 / of_frames:.2f} of the rate of PyAV's loop, "
            f"{asked.frames / seconds:,.0f} frames/s"
        )
        cost, seconds = of_boxes(table, asked.turns)
        print(f"{asked.boxes} boxes a frame  {cost:.2f} × decoding once and {asked.boxes} resizes")
        compared = against_ffmpeg(video, folder)
        if compared is None:
            print("no ffmpeg: planes and pixels are not compared")
        else:
            same, largest = compared
            print(f"planes {'are' if same else 'ARE NOT'} those of ffmpeg; a pixel of its PNG "
                  f"differs by {largest} at most")  # fmt: skip
    print(
        json.dumps(
            {
                "video_rate": 1 / of_frames,
                "boxes_cost": cost,
                "ffmpeg": compared,
                "pyav": av.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()
