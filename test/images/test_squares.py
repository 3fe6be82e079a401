"""Pixel steps, each on its own and by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from siglip_perception import contracts
from siglip_perception.contracts.steps import Crop, Jpeg, Pad, ResizeStep, Step, Steps
from siglip_perception.images.geometry import Geometry
from siglip_perception.images.squares import DeviceSquare, SquareSpec, to_square

CPU = torch.device("cpu")
SMOOTH = np.stack(np.meshgrid(np.arange(200), np.arange(150)), axis=-1)
RAMP = np.concatenate([SMOOTH, SMOOTH[..., :1]], axis=-1).astype(np.uint8)
BLACK = (0, 0, 0)


def run(image: np.ndarray, size: int, *steps: Step) -> Any:
    return to_square(image, SquareSpec(steps, size))


def test_a_crop_of_an_area_keeps_the_root_of_it_of_each_side() -> None:
    image = np.arange(100, dtype=np.uint8).reshape(10, 10, 1).repeat(3, 2)
    kept = run(image, 5, Crop("share", area=0.25, offset="down"))
    assert kept[..., 0].tolist() == image[2:7, 2:7, 0].tolist()


@pytest.mark.parametrize(
    ("place", "rows", "columns"),
    [
        ("center", (2, 6), (0, 8)),
        ("top left", (0, 4), (0, 8)),
        ("bottom right", (4, 8), (0, 8)),
    ],
)
def test_a_pad_places_the_image(
    place: Any, rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    image = np.full((4, 8, 3), 200, dtype=np.uint8)
    square = run(image, 8, Pad("square", place, (1, 2, 3)))
    inside = square[slice(*rows), slice(*columns)]
    assert (inside == 200).all()
    assert (square == (1, 2, 3)).all(axis=-1).sum() == 32


def test_the_mean_as_a_fill_is_each_encoders_own() -> None:
    contract = replace(
        contracts.get("openvla-224"), pixels=(Pad("square", fill="mean"), ResizeStep("bicubic"))
    )
    fills = [SquareSpec.of(contract, spec).fill for spec in contract.encoders]
    assert fills == [(123, 116, 103), (127, 127, 127)]


def test_rounding_is_as_named() -> None:
    """Two pixels of 10 and 13 become one of 11.5."""
    image = np.array([[[10] * 3, [13] * 3]], dtype=np.uint8)
    levels = {
        rounding: run(
            image, 1, ResizeStep("bilinear", "jax", antialias=False, rounding=rounding)
        ).ravel()[0]
        for rounding in ("half up", "half even", "down", "none")
    }
    assert levels == {"half up": 12, "half even": 12, "down": 11, "none": 11.5}


def test_jpeg_is_skipped_only_for_an_image_of_the_encoders_size() -> None:
    step = Jpeg(unless_sized=True)
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    assert (run(image, 16, step) == image).all()
    assert (run(image, 8, step) != image).any()


@pytest.mark.numeric
@pytest.mark.parametrize("name", [n for n in contracts.names() if n != "tabletop"])
def test_a_device_gives_the_hosts_pixels(name: str) -> None:
    """On the CPU as a device: products in float64 beside the host's libraries."""
    contract = contracts.get(name)
    square = SquareSpec.of(contract, contract.encoders[0])
    host = to_square(RAMP, square)
    device = DeviceSquare.of(square, *RAMP.shape[:2], CPU)(torch.from_numpy(RAMP)).numpy()
    assert host.dtype == device.dtype
    difference = np.abs(host.astype(np.float64) - device)
    assert difference.max() <= (1e-3 if square.is_float else 1)
    assert np.count_nonzero(difference > 1e-3) <= host.size // 1000


FIT = st.builds(
    ResizeStep,
    st.sampled_from(("bilinear", "bicubic", "lanczos3")),
    to=st.just("fit"),
    ratio=st.sampled_from(("divide", "multiply")),
)
CROPS = st.builds(
    Crop,
    st.just("share"),
    st.floats(0.3, 1),
    offset=st.sampled_from(("half even", "down")),
    arithmetic=st.sampled_from(("pixels", "tensorflow")),
)
PADS = st.builds(
    Pad, place=st.sampled_from(("center", "top left", "bottom right")), fill=st.just(BLACK)
)
EXPAND = st.builds(Pad, st.just("square"), fill=st.just(BLACK))
LISTS = st.one_of(
    st.tuples(CROPS, FIT, PADS),
    st.tuples(EXPAND, CROPS, st.just(ResizeStep("bilinear"))),
    st.tuples(st.just(ResizeStep("bilinear", to="short side")), st.just(Crop())),
)


@settings(max_examples=60, deadline=None)
@given(LISTS, st.integers(80, 300), st.integers(80, 300), st.floats(0.2, 0.8), st.floats(0.2, 0.8))
def test_a_spot_is_where_the_geometry_says(
    steps: Steps, width: int, height: int, across: float, down: float
) -> None:
    """A bright spot, run through the steps, is found again at its camera pixel."""
    size = 112
    geometry = Geometry.of(steps, size, width, height)
    left, top, right, bottom = geometry.visible_region()
    x, y = left + across * (right - left), top + down * (bottom - top)
    ys, xs = np.mgrid[:height, :width] + 0.5
    radius = 3 / min(geometry.scale)
    spot = 255 * np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / (2 * radius**2))
    image = np.repeat(spot.astype(np.uint8)[..., None], 3, axis=2)
    square = to_square(image, SquareSpec(steps, size))[..., 0].astype(np.float64)
    rows, columns = np.nonzero(square > 0.8 * square.max())
    spot_x, spot_y = geometry.to_image(columns.mean() + 0.5, rows.mean() + 0.5)
    near = 1.5 / min(geometry.scale) + 1
    assert abs(spot_x - x) < near
    assert abs(spot_y - y) < near


@given(LISTS, st.integers(1, 3000), st.integers(1, 3000), st.floats(0, 1), st.floats(0, 1))
def test_a_point_comes_back(
    steps: Steps, width: int, height: int, across: float, down: float
) -> None:
    geometry = Geometry.of(steps, 224, width, height)
    left, top, right, bottom = geometry.visible_region()
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    x, y = across * width, down * height
    back = geometry.to_image(*geometry.to_square(x, y))
    assert back == pytest.approx((x, y), abs=1e-6 * max(width, height))
