"""Tell from a registered depth image which way up the picture is.

A camera above a table or a floor sees it recede towards the top of the picture. If it recedes
towards the bottom, the picture is upside down: turned by 180 degrees, or with its rows in reverse
order, as OpenGL has them. Geometry cannot tell these two apart, nor see that a picture is
mirrored left to right: a mirrored table is a table. A camera that looks up at a ceiling reads as
one that is upside down.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from siglip_perception.grounding.solid import Plane, support_plane
from siglip_perception.types import Depth

Uprightness = Literal["upright", "upside down", "unknown"]
_GRID = 32
"""Points looked at along each side of the picture."""
_MIN_SHARE = 0.4
"""Share of all these points, and of those in either half, that have to lie on the plane: a ceiling
or a wall beside a floor is in one half only."""
_TOLERANCE = 0.02
"""Largest distance from the plane, as a share of the depth."""
_MIN_TILT = np.sin(np.radians(10))
"""Least slope of the plane along the picture's columns: straight above a table there is no up."""
_MAX_ROLL = np.radians(45)
"""Largest angle between that slope and the columns: beyond, a side wall would do as well."""


def uprightness(depth: Depth) -> Uprightness:
    """Judge a depth image; "unknown" where no plane fills it, or one that has no up."""
    height, width = depth.meters.shape
    rows = np.linspace(0, height - 1, _GRID).astype(int)
    columns = np.linspace(0, width - 1, _GRID).astype(int)
    grid = depth.meters[np.ix_(rows, columns)].astype(np.float64)
    x = (columns[None, :] - depth.cx) / depth.fx * grid
    y = (rows[:, None] - depth.cy) / depth.fy * grid
    points = np.stack([x, y, grid], axis=-1)
    is_valid = np.isfinite(grid)
    plane = support_plane(points[is_valid])
    if plane is None or not _fills(points, plane):
        return "unknown"
    across, down = float(plane.normal[0]), float(plane.normal[1])
    if abs(down) < _MIN_TILT or abs(across) > abs(down) * np.tan(_MAX_ROLL):
        return "unknown"
    # The normal points to the camera, and so up from a table: y is down in the picture.
    return "upright" if down < 0 else "upside down"


def _fills(points: np.ndarray, plane: Plane) -> bool:
    """Tell whether the plane takes up enough of points [rows, columns, 3], in both halves."""
    distances = np.abs(points @ plane.normal + plane.offset)
    with np.errstate(invalid="ignore"):
        is_near = distances < _TOLERANCE * points[..., 2]  # NaN is not
    half = len(points) // 2
    return bool(min(is_near[:half].mean(), is_near[half:].mean()) >= _MIN_SHARE)
