"""Reader of image files, shared by every command, data set and service.

A file's content decides its format; its extension is ignored.
"""

from __future__ import annotations

import math
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from siglip_perception.errors import ImageError, PerceptionError
from siglip_perception.images.checks import Buffer, DecodedImage, upright
from siglip_perception.images.formats import Format, identify
from siglip_perception.images.jpeg import decode_jpeg
from siglip_perception.images.pillow_files import decode_by_pillow
from siglip_perception.images.png import decode_png
from siglip_perception.types import UInt8Array

MAX_FILE_BYTES = 512 * 2**20
# Limit for files and recordings, which nobody waits for: 8K video's frame. What a camera sends to
# the node has the parameter max_pixels, and a budget of work, too.
MAX_FILE_PIXELS = 7680 * 4320


@dataclass(frozen=True)
class Picture:
    """A decoded picture.

    pixels: uint8 [H, W, 3] RGB in [0, 255], C-contiguous, turned upright by the file's EXIF
        orientation.
    orientation: that EXIF orientation, 1 to 8; 1 if the file has none.
    format: format of the content: "JPEG", "PNG", ...
    repairs: names of the faults that were repaired, to be counted: "jpeg_repaired",
        "png_checksum", "png_repaired"; empty for an intact file.
    """

    pixels: UInt8Array
    orientation: int
    format: str
    repairs: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels as stored, before the picture is turned."""
        height, width = self.pixels.shape[:2]
        return (height, width) if self.orientation >= 5 else (width, height)


def read_image(path: Path, *, max_pixels: int = MAX_FILE_PIXELS, mono16_white: int = 0) -> Picture:
    """Read the picture in a file.

    mono16_white: the 16-bit gray value that is white; 0 refuses 16-bit gray.

    Raises PerceptionError if the path is not a file or cannot be read, and ImageError, which
    starts with the path, if the content is refused.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise PerceptionError(f"{path} is {kind}: name an image file.")
        if status.st_size > MAX_FILE_BYTES:
            raise PerceptionError(
                f"{path} is larger than {MAX_FILE_BYTES >> 20} MiB: name a smaller image file."
            )
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise PerceptionError(f"There is no image file {path}: check its name.") from error
    except ValueError as error:  # a NUL in the name
        raise PerceptionError(f"There is no image file {str(path)!a}: check its name.") from error
    except OSError as error:
        raise PerceptionError(
            f"Cannot read {path} ({error.strerror}): check its permissions."
        ) from error
    return decode_file(data, str(path), max_pixels=max_pixels, mono16_white=mono16_white)


def decode_file(
    data: Buffer, name: str, *, max_pixels: int = MAX_FILE_PIXELS, mono16_white: int = 0
) -> Picture:
    """Decode an image file's bytes, such as a member of a tar archive.

    name: name of the file in errors.

    Raises ImageError, which starts with `name`: `encoding` for an unsupported format,
    `too_large` for more than max_pixels (seen before decoding), `corrupt` or `malformed`.
    """
    view = memoryview(np.frombuffer(data, np.uint8).data)
    try:
        kind = identify(view)
        image = decode_format(view, kind, max_pixels=max_pixels, mono16_white=mono16_white)
    except ImageError as error:
        raise ImageError(error.reason, f"{name}: {error}") from error
    pixels = upright(image.pixels, image.orientation)
    return Picture(pixels, image.orientation, kind, image.repairs)


def decode_format(
    view: memoryview,
    kind: Format,
    *,
    max_pixels: int,
    mono16_white: int,
    max_work: float = math.inf,
) -> DecodedImage:
    """Decode a file of a known format without turning it; ImageError as in decode_file().

    max_work: limit of check_work(), before anything is decoded.
    """
    if kind == "JPEG":
        return decode_jpeg(view, max_pixels=max_pixels, max_work=max_work)
    options = {"max_pixels": max_pixels, "mono16_white": mono16_white}
    if kind == "PNG":
        return decode_png(view, **options, max_work=max_work)
    return decode_by_pillow(view, kind, **options, max_work=max_work)
