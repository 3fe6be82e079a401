"""Mapping between camera pixels and the encoder's square, for each resize of a contract.

Sizes match the reference implementations to the pixel: torchvision's Resize and CenterCrop
for `squash`, `letterbox` and `resize-crop`, openpi's resize_with_pad for `resize-pad`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from siglip_perception.contracts import Resize
from siglip_perception.types import FloatArray


@dataclass(frozen=True)
class Geometry:
    """Mapping of an image of width x height to a square of `size`.

    The image is padded by `before` (left, top; the same again on the right and at the bottom),
    scaled to `scaled` (width, height), and put into the square at `offset` (left, top), which is
    negative where something is cut off.
    """

    width: int
    height: int
    size: int
    padding: tuple[int, int]
    scaled_size: tuple[int, int]
    offset: tuple[int, int]

    @classmethod
    def of(cls, resize: Resize, size: int, width: int, height: int) -> Geometry:
        """Compute the geometry of a resize strategy for an image of at least 1x1."""
        if resize == "squash":
            return cls(width, height, size, (0, 0), (size, size), (0, 0))
        if resize == "resize-pad":
            ratio = max(width / size, height / size)
            scaled_size = max(int(width / ratio), 1), max(int(height / ratio), 1)
            left, top = (max(0, (size - side) // 2) for side in scaled_size)
            return cls(width, height, size, (0, 0), scaled_size, (left, top))
        longest = max(width, height)
        padding = (0, 0)
        if resize == "letterbox":
            padding = (longest - width) // 2, (longest - height) // 2
        padded_size = width + 2 * padding[0], height + 2 * padding[1]
        # torchvision's Resize(int): the shorter side becomes the size; then CenterCrop.
        short = min(padded_size)
        across, down = (
            size if side == short else int(size * side / short) for side in padded_size
        )
        offset = -round((across - size) / 2.0), -round((down - size) / 2.0)
        return cls(width, height, size, padding, (across, down), offset)

    @property
    def scale(self) -> tuple[float, float]:
        """Square pixels per camera pixel, across and down."""
        padded_size = self.width + 2 * self.padding[0], self.height + 2 * self.padding[1]
        return self.scaled_size[0] / padded_size[0], self.scaled_size[1] / padded_size[1]

    def to_square(self, x: float, y: float) -> tuple[float, float]:
        """Map a point of the camera image to the square; continuous, 0 at the outer corner."""
        across, down = self.scale
        return (
            (x + self.padding[0]) * across + self.offset[0],
            (y + self.padding[1]) * down + self.offset[1],
        )

    def to_image(self, x: float, y: float) -> tuple[float, float]:
        """Map a point of the square to the camera image; outside of the image for padding."""
        across, down = self.scale
        return (
            (x - self.offset[0]) / across - self.padding[0],
            (y - self.offset[1]) / down - self.padding[1],
        )

    def visible_region(self) -> tuple[float, float, float, float]:
        """Return the part of the camera image that the square shows: left, top, right, bottom."""
        left, top = self.to_image(0, 0)
        right, bottom = self.to_image(self.size, self.size)
        return (
            max(left, 0.0),
            max(top, 0.0),
            min(right, float(self.width)),
            min(bottom, float(self.height)),
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
        square = (centers + geometry.padding[axis]) * geometry.scale[axis] + geometry.offset[axis]
        places = np.clip(square / patch - 0.5, 0, count - 1)
        weights = np.maximum(1 - np.abs(places[:, None] - np.arange(count)), 0)
        weights[(centers < low[axis]) | (centers > high[axis])] = 0
        sides.append(torch.from_numpy(weights.astype(np.float32)))
    return sides[1], sides[0].T.contiguous()
