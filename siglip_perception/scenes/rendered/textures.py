"""Surface textures made from a random generator: patterns of things, grounds and walls."""

from __future__ import annotations

import cv2
import numpy as np

from siglip_perception.types import UInt8Array

_Generator = np.random.Generator


def thing_pattern(rng: _Generator, size: int = 64) -> UInt8Array:
    """Make a light pattern, uint8 [size, size, 3], which is multiplied by a thing's color."""
    rows, columns = np.mgrid[0:size, 0:size] / size
    contrast = float(rng.uniform(0.08, 0.45))
    count = int(rng.integers(2, 6))
    choice = int(rng.integers(4))
    if choice == 0:  # stripes at any angle
        angle = rng.uniform(0, np.pi)
        wave = np.sin(2 * np.pi * count * (np.cos(angle) * columns + np.sin(angle) * rows))
        mark = wave > rng.uniform(-0.5, 0.5)
    elif choice == 1:  # checks
        mark = (np.floor(columns * 2 * count) + np.floor(rows * 2 * count)) % 2 > 0
    elif choice == 2:  # dots
        reach = rng.uniform(0.2, 0.4)
        mark = np.hypot(columns * count % 1 - 0.5, rows * count % 1 - 0.5) < reach
    else:  # grain
        grain = _smooth_noise(rng, size, (float(rng.uniform(0.5, 8)), float(rng.uniform(0.5, 3))))
        return _gray(255 * (1 - contrast * grain))
    return _gray(255 * (1 - contrast * mark))


def ground(rng: _Generator, size: int = 256) -> UInt8Array:
    """Make a table's or a wall's surface, uint8 [size, size, 3]: planks, tiles, cloth, stone."""
    base = _muted(rng) if rng.random() < 0.85 else rng.uniform(30, 235, 3)
    rows, columns = np.mgrid[0:size, 0:size] / size
    choice = int(rng.integers(6))
    pattern = np.zeros((size, size))
    # Most grounds are shades of one hue.
    second = np.clip(base + rng.normal(0, 40) + rng.normal(0, 12, 3), 0, 255)
    if choice == 0:  # planks
        count = int(rng.integers(2, 8))
        shade = rng.normal(0, 0.25, count)[np.minimum((rows * count).astype(int), count - 1)]
        gaps = (rows * count % 1) < 0.03
        pattern = shade + _smooth_noise(rng, size, (25.0, 1.0)) - 0.5 - 1.5 * gaps
    elif choice == 1:  # tiles
        count = int(rng.integers(2, 9))
        pattern = ((np.floor(columns * count) + np.floor(rows * count)) % 2) * rng.uniform(
            0.2, 1.4
        )
    elif choice == 2:  # cloth
        count = int(rng.integers(8, 40))
        pattern = 0.4 * np.sin(2 * np.pi * count * columns) * np.sin(2 * np.pi * count * rows)
    elif choice == 3:  # stone
        for width in (2.0, 8.0, 24.0):
            pattern = pattern + _smooth_noise(rng, size, (width, width)) - 0.5
    elif choice == 4:  # spots
        count = int(rng.integers(3, 10))
        reach = rng.uniform(0.15, 0.4)
        inside = np.hypot(columns * count % 1 - 0.5, rows * count % 1 - 0.5) < reach
        pattern = inside * rng.uniform(0.3, 1.2)
    else:
        pattern = 0.3 * (_smooth_noise(rng, size, (1.0, 1.0)) - 0.5)
    mix = pattern[..., None] * float(rng.uniform(0.3, 1.0))
    picture = base + (second - base) * mix
    output: UInt8Array = np.clip(picture, 0, 255).astype(np.uint8)
    return output


def _muted(rng: _Generator) -> np.ndarray:
    gray = rng.uniform(45, 225)
    output: np.ndarray = np.clip(gray + np.array([1.0, 0.25, -0.9]) * rng.normal(12, 18), 5, 250)
    return output


def _smooth_noise(rng: _Generator, size: int, sigma: tuple[float, float]) -> np.ndarray:
    """Blur white noise by (x, y) pixels and stretch it to 0..1."""
    noise = rng.random((size, size)).astype(np.float32)
    smooth = cv2.GaussianBlur(
        noise, (0, 0), sigmaX=sigma[0], sigmaY=sigma[1], borderType=cv2.BORDER_REFLECT
    )
    low, high = np.percentile(smooth, (2, 98))
    output: np.ndarray = np.clip((smooth - low) / max(high - low, 1e-6), 0, 1)
    return output


def _gray(values: np.ndarray) -> UInt8Array:
    gray = np.clip(values, 0, 255).astype(np.uint8)
    output: UInt8Array = np.repeat(gray[..., None], 3, axis=2)
    return output
