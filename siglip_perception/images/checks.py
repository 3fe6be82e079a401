"""What every decoder shares: its result, the check of a size, 16 bits to 8, and EXIF's turns."""

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

# Of blocks of EXIF and XMP so many are searched for an orientation; real files have one of each.
MAX_METADATA_BLOCKS = 4

_ORIENTATION = 274
_EXIF_PREFIX = b"Exif\x00\x00"
_XMP_ORIENTATION = re.compile(rb"""tiff:Orientation(?:=["']|>)([1-8])""")
# A TIFF directory's number types: their sizes in bytes and struct's codes.
_NUMBERS = {1: "B", 3: "H", 4: "I"}


@dataclass(frozen=True)
class Decoded:
    """What a decoder of one file format gives.

    pixels: uint8 [height, width, 3] RGB, C-contiguous, as they are stored.
    gray: the file has one channel, shown three times.
    orientation: EXIF's number, 1 to 8, of the turn that makes the pixels upright.
    repairs: names of the faults that were mended.
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


def check_white(kind: str, mono16_white: int) -> None:
    """Raise ImageError `encoding` where nothing says which 16-bit gray value is white."""
    if mono16_white <= 0:
        raise ImageError(
            "encoding",
            f"{kind} is gray with 16 bits and no known brightness; set mono16_white (on the "
            "command line --mono16-white) to the value that is white, 65535 where all 16 bits "
            "are used, or store it with 8 bits.",
        )


def to_8_bit(pixels: npt.NDArray[Any], white: int) -> UInt8Array:
    """uint16 of any shape, in [0, white], to uint8 in [0, 255], rounded; brighter saturates."""
    scaled = cv2.convertScaleAbs(pixels, alpha=255.0 / white)
    return np.asarray(scaled, np.uint8).reshape(pixels.shape)


def read_directory(data: memoryview) -> dict[int, int]:
    """The first directory of a TIFF or an EXIF block: each tag's first whole number.

    Text, fractions and what lies outside the data are left out; nothing is raised. Its work is
    bounded by the data's size: values are never followed elsewhere but for their first number.
    """
    order = {b"II": "<", b"MM": ">"}.get(bytes(data[:2]))
    if order is None or len(data) < 8:
        return {}
    (at,) = struct.unpack_from(f"{order}I", data, 4)
    if at + 2 > len(data):
        return {}
    (count,) = struct.unpack_from(f"{order}H", data, at)
    tags: dict[int, int] = {}
    for entry in range(at + 2, min(at + 2 + 12 * count, len(data) - 11), 12):
        tag, kind, length = struct.unpack_from(f"{order}HHI", data, entry)
        code = _NUMBERS.get(kind)
        if code is None or length == 0:
            continue
        place = entry + 8
        if length * struct.calcsize(code) > 4:
            (place,) = struct.unpack_from(f"{order}I", data, place)
        if place + struct.calcsize(code) <= len(data):
            (tags[tag],) = struct.unpack_from(order + code, data, place)
    return tags


def metadata_orientation(block: memoryview) -> int:
    """The orientation that an EXIF or XMP block names, 1 to 8; 1 where it names none."""
    if bytes(block[: len(_EXIF_PREFIX)]) == _EXIF_PREFIX:
        block = block[len(_EXIF_PREFIX) :]
    tags = read_directory(block)
    if not tags and (xmp := _XMP_ORIENTATION.search(block)):
        return int(xmp[1])
    return checked_orientation(tags)


def checked_orientation(tags: dict[int, int]) -> int:
    """The orientation among a directory's tags, 1 to 8; 1 where there is none that exists."""
    orientation = tags.get(_ORIENTATION, 1)
    return orientation if 1 <= orientation <= 8 else 1


def upright(pixels: UInt8Array, orientation: int) -> UInt8Array:
    """Pixels [H, W, 3] as EXIF's orientation, 1 to 8, says that they are to be looked at.

    5 to 8 exchange height and width.
    """
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
