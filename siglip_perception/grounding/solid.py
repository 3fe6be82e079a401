"""Complete the visible surface of a thing that rests on a plane: where its middle is.

A camera sees the near side of a thing. The center of what it sees lies towards the camera, by 2 cm
on things of a hand's size, which is more than a gripper forgives. The plane that a thing rests on
gives its height. Across the view both edges are seen; along the view, the near edge and the top.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from siglip_perception.grounding.options import DEFAULT_OPTIONS, GroundingOptions

Points = npt.NDArray[np.float64]

_MIN_SLOPE = 0.25
"""Sine of the least angle at which the far edge is still completed."""
_TRIPLES = 64
_SAMPLES = 600
_TOP = 0.85
"""Points higher than this share of the thing's height are its top."""
_FLAT = 2.5
"""A thing wider than this many of its heights lies flat: its whole outline is in view."""
_ROUND_TOP = 0.85
"""A dome's top is narrower than this share of its width; a box's or a cup's is not."""
_ROUND_SIDES = 0.2
"""A ball's height and width differ by less than this share."""


@dataclass(frozen=True)
class Plane:
    """normal: unit vector [3] towards the camera; normal @ p + offset is 0 for points p on it."""

    normal: Points
    offset: float


def support_plane(
    surroundings: Points, options: GroundingOptions = DEFAULT_OPTIONS
) -> Plane | None:
    """Fit the plane that most points [n, 3] around a thing lie on; None where few agree.

    By RANSAC (Fischler and Bolles 1981) with a fixed seed, then least squares: deterministic.
    """
    if len(surroundings) < options.min_plane_points:
        return None
    rng = np.random.default_rng(0)
    sample = surroundings[rng.integers(0, len(surroundings), _SAMPLES)]
    corners = sample[rng.integers(0, _SAMPLES, (_TRIPLES, 3))]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    lengths = np.linalg.norm(normals, axis=1)
    usable = lengths > 1e-12
    if not usable.any():
        return None
    normals = normals[usable] / lengths[usable, None]
    offsets = -np.einsum("ij,ij->i", normals, corners[usable, 0])
    fits = np.abs(sample @ normals.T + offsets) < options.plane_tolerance
    best = int(fits.sum(axis=0).argmax())
    inliers = sample[fits[:, best]]
    if len(inliers) < options.min_plane_share * _SAMPLES:
        return None
    middle = inliers.mean(axis=0)
    normal = np.linalg.svd(inliers - middle, full_matrices=False)[2][2]
    if normal @ middle > 0:  # the camera is at the origin
        normal = -normal
    return Plane(normal, -float(normal @ middle))


def middle_of(
    surface: Points, plane: Plane, edge: float = 0.0, options: GroundingOptions = DEFAULT_OPTIONS
) -> Points | None:
    """Estimate the middle [3] of a thing from its visible points [n, 3].

    edge: how much of the outline was left out, meters. None if it does not rest on the plane.

    Halfway up; across the view between both edges; along the view at the middle of its top, or, of
    what is as high as wide and has a round top, half its width behind its near edge.
    """
    heights = surface @ plane.normal + plane.offset
    lowest, height = np.percentile(heights, options.solid_percentiles)
    if height < options.min_height or lowest > 0.5 * height + options.plane_tolerance:
        return None
    ray = np.median(surface, axis=0)
    along = ray - (plane.normal @ ray) * plane.normal
    length = float(np.linalg.norm(along))
    if length < 1e-6:  # seen from straight above: any direction will do
        along = np.cross(plane.normal, [0.0, 1.0, 0.0])
        length = float(np.linalg.norm(along))
    along /= length
    across = np.cross(plane.normal, along)
    depths, sides = surface @ along, surface @ across
    (near, far), (left, right) = (
        np.percentile(values, options.solid_percentiles) for values in (depths, sides)
    )
    # The far edge was left out along the picture, which the slope of the view stretches.
    slope = max(-float(ray @ plane.normal) / float(np.linalg.norm(ray)), _MIN_SLOPE)
    far, left, right = far + edge / slope, left - edge, right + edge
    width, length = right - left, far - near
    top = heights > _TOP * height
    middle = (near + far) / 2
    if max(width, length) < _FLAT * height:
        top_near, top_far = np.percentile(depths[top], options.solid_percentiles)
        top_width = np.ptp(np.percentile(sides[top], options.solid_percentiles)) + 2 * edge
        is_ball = (
            top_width < _ROUND_TOP * width
            and abs(width - height) < _ROUND_SIDES * height
            and length <= width
        )
        middle = (
            near + width / 2 if is_ball else max((top_near + top_far + edge / slope) / 2, middle)
        )
    else:
        middle = max(middle, near + min(height, width) / 2)
    position: Points = (
        middle * along + (left + right) / 2 * across + (height / 2 - plane.offset) * plane.normal
    )
    return position
