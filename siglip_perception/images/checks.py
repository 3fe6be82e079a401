"""The parts that all decoders share: their result, size checks, 16 to 8 bits, EXIF orientation."""

from __future__ import annotations

import array
import re
import struct
from dataclasses import dataclass
from typing import Any, Union

import cv2
import numpy as np
import numpy.typing as npt

from siglip_perception.errors import ImageError
from siglip_perception.types import UInt8Array

Buffer = Union[bytes, bytearray, memoryview, "array.array[int]", npt.NDArray[np.uint8]]

# How many EXIF and XMP blocks are searched for an orientation; real files have one of each.
MAX_METADATA_BLOCKS = 4

_ORIENTATION = 274
_EXIF_PREFIX = b"Exif\x00\x00"
_XMP_ORIENTATION = re.compile(rb"""tiff:Orientation(?:=["']|>)([1-8])""")
# TIFF's integer types (BYTE, SHORT, LONG) -> struct's codes.
_NUMBER_CODES = {1: "B", 3: "H", 4: "I"}


@dataclass(frozen=True)
class DecodedImage:
    """The image that a decoder returns.

    pixels: uint8 [height, width, 3] RGB, C-contiguous, not yet turned.
    gray: the file has one channel, repeated three times in `pixels`.
    orientation: EXIF orientation, 1 to 8; upright() applies it.
    repairs: names of the faults that were repaired.
    """

    pixels: UInt8Array
    gray: bool
    orientation: int = 1
    repairs: tuple[str, ...] = ()


def check_size(height: int, width: int, max_pixels: int) -> None:
    """Raise ImageError: `malformed` for an empty image, `too_large` for one over max_pixels."""
    if height <= 0 or width <= 0:
        field = "height" if height <= 0 else "width"
        raise ImageError("malformed", f"the image is {width}x{height}: its {field} is zero.")
    if height * width > max_pixels:
        raise ImageError(
            "too_large",
            f"the image is {width}x{height}, more than the {max_pixels} pixels that the parameter "
            "max_pixels allows.",
        )


def check_work(work: float, max_work: float, kind: str, height: int, width: int) -> None:
    """Raise ImageError `too_large` for a picture that costs more to decode than is allowed.

    work: its cost, in pixels of a baseline JPEG (some 25 ns each on one core of a server).
    max_work: the limit, in the same unit. kind: what the error calls the picture, such as "PNG".
    """
    if work > max_work:
        raise ImageError(
            "too_large",
            f"the {kind} of {width}x{height} takes as long to decode as a JPEG of {work:.0f}"
            f" pixels, more than the {max_work:.0f} that the parameter max_pixels allows; send"
            " baseline JPEG or smaller pictures, or raise max_pixels.",
        )


def check_white(kind: str, mono16_white: int) -> None:
    """Raise ImageError `encoding` where nothing says which 16-bit gray value is white."""
    if mono16_white <= 0:
        raise ImageError(
            "encoding",
            f"{kind} is 16-bit gray of unknown brightness; set mono16_white (on the command line "
            "--mono16-white) to the value that is white, 65535 where all 16 bits are used, or "
            "store it with 8 bits.",
        )


def to_8_bit(pixels: npt.NDArray[Any], white: int) -> UInt8Array:
    """Scale uint16 in [0, white], of any shape, to uint8 in [0, 255]; clip above white."""
    levels = cv2.convertScaleAbs(pixels, alpha=255.0 / white)
    return np.asarray(levels, np.uint8).reshape(pixels.shape)


def read_directory(data: memoryview) -> dict[int, int]:
    """Read the first directory of a TIFF or an EXIF block: tag -> its first integer.

    Skips text, fractions and values outside the data; never raises. The work is bounded by the
    size of the data, as only the first number of a value is looked up.
    """
    byte_order = {b"II": "<", b"MM": ">"}.get(bytes(data[:2]))
    if byte_order is None or len(data) < 8:
        return {}
    (directory,) = struct.unpack_from(f"{byte_order}I", data, 4)
    if directory + 2 > len(data):
        return {}
    (count,) = struct.unpack_from(f"{byte_order}H", data, directory)
    tags: dict[int, int] = {}
    for entry in range(directory + 2, min(directory + 2 + 12 * count, len(data) - 11), 12):
        tag, kind, length = struct.unpack_from(f"{byte_order}HHI", data, entry)
        code = _NUMBER_CODES.get(kind)
        if code is None or length == 0:
            continue
        offset = entry + 8
        if length * struct.calcsize(code) > 4:
            (offset,) = struct.unpack_from(f"{byte_order}I", data, offset)
        if offset + struct.calcsize(code) <= len(data):
            (tags[tag],) = struct.unpack_from(byte_order + code, data, offset)
    return tags


def metadata_orientation(block: memoryview) -> int:
    """Read the orientation, 1 to 8, of an EXIF or XMP block; 1 if it has none."""
    if bytes(block[: len(_EXIF_PREFIX)]) == _EXIF_PREFIX:
        block = block[len(_EXIF_PREFIX) :]
    tags = read_directory(block)
    if not tags and (xmp := _XMP_ORIENTATION.search(block)):
        return int(xmp[1])
    return orientation_of(tags)


def orientation_of(tags: dict[int, int]) -> int:
    """Return the orientation of a directory, 1 to 8; 1 if it has none or an undefined one."""
    orientation = tags.get(_ORIENTATION, 1)
    return orientation if 1 <= orientation <= 8 else 1


def upright(pixels: UInt8Array, orientation: int) -> UInt8Array:
    """Turn pixels [H, W, 3] upright, from an EXIF orientation of 1 to 8.

    Orientations 5 to 8 swap height and width.
    """
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
