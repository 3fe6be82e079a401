"""WebP, TIFF, BMP, GIF and PNM: decoded by Pillow after their sizes are checked."""

from __future__ import annotations

import io
import math
import re
import struct

import numpy as np
from PIL import Image, UnidentifiedImageError

from siglip_perception.errors import ImageError
from siglip_perception.images.checks import (
    DecodedImage,
    check_size,
    check_white,
    check_work,
    metadata_orientation,
    orientation_of,
    read_directory,
    to_8_bit,
    upright,
)
from siglip_perception.images.formats import Format
from siglip_perception.types import UInt8Array

# The only Pillow plugin that may open a file of each format.
_PLUGINS: dict[Format, str] = {
    "WebP": "WEBP",
    "TIFF": "TIFF",
    "BMP": "BMP",
    "GIF": "GIF",
    "PNM": "PPM",
}
_GRAY = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L")
# Work, as check_work() has it, of a pixel; WebP's is done already when the file is opened.
_WORK_PER_WEBP_PIXEL = 3.5
_WORK_PER_PIXEL = 2
# Premultiplied alpha is divided out of the colors before it is dropped.
_STRAIGHT_ALPHA = {"RGBa": "RGBA", "La": "LA"}
_TILE_WIDTH, _TILE_HEIGHT, _SUBFILE, _DNG_VERSION = 322, 323, 254, 50706
_WIDTH, _HEIGHT, _SAMPLE_FORMAT = 256, 257, 339
_UNSIGNED, _UNDEFINED = 1, 4
_INVERSE_TURNS = {6: 8, 8: 6}
_UNKNOWN_BRIGHTNESS = (
    "holds signed or floating-point numbers of no known brightness, such as depth; scale them to "
    "8 bits."
)


def decode_by_pillow(
    view: memoryview,
    kind: Format,
    *,
    max_pixels: int,
    mono16_white: int,
    max_work: float = math.inf,
) -> DecodedImage:
    """Decode the first picture of a file in one of these formats.

    Raises ImageError: `encoding` (floating-point or 16-bit gray of unknown brightness, a layout
    that Pillow does not know), `too_large` (before decoding; max_work as in check_work()),
    `malformed` or `corrupt`.
    """
    orientation = 1
    if kind == "WebP":
        height, width = _webp_size(view)
        check_size(height, width, max_pixels)
        check_work(_WORK_PER_WEBP_PIXEL * height * width, max_work, kind, height, width)
    if kind == "TIFF":
        orientation = _check_tiff(view, max_pixels)
    try:
        with Image.open(io.BytesIO(view), formats=[_PLUGINS[kind]]) as picture:
            check_size(picture.height, picture.width, max_pixels)
            work = _WORK_PER_PIXEL * picture.height * picture.width
            check_work(work, max_work, kind, picture.height, picture.width)
            if kind == "WebP":
                blocks = (picture.info.get(name, b"") for name in ("exif", "xmp"))
                turns = [metadata_orientation(memoryview(block)) for block in blocks]
                orientation = next((turn for turn in turns if turn != 1), 1)
            pixels = to_rgb(picture, kind, mono16_white)
            gray = picture.mode in _GRAY
    except UnidentifiedImageError as error:
        if kind != "TIFF":
            raise ImageError("corrupt", f"the {kind} is truncated or broken.") from error
        raise ImageError(
            "encoding",
            "the TIFF is broken or has a kind of pixels that is not read; convert it to an 8-bit "
            "PNG.",
        ) from error
    except Image.DecompressionBombError as error:
        count = re.search(r"\d+", str(error))
        raise ImageError(
            "too_large",
            f"the {kind} has {count[0] if count else 'too many'} pixels, more than are decoded.",
        ) from error
    except (OSError, ValueError, SyntaxError, EOFError, struct.error) as error:
        raise ImageError("corrupt", f"the {kind} cannot be decoded: {error}.") from error
    if kind == "TIFF":  # Pillow has turned it already: turn it back
        pixels = upright(pixels, _INVERSE_TURNS.get(orientation, orientation))
    return DecodedImage(pixels, gray, orientation)


def to_rgb(picture: Image.Image, kind: str, mono16_white: int) -> UInt8Array:
    """Convert the first picture to uint8 [height, width, 3] RGB, C-contiguous.

    kind: what errors call it. mono16_white: as check_white() has it; of no effect for a "PNM".
    Raises ImageError `encoding` for numbers of unknown brightness.
    """
    if picture.mode == "F" or (picture.mode == "I" and kind != "PNM"):
        raise ImageError("encoding", f"the {kind} {_UNKNOWN_BRIGHTNESS}")
    if picture.mode.startswith("I"):
        white = 65535  # Pillow scales PNM to it
        if kind != "PNM":
            check_white(f"the {kind}", mono16_white)
            white = mono16_white
        gray = to_8_bit(np.asarray(picture).astype(np.uint16), white)
        return np.repeat(gray[:, :, np.newaxis], 3, axis=2)
    if picture.mode in _STRAIGHT_ALPHA:
        picture = picture.convert(_STRAIGHT_ALPHA[picture.mode])
    return np.ascontiguousarray(np.asarray(picture.convert("RGB"), np.uint8))


def _webp_size(view: memoryview) -> tuple[int, int]:
    """Read the height and width of a WebP; Pillow allocates its canvas already when opening it."""
    head = bytes(view[:30])
    if len(head) < 30:
        raise ImageError("corrupt", "the WebP is truncated: its header is missing.")
    if head[12:16] == b"VP8X":
        width, height = (int.from_bytes(head[i : i + 3], "little") + 1 for i in (24, 27))
    elif head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (int.from_bytes(head[i : i + 2], "little") & 0x3FFF for i in (26, 28))
    return height, width


def _check_tiff(view: memoryview, max_pixels: int) -> int:
    """Check the sizes in a TIFF's first directory; return its orientation."""
    tags = read_directory(view)
    if _WIDTH not in tags or _HEIGHT not in tags:
        raise ImageError("corrupt", "the TIFF is truncated: its directory is missing.")
    if _DNG_VERSION in tags or tags.get(_SUBFILE, 0) & 1:
        raise ImageError(
            "encoding",
            "the file is a camera's RAW file, of which only a thumbnail could be read; develop "
            "it to JPEG or PNG.",
        )
    check_size(tags[_HEIGHT], tags[_WIDTH], max_pixels)
    if tags.get(_TILE_WIDTH, 1) * tags.get(_TILE_HEIGHT, 1) > max_pixels:
        raise ImageError(
            "too_large",
            f"the TIFF has tiles of {tags[_TILE_WIDTH]}x{tags[_TILE_HEIGHT]} pixels, more than "
            f"the {max_pixels} that the parameter max_pixels allows.",
        )
    if tags.get(_SAMPLE_FORMAT, _UNSIGNED) not in (_UNSIGNED, _UNDEFINED):
        raise ImageError("encoding", f"the TIFF {_UNKNOWN_BRIGHTNESS}")
    return orientation_of(tags)
