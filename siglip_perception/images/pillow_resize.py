"""Pillow's resize as matrix products, bit for bit, for frames on a GPU.

Pillow scales the rows, rounds to 8 bits, scales the columns and rounds again. Its filters widen
with the scale when they shrink an image, which antialiases (Pillow's src/libImaging/Resample.c).
It sums integers: pixels times 22-bit weights. float32 holds integers exactly up to 2^24, so each
weight is split into three parts whose sums stay below that, and which TF32 holds exactly, too; the
sums are put together as integers. A plain bicubic without antialiasing, such as OpenCV's, is off
by tens of levels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from siglip_perception.contracts.steps import Filter
from siglip_perception.images.filters import KERNELS
from siglip_perception.types import UInt8Array

# Pillow's fixed point: 32 bits less 8 for the pixel and 2 of headroom.
_PRECISION_BITS = 32 - 8 - 2
# Bits of each of a weight's two lower parts, from -2^8 to 2^8. TF32 holds integers up to 2^11, and
# a sum of 257 products with 8-bit pixels stays below 2^24. Only shrinking more than 64 times would
# need more taps.
_PART_BITS = 9
_PARTS = 3


_PILLOW: dict[Filter, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos3": Image.Resampling.LANCZOS,
    "area": Image.Resampling.BOX,
}


def pillow_resize(image: UInt8Array, size: tuple[int, int], filter_name: Filter) -> UInt8Array:
    """Resize uint8 [H, W, 3] to (width, height) as Pillow did up to version 12.

    Rows first, then columns, rounded in between. Pillow 13 starts with the columns if the height
    shrinks by more than twice as many pixels as the width, as in a portrait frame; its pixels then
    differ by up to 20 levels in fine texture, and policies were trained on the old ones.
    """
    across = Image.fromarray(image).resize((size[0], image.shape[0]), _PILLOW[filter_name])
    return np.asarray(across.resize(size, _PILLOW[filter_name]))


def pillow_resize_part(
    image: UInt8Array,
    size: tuple[int, int],
    filter_name: Filter,
    box: tuple[float, float, float, float],
) -> UInt8Array:
    """Resize the part of the image in the box: left, top, right, bottom."""
    return np.asarray(Image.fromarray(image).resize(size, _PILLOW[filter_name], box=box))


def weights(length: int, new_length: int, filter_name: Filter) -> npt.NDArray[np.int64]:
    """Compute the filter that resizes `length` pixels to `new_length`: int64 [new_length, length].

    In units of 2^-22, rounded as in Pillow; a row sums to about 2^22.
    """
    kernel, support = KERNELS[filter_name]
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
        filter_name: Filter,
        device: torch.device,
    ) -> PillowResize:
        """Prepare the resize of size (W, H) to new_size (width, height) on the images' device."""
        across, down = (
            None
            if length == new_length
            else _split_weights(weights(length, new_length, filter_name), device)
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
