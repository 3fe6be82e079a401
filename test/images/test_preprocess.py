"""Frame to encoder input, compared with plain arithmetic."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from siglip_perception import contracts
from siglip_perception.contracts.steps import Pad, strategy
from siglip_perception.images.preprocess import EncoderInput, Preprocessor
from siglip_perception.images.squares import DeviceSquare, SquareSpec, to_square

CONTRACT = contracts.get("tabletop")
SIZE = CONTRACT.image_size
SQUASH = SquareSpec.squash("bicubic", SIZE)
DINOV2, SIGLIP = (EncoderInput.of(CONTRACT, spec) for spec in CONTRACT.encoders)
SHAPES = [(480, 640), (640, 480), (1, 1), (3, 2000), (224, 224), (97, 133), (224, 300)]


@pytest.fixture(scope="module")
def preprocess() -> Preprocessor:
    return Preprocessor([DINOV2, SIGLIP], torch.device("cpu"))


def recipe(
    resize: Any, interpolation: Any, size: int, fill: tuple[int, int, int] = (0, 0, 0)
) -> SquareSpec:
    steps = strategy(resize, interpolation)
    return SquareSpec(
        tuple(replace(step, fill=fill) if isinstance(step, Pad) else step for step in steps), size
    )


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


def resize(
    picture: Image.Image,
    size: tuple[int, int],
    resample: Image.Resampling = Image.Resampling.BICUBIC,
) -> Image.Image:
    """Pillow's resize as policies were trained on it, until Pillow 12: across, then down."""
    return picture.resize((size[0], picture.height), resample).resize(size, resample)


def test_a_tall_frame_is_scaled_across_first_whatever_pillow_does() -> None:
    image = noise(300, 200)
    across = np.asarray(Image.fromarray(image).resize((216, 300), Image.Resampling.BICUBIC))
    down = np.asarray(Image.fromarray(across).resize((216, 216), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(to_square(image, SQUASH), down)
    on_device = DeviceSquare.of(SQUASH, 300, 200, torch.device("cpu"))(torch.from_numpy(image))
    np.testing.assert_array_equal(on_device.numpy(), down)


@pytest.mark.parametrize("shape", SHAPES)
def test_squash_is_pillows_resize(shape: tuple[int, int]) -> None:
    image = noise(*shape)
    reference = resize(Image.fromarray(image), (SIZE, SIZE))
    np.testing.assert_array_equal(to_square(image, SQUASH), np.asarray(reference))


def prismatic_letterbox(image: np.ndarray, size: int, fill: tuple[int, int, int]) -> np.ndarray:
    """Pad, Resize(size) and CenterCrop(size) a PIL image as torchvision does."""
    picture = Image.fromarray(image)
    (width, height), longest = picture.size, max(picture.size)
    across, down = int((longest - width) / 2), int((longest - height) / 2)
    padded = Image.new("RGB", (width + 2 * across, height + 2 * down), fill)
    padded.paste(picture, (across, down))
    return shorter_side_and_crop(padded, size)


def shorter_side_and_crop(picture: Image.Image, size: int) -> np.ndarray:
    width, height = picture.size
    if width <= height:
        resized = resize(picture, (size, int(size * height / width)))
    else:
        resized = resize(picture, (int(size * width / height), size))
    margin = round((resized.width - size) / 2.0)
    top = round((resized.height - size) / 2.0)
    return np.asarray(resized.crop((margin, top, margin + size, top + size)))


def openpi_pad(image: np.ndarray, size: int) -> np.ndarray:
    """Fit, then pad: openpi's resize_with_pad, written from its description."""
    height, width = image.shape[:2]
    ratio = max(width / size, height / size)
    fit = int(width / ratio), int(height / ratio)
    resized = resize(Image.fromarray(image), fit, Image.Resampling.BILINEAR)
    square = Image.new("RGB", (size, size), 0)
    square.paste(resized, (max(0, int((size - fit[0]) / 2)), max(0, int((size - fit[1]) / 2))))
    return np.asarray(square)


@pytest.mark.parametrize("shape", [(480, 640), (640, 480), (97, 134), (133, 97), (300, 301)])
def test_every_strategy_is_its_references_bit_for_bit(shape: tuple[int, int]) -> None:
    image, fill = noise(*shape), (123, 116, 103)
    np.testing.assert_array_equal(
        to_square(image, recipe("letterbox", "bicubic", 224, fill)),
        prismatic_letterbox(image, 224, fill),
    )
    np.testing.assert_array_equal(
        to_square(image, recipe("resize-crop", "bicubic", 224)),
        shorter_side_and_crop(Image.fromarray(image), 224),
    )
    np.testing.assert_array_equal(
        to_square(image, recipe("resize-pad", "bilinear", 224)),
        openpi_pad(image, 224),
    )


@pytest.mark.parametrize("resize", ["squash", "letterbox", "resize-pad", "resize-crop"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_the_gpus_arithmetic_is_pillows_bit_for_bit(resize: Any, interpolation: Any) -> None:
    square = recipe(resize, interpolation, 224, (123, 116, 103))
    for shape in [(480, 640), (1080, 1920), *SHAPES[2:]]:
        image = noise(*shape)
        scale = DeviceSquare.of(square, *shape, torch.device("cpu"))
        resized = scale(torch.from_numpy(image)).numpy()
        np.testing.assert_array_equal(resized, to_square(image, square))


def test_frames_on_a_device_give_the_inputs_of_frames_on_the_host(
    preprocess: Preprocessor,
) -> None:
    images = [noise(480, 640), noise(300, 200)]
    device_inputs = preprocess.with_frames([torch.from_numpy(image) for image in images])
    for name, values in preprocess(images).items():
        assert torch.equal(device_inputs[name], values)


@pytest.mark.parametrize("resize", ["squash", "letterbox", "resize-pad", "resize-crop"])
@pytest.mark.parametrize("shape", [(1, 2_000_000), (2_000_000, 1), (3, 2000), (1, 17)])
def test_a_sliver_costs_no_memory_and_lies_where_it_belongs(
    resize: Any, shape: tuple[int, int]
) -> None:
    image = np.full((*shape, 3), 200, dtype=np.uint8)
    square = to_square(image, recipe(resize, "bicubic", 224, (1, 2, 3)))  # 12 TB, if padded whole
    assert square.shape == (224, 224, 3)
    middle = square[112, 112].tolist()
    assert middle == [200, 200, 200] or square[111, 111].tolist() == [200, 200, 200]
    padded = resize in ("letterbox", "resize-pad")
    assert ((square == (1, 2, 3)).all(axis=-1).mean() > 0.9) == padded


def test_the_whole_image_is_squashed_without_mirror_or_crop() -> None:
    image = np.zeros((400, 800, 3), dtype=np.uint8)
    image[:200, 400:] = (255, 0, 0)  # the top right quarter
    square = to_square(image, SQUASH)
    assert square[10, -10].tolist() == [255, 0, 0]
    for row, column in ((10, 10), (-10, 10), (-10, -10)):
        assert square[row, column].tolist() == [0, 0, 0]


def test_squares_of_the_right_size_are_not_the_callers_memory() -> None:
    image = np.zeros((SIZE, SIZE, 3), dtype=np.uint8)
    image.flags.writeable = False
    assert not np.shares_memory(to_square(image, SQUASH), image)


def test_normalizing_is_exact_in_float32(preprocess: Preprocessor) -> None:
    square = np.random.default_rng(1).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    inputs = preprocess([square, square[::-1]])
    for encoder_input in (DINOV2, SIGLIP):
        mean, std = np.array([encoder_input.mean, encoder_input.std], np.float32)
        reference = (square.astype(np.float32) / np.float32(255) - mean) / std
        values = inputs[encoder_input]
        assert values.shape == (2, 3, SIZE, SIZE)
        np.testing.assert_array_equal(values[1].numpy(), reference[::-1].transpose(2, 0, 1))
        assert values.is_contiguous()
        np.testing.assert_array_equal(values[0].numpy(), reference.transpose(2, 0, 1))


def test_white_and_black_in_numbers(preprocess: Preprocessor) -> None:
    white = preprocess([np.full((SIZE, SIZE, 3), 255, dtype=np.uint8)])
    assert white[SIGLIP].unique().tolist() == [1.0]
    assert white[DINOV2][0, 0, 0, 0].item() == pytest.approx((1 - 0.485) / 0.229)
    black = preprocess([np.zeros((SIZE, SIZE, 3), dtype=np.uint8)])
    assert black[SIGLIP].unique().tolist() == [-1.0]


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
        preprocess([image])
