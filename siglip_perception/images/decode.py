"""Camera images, raw or compressed, to RGB: everything is checked before any work is done on it.

Every function returns uint8 [height, width, 3], RGB, C-contiguous, in [0, 255], and raises
ImageError, whose `reason` is the name that the frame is counted under.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from siglip_perception.errors import ImageError
from siglip_perception.images.checks import Buffer, check_size, to_8_bit
from siglip_perception.images.files import Picture
from siglip_perception.images.jpeg import decode_jpeg, is_jpeg
from siglip_perception.images.png import decode_png, is_png
from siglip_perception.types import UInt8Array

_COMPRESSED_NAMES = re.compile(r"jpe?g|png", re.IGNORECASE)
_UINT32_MAX = 2**32 - 1


@dataclass(frozen=True)
class _Encoding:
    """How one encoding lies in memory.

    channels: samples of one pixel; depth: bytes of one sample.
    code: OpenCV's conversion to RGB; None where the samples are RGB already.
    layout: `packed`; `even` is packed with two pixels sharing their colour; `bayer` is a mosaic;
        `two_plane` is a plane of brightness over one of colour at half its height.
    """

    channels: int
    code: int | None
    depth: Literal[1, 2] = 1
    layout: Literal["packed", "even", "bayer", "two_plane"] = "packed"

    @property
    def is_grey16(self) -> bool:
        return self.depth == 2 and self.channels == 1 and self.layout == "packed"


def _bayer(depth: Literal[1, 2]) -> dict[str, _Encoding]:
    # OpenCV names a mosaic by its second row, from the second column; ROS by its first row, from
    # the first: ROS's rggb is OpenCV's "BG", and so on.
    codes = {
        "rggb": cv2.COLOR_BayerBG2RGB,
        "bggr": cv2.COLOR_BayerRG2RGB,
        "gbrg": cv2.COLOR_BayerGR2RGB,
        "grbg": cv2.COLOR_BayerGB2RGB,
    }
    return {
        f"bayer_{name}{8 * depth}": _Encoding(1, code, depth, "bayer")
        for name, code in codes.items()
    }


_UYVY = _Encoding(2, cv2.COLOR_YUV2RGB_UYVY, layout="even")
_YUYV = _Encoding(2, cv2.COLOR_YUV2RGB_YUY2, layout="even")
_GREY16 = _Encoding(1, cv2.COLOR_GRAY2RGB, 2)

ENCODINGS: dict[str, _Encoding] = {
    "rgb8": _Encoding(3, None),
    "bgr8": _Encoding(3, cv2.COLOR_BGR2RGB),
    "rgba8": _Encoding(4, cv2.COLOR_RGBA2RGB),
    "bgra8": _Encoding(4, cv2.COLOR_BGRA2RGB),
    "mono8": _Encoding(1, cv2.COLOR_GRAY2RGB),
    "8UC1": _Encoding(1, cv2.COLOR_GRAY2RGB),
    "8UC3": _Encoding(3, cv2.COLOR_BGR2RGB),
    "8UC4": _Encoding(4, cv2.COLOR_BGRA2RGB),
    "mono16": _GREY16,
    "16UC1": _GREY16,
    "rgb16": _Encoding(3, None, 2),
    "bgr16": _Encoding(3, cv2.COLOR_BGR2RGB, 2),
    "rgba16": _Encoding(4, cv2.COLOR_RGBA2RGB, 2),
    "bgra16": _Encoding(4, cv2.COLOR_BGRA2RGB, 2),
    "yuv422": _UYVY,
    "uyvy": _UYVY,
    "yuv422_yuy2": _YUYV,
    "yuyv": _YUYV,
    "nv12": _Encoding(1, cv2.COLOR_YUV2RGB_NV12, layout="two_plane"),
    "nv21": _Encoding(1, cv2.COLOR_YUV2RGB_NV21, layout="two_plane"),
    **_bayer(1),
    **_bayer(2),
}


def convert(
    encoding: str,
    height: int,
    width: int,
    step: int,
    is_bigendian: bool,
    data: Buffer,
    *,
    max_pixels: int,
    mono16_white: int = 0,
) -> UInt8Array:
    """The pixels of a sensor_msgs/Image as uint8 [height, width, 3] RGB.

    step: bytes of one row, padding included. data: exactly height * step bytes (NV12 and NV21:
    half as much again). The result may share memory with `data`.
    mono16_white: the 16-bit grey value shown as 255; brighter ones saturate. 0: 16-bit grey is
    refused, for nothing says how bright it is. 16-bit colour is scaled by 255 / 65535.
    8UC3 and 8UC4 are taken as OpenCV stores them: BGR and BGRA.

    Raises ImageError: `malformed`, `too_large` or `encoding`.
    """
    kind = ENCODINGS.get(encoding)
    if kind is None:
        raise ImageError(
            "encoding",
            f"the image's encoding {_shown(encoding)} is not supported; use one of "
            f"{', '.join(ENCODINGS)}.",
        )
    if kind.is_grey16 and mono16_white <= 0:
        raise ImageError(
            "encoding",
            f"the image's encoding {encoding} has 16 bits and no known brightness; set the "
            "parameter mono16_white to the value that is white.",
        )
    flat = np.frombuffer(data, np.uint8)
    _check(kind, encoding, height, width, step, flat.size, max_pixels)
    rows = flat.reshape(-1, step)
    samples: npt.NDArray[Any] = rows[:, : width * kind.channels * kind.depth]
    if kind.depth == 2:
        # A row may begin at an odd address: copy before looking at it as 16-bit numbers.
        order = np.dtype(np.uint16).newbyteorder(">" if is_bigendian else "<")
        samples = np.ascontiguousarray(samples).view(order).astype(np.uint16, copy=False)
    pixels = samples.reshape(-1, width, kind.channels) if kind.channels > 1 else samples
    if kind.code is not None:
        pixels = np.asarray(cv2.cvtColor(pixels, kind.code))
    if kind.depth == 2:
        pixels = to_8_bit(pixels, mono16_white if kind.is_grey16 else 65535)
    return np.ascontiguousarray(pixels, np.uint8)


def decode_compressed(
    format_name: str, data: Buffer, *, max_pixels: int, mono16_white: int = 0
) -> Picture:
    """The picture of a sensor_msgs/CompressedImage: a JPEG or PNG file.

    What the data begin with decides, not `format_name`; alpha is dropped, and 16-bit grey is taken
    as in convert().

    Raises ImageError: `encoding` (another format, a CMYK JPEG, 16-bit grey without mono16_white),
    `too_large` (more than max_pixels, found out before decoding) or `corrupt`.
    """
    view = memoryview(np.frombuffer(data, np.uint8).data)
    start = bytes(view[:8])
    if is_jpeg(start):
        return Picture(decode_jpeg(view, max_pixels=max_pixels), 1, "JPEG")
    if is_png(start):
        pixels = decode_png(view, max_pixels=max_pixels, mono16_white=mono16_white)
        return Picture(pixels, 1, "PNG")
    if _COMPRESSED_NAMES.search(format_name) and "compressedDepth" not in format_name:
        raise ImageError(
            "corrupt",
            f"the image's format says {_shown(format_name)}, but its {view.nbytes} bytes of data "
            "begin neither as a JPEG nor as a PNG.",
        )
    raise ImageError(
        "encoding",
        f"the compressed image's format {_shown(format_name)} is not supported; send JPEG or PNG.",
    )


def _check(
    kind: _Encoding, encoding: str, height: int, width: int, step: int, size: int, max_pixels: int
) -> None:
    check_size(height, width, max_pixels)
    if kind.layout == "even" and width % 2:
        raise ImageError(
            "malformed", f"the image's width {width} is odd, but {encoding} needs pairs."
        )
    if kind.layout == "two_plane" and (width % 2 or height % 2):
        field = "width" if width % 2 else "height"
        raise ImageError(
            "malformed", f"the image is {width}x{height}, but {encoding} needs an even {field}."
        )
    if kind.layout == "bayer" and min(width, height) < 3:
        field = "width" if width < 3 else "height"
        raise ImageError(
            "malformed", f"the image is {width}x{height}: its {field} is too small for a mosaic."
        )
    needed = width * kind.channels * kind.depth
    if step < needed:
        raise ImageError(
            "malformed",
            f"the image's step is {step} bytes, but {width} pixels of {encoding} take {needed}.",
        )
    rows = height * 3 // 2 if kind.layout == "two_plane" else height
    if rows * step > _UINT32_MAX:
        raise ImageError(
            "malformed", f"the image's step {step} times {rows} rows does not fit in 32 bits."
        )
    if size != rows * step:
        raise ImageError(
            "malformed",
            f"the image's data have {size} bytes, but {rows} rows of step {step} take "
            f"{rows * step}.",
        )


def _shown(text: str) -> str:
    """A name out of a message, fit for a sentence: printable, quoted and at most 40 characters."""
    return ascii(text if len(text) <= 40 else f"{text[:37]}...")
