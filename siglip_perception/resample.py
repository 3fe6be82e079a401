"""Pillow's resize as two matrix products, for frames that lie on a GPU.

Pillow scales across, rounds to 8 bits, scales down the columns and rounds again; its filters widen
with the scale when they shrink, which is their antialias (Pillow's src/libImaging/Resample.c). The
same weights and the same two roundings give its result to within one grey level; a plain bicubic
without antialias, as OpenCV's, is tens of levels off.
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


def weights(length: int, scaled: int, interpolation: Interpolation) -> Weights:
    """What each of `length` pixels gives to each of `scaled`: [scaled, length], rows sum to 1."""
    kernel, support = _FILTERS[interpolation]
    scale = length / scaled
    stretch = max(scale, 1.0)
    matrix = np.zeros((scaled, length))
    for row in range(scaled):
        centre = (row + 0.5) * scale
        first = max(int(centre - support * stretch + 0.5), 0)
        last = min(int(centre + support * stretch + 0.5), length)
        share = kernel((np.arange(first, last, dtype=np.float64) - centre + 0.5) / stretch)
        matrix[row, first:last] = share / share.sum()
    fixed = matrix * (1 << _PRECISION_BITS)
    rounded: Weights = np.trunc(fixed + np.copysign(0.5, fixed)) / (1 << _PRECISION_BITS)
    return rounded


@dataclass(frozen=True)
class Matrices:
    """The resize of images of one size: uint8 [H, W, 3] -> uint8 [height, width, 3].

    across: float32 [width, W]. down: [height, H]. None where that side stays as it is.
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
    ) -> Matrices:
        """size: (W, H). scaled: (width, height). device: where the images are."""
        across, down = (
            None
            if before == after
            else torch.from_numpy(weights(before, after, interpolation)).float().to(device)
            for before, after in zip(size, scaled, strict=True)
        )
        return cls(across, down)

    def __call__(self, image: Tensor) -> Tensor:
        scaled = image
        if self.across is not None:
            scaled = _round(torch.einsum("vw,hwc->hvc", self.across, scaled.float()))
        if self.down is not None:
            scaled = _round(torch.einsum("gh,hvc->gvc", self.down, scaled.float()))
        return scaled


def _round(values: Tensor) -> Tensor:
    return values.add_(0.5).floor_().clamp_(0, 255).to(torch.uint8)
