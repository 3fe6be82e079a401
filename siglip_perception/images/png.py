"""PNG, with the header, every chunk and every checksum read by ourselves before a decoder sees it.

Decoders allocate what a PNG's header asks for: 130 KB of file can take gigabytes. And both Pillow
and OpenCV fill the rows that a file lacks with black instead of refusing it.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from siglip_perception.errors import ImageError
from siglip_perception.images.checks import (
    MAX_METADATA_BLOCKS,
    Decoded,
    check_size,
    check_white,
    metadata_orientation,
    to_8_bit,
)
from siglip_perception.types import UInt8Array

WRONG_CHECKSUM = "png_checksum"
REPAIRED = "png_repaired"

_START = b"\x89PNG\r\n\x1a\n"
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_GRAY = (0, 4)
# What describes the picture's pixels. Texts, profiles, transparency and other extras are left out:
# they say nothing about RGB values and can be bombs themselves.
_NEEDED = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
# How chunks begin that may tell the orientation: EXIF, XMP, and EXIF as ImageMagick writes it.
_METADATA = (
    b"eXIf",
    b"iTXtXML:com.adobe.xmp\0",
    *(
        name + b"Raw profile type " + kind + b"\0"
        for name in (b"tEXt", b"zTXt")
        for kind in (b"exif", b"APP1")
    ),
)
_KEYWORD = 30
_MOST_PROFILE = 256 * 1024  # bytes of an EXIF block in hexadecimal
_ANCILLARY = 0x20  # of the first letter of a chunk's name: the picture is whole without it
_END = b"\0\0\0\0IEND\xaeB`\x82"
# Adam7: the first column and row of each pass of an interlaced picture, and the steps from there.
_PASSES = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)


@dataclass(frozen=True)
class PngHeader:
    """What a PNG's IHDR chunk says; sizes in pixels, depth in bits a sample."""

    width: int
    height: int
    depth: int
    color: int
    interlaced: bool

    @property
    def inflated_bytes(self) -> int:
        """Bytes of all rows, each with its filter byte, once they are inflated."""
        total = 0
        for left, top, across, down in _PASSES if self.interlaced else ((0, 0, 1, 1),):
            columns, rows = -(-(self.width - left) // across), -(-(self.height - top) // down)
            if columns > 0:
                total += rows * (1 + (columns * _CHANNELS[self.color] * self.depth + 7) // 8)
        return total


def read_header(view: memoryview) -> PngHeader:
    """The header of a PNG file; raises ImageError `corrupt` where it breaks the standard."""
    head = bytes(view[:33])
    if head[12:16] == b"CgBI":
        raise ImageError(
            "encoding",
            "the PNG is Apple's own variant for iPhone apps (CgBI), which is not read; convert "
            "it with `pngcrush -revert-iphone-optimizations`.",
        )
    if len(head) < 33 or head[8:16] != b"\x00\x00\x00\x0dIHDR":
        raise ImageError("corrupt", "the PNG is truncated: its header is missing.")
    if zlib.crc32(head[12:29]) != struct.unpack(">I", head[29:33])[0]:
        raise ImageError("corrupt", "the PNG's header has a wrong checksum.")
    width, height, depth, color, method, filters, interlace = struct.unpack(
        ">IIBBBBB", head[16:29]
    )
    if depth not in _DEPTHS.get(color, ()) or method or filters or interlace > 1:
        raise ImageError(
            "corrupt", "the PNG's header has a depth, color or method unknown to PNG."
        )
    return PngHeader(width, height, depth, color, interlace == 1)


def decode_png(view: memoryview, *, max_pixels: int, mono16_white: int) -> Decoded:
    """Decode a PNG file; alpha is dropped, of an animation the still picture is taken.

    Faults outside the picture itself, a wrong checksum of an ancillary chunk or a missing end
    chunk, are passed over and named in `repairs`.

    Raises ImageError: `encoding` (16-bit gray without mono16_white), `too_large` or `corrupt`.
    """
    header = read_header(view)
    check_size(header.height, header.width, max_pixels)
    gray = header.color in _GRAY
    if gray and header.depth == 16:
        check_white("the PNG", mono16_white)
    clean = _read_chunks(view, header)
    if header.depth < 16:
        pixels = _by_pillow(clean.file)
    else:
        pixels = _by_opencv(clean.file, mono16_white if gray else 65535)
    return Decoded(pixels, gray, clean.orientation, clean.repairs)


def _by_pillow(file: bytes) -> UInt8Array:
    try:
        with Image.open(io.BytesIO(file), formats=["PNG"]) as picture:
            return np.ascontiguousarray(np.asarray(picture.convert("RGB"), np.uint8))
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise ImageError("corrupt", f"the PNG cannot be decoded: {error}.") from error


def _by_opencv(file: bytes, white: int) -> UInt8Array:
    """16 bits to 8; Pillow keeps only the high byte of 16-bit color."""
    try:
        decoded = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ImageError("corrupt", f"the PNG cannot be decoded: {error.err}.") from error
    if decoded is None or decoded.dtype != np.uint16:
        raise ImageError("corrupt", "the PNG cannot be decoded.")
    code = {1: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGB}
    color = cv2.cvtColor(decoded, code[decoded.shape[2] if decoded.ndim == 3 else 1])
    return to_8_bit(np.asarray(color), white)


@dataclass(frozen=True)
class _Chunks:
    """A PNG of only the chunks that make the picture, and what the others tell."""

    file: bytes
    orientation: int
    repairs: tuple[str, ...]


def _read_chunks(view: memoryview, header: PngHeader) -> _Chunks:
    """The file again, of only the chunks that make the picture, each with a right checksum."""
    parts = [_START]
    at, orientation, blocks = 8, 1, 0
    repairs: dict[str, None] = {}
    inflated = _Inflated(header)
    while True:
        if at + 12 > view.nbytes or _chunk_end(view, at) > view.nbytes:
            if not inflated.is_whole:
                raise ImageError("corrupt", "the PNG is truncated: pixels are missing.")
            repairs[REPAIRED] = None
            parts.append(_END)
            break
        end, name = _chunk_end(view, at), bytes(view[at + 4 : at + 8])
        if zlib.crc32(view[at + 4 : end - 4]) != struct.unpack(">I", view[end - 4 : end])[0]:
            if not name[0] & _ANCILLARY:
                raise ImageError(
                    "corrupt", f"the PNG's chunk {ascii(name)[2:-1]} has a wrong checksum."
                )
            repairs[WRONG_CHECKSUM] = None
        elif bytes(view[at + 4 : at + 8 + _KEYWORD]).startswith(_METADATA):
            if orientation == 1 and blocks < MAX_METADATA_BLOCKS:
                orientation = _orientation(name, bytes(view[at + 8 : end - 4]))
            blocks += 1
        if name in _NEEDED:
            parts.append(bytes(view[at:end]))
        if name == b"IDAT":
            inflated.add(view[at + 8 : end - 4])
        if name == b"IEND":
            break
        at = end
    inflated.check()
    return _Chunks(b"".join(parts), orientation, tuple(repairs))


def _orientation(name: bytes, data: bytes) -> int:
    """The orientation in a chunk of EXIF, of XMP, or of ImageMagick's EXIF in hexadecimal."""
    if name == b"eXIf":
        return metadata_orientation(memoryview(data))
    text = data.partition(b"\0")[2]
    if name == b"iTXt":
        return metadata_orientation(memoryview(text))
    try:
        if name == b"zTXt":
            text = zlib.decompressobj().decompress(text[1:], _MOST_PROFILE)
        # A line with the profile's name, one with its length, then the bytes.
        return metadata_orientation(memoryview(bytes.fromhex(text.split(b"\n", 3)[3].decode())))
    except (zlib.error, ValueError, IndexError):
        return 1


def _chunk_end(view: memoryview, at: int) -> int:
    """Where the chunk at this place ends, its checksum included."""
    return at + 12 + int(struct.unpack(">I", view[at : at + 4])[0])


class _Inflated:
    """Counts the bytes that the pixel data inflate to, in bounded memory, without keeping them."""

    def __init__(self, header: PngHeader) -> None:
        self._zlib = zlib.decompressobj()
        self._least = header.inflated_bytes
        self._count = 0

    def add(self, data: memoryview) -> None:
        try:
            rest: bytes | memoryview = data
            while len(rest) and self._count < self._least:
                self._count += len(self._zlib.decompress(rest, 1 << 20))
                rest = self._zlib.unconsumed_tail
        except zlib.error as error:
            raise ImageError(
                "corrupt", f"the PNG's pixels cannot be inflated: {error}."
            ) from error

    @property
    def is_whole(self) -> bool:
        """Whether every row of the picture has come."""
        if self._count < self._least:
            self._count += len(self._zlib.flush())
        return self._count >= self._least

    def check(self) -> None:
        if not self.is_whole:
            raise ImageError("corrupt", "the PNG is truncated: pixels are missing.")
