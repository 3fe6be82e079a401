"""Kernels of the resize filters: their weight at a distance in pixels, and their radius."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from siglip_perception.contracts.steps import Filter

Values = npt.NDArray[np.float64]


def _box(x: Values) -> Values:
    return np.where((x > -0.5) & (x <= 0.5), 1.0, 0.0)


def _triangle(x: Values) -> Values:
    return np.maximum(1.0 - np.abs(x), 0.0)


def _cubic(x: Values) -> Values:
    """Keys' cubic convolution with a = -1/2."""
    a, x = -0.5, np.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _lanczos(x: Values) -> Values:
    """Sinc, windowed by a sinc three times as wide."""
    return np.where(np.abs(x) < 3.0, np.sinc(x) * np.sinc(x / 3.0), 0.0)


KERNELS: dict[Filter, tuple[Callable[[Values], Values], float]] = {
    "area": (_box, 0.5),
    "bilinear": (_triangle, 1.0),
    "bicubic": (_cubic, 2.0),
    "lanczos3": (_lanczos, 3.0),
}
