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
from siglip_perception.images.checks import check_size, to_8_bit
from siglip_perception.types import UInt8Array

_START = b"\x89PNG\r\n\x1a\n"
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_GREY = (0, 4)
# What describes the picture's pixels. Texts, profiles, transparency and other extras are left out:
# they say nothing about RGB values and can be bombs themselves.
_NEEDED = (b"IHDR", b"PLTE", b"IDAT", b"IEND")


@dataclass(frozen=True)
class PngHeader:
    """What a PNG's IHDR chunk says; sizes in pixels, depth in bits a sample."""

    width: int
    height: int
    depth: int
    colour: int
    interlaced: bool

    @property
    def row_bytes(self) -> int:
        return 1 + (self.width * _CHANNELS[self.colour] * self.depth + 7) // 8


def is_png(start: bytes) -> bool:
    """Whether data that begin with these bytes (8 or more) claim to be a PNG."""
    return start.startswith(_START)


def read_header(view: memoryview) -> PngHeader:
    """The header of a PNG file; raises ImageError `corrupt` where it breaks the standard."""
    head = bytes(view[:33])
    if len(head) < 33 or head[8:16] != b"\x00\x00\x00\x0dIHDR":
        raise ImageError("corrupt", "the PNG is truncated: its header is missing.")
    if zlib.crc32(head[12:29]) != struct.unpack(">I", head[29:33])[0]:
        raise ImageError("corrupt", "the PNG's header has a wrong checksum.")
    width, height, depth, colour, method, filters, interlace = struct.unpack(
        ">IIBBBBB", head[16:29]
    )
    if depth not in _DEPTHS.get(colour, ()) or method or filters or interlace > 1:
        raise ImageError(
            "corrupt", "the PNG's header has a depth, colour or method unknown to PNG."
        )
    return PngHeader(width, height, depth, colour, interlace == 1)


def decode_png(view: memoryview, *, max_pixels: int, mono16_white: int) -> UInt8Array:
    """uint8 [height, width, 3] RGB, alpha dropped; ImageError as images.decode_compressed()."""
    header = read_header(view)
    check_size(header.height, header.width, max_pixels)
    grey16 = header.depth == 16 and header.colour in _GREY
    if grey16 and mono16_white <= 0:
        raise ImageError(
            "encoding",
            "the PNG is grey with 16 bits and no known brightness; set the parameter mono16_white "
            "to the value that is white.",
        )
    clean = _checked(view, header)
    if header.depth == 16:
        # Pillow keeps only the high byte of 16-bit colour.
        try:
            decoded = cv2.imdecode(np.frombuffer(clean, np.uint8), cv2.IMREAD_UNCHANGED)
        except cv2.error as error:
            raise ImageError("corrupt", f"the PNG cannot be decoded: {error.err}.") from error
        if decoded is None or decoded.dtype != np.uint16:
            raise ImageError("corrupt", "the PNG cannot be decoded.")
        code = {1: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGB}
        colour = cv2.cvtColor(decoded, code[decoded.shape[2] if decoded.ndim == 3 else 1])
        return to_8_bit(np.asarray(colour), mono16_white if grey16 else 65535)
    try:
        with Image.open(io.BytesIO(clean), formats=["PNG"]) as picture:
            return np.ascontiguousarray(np.asarray(picture.convert("RGB"), np.uint8))
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise ImageError("corrupt", f"the PNG cannot be decoded: {error}.") from error


def _checked(view: memoryview, header: PngHeader) -> bytes:
    """The file again, of only the chunks that make the picture, each with a right checksum."""
    parts = [_START]
    at, finished = 8, False
    inflated = _Inflated(header)
    while not finished:
        if at + 12 > view.nbytes:
            raise ImageError("corrupt", "the PNG is truncated: it ends before its end chunk.")
        (length,) = struct.unpack(">I", view[at : at + 4])
        end = at + 12 + length
        if end > view.nbytes:
            raise ImageError("corrupt", "the PNG is truncated within a chunk.")
        name = bytes(view[at + 4 : at + 8])
        if zlib.crc32(view[at + 4 : end - 4]) != struct.unpack(">I", view[end - 4 : end])[0]:
            raise ImageError(
                "corrupt", f"the PNG's chunk {ascii(name)[2:-1]} has a wrong checksum."
            )
        if name in _NEEDED:
            parts.append(bytes(view[at:end]))
        if name == b"IDAT":
            inflated.add(view[at + 8 : end - 4])
        finished = name == b"IEND"
        at = end
    inflated.check()
    return b"".join(parts)


class _Inflated:
    """Counts the bytes that the pixel data inflate to, in bounded memory, without keeping them."""

    def __init__(self, header: PngHeader) -> None:
        self._zlib = zlib.decompressobj()
        # An interlaced picture has more and shorter rows, so this is only its lower bound.
        self._least = header.row_bytes * header.height - header.height * header.interlaced
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

    def check(self) -> None:
        if self._count < self._least:
            self._count += len(self._zlib.flush())
        if self._count < self._least:
            raise ImageError("corrupt", "the PNG is truncated: pixels are missing.")
