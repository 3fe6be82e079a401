"""Turn published objects into sightings in the arm's frame: where, how high, which way."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from siglip_perception.robot.policy import Sighting
from siglip_perception.types import UInt8Array


@dataclass(frozen=True)
class CameraModel:
    """fx, fy, cx, cy: of the pinhole, pixels. rotation [3, 3], position [3]: optical to arm."""

    fx: float
    fy: float
    cx: float
    cy: float
    rotation: np.ndarray
    position: np.ndarray

    def to_arm(self, point: np.ndarray) -> np.ndarray:
        """Transform points [..., 3] of the optical frame, meters."""
        output: np.ndarray = point @ self.rotation.T + self.position
        return output

    def on_level(self, pixels: np.ndarray, level: float) -> np.ndarray:
        """Cut the rays of pixels [n, 2] at the height `level`: [n, 2], meters, in the arm's frame.

        Rays that do not lead down are left out.
        """
        rays = np.column_stack(
            [
                (pixels[:, 0] - self.cx) / self.fx,
                (pixels[:, 1] - self.cy) / self.fy,
                np.ones(len(pixels)),
            ]
        )
        world = rays @ self.rotation.T
        world = world[world[:, 2] < -1e-3]
        distances = (level - self.position[2]) / world[:, 2]
        output: np.ndarray = self.position[:2] + distances[:, None] * world[:, :2]
        return output


def sighting(
    phrase: str,
    is_place: bool,
    score: float,
    position: tuple[float, float, float],
    mask: UInt8Array,
    camera: CameraModel,
) -> Sighting | None:
    """Describe one object; None without a position.

    position: its middle in the optical frame, meters. mask: uint8 [height, width], nonzero on it.
    The middle of a thing on the table is at half its height. The long axis is that of the smallest
    rectangle around its mask, laid on the level of the middle.
    """
    middle = camera.to_arm(np.array(position))
    if not np.isfinite(middle).all():
        return None
    rows, columns = np.nonzero(mask)
    yaw, width = 0.0, 0.0
    if len(rows) >= 3:
        pixels = np.column_stack([columns, rows]).astype(np.float64)
        outline = camera.on_level(pixels, float(middle[2]))
        if len(outline) >= 3:
            (_, sides, degrees) = cv2.minAreaRect(outline.astype(np.float32))
            first, second = (float(side) for side in sides)
            yaw = float(np.radians(degrees)) + (0.0 if first >= second else np.pi / 2)
            width = min(first, second)
    x, y, z = (float(value) for value in middle)
    return Sighting(phrase, is_place, score, x, y, max(2 * z, 0.004), width, yaw)
