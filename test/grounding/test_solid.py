"""The middle of things of known shape, from the points of them that a camera sees."""

from __future__ import annotations

import numpy as np
import pytest

from siglip_perception.grounding.solid import Plane, middle_of, support_plane

TABLE = Plane(np.array([0.0, -np.sin(0.7), -np.cos(0.7)]), 0.8)
"""A table that a camera at the origin looks down at, 40 degrees from its normal, at 0.8 m."""
UP = TABLE.normal
ALONG = np.array([0.0, -np.cos(0.7), np.sin(0.7)])
"""On the table, away from the camera."""
ACROSS = np.cross(UP, ALONG)
FOOT = 0.2 * ALONG + 0.05 * ACROSS - TABLE.offset * UP
"""Where the things of these tests stand."""


def seen(points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Keep points, in the table's axes (along, across, up), whose surface faces the camera."""
    axes = np.stack([ALONG, ACROSS, UP])
    placed, facing = points @ axes + FOOT, normals @ axes
    facing_points: np.ndarray = placed[np.einsum("ij,ij->i", facing, placed) < 0]
    return facing_points


def sphere(radius: float) -> np.ndarray:
    rng = np.random.default_rng(1)
    normals = rng.normal(size=(4000, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return seen(radius * normals + [0, 0, radius], normals)


def cuboid(x: float, y: float, z: float) -> np.ndarray:
    rng = np.random.default_rng(2)
    sides = []
    size = np.array([x, y, z]) / 2
    for axis in range(3):
        count = round(3e5 * x * y * z / size[axis])
        for sign in (-1.0, 1.0):
            points = rng.uniform(-1, 1, (count, 3))
            points[:, axis] = sign
            normal = np.zeros((count, 3))
            normal[:, axis] = sign
            sides.append(seen(points * size + [0, 0, z / 2], normal))
    return np.concatenate(sides)


@pytest.mark.parametrize(
    ("surface", "height"),
    [
        (sphere(0.035), 0.07),
        (cuboid(0.05, 0.05, 0.05), 0.05),
        (cuboid(0.04, 0.12, 0.03), 0.03),
        (cuboid(0.15, 0.15, 0.01), 0.01),
        (cuboid(0.03, 0.03, 0.15), 0.15),
    ],
    ids=["ball", "block", "bar", "plate", "post"],
)
def test_the_middle_is_in_the_thing_and_not_on_its_near_side(
    surface: np.ndarray, height: float
) -> None:
    middle = middle_of(surface, TABLE)
    assert middle is not None
    expected = FOOT + height / 2 * UP
    assert np.linalg.norm(middle - expected) < 0.006
    assert np.linalg.norm(middle - expected) < 0.6 * np.linalg.norm(
        surface.mean(axis=0) - expected
    )


def test_what_does_not_rest_on_the_plane_has_no_middle() -> None:
    assert middle_of(sphere(0.035) + 0.3 * UP, TABLE) is None
    # A picture on the table has no height to complete.
    assert middle_of(cuboid(0.1, 0.1, 0.001), TABLE) is None


def table(count: int = 900) -> np.ndarray:
    rng = np.random.default_rng(3)
    u, v = rng.uniform(-0.3, 0.3, (2, count, 1))
    points: np.ndarray = FOOT + u * ALONG + v * ACROSS
    return points


def test_the_plane_is_found_among_other_things() -> None:
    rng = np.random.default_rng(4)
    others = rng.uniform([-0.3, -0.3, 0.3], [0.3, 0.3, 0.9], (500, 3))
    noise = rng.normal(0, 0.001, (900, 3))
    plane = support_plane(np.concatenate([table() + noise, others]))
    assert plane is not None
    assert plane.normal @ TABLE.normal > 0.9995
    assert plane.offset == pytest.approx(TABLE.offset, abs=0.003)


def test_no_plane_where_few_points_agree() -> None:
    rng = np.random.default_rng(5)
    assert support_plane(rng.uniform([-1, -1, 1], [1, 1, 3], (900, 3))) is None
    assert support_plane(table()[:20]) is None
    assert support_plane(np.zeros((900, 3))) is None
