"""JPEG: its segments are read before a decoder sees it, and harmless faults are mended.

libjpeg shows something for almost any damage and only warns. Three kinds of file are told apart:
without a warning; with one, but every pixel is in the file, as from webcams that leave stray bytes
before a marker or omit the end marker (decoded, and named as repaired); with pixels missing.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import simplejpeg
from PIL import Image

from siglip_perception.errors import ImageError
from siglip_perception.images.checks import (
    MAX_METADATA_BLOCKS,
    Decoded,
    check_size,
    metadata_orientation,
)
from siglip_perception.types import UInt8Array

REPAIRED = "jpeg_repaired"

# A progressive JPEG repeats its scans; real ones have about ten, a bomb has thousands.
MAX_SCANS = 100
# Profiles and thumbnails are cut into segments of 64 KiB each.
MAX_SEGMENTS = 20_000
# Markers of no meaning within the data; a webcam leaves a few stray bytes, a bomb millions.
MAX_STRAYS = 1000

_START = b"\xff\xd8\xff"
_END = b"\xff\xd9"
# A marker between segments. Stray bytes before it are skipped, as libjpeg does.
_MARKER = re.compile(rb"\xff([^\x00\xff])", re.DOTALL)
# What ends a scan's data: any marker but RST0 to RST7. libjpeg's entropy decoder stops at markers
# below C0, too, but never reads a segment there.
_SCAN_END = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")
_INNER_MARKER = re.compile(rb"(\xff[\x01-\xbf\xd0-\xd7])")
# Decodes to something that zero bits, libjpeg's substitute for missing data, do not decode to.
_FILL = b"\x55" * 16
# libjpeg's warnings after which pixels are wrong. It tells only the first of all its warnings.
_LOSSES = {
    "premature end": "it is truncated: pixels are missing",
    "bad Huffman code": "its data are damaged",
}
_SOI, _EOI, _SOS, _DRI, _APP1, _TEM = 0xD8, 0xD9, 0xDA, 0xDD, 0xE1, 0x01
_DECODED = (0xC0, 0xC1, 0xC2)
_PROGRESSIVE = 0xC2
_FRAMES = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0), 0xF7)
_CHANNELS = (1, 3, 4)

_Decoder = Callable[[memoryview], UInt8Array]


@dataclass(frozen=True)
class _Component:
    """One channel: its number, and its samples across and down for each of the largest's MCU."""

    number: int
    across: int
    down: int


@dataclass(frozen=True)
class _Scan:
    """One scan. data: where its entropy-coded bytes lie. interval: MCUs between restarts, or 0.

    first, last: its coefficients; bits: how many low bits of them it leaves to later scans.
    """

    data: slice
    interval: int
    components: tuple[int, ...]
    first: int
    last: int
    bits: int


@dataclass
class _Layout:
    """A JPEG's segments.

    length: bytes up to where the next picture begins, or all there are.
    ended: it has an end marker.
    gaps: where stray bytes lie between segments.
    """

    length: int
    ended: bool = False
    gaps: list[slice] = field(default_factory=list)
    frame: int = 0
    precision: int = 0
    height: int = 0
    width: int = 0
    components: tuple[_Component, ...] = ()
    scans: list[_Scan] = field(default_factory=list)
    orientation: int = 1


def decode_jpeg(view: memoryview, *, max_pixels: int) -> Decoded:
    """Decode a JPEG file, mended where nothing of its picture is missing.

    CMYK and YCCK are taken as Adobe and every viewer do: with 255 for no ink.

    Raises ImageError: `encoding` (12 bits, lossless, arithmetic coding), `too_large` or `corrupt`.
    """
    layout = _read(view)
    if layout.gaps:  # simplejpeg reads no header beyond one
        view = _without_gaps(view, layout.gaps)
        layout = replace(_read(view), gaps=layout.gaps)
    _check(layout, max_pixels)
    pixels, repairs = _decode_checked(view, layout)
    return Decoded(pixels, len(layout.components) == 1, layout.orientation, repairs)


def _decode_checked(view: memoryview, layout: _Layout) -> tuple[UInt8Array, tuple[str, ...]]:
    """The pixels, and the names of what was mended; ImageError where pixels are missing."""
    repairs = () if layout.ended and not layout.gaps else (REPAIRED,)
    if not layout.ended:
        view = memoryview(_without_padding(bytes(view[: layout.length])) + _END)
    try:
        if not layout.ended:
            _check_scans(view, layout)
        try:
            return _decode(view, layout, strict=True), repairs
        except KeyError:
            return _proven(view, layout, partial(_decode_rare, layout=layout), ""), repairs
        except ValueError as error:
            tolerant = partial(_decode_tolerant, layout=layout)
            return _proven(view, layout, tolerant, str(error)), (REPAIRED,)
    except (ValueError, KeyError) as error:
        raise ImageError("corrupt", f"the JPEG cannot be decoded: {error}.") from error


def _read(view: memoryview) -> _Layout:
    """The layout, as far as the file goes; raises ImageError for endless segments only."""
    layout = _Layout(len(view))
    at, interval, blocks = 2, 0, 0
    for _ in range(MAX_SEGMENTS):
        marker = _MARKER.search(view, at)
        if marker is None:
            return layout
        if bytes(view[at : marker.start()]).strip(b"\xff"):
            layout.gaps.append(slice(at, marker.start()))
        kind, at = marker[1][0], marker.end()
        if kind == _EOI:
            layout.ended = True
            return layout
        if kind == _SOI and layout.scans:
            layout.length = marker.start()
            return layout
        if kind == _TEM or 0xD0 <= kind <= _SOI:
            continue
        length = int.from_bytes(view[at : at + 2], "big")
        segment = view[at + 2 : at + length]
        at += length
        if length < 2 or at > len(view):
            return layout
        if kind in _FRAMES and not layout.frame:
            _read_frame(layout, kind, segment)
        elif kind == _DRI and len(segment) >= 2:
            interval = int.from_bytes(segment[:2], "big")
        elif kind == _APP1 and layout.orientation == 1 and blocks < MAX_METADATA_BLOCKS:
            layout.orientation = metadata_orientation(segment)
            blocks += 1
        elif kind == _SOS:
            end = _SCAN_END.search(view, at)
            data = slice(at, end.start() if end else len(view))
            scan = _read_scan(segment, data, interval)
            if scan is None:
                return layout
            layout.scans.append(scan)
            at = data.stop
    raise ImageError("corrupt", f"the JPEG has more than {MAX_SEGMENTS} segments.")


def _without_gaps(view: memoryview, gaps: list[slice]) -> memoryview:
    starts, stops = [0, *(gap.stop for gap in gaps)], [*(gap.start for gap in gaps), len(view)]
    return memoryview(b"".join(view[i:j] for i, j in zip(starts, stops, strict=True)))


def _read_frame(layout: _Layout, kind: int, segment: memoryview) -> None:
    head = bytes(segment)
    if len(head) < 6 or len(head) < 6 + 3 * head[5]:
        return
    layout.frame, layout.precision = kind, head[0]
    layout.height = int.from_bytes(head[1:3], "big")
    layout.width = int.from_bytes(head[3:5], "big")
    layout.components = tuple(
        _Component(head[i], head[i + 1] >> 4, head[i + 1] & 15)
        for i in range(6, 6 + 3 * head[5], 3)
    )


def _read_scan(segment: memoryview, data: slice, interval: int) -> _Scan | None:
    head = bytes(segment)
    if not head or len(head) < 4 + 2 * head[0]:
        return None
    first, last, bits = head[1 + 2 * head[0] : 4 + 2 * head[0]]
    return _Scan(data, interval, tuple(head[1 : 1 + 2 * head[0] : 2]), first, last, bits & 15)


def _check(layout: _Layout, max_pixels: int) -> None:
    """Refuse what is not decoded, by name, before any work is done on it."""
    if not layout.frame:
        raise ImageError("corrupt", "the JPEG is truncated: its header is missing.")
    if layout.frame not in _DECODED:
        raise ImageError(
            "encoding",
            f"the JPEG is {_coding(layout.frame)}, which is not read; convert it to a baseline "
            "or progressive JPEG, or to PNG.",
        )
    if layout.precision == 12:
        raise ImageError(
            "encoding", "the JPEG has 12 bits a sample; convert it to 8 bits, or to a 16-bit PNG."
        )
    if layout.precision != 8:
        raise ImageError("corrupt", f"the JPEG has {layout.precision} bits a sample, not 8.")
    if not layout.scans:
        raise ImageError("corrupt", "the JPEG is truncated: its pixels are missing.")
    check_size(layout.height, layout.width, max_pixels)
    if len(layout.components) not in _CHANNELS:
        raise ImageError(
            "encoding",
            f"the JPEG has {len(layout.components)} channels; send gray, color or CMYK ones.",
        )
    if len(layout.scans) > MAX_SCANS:
        raise ImageError(
            "corrupt", f"the JPEG has {len(layout.scans)} scans, more than {MAX_SCANS}."
        )


def _coding(frame: int) -> str:
    if frame == 0xF7:
        return "JPEG-LS"
    if frame in (0xC3, 0xCB):
        return "lossless"
    if frame in (0xC9, 0xCA):
        return "arithmetic-coded"
    return "hierarchical"


def _decode(view: memoryview, layout: _Layout, *, strict: bool) -> UInt8Array:
    """uint8 [height, width, 3] RGB; ValueError where libjpeg fails or, if strict, warns.

    KeyError where the subsampling is one that simplejpeg has no name for.
    """
    if len(layout.components) != 4:
        return np.asarray(simplejpeg.decode_jpeg(view, "RGB", strict=strict), np.uint8)
    light = np.asarray(simplejpeg.decode_jpeg(view, "CMYK", strict=strict), np.uint16)
    return ((light[:, :, :3] * light[:, :, 3:] + 127) // 255).astype(np.uint8)


def _decode_tolerant(view: memoryview, layout: _Layout) -> UInt8Array:
    """Whatever libjpeg shows; simplejpeg fails of warnings before the pixels, such as of ICC's."""
    try:
        return _decode(view, layout, strict=False)
    except ValueError:
        return _decode_rare(view, layout)


def _decode_rare(view: memoryview, layout: _Layout) -> UInt8Array:
    """The same for any subsampling, by Pillow, which does not pass libjpeg's warnings on."""
    try:
        with Image.open(io.BytesIO(view), formats=["JPEG"]) as picture:
            if picture.size != (layout.width, layout.height):
                raise ValueError("its header is ambiguous")
            return np.ascontiguousarray(np.asarray(picture.convert("RGB"), np.uint8))
    except (OSError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(str(error)) from error


def _proven(view: memoryview, layout: _Layout, decode: _Decoder, warning: str) -> UInt8Array:
    """The pixels of a file of which libjpeg has warned, or cannot warn, if all are in the file.

    decode: shows whatever there is. Raises ValueError where a part of the picture is missing.
    """
    for loss, meaning in _LOSSES.items():
        if loss in warning:
            raise ValueError(meaning)
    _check_scans(view, layout)
    pixels = decode(view)
    # Other bytes behind each stretch of data change the picture only where some of it is missing.
    if not np.array_equal(pixels, decode(_filled(view, layout))):
        raise ValueError("it is truncated: pixels are missing")
    return pixels


def _check_scans(view: memoryview, layout: _Layout) -> None:
    """Raise ValueError where a coefficient or a restart interval has no data at all."""
    missing = {part.number: [14] * 64 for part in layout.components}
    for scan in layout.scans:
        progressive = layout.frame == _PROGRESSIVE
        for number in scan.components:
            for coefficient in range(scan.first, scan.last + 1) if progressive else range(64):
                if number in missing and coefficient < 64:
                    missing[number][coefficient] = scan.bits if progressive else 0
        numbers = itertools.cycle(range(0xD0, 0xD8))
        left, strays = _restarts(layout, scan), MAX_STRAYS
        for marker in _INNER_MARKER.finditer(view, scan.data.start, scan.data.stop):
            if marker[0][1] < 0xD0:
                strays -= 1
            elif marker[0][1] == next(numbers):
                left -= 1
            else:
                left = -1
            if left < 0 or strays < 0:
                break
        if left or strays < 0:
            raise ValueError("it is truncated: restart markers are missing or out of order")
    if any(any(bits) for bits in missing.values()):
        raise ValueError("it is truncated: scans are missing")


def _restarts(layout: _Layout, scan: _Scan) -> int:
    """The number of restart markers that a scan has."""
    if not scan.interval:
        return 0
    across = 8 * max(part.across for part in layout.components)
    down = 8 * max(part.down for part in layout.components)
    if len(scan.components) == 1:  # its blocks follow each other, without the MCUs' padding
        part = next((p for p in layout.components if p.number == scan.components[0]), None)
        if part is None:
            raise ValueError("a scan names a channel that does not exist")
        across, down = across // max(part.across, 1), down // max(part.down, 1)
    units = -(-layout.width // max(across, 1)) * -(-layout.height // max(down, 1))
    return -(-units // scan.interval) - 1


def _filled(view: memoryview, layout: _Layout) -> memoryview:
    """The file with bytes of no meaning behind each stretch of entropy-coded data."""
    parts: list[bytes | memoryview] = []
    at = 0
    for scan in layout.scans:
        parts.append(view[at : scan.data.start])
        # Fill bytes FF are allowed before a marker, and have to stay there.
        pieces = _INNER_MARKER.split(view[scan.data])
        for data, marker in zip(pieces[::2], [*pieces[1::2], b""], strict=True):
            parts += [_without_padding(data.rstrip(b"\xff")), _FILL, marker]
        at = scan.data.stop
    parts.append(view[at:])
    return memoryview(b"".join(parts))


def _without_padding(data: bytes) -> bytes:
    """Entropy-coded bytes but for zeros behind them, which would pass for missing pixels.

    A single zero may belong to the data, as may the one after FF.
    """
    trimmed = data.rstrip(b"\0")
    if len(data) == len(trimmed) + 1 or trimmed.endswith(b"\xff"):
        return data[: len(trimmed) + 1]
    return trimmed
