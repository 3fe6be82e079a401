"""The way up of a picture, by the depth of the surface that fills it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from siglip_perception.grounding.camera_roll import uprightness
from siglip_perception.types import Depth

HEIGHT, WIDTH, FOCAL = 60, 80, 70.0


def plane(normal: tuple[float, float, float], distance: float = 0.8) -> Depth:
    """Depth of a plane with that normal, towards the camera, at that distance; optical frame."""
    unit = np.array(normal) / np.linalg.norm(normal)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    rays = np.stack(
        [(columns - WIDTH / 2) / FOCAL, (rows - HEIGHT / 2) / FOCAL, np.ones((HEIGHT, WIDTH))], -1
    )
    with np.errstate(divide="ignore"):
        meters = -distance / (rays @ unit)
    meters[(meters < 0) | (meters > 20)] = np.nan
    return Depth(meters.astype(np.float32), FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2)


def table(down: float, roll: float = 0.0) -> Depth:
    """A table, as a camera sees it that looks down and is rolled by that many degrees."""
    angle, turn = np.radians(down), np.radians(roll)
    slope = np.cos(angle)
    return plane((slope * np.sin(turn), -slope * np.cos(turn), -float(np.sin(angle))))


@pytest.mark.parametrize("down", [25, 45, 75])
@pytest.mark.parametrize("roll", [0, 20, -30])
def test_a_table_recedes_towards_the_top_of_an_upright_picture(down: float, roll: float) -> None:
    depth = table(down, roll)
    assert uprightness(depth) == "upright"
    for turned in (depth.meters[::-1, ::-1], depth.meters[::-1]):
        assert uprightness(replace(depth, meters=turned)) == "upside down"
    # A mirrored table is a table: this cannot be known.
    assert uprightness(replace(depth, meters=depth.meters[:, ::-1])) == "upright"


@pytest.mark.parametrize(
    "depth",
    [
        table(90),
        table(85),
        table(45, 90),
        plane((0.0, 0.0, -1.0)),
        plane((1.0, 0.0, -0.3)),
        Depth(np.full((HEIGHT, WIDTH), np.nan, np.float32), FOCAL, FOCAL, 40.0, 30.0),
    ],
    ids=["straight down", "nearly", "on its side", "wall", "side wall", "no depth"],
)
def test_what_has_no_up_is_not_judged(depth: Depth) -> None:
    assert uprightness(depth) == "unknown"


def test_a_ceiling_above_a_level_camera_is_not_a_table_upside_down() -> None:
    depth = plane((0.0, 1.0, -0.05))
    assert np.isnan(depth.meters[-10:]).all()  # in the upper half alone
    assert uprightness(depth) == "unknown"


def test_things_on_the_table_do_not_matter() -> None:
    depth = table(45)
    meters = depth.meters.copy()
    meters[20:45, 25:50] -= 0.1
    meters[::7] = np.nan
    assert uprightness(replace(depth, meters=meters[::-1].copy())) == "upside down"
