"""Frame -> encoder input, held against plain arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from siglip_perception import contracts
from siglip_perception.preprocess import Preprocessor

CONTRACT = contracts.get("tabletop")
SIZE = CONTRACT.image_size


@pytest.fixture(scope="module")
def preprocess() -> Preprocessor:
    return Preprocessor(CONTRACT)


@pytest.mark.parametrize("shape", [(480, 640), (640, 480), (1, 1), (3, 2000), (224, 224)])
def test_every_shape_becomes_the_square(preprocess: Preprocessor, shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    square = preprocess(image)
    assert square.shape == (SIZE, SIZE, 3)
    assert square.dtype == np.uint8
    wanted = Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(square, np.asarray(wanted))


def test_the_whole_image_is_squashed_without_mirror_or_crop(preprocess: Preprocessor) -> None:
    image = np.zeros((400, 800, 3), dtype=np.uint8)
    image[:200, 400:] = (255, 0, 0)  # the top right quarter
    square = preprocess(image)
    assert square[10, -10].tolist() == [255, 0, 0]
    for row, column in ((10, 10), (-10, 10), (-10, -10)):
        assert square[row, column].tolist() == [0, 0, 0]


def test_squares_of_the_right_size_are_not_the_callers_memory(preprocess: Preprocessor) -> None:
    image = np.zeros((SIZE, SIZE, 3), dtype=np.uint8)
    image.flags.writeable = False
    assert not np.shares_memory(preprocess(image), image)


def test_normalising_is_exact_in_float32(preprocess: Preprocessor) -> None:
    square = np.random.default_rng(1).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    inputs = preprocess.normalise(square)
    for encoder in CONTRACT.encoders:
        mean, std = np.float32(encoder.mean), np.float32(encoder.std)
        wanted = (square.astype(np.float32) / np.float32(255) - mean) / std
        made = inputs[encoder.name]
        assert made.shape == (1, 3, SIZE, SIZE)
        assert made.is_contiguous()
        np.testing.assert_array_equal(made[0].numpy(), wanted.transpose(2, 0, 1))


def test_white_and_black_in_numbers(preprocess: Preprocessor) -> None:
    white = preprocess.normalise(np.full((SIZE, SIZE, 3), 255, dtype=np.uint8))
    assert white["siglip"].unique().tolist() == [1.0]
    assert white["dinov2"][0, 0, 0, 0].item() == pytest.approx((1 - 0.485) / 0.229)
    black = preprocess.normalise(np.zeros((SIZE, SIZE, 3), dtype=np.uint8))
    assert black["siglip"].unique().tolist() == [-1.0]


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 3), dtype=np.float32),
        np.zeros((4, 4), dtype=np.uint8),
        np.zeros((4, 4, 4), dtype=np.uint8),
        np.zeros((0, 4, 3), dtype=np.uint8),
    ],
)
def test_what_is_no_frame_is_refused(preprocess: Preprocessor, image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        preprocess(image)
