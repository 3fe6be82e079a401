"""A registered depth image -> where each object is, in the camera's optical frame.

REP 118: 16UC1 is millimeters, 0 unknown; 32FC1 is meters, NaN unknown. REP 103: x to the right, y
down, z forward. The depth image has to be registered to the color image: same pixels, same lens,
whose distortion is taken as removed or negligible.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from siglip_perception.errors import PerceptionError
from siglip_perception.types import Depth, FloatArray, GroundedObject, Point3, UInt8Array

_MILLIMETRES, _METRES = np.dtype("<u2"), np.dtype("<f4")
_DTYPES: dict[str, np.dtype[Any]] = {
    "16UC1": _MILLIMETRES,
    "mono16": _MILLIMETRES,
    "32FC1": _METRES,
}
# At an object's edge a depth pixel is as likely the table's: so many pixels are left out.
_EDGE = 2
_FEWEST_PIXELS = 12
_FEWEST_SHARE = 0.05
# Beyond so many scaled median absolute deviations from the median, or a centimeter, it is another
# thing's. 1.4826 makes the MAD a standard deviation (Rousseeuw and Croux 1993).
_OUTLIER = 3 * 1.4826
_LEAST_SPREAD_M = 0.01
# Percentiles that bound an object: a few flying pixels must not stretch it.
_LOW, _HIGH = 2.0, 98.0


class DepthError(PerceptionError):
    """A depth image or camera info that is of no use. `reason`: the name it is counted under."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def decode(message: Any) -> FloatArray:
    """A sensor_msgs/Image of depth as float32 [height, width] meters, NaN where it is unknown.

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
    """The depth of a color image of width x height, from its messages (rclpy's or rosbags').

    Raises DepthError: `encoding`, `malformed`, `size`, `info` or `empty`.
    """
    for what, message in (("depth image", image), ("camera info", info)):
        if (int(message.width), int(message.height)) != (width, height):
            raise DepthError(
                "size",
                f"the {what} is {message.width}x{message.height} and the image {width}x{height}:"
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
    objects: Sequence[GroundedObject], masks: Sequence[UInt8Array], depth: Depth
) -> list[GroundedObject]:
    """The objects with position and extent; NaN stays where the depth shows too little of one.

    masks: for each object uint8 [height, width], 1 where it is.
    """
    located = []
    for found, mask in zip(objects, masks, strict=True):
        box = found.box
        part = slice(box.y, box.y + box.height), slice(box.x, box.x + box.width)
        measured = _measure(mask[part], depth, box.x, box.y)
        located.append(
            found if measured is None else replace(found, position=measured[0], extent=measured[1])
        )
    return located


def _measure(mask: UInt8Array, depth: Depth, left: int, top: int) -> tuple[Point3, Point3] | None:
    """(center, size) of what a mask shows, its corner being at (left, top) of the image."""
    height, width = mask.shape
    meters = depth.meters[top : top + height, left : left + width]
    inner = cv2.erode(
        mask,
        np.ones((2 * _EDGE + 1, 2 * _EDGE + 1), np.uint8),
        borderType=cv2.BORDER_CONSTANT,
        borderValue=0,
    )
    if np.count_nonzero(inner) < _FEWEST_PIXELS:  # too thin to lose its edge
        inner = mask
    rows, cols = np.nonzero((inner > 0) & np.isfinite(meters))
    if len(rows) < max(_FEWEST_PIXELS, _FEWEST_SHARE * np.count_nonzero(inner)):
        return None
    z = meters[rows, cols].astype(np.float64)
    middle = np.median(z)
    spread = max(_OUTLIER * float(np.median(np.abs(z - middle))), _LEAST_SPREAD_M)
    near = np.abs(z - middle) <= spread
    rows, cols, z = rows[near], cols[near], z[near]
    x = (cols + left - depth.cx) * z / depth.fx
    y = (rows + top - depth.cy) * z / depth.fy
    bounds = np.percentile(np.stack([x, y, z]), [_LOW, _HIGH], axis=1)
    center, size = bounds.mean(axis=0), bounds[1] - bounds[0]
    return (
        (float(center[0]), float(center[1]), float(center[2])),
        (float(size[0]), float(size[1]), float(size[2])),
    )
