"""JPEG, its header checked before a decoder sees it."""

from __future__ import annotations

import numpy as np
import simplejpeg

from siglip_perception.errors import ImageError
from siglip_perception.images.checks import check_size
from siglip_perception.types import UInt8Array

# A progressive JPEG repeats its scans; real ones have about ten, a bomb has thousands.
MAX_SCANS = 100
_START = b"\xff\xd8\xff"
_SCAN = b"\xff\xda"


def is_jpeg(start: bytes) -> bool:
    """Tell whether data that begin with these bytes (3 or more) claim to be a JPEG."""
    return start.startswith(_START)


def decode_jpeg(view: memoryview, *, max_pixels: int) -> UInt8Array:
    """uint8 [height, width, 3] RGB; raises ImageError `encoding`, `too_large` or `corrupt`."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(view)
    except ValueError as error:
        raise ImageError("corrupt", f"the JPEG's header cannot be read: {error}.") from error
    except KeyError as error:  # simplejpeg has no name for 4:4:1
        raise ImageError(
            "corrupt", "the JPEG's colour subsampling is unknown; send 4:4:4, 4:2:2 or 4:2:0."
        ) from error
    check_size(height, width, max_pixels)
    if colours not in ("YCbCr", "Gray", "RGB"):
        raise ImageError(
            "encoding", f"the JPEG's colours are {colours}; send YCbCr, RGB or grey ones."
        )
    scans = bytes(view).count(_SCAN)
    if scans > MAX_SCANS:
        raise ImageError("corrupt", f"the JPEG has {scans} scans, more than {MAX_SCANS}.")
    try:
        return np.asarray(simplejpeg.decode_jpeg(view, "RGB", strict=True), np.uint8)
    except (ValueError, KeyError) as error:
        raise ImageError("corrupt", f"the JPEG cannot be decoded: {error}.") from error
