"""Triangle meshes and a z-buffer rasteriser in plain numpy (no OpenGL)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass
class Mesh:
    """Triangles with what a painter needs to know about them.

    vertices: (V, 3) metres, z up.  faces: (F, 3) vertex indices, counter-clockwise from outside.
    canon: (V, 4) paint coordinates: x, y, z on the average body at rest, and the position along
    the arm (0 shoulder, 1 wrist).  part: (F,) which `body.Part` a face belongs to.
    """

    vertices: Floats
    faces: Ints
    canon: Floats
    part: Ints


def join(meshes: Sequence[Mesh]) -> Mesh:
    """All meshes as one, in order."""
    starts = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes[:-1]])
    return Mesh(
        np.concatenate([mesh.vertices for mesh in meshes]),
        np.concatenate([mesh.faces + start for mesh, start in zip(meshes, starts, strict=True)]),
        np.concatenate([mesh.canon for mesh in meshes]),
        np.concatenate([mesh.part for mesh in meshes]),
    )


def vertex_normals(vertices: Floats, faces: Ints) -> Floats:
    """(V, 3) unit normals, each the area-weighted mean over the faces around a vertex."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    face_normals = np.cross(b - a, c - a)
    normals = np.stack(
        [
            np.bincount(faces.ravel(), np.repeat(face_normals[:, k], 3), len(vertices))
            for k in range(3)
        ],
        axis=1,
    )
    unit: Floats = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    return unit


def rasterise(
    points: Floats, depth: Floats, faces: Ints, width: int, height: int
) -> tuple[Ints, Floats]:
    """The nearest face at each pixel centre.

    points: (V, 2) pixel coordinates, y down.  depth: (V,) distance from the camera.
    Returns the pixels' face (height * width,), -1 where there is none, and the barycentric
    weights (height * width, 3).  Faces seen from behind are left out.
    """
    corners = points[faces]
    edge1, edge2 = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = edge1[:, 0] * edge2[:, 1] - edge1[:, 1] * edge2[:, 0]
    limit = np.array([width, height])
    low = np.clip(np.ceil(corners.min(axis=1) - 0.5), 0, limit).astype(np.int64)
    high = np.clip(np.floor(corners.max(axis=1) - 0.5) + 1, 0, limit).astype(np.int64)
    # y points down, so a counter-clockwise face seen from outside has a negative area.
    drawn = np.flatnonzero((area < -1e-12) & (high > low).all(axis=1))

    # One candidate per face and pixel of its bounding box; the faces are about a pixel large.
    columns, rows = (high - low)[drawn].T
    counts = columns * rows
    face = np.repeat(drawn, counts)
    nth = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    columns = np.repeat(columns, counts)
    px, py = low[face, 0] + nth % columns, low[face, 1] + nth // columns

    dx, dy = px + 0.5 - corners[face, 0, 0], py + 0.5 - corners[face, 0, 1]
    w1 = (dx * edge2[face, 1] - dy * edge2[face, 0]) / area[face]
    w2 = (dy * edge1[face, 0] - dx * edge1[face, 1]) / area[face]
    weights = np.stack([1 - w1 - w2, w1, w2], axis=1)
    inside = np.flatnonzero((weights >= -1e-9).all(axis=1))
    face, weights = face[inside], weights[inside]
    pixel = (py * width + px)[inside]

    # Sorted by pixel, then by depth: the first candidate of each pixel is the visible one.
    order = np.lexsort(((weights * depth[faces[face]]).sum(axis=1), pixel))
    pixel, first = np.unique(pixel[order], return_index=True)
    nearest = order[first]
    face_map = np.full(height * width, -1, dtype=np.int64)
    weight_map = np.zeros((height * width, 3))
    face_map[pixel] = face[nearest]
    weight_map[pixel] = weights[nearest]
    return face_map, weight_map
