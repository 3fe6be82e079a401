"""Pillow's resize as matrix products, bit for bit, for frames on a GPU.

Pillow scales the rows, rounds to 8 bits, scales the columns and rounds again. Its filters widen
with the scale when they shrink an image, which antialiases (Pillow's src/libImaging/Resample.c).
It sums integers: pixels times 22-bit weights. float32 holds integers exactly up to 2^24, so each
weight is split into three parts whose sums stay below that, and which TF32 holds exactly, too; the
sums are put together as integers. A plain bicubic without antialiasing, such as OpenCV's, is off
by tens of levels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from siglip_perception.contracts import Interpolation

Weights = npt.NDArray[np.float64]

# Pillow's fixed point: 32 bits less 8 for the pixel and 2 of headroom.
_PRECISION_BITS = 32 - 8 - 2
# Bits of each of a weight's two lower parts, from -2^8 to 2^8. TF32 holds integers up to 2^11, and
# a sum of 257 products with 8-bit pixels stays below 2^24. Only shrinking more than 64 times would
# need more taps.
_PART_BITS = 9
_PARTS = 3


def _triangle(x: Weights) -> Weights:
    return np.maximum(1.0 - np.abs(x), 0.0)


def _cubic(x: Weights) -> Weights:
    """Keys' cubic convolution with a = -1/2."""
    a, x = -0.5, np.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


_FILTERS: dict[Interpolation, tuple[Callable[[Weights], Weights], float]] = {
    "bilinear": (_triangle, 1.0),
    "bicubic": (_cubic, 2.0),
}


def weights(length: int, new_length: int, interpolation: Interpolation) -> npt.NDArray[np.int64]:
    """Compute the filter that resizes `length` pixels to `new_length`: int64 [new_length, length].

    In units of 2^-22, rounded as in Pillow; a row sums to about 2^22.
    """
    kernel, support = _FILTERS[interpolation]
    scale = length / new_length
    stretch = max(scale, 1.0)
    matrix = np.zeros((new_length, length))
    for row in range(new_length):
        center = (row + 0.5) * scale
        first = max(int(center - support * stretch + 0.5), 0)
        last = min(int(center + support * stretch + 0.5), length)
        share = kernel((np.arange(first, last, dtype=np.float64) - center + 0.5) / stretch)
        matrix[row, first:last] = share / share.sum()
    fixed = matrix * (1 << _PRECISION_BITS)
    return np.trunc(fixed + np.copysign(0.5, fixed)).astype(np.int64)


@dataclass(frozen=True)
class PillowResize:
    """The resize of images of one size: uint8 [H, W, 3] -> uint8 [height, width, 3].

    across: float32 [3 * width, W], the parts of the weights, lowest first. down: [3 * height, H].
    None if that side keeps its length.
    """

    across: Tensor | None = None
    down: Tensor | None = None

    @classmethod
    def of(
        cls,
        size: tuple[int, int],
        new_size: tuple[int, int],
        interpolation: Interpolation,
        device: torch.device,
    ) -> PillowResize:
        """Prepare the resize of size (W, H) to new_size (width, height) on the images' device."""
        across, down = (
            None
            if length == new_length
            else _split_weights(weights(length, new_length, interpolation), device)
            for length, new_length in zip(size, new_size, strict=True)
        )
        return cls(across, down)

    def __call__(self, image: Tensor) -> Tensor:
        resized = image
        if self.across is not None:
            resized = _multiply(self.across, resized.transpose(0, 1)).transpose(0, 1)
        if self.down is not None:
            resized = _multiply(self.down, resized)
        return resized.contiguous()


def _split_weights(fixed: npt.NDArray[np.int64], device: torch.device) -> Tensor:
    """Split weights [n, L] into float32 [3 * n, L]: low + 2^9 * middle + 2^18 * high."""
    parts = []
    for _ in range(_PARTS - 1):
        rest = (fixed + (1 << (_PART_BITS - 1))) >> _PART_BITS
        parts.append(fixed - (rest << _PART_BITS))
        fixed = rest
    return torch.from_numpy(np.concatenate([*parts, fixed])).float().to(device)


def _multiply(parts: Tensor, image: Tensor) -> Tensor:
    """Multiply weights [3 * n, L] by uint8 [L, M, 3]: uint8 [n, M, 3], rounded as in Pillow."""
    length, across, channels = image.shape
    sums = (parts @ image.reshape(length, across * channels).float()).to(torch.int32)
    low, middle, high = sums.view(_PARTS, -1, across, channels).unbind(0)
    total = torch.add(low, torch.add(middle, high, alpha=1 << _PART_BITS), alpha=1 << _PART_BITS)
    total = total.add_(1 << (_PRECISION_BITS - 1)).bitwise_right_shift_(_PRECISION_BITS)
    return total.clamp_(0, 255).to(torch.uint8)
