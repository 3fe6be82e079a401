"""PNG: checks the header, every chunk and every checksum before a decoder sees the file.

Decoders allocate what a PNG's header asks for, so a file of 130 KB can take gigabytes. And both
Pillow and OpenCV fill missing rows with black instead of refusing the file.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from siglip_perception.errors import ImageError
from siglip_perception.images.checks import (
    MAX_METADATA_BLOCKS,
    DecodedImage,
    check_size,
    check_white,
    check_work,
    metadata_orientation,
    to_8_bit,
)
from siglip_perception.types import UInt8Array
from siglip_perception.util.oom import is_out_of_memory

WRONG_CHECKSUM = "png_checksum"
REPAIR = "png_repaired"

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_GRAY = (0, 4)
# Chunks that make the pixels. Text, profiles, transparency and other extras are dropped: they do
# not change RGB values and can be decompression bombs themselves.
_PICTURE_CHUNKS = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
# First bytes of chunks that may hold the orientation: EXIF, XMP, and ImageMagick's EXIF.
_METADATA = (
    b"eXIf",
    b"iTXtXML:com.adobe.xmp\0",
    *(
        name + b"Raw profile type " + kind + b"\0"
        for name in (b"tEXt", b"zTXt")
        for kind in (b"exif", b"APP1")
    ),
)
_KEYWORD_BYTES = 30
_MAX_PROFILE_BYTES = 256 * 1024  # bytes of an EXIF block in hexadecimal
_ANCILLARY = 0x20  # bit of a chunk name's first letter: the picture is whole without the chunk
# Work, as check_work() has it, of a byte of the rows: inflated once to check and once to decode.
_WORK_PER_BYTE = 0.6
# Chunks that a picture may have besides one for each 2 KiB of its rows. libpng writes one for each
# 8 KiB of compressed data; a bomb has a million empty ones.
_SPARE_CHUNKS = 1000
_BYTES_PER_CHUNK = 2048
_END_CHUNK = b"\0\0\0\0IEND\xaeB`\x82"
# Adam7: first column, first row, column step and row step of each pass of an interlaced picture.
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
    """Content of the IHDR chunk. width, height: pixels. depth: bits per sample."""

    width: int
    height: int
    depth: int
    color: int
    interlaced: bool

    @property
    def inflated_bytes(self) -> int:
        """Bytes of all rows after inflating, each with its filter byte."""
        total = 0
        for first_column, first_row, column_step, row_step in (
            _PASSES if self.interlaced else ((0, 0, 1, 1),)
        ):
            columns, rows = (
                -(-(self.width - first_column) // column_step),
                -(-(self.height - first_row) // row_step),
            )
            if columns > 0:
                total += rows * (1 + (columns * _CHANNELS[self.color] * self.depth + 7) // 8)
        return total


def read_header(view: memoryview) -> PngHeader:
    """Read the header of a PNG file; raise ImageError `corrupt` if it breaks the standard."""
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


def decode_png(
    view: memoryview, *, max_pixels: int, mono16_white: int, max_work: float = math.inf
) -> DecodedImage:
    """Decode a PNG file without its alpha; of an animation, the still picture.

    Faults outside the pixels (a wrong checksum of an ancillary chunk, a missing end chunk) are
    tolerated and named in `repairs`.

    Raises ImageError: `encoding` (16-bit gray without mono16_white), `too_large` (max_work as in
    check_work(), and too many chunks, too) or `corrupt`.
    """
    header = read_header(view)
    check_size(header.height, header.width, max_pixels)
    work = _WORK_PER_BYTE * header.inflated_bytes
    check_work(work, max_work, "PNG", header.height, header.width)
    gray = header.color in _GRAY
    if gray and header.depth == 16:
        check_white("the PNG", mono16_white)
    chunks = _read_chunks(view, header)
    if header.depth < 16:
        pixels = _by_pillow(chunks.file)
    else:
        pixels = _by_opencv(chunks.file, mono16_white if gray else 65535)
    return DecodedImage(pixels, gray, chunks.orientation, chunks.repairs)


def _by_pillow(file: bytearray) -> UInt8Array:
    try:
        with Image.open(io.BytesIO(file), formats=["PNG"]) as picture:
            return np.ascontiguousarray(np.asarray(picture.convert("RGB"), np.uint8))
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise ImageError("corrupt", f"the PNG cannot be decoded: {error}.") from error


def _by_opencv(file: bytearray, white: int) -> UInt8Array:
    """Decode 16 bits to 8 with rounding; Pillow would keep only the high byte of 16-bit color."""
    try:
        samples = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        if is_out_of_memory(error):
            raise
        raise ImageError("corrupt", f"the PNG cannot be decoded: {error.err}.") from error
    if samples is None or samples.dtype != np.uint16:
        raise ImageError("corrupt", "the PNG cannot be decoded.")
    code = {1: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGB}
    color = cv2.cvtColor(samples, code[samples.shape[2] if samples.ndim == 3 else 1])
    return to_8_bit(np.asarray(color), white)


@dataclass(frozen=True)
class _Chunks:
    """A PNG reduced to the chunks that make its pixels, and what the dropped ones said."""

    file: bytearray
    orientation: int
    repairs: tuple[str, ...]


def _read_chunks(view: memoryview, header: PngHeader) -> _Chunks:
    """Copy the chunks that make the pixels, checking each checksum."""
    file = bytearray(_SIGNATURE)
    offset, orientation, blocks = 8, 1, 0
    chunks_left = _SPARE_CHUNKS + header.inflated_bytes // _BYTES_PER_CHUNK
    repairs: dict[str, None] = {}
    pixel_data = _PixelData(header)
    while True:
        if offset + 12 > view.nbytes or _chunk_end(view, offset) > view.nbytes:
            if not pixel_data.is_whole:
                raise ImageError("corrupt", "the PNG is truncated: pixels are missing.")
            repairs[REPAIR] = None
            file += _END_CHUNK
            break
        end, name = _chunk_end(view, offset), bytes(view[offset + 4 : offset + 8])
        if zlib.crc32(view[offset + 4 : end - 4]) != struct.unpack(">I", view[end - 4 : end])[0]:
            if not name[0] & _ANCILLARY:
                raise ImageError(
                    "corrupt", f"the PNG's chunk {ascii(name)[2:-1]} has a wrong checksum."
                )
            repairs[WRONG_CHECKSUM] = None
        elif bytes(view[offset + 4 : offset + 8 + _KEYWORD_BYTES]).startswith(_METADATA):
            if orientation == 1 and blocks < MAX_METADATA_BLOCKS:
                orientation = _orientation(name, bytes(view[offset + 8 : end - 4]))
            blocks += 1
        if name in _PICTURE_CHUNKS:
            file += view[offset:end]
        if name == b"IDAT":
            pixel_data.add(view[offset + 8 : end - 4])
        if name == b"IEND":
            break
        offset = end
        chunks_left -= 1
        if not chunks_left:
            raise ImageError(
                "too_large", "the PNG has far more chunks than its pixels need; save it again."
            )
    pixel_data.check()
    return _Chunks(file, orientation, tuple(repairs))


def _orientation(name: bytes, data: bytes) -> int:
    """Read the orientation from a chunk with EXIF, XMP or ImageMagick's EXIF in hexadecimal."""
    if name == b"eXIf":
        return metadata_orientation(memoryview(data))
    text = data.partition(b"\0")[2]
    if name == b"iTXt":
        return metadata_orientation(memoryview(text))
    try:
        if name == b"zTXt":
            text = zlib.decompressobj().decompress(text[1:], _MAX_PROFILE_BYTES)
        # Lines: empty, the profile's name, its length, then its bytes in hexadecimal.
        return metadata_orientation(memoryview(bytes.fromhex(text.split(b"\n", 3)[3].decode())))
    except (zlib.error, ValueError, IndexError):
        return 1


def _chunk_end(view: memoryview, offset: int) -> int:
    """Return the end of the chunk at this offset, after its checksum."""
    return offset + 12 + int(struct.unpack(">I", view[offset : offset + 4])[0])


class _PixelData:
    """Counter of the bytes that the pixel data inflate to; it keeps none of them."""

    def __init__(self, header: PngHeader) -> None:
        self._zlib = zlib.decompressobj()
        self._expected_bytes = header.inflated_bytes
        self._inflated_bytes = 0

    def add(self, data: memoryview) -> None:
        try:
            rest: bytes | memoryview = data
            while len(rest) and self._inflated_bytes < self._expected_bytes:
                self._inflated_bytes += len(self._zlib.decompress(rest, 1 << 20))
                rest = self._zlib.unconsumed_tail
        except zlib.error as error:
            raise ImageError(
                "corrupt", f"the PNG's pixels cannot be inflated: {error}."
            ) from error

    @property
    def is_whole(self) -> bool:
        """True once every row of the picture has been inflated."""
        if self._inflated_bytes < self._expected_bytes:
            self._inflated_bytes += len(self._zlib.flush())
        return self._inflated_bytes >= self._expected_bytes

    def check(self) -> None:
        if not self.is_whole:
            raise ImageError("corrupt", "the PNG is truncated: pixels are missing.")
