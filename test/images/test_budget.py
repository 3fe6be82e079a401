"""The budget of work for pictures: what costs far more than its pixels is refused undecoded."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from siglip_perception.errors import ImageError
from siglip_perception.images import jpeg, png
from siglip_perception.images.decode import decode_compressed
from siglip_perception.images.files import decode_file

SIDE = 64
PIXELS = SIDE * SIDE


def encoded(kind: str, **options: object) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, kind, **options)
    return file.getvalue()


def refuse_decoding(*_: object, **__: object) -> None:
    pytest.fail("it was decoded")


@pytest.mark.parametrize(
    ("kind", "options", "work"),
    [
        ("JPEG", {}, 1.0),
        ("JPEG", {"progressive": True}, 1.54),
        ("PNG", {}, 1.8),
        ("TIFF", {}, 2.0),
        ("WebP", {}, 3.5),
    ],
)
def test_a_format_that_costs_more_may_have_fewer_pixels(
    kind: str, options: dict[str, bool], work: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encoded(kind, **options)
    most = round(work * PIXELS * 1.02)
    assert decode_compressed(kind, data, max_pixels=most, max_work=most).pixels.shape[0] == SIDE
    monkeypatch.setattr(png, "_by_pillow", refuse_decoding)
    monkeypatch.setattr(jpeg, "_decode", refuse_decoding)
    with pytest.raises(ImageError, match=f"the {kind} of 64x64 takes as long to") as caught:
        decode_compressed(kind, data, max_pixels=most, max_work=round(work * PIXELS * 0.98))
    assert caught.value.reason == "too_large"


def test_a_zipped_image_has_the_budget_too() -> None:
    head = struct.pack("<IIBII", SIDE, SIDE, 0, 3 * SIDE, 4) + b"rgb8"
    data = head + zlib.compress(bytes(3 * PIXELS))
    assert decode_compressed("zstd", data, max_pixels=PIXELS).pixels.shape == (SIDE, SIDE, 3)
    with pytest.raises(ImageError, match="the zstd image of 64x64 takes as long"):
        decode_compressed("zstd", data, max_pixels=PIXELS, max_work=PIXELS // 2)


def with_empty_chunks(count: int) -> bytes:
    file = encoded("PNG")
    start = file.index(b"IDAT") - 4
    empty = b"\0\0\0\0IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    return file[:start] + count * empty + file[start:]


def test_chunks_without_number_are_refused() -> None:
    assert decode_file(with_empty_chunks(900), "name").pixels.shape == (SIDE, SIDE, 3)
    with pytest.raises(ImageError, match="far more chunks than its pixels need") as caught:
        decode_file(with_empty_chunks(2000), "name")
    assert caught.value.reason == "too_large"


def test_a_large_jpeg_is_not_decoded_three_times_to_mend_it() -> None:
    data = encoded("JPEG", restart_marker_rows=1)
    middle = data.index(b"\xff\xd1")
    stray = data[:middle] + b"stray bytes" + data[middle:]
    assert decode_compressed("jpeg", stray, max_pixels=PIXELS).repairs == (jpeg.REPAIR,)
    assert decode_compressed("jpeg", stray, max_pixels=PIXELS, max_work=3 * PIXELS).repairs
    with pytest.raises(ImageError, match="it is too large to be mended"):
        decode_compressed("jpeg", stray, max_pixels=PIXELS, max_work=2 * PIXELS)


def test_scans_that_no_encoder_writes_cost_most() -> None:
    data = encoded("JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    many = data[:-2] + 60 * data[start:-2] + data[-2:]
    with pytest.raises(ImageError, match="takes as long to decode as a JPEG of") as caught:
        decode_compressed("jpeg", many, max_pixels=8 * PIXELS, max_work=8 * PIXELS)
    assert caught.value.reason == "too_large"
