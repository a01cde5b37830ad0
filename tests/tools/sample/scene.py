"""Four surveillance cameras: where they stand, what they see behind people, how they see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from raster import Floats

# A place's colours: ground points (N, 2) in metres -> (N, 3) sRGB 0..1, and the same for the wall
# behind, whose points are (along, up).
Texture = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Camera:
    """One camera and its place.

    height, distance: of the lens to the ground and the people, metres.  headings: the usual
    walking directions in degrees, 0 towards the camera; spread: their standard deviation.
    sun: direction towards the light (x right, y away from the camera, z up).  gain, saturation,
    contrast, gamma: the sensor's colours.  blur: pixels of the 64x128 image.  noise: of 0..1.
    """

    height: float
    distance: float
    headings: tuple[float, ...]
    spread: float
    sun: tuple[float, float, float]
    sun_colour: tuple[float, float, float]
    sky_colour: tuple[float, float, float]
    shadow: float
    gain: tuple[float, float, float]
    saturation: float
    contrast: float
    blur: float
    noise: float
    quality: int
    wall_distance: tuple[float, float]
    ground: Texture
    wall: Texture


def value_noise(points: Floats, seed: int) -> Floats:
    """(N,) smooth noise 0..1 with period-free cells of size 1 at points (N, 2)."""
    cell = np.floor(points)
    t = points - cell
    t = t * t * (3 - 2 * t)

    def corner(dx: int, dy: int) -> Floats:
        ix, iy = (cell + np.array([dx, dy])).astype(np.int64).T
        mixed = (ix * 374761393 + iy * 668265263 + seed * 362437) & 0x7FFFFFFF
        mixed = ((mixed ^ (mixed >> 13)) * 1274126177) & 0x7FFFFFFF
        value: Floats = (mixed ^ (mixed >> 16)) % 65536 / 65535
        return value

    low = corner(0, 0) * (1 - t[:, 0]) + corner(1, 0) * t[:, 0]
    high = corner(0, 1) * (1 - t[:, 0]) + corner(1, 1) * t[:, 0]
    return low * (1 - t[:, 1]) + high * t[:, 1]


def _clouds(points: Floats, seed: int) -> Floats:
    """(N,) three octaves of noise, 0..1."""
    octaves = [value_noise(points * 2.0**k, seed + k) * 0.5**k for k in range(3)]
    return (octaves[0] + octaves[1] + octaves[2]) / 1.75


def _mix(share: Floats, low: tuple[float, ...], high: tuple[float, ...]) -> Floats:
    """(N, 3) between two colours."""
    start, end = np.array(low), np.array(high)
    colour: Floats = start + share[:, None] * (end - start)
    return colour


def _paving(points: Floats) -> Floats:
    tile = np.floor(points / 0.6)
    shade = value_noise(tile + 0.5, 5) * 0.6 + _clouds(points * 3, 6) * 0.4
    colour = _mix(shade, (0.56, 0.52, 0.45), (0.74, 0.70, 0.62))
    joint = ((points / 0.6) % 1 < 0.06).any(axis=1)
    colour[joint] *= 0.62
    return colour


def _bricks(points: Floats) -> Floats:
    along, up = points.T
    row = np.floor(up / 0.16)
    stone = np.stack([np.floor(along / 0.4 + 0.5 * (row % 2)), row], axis=1)
    colour = _mix(value_noise(stone + 0.5, 11), (0.47, 0.27, 0.21), (0.66, 0.42, 0.32))
    mortar = (up / 0.16 % 1 < 0.12) | ((along / 0.4 + 0.5 * (row % 2)) % 1 < 0.05)
    colour[mortar] = (0.66, 0.6, 0.53)
    # Windows with light frames, each with its own blind.
    bay = along / 2.6 % 1
    window = (bay > 0.3) & (bay < 0.75) & (up > 0.9) & (up < 2.3)
    pane = window & (bay > 0.33) & (bay < 0.72) & (up > 1.0) & (up < 2.2)
    colour[window] = (0.86, 0.84, 0.78)
    blind = value_noise(np.stack([np.floor(along / 2.6), along * 0], axis=1) + 0.5, 12)
    colour[pane] = _mix(blind, (0.12, 0.16, 0.2), (0.52, 0.56, 0.58))[pane]
    return colour


def _lawn(points: Floats) -> Floats:
    blades = _clouds(points * 9, 21) * 0.7 + _clouds(points * 1.3, 22) * 0.3
    colour = _mix(blades, (0.13, 0.22, 0.07), (0.45, 0.55, 0.24))
    path = abs(points[:, 1] + 0.5 * np.sin(points[:, 0] * 0.5)) < 0.9
    gravel = _mix(value_noise(points * 40, 23), (0.46, 0.42, 0.36), (0.66, 0.62, 0.54))
    return np.where(path[:, None], gravel, colour)


def _hedge(points: Floats) -> Floats:
    along, up = points.T
    leaves = _clouds(points * 7, 31) * 0.6 + _clouds(points * 1.7, 32) * 0.4
    colour = _mix(leaves, (0.04, 0.09, 0.03), (0.33, 0.46, 0.18))
    top = 1.5 + 0.7 * value_noise(np.stack([along * 0.6, along * 0], axis=1), 33)
    sky = _mix(np.clip(up / 6, 0, 1), (0.80, 0.86, 0.93), (0.55, 0.68, 0.88))
    colour = np.where((up > top)[:, None], sky, colour)
    trunk = abs(along / 3.4 % 1 - 0.5) < 0.045
    bark = _mix(value_noise(points * [18, 3], 34), (0.2, 0.15, 0.1), (0.42, 0.34, 0.26))
    colour[trunk] = bark[trunk]
    return colour


def _tiles(points: Floats) -> Floats:
    checker = np.floor(points / 0.5).sum(axis=1) % 2
    colour = _mix(checker, (0.60, 0.62, 0.62), (0.82, 0.83, 0.80))
    colour *= 0.92 + 0.16 * _clouds(points * 0.7, 41)[:, None]
    return colour


def _corridor(points: Floats) -> Floats:
    along, up = points.T
    colour = np.tile([0.86, 0.86, 0.80], (len(points), 1))
    colour[up < 1.1] = (0.45, 0.63, 0.58)
    colour[abs(up - 1.1) < 0.05] = (0.93, 0.93, 0.9)
    colour[up < 0.1] = (0.25, 0.27, 0.27)
    door = along / 3.1 % 1
    colour[(door < 0.34) & (up < 2.1)] = (0.55, 0.40, 0.26)
    colour[(abs(door - 0.17) < 0.155) & (up > 1.2) & (up < 1.9)] = (0.75, 0.80, 0.80)
    # Posters of any colour between the doors.
    poster = (abs(door - 0.67) < 0.12) & (abs(up - 1.65) < 0.35)
    number = np.stack([np.floor(along / 3.1), along * 0], axis=1) + 0.5
    hue = np.stack([value_noise(number, seed) for seed in (42, 43, 44)], axis=1)
    colour[poster] = (0.15 + 0.8 * hue)[poster]
    return colour


def _asphalt(points: Floats) -> Floats:
    grain = value_noise(points * 45, 51) * 0.5 + _clouds(points * 0.9, 52) * 0.5
    colour = _mix(grain, (0.17, 0.17, 0.19), (0.36, 0.36, 0.38))
    stripe = (points[:, 0] / 1.0 % 1 < 0.5) & (points[:, 1] / 6 % 1 < 0.35)
    colour[stripe] = (0.72 + 0.1 * grain[:, None] + np.zeros(3))[stripe]
    return colour


def _shops(points: Floats) -> Floats:
    along, up = points.T
    shop = np.stack([np.floor(along / 3.6), along * 0], axis=1) + 0.5
    hue = np.stack([value_noise(shop, seed) for seed in (61, 62, 63)], axis=1)
    colour = 0.12 + 0.45 * hue
    bay = along / 3.6 % 1
    glass = (bay > 0.08) & (bay < 0.92) & (up > 0.35) & (up < 2.3)
    lit = value_noise(points * [2.3, 1.6], 64)
    colour[glass] = _mix(lit, (0.10, 0.10, 0.12), (0.95, 0.78, 0.48))[glass]
    sign = (up > 2.35) & (up < 2.9)
    colour[sign] = (0.9 - 0.8 * hue)[sign]
    # Parked cars in front of every second shop.
    car = (bay > 0.1) & (bay < 0.95) & (hue[:, 0] > 0.45)
    colour[car & (up < 0.8) & (up > 0.2)] = hue[car & (up < 0.8) & (up > 0.2)][:, ::-1] * 0.8
    colour[car & (up <= 0.2)] = (0.05, 0.05, 0.06)
    return colour


CAMERAS: dict[int, Camera] = {
    # Plaza in the late sun: warm, hard shadows.
    1: Camera(
        height=2.6, distance=8.0, headings=(25, 205), spread=20,
        sun=(0.7, -0.5, 0.55), sun_colour=(1.55, 1.2, 0.8), sky_colour=(0.34, 0.38, 0.46),
        shadow=0.6, gain=(1.12, 0.98, 0.78), saturation=1.05, contrast=1.1, blur=0.35,
        noise=0.012, quality=84, wall_distance=(3.0, 8.0), ground=_paving, wall=_bricks,
    ),
    # Park under clouds, seen from high up and from the side: cold, flat, green around.
    2: Camera(
        height=5.2, distance=8.5, headings=(90, 270), spread=24,
        sun=(-0.2, 0.2, 1.0), sun_colour=(0.42, 0.45, 0.5), sky_colour=(0.62, 0.70, 0.82),
        shadow=0.25, gain=(0.82, 1.0, 1.16), saturation=0.8, contrast=0.95, blur=0.5,
        noise=0.016, quality=76, wall_distance=(4.0, 9.0), ground=_lawn, wall=_hedge,
    ),
    # Corridor with fluorescent light: greenish, overexposed, washed out.
    3: Camera(
        height=3.0, distance=5.0, headings=(0, 180), spread=26,
        sun=(0.1, -0.4, 1.0), sun_colour=(0.75, 0.85, 0.7), sky_colour=(0.62, 0.72, 0.6),
        shadow=0.2, gain=(0.94, 1.12, 0.9), saturation=0.7, contrast=0.8, blur=0.4,
        noise=0.01, quality=80, wall_distance=(1.5, 4.0), ground=_tiles, wall=_corridor,
    ),
    # Street at dusk: dark, orange lamp from behind, noisy, strongly compressed.
    4: Camera(
        height=3.6, distance=9.5, headings=(60, 150, 300), spread=35,
        sun=(-0.8, 0.35, 0.6), sun_colour=(0.72, 0.5, 0.26), sky_colour=(0.2, 0.2, 0.3),
        shadow=0.4, gain=(1.02, 0.9, 0.95), saturation=0.85, contrast=1.05, blur=0.6,
        noise=0.03, quality=68, wall_distance=(3.0, 7.0), ground=_asphalt, wall=_shops,
    ),
}  # fmt: skip
