"""Who people are: body shape, clothes, hair and bag, drawn at random, and their colours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from body import Part
from numpy.random import Generator
from numpy.typing import NDArray
from raster import Floats

Colour = tuple[float, float, float]
Mask = NDArray[np.bool_]

# sRGB 0..255 with how often each is worn: streets are mostly dark, blue and grey.
_UPPER = (
    ((24, 24, 27), 14), ((55, 57, 62), 8), ((120, 122, 124), 8), ((228, 226, 220), 12),
    ((28, 38, 74), 9), ((52, 88, 156), 7), ((128, 172, 214), 6), ((168, 30, 38), 7),
    ((218, 104, 40), 4), ((226, 190, 62), 5), ((62, 120, 66), 5), ((84, 92, 54), 4),
    ((200, 176, 138), 6), ((108, 72, 48), 4), ((226, 150, 172), 5), ((112, 62, 132), 4),
    ((40, 140, 140), 4), ((118, 26, 50), 4), ((152, 206, 176), 3),
)  # fmt: skip
_LOWER = (
    ((22, 22, 25), 16), ((34, 42, 68), 14), ((66, 92, 134), 12), ((126, 152, 186), 7),
    ((72, 74, 78), 9), ((136, 136, 134), 5), ((190, 168, 130), 9), ((98, 72, 50), 5),
    ((78, 84, 56), 6), ((222, 218, 208), 6), ((116, 32, 42), 3), ((170, 140, 160), 2),
)  # fmt: skip
_SKIRTS = (
    *_LOWER,
    ((190, 40, 50), 8), ((226, 170, 70), 6), ((60, 130, 120), 6), ((214, 140, 160), 6),
)  # fmt: skip
_SHOES = (
    ((20, 20, 22), 12), ((236, 236, 232), 9), ((96, 62, 40), 6), ((120, 122, 126), 5),
    ((170, 40, 44), 3), ((40, 60, 120), 4), ((210, 180, 130), 2),
)  # fmt: skip
_HAIR = (
    ((22, 18, 17), 12), ((48, 33, 24), 10), ((92, 62, 38), 7), ((170, 128, 72), 5),
    ((138, 66, 36), 2), ((150, 148, 146), 4), ((214, 210, 204), 2),
)  # fmt: skip
_SKIN = (
    ((240, 208, 184), 6), ((226, 184, 152), 8), ((202, 154, 116), 6), ((160, 110, 76), 4),
    ((112, 74, 50), 4), ((76, 50, 36), 3),
)  # fmt: skip
_BAGS = (*_UPPER[:3], *_UPPER[4:])
_WHITE: Colour = (0.9, 0.9, 0.88)


@dataclass(frozen=True)
class Cloth:
    """A textile: colour, second colour, pattern and its period in metres on the average body."""

    colour: Colour
    second: Colour
    pattern: str
    period: float
    phase: float

    def paint(self, canon: Floats, arm: Mask) -> Floats:
        """(N, 3) sRGB 0..1 at paint coordinates (N, 4); on arms, stripes go round the arm."""
        x, z = canon[:, 0], np.where(arm, 0.42 - 0.62 * canon[:, 3], canon[:, 2])
        u, v = x / self.period + self.phase, z / self.period + self.phase
        front = (canon[:, 1] < 0) & ~arm
        if self.pattern == "hoops":
            second = v % 1 < 0.45
        elif self.pattern == "pinstripes":
            second = (u % 1 < 0.35) & ~arm
        elif self.pattern == "checks":
            second = (u % 1 < 0.5) ^ (v % 1 < 0.5)
        elif self.pattern == "dots":
            second = ((u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2) < 0.09
        elif self.pattern == "chest":
            second = (z > 0.22) & (z < 0.22 + 1.4 * self.period)
        elif self.pattern == "yoke":
            second = z > 0.27
        elif self.pattern == "sleeves":
            second = arm
        elif self.pattern == "print":
            second = front & (abs(x) < 0.085) & (abs(z - 0.26) < 0.05 + 0.5 * self.period)
        elif self.pattern == "open":
            second = front & (abs(x) < 0.035 + 0.03 * self.phase)
        elif self.pattern == "side":
            second = abs(abs(x) - 0.02) > 0.13 + 0.05 * (z > -0.2)
        else:
            second = np.zeros(len(x), dtype=bool)
        return np.where(second[:, None], self.second, self.colour)


@dataclass(frozen=True)
class Person:
    """Everything that stays the same in all images of one identity.

    sleeve: share of the arm covered.  hem, trouser_end, skirt_end, coat_end: heights z on the
    average body (waist 0.1, crotch -0.08, knee -0.4, ankle -0.8); the last two None if not worn.
    upper_ease, lower_ease: how far the cloth stands off the body, metres.
    """

    shape: dict[str, float]
    upper: Cloth
    lower: Cloth
    sleeve: float
    hem: float
    neckline: float
    upper_ease: float
    lower_ease: float
    flare: float
    trouser_end: float
    skirt_end: float | None
    coat_end: float | None
    legs: Colour
    shoes: Colour
    soles: Colour
    boot_top: float
    skin: Colour
    hair: Colour
    hair_style: str
    hat: Colour
    bag: str
    bag_colour: Colour
    bag_size: float

    @property
    def girth(self) -> float:
        """0 slim to 1 stout, with a coat's thickness."""
        return min(1.0, self.shape["weight"] * 0.8 + self.upper_ease * 12)

    @property
    def stride(self) -> float:
        """Longest step relative to a free one."""
        return 1.0 if self.skirt_end is None else 0.6


def _pick(rng: Generator, table: tuple[tuple[tuple[int, int, int], int], ...]) -> Colour:
    """A colour of a weighted table, slightly changed so that no two people share one exactly."""
    weights = np.array([weight for _, weight in table], dtype=float)
    colour = np.array(table[rng.choice(len(table), p=weights / weights.sum())][0]) / 255
    red, green, blue = np.clip(colour * rng.normal(1, 0.07) + rng.normal(0, 0.02, 3), 0.03, 0.95)
    return float(red), float(green), float(blue)


def random_person(rng: Generator) -> Person:
    """An adult or teenager with everyday clothes."""
    female = rng.random() < 0.5
    dress = female and rng.random() < 0.14
    skirt = dress or (female and rng.random() < 0.22)
    shorts = not skirt and rng.random() < 0.2
    coat = not dress and rng.random() < 0.14
    patterns = ["plain", "hoops", "pinstripes", "checks", "dots", "chest", "yoke", "sleeves",
                "print", "open"]  # fmt: skip
    shares = np.array([0.3, 0.12, 0.06, 0.07, 0.04, 0.09, 0.06, 0.06, 0.1, 0.1])
    upper_colour = _pick(rng, _UPPER)
    upper = Cloth(
        colour=upper_colour,
        second=_WHITE if rng.random() < 0.3 and sum(upper_colour) < 2 else _pick(rng, _UPPER),
        pattern=str(rng.choice(patterns, p=shares)),
        period=float(rng.uniform(0.07, 0.14)),
        phase=float(rng.random()),
    )
    lower_colour = _pick(rng, _SKIRTS if skirt else _LOWER)
    lower = upper if dress else Cloth(
        colour=lower_colour,
        second=_pick(rng, _UPPER),
        pattern=str(rng.choice(["plain", "side", "checks", "hoops"], p=[0.82, 0.1, 0.05, 0.03])),
        period=float(rng.uniform(0.07, 0.14)),
        phase=float(rng.random()),
    )  # fmt: skip
    styles = ["short", "long", "tail", "bun", "cap", "beanie", "scarf"] if female else [
        "short", "bald", "cap", "beanie", "tail"]  # fmt: skip
    style_shares = [0.14, 0.42, 0.16, 0.08, 0.06, 0.06, 0.08] if female else [
        0.7, 0.1, 0.1, 0.06, 0.04]  # fmt: skip
    skin = _pick(rng, _SKIN)
    boots = rng.random() < 0.15
    return Person(
        shape={
            "gender": float(np.clip((0.92 if female else 0.08) + rng.normal(0, 0.05), 0, 1)),
            "age": float(rng.choice([0.5, 0.6, 0.67, 0.8, 0.95], p=[0.08, 0.2, 0.4, 0.2, 0.12])),
            "muscle": float(rng.uniform(0.3, 0.75)),
            "weight": float(np.clip(rng.normal(0.5, 0.2), 0.15, 0.95)),
            "height": float(np.clip(rng.normal(0.38, 0.09), 0.15, 0.6)),
            "proportions": float(rng.uniform(0.3, 0.8)),
        },
        upper=upper,
        lower=lower,
        sleeve=1.2 if coat or rng.random() < 0.45 else float(rng.choice([0.0, 0.38, 0.45, 0.75],
                                                                        p=[0.1, 0.4, 0.35, 0.15])),
        hem=float(rng.uniform(-0.09, 0.06)),
        neckline=float(rng.uniform(0.42, 0.54)),
        upper_ease=0.028 if coat else float(rng.uniform(0.003, 0.022)),
        lower_ease=float(rng.uniform(0.002, 0.016)),
        flare=float(rng.uniform(0, 0.03)),
        trouser_end=float(rng.uniform(-0.46, -0.28)) if shorts else
        (0.0 if skirt else float(rng.choice([-0.82, -0.76, -0.66], p=[0.7, 0.2, 0.1]))),
        skirt_end=float(rng.uniform(-0.62, -0.25)) if skirt else None,
        coat_end=float(rng.uniform(-0.5, -0.18)) if coat else None,
        legs=_pick(rng, _LOWER[:1]) if skirt and rng.random() < 0.35 else skin,
        shoes=_pick(rng, _SHOES),
        soles=_WHITE if rng.random() < 0.4 else (0.12, 0.11, 0.1),
        boot_top=float(rng.uniform(-0.7, -0.5)) if boots else -0.78,
        skin=skin,
        hair=_pick(rng, _HAIR),
        hair_style=str(rng.choice(styles, p=style_shares)),
        hat=_pick(rng, _UPPER),
        bag=str(rng.choice(["none", "backpack", "shoulder", "hand"], p=[0.48, 0.24, 0.16, 0.12])),
        bag_colour=_pick(rng, _BAGS),
        bag_size=float(rng.uniform(0.85, 1.25)),
    )  # fmt: skip


def paint(person: Person, part: NDArray[np.int64], canon: Floats) -> Floats:
    """(N, 3) sRGB 0..1 of points on a person, from their part (N,) and paint coordinates (N, 4)."""
    x, y, z, arm = canon.T
    colour = np.tile(person.skin, (len(x), 1))

    def put(where: Mask, value: Colour | Floats) -> None:
        colour[where] = value[where] if isinstance(value, np.ndarray) else value

    on_arm = part == Part.ARM
    trunk = (part == Part.TORSO) | (part == Part.LEG) | (part == Part.FOOT)
    upper, lower = person.upper.paint(canon, on_arm), person.lower.paint(canon, on_arm)
    put(trunk & (z < person.hem), person.legs)
    put(trunk & (z >= person.trouser_end), lower)
    put(part == Part.SKIRT, lower)
    # The neckline dips at the front.
    collar = person.neckline + np.where(y < 0, 0.0, 0.08) + 0.5 * abs(x)
    put((part == Part.TORSO) & (z >= person.hem) & (z < collar), upper)
    put((part == Part.LEG) & (z >= person.hem), upper)
    put(on_arm & (arm < person.sleeve), upper)
    put(part == Part.COAT, upper)
    foot = (part == Part.FOOT) | (part == Part.LEG)
    put(foot & (z < person.boot_top), person.shoes)
    put((part == Part.FOOT) & (z < -0.845), person.soles)
    if person.bag == "backpack":
        straps = (part == Part.TORSO) & (abs(abs(x) - 0.11) < 0.02) & (z > 0.12) & (y < 0.03)
        put(straps, person.bag_colour)
    if person.bag == "shoulder":
        strap = (part == Part.TORSO) & (abs(0.85 * x + 0.5 * z - 0.075) < 0.018) & (z > 0.02)
        put(strap, person.bag_colour)
    put(part == Part.BAG, np.array(person.bag_colour) * np.where(z > 0.5, 0.7, 1.0)[:, None])

    head = part == Part.HEAD
    eyes = head & (abs(abs(x) - 0.032) < 0.014) & (abs(z - 0.652) < 0.008) & (y < -0.06)
    put(eyes, (0.12, 0.09, 0.08))
    put(head & (abs(x) < 0.026) & (abs(z - 0.582) < 0.006) & (y < -0.08), (0.6, 0.32, 0.3))
    # The hair line: high on the forehead, down behind the ears to the nape.
    scalp = head & (z > 0.585) & (z > 0.70 + 0.9 * np.minimum(-y - 0.09, 0.0))
    if person.hair_style != "bald":
        put(scalp, person.hair)
    put(part == Part.HAIR, person.hair)
    if person.hair_style in ("cap", "beanie"):
        low = 0.685 if person.hair_style == "cap" else 0.675
        put(head & (z > low), person.hat)
        put(part == Part.BRIM, person.hat)
    if person.hair_style == "scarf":
        put(head & ~((y < -0.075) & (z < 0.70) & (abs(x) < 0.055)), person.hat)
        put(part == Part.HAIR, person.hat)
    return colour
