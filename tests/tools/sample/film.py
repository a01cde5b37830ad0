"""Renders the sample video: eight people walk through two cameras, with their boxes.

    python film.py ../../../distreid/sample/video

About 8 minutes on two CPU cores. Writes `plaza.mp4` and `park.mp4`, and beside each its boxes as
a tracker writes them, in MOTChallenge's form: frame, id, x, y, w, h, score. An id is a person, the
same in both; the score is the share of the person that is seen. The same command renders the same
frames; the files are the same with the same libx264.
"""

from __future__ import annotations

import argparse
import multiprocessing
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import torch
from body import Body, rotation
from numpy.random import default_rng
from numpy.typing import NDArray
from props import dressed
from raster import Floats, Mesh, join, rasterise
from scene import CAMERAS
from shot import Framing, View, backdrop, people_seen, sensed, shadow_of
from wardrobe import Person, random_person

SEED, PEOPLE = 2031, 8
NAMES = {1: "plaza", 2: "park"}  # the cameras of the sample images
RATE, FRAMES = 5, 100  # a second; of a video
WIDTH, HEIGHT = 384, 288
PERSON = 112  # pixels of somebody of 1.75 m in the middle
DOUBLE_STEP = 1.45  # metres
LEAST_SEEN = 0.6  # what shows less of a person has no box
LOOSE = 0.04  # of a box's height, on each side

_CAMERAS, _WALKS, _LIGHT, _GRAIN, _POSE = range(5)  # what a random generator is for


@dataclass(frozen=True)
class Walk:
    """A person's way through a camera. start: seconds at which x is 0.  lane: y there."""

    person: int
    start: float
    lane: float
    heading: float
    speed: float


@dataclass(frozen=True)
class Box:
    """Where a person is seen, in pixels, and which share of the person that is."""

    person: int
    corner: tuple[float, float]
    size: tuple[float, float]
    seen: float


def walks(camera: int) -> list[Walk]:
    """One of each person, about two seconds after each other."""
    rng = default_rng([SEED, _WALKS, camera])
    found = []
    for place, person in enumerate(rng.permutation(PEOPLE) + 1):
        heading = float(rng.choice([90, 270]) + rng.normal(0, 9))
        start = 2.4 + (FRAMES / RATE - 4.8) / (PEOPLE - 1) * place + float(rng.uniform(-0.3, 0.3))
        lane, speed = float(rng.uniform(-1.3, 1.6)), float(rng.uniform(1.1, 1.45))
        found.append(Walk(int(person), start, lane, heading, speed))
    return found


def placed(walk: Walk, person: Person, body: Body, seconds: float) -> Mesh:
    """The person at that time, where they are."""
    way = walk.speed * (seconds - walk.start)
    turn = rotation("z", walk.heading)
    # The same generator in every frame: the same arms and head, which only the walk moves.
    rng = default_rng([SEED, _POSE, walk.person])
    mesh = dressed(person, body, rng, walked=way / DOUBLE_STEP)
    mesh.vertices = mesh.vertices @ turn.T + turn @ [0, -way, 0] + [0, walk.lane, 0]
    return mesh


def boxes(view: View, walkers: list[tuple[Walk, Mesh]]) -> list[Box]:
    """Those that are seen well enough, in the order of their numbers."""
    if not walkers:
        return []
    limit = np.array([view.width, view.height])

    def drawn(mesh: Mesh) -> NDArray[np.int64]:
        points, depth = view.project(mesh.vertices)
        return rasterise(points, depth, mesh.faces, view.width, view.height)[0]

    together = drawn(join([mesh for _, mesh in walkers]))
    owner = np.repeat(np.arange(len(walkers)), [len(mesh.faces) for _, mesh in walkers])
    shown = np.bincount(owner[together[together >= 0]], minlength=len(walkers))
    found = []
    for number, (walk, mesh) in enumerate(walkers):
        points, _ = view.project(mesh.vertices)
        low, high = points.min(axis=0), points.max(axis=0)
        low, high = low - LOOSE * (high - low)[1], high + LOOSE * (high - low)[1]
        inside = np.clip(high, 0, limit) - np.clip(low, 0, limit)
        alone = int((drawn(mesh) >= 0).sum())
        if not alone:
            continue
        seen = float(shown[number] / alone * inside.prod() / (high - low).prod())
        if seen >= LEAST_SEEN:
            corner = np.clip(low, 0, limit)
            found.append(Box(walk.person, tuple(corner), tuple(inside), seen))
    return sorted(found, key=lambda box: box.person)


def film(camera: int, frame: int, body: Body) -> tuple[NDArray[np.uint8], list[Box]]:
    """The pixels of a frame, counted from 0, and its boxes."""
    seconds, seen_by = frame / RATE, CAMERAS[camera]
    stick = np.array([[0, 0, 0], [0, 0, 1.75]])
    view = View(seen_by, stick, Framing(HEIGHT / PERSON, (0, 0)), WIDTH, HEIGHT)
    walkers = []
    for walk in walks(camera):
        person = random_person(default_rng([SEED, walk.person]))
        mesh = placed(walk, person, body, seconds)
        points, _ = view.project(mesh.vertices)
        if ((points[:, 0] > -WIDTH / 2) & (points[:, 0] < 1.5 * WIDTH)).any():
            walkers.append((walk, person, mesh))
    shadow: Floats = np.zeros((HEIGHT, WIDTH))
    for _, _, mesh in walkers:
        shadow = np.clip(shadow + shadow_of(seen_by, view, mesh), 0, 1)
    light = backdrop(seen_by, view, shadow, default_rng([SEED, _CAMERAS, camera]))
    if walkers:
        people = [(person, mesh) for _, person, mesh in walkers]
        colour, cover = people_seen(seen_by, view, people, default_rng([SEED, _LIGHT, camera]))
        light = colour + light * (1 - cover[:, :, None])
    exposure = default_rng([SEED, _LIGHT, camera])
    pixels = sensed(seen_by, light, exposure, default_rng([SEED, _GRAIN, camera, frame]))
    return pixels, boxes(view, [(walk, mesh) for walk, _, mesh in walkers])


def write_video(file: Path, frames: list[NDArray[np.uint8]]) -> None:
    """By libx264, a key frame every four seconds."""
    how = {"crf": "28", "preset": "veryslow", "g": str(4 * RATE)}
    with av.open(str(file), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=RATE, options=how)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.thread_count = 1  # the same bytes each time
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def write_boxes(file: Path, found: list[list[Box]]) -> None:
    """Frames count from 1."""
    lines = [
        ",".join(
            [
                *(str(frame), str(box.person)),
                *(f"{value:.1f}" for value in (*box.corner, *box.size)),
                *(f"{box.seen:.2f}", "-1", "-1", "-1"),
            ]
        )
        for frame, of_frame in enumerate(found, 1)
        for box in of_frame
    ]
    file.write_text("\n".join(lines) + "\n")


_body: Body


def _start() -> None:
    global _body
    torch.set_num_threads(1)
    _body = Body()


def _job(job: tuple[int, int]) -> tuple[NDArray[np.uint8], list[Box]]:
    return film(*job, _body)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder to write into")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with multiprocessing.get_context("spawn").Pool(options.processes, _start) as pool:
        for camera, name in NAMES.items():
            frames, found = [], []
            for pixels, seen in pool.imap(_job, [(camera, f) for f in range(FRAMES)], chunksize=2):
                frames.append(pixels)
                found.append(seen)
                if len(frames) % 25 == 0:
                    print(f"{name}: {len(frames)}/{FRAMES} frames", flush=True)
            write_video(options.out / f"{name}.mp4", frames)
            write_boxes(options.out / f"{name}.txt", found)


if __name__ == "__main__":
    main()
