"""Masks from patches, sharpened by the picture's colors."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from siglip_perception.grounding.mask_refinement import MaskRefiner
from siglip_perception.types import FloatArray, UInt8Array


def picture(height: int = 240, width: int = 320) -> tuple[UInt8Array, UInt8Array]:
    """A red bar, thin and slanted, on a noisy gray table; and its mask."""
    rng = np.random.default_rng(0)
    image = rng.normal(120, 6, (height, width, 3))
    mask = np.zeros((height, width), dtype=np.uint8)
    cv2.line(mask, (width // 4, height // 3), (width // 2, 2 * height // 3), 1, width // 32)
    image[mask > 0] = (200, 40, 40)
    return np.clip(image, 0, 255).astype(np.uint8), mask


def coarse(mask: UInt8Array, size: tuple[int, int], rows: int = 12) -> FloatArray:
    """Return a mask as patches see it: their shares of it, spread over a picture of that size."""
    small = cv2.resize(mask.astype(np.float32), (rows, rows), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, size, interpolation=cv2.INTER_LINEAR))


def sharpen(image: UInt8Array, mask: UInt8Array, margin: float = 1 / 12) -> UInt8Array:
    """The whole picture's mask of what the patches know of a mask."""
    colors = MaskRefiner(image)
    part, (x, y) = colors.sharpen(coarse(mask, colors.size), margin)
    full = np.zeros_like(mask)
    full[y : y + part.shape[0], x : x + part.shape[1]] = part
    return full


def iou(first: UInt8Array, second: UInt8Array) -> float:
    mask_pixels, truth = first > 0, second > 0
    return float((mask_pixels & truth).sum() / (mask_pixels | truth).sum())


@pytest.mark.parametrize("size", [(240, 320), (480, 640), (1080, 1920), (333, 517)])
def test_a_thin_thing_gets_its_edges_back(size: tuple[int, int]) -> None:
    image, mask = picture(*size)
    assert iou((coarse(mask, size[::-1]) > 0.5).astype(np.uint8), mask) < 0.5
    assert iou(sharpen(image, mask), mask) > 0.8


def test_without_a_color_that_differs_the_start_decides() -> None:
    _, mask = picture()
    cv2.circle(mask, (230, 120), 40, 1, -1)
    start = coarse(mask, (320, 240))
    sharp = sharpen(np.full((240, 320, 3), 90, dtype=np.uint8), mask)
    assert abs(float(sharp.sum() / (start > 0.5).sum()) - 1) < 0.35


def test_the_same_color_far_away_is_not_part_of_it() -> None:
    image, mask = picture()
    image[200:230, 280:310] = (200, 40, 40)
    assert not sharpen(image, mask)[190:, 270:].any()


@pytest.mark.parametrize("shape", [(1, 1), (3, 2000), (2000, 3)])
def test_odd_pictures_do_no_harm(shape: tuple[int, int]) -> None:
    colors = MaskRefiner(np.zeros((*shape, 3), dtype=np.uint8))
    empty = np.zeros(colors.size[::-1], dtype=np.float32)
    assert not colors.sharpen(empty, 0.1)[0].any()
    part, (x, y) = colors.sharpen(empty + 1, 0.1)
    assert part.any()
    assert x + part.shape[1] <= shape[1]
    assert y + part.shape[0] <= shape[0]
