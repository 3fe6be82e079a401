"""What raw and compressed images share: the check of their size, and 16 bits to 8."""

from __future__ import annotations

import array
from typing import Any, Union

import cv2
import numpy as np
import numpy.typing as npt

from siglip_perception.errors import ImageError
from siglip_perception.types import UInt8Array

Buffer = Union[bytes, bytearray, memoryview, "array.array[int]", npt.NDArray[np.uint8]]


def check_size(height: int, width: int, max_pixels: int) -> None:
    """Raises ImageError: `malformed` for an empty image, `too_large` for one over max_pixels."""
    if height <= 0 or width <= 0:
        field = "height" if height <= 0 else "width"
        raise ImageError("malformed", f"the image is {width}x{height}: its {field} is zero.")
    if height * width > max_pixels:
        raise ImageError(
            "too_large",
            f"the image is {width}x{height}, more than the {max_pixels} pixels that the parameter "
            "max_pixels allows.",
        )


def to_8_bit(pixels: npt.NDArray[Any], white: int) -> UInt8Array:
    """uint16 of any shape, in [0, white], to uint8 in [0, 255], rounded; brighter saturates."""
    scaled = cv2.convertScaleAbs(pixels, alpha=255.0 / white)
    return np.asarray(scaled, np.uint8).reshape(pixels.shape)
