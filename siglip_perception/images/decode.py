"""Camera images, raw or compressed, to RGB: everything is checked before any work is done on it.

Pixels are uint8 [height, width, 3], RGB, C-contiguous, in [0, 255]. Every function raises
ImageError, whose `reason` is the name that the frame is counted under.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from siglip_perception.errors import ImageError
from siglip_perception.images.checks import Buffer, Decoded, check_size, check_white, to_8_bit
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
# What the image transports and Foxglove send.
_FORMATS: tuple[Format, ...] = ("JPEG", "PNG", "TIFF", "WebP")
_SEND = "send JPEG or PNG"
_VIDEO = f"is a video stream, not single images; {_SEND}"
_OTHER_TRANSPORTS = {
    **dict.fromkeys(("theora", "ffmpeg", "h264", "h265", "hevc", "av1", "vp8", "vp9"), _VIDEO),
    "avif": f"is not supported; {_SEND}",
}
_DEPTH = (
    "holds depth, not a camera's picture; name the color camera's topic here, and send depth as a "
    "sensor_msgs/Image on the topic depth"
)
# zstd_image_transport: height, width, is_bigendian, step and the length of the encoding's name.
_ZSTD_HEAD = struct.Struct("<IIBII")
# Bytes that a pixel has in the largest encoding, rgba16.
_MOST_BYTES = 8
# compressedDepth puts a head of 12 bytes before its PNG.
_DEPTH_HEAD = 12


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
    half as much again; nv24: three times as much; or planes without padding, whatever the step,
    for drivers differ in what it counts). The result may share memory with `data`.
    mono16_white: the 16-bit gray value shown as 255; brighter ones saturate. 0: 16-bit gray is
    refused, for nothing says how bright it is. 16-bit color is scaled by 255 / 65535.

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
    _check(kind, encoding, height, width, step, flat.size, max_pixels)
    rows = flat.reshape(-1, step)
    if kind.layout == "full_planes":
        return _from_full_planes(rows, height, width, kind)
    samples: npt.NDArray[Any] = rows[:, : width * kind.channels * kind.depth]
    if kind.depth == 2:
        # A row may begin at an odd address: copy before looking at it as 16-bit numbers.
        order = np.dtype(np.uint16).newbyteorder(">" if is_bigendian else "<")
        samples = np.ascontiguousarray(samples).view(order).astype(np.uint16, copy=False)
    pixels = samples.reshape(-1, width, kind.channels) if kind.channels > 1 else samples
    if kind.code is not None:
        pixels = np.asarray(cv2.cvtColor(pixels, kind.code))
    if kind.depth == 2:
        pixels = to_8_bit(pixels, mono16_white if kind.is_gray16 else 65535)
    return np.ascontiguousarray(pixels, np.uint8)


def decode_compressed(
    format_name: str, data: Buffer, *, max_pixels: int, mono16_white: int = 0
) -> Picture:
    """Decode a sensor_msgs/CompressedImage: what image_transport's plugins write, and WebP.

    The data decide what the file is; `format_name` says what it was made of: the mosaic of a
    Bayer camera, stored as a gray picture, is given its colors. Alpha is dropped, and 16-bit gray
    is taken as in convert(). Pixels are not turned as EXIF says, so that they stay those of the
    camera's other topics, its CameraInfo and its depth.

    Raises ImageError: `encoding` (another format, 16-bit gray without mono16_white), `too_large`
    (more than max_pixels, seen before decoding), `malformed` or `corrupt`.
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
        return Picture(_from_zstd(view, max_pixels, mono16_white), 1, "zstd")
    kind = _identify(view, format_name, codec)
    # A mosaic's samples fill their 16 bits, as those of bayer_rggb16 do in a sensor_msgs/Image.
    white = 65535 if bayer_pattern(original) else mono16_white
    decoded = decode_format(view, kind, max_pixels=max_pixels, mono16_white=white)
    return Picture(_colors(decoded, kind, original), 1, kind, decoded.repairs)


def _check(
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
    needed = width * kind.channels * kind.depth
    if step < needed:
        raise ImageError(
            "malformed",
            f"the image's step is {step} bytes, but {width} pixels of {encoding} take {needed}.",
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
    """A plane of brightness and one of two colors a pixel, as pairs of pixels that share them."""
    brightness = rows[:height, :width]
    colors = rows[height:].reshape(height, -1)[:, : 2 * width].reshape(height, width, 2)
    pairs = np.stack([colors[:, :, 0], brightness, colors[:, :, 1], brightness], axis=-1)
    pixels = cv2.cvtColor(pairs.reshape(height, 2 * width, 2), kind.code or 0)
    return np.ascontiguousarray(pixels[:, ::2], np.uint8)


def _identify(view: memoryview, format_name: str, codec: str) -> Format:
    """The file's format; ImageError where it is none of _FORMATS, or depth."""
    behind_head = bytes(view[_DEPTH_HEAD : _DEPTH_HEAD + 8])
    if "compresseddepth" in codec or "rvl" in codec or behind_head == b"\x89PNG\r\n\x1a\n":
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
        is_ours = any(name.lower() in format_name.lower() for name in (*_FORMATS, "jpg"))
        raise ImageError(
            "corrupt" if is_ours else "encoding",
            f"the compressed image's format says {quote(format_name)}, but {error}",
        ) from error
    if kind not in _FORMATS:
        raise ImageError("encoding", f"the compressed image is a {kind}; {_SEND}.")
    return kind


def _colors(decoded: Decoded, kind: Format, original: str) -> UInt8Array:
    """The pixels in the colors of the image that the file was made of."""
    height, width = decoded.pixels.shape[:2]
    pattern = bayer_pattern(original)
    if pattern and decoded.gray:
        mosaic = np.ascontiguousarray(decoded.pixels[:, :, 0]).reshape(-1)
        return convert(pattern, height, width, width, False, mosaic, max_pixels=height * width)
    if kind == "TIFF" and original.startswith("rgb") and not decoded.gray:
        # image_transport hands RGB to OpenCV, which writes every TIFF as if it were given BGR.
        return np.ascontiguousarray(decoded.pixels[:, :, ::-1])
    return decoded.pixels


def _from_zstd(view: memoryview, max_pixels: int, mono16_white: int) -> UInt8Array:
    """The image that zstd_image_transport sends: a head, then the data of an Image, gzipped."""
    if bytes(view[:4]) == b"\x28\xb5\x2f\xfd":
        raise ImageError(
            "encoding",
            "the compressed image is a bare Zstandard stream, not zstd_image_transport's; "
            f"{_SEND}.",
        )
    if view.nbytes < _ZSTD_HEAD.size:
        raise ImageError("corrupt", "the zstd image is truncated: its head is missing.")
    height, width, is_bigendian, step, length = _ZSTD_HEAD.unpack_from(view)
    start = _ZSTD_HEAD.size + length
    encoding = bytes(view[_ZSTD_HEAD.size : min(start, 64)]).decode("utf-8", errors="replace")
    kind = ENCODINGS.get(encoding)
    if kind is None:
        raise refused_encoding(encoding)
    size = int(height * kind.rows) * step
    _check(kind, encoding, height, width, step, size, max_pixels)
    if size > _MOST_BYTES * max_pixels:
        raise ImageError("too_large", f"the zstd image unpacks to {size} bytes, too many.")
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
