"""JPEG: checks the segments before a decoder sees the file, and repairs harmless faults.

libjpeg decodes almost anything and only warns about damage. A file without a warning is decoded as
it is. A file with one is decoded, and reported as repaired, if every pixel is in it: webcams leave
stray bytes before a marker or omit the end marker. A file that lacks pixels is refused.
"""

from __future__ import annotations

import io
import itertools
import math
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
    DecodedImage,
    check_size,
    check_work,
    metadata_orientation,
)
from siglip_perception.types import UInt8Array

REPAIR = "jpeg_repaired"

# Real progressive JPEGs have about ten scans; a decompression bomb has thousands.
MAX_SCANS = 100
# Work, as check_work() has it, of each further scan of a pixel: of those that encoders write, and
# of more, which can each refine all coefficients again.
_WORK_PER_SCAN, _WORK_PER_EXTRA_SCAN = 0.06, 0.25
_USUAL_SCANS = 12
# A file with a fault is decoded strictly, tolerantly, and with filler to see what is missing.
_MENDING_PASSES = 3
# Profiles and thumbnails come in segments of at most 64 KiB.
MAX_SEGMENTS = 20_000
# Meaningless markers within the data: a webcam leaves a few, a bomb has millions.
MAX_STRAYS = 1000

_START_MARKER = b"\xff\xd8\xff"
_END_MARKER = b"\xff\xd9"
# A marker between segments. Stray bytes before it are skipped, as in libjpeg.
_MARKER = re.compile(rb"\xff([^\x00\xff])", re.DOTALL)
# End of a scan's data: any marker but RST0 to RST7. libjpeg's entropy decoder also stops at
# markers below C0, but reads no segment there.
_SCAN_END = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")
_INNER_MARKER = re.compile(rb"(\xff[\x01-\xbf\xd0-\xd7])")
# Decodes to other pixels than zero bits do, which libjpeg substitutes for missing data.
_FILLER = b"\x55" * 16
# libjpeg's warnings after which pixels are wrong. It reports only its first warning.
_FATAL_WARNINGS = {
    "premature end": "it is truncated: pixels are missing",
    "bad Huffman code": "its data are damaged",
}
_SOI, _EOI, _SOS, _DRI, _APP1, _TEM = 0xD8, 0xD9, 0xDA, 0xDD, 0xE1, 0x01
_SUPPORTED_FRAMES = (0xC0, 0xC1, 0xC2)
_PROGRESSIVE = 0xC2
_FRAME_MARKERS = (
    *range(0xC0, 0xC4),
    *range(0xC5, 0xC8),
    *range(0xC9, 0xCC),
    *range(0xCD, 0xD0),
    0xF7,
)
_CHANNELS = (1, 3, 4)

_Decoder = Callable[[memoryview], UInt8Array]


@dataclass(frozen=True)
class _Component:
    """A channel: its number and its sampling factors, across and down."""

    number: int
    across: int
    down: int


@dataclass(frozen=True)
class _Scan:
    """A scan. data: range of its entropy-coded bytes. interval: MCUs between restarts, or 0.

    first, last: range of its coefficients. bits: low bits of them that later scans refine.
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

    length: bytes up to the next picture in the file, or all of them.
    ended: it has an end marker.
    gaps: ranges of stray bytes between segments.
    """

    length: int
    has_end_marker: bool = False
    gaps: list[slice] = field(default_factory=list)
    frame: int = 0
    precision: int = 0
    height: int = 0
    width: int = 0
    components: tuple[_Component, ...] = ()
    scans: list[_Scan] = field(default_factory=list)
    orientation: int = 1


def decode_jpeg(view: memoryview, *, max_pixels: int, max_work: float = math.inf) -> DecodedImage:
    """Decode a JPEG file; repair its faults if no pixel is missing.

    In CMYK and YCCK 255 means no ink, as Adobe and every viewer read them.

    Raises ImageError: `encoding` (12 bits, lossless, arithmetic coding), `too_large` (max_work as
    in check_work()) or `corrupt`.
    """
    layout = _read_segments(view)
    if layout.gaps:  # simplejpeg reads no header beyond one
        view = _cut_gaps(view, layout.gaps)
        layout = replace(_read_segments(view), gaps=layout.gaps)
    _check_supported(layout, max_pixels)
    work = layout.height * layout.width * _work_per_pixel(len(layout.scans))
    check_work(work, max_work, "JPEG", layout.height, layout.width)
    pixels, repairs = _decode_and_mend(view, layout, max_work / work)
    return DecodedImage(pixels, len(layout.components) == 1, layout.orientation, repairs)


def _work_per_pixel(scans: int) -> float:
    usual = min(scans, _USUAL_SCANS)
    return 1 + _WORK_PER_SCAN * (usual - 1) + _WORK_PER_EXTRA_SCAN * (scans - usual)


def _decode_and_mend(
    view: memoryview, layout: _Layout, passes: float
) -> tuple[UInt8Array, tuple[str, ...]]:
    """Decode the pixels and name the repairs; raise ImageError if pixels are missing.

    passes: how often it may be decoded.
    """
    repairs = () if layout.has_end_marker and not layout.gaps else (REPAIR,)
    if not layout.has_end_marker:
        view = memoryview(_strip_zeros(bytes(view[: layout.length])) + _END_MARKER)
    try:
        if not layout.has_end_marker:
            _check_scans(view, layout)
        try:
            return _decode(view, layout, strict=True), repairs
        except KeyError:
            return _decode_if_whole(
                view, layout, partial(_decode_rare, layout=layout), ""
            ), repairs
        except ValueError as error:
            tolerant = partial(_decode_tolerant, layout=layout)
            if passes < _MENDING_PASSES:
                raise ValueError(f"{error}, and it is too large to be mended") from error
            return _decode_if_whole(view, layout, tolerant, str(error)), (REPAIR,)
    except (ValueError, KeyError) as error:
        raise ImageError("corrupt", f"the JPEG cannot be decoded: {error}.") from error


def _read_segments(view: memoryview) -> _Layout:
    """Read the segments as far as the file goes; raise ImageError only if there are too many."""
    layout = _Layout(len(view))
    offset, interval, blocks = 2, 0, 0
    for _ in range(MAX_SEGMENTS):
        marker = _MARKER.search(view, offset)
        if marker is None:
            return layout
        if bytes(view[offset : marker.start()]).strip(b"\xff"):
            layout.gaps.append(slice(offset, marker.start()))
        kind, offset = marker[1][0], marker.end()
        if kind == _EOI:
            layout.has_end_marker = True
            return layout
        if kind == _SOI and layout.scans:
            layout.length = marker.start()
            return layout
        if kind == _TEM or 0xD0 <= kind <= _SOI:
            continue
        length = int.from_bytes(view[offset : offset + 2], "big")
        segment = view[offset + 2 : offset + length]
        offset += length
        if length < 2 or offset > len(view):
            return layout
        if kind in _FRAME_MARKERS and not layout.frame:
            _read_frame(layout, kind, segment)
        elif kind == _DRI and len(segment) >= 2:
            interval = int.from_bytes(segment[:2], "big")
        elif kind == _APP1 and layout.orientation == 1 and blocks < MAX_METADATA_BLOCKS:
            layout.orientation = metadata_orientation(segment)
            blocks += 1
        elif kind == _SOS:
            end = _SCAN_END.search(view, offset)
            data = slice(offset, end.start() if end else len(view))
            scan = _read_scan(segment, data, interval)
            if scan is None:
                return layout
            layout.scans.append(scan)
            offset = data.stop
    raise ImageError("corrupt", f"the JPEG has more than {MAX_SEGMENTS} segments.")


def _cut_gaps(view: memoryview, gaps: list[slice]) -> memoryview:
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


def _check_supported(layout: _Layout, max_pixels: int) -> None:
    """Raise ImageError for an unsupported or damaged file before any of it is decoded."""
    if not layout.frame:
        raise ImageError("corrupt", "the JPEG is truncated: its header is missing.")
    if layout.frame not in _SUPPORTED_FRAMES:
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
    """Decode to uint8 [height, width, 3] RGB.

    Raises ValueError if libjpeg fails or, if strict, warns; KeyError for a subsampling that
    simplejpeg has no name for.
    """
    if len(layout.components) != 4:
        return np.asarray(simplejpeg.decode_jpeg(view, "RGB", strict=strict), np.uint8)
    light = np.asarray(simplejpeg.decode_jpeg(view, "CMYK", strict=strict), np.uint16)
    return ((light[:, :, :3] * light[:, :, 3:] + 127) // 255).astype(np.uint8)


def _decode_tolerant(view: memoryview, layout: _Layout) -> UInt8Array:
    """Decode what libjpeg can; simplejpeg fails on a warning about the header, such as ICC."""
    try:
        return _decode(view, layout, strict=False)
    except ValueError:
        return _decode_rare(view, layout)


def _decode_rare(view: memoryview, layout: _Layout) -> UInt8Array:
    """Decode any subsampling with Pillow, which hides libjpeg's warnings."""
    try:
        with Image.open(io.BytesIO(view), formats=["JPEG"]) as picture:
            if picture.size != (layout.width, layout.height):
                raise ValueError("its header is ambiguous")
            return np.ascontiguousarray(np.asarray(picture.convert("RGB"), np.uint8))
    except (OSError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(str(error)) from error


def _decode_if_whole(
    view: memoryview, layout: _Layout, decode: _Decoder, warning: str
) -> UInt8Array:
    """Decode a file about which libjpeg warned, or could not warn, if all its pixels are there.

    decode: decodes as much as it can. Raises ValueError if a part of the picture is missing.
    """
    for loss, meaning in _FATAL_WARNINGS.items():
        if loss in warning:
            raise ValueError(meaning)
    _check_scans(view, layout)
    pixels = decode(view)
    # libjpeg reads past a stretch of data only if some of it is missing: filler after each stretch
    # changes the picture then, and only then.
    if not np.array_equal(pixels, decode(_with_filler(view, layout))):
        raise ValueError("it is truncated: pixels are missing")
    return pixels


def _check_scans(view: memoryview, layout: _Layout) -> None:
    """Raise ValueError if a coefficient or a restart interval has no data at all."""
    missing_bits = {part.number: [14] * 64 for part in layout.components}
    for scan in layout.scans:
        progressive = layout.frame == _PROGRESSIVE
        for number in scan.components:
            for coefficient in range(scan.first, scan.last + 1) if progressive else range(64):
                if number in missing_bits and coefficient < 64:
                    missing_bits[number][coefficient] = scan.bits if progressive else 0
        numbers = itertools.cycle(range(0xD0, 0xD8))
        restarts_left, strays_left = _count_restarts(layout, scan), MAX_STRAYS
        for marker in _INNER_MARKER.finditer(view, scan.data.start, scan.data.stop):
            if marker[0][1] < 0xD0:
                strays_left -= 1
            elif marker[0][1] == next(numbers):
                restarts_left -= 1
            else:
                restarts_left = -1
            if restarts_left < 0 or strays_left < 0:
                break
        if restarts_left or strays_left < 0:
            raise ValueError("it is truncated: restart markers are missing or out of order")
    if any(any(bits) for bits in missing_bits.values()):
        raise ValueError("it is truncated: scans are missing")


def _count_restarts(layout: _Layout, scan: _Scan) -> int:
    """Count the restart markers that a scan must have."""
    if not scan.interval:
        return 0
    across = 8 * max(part.across for part in layout.components)
    down = 8 * max(part.down for part in layout.components)
    if len(scan.components) == 1:  # a scan of one channel has no MCU padding
        part = next((p for p in layout.components if p.number == scan.components[0]), None)
        if part is None:
            raise ValueError("a scan names a channel that does not exist")
        across, down = across // max(part.across, 1), down // max(part.down, 1)
    units = -(-layout.width // max(across, 1)) * -(-layout.height // max(down, 1))
    return -(-units // scan.interval) - 1


def _with_filler(view: memoryview, layout: _Layout) -> memoryview:
    """Put filler after each stretch of entropy-coded data."""
    parts: list[bytes | memoryview] = []
    offset = 0
    for scan in layout.scans:
        parts.append(view[offset : scan.data.start])
        # Fill bytes FF may stand before a marker, and must stay there.
        stretches = _INNER_MARKER.split(view[scan.data])
        for data, marker in zip(stretches[::2], [*stretches[1::2], b""], strict=True):
            parts += [_strip_zeros(data.rstrip(b"\xff")), _FILLER, marker]
        offset = scan.data.stop
    parts.append(view[offset:])
    return memoryview(b"".join(parts))


def _strip_zeros(data: bytes) -> bytes:
    """Strip trailing zeros of entropy-coded bytes, which would pass for missing pixels.

    Keeps a single zero, and the one after FF: they may belong to the data.
    """
    stripped = data.rstrip(b"\0")
    if len(data) == len(stripped) + 1 or stripped.endswith(b"\xff"):
        return data[: len(stripped) + 1]
    return stripped
