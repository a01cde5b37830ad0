"""A dressed person as one mesh: the body with clothes, hair, bag, skirt and coat."""

from __future__ import annotations

import numpy as np
from body import Body, Part, Posed, random_gait
from numpy.random import Generator
from raster import Floats, Mesh, join, vertex_normals
from wardrobe import Person


def _blob(centre: Floats, radii: Floats, squareness: float, part: Part) -> Mesh:
    """A superellipsoid: squareness 1 is an ellipsoid, towards 0 a box.

    The paint coordinate z runs from 0 (bottom) to 1 (top).
    """
    rows, columns = 13, 20
    polar = np.linspace(-np.pi / 2, np.pi / 2, rows)[:, None]
    around = np.linspace(-np.pi, np.pi, columns, endpoint=False)[None]

    def power(value: Floats) -> Floats:
        return np.sign(value) * np.abs(value) ** squareness

    x = power(np.cos(polar)) * power(np.cos(around))
    y = power(np.cos(polar)) * power(np.sin(around))
    z = power(np.sin(polar)) * np.ones_like(around)
    unit = np.stack([x, y, z], axis=-1).reshape(-1, 3)
    canon = np.zeros((len(unit), 4))
    canon[:, :3] = unit
    canon[:, 2] = (unit[:, 2] + 1) / 2
    faces = _grid_faces(rows, columns)
    return Mesh(centre + unit * radii, faces, canon, np.full(len(faces), part))


def _grid_faces(rows: int, columns: int) -> np.ndarray:
    """(F, 3) faces of rings of points, bottom ring first, counter-clockwise from outside."""
    row, column = np.meshgrid(np.arange(rows - 1), np.arange(columns), indexing="ij")
    here, right = row * columns + column, row * columns + (column + 1) % columns
    up, up_right = here + columns, right + columns
    return np.concatenate(
        [
            np.stack([here, right, up_right], axis=-1).reshape(-1, 3),
            np.stack([here, up_right, up], axis=-1).reshape(-1, 3),
        ]
    )


def _inside_out(mesh: Mesh) -> Mesh:
    """The same surface seen from inside, for open hems."""
    return Mesh(mesh.vertices, mesh.faces[:, ::-1], mesh.canon, mesh.part)


def _attached(posed: Posed, bone: str, blob: Mesh) -> Mesh:
    """A blob given in the body's rest coordinates, moved with a bone."""
    return Mesh(posed.carry(bone, blob.vertices), blob.faces, blob.canon, blob.part)


def _ease(person: Person, body: Body) -> Floats:
    """(V,) how far clothes, shoes and hair stand off the body, metres; 0 on bare skin."""
    z, arm, part = body.canon[:, 2], body.canon[:, 3], body.vertex_part
    upper = ((part == Part.TORSO) & (z > person.hem) & (z < person.neckline)) | (
        (part == Part.ARM) & (arm < person.sleeve)
    )
    lower = (part == Part.LEG) & (z > person.trouser_end) & (z < person.hem)
    down = np.clip((-0.1 - z) / 0.7, 0, 1)
    ease = np.where(upper, person.upper_ease, 0.0)
    ease = np.where(lower, person.lower_ease + person.flare * down, ease)
    ease = np.where((part == Part.FOOT) | ((part == Part.LEG) & (z < person.boot_top)), 0.008, ease)
    hair = (part == Part.HEAD) & (z > 0.66) & (body.canon[:, 1] > -0.12)
    volume = {"bald": 0.0, "beanie": 0.022, "scarf": 0.015, "cap": 0.015}
    return np.where(hair, volume.get(person.hair_style, 0.014), ease)


def _hair_and_hat(person: Person, posed: Posed) -> list[Mesh]:
    head, scale = posed.rest_joints["head"], posed.scale

    def at(offset: list[float], radii: list[float], part: Part) -> Mesh:
        blob = _blob(head + np.array(offset) * scale, np.array(radii) * scale, 0.9, part)
        return _attached(posed, "head", blob)

    match person.hair_style:
        case "long" | "scarf":
            return [at([0, 0.075, -0.02], [0.088, 0.055, 0.15], Part.HAIR)]
        case "tail":
            return [at([0, 0.15, -0.0], [0.03, 0.035, 0.12], Part.HAIR)]
        case "bun":
            return [at([0, 0.12, 0.13], [0.045, 0.045, 0.045], Part.HAIR)]
        case "cap":
            return [at([0, -0.14, 0.085], [0.07, 0.075, 0.012], Part.BRIM)]
    return []


def _bag(person: Person, body: Body, posed: Posed) -> list[Mesh]:
    size, scale = person.bag_size, posed.scale
    torso = body.vertex_part == Part.TORSO
    z = body.canon[:, 2]
    if person.bag == "backpack":
        back = posed.rest[torso & (z > 0.15) & (z < 0.42)]
        depth = 0.085 * size
        centre = np.array([0, back[:, 1].max() + depth * 0.75, back[:, 2].mean()])
        blob = _blob(centre, np.array([0.15, depth, 0.21]) * size * scale, 0.45, Part.BAG)
        return [_attached(posed, "spine02", blob)]
    if person.bag == "shoulder":
        hip = posed.rest[torso & (z > -0.1) & (z < 0.08)]
        centre = np.array([-hip[:, 0].max() - 0.05, 0.02, hip[:, 2].mean() - 0.02])
        blob = _blob(centre, np.array([0.06, 0.15, 0.12]) * size * scale, 0.4, Part.BAG)
        return [_attached(posed, "root", blob)]
    if person.bag == "hand":
        # It hangs straight down from the hand, whatever the arm does.
        centre = posed.joints["wrist.L"] - np.array([0, 0.02, 0.12 + 0.16 * size])
        return [_blob(centre, np.array([0.055, 0.14, 0.15]) * size * scale, 0.4, Part.BAG)]
    return []


def _drape(person: Person, body: Body, posed: Posed, top: float, end: float, part: Part) -> Mesh:
    """A skirt or coat tail: rings from the waist (z = top) to the hem around both legs."""
    rows, columns = 14, 40
    around = np.linspace(-np.pi, np.pi, columns, endpoint=False)
    ring = np.stack([np.cos(around), np.sin(around)], axis=1)
    trunk = body.vertex_part == Part.TORSO
    belt = posed.vertices[trunk & (abs(body.canon[:, 2] - top) < 0.05)]
    belt_centre, belt_radii = belt.mean(axis=0), np.ptp(belt[:, :2], axis=0) / 2 + 0.012
    legs = [
        [posed.joints[f"{bone}.{side}"] for bone in ("upperleg01", "lowerleg01", "foot")]
        for side in "LR"
    ]
    points, canon = [], []
    for z in np.linspace(end, top, rows):
        share = (top - z) / max(top - end, 1e-6)
        # Where both legs are at this height, hip (-0.01), knee (-0.4) and ankle (-0.8).
        at = np.clip((-0.01 - z) / 0.39, 0, 2)
        left, right = (
            leg[0] + (leg[1] - leg[0]) * min(at, 1) + (leg[2] - leg[1]) * max(at - 1, 0)
            for leg in legs
        )
        apart = (left - right)[:2] / 2
        direction = apart / max(float(np.linalg.norm(apart)), 1e-6)
        radius = (0.095 + 0.05 * person.shape["weight"] + 1.5 * person.flare * share) * posed.scale
        around_legs = radius * ring + np.tanh(4 * ring @ direction)[:, None] * apart
        blend = np.clip(share * (top - end) / 0.14, 0, 1)
        flat = (1 - blend) * (belt_centre[:2] + ring * belt_radii) + blend * (
            (left + right)[:2] / 2 + around_legs
        )
        height = (1 - blend) * (belt_centre[2] + (z - top) * posed.scale) + blend * (
            (left[2] + right[2]) / 2
        )
        points.append(np.column_stack([flat, np.full(columns, height)]))
        level = np.zeros((columns, 4))
        level[:, :2], level[:, 2] = 0.16 * ring, z
        canon.append(level)
    faces = _grid_faces(rows, columns)
    return Mesh(np.concatenate(points), faces, np.concatenate(canon), np.full(len(faces), part))


def dressed(person: Person, body: Body, rng: Generator, walked: float | None = None) -> Mesh:
    """The person in a random walking pose, facing -y, standing on z = 0 at the origin.

    walked: see `random_gait`.
    """
    posed = body.posed(person.shape, random_gait(rng, person.girth, person.stride, walked))
    ease = _ease(person, body)[:, None]
    # Cloth bridges the body's hollows; smoothing shrinks a little, which the offset makes good.
    cloth = (ease > 0) & (body.vertex_part != Part.HEAD)[:, None]
    under = np.where(cloth, body.smoothed(posed.vertices, 12), posed.vertices)
    vertices = under + vertex_normals(under, body.faces) * (ease + 0.004 * cloth)
    meshes = [Mesh(vertices, body.faces, body.canon, body.face_part)]
    meshes += _hair_and_hat(person, posed) + _bag(person, body, posed)
    if person.skirt_end is not None:
        skirt = _drape(person, body, posed, 0.06, person.skirt_end, Part.SKIRT)
        meshes += [skirt, _inside_out(skirt)]
    if person.coat_end is not None:
        coat = _drape(person, body, posed, 0.08, person.coat_end, Part.COAT)
        meshes += [coat, _inside_out(coat)]
    whole = join(meshes)
    whole.vertices[:, :2] -= posed.vertices[:, :2].mean(axis=0)
    whole.vertices[:, 2] -= vertices[:, 2].min()
    return whole
