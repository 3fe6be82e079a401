"""Mapping between camera pixels and the encoder's square, for every strategy."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from siglip_perception.contracts import Resize
from siglip_perception.contracts.steps import Pad, Steps, strategy
from siglip_perception.images.geometry import Geometry, spread
from siglip_perception.images.squares import SquareSpec, to_square


def filled(steps: Steps) -> Steps:
    """Return the steps with black paddings."""
    return tuple(
        replace(step, fill=(0, 0, 0)) if isinstance(step, Pad) else step for step in steps
    )


def geometry_of(resize: Resize, size: int, width: int, height: int) -> Geometry:
    return Geometry.of(strategy(resize, "bilinear"), size, width, height)


STRATEGIES = st.sampled_from(get_args(Resize))
SIDE = st.integers(1, 3000)


@given(STRATEGIES, st.integers(8, 518), SIDE, SIDE, st.floats(0, 1), st.floats(0, 1))
def test_a_point_comes_back_to_where_it_was(
    resize: Resize, size: int, width: int, height: int, across: float, down: float
) -> None:
    geometry = geometry_of(resize, size, width, height)
    x, y = across * width, down * height
    point = geometry.to_square(x, y)
    assert geometry.to_image(*point) == pytest.approx((x, y), abs=1e-6 * max(width, height))


@given(STRATEGIES, st.integers(8, 518), SIDE, SIDE)
def test_the_square_shows_the_image_and_nothing_else_of_it(
    resize: Resize, size: int, width: int, height: int
) -> None:
    left, top, right, bottom = geometry_of(resize, size, width, height).visible_region()
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    if resize in ("squash", "resize-pad"):
        assert (left, top, right, bottom) == pytest.approx((0, 0, width, height), abs=1e-6)


def test_a_letterbox_in_numbers() -> None:
    geometry = geometry_of("letterbox", 224, 640, 480)
    assert geometry.to_square(0, 0) == (0, 28)  # (640 - 480) / 2 * 224 / 640
    assert geometry.to_square(640, 480) == (224, 196)
    pad = geometry_of("resize-pad", 224, 640, 480)
    assert (pad.placements[0].size, pad.offset) == ((224, 168), (0, 28))
    crop = geometry_of("resize-crop", 224, 640, 480)
    assert crop.placements[0].size == (298, 224)
    assert crop.offset == (-37, 0)


@pytest.mark.parametrize("resize", get_args(Resize))
@pytest.mark.parametrize(("width", "height"), [(640, 480), (480, 640), (333, 222)])
def test_a_spot_in_the_camera_is_found_where_it_is(
    resize: Resize, width: int, height: int
) -> None:
    """Through the real resize: patches that a rectangle fills, spread out, cover its pixels."""
    size, patch = 224, 14
    image = np.zeros((height, width, 3), dtype=np.uint8)
    top, bottom, left, right = height // 3, height // 3 + 90, width // 2 - 60, width // 2 + 60
    image[top:bottom, left:right] = 255
    square = to_square(image, SquareSpec(filled(strategy(resize, "bilinear")), size))
    share = square[..., 0].reshape(16, patch, 16, patch).mean(axis=(1, 3)) / 255
    fine = spread(share.astype(np.float32), geometry_of(resize, size, width, height), patch) > 0.5
    assert fine.shape == (height, width)
    ys, xs = np.nonzero(fine)
    # Within the half of a patch, in camera pixels.
    near = max(width, height) / size * patch / 2 + 2
    spot_box = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
    assert spot_box == pytest.approx((left, top, right, bottom), abs=near)


def test_a_size_that_is_no_multiple_of_the_patch_leaves_a_border() -> None:
    """384 px in patches of 14: 27 patches cover 378 px; the map must not be stretched to 384."""
    geometry = geometry_of("squash", 384, 384, 384)
    grid = np.zeros((27, 27), dtype=np.float32)
    grid[:, 26] = 1
    fine = spread(grid, geometry, 14)
    # Half-way between the centers of the last two columns: at 26 * 14 = 364.
    assert fine[0, 363] < 0.5 < fine[0, 364]
    assert (fine[:, 371:] == 1).all()


def test_what_a_crop_does_not_show_is_nothing() -> None:
    geometry = geometry_of("resize-crop", 224, 400, 200)
    fine = spread(np.ones((16, 16), dtype=np.float32), geometry, 14)
    assert (fine[:, :100] == 0).all()
    assert (fine[:, 100:300] == 1).all()
    assert (fine[:, 300:] == 0).all()


@settings(max_examples=60, deadline=None)
@given(STRATEGIES, st.integers(60, 400), st.integers(60, 400), st.tuples(*[st.floats(0, 1)] * 4))
def test_a_box_and_its_mask_come_back_to_the_cameras_pixels(
    resize: Resize, width: int, height: int, share: tuple[float, float, float, float]
) -> None:
    """A rectangle of the camera, as the share of each patch that it covers, and back."""
    size, patch = 224, 14
    geometry = geometry_of(resize, size, width, height)
    left, top, right, bottom = geometry.visible_region()
    # Inside what the square shows, and at least three patches wide and high.
    limits = [3 * patch / scale for scale in geometry.scale]
    assume(right - left > limits[0] + 2 and bottom - top > limits[1] + 2)
    x, y = (
        left + share[0] * (right - left - limits[0]),
        top + share[1] * (bottom - top - limits[1]),
    )
    across = limits[0] + share[2] * (right - x - limits[0])
    down = limits[1] + share[3] * (bottom - y - limits[1])
    box = round(x), round(y), round(x + across), round(y + down)
    corners = (*geometry.to_square(*box[:2]), *geometry.to_square(*box[2:]))
    edges = np.arange(size // patch) * patch
    cover = [
        np.clip(np.minimum(edges + patch, high) - np.maximum(edges, low), 0, patch) / patch
        for low, high in ((corners[0], corners[2]), (corners[1], corners[3]))
    ]
    fine = spread(np.outer(cover[1], cover[0]).astype(np.float32), geometry, patch) > 0.5
    truth = np.zeros((height, width), dtype=bool)
    truth[box[1] : box[3], box[0] : box[2]] = True
    # No side is more than half a patch off.
    near = [int(np.ceil(patch / 2 / scale)) + 1 for scale in geometry.scale]
    rows, cols = np.nonzero(fine)
    assert box[0] - near[0] <= cols.min() <= box[0] + near[0]
    assert box[2] - near[0] <= cols.max() + 1 <= box[2] + near[0]
    assert box[1] - near[1] <= rows.min() <= box[1] + near[1]
    assert box[3] - near[1] <= rows.max() + 1 <= box[3] + near[1]
    assert np.count_nonzero(fine & truth) > 0.55 * np.count_nonzero(fine | truth)
