"""Image files as people have them: each is read, or refused by name."""

from __future__ import annotations

import io
import re
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from siglip_perception.bags.calibration_frames import read_frames
from siglip_perception.errors import ImageError, PerceptionError
from siglip_perception.images.decode import decode_compressed
from siglip_perception.images.files import Picture, decode_file, read_image
from siglip_perception.images.jpeg import MAX_SEGMENTS

LIMIT = 1_000_000
Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def decode(data: bytes, **options: Any) -> Picture:
    return decode_file(data, "name", max_pixels=LIMIT, **options)


def refusal(data: bytes, **options: Any) -> tuple[str, str]:
    """Return reason and text of a refusal: one sentence that begins with the file's name."""
    with pytest.raises(ImageError, match=r"(?s)^name: .*\.$") as excinfo:
        decode(data, **options)
    assert str(excinfo.value).count("name: ") == 1
    return excinfo.value.reason, str(excinfo.value)


def scene(height: int = 48, width: int = 64) -> Pixels:
    """A picture whose parts all differ."""
    small = np.random.default_rng(1).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC))


def corner(height: int = 32, width: int = 48) -> Pixels:
    """Gray, but for a red corner at the top left and a green one at the top right."""
    pixels = np.full((height, width, 3), 100, np.uint8)
    pixels[:16, :16] = (220, 20, 20)
    pixels[:16, -16:] = (20, 200, 20)
    return pixels


def outcome(data: bytes, **options: Any) -> Picture | str:
    """Return the picture, or the reason of its refusal; pass other exceptions on."""
    try:
        return decode_file(data, "name", **{"max_pixels": LIMIT, **options})
    except ImageError as error:
        return error.reason


def save(pixels: Pixels, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def exif(orientation: int) -> Image.Exif:
    block = Image.Exif()
    block[274] = orientation
    return block


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


PNG = save(scene(), "PNG")


def with_chunk(chunk: bytes) -> bytes:
    """Insert a chunk before the PNG's pixels."""
    at = PNG.index(b"IDAT") - 4
    return PNG[:at] + chunk + PNG[at:]


# --- JPEG: faults that every viewer passes over, and those that lose pixels

JPEGS = {
    "baseline": save(scene(), "JPEG"),
    "restarts": save(scene(), "JPEG", restart_marker_rows=1),
    "restart at each block": save(scene(), "JPEG", restart_marker_blocks=1),
    "progressive": save(scene(), "JPEG", progressive=True),
    "progressive, restarts": save(scene(), "JPEG", progressive=True, restart_marker_rows=1),
    "optimized": save(scene(), "JPEG", optimize=True),
    "gray": save(np.ascontiguousarray(scene()[:, :, 0]), "JPEG", restart_marker_rows=1),
}
RESTARTS = [name for name in JPEGS if "restart" in name or name == "gray"]


def first_marker(data: bytes, marker: int) -> int:
    """Find a restart marker in the first scan's data."""
    return data.index(bytes((0xFF, marker)), data.index(b"\xff\xda"))


@pytest.mark.parametrize("name", JPEGS)
@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:-2],
        lambda data: data[:-1],
        lambda data: data[:-2] + bytes(200),
        lambda data: data[:-2] + data,
        lambda data: data[:-2] + b"stray bytes before the end" + data[-2:],
        lambda data: data[:20] + b"stray bytes before a segment" + data[20:],
    ],
    ids=["no end", "half an end", "zeros", "another picture", "before end", "before segment"],
)
def test_a_jpeg_with_all_its_pixels_is_repaired(
    name: str, change: Callable[[bytes], bytes]
) -> None:
    picture = decode(change(JPEGS[name]))
    assert picture.repairs == ("jpeg_repaired",)
    np.testing.assert_array_equal(picture.pixels, decode(JPEGS[name]).pixels)


@pytest.mark.parametrize("name", RESTARTS)
@pytest.mark.parametrize("stray", [b"stray bytes", b"\0" * 9, b"a\xff\x00b\xff\x00cdefgh\xff"])
def test_stray_bytes_before_restart_markers_are_skipped(name: str, stray: bytes) -> None:
    data = JPEGS[name]
    at = first_marker(data, 0xD1)
    start = data.index(b"\xff\xda")
    everywhere = data[:start] + re.sub(rb"(?=\xff[\xd0-\xd7])", lambda _: stray, data[start:])
    for bad_data in (data[:at] + stray + data[at:], everywhere):
        picture = decode(bad_data)
        assert picture.repairs == ("jpeg_repaired",)
        np.testing.assert_array_equal(picture.pixels, decode(data).pixels)


def test_a_message_is_repaired_as_a_file_is() -> None:
    picture = decode_compressed("jpeg", JPEGS["baseline"][:-2], max_pixels=LIMIT)
    assert picture.repairs == ("jpeg_repaired",)
    assert decode_compressed("jpeg", JPEGS["baseline"], max_pixels=LIMIT).repairs == ()


def without_data(data: bytes, count: int) -> bytes:
    """Remove some bytes before the second restart marker."""
    at = first_marker(data, 0xD1)
    return data[: at - count] + data[at:]


@pytest.mark.parametrize("name", JPEGS)
@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[: len(data) // 2] + b"\xff\xd9",
        lambda data: data[: len(data) // 2] + bytes(300),
        lambda data: data[:-12],
        lambda data: data[:-12] + data[-2:],
        lambda data: data[: data.rindex(b"\xff\xda")],
    ],
    ids=["half", "half and end", "half and zeros", "tail", "tail and end", "last scan"],
)
def test_a_jpeg_without_all_its_pixels_is_corrupt(
    name: str, change: Callable[[bytes], bytes]
) -> None:
    reason, text = refusal(change(JPEGS[name]))
    assert reason == "corrupt"
    assert "JPEG" in text


@pytest.mark.parametrize("name", RESTARTS)
def test_an_interval_without_its_data_is_corrupt_whatever_else_is_harmless(name: str) -> None:
    data = JPEGS[name]
    at = first_marker(data, 0xD0)
    stray = data[:at] + b"stray bytes" + data[at:]
    cut_bytes = data[: first_marker(data, 0xD1)] + data[first_marker(data, 0xD1) + 2 :]
    for bad_data in (without_data(data, 2), without_data(stray, 2), cut_bytes):
        assert refusal(bad_data)[0] == "corrupt"
        assert refusal(bad_data[:-2])[0] == "corrupt"


def test_bytes_after_the_end_are_no_fault() -> None:
    trailer = b"a video of a moving photo" + b"\xff\xda" * 200
    picture = decode(JPEGS["baseline"] + trailer)
    assert picture.repairs == ()


def test_a_frame_of_a_motion_jpeg_without_huffman_tables() -> None:
    data, start = JPEGS["baseline"], 0
    while (start := data.find(b"\xff\xc4", start)) >= 0:
        data = (
            data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4], "big") :]
        )
    np.testing.assert_array_equal(decode(data).pixels, decode(JPEGS["baseline"]).pixels)


def test_a_broken_color_profile_is_no_reason_to_drop_a_frame() -> None:
    """libjpeg warns of it before the pixels, where simplejpeg fails, tolerant or not."""
    profile = b"\xff\xe2\0\x10ICC_PROFILE\0\x09\x01"
    data = JPEGS["baseline"]
    at = data.index(b"\xff\xda")
    picture = decode(data[:at] + profile + data[at:])
    assert picture.repairs == ("jpeg_repaired",)
    np.testing.assert_array_equal(picture.pixels, decode(data).pixels)


def test_a_thumbnail_inside_does_not_count() -> None:
    """Test markers that lie within a segment."""
    block = exif(6)
    file = io.BytesIO()
    Image.fromarray(corner()).save(file, "JPEG", exif=block, quality=95)
    data = file.getvalue()
    end = 4 + int.from_bytes(data[data.index(b"\xff\xe1") + 2 :][:2], "big") + 18
    thumbnail = JPEGS["progressive"]
    segment = b"\xff\xe2" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    at = data.index(b"\xff\xdb")
    assert end <= at
    picture = decode(data[:at] + segment + data[at:])
    assert picture.pixels.shape == (48, 32, 3)
    assert picture.repairs == ()


def test_cmyk_is_read_as_viewers_do() -> None:
    """Test cyan 10, magenta 20, yellow 30 and black 40 of 255, where 255 is no ink."""
    file = io.BytesIO()
    Image.new("CMYK", (16, 16), (10, 20, 30, 40)).save(file, "JPEG")
    data = bytearray(file.getvalue())
    expected = [round((255 - ink) * (255 - 40) / 255) for ink in (10, 20, 30)]
    assert np.abs(decode(bytes(data)).pixels.astype(int) - expected).max() <= 1
    data[data.index(b"Adobe") + 11] = 2  # YCCK, which these values are not: they only have to go
    assert decode(bytes(data)).pixels.shape == (16, 16, 3)


def test_a_rare_subsampling() -> None:
    """4:4:1 of blocks in four shades, whose data are those of the transposed picture in 4:1:1."""
    shades = np.repeat(np.array([[0, 80, 160, 240]], np.uint8), 4, axis=0)
    shades = (shades + np.arange(4, dtype=np.uint8)[:, np.newaxis] * 4).astype(np.uint8)
    pixels = np.repeat(np.kron(shades, np.ones((8, 8), np.uint8))[:, :, np.newaxis], 3, axis=2)
    data = bytearray(simplejpeg.encode_jpeg(pixels, colorsubsampling="411", quality=100))
    luma = data.index(b"\xff\xc0") + 11
    assert data[luma] == 0x41
    data[luma] = 0x14
    picture = decode(bytes(data))
    assert np.abs(picture.pixels.astype(int) - pixels.transpose(1, 0, 2)).max() <= 2
    assert picture.repairs == ()
    assert refusal(bytes(data[: len(data) // 2]))[0] == "corrupt"
    assert decode(bytes(data[:-2])).repairs == ("jpeg_repaired",)


@pytest.mark.parametrize(
    ("frame", "coding"),
    [(0xC3, "lossless"), (0xC5, "hierarchical"), (0xC9, "arithmetic"), (0xF7, "JPEG-LS")],
)
def test_jpegs_of_other_codings_are_refused_by_name(frame: int, coding: str) -> None:
    data = bytearray(JPEGS["baseline"])
    data[data.index(b"\xff\xc0") + 1] = frame
    reason, text = refusal(bytes(data))
    assert reason == "encoding"
    assert coding in text


def test_a_jpeg_of_12_bits_is_refused_by_name() -> None:
    data = bytearray(JPEGS["baseline"])
    data[data.index(b"\xff\xc0") + 4] = 12
    assert refusal(bytes(data))[0] == "encoding"
    assert "12 bits" in refusal(bytes(data))[1]


def test_endless_segments_are_refused() -> None:
    segment = b"\xff\xe0\0\x02"
    data = JPEGS["baseline"][:2] + segment * (MAX_SEGMENTS + 1) + JPEGS["baseline"][2:]
    assert refusal(data)[0] == "corrupt"


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_a_damaged_jpeg_is_the_same_picture_or_refused_where_bytes_are_missing(
    data: st.DataObject,
) -> None:
    name = data.draw(st.sampled_from(sorted(JPEGS)))
    file = JPEGS[name]
    byte_count = data.draw(st.integers(20, len(file) - 3))
    # A progressive picture may end after any scan, but says so by its end marker.
    ends = [b"", bytes(40)] if "progressive" in name else [b"", bytes(40), b"\xff\xd9"]
    tail = data.draw(st.sampled_from(ends))
    result = outcome(file[:byte_count] + tail)
    if isinstance(result, Picture):  # only bits that fill up the last byte may have been cut off
        assert byte_count >= len(file) - 3
        np.testing.assert_array_equal(result.pixels, decode(file).pixels)
    else:  # zeros in the header make it malformed
        assert result in ("corrupt", "malformed")


# --- EXIF orientation

# Where the red and the green corner are to be seen, by the orientation: (row, column) of each.
CORNERS = {
    1: ((0, 0), (0, -1)),
    2: ((0, -1), (0, 0)),
    3: ((-1, -1), (-1, 0)),
    4: ((-1, 0), (-1, -1)),
    5: ((0, 0), (-1, 0)),
    6: ((0, -1), (-1, -1)),
    7: ((-1, -1), (0, -1)),
    8: ((-1, 0), (0, 0)),
}


def rotated_file(kind: str, orientation: int) -> bytes:
    options: dict[str, Any] = {"exif": exif(orientation)}
    if kind == "TIFF":
        options = {"tiffinfo": {274: orientation}}
    if kind == "WEBP":
        options["lossless"] = True
    return save(corner(), kind, **options)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_picture_is_turned_upright(kind: str, orientation: int) -> None:
    picture = decode(rotated_file(kind, orientation))
    red, green = CORNERS[orientation]
    assert picture.pixels.shape == ((48, 32, 3) if orientation >= 5 else (32, 48, 3))
    assert np.abs(picture.pixels[red].astype(int) - (220, 20, 20)).max() < 12
    assert np.abs(picture.pixels[green].astype(int) - (20, 200, 20)).max() < 12
    assert picture.pixels.flags.c_contiguous
    assert (picture.orientation, picture.size) == (orientation, (48, 32))


@pytest.mark.parametrize("order", ["<", ">"])
def test_orientation_in_either_byte_order(order: str) -> None:
    mark = b"II" if order == "<" else b"MM"
    block = mark + struct.pack(f"{order}HIHHHIHHI", 42, 8, 1, 274, 3, 1, 3, 0, 0)
    data = JPEGS["baseline"]
    body = b"Exif\0\0" + block
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]
    np.testing.assert_array_equal(
        decode(data).pixels, decode(JPEGS["baseline"]).pixels[::-1, ::-1]
    )


XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="3"/></x:xmpmeta>'


@pytest.mark.parametrize(
    "chunk",
    [
        (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
        (b"tEXt", b"Raw profile type exif\0\nexif\n      26\n%s\n"),
        (b"zTXt", b"Raw profile type exif\0\0"),
    ],
    ids=["XMP", "ImageMagick", "ImageMagick, packed"],
)
def test_a_png_is_turned_by_what_other_programs_write(chunk: tuple[bytes, bytes]) -> None:
    name, data = chunk
    block = b"Exif\0\0MM" + struct.pack(">HIHHHIHHI", 42, 8, 1, 274, 3, 1, 3, 0, 0)
    text = block.hex().encode()
    if name == b"zTXt":
        data += zlib.compress(b"\nexif\n      26\n%s\n" % text)
    picture = decode(with_chunk(png_chunk(name, data.replace(b"%s", text))))
    assert picture.orientation == 3
    np.testing.assert_array_equal(picture.pixels, scene()[::-1, ::-1])


def test_endless_profiles_are_not_all_searched() -> None:
    """Each of these would be inflated to 256 KiB."""
    chunk = png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(2**24), 9))
    tracemalloc.start()
    np.testing.assert_array_equal(decode(with_chunk(chunk * 200)).pixels, scene())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 2**20


@pytest.mark.parametrize("name", [b"tEXt", b"zTXt"])
@given(data=st.binary(max_size=60))
@settings(max_examples=50, deadline=None)
def test_a_broken_profile_turns_nothing(name: bytes, data: bytes) -> None:
    chunk = png_chunk(name, b"Raw profile type exif\0" + data)
    np.testing.assert_array_equal(decode(with_chunk(chunk)).pixels, scene())


def test_a_jpeg_is_turned_by_its_xmp() -> None:
    body = b"http://ns.adobe.com/xap/1.0/\0" + XMP
    data = JPEGS["gray"]
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]
    assert decode(data).orientation == 3


@given(block=st.binary(max_size=80), orientation=st.integers(0, 65535))
@settings(max_examples=200, deadline=None)
def test_a_broken_exif_block_turns_nothing(block: bytes, orientation: int) -> None:
    entry = struct.pack("<HIHHHIHH", 42, 8, 1, 274, 3, 1, orientation, 0)
    for body in (block, b"Exif\0\0" + block, b"Exif\0\0II" + entry + block):
        data = JPEGS["gray"]
        data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]
        assert decode(data).orientation in range(1, 9)
    assert decode(data).orientation == (orientation if 1 <= orientation <= 8 else 1)


def test_a_message_is_not_turned() -> None:
    """Keep the pixels of the camera's raw topic, CameraInfo and depth."""
    picture = decode_compressed("jpeg", rotated_file("JPEG", 6), max_pixels=LIMIT)
    assert (picture.pixels.shape, picture.orientation) == ((32, 48, 3), 1)


# --- PNG


def test_a_png_with_a_wrong_checksum_beside_the_picture() -> None:
    chunk = png_chunk(b"tEXt", b"Comment\0written over")
    picture = decode(with_chunk(chunk[:-1] + b"\0"))
    assert picture.repairs == ("png_checksum",)
    np.testing.assert_array_equal(picture.pixels, scene())
    assert decode(with_chunk(chunk)).repairs == ()


def test_a_png_with_a_wrong_checksum_in_the_picture_is_corrupt() -> None:
    at = PNG.index(b"IDAT") + 8
    bad_data = PNG[:at] + bytes([PNG[at] ^ 1]) + PNG[at + 1 :]
    assert refusal(bad_data)[0] == "corrupt"
    assert "IDAT" in refusal(bad_data)[1]


@pytest.mark.parametrize("cut_bytes", [1, 4, 12])
def test_a_png_without_its_end_chunk(cut_bytes: int) -> None:
    picture = decode(PNG[:-cut_bytes])
    assert picture.repairs == ("png_repaired",)
    np.testing.assert_array_equal(picture.pixels, scene())


@pytest.mark.parametrize("cut_bytes", [13, 20, 1000])
def test_a_png_without_all_its_pixels_is_corrupt(cut_bytes: int) -> None:
    assert refusal(PNG[:-cut_bytes])[0] == "corrupt"


def interlace(height: int, width: int, byte_count: int | None = None) -> bytes:
    """A gray Adam7 PNG of zeros, of which only some bytes may be there."""
    rows = b""
    for left, top, across, down in (
        *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
        *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
    ):
        columns = len(range(left, width, across))
        rows += (b"\0" + bytes(columns)) * len(range(top, height, down)) if columns else b""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 1)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", head)
        + png_chunk(b"IDAT", zlib.compress(rows[:byte_count]))
        + png_chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("height", "width"), [(9, 11), (1, 1), (5, 1), (1, 8), (8, 8)])
def test_an_interlaced_png_needs_the_rows_of_every_pass(height: int, width: int) -> None:
    assert (decode(interlace(height, width)).pixels == np.zeros((height, width, 3))).all()
    assert refusal(interlace(height, width, -1))[0] == "corrupt"


def test_of_an_animated_png_the_still_picture_is_taken() -> None:
    file = io.BytesIO()
    first, second = (Image.new("RGB", (6, 4), color) for color in ((9, 60, 200), (1, 2, 3)))
    first.save(file, "PNG", save_all=True, append_images=[second])
    assert (decode(file.getvalue()).pixels == (9, 60, 200)).all()


def test_apples_variant_of_png_is_named() -> None:
    data = PNG[:8] + png_chunk(b"CgBI", bytes(4)) + PNG[8:]
    assert refusal(data)[0] == "encoding"
    assert "CgBI" in refusal(data)[1]


# --- every other format, and kinds of pixels

COLORS: dict[str, tuple[float | tuple[float, ...], tuple[int, int, int]]] = {
    "1": (1, (255, 255, 255)),
    "L": (90, (90, 90, 90)),
    "LA": ((90, 10), (90, 90, 90)),
    "P": (1, (9, 60, 200)),
    "RGB": ((9, 60, 200), (9, 60, 200)),
    "RGBA": ((9, 60, 200, 30), (9, 60, 200)),
    "CMYK": ((10, 20, 30, 40), (207, 198, 190)),
}


def uniform(mode: str, kind: str, **options: Any) -> bytes:
    image = Image.new(mode, (6, 4), COLORS[mode][0])
    if mode == "P":
        image.putpalette([0, 0, 0, 9, 60, 200])
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "format_name", "modes"),
    [
        ("PNG", "PNG", ("1", "L", "LA", "P", "RGB", "RGBA")),
        ("WEBP", "WebP", ("L", "LA", "P", "RGB", "RGBA")),
        ("TIFF", "TIFF", ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK")),
        ("BMP", "BMP", ("1", "L", "P", "RGB", "RGBA")),
        ("GIF", "GIF", ("1", "L", "P", "RGB")),
        ("PPM", "PNM", ("1", "L", "RGB")),
    ],
)
def test_formats_and_their_kinds_of_pixels(
    kind: str, format_name: str, modes: tuple[str, ...]
) -> None:
    for mode in modes:
        options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
        picture = decode(uniform(mode, kind, **options))
        assert picture.format == format_name
        assert picture.pixels.shape == (4, 6, 3)
        assert (picture.pixels == COLORS[mode][1]).all(), mode


def test_the_endings_of_names_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    path.write_bytes(uniform("RGB", "WEBP", lossless=True))
    assert read_image(path).format == "WebP"


def animate(kind: str, **options: Any) -> bytes:
    frames = [Image.new("RGB", (6, 4), color) for color in ((9, 60, 200), (1, 2, 3))]
    file = io.BytesIO()
    frames[0].save(file, kind, save_all=True, append_images=frames[1:], **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("TIFF", {})]
)
def test_the_first_of_several_pictures_is_taken(kind: str, options: dict[str, Any]) -> None:
    assert (decode(animate(kind, **options)).pixels == (9, 60, 200)).all()


@pytest.mark.parametrize("kind", [".png", ".tiff"])
def test_16_bit_gray_needs_its_white(kind: str) -> None:
    data = cv2.imencode(kind, np.full((4, 6), 500, np.uint16))[1].tobytes()
    reason, text = refusal(data)
    assert reason == "encoding"
    assert "--mono16-white" in text
    assert (decode(data, mono16_white=1000).pixels == 128).all()
    assert (decode(data, mono16_white=400).pixels == 255).all()


def test_16_bit_gray_with_alpha() -> None:
    rows = b"".join(b"\0" + struct.pack(">HH", 500, 0) * 6 for _ in range(4))
    head = struct.pack(">IIBBBBB", 6, 4, 16, 4, 0, 0, 0)
    data = PNG[:8] + png_chunk(b"IHDR", head) + png_chunk(b"IDAT", zlib.compress(rows))
    picture = decode(data + png_chunk(b"IEND", b""), mono16_white=1000)
    assert (picture.pixels == 128).all()


@pytest.mark.parametrize("kind", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [3, 4])
def test_16_bit_color_is_scaled(kind: str, channels: int) -> None:
    bgr = np.tile(np.array([0, 257 * 2, 65535, 9][:channels], np.uint16), (4, 6, 1))
    data = cv2.imencode(kind, bgr)[1].tobytes()
    assert (decode(data).pixels == (255, 2, 0)).all()


def test_a_pgm_says_itself_what_is_white() -> None:
    data = b"P5\n# a comment\n2 1\n1000\n" + struct.pack(">HH", 500, 1000)
    assert decode(data).pixels[0, :, 0].tolist() == [128, 255]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.int32, np.int8])
def test_a_tiff_of_numbers_is_refused_by_what_it_is(dtype: Any) -> None:
    reason, text = refusal(cv2.imencode(".tiff", np.zeros((4, 6), dtype))[1].tobytes())
    assert reason == "encoding"
    assert "no known brightness" in text


def tiff(tags: dict[int, tuple[int, int]]) -> bytes:
    """Make a TIFF's header and directory from {tag: (type, value)}."""
    entries = b"".join(
        struct.pack("<HHII", tag, kind, 1, value) for tag, (kind, value) in sorted(tags.items())
    )
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)


SIZE = {256: (4, 6), 257: (4, 4)}


def test_a_raw_file_is_not_taken_for_its_thumbnail() -> None:
    for extra in ({50706: (1, 1)}, {254: (4, 1)}):
        reason, text = refusal(tiff({**SIZE, **extra}))
        assert reason == "encoding"
        assert "RAW" in text


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (b"RIFF" + bytes(4) + b"WEBPVP8X" + bytes(8) + b"\xff\xff\x0f\xff\xff\x0f", "1048576"),
        (b"RIFF" + bytes(4) + b"WEBPVP8L" + bytes(4) + b"\x2f" + b"\xff" * 9, "16384x16384"),
        (tiff({256: (4, 40_000), 257: (4, 40_000)}), "40000x40000"),
        (tiff({**SIZE, 322: (4, 50_000), 323: (4, 50_000)}), "50000x50000"),
        (
            b"BM"
            + bytes(8)
            + struct.pack("<IIiiHHIIIIII", 54, 40, 30_000, 30_000, 1, 24, *6 * [0]),
            "900000000",
        ),
        (b"GIF89a\x60\xea\x60\xea\0\0\0,\0\0\0\0\x60\xea\x60\xea\0\x02\0;", "3600000000"),
        (b"P6\n30000 30000\n255\n", "900000000"),
    ],
    ids=["WebP", "lossless WebP", "TIFF", "TIFF's tiles", "BMP", "GIF", "PNM"],
)
def test_a_bomb_is_refused_before_decoding(data: bytes, size: str) -> None:
    reason, text = refusal(data)
    assert reason == "too_large"
    assert size in text


@pytest.mark.parametrize("kind", ["WEBP", "TIFF", "BMP", "GIF", "PPM"])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
def test_a_truncated_file_is_corrupt(kind: str, share: float) -> None:
    data = save(scene(), kind)
    reason, text = refusal(data[: int(share * len(data))])
    assert reason == "corrupt"
    assert kind.lower().replace("ppm", "pnm") in text.lower()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "git lfs pull"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypavif\0\0\0\0avifmif1", "AVIF"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isomiso2", "video"),
        (b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom", "RAW"),
        (b"II*\0\x10\0\0\0CR\x02\0\0\0\0\0", "RAW"),
        (b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl ", "JPEG XL"),
        (b"\xff\x0a\xfa\x1f\x01" + bytes(20), "JPEG XL"),
        (b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 ", "JPEG 2000"),
        (b"\xff\x4f\xff\x51\0\x2f" + bytes(20), "JPEG 2000"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"<?xml version='1.0'?>\n<!-- drawn -->\n<svg/>", "SVG"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "PDF"),
        (b"<!DOCTYPE html>\n<html><head><title>404</title>", "HTML"),
        (b"\n\n<HTML><body>Sign in", "HTML"),
        (b"8BPS\0\x01" + bytes(20), "Photoshop"),
        (b"v/1\x01" + bytes(20), "OpenEXR"),
        (bytes(128) + b"DICM" + bytes(20), "DICOM"),
        (b"\x93NUMPY\x01\0v\0{'descr': '|u1'", "NumPy"),
        (b"PK\x03\x04" + bytes(30), "zip"),
        (b"\x1f\x8b\x08" + bytes(30), "compressed"),
        (b"II+\0\x08\0\0\0" + bytes(20), "BigTIFF"),
        (b"RIFF\0\0\0\0AVI LIST" + bytes(10), "video"),
        (b"\x1aE\xdf\xa3" + bytes(20), "video"),
        (b'{"message": "rate limit exceeded"}', "text"),
        (bytes(range(1, 40)), "no picture of a known format"),
    ],
)
def test_what_is_no_picture_here_is_named(data: bytes, words: str) -> None:
    reason, text = refusal(data)
    assert reason == "encoding"
    assert words in text
    assert text.isprintable()


@pytest.mark.parametrize(
    ("data", "words"), [(b"", "empty"), (b"\xff\xd8", "cut off"), (b"\x89PNG", "cut off")]
)
def test_a_file_without_content_is_corrupt(data: bytes, words: str) -> None:
    reason, text = refusal(data)
    assert reason == "corrupt"
    assert words in text


FILES = [
    save(scene(16, 24), "WEBP"),
    save(scene(16, 24), "WEBP", lossless=True),
    save(scene(16, 24), "TIFF"),
    save(scene(16, 24), "TIFF", compression="tiff_lzw"),
    save(scene(16, 24), "TIFF", compression="jpeg"),
    save(scene(16, 24), "BMP"),
    save(scene(16, 24), "GIF"),
    save(scene(16, 24), "PPM"),
    b"P2\n2 2\n255\n1 2 3 4\n",
]


@given(data=st.data())
@settings(max_examples=200, deadline=None)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
def test_damaged_files_never_raise_anything_else(data: st.DataObject) -> None:
    file = bytearray(data.draw(st.sampled_from(FILES)))
    near = min(len(file), 60)
    places = st.integers(0, near - 1) | st.integers(0, len(file) - 1)
    for at, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=4)):
        file[at] = value
    del file[data.draw(st.just(len(file)) | st.integers(0, len(file))) :]
    result = outcome(bytes(file), max_pixels=100_000, mono16_white=9)
    if isinstance(result, Picture):
        assert result.pixels.shape[2] == 3
    else:
        assert result in ("corrupt", "too_large", "encoding", "malformed")


# --- paths


def test_what_is_no_regular_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(PerceptionError, match=r"There is no image file .*missing\.jpg"):
        read_image(tmp_path / "missing.jpg")
    with pytest.raises(PerceptionError, match="There is no image file"):
        read_image(tmp_path / "a\0b.jpg")
    with pytest.raises(PerceptionError, match="is a folder"):
        read_image(tmp_path)
    with pytest.raises(PerceptionError, match="not a regular file"):
        read_image(Path("/dev/zero"))


def test_an_error_begins_with_the_path(tmp_path: Path) -> None:
    path = tmp_path / "page.jpg"
    path.write_bytes(b"<html>")
    with pytest.raises(ImageError, match=rf"^{re.escape(str(path))}: the file is an HTML page"):
        read_image(path)


def test_a_picture_keeps_the_size_that_it_is_stored_with(tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    path.write_bytes(rotated_file("JPEG", 8))
    picture = read_image(path)
    assert picture.pixels.shape == (48, 32, 3)
    assert picture.size == (48, 32)


def test_calibration_names_and_counts_what_it_leaves_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "good.webp").write_bytes(uniform("RGB", "WEBP", lossless=True))
    (tmp_path / "pointer.jpg").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    (tmp_path / "notes.md").write_text("no picture")
    (frame,) = read_frames(tmp_path, 10)
    assert (frame == (9, 60, 200)).all()
    log = capsys.readouterr().err
    assert re.search(r"left out: .*pointer\.jpg: the file is a Git LFS pointer", log)
    assert f"1 of 2 images of {tmp_path} left out" in log
