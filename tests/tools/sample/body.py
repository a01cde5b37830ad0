"""People's bodies: shape, walking pose and the parts to dress, on top of the `anny` model."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise

import anny
import numpy as np
import torch
from numpy.random import Generator
from raster import Floats, Ints


class Part(IntEnum):
    """What a face belongs to; a painter chooses its colour by it."""

    TORSO = 0
    ARM = 1
    HAND = 2
    LEG = 3
    FOOT = 4
    HEAD = 5
    SKIRT = 6
    COAT = 7
    HAIR = 8
    BRIM = 9
    BAG = 10


_PART_OF_BONE = {
    "spine": Part.TORSO,
    "root": Part.TORSO,
    "pelvis": Part.TORSO,
    "clavicle": Part.TORSO,
    "shoulder": Part.TORSO,
    "upperarm": Part.ARM,
    "lowerarm": Part.ARM,
    "wrist": Part.HAND,
    "finger": Part.HAND,
    "metacarpal": Part.HAND,
    "upperleg": Part.LEG,
    "lowerleg": Part.LEG,
    "foot": Part.FOOT,
    "toe": Part.FOOT,
    "neck": Part.HEAD,
    "head": Part.HEAD,
    "eye": Part.HEAD,
}


@dataclass(frozen=True)
class Posed:
    """One body in one pose, facing -y, lowest point anywhere.

    rest, vertices: (V, 3) metres before and after posing.  rest_joints, joints: bone name to its
    head, (3,).  turns: bone name to the rotation (3, 3) from rest to pose.
    """

    rest: Floats
    vertices: Floats
    rest_joints: dict[str, Floats]
    joints: dict[str, Floats]
    turns: dict[str, Floats]

    @property
    def scale(self) -> float:
        """Size relative to the average body, by the height of the neck above the foot."""
        return float(self.rest_joints["neck01"][2] - self.rest_joints["foot.L"][2]) / 1.31

    def carry(self, bone: str, points: Floats) -> Floats:
        """Points (N, 3) fixed to a bone at rest, moved to where the pose takes them."""
        turned: Floats = (points - self.rest_joints[bone]) @ self.turns[bone].T
        return turned + self.joints[bone]


def rotation(axis: str, degrees: float) -> Floats:
    """(3, 3) rotation about the x, y or z axis."""
    angle = np.radians(degrees)
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(3)
    matrix[i, i] = matrix[j, j] = np.cos(angle)
    matrix[i, j], matrix[j, i] = -np.sin(angle), np.sin(angle)
    return matrix


def random_gait(
    rng: Generator, girth: float, stride: float, walked: float | None = None
) -> dict[str, Floats]:
    """A walking or standing pose: bone name to rotation (3, 3).

    girth: 0 slim to 1 stout, keeps the arms off the body.  stride: longest step relative to a
    free one (a tight skirt shortens it).  walked: how far in a walk, in double steps; None: at any
    moment, and now and then standing.
    """
    step = stride * (rng.uniform(0.6, 1.0) if rng.random() < 0.85 else rng.uniform(0.0, 0.2))
    phase = rng.uniform(0, 2 * np.pi)
    if walked is not None:
        step, phase = stride * 0.8, 2 * np.pi * walked
    pose = {
        "spine05": rotation("x", rng.normal(0, 2)) @ rotation("z", 5 * step * np.sin(phase)),
        "spine02": rotation("x", rng.normal(-3, 3)) @ rotation("z", -9 * step * np.sin(phase)),
        "neck01": rotation("x", rng.normal(-3, 6)),
        "head": rotation("z", rng.normal(0, 18)) @ rotation("x", rng.normal(0, 5)),
    }
    feet = rng.uniform(6.5, 9.5)  # the body at rest stands with its feet wide apart
    # Someone looks at a phone now and then, or keeps a hand in a pocket.
    phone = rng.choice(["L", "R"]) if rng.random() < 0.1 else None
    for side, sign, leg_phase in (("L", 1, phase), ("R", -1, phase + np.pi)):
        forward = 26 * step * np.sin(leg_phase) + 3
        # The knee bends while its leg swings forward.
        knee = 6 + 48 * step * max(0.0, np.cos(leg_phase))
        pose[f"upperleg01.{side}"] = rotation("x", -forward) @ rotation("y", feet * sign)
        pose[f"lowerleg01.{side}"] = rotation("x", knee)
        pose[f"foot.{side}"] = rotation("x", forward - knee * 0.5 - 2)
        swing = -22 * step * np.sin(leg_phase) - 4 + rng.normal(0, 3)
        elbow = rng.uniform(-5, 26)
        if side == phone:
            swing, elbow = 18, -75
        drop = 37 - 9 * girth + rng.normal(0, 2)
        pose[f"upperarm01.{side}"] = rotation("x", -swing) @ rotation("y", sign * drop)
        pose[f"lowerarm01.{side}"] = rotation("x", elbow) @ rotation("y", sign * 4)
    return pose


class Body:
    """The parametric body, with paint coordinates and parts that hold for every shape.

    faces: (F, 3).  canon: (V, 4) see `raster.Mesh`.  vertex_part: (V,), face_part: (F,).
    """

    def __init__(self) -> None:
        self._model = anny.Anny().to(dtype=torch.float32)
        self._bones: list[str] = list(self._model.bone_labels)
        self.faces: Ints = self._model.faces.numpy().astype(np.int64)
        average = self.posed(dict.fromkeys(self._model.phenotype_labels, 0.5), {})
        self.vertex_part = self._parts()
        # A face takes the highest part of its corners: hands, feet and head keep whole borders.
        self.face_part: Ints = self.vertex_part[self.faces].max(axis=1)
        arm = np.maximum(
            _along(average.rest, [average.joints[f"{b}.L"] for b in _ARM_BONES]),
            _along(average.rest, [average.joints[f"{b}.R"] for b in _ARM_BONES]),
        )
        self.canon: Floats = np.concatenate([average.rest, arm[:, None]], axis=1)
        self._neighbours = self._neighbour_mean()

    def _neighbour_mean(self) -> torch.Tensor:
        """(V, V) sparse matrix that moves every vertex to the mean of its neighbours."""
        edges = np.unique(np.concatenate([self.faces[:, [i, j]] for i in range(3) for j in range(3)
                                          if i != j]), axis=0)  # fmt: skip
        share = 1 / np.bincount(edges[:, 0])[edges[:, 0]]
        size = len(self.canon)
        matrix = torch.sparse_coo_tensor(
            torch.from_numpy(edges.T.copy()),
            torch.from_numpy(share),
            (size, size),
            check_invariants=True,
        )
        return matrix.coalesce()

    def smoothed(self, vertices: Floats, rounds: int) -> Floats:
        """The vertices (V, 3) without the body's finer relief, as under cloth."""
        smooth = torch.from_numpy(vertices)
        for _ in range(rounds):
            smooth = self._neighbours @ smooth
        return smooth.numpy()

    def _parts(self) -> Ints:
        """(V,) the part whose bones weigh most at each vertex."""
        part_of_bone = np.array(
            [next(p for key, p in _PART_OF_BONE.items() if b.startswith(key)) for b in self._bones]
        )
        indices = self._model.vertex_bone_indices.numpy()
        weights = self._model.vertex_bone_weights.numpy()
        totals = np.zeros((len(indices), len(Part)))
        for k in range(indices.shape[1]):
            np.add.at(totals, (np.arange(len(indices)), part_of_bone[indices[:, k]]), weights[:, k])
        heaviest: Ints = totals.argmax(axis=1)
        return heaviest

    @torch.no_grad()
    def posed(self, shape: dict[str, float], pose: dict[str, Floats]) -> Posed:
        """The body of a shape (phenotype name to 0..1) in a pose (bone name to rotation)."""
        transforms = torch.eye(4).repeat(1, len(self._bones), 1, 1)
        for bone, turn in pose.items():
            transforms[0, self._bones.index(bone), :3, :3] = torch.from_numpy(turn).float()
        out = self._model(
            pose_parameters=transforms,
            phenotype_kwargs={name: torch.tensor([value]) for name, value in shape.items()},
        )
        rest_poses, poses = (_numpy(out[key][0]) for key in ("rest_bone_poses", "bone_poses"))
        turns = poses[:, :3, :3] @ rest_poses[:, :3, :3].transpose(0, 2, 1)
        return Posed(
            rest=_numpy(out["rest_vertices"][0]),
            vertices=_numpy(out["vertices"][0]),
            rest_joints=dict(zip(self._bones, rest_poses[:, :3, 3], strict=True)),
            joints=dict(zip(self._bones, poses[:, :3, 3], strict=True)),
            turns=dict(zip(self._bones, turns, strict=True)),
        )


_ARM_BONES = ("upperarm01", "lowerarm01", "wrist")


def _numpy(tensor: torch.Tensor) -> Floats:
    array: Floats = tensor.double().numpy()
    return array


def _along(points: Floats, line: list[Floats]) -> Floats:
    """(N,) position of the point's foot on a three-point line, 0 at its start, 1 at its end."""
    pieces = [(a, b, float(np.linalg.norm(b - a))) for a, b in pairwise(line)]
    total = sum(length for _, _, length in pieces)
    best, position = np.full(len(points), np.inf), np.zeros(len(points))
    done = 0.0
    for start, end, length in pieces:
        share = np.clip((points - start) @ (end - start) / length**2, 0, 1)
        gap = np.linalg.norm(points - (start + share[:, None] * (end - start)), axis=1)
        position = np.where(gap < best, (done + share * length) / total, position)
        best = np.minimum(gap, best)
        done += length
    return position
