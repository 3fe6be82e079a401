"""Augmented views for self-distillation: random crops, color jitter, masked patches.

All randomness of a sample comes from its own seed, so a view does not depend on the batch, process
or step in which it is made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

_ASPECT = (3 / 4, 4 / 3)
_JITTER = 0.4
_FLIP = 0.5
_BLUR = 0.3
_GRAY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True)
class CropSettings:
    """Multi-crop settings (DINO, Caron et al. 2021, section 3.1).

    patches: side length of a crop, in patches. count: crops per image.
    scale: minimum and maximum share of the image's area that a crop shows.
    """

    patches: int
    count: int
    scale: tuple[float, float]


@dataclass(frozen=True)
class MaskSettings:
    """Settings of the block masks (iBOT, Zhou et al. 2021) that hide patches from the student.

    The defaults are DINOv2's. probability: chance that an image is masked at all.
    ratio: minimum and maximum share of its patches that are masked.
    """

    probability: float = 0.5
    ratio: tuple[float, float] = (0.1, 0.5)


def random_crops(images: Tensor, seeds: list[int], settings: CropSettings, patch: int) -> Tensor:
    """Take `count` random crops per image: float [B, 3, H, W] in [0, 1] -> [count * B, 3, S, S].

    patch: patch side in pixels; S = settings.patches * patch. Row k * B + i is crop k of image i.
    Crops are resized bilinearly, flipped half the time, jittered in brightness, contrast and
    saturation, and sometimes blurred. Hue is left alone: on a table, color is what tells two
    objects apart.
    """
    rngs = [np.random.default_rng((seed, settings.patches)) for seed in seeds]
    side = settings.patches * patch
    views = []
    for _ in range(settings.count):
        params = [_sample_crop(rng, settings.scale) for rng in rngs]
        maps = torch.tensor([p.affine for p in params], dtype=images.dtype, device=images.device)
        shape = [len(images), 3, side, side]
        grid = functional.affine_grid(maps, shape, align_corners=False)
        crops = functional.grid_sample(
            images, grid, mode="bilinear", padding_mode="reflection", align_corners=False
        )
        views.append(_blur(_recolor(crops, params), [p.blur for p in params]))
    return torch.cat(views)


@dataclass(frozen=True)
class _CropParams:
    """Parameters of one crop. affine: output -> input coordinates in [-1, 1], for affine_grid."""

    affine: tuple[tuple[float, float, float], tuple[float, float, float]]
    brightness: float
    contrast: float
    saturation: float
    blur: bool


def _sample_crop(rng: np.random.Generator, scale: tuple[float, float]) -> _CropParams:
    area = rng.uniform(*scale)
    aspect = math.exp(rng.uniform(math.log(_ASPECT[0]), math.log(_ASPECT[1])))
    width = min(1.0, math.sqrt(area * aspect))
    height = min(1.0, math.sqrt(area / aspect))
    dx, dy = rng.uniform(-1, 1, 2)
    sign = -1.0 if rng.random() < _FLIP else 1.0
    return _CropParams(
        ((sign * width, 0.0, dx * (1 - width)), (0.0, height, dy * (1 - height))),
        brightness=rng.uniform(1 - _JITTER, 1 + _JITTER),
        contrast=rng.uniform(1 - _JITTER, 1 + _JITTER),
        saturation=rng.uniform(1 - _JITTER, 1 + _JITTER),
        blur=bool(rng.random() < _BLUR),
    )


def _recolor(images: Tensor, params: list[_CropParams]) -> Tensor:
    def factors(values: list[float]) -> Tensor:
        return images.new_tensor(values).view(-1, 1, 1, 1)

    gray_weights = images.new_tensor(_GRAY_WEIGHTS).view(1, 3, 1, 1)
    images = (images * factors([p.brightness for p in params])).clamp(0, 1)
    gray = (images * gray_weights).sum(dim=1, keepdim=True)
    mean = gray.mean(dim=(-1, -2), keepdim=True)
    images = (mean + (images - mean) * factors([p.contrast for p in params])).clamp(0, 1)
    gray = (images * gray_weights).sum(dim=1, keepdim=True)
    return (gray + (images - gray) * factors([p.saturation for p in params])).clamp(0, 1)


def _blur(images: Tensor, flags: list[bool]) -> Tensor:
    """Blur the selected images with a binomial 5 x 5 kernel (sigma of one pixel)."""
    if not any(flags):
        return images
    rows = torch.tensor(flags, device=images.device)
    line = images.new_tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    kernel = torch.outer(line, line).expand(3, 1, 5, 5)
    context = functional.pad(images[rows], (2, 2, 2, 2), mode="reflect")
    output = images.clone()
    output[rows] = functional.conv2d(context, kernel, groups=3)
    return output


def block_masks(seeds: list[int], side: int, settings: MaskSettings) -> Tensor:
    """Sample one mask per seed over a side x side grid: bool [B, side * side], True is masked.

    Rectangles are added until the sampled share is reached exactly; the last one is cut short.
    """
    masks = np.zeros((len(seeds), side, side), dtype=bool)
    for mask, seed in zip(masks, seeds, strict=True):
        rng = np.random.default_rng((seed, side, 1))
        if rng.random() >= settings.probability:
            continue
        target = round(rng.uniform(*settings.ratio) * side * side)
        while (shortfall := target - int(mask.sum())) > 0:
            area = rng.uniform(0.3, 1.0) * max(shortfall, 4)
            aspect = math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
            height = min(side, max(1, round(math.sqrt(area * aspect))))
            width = min(side, max(1, round(math.sqrt(area / aspect))))
            top = int(rng.integers(side - height + 1))
            column = int(rng.integers(side - width + 1))
            rows, columns = np.nonzero(~mask[top : top + height, column : column + width])
            mask[top + rows[:shortfall], column + columns[:shortfall]] = True
    return torch.from_numpy(masks.reshape(len(seeds), -1))
