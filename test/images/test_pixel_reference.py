"""The pixels' fingerprint, and what a stream is said to differ in from a training set."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from siglip_perception.errors import PerceptionError
from siglip_perception.images.fingerprint import FIELDS, pixel_fingerprint
from siglip_perception.images.pixel_reference import (
    WINDOW_SECONDS,
    PixelReference,
    StreamCheck,
)
from siglip_perception.scenes.drawing import render
from siglip_perception.scenes.samples.items import through_jpeg
from siglip_perception.scenes.scenes import animate, sample_scene
from siglip_perception.types import FloatArray, UInt8Array

WIDTH, HEIGHT = 320, 240


def field(image: UInt8Array, name: str) -> float:
    return float(pixel_fingerprint(image)[FIELDS.index(name)])


def noise(height: int = 96, width: int = 128) -> UInt8Array:
    rng = np.random.default_rng(0)
    return rng.integers(40, 216, (height, width, 3), np.uint8)


def scene(seed: int) -> UInt8Array:
    """A frame of a camera: a generated scene through JPEG."""
    rng = np.random.default_rng(seed)
    image = render(sample_scene(rng, int(rng.integers(2, 6))), WIDTH, HEIGHT).image
    return through_jpeg(image, 90)


def in_stops(image: UInt8Array, stops: float) -> UInt8Array:
    """The image at another exposure, in linear light."""
    x = image / 255
    linear = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4) * 2.0**stops
    y = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    output: UInt8Array = (255 * y + 0.5).clip(0, 255).astype(np.uint8)
    return output


def swapped(image: UInt8Array) -> UInt8Array:
    return np.ascontiguousarray(image[:, :, ::-1])


def blurred(image: UInt8Array) -> UInt8Array:
    """Through half of its size and back, as a resize with antialias leaves it."""
    half = cv2.resize(image, (WIDTH // 2, HEIGHT // 2), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(half, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR))


def banded(image: UInt8Array) -> UInt8Array:
    output = image.copy()
    output[:24] = output[-24:] = 0
    return output


def squashed(image: UInt8Array) -> UInt8Array:
    return np.asarray(cv2.resize(image, (HEIGHT, HEIGHT), interpolation=cv2.INTER_CUBIC))


FAULTS: dict[str, tuple[Callable[[UInt8Array], UInt8Array], str, str]] = {
    "swapped": (swapped, "channels", "channels look swapped"),
    "darker": (lambda image: in_stops(image, -1.4), "darker", "darker by 1.4 stops"),
    "brighter": (lambda image: in_stops(image, 1.6), "brighter", "brighter by 1."),
    "blurred": (blurred, "blurry", "blurrier than the training set: resized with antialias"),
    "banded": (banded, "band", "a black band that training did not have (10 % at the top"),
    "squashed": (squashed, "aspect", "1.00 and was 1.33"),
    "compressed": (lambda image: through_jpeg(image, 15), "jpeg", "JPEG blocks"),
}


@pytest.fixture(scope="module")
def stream() -> list[UInt8Array]:
    """One camera over one table, as in a policy's own data."""
    rng = np.random.default_rng(3)
    frames = animate(sample_scene(rng, 4), rng, 24)
    return [through_jpeg(render(frame, WIDTH, HEIGHT).image, 90) for frame in frames]


@pytest.fixture(scope="module")
def reference(stream: list[UInt8Array]) -> PixelReference:
    return PixelReference.of(pixel_fingerprint(image) for image in stream[::2])


def test_brightness_is_in_stops_below_white() -> None:
    assert field(np.full((32, 32, 3), 255, np.uint8), "brightness") == pytest.approx(0, abs=1e-3)
    image = noise()
    darker = field(in_stops(image, -1.0), "brightness") - field(image, "brightness")
    assert darker == pytest.approx(-1.0, abs=0.02)


def test_hues_are_shares_of_color() -> None:
    colors = np.array([(200, 0, 0), (200, 0, 0), (0, 0, 200), (0, 200, 200)], np.uint8)
    image = colors[np.random.default_rng(0).integers(0, 4, (96, 128))]
    assert field(image, "red") == pytest.approx(0.5, abs=0.05)
    assert field(image, "blue") == pytest.approx(0.25, abs=0.05)
    assert field(image, "cyan") == pytest.approx(0.25, abs=0.05)
    gray = np.full((48, 64, 3), 90, np.uint8)
    assert [field(gray, name) for name in FIELDS[3:9]] == [0.0] * 6


def test_an_exchange_of_red_and_blue_exchanges_the_colors() -> None:
    image = scene(1)
    assert field(image, "red_blue") == pytest.approx(-field(swapped(image), "red_blue"), abs=1e-5)
    assert field(image, "yellow") == pytest.approx(field(swapped(image), "cyan"), abs=1e-5)


def test_a_sharp_edge_a_ramp_and_noise_have_their_sharpness() -> None:
    edge = np.zeros((64, 64, 3), np.uint8)
    edge[:, 32:] = 200
    assert field(edge, "sharpness_across") == pytest.approx(-1, abs=0.05)
    ramp = np.repeat((4 * np.arange(64, dtype=np.uint8))[None, :, None], 64, 0).repeat(3, 2)
    assert field(ramp, "sharpness_across") == pytest.approx(-2, abs=0.1)
    assert field(noise(), "sharpness_across") == pytest.approx(0, abs=0.1)
    assert field(blurred(scene(1)), "sharpness_down") < field(scene(1), "sharpness_down") - 0.1


def test_blocks_are_counted_from_the_frames_own_corner() -> None:
    """A band of 20 pixels must not move the grid of JPEG's blocks."""
    image = scene(2)
    compressed = through_jpeg(image, 10)
    assert field(compressed, "blocks_across") > field(image, "blocks_across") + 0.5
    compressed[:, :20] = 0
    assert field(compressed, "blocks_across") > field(image, "blocks_across") + 0.5


@pytest.mark.parametrize("level", [0, 127, 255])
def test_bands_are_measured_at_each_side(level: int) -> None:
    image = noise(100, 200)
    image[:10] = level
    image[:, -50:] = level
    shares = [field(image, f"band_{side}") for side in ("top", "bottom", "left", "right")]
    assert shares == pytest.approx([0.1, 0, 0, 0.25], abs=1e-6)
    assert field(image, "band_level") == pytest.approx(level / 255, abs=1e-3)
    image = noise(100, 200)
    assert [field(image, f"band_{side}") for side in ("top", "left")] == [0, 0]


@pytest.mark.parametrize("shape", [(1, 1), (2, 500), (500, 2), (7, 9), (31, 33)])
@pytest.mark.parametrize("level", [None, 0, 255])
def test_any_frame_has_finite_numbers(shape: tuple[int, int], level: int | None) -> None:
    image = noise(*shape) if level is None else np.full((*shape, 3), level, np.uint8)
    numbers = pixel_fingerprint(image)
    assert numbers.shape == (len(FIELDS),)
    assert numbers.dtype == np.float32
    assert np.isfinite(numbers).all()


def test_an_honest_stream_raises_nothing(
    stream: list[UInt8Array], reference: PixelReference
) -> None:
    check = StreamCheck(reference)
    for number, image in enumerate(stream[1::2]):
        assert check.add(number * 10**8, pixel_fingerprint(image)) == ()


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_named_within_three_seconds(
    fault: str, stream: list[UInt8Array], reference: PixelReference
) -> None:
    """The stream is honest for 2 s; then it is not, at 5 frames a second."""
    change, kind, words = FAULTS[fault]
    check = StreamCheck(reference)
    for number in range(10):
        assert check.add(number * 2 * 10**8, pixel_fingerprint(stream[number])) == ()
    for number in range(10, 10 + 15):
        image = change(stream[number % len(stream)])
        alarms = check.add(number * 2 * 10**8, pixel_fingerprint(image))
    assert [alarm.kind for alarm in alarms] == [kind]
    assert words in alarms[0].text
    # And silent again once the fault has gone.
    for number in range(25, 25 + 15):
        alarms = check.add(number * 2 * 10**8, pixel_fingerprint(stream[number % len(stream)]))
    assert alarms == ()


def test_a_jump_back_in_time_begins_anew(
    stream: list[UInt8Array], reference: PixelReference
) -> None:
    check = StreamCheck(reference)
    for number in range(10, 14):
        check.add(number * 10**9, pixel_fingerprint(banded(stream[0])))
    assert check.alarms
    assert check.add(0, pixel_fingerprint(stream[0])) == ()


def test_a_slow_camera_is_judged_too(stream: list[UInt8Array], reference: PixelReference) -> None:
    """One frame in ten seconds: the last three, whatever their age."""
    check = StreamCheck(reference)
    for number in range(3):
        assert check.alarms == ()
        check.add(number * 10**10, pixel_fingerprint(banded(stream[number])))
    assert [alarm.kind for alarm in check.alarms] == ["band"]
    assert WINDOW_SECONDS < 10


def test_training_with_bands_misses_them(stream: list[UInt8Array]) -> None:
    padded = PixelReference.of(pixel_fingerprint(banded(image)) for image in stream)
    (alarm,) = padded.compare(np.stack([pixel_fingerprint(image) for image in stream[:3]]))
    assert alarm.kind == "no_band"
    assert "10 % at the top" in alarm.text


def test_light_is_compared_with_pictures_of_the_same_colors() -> None:
    """A dark and a bright table: the bright one, darkened, is no darker than the set."""
    dark, bright = noise(), noise()
    dark[..., 2] //= 3  # yellow and dark
    bright[..., 0] //= 3  # cyan and bright
    dark = in_stops(dark, -1.5)
    pictures = [pixel_fingerprint(image) for image in (dark, bright) for _ in range(6)]
    reference = PixelReference.of(pictures)
    live = pixel_fingerprint(in_stops(bright, -1.2))[None]
    assert float(live[0, 0]) > float(reference.low[0])
    (alarm,) = reference.compare(live)
    assert alarm.text == "darker by 1.2 stops than the training set"
    assert reference.compare(pixel_fingerprint(in_stops(bright, -0.6))[None]) == ()


def test_a_reference_survives_its_file(
    tmp_path: Path, stream: list[UInt8Array], reference: PixelReference
) -> None:
    reference.write(tmp_path / "reference.json", "data/mine")
    again = PixelReference.read(tmp_path / "reference.json")
    assert again.pictures == reference.pictures == 12
    np.testing.assert_allclose(again.median, reference.median, atol=1e-4)
    window = np.stack([pixel_fingerprint(swapped(image)) for image in stream[:5]])
    assert again.compare(window) == reference.compare(window)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"format": 2}',
        '{"format": 1, "pictures": 9, "fields": {}, "examples": []}',
        '{"format": 1, "pictures": "many", "fields": 5, "examples": 3}',
    ],
)
def test_a_file_that_is_no_reference_is_refused_in_a_sentence(
    tmp_path: Path, content: str
) -> None:
    path = tmp_path / "reference.json"
    path.write_text(content)
    with pytest.raises(PerceptionError, match=r"reference\.json is .*fingerprint.*\.$"):
        PixelReference.read(path)


def test_a_reference_with_a_field_out_of_order_is_refused(
    tmp_path: Path, reference: PixelReference
) -> None:
    path = tmp_path / "reference.json"
    reference.write(path, "mine")
    content = json.loads(path.read_text())
    content["fields"]["brightness"] = [1, 0, -1]
    path.write_text(json.dumps(content))
    with pytest.raises(PerceptionError, match="write it again"):
        PixelReference.read(path)
    with pytest.raises(PerceptionError, match=r"Cannot read the pixel reference .*missing"):
        PixelReference.read(tmp_path / "missing.json")


def test_too_few_pictures_are_no_reference() -> None:
    with pytest.raises(PerceptionError, match="at least 8 pictures, and there are 2"):
        PixelReference.of([pixel_fingerprint(noise())] * 2)


@pytest.mark.slow
def test_other_scenes_and_lights_raise_no_false_alarm() -> None:
    """At most 1 % of the windows: other scenes, tables and lights than those of the reference."""
    prints: list[FloatArray] = [pixel_fingerprint(scene(seed)) for seed in range(240)]
    reference = PixelReference.of(prints[:120])
    false = [seed for seed in range(120, 240) if reference.compare(prints[seed][None])]
    assert len(false) <= 1, false
