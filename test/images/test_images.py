"""Raw and compressed images: hand-checked examples of every encoding, and every refusal."""

from __future__ import annotations

import array
import collections
import io
import random
import re
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from siglip_perception.errors import ImageError
from siglip_perception.images.decode import convert
from siglip_perception.images.decode import decode_compressed as decode_message
from siglip_perception.images.encodings import ENCODINGS, ROS_ENCODINGS, table_text
from siglip_perception.images.jpeg import MAX_SCANS

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 1_000_000
RED, GREEN, BLUE, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128)
PNG_START = b"\x89PNG\r\n\x1a\n"


def decode_compressed(*args: Any, **options: Any) -> np.ndarray[Any, Any]:
    """Return the pixels of decode_compressed()."""
    return decode_message(*args, **options).pixels


def raw(encoding: str, pixels: np.ndarray[Any, Any], **changes: Any) -> Any:
    """Convert pixels [height, width(, channels)] without padding."""
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(pixels.shape[0], -1)
    call = {
        "height": pixels.shape[0],
        "width": pixels.shape[1],
        "step": rows.shape[1],
        "is_bigendian": False,
        "data": rows.tobytes(),
        "max_pixels": LIMIT,
    }
    return convert(encoding, **{**call, **changes})


@contextmanager
def raises_image_error(reason: str, *words: str) -> Iterator[pytest.ExceptionInfo[ImageError]]:
    """Expect an ImageError of this reason: one sentence with these words."""
    pattern = "(?s)" + "".join(f"(?=.*{word})" for word in words) + r".*\.$"
    with pytest.raises(ImageError, match=pattern) as excinfo:
        yield excinfo
    assert excinfo.value.reason == reason


def outcome(call: Callable[[], np.ndarray[Any, Any]]) -> str | tuple[int, ...]:
    """Return the reason of a refusal or the shape of the result; pass other exceptions on."""
    try:
        shape: tuple[int, ...] = call().shape
    except ImageError as error:
        return error.reason
    return shape


def picture(height: int, width: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Make a smooth RGB picture in which every pixel differs from its neighbors."""
    down, across = np.mgrid[0:height, 0:width]
    return np.stack(
        [
            across * 255 // max(width - 1, 1),
            down * 255 // max(height - 1, 1),
            (across + down) % 256,
        ],
        axis=-1,
    ).astype(np.uint8)


@pytest.mark.parametrize(
    ("encoding", "pixel", "expected"),
    [
        ("rgb8", (1, 2, 3), (1, 2, 3)),
        ("bgr8", (1, 2, 3), (3, 2, 1)),
        ("rgba8", (1, 2, 3, 4), (1, 2, 3)),
        ("bgra8", (1, 2, 3, 4), (3, 2, 1)),
        ("8UC3", (1, 2, 3), (3, 2, 1)),
        ("8UC4", (1, 2, 3, 4), (3, 2, 1)),
        ("mono8", (7,), (7, 7, 7)),
        ("8UC1", (7,), (7, 7, 7)),
    ],
)
def test_8_bit_samples_are_reordered(
    encoding: str, pixel: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    pixels = np.tile(np.array(pixel, np.uint8), (2, 3, 1))
    pixels[1, 2] += 10
    result = raw(encoding, pixels)
    assert result.shape == (2, 3, 3)
    assert result.dtype == np.uint8
    assert result.flags["C_CONTIGUOUS"]
    assert tuple(result[0, 0]) == expected
    assert tuple(result[1, 2]) == tuple(value + 10 for value in expected)


@pytest.mark.parametrize("bigendian", [False, True])
@pytest.mark.parametrize(
    ("encoding", "pixel", "expected"),
    [
        ("rgb16", (0, 257 * 2, 65535), (0, 2, 255)),
        ("bgr16", (0, 257 * 2, 65535), (255, 2, 0)),
        ("rgba16", (0, 257 * 2, 65535, 9), (0, 2, 255)),
        ("bgra16", (0, 257 * 2, 65535, 9), (255, 2, 0)),
        ("16UC3", (0, 257 * 2, 65535), (255, 2, 0)),
        ("16UC4", (0, 257 * 2, 65535, 9), (255, 2, 0)),
    ],
)
def test_16_bit_color_is_scaled(
    encoding: str, pixel: tuple[int, ...], expected: tuple[int, ...], bigendian: bool
) -> None:
    pixels = np.tile(np.array(pixel, ">u2" if bigendian else "<u2"), (2, 3, 1))
    result = raw(encoding, pixels, is_bigendian=bigendian)
    assert (result == np.array(expected)).all()


@pytest.mark.parametrize("bigendian", [False, True])
@pytest.mark.parametrize("encoding", ["mono16", "16UC1"])
def test_16_bit_gray_is_scaled_by_white_and_saturates(encoding: str, bigendian: bool) -> None:
    pixels = np.array([[0, 500, 1000, 4000]], ">u2" if bigendian else "<u2")
    result = raw(encoding, pixels, is_bigendian=bigendian, mono16_white=1000)
    assert result[0, :, 0].tolist() == [0, 128, 255, 255]
    assert (result[..., :1] == result).all()


def test_16_bit_gray_is_refused_without_white() -> None:
    with raises_image_error("encoding", "mono16_white"):
        raw("mono16", np.zeros((2, 2), np.uint16))


@pytest.mark.parametrize("encoding", ["32FC1", "rgb9", "", "\x00\n" * 50, "h264"])
def test_unknown_encodings_are_refused(encoding: str) -> None:
    with raises_image_error("encoding", "rgb8") as excinfo:
        raw(encoding, np.zeros((2, 2), np.uint8))
    assert str(excinfo.value).isprintable()


def test_every_encoding_of_sensor_msgs_is_taken_or_refused_with_the_reason() -> None:
    assert len(ROS_ENCODINGS) == len(set(ROS_ENCODINGS)) == 52
    for encoding in set(ROS_ENCODINGS) - set(ENCODINGS):
        channels = (
            r"channels" if encoding in ("8UC2", "16UC2") else "numbers of no known brightness"
        )
        with raises_image_error("encoding", encoding, channels, "send rgb8"):
            raw(encoding, np.zeros((2, 2, 4), np.float64))


def test_the_docs_have_the_table_made_from_the_encodings() -> None:
    text = (ROOT / "docs" / "encodings.md").read_text(encoding="utf-8")
    table = text.split("<!-- encodings:begin -->")[1].split("<!-- encodings:end -->")[0]
    assert table.strip() == table_text()
    for encoding in {*ROS_ENCODINGS, *ENCODINGS}:
        answer = "yes" if encoding in ENCODINGS else "no"
        assert table.count(f"| `{encoding}` | {answer} |") == 1


@pytest.mark.parametrize(
    ("encoding", "suggestion"),
    [
        ("RGB8", "rgb8"),
        ("mono8 ", "mono8"),
        ("8uc3", "8UC3"),
        ("bgr", "bgr8"),
        ("GRAY8", "mono8"),
        ("Y16", "mono16"),
        ("BayerRG8", "bayer_rggb8"),
        ("BayerGB12", "bayer_gbrg16"),
        ("bayer_rggb_8", "bayer_rggb8"),
        ("YUV422Packed", "uyvy"),
        ("NV_12", "nv12"),
        ("bayer_rggb", "bayer_rggb8"),
    ],
)
def test_a_misspelled_encoding_is_told_its_name(encoding: str, suggestion: str) -> None:
    with raises_image_error(
        "encoding", re.escape(repr(encoding)), rf"did you mean {suggestion}\?"
    ):
        raw(encoding, np.zeros((2, 2, 3), np.uint8))


@pytest.mark.parametrize("encoding", ["yuv420", "I420", "NV16", "yuv444"])
def test_other_yuv_is_not_taken_for_what_it_resembles(encoding: str) -> None:
    with raises_image_error("encoding", encoding, "nv12") as excinfo:
        raw(encoding, np.zeros((2, 2), np.uint8))
    assert "did you mean" not in str(excinfo.value)


@pytest.mark.parametrize("encoding", ["jpg", "JPEG", "mjpeg", "png"])
def test_a_file_format_as_an_encoding_is_sent_to_the_compressed_topic(encoding: str) -> None:
    with raises_image_error("encoding", "CompressedImage"):
        raw(encoding, np.zeros((2, 2, 3), np.uint8))


# The mosaic's first two rows by name, in ROS's reading: the first row's two letters, the second's.
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_patterns_give_the_color_that_their_name_says(pattern: str, depth: int) -> None:
    color = {"r": 200, "g": 100, "b": 50}
    tile = np.array([[color[letter] for letter in pattern[:2]], [color[c] for c in pattern[2:]]])
    mosaic = np.tile(tile, (4, 4)).astype(np.uint8)
    pixels = mosaic if depth == 8 else mosaic.astype(np.uint16) * 257
    result = raw(f"bayer_{pattern}{depth}", pixels)
    assert (result[2:-2, 2:-2] == (200, 100, 50)).all()


# BT.601, limited range: black is Y 16, white Y 235, red (Y, U, V) = (81, 90, 240).
@pytest.mark.parametrize(
    ("encoding", "order"),
    [("uyvy", "UYVY"), ("yuv422", "UYVY"), ("yuyv", "YUYV"), ("yuv422_yuy2", "YUYV")],
)
@pytest.mark.parametrize(
    ("yuv", "expected"),
    [((16, 128, 128), (0, 0, 0)), ((235, 128, 128), (255, 255, 255)), ((81, 90, 240), RED)],
)
def test_yuv_422(
    encoding: str, order: str, yuv: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    quad = [dict(zip("YUV", yuv, strict=True))[letter] for letter in order]
    result = raw(encoding, np.tile(np.array(quad, np.uint8).reshape(1, 2, 2), (2, 2, 1)))
    assert result.shape == (2, 4, 3)
    assert np.abs(result.astype(int) - expected).max() <= 2


@pytest.mark.parametrize(("encoding", "pair"), [("nv12", (90, 240)), ("nv21", (240, 90))])
def test_two_plane_yuv_with_padding(encoding: str, pair: tuple[int, int]) -> None:
    height, width, step = 4, 6, 10
    data = np.full((height * 3 // 2, step), 255, np.uint8)
    data[:height, :width] = 81
    data[height:, :width] = np.tile(pair, width // 2)
    result = convert(encoding, height, width, step, False, data.tobytes(), max_pixels=LIMIT)
    assert result.shape == (4, 6, 3)
    assert np.abs(result.astype(int) - RED).max() <= 2


@pytest.mark.parametrize("padding", [0, 3])
def test_nv24_has_a_color_for_each_pixel(padding: int) -> None:
    """nv24 has a plane of Y, then one of (U, V) with rows twice as long, padding included."""
    step = 3 + padding
    brightness = np.full((2, step), 255, np.uint8)
    brightness[:, :3] = [[81, 145, 41], [16, 235, 81]]
    colors = np.full((2, 2 * step), 255, np.uint8)
    colors[:, :6] = [[90, 240, 54, 34, 240, 110], [128, 128, 128, 128, 90, 240]]
    data = brightness.tobytes() + colors.tobytes()
    result = convert("nv24", 2, 3, step, False, data, max_pixels=LIMIT)
    expected = [[RED, GREEN, BLUE], [(0, 0, 0), (255, 255, 255), RED]]
    assert np.abs(result.astype(int) - expected).max() <= 2


@pytest.mark.parametrize(
    ("encoding", "step"), [("nv12", 9), ("nv21", 9), ("nv24", 18), ("nv24", 12)]
)
def test_planes_without_padding_are_taken_with_any_drivers_step(encoding: str, step: int) -> None:
    """sensor_msgs/Image demands step * rows bytes, but drivers count a plane's row differently."""
    data = np.arange(int(4 * 6 * ENCODINGS[encoding].rows), dtype=np.uint8).tobytes()
    expected = convert(encoding, 4, 6, 6, False, data, max_pixels=LIMIT)
    assert (convert(encoding, 4, 6, step, False, data, max_pixels=LIMIT) == expected).all()
    with raises_image_error("malformed", "data"):
        convert(encoding, 4, 6, step, False, data[:-1], max_pixels=LIMIT)


@pytest.mark.parametrize("padding", [1, 3, 64])
@pytest.mark.parametrize("encoding", sorted(set(ENCODINGS) - {"nv24"}))
def test_padding_changes_nothing(encoding: str, padding: int) -> None:
    kind = ENCODINGS[encoding]
    height, width = 6, 8
    content = np.random.default_rng(5).integers(
        0, 256, (int(height * kind.rows), width * kind.channels * kind.depth), np.uint8
    )
    padded = np.pad(content, ((0, 0), (0, padding)), constant_values=77)
    results = [
        convert(
            encoding,
            height,
            width,
            data.shape[1],
            False,
            data.tobytes(),
            max_pixels=LIMIT,
            mono16_white=65535,
        )
        for data in (content, padded)
    ]
    assert (results[0] == results[1]).all()
    assert results[0].shape == (height, width, 3)


def test_every_kind_of_buffer_is_taken() -> None:
    pixels = picture(4, 5)
    for data in (
        pixels.tobytes(),
        bytearray(pixels.tobytes()),
        memoryview(pixels.tobytes()),
        array.array("B", pixels.tobytes()),
        pixels.reshape(-1),
    ):
        assert (convert("rgb8", 4, 5, 15, False, data, max_pixels=LIMIT) == pixels).all()


@pytest.mark.parametrize(
    ("changes", "reason", "words"),
    [
        ({"height": 0}, "malformed", ("height", "zero")),
        ({"width": 0}, "malformed", ("width", "zero")),
        ({"step": 11}, "malformed", ("step", "11", "12")),
        ({"step": 0}, "malformed", ("step",)),
        ({"data": b""}, "malformed", ("data", "0 bytes")),
        ({"data": b"x" * 35}, "malformed", ("data", "35", "36")),
        ({"data": b"x" * 37}, "malformed", ("data", "37", "36")),
        ({"step": 2**31}, "malformed", ("step", "32 bits")),
        ({"width": 2**32 - 1, "height": 2**32 - 1}, "too_large", ("max_pixels",)),
        ({"max_pixels": 11}, "too_large", ("4x3", "11")),
    ],
)
def test_wrong_shapes_are_refused(
    changes: dict[str, Any], reason: str, words: tuple[str, ...]
) -> None:
    with raises_image_error(reason, *words):
        raw("rgb8", np.zeros((3, 4, 3), np.uint8), **changes)


@pytest.mark.parametrize(
    ("encoding", "shape", "word"),
    [
        ("uyvy", (2, 3, 2), "width"),
        ("nv12", (3, 4), "height"),
        ("nv21", (4, 3), "width"),
        ("bayer_rggb8", (2, 4), "height"),
    ],
)
def test_shapes_that_an_encoding_cannot_have(
    encoding: str, shape: tuple[int, ...], word: str
) -> None:
    with raises_image_error("malformed", word):
        raw(encoding, np.zeros(shape, np.uint8))


@given(
    encoding=st.sampled_from([*sorted(ENCODINGS), "32FC1", "?"]),
    height=st.integers(0, 9) | st.integers(0, 2**32 - 1),
    width=st.integers(0, 9) | st.integers(0, 2**32 - 1),
    step=st.integers(0, 80) | st.integers(0, 2**32 - 1),
    bigendian=st.booleans(),
    data=st.binary(max_size=700) | st.integers(0, 100).map(bytes),
    white=st.integers(0, 65535),
)
@settings(max_examples=500, deadline=None)
def test_convert_refuses_or_converts_whatever_comes(
    encoding: str,
    height: int,
    width: int,
    step: int,
    bigendian: bool,
    data: bytes,
    white: int,
) -> None:
    came_out = outcome(
        lambda: convert(
            encoding, height, width, step, bigendian, data, max_pixels=LIMIT, mono16_white=white
        )
    )
    assert came_out in ("malformed", "encoding", "too_large", (height, width, 3))


@given(
    encoding=st.sampled_from(sorted(ENCODINGS)),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    padding=st.integers(0, 5),
)
@settings(max_examples=300, deadline=None)
def test_convert_takes_every_well_formed_image(
    encoding: str, height: int, width: int, padding: int
) -> None:
    kind = ENCODINGS[encoding]
    if kind.layout in ("even", "half_planes"):
        width *= 2
    if kind.layout == "half_planes":
        height *= 2
    if kind.layout == "bayer":
        height, width = height + 2, width + 2
    rows = int(height * kind.rows)
    step = width * kind.channels * kind.depth + padding
    result = convert(
        encoding,
        height,
        width,
        step,
        False,
        bytes(rows * step),
        max_pixels=LIMIT,
        mono16_white=1,
    )
    assert result.shape == (height, width, 3)


def test_jpeg_in_color_and_gray() -> None:
    pixels = picture(48, 64)
    color = simplejpeg.encode_jpeg(pixels, quality=95, colorsubsampling="444")
    result = decode_compressed("rgb8; jpeg compressed bgr8", color, max_pixels=LIMIT)
    assert result.shape == (48, 64, 3)
    assert np.abs(result.astype(int) - pixels).mean() < 3
    gray = simplejpeg.encode_jpeg(np.full((8, 8, 1), 100, np.uint8), colorspace="GRAY")
    assert np.abs(decode_compressed("jpeg", gray, max_pixels=LIMIT).astype(int) - 100).max() <= 1


@pytest.mark.parametrize("share", [3, 20, 300, 0.5, 0.9, 0.99])
def test_truncated_jpeg_is_refused(share: float) -> None:
    data = simplejpeg.encode_jpeg(picture(120, 160))
    data = data[: int(share if share > 1 else share * len(data))]
    with raises_image_error("corrupt", "JPEG"):
        decode_compressed("jpeg", data, max_pixels=LIMIT)


def test_jpeg_with_endless_scans_is_refused() -> None:
    file = io.BytesIO()
    Image.fromarray(picture(64, 64)).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    assert decode_compressed("jpeg", data, max_pixels=LIMIT).shape == (64, 64, 3)
    last = data.rindex(b"\xff\xda")
    bomb = data[:last] + data[last:-2] * (MAX_SCANS + 1) + data[-2:]
    with raises_image_error("corrupt", "scans"):
        decode_compressed("jpeg", bomb, max_pixels=LIMIT)


def png(mode: str, size: tuple[int, int] = (5, 4), **options: Any) -> bytes:
    """A PNG file of one of Pillow's modes."""
    file = io.BytesIO()
    color: dict[str, float | tuple[float, ...]]
    color = {"P": 3, "1": 1, "L": 90, "LA": (90, 10), "RGB": (9, 60, 200)}
    Image.new(mode, size, color.get(mode, (9, 60, 200, 30))).save(file, "PNG", **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("RGB", (9, 60, 200)),
        ("RGBA", (9, 60, 200)),
        ("L", (90, 90, 90)),
        ("LA", (90, 90, 90)),
        ("1", (255, 255, 255)),
    ],
)
def test_png_of_8_bits_or_less(mode: str, expected: tuple[int, ...]) -> None:
    result = decode_compressed("rgb8; png compressed bgr8", png(mode), max_pixels=LIMIT)
    assert result.shape == (4, 5, 3)
    assert (result == expected).all()


def test_png_with_a_palette() -> None:
    image = Image.new("P", (5, 4), 1)
    image.putpalette([0, 0, 0, 9, 60, 200])
    file = io.BytesIO()
    image.save(file, "PNG", transparency=1)
    assert (decode_compressed("png", file.getvalue(), max_pixels=LIMIT) == (9, 60, 200)).all()


@pytest.mark.parametrize("channels", [3, 4])
def test_png_in_16_bit_color(channels: int) -> None:
    bgr = np.tile(np.array([0, 514, 65535, 9][:channels], np.uint16), (4, 5, 1))
    data = cv2.imencode(".png", bgr)[1].tobytes()
    assert (decode_compressed("png", data, max_pixels=LIMIT) == (255, 2, 0)).all()


def test_png_in_16_bit_gray_needs_white() -> None:
    data = cv2.imencode(".png", np.full((4, 5), 500, np.uint16))[1].tobytes()
    with raises_image_error("encoding", "mono16_white"):
        decode_compressed("16UC1; png compressed", data, max_pixels=LIMIT)
    assert (decode_compressed("png", data, max_pixels=LIMIT, mono16_white=1000) == 128).all()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def header(width: int, height: int, depth: int = 8, color: int = 2) -> bytes:
    return PNG_START + chunk(
        b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    )


def test_a_bomb_is_refused_fast_and_small() -> None:
    pixels = zlib.compress(bytes(50_000_000), 9)
    bomb = header(40_000, 40_000) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")

    def decode() -> None:
        decode_compressed("png", bomb, max_pixels=7680 * 4320)

    tracemalloc.start()
    with raises_image_error("too_large", "40000x40000", "max_pixels"):
        decode()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000
    fastest = 1.0
    for _ in range(5):
        start = time.thread_time()
        with pytest.raises(ImageError):
            decode()
        fastest = min(fastest, time.thread_time() - start)
    assert fastest < 0.01  # to inflate it takes fifty milliseconds


def test_a_jpeg_bomb_is_refused_before_decoding() -> None:
    data = bytearray(simplejpeg.encode_jpeg(picture(16, 16)))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 65500, 65500)
    with raises_image_error("too_large", "65500x65500"):
        decode_compressed("jpeg", bytes(data), max_pixels=7680 * 4320)


@pytest.mark.parametrize("depth", [8, 16])
def test_png_with_too_few_pixels_is_refused(depth: int) -> None:
    rows = bytes(3 * (1 + 4 * 3 * depth // 8))
    data = header(4, 4, depth) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    with raises_image_error("corrupt", "PNG"):
        decode_compressed("png", data, max_pixels=LIMIT)


@pytest.mark.parametrize(("depth", "color"), [(3, 2), (8, 5), (16, 3), (0, 0)])
def test_png_headers_against_the_standard_are_refused(depth: int, color: int) -> None:
    with raises_image_error("corrupt", "header"):
        decode_compressed("png", header(4, 4, depth, color), max_pixels=LIMIT)


def test_png_with_a_side_of_zero_is_refused() -> None:
    with raises_image_error("malformed", "zero"):
        decode_compressed("png", header(0, 4), max_pixels=LIMIT)


COLOR_ENCODINGS = (
    *("rgb8", "bgr8", "rgba8", "bgra8", "rgb16", "bgr16", "rgba16", "bgra16"),
    *("uyvy", "yuv422", "yuyv", "yuv422_yuy2"),
)


def sample(encoding: str) -> np.ndarray[Any, Any]:
    """An image [8, 12(, channels)] of one color in this encoding: R 200, G 100, B 50."""
    kind = ENCODINGS[encoding]
    if kind.layout == "bayer":
        values = {"r": 200, "g": 100, "b": 50}
        letters = encoding.split("_")[1]
        tile = [[values[letters[0]], values[letters[1]]], [values[letters[2]], values[letters[3]]]]
        pixels = np.tile(np.array(tile), (4, 6))
    elif kind.layout == "even":
        # BT.601, limited range: the color's Y 119, U 90, V 186.
        pair = (
            [[90, 119], [186, 119]] if encoding in ("uyvy", "yuv422") else [[119, 90], [119, 186]]
        )
        pixels = np.tile(np.array(pair), (8, 6, 1))
    elif kind.channels == 1:
        pixels = np.full((8, 12), 100)
    else:
        rgba = [200, 100, 50, 255] if encoding.startswith("rgb") else [50, 100, 200, 255]
        pixels = np.tile(np.array(rgba[: kind.channels]), (8, 12, 1))
    return pixels.astype(np.uint8) if kind.depth == 1 else (pixels * 257).astype(np.uint16)


def image_transport(encoding: str, codec: str, *, since_humble: bool = True) -> tuple[str, bytes]:
    """Make format and data as compressed_publisher.cpp writes them for the sample."""
    mat = sample(encoding)
    target = ""
    if encoding in COLOR_ENCODINGS and codec != "tiff":
        target = f"bgr{16 if mat.dtype == np.uint16 and codec == 'png' else 8}"
        rgb = raw(encoding, mat)
        mat = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
        mat = mat.astype(np.uint16) * 257 if target == "bgr16" else mat
    elif codec == "jpeg" and since_humble:
        target = "mono8"
        if mat.dtype == np.uint16:
            mat = (mat // 257).astype(np.uint8)
        if encoding.startswith("bayer"):  # by cv_bridge
            pattern = {"rggb": "BG", "bggr": "RG", "gbrg": "GR", "grbg": "GB"}[encoding[6:10]]
            mat = cv2.cvtColor(mat, getattr(cv2, f"COLOR_Bayer{pattern}2GRAY"))
    quality = [cv2.IMWRITE_JPEG_QUALITY, 95] if codec == "jpeg" else []
    data = cv2.imencode({"jpeg": ".jpg"}.get(codec, f".{codec}"), mat, quality)[1]
    return f"{encoding}; {codec} compressed {target}", data.tobytes()


FORMATS = [
    *((encoding, "jpeg", True) for encoding in (*COLOR_ENCODINGS, "mono8", "mono16")),
    *((encoding, "jpeg", False) for encoding in (*COLOR_ENCODINGS, "mono8", "8UC1", "8UC3")),
    *((f"bayer_{pattern}8", "jpeg", False) for pattern in ("rggb", "bggr", "gbrg", "grbg")),
    *((encoding, "png", True) for encoding in (*ENCODINGS,) if encoding[:2] != "nv"),
    *(
        (encoding, "tiff", True)
        for encoding, kind in ENCODINGS.items()
        if kind.layout in ("packed", "bayer")
    ),
]


@pytest.mark.parametrize(("encoding", "codec", "since_humble"), FORMATS)
def test_every_format_that_image_transport_writes(
    encoding: str, codec: str, since_humble: bool
) -> None:
    """The decoded colors are those of the raw image."""
    format_name, data = image_transport(encoding, codec, since_humble=since_humble)
    expected = raw(encoding, sample(encoding), mono16_white=65535)
    result = decode_compressed(format_name, data, max_pixels=LIMIT, mono16_white=65535)
    assert result.shape == (8, 12, 3)
    inner = np.s_[2:-2, 2:-2]
    # JPEG blurs a mosaic's fine pattern, and colors by some levels.
    tolerance = 30 if codec == "jpeg" and "bayer" in encoding else 4
    assert np.abs(result[inner].astype(int) - expected[inner]).max() <= tolerance


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_bayer_image_that_image_transport_has_made_gray_stays_gray(
    pattern: str, bits: int
) -> None:
    format_name, data = image_transport(f"bayer_{pattern}{bits}", "jpeg")
    assert format_name == f"bayer_{pattern}{bits}; jpeg compressed mono8"
    luminance = round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)
    result = decode_compressed(format_name, data, max_pixels=LIMIT)
    assert np.abs(result[2:-2, 2:-2].astype(int) - luminance).max() <= 4


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("suffix", ["jpeg compressed bgr8", "png compressed ", "png", "PNG"])
def test_a_mosaic_by_any_driver_is_demosaiced(suffix: str, bits: int) -> None:
    mosaic = sample("bayer_gbrg8")
    data = cv2.imencode(".png", mosaic)[1].tobytes()
    format_name = f"bayer_gbrg{bits}; {suffix}"
    result = decode_compressed(format_name, data, max_pixels=LIMIT)
    assert (result[2:-2, 2:-2] == (200, 100, 50)).all()
    color = cv2.imencode(".png", np.full((8, 12, 3), (50, 100, 200), np.uint8))[1].tobytes()
    result = decode_compressed(format_name, color, max_pixels=LIMIT)
    assert (result == (200, 100, 50)).all()


def test_a_mosaic_too_small_is_malformed() -> None:
    data = cv2.imencode(".png", np.zeros((2, 9), np.uint8))[1].tobytes()
    with raises_image_error("malformed", "mosaic"):
        decode_compressed("bayer_rggb8; png compressed ", data, max_pixels=LIMIT)


def zstd(encoding: str, height: int, width: int, step: int, data: bytes, **changes: Any) -> bytes:
    """Make zstd_image_transport's message, whose data are gzipped."""
    packer = zlib.compressobj(wbits=31)
    size = changes.get("size", len(encoding))
    head = struct.pack("<IIBII", height, width, 0, step, size) + encoding.encode()
    return head + packer.compress(data) + packer.flush()


def test_the_zstd_transport() -> None:
    pixels = picture(4, 5)
    data = zstd("rgb8", 4, 5, 15, pixels.tobytes())
    assert (decode_compressed("zstd", data, max_pixels=LIMIT) == pixels).all()
    padded = np.pad(pixels.reshape(4, 15), ((0, 0), (0, 3))).tobytes()
    data = zstd("rgb8", 4, 5, 18, padded)
    assert (decode_compressed("zstd", data, max_pixels=LIMIT) == pixels).all()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (zstd("rgb8", 4, 5, 15, bytes(59)), "corrupt"),
        (zstd("rgb8", 4, 5, 15, bytes(61)), "corrupt"),
        (zstd("rgb8", 4, 5, 15, bytes(60))[:-9], "corrupt"),
        (zstd("rgb8", 4, 5, 14, bytes(56)), "malformed"),
        (zstd("rgb8", 40_000, 40_000, 120_000, b""), "too_large"),
        (zstd("rgb8", 4, 5, 2**29, b""), "too_large"),
        (zstd("32FC1", 4, 5, 20, bytes(80)), "encoding"),
        (zstd("rgb8", 4, 5, 15, bytes(60), size=2**32 - 1), "encoding"),
        (b"rgb8", "corrupt"),
        (b"\x28\xb5\x2f\xfd" + bytes(30), "encoding"),
    ],
)
def test_broken_images_of_the_zstd_transport(data: bytes, reason: str) -> None:
    with raises_image_error(reason):
        decode_compressed("zstd", data, max_pixels=LIMIT)


@pytest.mark.parametrize(
    ("format_name", "words"),
    [
        ("16UC1; compressedDepth png", "depth"),
        ("32FC1; compressedDepth rvl", "depth"),
        ("16UC1; compressedDepth", "depth"),
        ("h264", "video"),
        ("theora", "video"),
        ("ffmpeg", "video"),
        ("avif", "not supported"),
    ],
)
def test_other_transports_are_refused_by_name(format_name: str, words: str) -> None:
    with raises_image_error("encoding", re.escape(format_name), words):
        decode_compressed(format_name, bytes(range(100)), max_pixels=LIMIT)


def test_compressed_depth_is_known_without_its_format() -> None:
    with raises_image_error("encoding", "depth"):
        decode_compressed("png", bytes(12) + png("L"), max_pixels=LIMIT)


def test_a_gif_is_no_camera_image() -> None:
    with raises_image_error("encoding", "GIF", "JPEG or PNG"):
        decode_compressed("gif", b"GIF89a" + bytes(30), max_pixels=LIMIT)


def test_foxglove_sends_webp() -> None:
    file = io.BytesIO()
    Image.new("RGB", (6, 4), (9, 60, 200)).save(file, "WEBP", lossless=True)
    assert (decode_compressed("webp", file.getvalue(), max_pixels=LIMIT) == (9, 60, 200)).all()


def test_the_empty_message_of_a_failed_encoder_is_told() -> None:
    """image_transport publishes it when cv_bridge cannot convert: an 8UC1 image as JPEG."""
    with raises_image_error("corrupt", "8UC1", "no data", "could not encode"):
        decode_compressed("8UC1; jpeg compressed mono8", b"", max_pixels=LIMIT)


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("jpeg", b"", "corrupt"),
        ("png", b"not a png", "corrupt"),
        ("rgb8; jpeg compressed bgr8", b"\xff\xd8", "corrupt"),
        ("webp", b"RIFF....WEBP", "corrupt"),
        ("webp", b"a text", "corrupt"),
        ("16UC1; compressedDepth png", bytes(12) + PNG_START, "encoding"),
        ("", b"", "corrupt"),
        ("h264", b"\x00\x00\x00\x01\x67", "encoding"),
        ("", b"nothing known", "encoding"),
    ],
)
def test_other_compressed_formats(name: str, data: bytes, reason: str) -> None:
    with raises_image_error(reason):
        decode_compressed(name, data, max_pixels=LIMIT)


FILES = [
    simplejpeg.encode_jpeg(picture(24, 32)),
    png("RGB", (32, 24)),
    png("P", (9, 9)),
    cv2.imencode(".png", np.arange(1200, dtype=np.uint16).reshape(20, 20, 3) * 50)[1].tobytes(),
]


@given(data=st.data())
@settings(max_examples=400, deadline=None)
def test_damaged_files_never_raise_anything_else(data: st.DataObject) -> None:
    file = bytearray(data.draw(st.sampled_from(FILES)))
    for at, bit in data.draw(
        st.lists(st.tuples(st.integers(0, len(file) - 1), st.integers(0, 7)), max_size=4)
    ):
        file[at] ^= 1 << bit
    del file[data.draw(st.just(len(file)) | st.integers(0, len(file))) :]
    came_out = outcome(
        lambda: decode_compressed("jpeg", bytes(file), max_pixels=100_000, mono16_white=9)
    )
    assert came_out in ("corrupt", "too_large", "encoding", "malformed") or came_out[2:] == (3,)


def fix_checksums(file: bytes) -> bytes:
    """A PNG whose chunks all have the right checksum, as far as its lengths can be followed."""
    parts, at = [file[:8]], 8
    while at + 12 <= len(file):
        end = at + 8 + int.from_bytes(file[at : at + 4], "big")
        if end + 4 > len(file):
            break
        parts += [file[at:end], struct.pack(">I", zlib.crc32(file[at + 4 : end]))]
        at = end + 4
    return b"".join([*parts, file[at:]])


def unpack(file: bytes) -> list[tuple[bytes, bytearray]]:
    """The chunks (name, data) of a PNG, its pixel data in one chunk and inflated."""
    chunks: list[tuple[bytes, bytearray]] = []
    at = 8
    while at < len(file):
        end = at + 8 + int.from_bytes(file[at : at + 4], "big")
        name = file[at + 4 : at + 8]
        if name == b"IDAT" and chunks[-1][0] == b"IDAT":
            chunks[-1][1].extend(file[at + 8 : end])
        else:
            chunks.append((name, bytearray(file[at + 8 : end])))
        at = end + 4
    return [
        (name, bytearray(zlib.decompress(data)) if name == b"IDAT" else data)
        for name, data in chunks
    ]


def pack(chunks: list[tuple[bytes, bytearray]]) -> bytes:
    """The PNG of these chunks: checksums and compression are right whatever the data are."""
    return PNG_START + b"".join(
        chunk(name, zlib.compress(bytes(data), 1) if name == b"IDAT" else bytes(data))
        for name, data in chunks
    )


def progressive_jpeg() -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture(17, 19)).save(file, "JPEG", progressive=True)
    return file.getvalue()


def mutate(data: bytearray, rng: random.Random) -> None:
    """Write one to three bytes over, most of them near the start, where the headers are."""
    for _ in range(rng.randint(1, 3)):
        within = len(data) if rng.random() < 0.5 else min(len(data), 700)
        data[rng.randrange(within)] = rng.choice((rng.randrange(256), 0, 0xFF, 0x14, 0x7F))


def test_twenty_thousand_mutated_files_never_raise_anything_else() -> None:
    jpegs = [
        *(
            simplejpeg.encode_jpeg(picture(24, 32), colorsubsampling=sampling)
            for sampling in ("444", "420", "411")
        ),
        simplejpeg.encode_jpeg(picture(9, 7)[:, :, :1].copy(), colorspace="GRAY"),
        progressive_jpeg(),
    ]
    transparent = png("P", (9, 9), transparency=3)
    pngs = [*FILES[1:], transparent, png("1", (9, 9)), png("LA", (7, 5)), png("RGBA", (7, 5))]
    rng = random.Random(20_000)
    counts: collections.Counter[object] = collections.Counter()
    for number in range(20_000):
        if number % 2:
            data = bytearray(rng.choice(jpegs))
            mutate(data, rng)
        elif number % 4:
            data = bytearray(rng.choice(pngs))
            mutate(data, rng)
            data = bytearray(fix_checksums(bytes(data)))
        else:
            chunks = unpack(rng.choice(pngs))
            mutate(rng.choice([inner for _, inner in chunks if inner]), rng)
            data = bytearray(pack(chunks))
        came_out = outcome(
            lambda file=bytes(data): decode_compressed(  # type: ignore[misc]
                "jpeg", file, max_pixels=20_000, mono16_white=9
            )
        )
        counts["png" if data[1:4] == b"PNG" else "jpeg", isinstance(came_out, str)] += 1
    # Of each kind many were decoded and many refused: the mutations reach past the headers.
    assert all(counts[kind, refusal] > 500 for kind in ("png", "jpeg") for refusal in (0, 1))


@given(
    width=st.integers(0, 40),
    height=st.integers(0, 40),
    depth=st.sampled_from([1, 2, 4, 8, 16, 32]),
    color=st.integers(0, 7),
    chunks=st.lists(
        st.tuples(
            st.sampled_from([b"IDAT", b"PLTE", b"tRNS", b"iCCP", b"zTXt", b"acTL", b"IHDR"]),
            st.binary(max_size=60) | st.integers(0, 20000).map(lambda n: zlib.compress(bytes(n))),
        ),
        max_size=4,
    ),
    extra=st.binary(max_size=8),
)
@settings(max_examples=400, deadline=None)
def test_invented_pngs_never_raise_anything_else(
    width: int,
    height: int,
    depth: int,
    color: int,
    chunks: list[tuple[bytes, bytes]],
    extra: bytes,
) -> None:
    body = b"".join(chunk(name, data) for name, data in chunks)
    file = header(width, height, depth, color) + body + chunk(b"IEND", b"") + extra
    came_out = outcome(lambda: decode_compressed("png", file, max_pixels=1000, mono16_white=65535))
    assert came_out in ("corrupt", "too_large", "malformed", (height, width, 3))


def test_equal_to_cv_bridge() -> None:
    """Compare with cv_bridge, which comes with a ROS 2 installation and not from PyPI."""
    cv_bridge = pytest.importorskip("cv_bridge", reason="cv_bridge comes with ROS 2 only")
    messages = pytest.importorskip("sensor_msgs.msg")
    unknown_to_it = set()
    for encoding, kind in ENCODINGS.items():
        shape = (6, 8 * kind.channels * kind.depth)
        data = np.random.default_rng(3).integers(0, 256, shape, np.uint8)
        message = messages.Image(height=6, width=8, encoding=encoding, step=shape[1])
        message.data.frombytes(data.tobytes())
        try:
            their_pixels = cv_bridge.CvBridge().imgmsg_to_cv2(message, "rgb8")
        except cv_bridge.CvBridgeError:
            unknown_to_it.add(encoding)
            continue
        our_pixels = convert(
            encoding, 6, 8, shape[1], False, message.data, max_pixels=LIMIT, mono16_white=65535
        )
        assert (our_pixels == their_pixels).all(), encoding
    # Names that it does not know, or refuses to see colors in. Hand-made pixels hold them above.
    unnamed_numeric = {name for name in unknown_to_it if not re.fullmatch(r"(8|16)UC[1-4]", name)}
    assert unnamed_numeric <= {"uyvy", "yuyv", "nv12", "nv21", "nv24"}
