"""Pillow's resize, bit for bit, as matrix products: for frames that lie on a GPU.

Pillow scales across, rounds to 8 bits, scales down the columns and rounds again; its filters widen
with the scale when they shrink, which is their antialias (Pillow's src/libImaging/Resample.c). It
sums integers: pixels times weights of 22 bits. float32 holds integers up to 2^24 exactly, so each
weight is split into three parts, whose sums stay below that and which TF32 holds exactly, too; the
sums are put together as integers. A plain bicubic without antialias, as OpenCV's, is tens of
levels off.
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

# Pillow's fixed point: 8 bits of a sum, two of headroom.
_PRECISION_BITS = 32 - 8 - 2
# Bits of each of a weight's two lower parts: from -2^8 to 2^8, as TF32 holds integers up to 2^11,
# and the sum of 257 pixels times one stays below 2^24. A filter of more taps would shrink a
# picture 64 times.
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


def weights(length: int, scaled: int, interpolation: Interpolation) -> npt.NDArray[np.int64]:
    """Weights of each of `length` pixels in each of `scaled`: [scaled, length], integers.

    In units of 2^-22, as Pillow rounds them; a row sums to about 2^22.
    """
    kernel, support = _FILTERS[interpolation]
    scale = length / scaled
    stretch = max(scale, 1.0)
    matrix = np.zeros((scaled, length))
    for row in range(scaled):
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

    across: float32 [3 * width, W], the weights' parts from the lowest up. down: [3 * height, H].
    None where that side stays as it is.
    """

    across: Tensor | None = None
    down: Tensor | None = None

    @classmethod
    def of(
        cls,
        size: tuple[int, int],
        scaled: tuple[int, int],
        interpolation: Interpolation,
        device: torch.device,
    ) -> PillowResize:
        """size: (W, H). scaled: (width, height). device: where the images are."""
        across, down = (
            None if before == after else _split(weights(before, after, interpolation), device)
            for before, after in zip(size, scaled, strict=True)
        )
        return cls(across, down)

    def __call__(self, image: Tensor) -> Tensor:
        scaled = image
        if self.across is not None:
            scaled = _product(self.across, scaled.transpose(0, 1)).transpose(0, 1)
        if self.down is not None:
            scaled = _product(self.down, scaled)
        return scaled.contiguous()


def _split(fixed: npt.NDArray[np.int64], device: torch.device) -> Tensor:
    """float32 [3 * n, L] of weights [n, L]: fixed = low + 2^9 * middle + 2^18 * high."""
    parts = []
    for _ in range(_PARTS - 1):
        rest = (fixed + (1 << (_PART_BITS - 1))) >> _PART_BITS
        parts.append(fixed - (rest << _PART_BITS))
        fixed = rest
    return torch.from_numpy(np.concatenate([*parts, fixed])).float().to(device)


def _product(parts: Tensor, image: Tensor) -> Tensor:
    """Weights [3 * n, L] times uint8 [L, M, 3] -> uint8 [n, M, 3], rounded as Pillow rounds."""
    length, across, channels = image.shape
    sums = (parts @ image.reshape(length, across * channels).float()).to(torch.int32)
    low, middle, high = sums.view(_PARTS, -1, across, channels).unbind(0)
    total = torch.add(low, torch.add(middle, high, alpha=1 << _PART_BITS), alpha=1 << _PART_BITS)
    total = total.add_(1 << (_PRECISION_BITS - 1)).bitwise_right_shift_(_PRECISION_BITS)
    return total.clamp_(0, 255).to(torch.uint8)
