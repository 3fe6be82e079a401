"""Camera images, raw or compressed, to RGB. Everything is checked before a pixel is touched.

Pixels are uint8 [height, width, 3], RGB, C-contiguous, in [0, 255]. Every function raises
ImageError; its `reason` is the name under which the dropped frame is counted.
"""

from __future__ import annotations

import math
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from siglip_perception.errors import ImageError
from siglip_perception.images.checks import (
    Buffer,
    DecodedImage,
    check_size,
    check_white,
    check_work,
    to_8_bit,
)
from siglip_perception.images.encodings import (
    ENCODINGS,
    Encoding,
    bayer_pattern,
    quote,
    refused_encoding,
)
from siglip_perception.images.files import Picture, decode_format
from siglip_perception.images.formats import Format, identify
from siglip_perception.types import UInt8Array

_UINT32_MAX = 2**32 - 1
# Formats that image_transport and Foxglove send.
_FORMATS: tuple[Format, ...] = ("JPEG", "PNG", "TIFF", "WebP")
_SEND_INSTEAD = "send JPEG or PNG"
_VIDEO = f"is a video stream, not single images; {_SEND_INSTEAD}"
_OTHER_TRANSPORTS = {
    **dict.fromkeys(("theora", "ffmpeg", "h264", "h265", "hevc", "av1", "vp8", "vp9"), _VIDEO),
    "avif": f"is not supported; {_SEND_INSTEAD}",
}
_DEPTH = (
    "holds depth, not a picture; name the color camera's topic here, and send depth as a "
    "sensor_msgs/Image on the topic depth"
)
# zstd_image_transport's header: height, width, is_bigendian, step, length of the encoding's name.
_ZSTD_HEADER = struct.Struct("<IIBII")
# Bytes of a pixel in the largest encoding, rgba16.
_MAX_PIXEL_BYTES = 8
# Work, as check_work() has it, of inflating and converting a byte.
_WORK_PER_ZSTD_BYTE = 0.25
# compressedDepth puts a header of 12 bytes before its PNG.
_DEPTH_HEADER_BYTES = 12


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
    """Convert the data of a sensor_msgs/Image to uint8 [height, width, 3] RGB.

    step: bytes of one row, padding included. data: exactly height * step bytes (nv12 and nv21:
    1.5 times as many; nv24: three times), or planes without padding, whatever the step, because
    drivers disagree on what it counts. The result may share memory with `data`.
    mono16_white: the 16-bit gray value that becomes 255; brighter ones are clipped. 0 refuses
    16-bit gray, whose brightness is then unknown. 16-bit color is scaled by 255 / 65535.

    Raises ImageError: `malformed`, `too_large` or `encoding`.
    """
    kind = ENCODINGS.get(encoding)
    if kind is None:
        raise refused_encoding(encoding)
    if kind.is_gray16:
        check_white(f"the image's encoding {encoding}", mono16_white)
    flat = np.frombuffer(data, np.uint8)
    if kind.rows != 1 and step > width and flat.size == height * width * kind.rows:
        step = width
    _check_layout(kind, encoding, height, width, step, flat.size, max_pixels)
    rows = flat.reshape(-1, step)
    if kind.layout == "full_planes":
        return _from_full_planes(rows, height, width, kind)
    samples: npt.NDArray[Any] = rows[:, : width * kind.channels * kind.depth]
    if kind.depth == 2:
        # A row may start at an odd address: copy before viewing it as 16-bit numbers.
        order = np.dtype(np.uint16).newbyteorder(">" if is_bigendian else "<")
        samples = np.ascontiguousarray(samples).view(order).astype(np.uint16, copy=False)
    pixels = samples.reshape(-1, width, kind.channels) if kind.channels > 1 else samples
    if kind.code is not None:
        pixels = np.asarray(cv2.cvtColor(pixels, kind.code))
    if kind.depth == 2:
        pixels = to_8_bit(pixels, mono16_white if kind.is_gray16 else 65535)
    return np.ascontiguousarray(pixels, np.uint8)


def decode_compressed(
    format_name: str,
    data: Buffer,
    *,
    max_pixels: int,
    mono16_white: int = 0,
    max_work: float = math.inf,
) -> Picture:
    """Decode a sensor_msgs/CompressedImage: what image_transport's plugins write, and WebP.

    The data decide what the file is; `format_name` says what it was made from, so that a Bayer
    mosaic stored as a gray picture gets its colors back. Alpha is dropped; 16-bit gray is handled
    as in convert(). EXIF orientation is ignored, so that the pixels still match the camera's
    other topics, its CameraInfo and its depth.

    Raises ImageError: `encoding` (another format, 16-bit gray without mono16_white), `too_large`
    (more than max_pixels, or than max_work as check_work() has it; before decoding), `malformed`
    or `corrupt`.
    """
    view = memoryview(np.frombuffer(data, np.uint8).data)
    if not view.nbytes:
        raise ImageError(
            "corrupt",
            f"the compressed image of format {quote(format_name)} has no data: its publisher "
            "could not encode it, as image_transport cannot encode every encoding.",
        )
    original, _, codec = format_name.partition(";")
    codec = (codec or original).strip().lower()
    original = original.strip()
    if codec == "zstd":
        return Picture(_from_zstd(view, max_pixels, mono16_white, max_work), 1, "zstd")
    kind = _identify(view, format_name, codec)
    # A mosaic uses all 16 bits, as bayer_rggb16 does in a sensor_msgs/Image.
    white = 65535 if bayer_pattern(original) else mono16_white
    image = decode_format(view, kind, max_pixels=max_pixels, mono16_white=white, max_work=max_work)
    return Picture(_restore_colors(image, kind, original), 1, kind, image.repairs)


def _check_layout(
    kind: Encoding, encoding: str, height: int, width: int, step: int, size: int, max_pixels: int
) -> None:
    check_size(height, width, max_pixels)
    if kind.layout == "even" and width % 2:
        raise ImageError(
            "malformed", f"the image's width {width} is odd, but {encoding} needs pairs."
        )
    if kind.layout == "half_planes" and (width % 2 or height % 2):
        field = "width" if width % 2 else "height"
        raise ImageError(
            "malformed", f"the image is {width}x{height}, but {encoding} needs an even {field}."
        )
    if kind.layout == "bayer" and min(width, height) < 3:
        field = "width" if width < 3 else "height"
        raise ImageError(
            "malformed", f"the image is {width}x{height}: its {field} is too small for a mosaic."
        )
    row_bytes = width * kind.channels * kind.depth
    if step < row_bytes:
        raise ImageError(
            "malformed",
            f"the image's step is {step} bytes, but {width} pixels of {encoding} take"
            f" {row_bytes}.",
        )
    rows = int(height * kind.rows)
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


def _from_full_planes(rows: UInt8Array, height: int, width: int, kind: Encoding) -> UInt8Array:
    """Convert nv24 by way of UYVY, its 4:2:2 sibling, for OpenCV has no conversion for it.

    Each pixel becomes a pair of equal pixels that share its two color samples.
    """
    brightness = rows[:height, :width]
    colors = rows[height:].reshape(height, -1)[:, : 2 * width].reshape(height, width, 2)
    pairs = np.stack([colors[:, :, 0], brightness, colors[:, :, 1], brightness], axis=-1)
    pixels = cv2.cvtColor(pairs.reshape(height, 2 * width, 2), kind.code or 0)
    return np.ascontiguousarray(pixels[:, ::2], np.uint8)


def _identify(view: memoryview, format_name: str, codec: str) -> Format:
    """Identify the file's format; raise ImageError for depth and for anything not in _FORMATS."""
    after_depth_header = bytes(view[_DEPTH_HEADER_BYTES : _DEPTH_HEADER_BYTES + 8])
    if "compresseddepth" in codec or "rvl" in codec or after_depth_header == b"\x89PNG\r\n\x1a\n":
        raise ImageError(
            "encoding", f"the compressed image of format {quote(format_name)} {_DEPTH}."
        )
    try:
        kind = identify(view)
    except ImageError as error:
        for word, reason in _OTHER_TRANSPORTS.items():
            if word in codec:
                raise ImageError(
                    "encoding", f"the compressed image of format {quote(format_name)} {reason}."
                ) from error
        names_a_supported_format = any(
            name.lower() in format_name.lower() for name in (*_FORMATS, "jpg")
        )
        raise ImageError(
            "corrupt" if names_a_supported_format else "encoding",
            f"the compressed image's format says {quote(format_name)}, but {error}",
        ) from error
    if kind not in _FORMATS:
        raise ImageError("encoding", f"the compressed image is a {kind}; {_SEND_INSTEAD}.")
    return kind


def _restore_colors(image: DecodedImage, kind: Format, original: str) -> UInt8Array:
    """Give the pixels the colors of the image that the file was made from."""
    height, width = image.pixels.shape[:2]
    pattern = bayer_pattern(original)
    if pattern and image.gray:
        mosaic = np.ascontiguousarray(image.pixels[:, :, 0]).reshape(-1)
        return convert(pattern, height, width, width, False, mosaic, max_pixels=height * width)
    if kind == "TIFF" and original.startswith("rgb") and not image.gray:
        # image_transport hands RGB to OpenCV, which writes TIFFs as if they were BGR.
        return np.ascontiguousarray(image.pixels[:, :, ::-1])
    return image.pixels


def _from_zstd(
    view: memoryview, max_pixels: int, mono16_white: int, max_work: float
) -> UInt8Array:
    """Decode zstd_image_transport's message: a header, then an Image's data, gzipped."""
    if bytes(view[:4]) == b"\x28\xb5\x2f\xfd":
        raise ImageError(
            "encoding",
            "the compressed image is a bare Zstandard stream, not zstd_image_transport's; "
            f"{_SEND_INSTEAD}.",
        )
    if view.nbytes < _ZSTD_HEADER.size:
        raise ImageError("corrupt", "the zstd image is truncated: its header is missing.")
    height, width, is_bigendian, step, length = _ZSTD_HEADER.unpack_from(view)
    start = _ZSTD_HEADER.size + length
    encoding = bytes(view[_ZSTD_HEADER.size : min(start, 64)]).decode("utf-8", errors="replace")
    kind = ENCODINGS.get(encoding)
    if kind is None:
        raise refused_encoding(encoding)
    size = int(height * kind.rows) * step
    _check_layout(kind, encoding, height, width, step, size, max_pixels)
    if size > _MAX_PIXEL_BYTES * max_pixels:
        raise ImageError("too_large", f"the zstd image unpacks to {size} bytes, too many.")
    check_work(_WORK_PER_ZSTD_BYTE * size, max_work, "zstd image", height, width)
    try:
        unpacker = zlib.decompressobj(wbits=47)  # a zlib or a gzip head
        data = unpacker.decompress(view[start:], size + 1)
    except zlib.error as error:
        raise ImageError("corrupt", f"the zstd image cannot be unpacked: {error}.") from error
    if len(data) != size or not unpacker.eof:
        raise ImageError(
            "corrupt", f"the zstd image unpacks to {len(data)} bytes or is truncated, not {size}."
        )
    return convert(
        encoding,
        height,
        width,
        step,
        bool(is_bigendian),
        data,
        max_pixels=max_pixels,
        mono16_white=mono16_white,
    )
