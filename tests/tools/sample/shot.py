"""Takes one picture: people, ground, wall, light, things in the way, sensor, JPEG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from body import Part
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from raster import Floats, Mesh, join, rasterise, vertex_normals
from scene import Camera, value_noise
from wardrobe import Person, paint

WIDTH, HEIGHT = 64, 128
_FINE = 3  # supersampling per axis
_BYTES = 4000  # a file stays below one 4 KiB block


@dataclass(frozen=True)
class Framing:
    """How the detector's box sits on a person: size relative to the person, shift in boxes."""

    zoom: float
    shift: tuple[float, float]


def random_framing(rng: Generator) -> Framing:
    """A good detector's box: a little loose, a little off."""
    shift = float(rng.normal(0, 0.035)), float(rng.normal(0, 0.02))
    return Framing(float(rng.uniform(1.0, 1.16)), shift)


def bad_framing(rng: Generator) -> Framing:
    """A box that cuts a person in half or shows only a part."""
    if rng.random() < 0.5:
        side = rng.choice([-1, 1])
        return Framing(float(rng.uniform(0.9, 1.3)), (side * float(rng.uniform(0.42, 0.7)), 0.05))
    return Framing(float(rng.uniform(0.35, 0.6)), (0.1, float(rng.choice([-1, 1])) * 0.6))


def _linear(colour: Floats) -> Floats:
    return np.clip(colour, 0, 1) ** 2.2


def _blur(image: Floats, sigma: float) -> Floats:
    """Gaussian blur of (H, W, ...) along both image axes."""
    radius = max(1, int(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    for axis in (0, 1):
        pad = [(0, 0)] * image.ndim
        pad[axis] = (radius, radius)
        padded = np.pad(image, pad, mode="edge")
        size = image.shape[axis]
        image = sum(
            (k * np.take(padded, range(i, i + size), axis=axis) for i, k in enumerate(kernel)),
            np.zeros_like(image),
        )
    return image


class View:
    """A pinhole camera at (0, -distance, height) looking at the people, cropped to a box."""

    def __init__(
        self,
        camera: Camera,
        subject: Floats,
        framing: Framing,
        width: int = WIDTH,
        height: int = HEIGHT,
    ) -> None:
        """subject: (V, 3) points that the box is laid around.  width, height: of it in pixels."""
        self.width, self.height = width, height
        self.eye = np.array([0.0, -camera.distance, camera.height])
        forward = np.array([0.0, 0.0, 0.95]) - self.eye
        self.forward = forward / np.linalg.norm(forward)
        self.right = np.array([1.0, 0.0, 0.0])
        self.up = np.cross(self.right, self.forward)
        self.centre, self.unit = np.zeros(2), 1.0
        points, _ = self.project(subject)
        low, high = points.min(axis=0), points.max(axis=0)
        self.unit = float(high[1] - low[1]) * framing.zoom / height
        box = np.array([width, height]) * self.unit
        self.centre = (low + high) / 2 + np.array(framing.shift) * box - box / 2

    def project(self, points: Floats) -> tuple[Floats, Floats]:
        """Image coordinates (N, 2) in pixels of the final image and depths (N,)."""
        seen = points - self.eye
        depth = seen @ self.forward
        flat = np.stack([seen @ self.right, -seen @ self.up], axis=1) / depth[:, None]
        return (flat - self.centre) / self.unit, depth

    def rays(self, fine: int) -> Floats:
        """(height * fine * width * fine, 3) directions through the pixel centres."""
        y, x = np.mgrid[0 : self.height * fine, 0 : self.width * fine].reshape(2, -1)
        flat = (np.stack([x, y], axis=1) + 0.5) / fine * self.unit + self.centre
        rays: Floats = self.forward + flat[:, :1] * self.right - flat[:, 1:] * self.up
        return rays


def backdrop(camera: Camera, view: View, shadow: Floats, rng: Generator) -> Floats:
    """(height, width, 3) linear light from ground and wall; shadow (height, width) 0..1."""
    fine = 2
    rays = view.rays(fine)
    wall = rng.uniform(*camera.wall_distance)
    with np.errstate(divide="ignore"):
        to_wall = (wall - view.eye[1]) / rays[:, 1]
        to_ground = np.where(rays[:, 2] < 0, -view.eye[2] / rays[:, 2], np.inf)
    on_ground = to_ground < to_wall
    hit = view.eye + rays * np.where(on_ground, to_ground, to_wall)[:, None]
    place = rng.uniform(-500, 500)
    across = np.array([place, rng.uniform(-3, 3)])
    colour = np.empty_like(hit)
    colour[on_ground] = camera.ground(hit[on_ground, :2] + across)
    colour[~on_ground] = camera.wall(hit[~on_ground][:, [0, 2]] + np.array([place, 0]))
    sun = np.array(camera.sun) / np.linalg.norm(camera.sun)
    sun_colour, sky_colour = np.array(camera.sun_colour), np.array(camera.sky_colour)
    light = np.where(
        on_ground[:, None], sky_colour + sun_colour * sun[2], sky_colour + sun_colour * 0.45
    )
    image = (_linear(colour) * light).reshape(view.height, fine, view.width, fine, 3)
    image = image.mean(axis=(1, 3))
    ground = on_ground.reshape(view.height, fine, view.width, fine).mean(axis=(1, 3))
    lit: Floats = image * (1 - camera.shadow * shadow * ground)[:, :, None]
    return lit


def shadow_of(camera: Camera, view: View, mesh: Mesh) -> Floats:
    """(height, width) 0..1: the mesh's shadow on the ground, wherever the ground is seen."""
    sun = np.array(camera.sun)
    fallen = mesh.vertices - mesh.vertices[:, 2:] * sun / sun[2]
    points, _ = view.project(fallen)
    cells = np.floor(points).astype(np.int64)
    inside = ((cells >= 0) & (cells < [view.width, view.height])).all(axis=1)
    flat = cells[inside, 1] * view.width + cells[inside, 0]
    mask = np.bincount(flat, minlength=view.width * view.height) > 0
    mask = mask.reshape(view.height, view.width)
    return np.clip(_blur(mask.astype(float), 1.3) * 1.2, 0, 1)


def people_seen(
    camera: Camera, view: View, people: Sequence[tuple[Person, Mesh]], rng: Generator
) -> tuple[Floats, Floats]:
    """Premultiplied linear colour (height, width, 3) and coverage (height, width)."""
    width, height = view.width, view.height
    mesh = join([mesh for _, mesh in people])
    owner = np.repeat(np.arange(len(people)), [len(mesh.faces) for _, mesh in people])
    points, depth = view.project(mesh.vertices)
    face, weights = rasterise(points * _FINE, depth, mesh.faces, width * _FINE, height * _FINE)
    seen = np.flatnonzero(face >= 0)
    face, weights = face[seen], weights[seen]
    corners = mesh.faces[face]

    def at_pixels(values: Floats) -> Floats:
        mean: Floats = (values[corners] * weights[:, :, None]).sum(axis=1)
        return mean

    canon, part = at_pixels(mesh.canon), mesh.part[face]
    albedo = np.empty((len(seen), 3))
    for number, (person, _) in enumerate(people):
        own = owner[face] == number
        albedo[own] = paint(person, part[own], canon[own])
    # Folds: the cloth's normals lean a little, differently in every picture.
    normals = at_pixels(vertex_normals(mesh.vertices, mesh.faces))
    cloth = ~np.isin(part, [Part.HEAD, Part.HAND, Part.FOOT, Part.BRIM])
    seed = int(rng.integers(1 << 20))
    for axis in (0, 2):
        fold = value_noise(canon[:, [0, 2]] * [16, 11], seed + axis) - 0.5
        normals[:, axis] += 0.75 * fold * cloth
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)

    sun = np.array(camera.sun) / np.linalg.norm(camera.sun)
    facing = np.clip(normals @ sun, 0, None)[:, None]
    sky = 0.62 + 0.38 * normals[:, 2:]
    light = facing * np.array(camera.sun_colour) + sky * np.array(camera.sky_colour)
    fine = np.zeros((height * _FINE * width * _FINE, 4))
    fine[seen, :3] = _linear(albedo) * light
    fine[seen, 3] = 1
    image = fine.reshape(height, _FINE, width, _FINE, 4).mean(axis=(1, 3))
    return image[:, :, :3], image[:, :, 3]


def _in_the_way(image: Floats, rng: Generator) -> Floats:
    """The linear image with something in front: a post, a bush or a box."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(float)
    kind = rng.choice(["post", "bush", "box"])
    level = float(image.mean())
    if kind == "post":
        centre, half = rng.uniform(8, 56), rng.uniform(2, 4.5)
        mask = abs(x - centre) < half
        colour = np.array(rng.uniform(0.4, 1.3, 3).mean() + rng.normal(0, 0.08, 3))
        shade = (1.1 - 0.5 * abs(x - centre) / half)[:, :, None] * colour
    elif kind == "bush":
        noise = value_noise(np.stack([x.ravel(), y.ravel()], 1) / 5, int(rng.integers(1 << 20)))
        leaf = noise.reshape(HEIGHT, WIDTH)
        mask = y > HEIGHT * rng.uniform(0.62, 0.82) + 14 * leaf + 0.1 * abs(x - rng.uniform(0, 64))
        shade = (0.3 + 1.1 * leaf[:, :, None]) * np.array([0.5, 0.75, 0.3])
    else:
        left, top = rng.uniform(-20, 30), HEIGHT * rng.uniform(0.6, 0.8)
        mask = (x > left) & (x < left + rng.uniform(25, 50)) & (y > top)
        colour = rng.uniform(0.2, 1.6, 3)
        shade = np.where(y < top + 5, 1.25, 0.85)[:, :, None] * colour
    soft = _blur(mask.astype(float), 0.5)[:, :, None]
    covered: Floats = image * (1 - soft) + soft * np.clip(shade * level * 1.2, 0, 1)
    return covered


def sensed(
    camera: Camera, light: Floats, rng: Generator, grain_rng: Generator | None = None
) -> NDArray[np.uint8]:
    """Pixels from linear light (height, width, 3), through the camera's lens and sensor.

    grain_rng: makes the noise; rng alone decides the exposure then.
    """
    grain_rng = grain_rng or rng
    light = light * np.array(camera.gain) * rng.lognormal(0, 0.13) * rng.normal(1, 0.025, 3)
    light = _blur(light, camera.blur * rng.uniform(0.8, 1.5))
    image = np.clip(light, 0, None) ** (1 / 2.2)
    grey = image.mean(axis=2, keepdims=True)
    image = grey + (image - grey) * camera.saturation
    image = 0.5 + (image - 0.5) * camera.contrast * rng.uniform(0.92, 1.08)
    grain = grain_rng.normal(0, camera.noise, (*image.shape[:2], 1)) + grain_rng.normal(
        0, camera.noise / 2, image.shape
    )
    pixels: NDArray[np.uint8] = (np.clip(image + grain, 0, 1) * 255 + 0.5).astype(np.uint8)
    return pixels


def _jpeg(camera: Camera, pixels: NDArray[np.uint8], rng: Generator) -> bytes:
    """A JPEG file that stays below `_BYTES`."""
    quality = camera.quality + int(rng.integers(-4, 5))
    while True:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=quality, optimize=True)
        if file.tell() <= _BYTES:
            return file.getvalue()
        quality -= 4


def take(
    camera: Camera,
    people: Sequence[tuple[Person, Mesh]],
    framing: Framing,
    rng: Generator,
    hidden: float = 0.16,
    empty: bool = False,
) -> bytes:
    """A JPEG file of people (who, mesh in the world), the first of them in the box.

    hidden: how often something stands in the way.  empty: only the place behind them is seen.
    """
    view = View(camera, people[0][1].vertices, framing)
    if empty:
        light = backdrop(camera, view, np.zeros((HEIGHT, WIDTH)), rng)
    else:
        shadow = np.clip(sum(shadow_of(camera, view, mesh) for _, mesh in people), 0, 1)
        colour, cover = people_seen(camera, view, people, rng)
        behind = backdrop(camera, view, shadow, rng)
        light = colour + behind * (1 - cover[:, :, None])
    if rng.random() < hidden:
        light = _in_the_way(light, rng)
    return _jpeg(camera, sensed(camera, light, rng), rng)
