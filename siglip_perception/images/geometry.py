"""Camera pixels <-> the encoder's square, for every way in which a contract resizes.

All sizes follow the reference implementations to the pixel: torchvision's Resize and CenterCrop
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
    """How one image of width x height became a square of `size`.

    The image is padded by `before` (left, top; the same again on the right and at the bottom),
    scaled to `scaled` (width, height), and put into the square at `offset` (left, top), which is
    negative where something is cut off.
    """

    width: int
    height: int
    size: int
    before: tuple[int, int]
    scaled: tuple[int, int]
    offset: tuple[int, int]

    @classmethod
    def of(cls, resize: Resize, size: int, width: int, height: int) -> Geometry:
        """The geometry of a contract's strategy for an image of that size, at least 1x1."""
        if resize == "squash":
            return cls(width, height, size, (0, 0), (size, size), (0, 0))
        if resize == "resize-pad":
            ratio = max(width / size, height / size)
            scaled = max(int(width / ratio), 1), max(int(height / ratio), 1)
            left, top = (max(0, (size - side) // 2) for side in scaled)
            return cls(width, height, size, (0, 0), scaled, (left, top))
        longest = max(width, height)
        before = (0, 0)
        if resize == "letterbox":
            before = (longest - width) // 2, (longest - height) // 2
        padded = width + 2 * before[0], height + 2 * before[1]
        # torchvision's Resize(int): the shorter side becomes the size; then CenterCrop.
        short = min(padded)
        across, down = (size if side == short else int(size * side / short) for side in padded)
        offset = -round((across - size) / 2.0), -round((down - size) / 2.0)
        return cls(width, height, size, before, (across, down), offset)

    @property
    def scale(self) -> tuple[float, float]:
        """Square pixels for one camera pixel, across and down."""
        padded = self.width + 2 * self.before[0], self.height + 2 * self.before[1]
        return self.scaled[0] / padded[0], self.scaled[1] / padded[1]

    def to_square(self, x: float, y: float) -> tuple[float, float]:
        """A point of the camera image in the square; both continuous, 0 at the outer corner."""
        across, down = self.scale
        return (
            (x + self.before[0]) * across + self.offset[0],
            (y + self.before[1]) * down + self.offset[1],
        )

    def to_image(self, x: float, y: float) -> tuple[float, float]:
        """The inverse of to_square; it may lie outside the image, where the square is padding."""
        across, down = self.scale
        return (
            (x - self.offset[0]) / across - self.before[0],
            (y - self.offset[1]) / down - self.before[1],
        )

    def seen(self) -> tuple[float, float, float, float]:
        """The part of the camera image that the square shows: left, top, right, bottom."""
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
    """A map over the patches [rows, cols] in pixels: float32 [height, width], bilinear.

    patch: side of a patch in pixels of the square. size: width and height of a copy of the image;
    None: the camera's own. Past the outermost patches' centers the map goes on as it ends; what
    the square does not show is 0.
    """
    wanted = size or (geometry.width, geometry.height)
    down, across = _hats(geometry, patch, grid.shape[0], grid.shape[1], wanted)
    # PyTorch's product and not NumPy's, whose own threads would take the cores from the encoders'.
    fine: FloatArray = (down @ torch.from_numpy(grid.astype(np.float32)) @ across).numpy()
    return fine


@lru_cache(maxsize=64)
def _hats(
    geometry: Geometry, patch: int, rows: int, cols: int, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Bilinear weights [height, rows] and [cols, width] of every pixel's center."""
    sides = []
    low, high = geometry.seen()[:2], geometry.seen()[2:]
    for axis, (length, count) in enumerate(((geometry.width, cols), (geometry.height, rows))):
        centers = (np.arange(size[axis]) + 0.5) * (length / size[axis])
        square = (centers + geometry.before[axis]) * geometry.scale[axis] + geometry.offset[axis]
        places = np.clip(square / patch - 0.5, 0, count - 1)
        weights = np.maximum(1 - np.abs(places[:, None] - np.arange(count)), 0)
        weights[(centers < low[axis]) | (centers > high[axis])] = 0
        sides.append(torch.from_numpy(weights.astype(np.float32)))
    return sides[1], sides[0].T.contiguous()
