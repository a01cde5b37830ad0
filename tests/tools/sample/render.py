"""Renders synthetic pedestrians in the layout and file names of Market-1501.

    python render.py sample OUT      query/ and bounding_box_test/, about 1 minute
    python render.py train OUT       bounding_box_train/, about 8 minutes

(on two CPU cores; the first use of the body model adds about 80 seconds).  The same command
writes the same bytes: every picture has its own random generator, made from the seed, the person,
the camera and the frame number.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from body import Body, rotation
from numpy.random import Generator, default_rng
from props import dressed
from raster import Floats, Mesh
from scene import CAMERAS, Camera
from shot import bad_framing, random_framing, take
from wardrobe import Person, random_person

SAMPLE_SEED, TRAIN_SEED = 1501, 51
SAMPLE_PEOPLE, DISTRACTORS, JUNK = 102, 36, 28


@dataclass(frozen=True)
class Shot:
    """One picture to take: its folder and file name, and what decides its contents.

    person: number of the person within the seed.  kind: a "good" or "bad" box, or "empty".
    """

    folder: str
    name: str
    seed: int
    person: int
    camera: int
    frame: int
    kind: str = "good"


def _name(label: str, camera: int, frame: int, box: int) -> str:
    return f"{label}_c{camera}s1_{frame:06d}_{box:02d}.jpg"


def plan_sample(seed: int) -> list[Shot]:
    """Per person two query images and four gallery images; then distractors and junk."""
    rng = default_rng(seed)
    shots = []

    def add(folder: str, label: str, person: int, camera: int, box: int, kind: str) -> None:
        frame = 25 * person + 8000 * (camera - 1) + int(rng.integers(25)) + 1
        name = _name(label, camera, frame + 400 * box, box)
        shots.append(Shot(folder, name, seed, person, camera, frame + 400 * box, kind))

    for person in range(1, SAMPLE_PEOPLE + 1):
        seen = [int(c) for c in rng.permutation(list(CAMERAS))]
        if rng.random() < 0.3:  # missed by one camera, caught twice by another
            seen[3] = seen[int(rng.integers(3))]
        for camera in seen[:2]:
            add("query", f"{person:04d}", person, camera, 0, "good")
        for number, camera in enumerate(seen):
            add("bounding_box_test", f"{person:04d}", person, camera, number + 1, "good")
    for number in range(DISTRACTORS + JUNK):
        person, camera = SAMPLE_PEOPLE + 1 + number, number % 4 + 1
        if number < DISTRACTORS:
            add("bounding_box_test", "0000", person, camera, 1, "good")
        else:
            kind = "empty" if number % 3 == 0 else "bad"
            add("bounding_box_test", "-1", person, camera, 1, kind)
    return shots


def plan_train(seed: int, people: int, per_camera: int) -> list[Shot]:
    """Every person `per_camera` times on every camera."""
    return [
        Shot("bounding_box_train", _name(f"{person:04d}", camera, frame, 1), seed, person, camera,
             frame)
        for person in range(1, people + 1)
        for camera in CAMERAS
        for frame in range(25 * person, 25 * person + per_camera)
    ]  # fmt: skip


def _placed(person: Person, body: Body, heading: float, at: Floats, rng: Generator) -> Mesh:
    mesh = dressed(person, body, rng)
    mesh.vertices = mesh.vertices @ rotation("z", heading).T + at
    return mesh


def photograph(shot: Shot, body: Body) -> bytes:
    """The JPEG file of a shot."""
    camera: Camera = CAMERAS[shot.camera]
    person = random_person(default_rng([shot.seed, shot.person]))
    rng = default_rng([shot.seed, shot.person, shot.camera, shot.frame])
    heading = float(rng.choice(camera.headings) + rng.normal(0, camera.spread))
    people = [(person, _placed(person, body, heading, np.zeros(3), rng))]
    if rng.random() < 0.12:
        other = random_person(rng)
        at = np.array([rng.choice([-1, 1]) * rng.uniform(0.35, 0.8), rng.uniform(-0.6, 1.5), 0])
        people.append((other, _placed(other, body, float(rng.uniform(0, 360)), at, rng)))
    framing = random_framing(rng) if shot.kind == "good" else bad_framing(rng)
    return take(camera, people, framing, rng, empty=shot.kind == "empty")


_body: Body


def _start() -> None:
    global _body
    torch.set_num_threads(1)
    _body = Body()


def _job(shot: Shot) -> tuple[Shot, bytes]:
    return shot, photograph(shot, _body)


def render(shots: list[Shot], out: Path, processes: int) -> None:
    """Writes the shots below `out`, in parallel, and says how far it is."""
    for folder in sorted({shot.folder for shot in shots}):
        (out / folder).mkdir(parents=True, exist_ok=True)
    print(f"{len(shots)} pictures, about {0.14 * len(shots) / processes / 60:.1f} minutes")
    with multiprocessing.get_context("spawn").Pool(processes, _start) as pool:
        done: Iterator[tuple[Shot, bytes]] = pool.imap(_job, shots, chunksize=8)
        begin = time.monotonic()
        for count, (shot, file) in enumerate(done, 1):
            (out / shot.folder / shot.name).write_bytes(file)
            if count % 200 == 0 or count == len(shots):
                rate = count / (time.monotonic() - begin)
                left = (len(shots) - count) / rate
                print(f"{count}/{len(shots)}  {rate:.1f} pictures/s  {left:.0f} s left", flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["sample", "train"])
    parser.add_argument("out", type=Path, help="folder to write into")
    parser.add_argument("--seed", type=int, help="default: 1501 for the sample, 51 for training")
    parser.add_argument("--people", type=int, default=500, help="training identities")
    parser.add_argument("--per-camera", type=int, default=3, help="training pictures per camera")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    if options.what == "sample":
        shots = plan_sample(SAMPLE_SEED if options.seed is None else options.seed)
    else:
        seed = TRAIN_SEED if options.seed is None else options.seed
        shots = plan_train(seed, options.people, options.per_camera)
    render(shots, options.out, options.processes)


if __name__ == "__main__":
    main()
