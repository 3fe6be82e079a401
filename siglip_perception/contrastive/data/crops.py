"""Views of an image for self-distillation: random crops, color changes, masked patches.

Everything random about a sample comes from that sample's own seed, so a view does not depend on
the batch, the process or the step that it is made in.
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
_GREY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True)
class CropSettings:
    """Sizes and shares of DINO's multi-crop (Caron et al. 2021, section 3.1).

    patches: side of a crop in the model's patches. count: crops an image.
    scale: least and greatest share of the image's area that a crop shows.
    """

    patches: int
    count: int
    scale: tuple[float, float]


@dataclass(frozen=True)
class MaskSettings:
    """Which patches the student does not see: iBOT's blocks (Zhou et al. 2021), DINOv2's shares.

    probability: of an image to be masked at all. ratio: least and greatest masked share.
    """

    probability: float = 0.5
    ratio: tuple[float, float] = (0.1, 0.5)


def random_crops(images: Tensor, seeds: list[int], settings: CropSettings, patch: int) -> Tensor:
    """`count` random crops of each image: float [B, 3, H, W] in [0, 1] -> [count * B, 3, S, S].

    patch: side of a patch in pixels; S is settings.patches times as much. Crop k of image i is row
    k * B + i. Each is resized bilinearly, flipped left to right half the time, and changed in
    brightness, contrast and saturation; some are blurred. Hue stays: on a table, a color is what
    tells two things apart.
    """
    rngs = [np.random.default_rng((seed, settings.patches)) for seed in seeds]
    side = settings.patches * patch
    views = []
    for _ in range(settings.count):
        drawn = [_draw(rng, settings.scale) for rng in rngs]
        maps = torch.tensor([d.affine for d in drawn], dtype=images.dtype, device=images.device)
        shape = [len(images), 3, side, side]
        grid = functional.affine_grid(maps, shape, align_corners=False)
        crops = functional.grid_sample(
            images, grid, mode="bilinear", padding_mode="reflection", align_corners=False
        )
        views.append(_blur(_recolor(crops, drawn), [d.blurred for d in drawn]))
    return torch.cat(views)


@dataclass(frozen=True)
class _Drawn:
    """affine: output -> input coordinates, both in [-1, 1], as affine_grid takes them."""

    affine: tuple[tuple[float, float, float], tuple[float, float, float]]
    brightness: float
    contrast: float
    saturation: float
    blurred: bool


def _draw(rng: np.random.Generator, scale: tuple[float, float]) -> _Drawn:
    area = rng.uniform(*scale)
    aspect = math.exp(rng.uniform(math.log(_ASPECT[0]), math.log(_ASPECT[1])))
    width = min(1.0, math.sqrt(area * aspect))
    height = min(1.0, math.sqrt(area / aspect))
    left, top = rng.uniform(-1, 1, 2)
    sign = -1.0 if rng.random() < _FLIP else 1.0
    return _Drawn(
        ((sign * width, 0.0, left * (1 - width)), (0.0, height, top * (1 - height))),
        brightness=rng.uniform(1 - _JITTER, 1 + _JITTER),
        contrast=rng.uniform(1 - _JITTER, 1 + _JITTER),
        saturation=rng.uniform(1 - _JITTER, 1 + _JITTER),
        blurred=bool(rng.random() < _BLUR),
    )


def _recolor(images: Tensor, drawn: list[_Drawn]) -> Tensor:
    def factors(values: list[float]) -> Tensor:
        return images.new_tensor(values).view(-1, 1, 1, 1)

    gray_weights = images.new_tensor(_GREY_WEIGHTS).view(1, 3, 1, 1)
    images = (images * factors([d.brightness for d in drawn])).clamp(0, 1)
    gray = (images * gray_weights).sum(dim=1, keepdim=True)
    mean = gray.mean(dim=(-1, -2), keepdim=True)
    images = (mean + (images - mean) * factors([d.contrast for d in drawn])).clamp(0, 1)
    gray = (images * gray_weights).sum(dim=1, keepdim=True)
    return (gray + (images - gray) * factors([d.saturation for d in drawn])).clamp(0, 1)


def _blur(images: Tensor, chosen: list[bool]) -> Tensor:
    """A binomial 5 x 5 kernel over the chosen images; its sigma is one pixel."""
    if not any(chosen):
        return images
    rows = torch.tensor(chosen, device=images.device)
    line = images.new_tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    kernel = torch.outer(line, line).expand(3, 1, 5, 5)
    padded = functional.pad(images[rows], (2, 2, 2, 2), mode="reflect")
    blurred = images.clone()
    blurred[rows] = functional.conv2d(padded, kernel, groups=3)
    return blurred


def block_masks(seeds: list[int], side: int, settings: MaskSettings) -> Tensor:
    """Which patches of a side x side grid are hidden, bool [B, side * side], one row a seed.

    Rectangles are added until the drawn share is reached exactly: the last one is cut short.
    """
    masks = np.zeros((len(seeds), side, side), dtype=bool)
    for mask, seed in zip(masks, seeds, strict=True):
        rng = np.random.default_rng((seed, side, 1))
        if rng.random() >= settings.probability:
            continue
        wanted = round(rng.uniform(*settings.ratio) * side * side)
        while (missing := wanted - int(mask.sum())) > 0:
            area = rng.uniform(0.3, 1.0) * max(missing, 4)
            aspect = math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
            height = min(side, max(1, round(math.sqrt(area * aspect))))
            width = min(side, max(1, round(math.sqrt(area / aspect))))
            top = int(rng.integers(side - height + 1))
            left = int(rng.integers(side - width + 1))
            rows, columns = np.nonzero(~mask[top : top + height, left : left + width])
            mask[top + rows[:missing], left + columns[:missing]] = True
    return torch.from_numpy(masks.reshape(len(seeds), -1))
