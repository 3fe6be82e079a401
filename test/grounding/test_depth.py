"""Depth: decoded, matched by stamp, measured on a made scene; whatever comes, objects go out."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from siglip_perception.grounding.depth import DepthError, decode, depth_of, locate
from siglip_perception.stream.depth_feed import DepthFeed
from siglip_perception.types import NOWHERE, Box, Depth, GroundedObject

WIDTH, HEIGHT = 64, 48
FX = 50.0


def image(pixels: np.ndarray, stamp: float = 0.0, **changes: Any) -> Any:
    """A depth message of uint16 millimeters or float32 meters."""
    fields = {
        "header": SimpleNamespace(
            stamp=SimpleNamespace(sec=int(stamp), nanosec=round(stamp % 1 * 1e9))
        ),
        "height": pixels.shape[0],
        "width": pixels.shape[1],
        "encoding": "16UC1" if pixels.dtype.kind == "u" else "32FC1",
        "is_bigendian": 0,
        "step": pixels.shape[1] * pixels.dtype.itemsize,
        "data": pixels.tobytes(),
    }
    return SimpleNamespace(**{**fields, **changes})


def info(width: int = WIDTH, height: int = HEIGHT, fx: float = FX) -> Any:
    k = [fx, 0.0, 32.0, 0.0, fx, 24.0, 0.0, 0.0, 1.0]
    return SimpleNamespace(width=width, height=height, k=k)


def meters(value: float = 1.0) -> np.ndarray:
    return np.full((HEIGHT, WIDTH), value, dtype=np.float32)


def test_millimeters_and_meters() -> None:
    raw = np.array([[0, 500], [1500, 65535]], dtype=np.uint16)
    np.testing.assert_allclose(decode(image(raw)), [[np.nan, 0.5], [1.5, 65.535]], rtol=1e-6)
    big = image(raw.byteswap(), is_bigendian=1)
    np.testing.assert_allclose(decode(big), decode(image(raw)))
    floats = np.array([[np.nan, -1.0], [np.inf, 0.25]], dtype=np.float32)
    np.testing.assert_allclose(decode(image(floats)), [[np.nan, np.nan], [np.nan, 0.25]])


def test_rows_may_be_padded() -> None:
    padded = np.zeros((2, 8), dtype=np.uint16)
    padded[:, :5] = 1000
    result = decode(image(padded, width=5))
    assert result.shape == (2, 5)
    assert (result == 1.0).all()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"encoding": "rgb8"}, "encoding"),
        ({"encoding": "32FC1"}, "malformed"),
        ({"step": 10}, "malformed"),
        ({"data": b"short"}, "malformed"),
        ({"height": 0, "data": b""}, "malformed"),
    ],
)
def test_a_bad_depth_image_has_its_reason(changes: dict[str, Any], reason: str) -> None:
    message = image(np.ones((HEIGHT, WIDTH), dtype=np.uint16), **changes)
    with pytest.raises(DepthError) as error:
        decode(message)
    assert error.value.reason == reason


@pytest.mark.parametrize(
    ("depth", "camera", "reason"),
    [
        (image(meters()), info(width=128), "size"),
        (image(meters()[:24]), info(), "size"),
        (image(meters()), info(fx=0.0), "info"),
        (image(meters()), info(fx=math.nan), "info"),
        (image(meters(math.nan)), info(), "empty"),
        (image(np.zeros((HEIGHT, WIDTH), np.uint16)), info(), "empty"),
    ],
)
def test_what_does_not_belong_together_has_its_reason(
    depth: Any, camera: Any, reason: str
) -> None:
    with pytest.raises(DepthError) as error:
        depth_of(depth, camera, WIDTH, HEIGHT)
    assert error.value.reason == reason


def found_in(mask: np.ndarray) -> GroundedObject:
    rows, cols = np.nonzero(mask)
    x, y = int(cols.min()), int(rows.min())
    box = Box(x, y, int(cols.max()) - x + 1, int(rows.max()) - y + 1)
    return GroundedObject("cup", 0.9, 2.2, box, float(mask.mean()))


def test_a_plate_before_a_wall_is_where_it_is() -> None:
    """20 x 16 pixels at 0.5 m; at its edge the wall shines through, and some pixels fly."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[10:26, 30:50] = 1
    scene = meters(2.0)
    scene[11:25, 31:49] = 0.5
    scene[15, 35:38] = np.nan
    scene[16, 40] = 0.05
    (item,) = locate([found_in(mask)], [mask], Depth(scene, FX, FX, 32.0, 24.0))
    # The middle pixels' centers: column 39.5, row 17.5.
    expected = ((39.5 - 32) * 0.5 / FX, (17.5 - 24) * 0.5 / FX, 0.5)
    assert item.position == pytest.approx(expected, abs=0.002)
    # Two pixels of edge are left out on each side, and 2 % at either end.
    assert item.extent == pytest.approx((15 * 0.5 / FX, 11 * 0.5 / FX, 0.0), abs=0.012)


def test_too_little_depth_leaves_nan() -> None:
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[10:26, 30:50] = 1
    scene = meters(math.nan)
    scene[12:14, 32:35] = 0.5
    (item,) = locate([found_in(mask)], [mask], Depth(scene, FX, FX, 32.0, 24.0))
    assert item.position is NOWHERE
    assert item.extent is NOWHERE


def test_a_thin_thing_has_a_place_too() -> None:
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[20:22, 10:50] = 1
    (item,) = locate([found_in(mask)], [mask], Depth(meters(1.0), FX, FX, 32.0, 24.0))
    assert item.position[2] == pytest.approx(1.0)
    assert item.extent[0] == pytest.approx(0.8, abs=0.06)


def test_the_nearest_stamp_is_taken_within_the_tolerance() -> None:
    feed = DepthFeed()
    feed.receive_info(info())
    for stamp, value in ((1.00, 1.0), (1.04, 2.0), (1.30, 3.0)):
        feed.receive_image(image(meters(value), stamp))
    near = feed.depth(1_030_000_000, WIDTH, HEIGHT, 0.05)
    assert near is not None
    assert near.meters[0, 0] == 2.0
    assert feed.depth(1_150_000_000, WIDTH, HEIGHT, 0.05) is None
    assert feed.view().counts == {"used": 1, "missing": 1}
    assert "0.110 s away" in feed.view().text
    feed.flush()
    assert feed.depth(1_030_000_000, WIDTH, HEIGHT, 0.05) is None
    assert feed.view().counts["missing"] == 2


def test_without_camera_info_nothing_is_measured_and_it_is_said() -> None:
    feed = DepthFeed()
    feed.receive_image(image(meters(), 1.0))
    assert feed.depth(1_000_000_000, WIDTH, HEIGHT, 0.05) is None
    view = feed.view()
    assert (view.counts, view.reason) == ({"info": 1}, "info")
    assert view.failed_at is not None


def test_a_picture_is_called_upside_down_once_a_few_depth_images_agree() -> None:
    rows = (np.arange(HEIGHT) - 24.0)[:, None] / FX
    table = np.broadcast_to(0.8 / (0.7 * rows + 0.7), (HEIGHT, WIDTH)).astype(np.float32)
    feed = DepthFeed()
    feed.receive_info(info())
    answers = []
    for number in range(61):
        is_turned = 0 < number < 60
        feed.receive_image(image(table[::-1].copy() if is_turned else table, number))
        assert feed.depth(number * 10**9, WIDTH, HEIGHT, 0.0) is not None
        answers.append(feed.view().uprightness)
    assert answers[29:31] == ["unknown", "upside down"]
    assert answers[60] == "upside down"  # one image does not take it back
