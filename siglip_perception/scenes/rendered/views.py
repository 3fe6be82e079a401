"""Views of a stored scene: crops, mirror images and sizes, so that it trains many times."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from siglip_perception.scenes.rendered.shards import RenderedThing, StoredScene
from siglip_perception.types import UInt8Array

_SIZES = ((480, 360), (400, 300), (320, 240))
_CROP_SHARE = 0.5
_TRIES = 6
_LEAST_INSIDE = 0.4
"""Least share of a thing's visible pixels that a crop keeps, unless it leaves the thing out."""
_LEAST_PIXELS = 1.2e-3
"""Least share of the picture for a thing to be in view."""


@dataclass(frozen=True)
class View:
    """image: uint8 [height, width, 3] RGB; instances: uint8 [height, width], n for things[n - 1].

    in_view: for each thing, whether enough of it is in the picture to name it.
    """

    image: UInt8Array
    instances: UInt8Array
    things: tuple[RenderedThing, ...]
    in_view: tuple[bool, ...]


def sample_view(scene: StoredScene, rng: np.random.Generator) -> View:
    """Flip half of the views, and crop half of them to 30 to 90 % of the area."""
    image, instances = scene.image, scene.instances
    count = len(scene.things)
    if rng.random() < _CROP_SHARE:
        image, instances = _crop(image, instances, count, rng)
    if rng.random() < 0.5:
        image, instances = image[:, ::-1], instances[:, ::-1]
    size = _SIZES[int(rng.integers(len(_SIZES)))]
    image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    instances = np.asarray(cv2.resize(instances, size, interpolation=cv2.INTER_NEAREST), np.uint8)
    areas = _areas(instances, count)
    in_view = tuple(bool(area >= _LEAST_PIXELS * instances.size) for area in areas)
    return View(image, instances, scene.things, in_view)


def _crop(
    image: UInt8Array, instances: UInt8Array, count: int, rng: np.random.Generator
) -> tuple[UInt8Array, UInt8Array]:
    """Crop so that every thing is left out or stays in sight; else keep the whole picture."""
    height, width = instances.shape
    before = _areas(instances, count)
    for _ in range(_TRIES):
        scale = float(rng.uniform(0.55, 0.95))
        rows, columns = round(height * scale), round(width * scale)
        top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
        part = instances[top : top + rows, left : left + columns]
        inside = _areas(part, count) / np.maximum(before, 1)
        if np.all((inside == 0) | (inside >= _LEAST_INSIDE)) and inside.any():
            return image[top : top + rows, left : left + columns], part
    return image, instances


def _areas(instances: UInt8Array, count: int) -> np.ndarray:
    return np.bincount(instances.ravel(), minlength=count + 1)[1 : count + 1]
