"""Mapping between camera pixels and an encoder's square, derived from a contract's pixel steps.

Every step moves and scales each axis by itself, so a list of steps does, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from siglip_perception.contracts.steps import Placement, Steps, place
from siglip_perception.types import FloatArray


@dataclass(frozen=True)
class Geometry:
    """Mapping of an image of width x height to a square of `size`, lengths across and down.

    A point p of the image lies at p * scale + offset of the square; continuous, 0 at the outer
    corner.
    placements: of each step. region: left, top, right and bottom of the part of the image that the
        square shows.
    """

    width: int
    height: int
    size: int
    scale: tuple[float, float]
    offset: tuple[float, float]
    region: tuple[float, float, float, float]
    placements: tuple[Placement, ...]

    @classmethod
    def of(cls, steps: Steps, size: int, width: int, height: int) -> Geometry:
        """Compute the geometry of the steps for an image of at least 1x1."""
        return _geometry(steps, size, width, height)

    def to_square(self, x: float, y: float) -> tuple[float, float]:
        """Map a point of the camera image to the square."""
        return x * self.scale[0] + self.offset[0], y * self.scale[1] + self.offset[1]

    def to_image(self, x: float, y: float) -> tuple[float, float]:
        """Map a point of the square to the camera image; outside of the image for padding."""
        return (x - self.offset[0]) / self.scale[0], (y - self.offset[1]) / self.scale[1]

    def visible_region(self) -> tuple[float, float, float, float]:
        """Return the part of the camera image that the square shows: left, top, right, bottom."""
        return self.region


@lru_cache(maxsize=256)
def _geometry(steps: Steps, size: int, width: int, height: int) -> Geometry:
    scale, offset = [1.0, 1.0], [0.0, 0.0]
    low, high = [0.0, 0.0], [float(width), float(height)]
    placements, lengths = [], (width, height)
    for step in steps:
        placement = place(step, *lengths, size)
        placements.append(placement)
        lengths = placement.size
        for axis in range(2):
            scale[axis] *= placement.scale[axis]
            offset[axis] = offset[axis] * placement.scale[axis] + placement.offset[axis]
            low[axis] = max(low[axis], -offset[axis] / scale[axis])
            high[axis] = min(high[axis], (lengths[axis] - offset[axis]) / scale[axis])
    return Geometry(
        width,
        height,
        size,
        (scale[0], scale[1]),
        (offset[0], offset[1]),
        (low[0], low[1], high[0], high[1]),
        tuple(placements),
    )


def spread(
    grid: FloatArray, geometry: Geometry, patch: int, size: tuple[int, int] | None = None
) -> FloatArray:
    """Upsample a map over the patches, [rows, cols], to pixels: float32 [height, width], bilinear.

    patch: side of a patch in pixels of the square. size: width and height of the result; None:
    those of the camera image. Beyond the centers of the outermost patches the map is constant;
    where the square shows nothing it is 0.
    """
    target_size = size or (geometry.width, geometry.height)
    down, across = _bilinear_weights(geometry, patch, grid.shape[0], grid.shape[1], target_size)
    # PyTorch multiplies, not NumPy, whose thread pool would take cores from the encoders.
    fine: FloatArray = (down @ torch.from_numpy(grid.astype(np.float32)) @ across).numpy()
    return fine


@lru_cache(maxsize=64)
def _bilinear_weights(
    geometry: Geometry, patch: int, rows: int, cols: int, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Compute bilinear weights [height, rows] and [cols, width] at the pixels' centers."""
    sides = []
    low, high = geometry.visible_region()[:2], geometry.visible_region()[2:]
    for axis, (length, count) in enumerate(((geometry.width, cols), (geometry.height, rows))):
        centers = (np.arange(size[axis]) + 0.5) * (length / size[axis])
        square = centers * geometry.scale[axis] + geometry.offset[axis]
        places = np.clip(square / patch - 0.5, 0, count - 1)
        weights = np.maximum(1 - np.abs(places[:, None] - np.arange(count)), 0)
        weights[(centers < low[axis]) | (centers > high[axis])] = 0
        sides.append(torch.from_numpy(weights.astype(np.float32)))
    return sides[1], sides[0].T.contiguous()
