"""Triangle meshes of solids: turned, extruded, swept and boxed. Meters, z up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int32]

_MIN_RADIUS = 1e-4
"""Radius of a pole in meters: MuJoCo refuses triangles without an area."""


@dataclass(frozen=True)
class Mesh:
    """vertices: float64 [n, 3] in meters. faces: int32 [m, 3], counterclockwise from outside."""

    vertices: Floats
    faces: Ints

    def moved(self, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Mesh:
        """Shift by a vector in meters."""
        return Mesh(self.vertices + np.array([x, y, z]), self.faces)

    def scaled(self, x: float, y: float, z: float) -> Mesh:
        """Scale each axis by a factor greater than 0."""
        return Mesh(self.vertices * np.array([x, y, z]), self.faces)

    def turned(self, axis: int, angle: float) -> Mesh:
        """Rotate about axis 0 (x), 1 (y) or 2 (z) by an angle in radians."""
        first, second = (axis + 1) % 3, (axis + 2) % 3
        vertices = self.vertices.copy()
        cosine, sine = np.cos(angle), np.sin(angle)
        vertices[:, first] = cosine * self.vertices[:, first] - sine * self.vertices[:, second]
        vertices[:, second] = sine * self.vertices[:, first] + cosine * self.vertices[:, second]
        return Mesh(vertices, self.faces)


def join(*meshes: Mesh) -> Mesh:
    """Join meshes into one, without moving them."""
    counts = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
    return Mesh(
        np.concatenate([mesh.vertices for mesh in meshes]),
        np.concatenate([m.faces + start for m, start in zip(meshes, counts, strict=False)]).astype(
            np.int32
        ),
    )


def lathe(profile: Sequence[tuple[float, float]], segments: int = 28) -> Mesh:
    """Turn a profile of (radius, height) about z.

    profile: at least two points, from the bottom's center up the outside and, for a vessel, down
    the inside again. A radius of 0 is a pole.
    """
    points = np.array(profile, dtype=np.float64)
    points[:, 0] = np.maximum(points[:, 0], _MIN_RADIUS)
    angles = np.linspace(0, 2 * np.pi, segments, endpoint=False)
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    vertices = np.concatenate(
        [np.column_stack([ring * radius, np.full(segments, height)]) for radius, height in points]
    )
    return Mesh(vertices, _strip(len(points), segments))


def tube(path: Floats, radii: Sequence[float] | Floats, segments: int = 10) -> Mesh:
    """Sweep a circle along a path [n, 3], with a radius per point; the ends are closed."""
    path = np.asarray(path, dtype=np.float64)
    tangents = np.gradient(path, axis=0)
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    # A frame carried along the path, so that the sweep does not twist.
    helper = np.eye(3)[int(np.argmin(np.abs(tangents[0])))]
    normals = np.empty_like(path)
    normal = np.cross(tangents[0], helper)
    for index, tangent in enumerate(tangents):
        normal = normal - tangent * (normal @ tangent)
        normal /= np.linalg.norm(normal)
        normals[index] = normal
    binormals = np.cross(tangents, normals)
    angles = np.linspace(0, 2 * np.pi, segments, endpoint=False)
    widths = np.maximum(np.asarray(radii, dtype=np.float64), _MIN_RADIUS)
    rings = [
        path[i]
        + widths[i]
        * (np.cos(angles)[:, None] * normals[i] + np.sin(angles)[:, None] * binormals[i])
        for i in range(len(path))
    ]
    ends = [
        np.repeat(path[:1], segments, 0) + (rings[0] - path[0]) * (_MIN_RADIUS / widths[0]),
        np.repeat(path[-1:], segments, 0) + (rings[-1] - path[-1]) * (_MIN_RADIUS / widths[-1]),
    ]
    vertices = np.concatenate([ends[0], *rings, ends[1]])
    return Mesh(vertices, _strip(len(path) + 2, segments))


def extrude(outline: Sequence[tuple[float, float]] | Floats, depth: float) -> Mesh:
    """Extrude an outline [n, 2] in (x, z), counterclockwise, along y by `depth`, centered.

    The outline has to be star-shaped about its mean: its caps are fans about that point.
    """
    points = np.asarray(outline, dtype=np.float64)
    count = len(points)
    center = points.mean(axis=0)
    front = np.column_stack([points[:, 0], np.full(count, -depth / 2), points[:, 1]])
    back = front + np.array([0, depth, 0])
    middles = np.array([[center[0], -depth / 2, center[1]], [center[0], depth / 2, center[1]]])
    # The caps have their own vertices: shared ones would round off the edge's normals.
    vertices = np.concatenate([front, back, front, back, middles])
    following = np.roll(np.arange(count), -1)
    here = np.arange(count)
    sides = np.concatenate(
        [
            np.column_stack([here, following + count, following]),
            np.column_stack([here, here + count, following + count]),
        ]
    )
    front_cap = np.column_stack(
        [np.full(count, 4 * count), here + 2 * count, following + 2 * count]
    )
    back_cap = np.column_stack(
        [np.full(count, 4 * count + 1), following + 3 * count, here + 3 * count]
    )
    return Mesh(vertices, np.concatenate([sides, front_cap, back_cap]).astype(np.int32))


def box(x: float, y: float, z: float, bevel: float = 0.0) -> Mesh:
    """Make a box of these sizes in meters, standing on z = 0; bevel: width of its cut edges."""
    if bevel <= 0:
        outline = [(-x / 2, 0), (x / 2, 0), (x / 2, z), (-x / 2, z)]
        return extrude(outline, y)
    b = min(bevel, 0.45 * min(x, y, z))

    def outline_of(cut: float) -> Floats:
        right, top, low = x / 2 - cut, z - cut, cut
        return np.array(
            [
                (-right + b, low),
                (right - b, low),
                (right, low + b),
                (right, top - b),
                (right - b, top),
                (-right + b, top),
                (-right, top - b),
                (-right, low + b),
            ]
        )

    return _stack(
        [
            (-y / 2, outline_of(b / 2)),
            (-y / 2 + b, outline_of(0.0)),
            (y / 2 - b, outline_of(0.0)),
            (y / 2, outline_of(b / 2)),
        ]
    )


def _stack(sections: Sequence[tuple[float, Floats]]) -> Mesh:
    """Join outlines [n, 2] in (x, z), counterclockwise, at growing y; the ends are closed."""
    count = len(sections[0][1])
    rings = [
        np.column_stack([outline[:, 0], np.full(count, y), outline[:, 1]])
        for y, outline in sections
    ]
    middles = [rings[0].mean(axis=0, keepdims=True), rings[-1].mean(axis=0, keepdims=True)]
    rings = [np.repeat(middles[0], count, 0), *rings, np.repeat(middles[1], count, 0)]
    # (x, z) turns about y in the opposite sense to (x, y) about z.
    strip = _strip(len(rings), count)[:, ::-1]
    # At a pole a ring is a single point, and its triangle has no area.
    poles = np.concatenate(rings)
    corners = poles[strip]
    areas = np.linalg.norm(
        np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1
    )
    return Mesh(poles, np.ascontiguousarray(strip[areas > 1e-12]))


def ball(radius: float, segments: int = 24, start: float = -90.0, stop: float = 90.0) -> Mesh:
    """Make a sphere about the origin, or its zone between two latitudes in degrees."""
    latitudes = np.radians(np.linspace(start, stop, 15))
    return lathe(
        [(radius * float(np.cos(a)), radius * float(np.sin(a))) for a in latitudes], segments
    )


def arc(
    center: tuple[float, float], radii: tuple[float, float], start: float, stop: float, count: int
) -> Floats:
    """Points [count, 2] of an ellipse's arc between two angles in degrees."""
    angles = np.radians(np.linspace(start, stop, count))
    return np.column_stack(
        [center[0] + radii[0] * np.cos(angles), center[1] + radii[1] * np.sin(angles)]
    )


def in_plane(points: Floats, y: float = 0.0) -> Floats:
    """Place points (x, z) [n, 2] in space, [n, 3]."""
    return np.column_stack([points[:, 0], np.full(len(points), y), points[:, 1]])


def _strip(rings: int, segments: int) -> Ints:
    """Triangles between neighboring rings of a surface, outside to the right of the way up."""
    along = np.arange(segments)
    around = (along + 1) % segments
    faces = []
    for ring in range(rings - 1):
        low, high = ring * segments, (ring + 1) * segments
        faces.append(np.column_stack([low + along, low + around, high + around]))
        faces.append(np.column_stack([low + along, high + around, high + along]))
    return np.concatenate(faces).astype(np.int32)
