"""Identification of a file by its first bytes; its name is ignored."""

from __future__ import annotations

import re
from typing import Literal

from siglip_perception.errors import ImageError

Format = Literal["JPEG", "PNG", "WebP", "TIFF", "BMP", "GIF", "PNM"]

# Extensions of these formats, by which the images in a folder are found.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff"),
    *(".bmp", ".gif", ".ppm", ".pgm", ".pbm"),
)

_SUPPORTED: tuple[tuple[re.Pattern[bytes], Format], ...] = (
    (re.compile(rb"\xff\xd8\xff"), "JPEG"),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "PNG"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "WebP"),
    (re.compile(rb"II\*\0(?!.{4}CR)|MM\0\*", re.DOTALL), "TIFF"),
    (re.compile(rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", re.DOTALL), "BMP"),
    (re.compile(rb"GIF8[79]a"), "GIF"),
    (re.compile(rb"P[1-6][\s#]"), "PNM"),
)

_CONVERT = "convert it to JPEG or PNG"
_VIDEO = "a video", "extract its frames as JPEG or PNG"
_RAW = "a camera's RAW file", "develop it to JPEG or PNG"
_UNSUPPORTED: tuple[tuple[re.Pattern[bytes], str, str], ...] = (
    (re.compile(rb"\Z"), "empty (0 bytes)", "copy or download it again"),
    (
        re.compile(rb"version https://git-lfs"),
        "a Git LFS pointer and not the picture itself",
        "fetch the picture with `git lfs pull`",
    ),
    (re.compile(rb".{4}ftyp(hei|hev|mif1|msf1)", re.DOTALL), "a HEIC picture (HEIF)", _CONVERT),
    (re.compile(rb".{4}ftypavi[fs]", re.DOTALL), "an AVIF picture", _CONVERT),
    (re.compile(rb".{4}ftypcrx |II\*\0.{4}CR|FUJIFILMCCD-RAW|II(RO|RS|U\0)", re.DOTALL), *_RAW),
    (re.compile(rb"\0\0[\x01\x02]\0[^\0]|icns"), "an icon", _CONVERT),
    (re.compile(rb".{4}ftyp|RIFF....AVI |\x1aE\xdf\xa3|\0\0\0?\x01", re.DOTALL), *_VIDEO),
    (re.compile(rb"\xff\x0a|\0\0\0\x0cJXL "), "a JPEG XL picture", _CONVERT),
    (re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"), "a JPEG 2000 picture", _CONVERT),
    (re.compile(rb"II\+\0|MM\0\+"), "a BigTIFF", "write it as an ordinary TIFF, or as PNG"),
    (re.compile(rb"%PDF"), "a PDF document", "export its pictures as JPEG or PNG"),
    (re.compile(rb"%!PS|\xc5\xd0\xd3\xc6"), "a PostScript document", _CONVERT),
    (re.compile(rb"DDS |qoif|\x01\xda[\0\x01]"), "a DDS, QOI or SGI picture", _CONVERT),
    (re.compile(rb"8BPS"), "a Photoshop document", _CONVERT),
    (re.compile(rb"gimp xcf"), "a GIMP document", _CONVERT),
    (re.compile(rb"v/1\x01"), "an OpenEXR picture", "convert it to 8 bits, as JPEG or PNG"),
    (re.compile(rb"#\?(RADIANCE|RGBE)"), "a Radiance HDR picture", _CONVERT),
    (re.compile(rb"P[7fF][\s#]"), "a PAM or PFM picture", _CONVERT),
    (re.compile(rb".{128}DICM", re.DOTALL), "a DICOM file", _CONVERT),
    (re.compile(rb"SIMPLE  ="), "a FITS file", _CONVERT),
    (re.compile(rb"\x93NUMPY"), "a NumPy array", "save it as PNG"),
    (re.compile(rb"\x89HDF"), "an HDF5 file", "extract its pictures as JPEG or PNG"),
    (re.compile(rb"PK\x03\x04"), "a zip archive", "unpack it"),
    (re.compile(rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf"), "compressed", "unpack it"),
    (re.compile(rb".{257}ustar", re.DOTALL), "a tar archive", "unpack it"),
    (re.compile(rb"\x89MCAP|SQLite format 3|#ROSBAG"), "a bag", "use the command replay"),
    (
        re.compile(rb"\s*(<!doctype html|<html)|.{0,400}<html", re.IGNORECASE | re.DOTALL),
        "an HTML page, such as a server sends in place of a file",
        "download the picture itself",
    ),
    (
        re.compile(rb"(\xef\xbb\xbf)?\s*<(svg|[?!].*<svg)", re.DOTALL),
        "an SVG drawing",
        "render it to PNG",
    ),
)
_HEAD_BYTES = 1024
_MIN_BYTES = 16  # no picture is smaller


def identify(view: memoryview) -> Format:
    """Identify the format of a file from its bytes.

    Raises ImageError: `encoding` for anything that is not supported, saying what it is and what
    to do; `corrupt` for an empty file or one that is cut off within its first bytes.
    """
    head = bytes(view[:_HEAD_BYTES])
    for pattern, name in _SUPPORTED:
        if pattern.match(head):
            return name
    for pattern, kind, remedy in _UNSUPPORTED:
        if pattern.match(head):
            reason = "encoding" if head else "corrupt"
            raise ImageError(reason, f"the file is {kind}; {remedy}.")
    text = _text(head)
    if text:
        raise ImageError("encoding", f"the file is text, {text}; name a picture.")
    if len(head) < _MIN_BYTES:
        raise ImageError("corrupt", f"the file is cut off after {len(head)} bytes; copy it again.")
    raise ImageError(
        "encoding",
        f"the file is no picture of a known format, it begins with {head[:8].hex(' ')}; send "
        "JPEG or PNG.",
    )


def _text(head: bytes) -> str:
    """Quote the first line of bytes that are text; "" for binary data."""
    try:
        text = head[: _HEAD_BYTES - 4].decode("utf-8-sig")
    except UnicodeDecodeError:
        return ""
    if not all(character.isprintable() or character.isspace() for character in text):
        return ""
    line = text.strip().split("\n")[0]
    return ascii(line if len(line) <= 40 else f"{line[:37]}...")
