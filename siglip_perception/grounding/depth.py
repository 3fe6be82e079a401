"""Locate objects in the camera's optical frame by a registered depth image.

REP 118: 16UC1 is millimeters, 0 unknown; 32FC1 is meters, NaN unknown. REP 103: x to the right, y
down, z forward. The depth image has to be registered to the color image (same pixels, same lens),
and the lens's distortion has to be removed or negligible.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from siglip_perception.errors import PerceptionError
from siglip_perception.grounding.options import DEFAULT_OPTIONS, GroundingOptions
from siglip_perception.grounding.solid import middle_of, support_plane
from siglip_perception.types import Box, Depth, FloatArray, GroundedObject, Point3, UInt8Array

_MILLIMETERS, _METERS = np.dtype("<u2"), np.dtype("<f4")
_DTYPES: dict[str, np.dtype[Any]] = {
    "16UC1": _MILLIMETERS,
    "mono16": _MILLIMETERS,
    "32FC1": _METERS,
}
# Makes a median absolute deviation a normal distribution's standard deviation (Rousseeuw and Croux
# 1993).
_MAD_TO_SIGMA = 1.4826


class DepthError(PerceptionError):
    """A depth image or camera info that cannot be used. `reason`: the name it is counted under."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def decode(message: Any) -> FloatArray:
    """Decode a sensor_msgs/Image of depth: float32 [height, width], meters, NaN where unknown.

    Raises DepthError: `encoding` or `malformed`.
    """
    kind = _DTYPES.get(message.encoding)
    if kind is None:
        raise DepthError(
            "encoding",
            f"the depth image's encoding is {message.encoding[:40]!a}: publish 16UC1"
            " (millimeters) or 32FC1 (meters).",
        )
    height, width, step = int(message.height), int(message.width), int(message.step)
    row = width * kind.itemsize
    if height < 1 or width < 1 or step < row or len(message.data) != step * height:
        raise DepthError(
            "malformed",
            f"the depth image's {len(message.data)} bytes are not {height} rows of step {step}"
            f" with {width} pixels.",
        )
    if message.is_bigendian:
        kind = kind.newbyteorder(">")
    rows = np.frombuffer(message.data, np.uint8).reshape(height, step)[:, :row]
    raw: npt.NDArray[Any] = np.ascontiguousarray(rows).view(kind)
    meters = raw.astype(np.float32)
    if kind.kind == "u":
        meters /= 1000.0
    with np.errstate(invalid="ignore"):
        meters[~(np.isfinite(meters) & (meters > 0))] = np.nan
    return meters


def depth_of(image: Any, info: Any, width: int, height: int) -> Depth:
    """Read the depth of a width x height color image from its messages (rclpy's or rosbags').

    Raises DepthError: `encoding`, `malformed`, `size`, `info` or `empty`.
    """
    for name, message in (("depth image", image), ("camera info", info)):
        if (int(message.width), int(message.height)) != (width, height):
            raise DepthError(
                "size",
                f"the {name} is {message.width}x{message.height} and the image {width}x{height}:"
                " register depth to the color image.",
            )
    fx, fy, cx, cy = (float(info.k[i]) for i in (0, 4, 2, 5))
    if not (np.isfinite([fx, fy, cx, cy]).all() and fx > 0 and fy > 0):
        raise DepthError("info", "the camera info has no focal length: calibrate the camera.")
    meters = decode(image)
    if not np.isfinite(meters).any():
        raise DepthError("empty", "the depth image has no valid pixel.")
    return Depth(meters, fx, fy, cx, cy)


def locate(
    objects: Sequence[GroundedObject],
    masks: Sequence[UInt8Array],
    depth: Depth,
    options: GroundingOptions = DEFAULT_OPTIONS,
) -> list[GroundedObject]:
    """Add position, surface and extent to objects; NaN stays if too little of one has depth.

    position is the middle of the thing where the plane that it rests on is in view around it, and
    the surface's center elsewhere.

    masks: one for each object, uint8 [height, width], 1 on the object.
    """
    located = []
    for item, mask in zip(objects, masks, strict=True):
        box = item.box
        window = slice(box.y, box.y + box.height), slice(box.x, box.x + box.width)
        points = _points(mask[window], depth, box.x, box.y, options)
        if points is None:
            located.append(item)
            continue
        surface = points[_is_inlier(points[:, 2], options)]
        bounds = np.percentile(surface, options.extent_percentiles, axis=0)
        center = bounds.mean(axis=0)
        plane = support_plane(_surroundings(mask, box, depth, options), options)
        edge = options.depth_edge * float(np.median(points[:, 2])) / depth.fx
        middle = None if plane is None else middle_of(points, plane, edge, options)
        located.append(
            replace(
                item,
                position=_point(center if middle is None else middle),
                surface=_point(center),
                extent=_point(bounds[1] - bounds[0]),
            )
        )
    return located


def _point(values: npt.NDArray[np.float64]) -> Point3:
    x, y, z = (float(value) for value in values)
    return x, y, z


def _surroundings(
    mask: UInt8Array, box: Box, depth: Depth, options: GroundingOptions
) -> npt.NDArray[np.float64]:
    """Points [n, 3], meters, of a ring around an object's mask."""
    margin = max(
        round(options.plane_ring * max(box.width, box.height)), 2 * options.depth_edge + 4
    )
    top, left = max(box.y - margin, 0), max(box.x - margin, 0)
    window = (
        slice(top, box.y + box.height + margin),
        slice(left, box.x + box.width + margin),
    )
    side = 2 * (options.depth_edge + 1) + 1
    outside = cv2.dilate(mask[window], np.ones((side, side), np.uint8)) == 0
    meters = depth.meters[window]
    rows, cols = np.nonzero(outside & np.isfinite(meters))
    return _deproject(rows + top, cols + left, meters[rows, cols], depth)


def _deproject(
    rows: npt.NDArray[np.int64], cols: npt.NDArray[np.int64], meters: FloatArray, depth: Depth
) -> npt.NDArray[np.float64]:
    z = meters.astype(np.float64)
    return np.stack(
        [(cols - depth.cx) * z / depth.fx, (rows - depth.cy) * z / depth.fy, z], axis=1
    )


def _points(
    mask: UInt8Array, depth: Depth, x_offset: int, y_offset: int, options: GroundingOptions
) -> npt.NDArray[np.float64] | None:
    """Visible points [n, 3], meters, of a mask with its corner at (x_offset, y_offset)."""
    height, width = mask.shape
    meters = depth.meters[y_offset : y_offset + height, x_offset : x_offset + width]
    side = 2 * options.depth_edge + 1
    inner = cv2.erode(
        mask,
        np.ones((side, side), np.uint8),
        borderType=cv2.BORDER_CONSTANT,
        borderValue=0,
    )
    if np.count_nonzero(inner) < options.min_depth_pixels:  # too thin to lose its edge
        inner = mask
    rows, cols = np.nonzero((inner > 0) & np.isfinite(meters))
    if len(rows) < max(
        options.min_depth_pixels, options.min_depth_share * np.count_nonzero(inner)
    ):
        return None
    return _deproject(rows + y_offset, cols + x_offset, meters[rows, cols], depth)


def _is_inlier(z: npt.NDArray[np.float64], options: GroundingOptions) -> npt.NDArray[np.bool_]:
    """Mark depths [n] near the median one: others are of something before or behind."""
    median = np.median(z)
    deviation = _MAD_TO_SIGMA * float(np.median(np.abs(z - median)))
    spread = max(options.max_deviations * deviation, options.min_depth_spread)
    inlier: npt.NDArray[np.bool_] = np.abs(z - median) <= spread
    return inlier
