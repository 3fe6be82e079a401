"""Masks from patches, sharpened by the picture's colours."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from siglip_perception.colours import Colours
from siglip_perception.types import FloatArray, UInt8Array


def picture(height: int = 240, width: int = 320) -> tuple[UInt8Array, UInt8Array]:
    """A red bar, thin and slanted, on a noisy grey table; and its mask."""
    rng = np.random.default_rng(0)
    image = rng.normal(120, 6, (height, width, 3))
    mask = np.zeros((height, width), dtype=np.uint8)
    cv2.line(mask, (width // 4, height // 3), (width // 2, 2 * height // 3), 1, width // 32)
    image[mask > 0] = (200, 40, 40)
    return np.clip(image, 0, 255).astype(np.uint8), mask


def coarse(mask: UInt8Array, rows: int = 12) -> FloatArray:
    """What patches know of a mask: their share of it, spread over the pixels again."""
    small = cv2.resize(mask.astype(np.float32), (rows, rows), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, mask.shape[::-1], interpolation=cv2.INTER_LINEAR))


def iou(first: FloatArray, second: UInt8Array) -> float:
    mine, truth = first > 0.5, second > 0
    return float((mine & truth).sum() / (mine | truth).sum())


@pytest.mark.parametrize("size", [(240, 320), (480, 640)])
def test_a_thin_thing_gets_its_edges_back(size: tuple[int, int]) -> None:
    image, mask = picture(*size)
    start = coarse(mask)
    sharp = Colours(image).sharpen(start, 1 / 12)
    assert sharp.shape == mask.shape
    assert sharp.dtype == np.float32
    assert 0 <= sharp.min() <= sharp.max() <= 1
    assert iou(start, mask) < 0.5
    assert iou(sharp, mask) > 0.8


def test_without_a_colour_that_differs_the_start_decides() -> None:
    _, mask = picture()
    cv2.circle(mask, (230, 120), 40, 1, -1)
    start = coarse(mask)
    sharp = Colours(np.full((240, 320, 3), 90, dtype=np.uint8)).sharpen(start, 1 / 12)
    assert abs(float((sharp > 0.5).sum() / (start > 0.5).sum()) - 1) < 0.35


def test_the_same_colour_far_away_is_not_part_of_it() -> None:
    image, mask = picture()
    image[200:230, 280:310] = (200, 40, 40)
    sharp = Colours(image).sharpen(coarse(mask), 1 / 12)
    assert not (sharp[190:, 270:] > 0.5).any()


@pytest.mark.parametrize("shape", [(1, 1), (3, 2000), (2000, 3)])
def test_odd_pictures_do_no_harm(shape: tuple[int, int]) -> None:
    image = np.zeros((*shape, 3), dtype=np.uint8)
    colours = Colours(image)
    nothing = np.zeros(shape, dtype=np.float32)
    np.testing.assert_array_equal(colours.sharpen(nothing, 0.1), nothing)
    assert np.isfinite(colours.sharpen(nothing + 1, 0.1)).all()
