"""TensorFlow's and jax's resize as matrix products in float32: tf.image.resize, jax.image.resize.

Both sample at half-pixel centers and divide each pixel's weights by their sum, so the weights are
the same; sums differ from theirs by rounding alone, about 1e-4 of 255. Neither rounds between the
axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from siglip_perception.contracts.steps import Filter
from siglip_perception.images.filters import KERNELS, Values

# Rows of the result per product: each reads only the band of rows that its filters reach.
_BLOCK = 16


def weights(length: int, new_length: int, filter_name: Filter, antialias: bool) -> Values:
    """Compute the filter that resizes `length` pixels to `new_length`: [new_length, length]."""
    kernel, _ = KERNELS[filter_name]
    # Places in float32, as in both libraries: in wide images they are off by 1e-4 of a pixel.
    one, half = np.float32(1), np.float32(0.5)
    scale = one / (np.float32(new_length) / np.float32(length))
    stretch = max(scale, one) if antialias else one
    centers = (np.arange(new_length, dtype=np.float32) + half) * scale
    distances = (np.arange(length, dtype=np.float32) + half)[None, :] - centers[:, None]
    matrix = kernel((distances * (one / stretch)).astype(np.float64))
    normalized: Values = matrix / matrix.sum(axis=1, keepdims=True)
    return normalized


@dataclass(frozen=True)
class _Band:
    """Rows [start, stop) of a product, and the columns [first, last) that are not zero."""

    first: int
    last: int
    values: Tensor


@lru_cache(maxsize=64)
def _bands(length: int, new_length: int, filter_name: Filter, antialias: bool) -> list[_Band]:
    matrix = weights(length, new_length, filter_name, antialias)
    bands = []
    for start in range(0, new_length, _BLOCK):
        block = matrix[start : start + _BLOCK]
        used = np.flatnonzero(block.any(axis=0))
        first, last = int(used[0]), int(used[-1]) + 1
        values = torch.from_numpy(block[:, first:last].astype(np.float32)).contiguous()
        bands.append(_Band(first, last, values))
    return bands


def resize_on_host(
    image: Tensor, size: tuple[int, int], filter_name: Filter, antialias: bool
) -> Tensor:
    """Resize uint8 or float32 [H, W, 3] on a CPU to (width, height): float32, unclipped."""
    height, width = image.shape[:2]
    down = _bands(height, size[1], filter_name, antialias)
    across = _bands(width, size[0], filter_name, antialias)
    rows = image.reshape(height, width * 3).float()
    rows = torch.cat([band.values @ rows[band.first : band.last] for band in down])
    planes = rows.view(size[1], width, 3).permute(0, 2, 1).reshape(size[1] * 3, width)
    columns = torch.cat([planes[:, b.first : b.last] @ b.values.T for b in across], dim=1)
    return columns.view(size[1], 3, size[0]).permute(0, 2, 1).contiguous()


@dataclass(frozen=True)
class MatrixResize:
    """The resize of images of one size on their own device; float64, as TF32 has too few bits.

    across: [width, W]. down: [height, H].
    """

    across: Tensor
    down: Tensor

    @classmethod
    def of(
        cls,
        size: tuple[int, int],
        new_size: tuple[int, int],
        filter_name: Filter,
        antialias: bool,
        device: torch.device,
    ) -> MatrixResize:
        """Prepare the resize of size (W, H) to new_size (width, height)."""
        across, down = (
            torch.from_numpy(weights(length, new_length, filter_name, antialias)).to(device)
            for length, new_length in zip(size, new_size, strict=True)
        )
        return cls(across, down)

    def __call__(self, image: Tensor) -> Tensor:
        """Resize uint8 or float32 [H, W, 3]: float32 [height, width, 3], unclipped."""
        height, width = image.shape[:2]
        rows = self.down @ image.reshape(height, width * 3).double()
        planes = rows.view(-1, width, 3).permute(0, 2, 1)
        return (planes @ self.across.T).permute(0, 2, 1).float().contiguous()
