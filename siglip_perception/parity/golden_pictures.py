"""The pictures that goldens are made from, by whole numbers: the same in every environment.

Imports NumPy alone, as it also runs beside other libraries, where this package is not installed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]
# Rows and columns of a square that a golden keeps of most pictures, the outermost among them.
_LATTICE = 24
# A golden keeps this one whole: it has few levels, so that its squares pack well.
WHOLE = "blocks"


def pictures() -> dict[str, Picture]:
    """Return uint8 [H, W, 3] by name."""
    wide = _texture(640, 480)
    return {
        WHOLE: _blocks(640, 480),
        "wide": wide,
        "tall": _texture(97, 133),
        "hd": _texture(1920, 1080)[180:900, 320:1600],
        "sized": _texture(224, 224),
        "gray": np.full((240, 320, 3), 118, dtype=np.uint8),
        "jpeg-like": _block_means(wide),
    }


def lattice(square: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the kept values of a square or another result, [H, W, 3]."""
    rows, cols = (
        np.arange(_LATTICE) * (length - 1) // (_LATTICE - 1) for length in square.shape[:2]
    )
    values: npt.NDArray[Any] = square[rows][:, cols]
    return values


def _texture(width: int, height: int) -> Picture:
    """Gradients, stripes of many widths, edges and noise."""
    ys, xs = np.mgrid[:height, :width].astype(np.int64)
    image = np.stack([xs * 255 // width, ys * 255 // height, (xs + ys) * 3 % 256], axis=-1)
    stripes = xs * xs // 97 % 256
    image[height // 8 : height // 3, width // 8 : width // 2] = stripes[
        height // 8 : height // 3, width // 8 : width // 2, None
    ]
    noise = (xs * 73856093 ^ ys * 19349663) // 7 % 256
    corner = np.s_[height // 2 : height * 7 // 8, width // 2 : width * 7 // 8]
    image[corner] = np.stack([noise, noise * 5 % 256, noise * 11 % 256], axis=-1)[corner]
    image[height // 5 : height // 4, width * 3 // 5 : width * 4 // 5] = (250, 10, 30)
    return image.astype(np.uint8)


def _blocks(width: int, height: int) -> Picture:
    """Rectangles of one color each."""
    image = np.full((height, width, 3), (90, 120, 60), dtype=np.uint8)
    for left, top, right, bottom, color in (
        (1, 2, 5, 11, (240, 30, 20)),
        (4, 1, 9, 6, (20, 60, 230)),
        (8, 7, 15, 10, (250, 250, 245)),
        (11, 3, 13, 9, (5, 5, 10)),
        (2, 9, 7, 14, (200, 180, 40)),
    ):
        image[
            top * height // 15 : bottom * height // 15, left * width // 16 : right * width // 16
        ] = color
    return image


def _block_means(image: Picture) -> Picture:
    """Flatten each 8 x 8 block to its mean, which leaves the edges of a strong JPEG."""
    height, width = (length // 8 * 8 for length in image.shape[:2])
    blocks = image[:height, :width].reshape(height // 8, 8, width // 8, 8, 3).astype(np.int64)
    means = blocks.sum(axis=(1, 3)) // 64
    flat: Picture = means.repeat(8, axis=0).repeat(8, axis=1).astype(np.uint8)
    return flat
