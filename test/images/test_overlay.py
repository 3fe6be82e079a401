"""The overlay picture, checked by its pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFont

from siglip_perception.images.overlay import FONT, PALETTE, draw, printable
from siglip_perception.types import Box, GroundedObject, Grounding, Role, UInt8Array

GREY = 90
GOLDENS = Path(__file__).parent / "goldens"


def picture(height: int = 240, width: int = 320) -> UInt8Array:
    return np.full((height, width, 3), GREY, dtype=np.uint8)


def make_object(phrase: str, box: Box, role: Role = Role.TARGET) -> GroundedObject:
    return GroundedObject(phrase, 0.91, 2.3, box, 0.1, role)


def grounding(
    phrases: tuple[str, ...], objects: tuple[GroundedObject, ...], mask: UInt8Array | None = None
) -> Grounding:
    presence = (0.5,) * len(phrases)
    return Grounding("find it", 1, phrases, presence, objects, "tabletop", mask)


def is_color(image: UInt8Array, color: tuple[int, int, int]) -> np.ndarray:
    return np.asarray((image == np.array(color)).all(axis=2))


def test_the_box_is_outlined_in_the_phrases_color_and_the_inside_is_left_alone() -> None:
    box = Box(100, 90, 80, 60)
    canvas = draw(picture(), grounding(("cup", "ball"), (make_object("ball", box),)))
    is_lit = is_color(canvas, PALETTE[1])
    for row, column in ((90, 140), (149, 140), (120, 100), (120, 179)):
        assert is_lit[row, column]
    assert (canvas[100:140, 110:170] == GREY).all()
    assert (canvas[155:, :] == GREY).all()
    assert (canvas[95:145, :95] == GREY).all()
    assert (canvas[95:145, 185:] == GREY).all()


def test_the_mask_is_outlined_along_its_contour() -> None:
    mask = np.zeros((240, 320), dtype=np.uint8)
    rows, columns = np.mgrid[:240, :320]
    inside = (rows - 150) ** 2 + (columns - 200) ** 2 <= 40**2
    mask[inside] = 1
    single = (make_object("cup", Box(160, 110, 81, 81)),)
    canvas = draw(picture(), grounding(("cup",), single, mask))
    # Below the label, and without a box.
    difference = (canvas != GREY).any(axis=2) & (rows > 130)
    distance = np.hypot(rows - 150, columns - 200)
    assert difference.sum() > 200
    assert np.abs(distance[difference] - 40).max() < 4
    assert is_color(canvas, PALETTE[0])[150 - 28, 200 - 28]


def test_the_caller_keeps_its_image() -> None:
    image = picture()
    image.flags.writeable = False
    canvas = draw(image, grounding(("cup",), (make_object("cup", Box(0, 0, 50, 50)),)))
    assert (image == GREY).all()
    assert canvas.shape == image.shape
    assert canvas.dtype == np.uint8
    assert canvas.flags.writeable


def test_what_was_not_found_is_listed_in_its_color_and_what_was_found_is_not() -> None:
    no_objects = draw(picture(), grounding(("cup", "ball"), ()))
    assert is_color(no_objects, PALETTE[0])[:60].any()
    assert is_color(no_objects, PALETTE[1])[:60].any()
    assert (no_objects[100:] == GREY).all()
    single = draw(
        picture(), grounding(("cup", "ball"), (make_object("cup", Box(100, 150, 60, 60)),))
    )
    assert not is_color(single, PALETTE[0])[:100].any()
    assert is_color(single, PALETTE[1])[:60].any()


def test_korean_is_drawn_with_its_own_shapes() -> None:
    def label(phrase: str) -> UInt8Array:
        return draw(picture(), grounding((phrase,), (make_object(phrase, Box(60, 120, 200, 80)),)))

    font = ImageFont.truetype(str(FONT), 24)
    no_glyph = bytes(font.getmask("\U0001f600"))
    shapes = {
        bytes(font.getmask(syllable)) for syllable in "빨간컵을집어라접시위에놓아파란공초록병"
    }
    assert len(shapes) == 19
    assert no_glyph not in shapes
    assert (label("빨간 컵") != label("파란 공")).any()


def test_every_syllable_of_ks_x_1001_is_in_the_font() -> None:
    font = ImageFont.truetype(str(FONT), 16)
    no_glyph = bytes(font.getmask("\U0001f600"))
    syllables = [
        bytes([high, low]).decode("euc_kr")
        for high in range(0xB0, 0xC9)
        for low in range(0xA1, 0xFF)
    ]
    assert len(syllables) == 2350
    assert all(bytes(font.getmask(syllable)) != no_glyph for syllable in syllables)


@pytest.mark.parametrize("shape", [(1, 1), (8, 5), (30, 2000), (1080, 1920)])
def test_every_size_of_image_is_drawn(shape: tuple[int, int]) -> None:
    height, width = shape
    object_mask = make_object(
        "a phrase that is much longer than the image is wide", Box(0, 0, width, height)
    )
    mask = np.ones(shape, dtype=np.uint8)
    canvas = draw(
        picture(height, width), grounding((object_mask.phrase, "cup"), (object_mask,), mask)
    )
    assert canvas.shape == (height, width, 3)


@pytest.mark.parametrize("box", [Box(0, 0, 40, 20), Box(290, 0, 30, 30), Box(0, 220, 320, 20)])
def test_labels_stay_inside_the_image(box: Box) -> None:
    canvas = draw(picture(), grounding(("cup",), (make_object("cup", box),)))
    no_outline = draw(picture(), grounding((), ()))
    label = is_color(canvas, PALETTE[0]) & ~is_color(no_outline, PALETTE[0])
    inside = np.zeros_like(label)
    inside[box.y : box.y + box.height, box.x : box.x + box.width] = True
    # More of the color than the frame of the box has: the label's plate is there.
    assert label.sum() > 2 * 3 * (box.width + box.height) or (label & ~inside).sum() > 500


def test_the_panel_gives_way_to_what_was_found() -> None:
    top = make_object("ball", Box(20, 0, 250, 60))
    canvas = draw(picture(), grounding(("cup", "ball"), (top,)))
    assert not is_color(canvas, PALETTE[0])[:100].any()
    assert is_color(canvas, PALETTE[0])[200:].any()


def test_labels_do_not_hide_one_another() -> None:
    """Two nested boxes: both labels are entirely visible."""
    outer, inner = (
        make_object("outer", Box(60, 100, 160, 100)),
        make_object("inner", Box(62, 100, 150, 60)),
    )
    two_labels = draw(picture(), grounding(("outer", "inner"), (outer, inner)))
    for number, item in enumerate((outer, inner)):
        plate = is_color(two_labels, PALETTE[number])
        rows = plate.sum(axis=1)
        frame = 2 * 2 + 2 * item.box.width
        assert rows.max() < frame
        assert plate.sum() > 2 * 2 * (item.box.width + item.box.height) + 500


def test_number_distance_and_loss_are_told() -> None:
    plain = make_object("cup", Box(100, 120, 80, 60))

    def label(**changes: Any) -> UInt8Array:
        return draw(picture(), grounding(("cup",), (replace(plain, **changes),)))

    pictures = [label(), label(id=7), label(position=(0.1, 0.2, 0.75)), label(lost=0.2)]
    for i, first in enumerate(pictures):
        assert all((first != second).any() for second in pictures[:i])


def test_what_is_lost_is_dashed_and_listed_as_not_found() -> None:
    lost = replace(make_object("cup", Box(100, 140, 100, 80)), lost=0.2)
    lit = is_color(draw(picture(), grounding(("cup",), (lost,))), PALETTE[0])
    sides = lit[140:220, 100:103].any(axis=1)
    assert 0.3 < sides.mean() < 0.8  # gaps between the dashes
    assert lit[:60].any()  # in the panel


def test_what_is_lost_is_not_drawn_where_the_frame_shows_it() -> None:
    present = replace(make_object("cup", Box(100, 120, 80, 60)), id=2)
    twin = replace(make_object("cup", Box(106, 124, 80, 60)), id=1, lost=0.2)
    elsewhere = replace(twin, box=Box(10, 180, 60, 40))
    alone = draw(picture(), grounding(("cup",), (present,)))
    np.testing.assert_array_equal(draw(picture(), grounding(("cup",), (present, twin))), alone)
    assert (draw(picture(), grounding(("cup",), (present, elsewhere))) != alone).any()


def test_one_thing_of_two_phrases_has_one_outline_and_two_labels() -> None:
    mask = np.zeros((240, 320), np.uint8)
    mask[100:200, 60:200] = 1
    first = make_object("cup", Box(60, 100, 140, 100))
    second = make_object("mug", Box(61, 100, 139, 100))
    canvas = draw(picture(), grounding(("cup", "mug"), (first, second), mask))
    assert is_color(canvas, PALETTE[0])[120:180, 58:63].any()
    other = is_color(canvas, PALETTE[1])
    assert other.any()
    assert not other[130:170, :].any()


def test_an_outline_is_seen_on_its_own_color() -> None:
    mask = np.zeros((240, 320), np.uint8)
    mask[120:200, 60:200] = 1
    image = np.full((240, 320, 3), PALETTE[0], np.uint8)
    item = make_object("cup", Box(60, 120, 140, 80))
    canvas = draw(image, grounding(("cup",), (item,), mask))
    assert (canvas[150:160, 55:66].max(axis=2) < 40).any()


# Machado, Oliveira and Fernandes 2009, severity 1, over linear RGB.
VISION = {
    "normal": np.eye(3),
    "protan": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
    "deutan": [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]],
    "tritan": [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]],
}
TO_XYZ = [[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]]


def linear(color: tuple[int, int, int]) -> np.ndarray[Any, np.dtype[np.float64]]:
    values = np.array(color) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(color: tuple[int, int, int], vision: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """CIELAB of a color as these eyes see it."""
    xyz = np.array(TO_XYZ) @ (np.array(VISION[vision]) @ linear(color)).clip(0, 1)
    ratio = xyz / (0.9505, 1.0, 1.0888)
    x, y, z = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("vision", list(VISION))
def test_color_blind_eyes_tell_the_colors_apart(vision: str) -> None:
    seen = [lab(color, vision) for color in PALETTE]
    for i, first in enumerate(seen):
        for second in seen[:i]:
            assert np.linalg.norm(first - second) >= 25


def test_text_on_every_color_has_enough_contrast() -> None:
    dark = linear((16, 16, 20)) @ TO_XYZ[1]
    for color in PALETTE:
        assert (linear(color) @ TO_XYZ[1] + 0.05) / (dark + 0.05) >= 4.5  # WCAG 2.2, AA


@pytest.mark.parametrize(
    ("text", "drawn"),
    [
        ("red 컵 (빨간)", "red 컵 (빨간)"),
        ("café Ångström", "cafe Angstrom"),
        ("红杯 кот 뷁 😀", "□□ □□□ □ □"),
        ("10 °C ½ …", "10 °C ½ …"),
    ],
)
def test_what_the_font_lacks_is_spelled_without_marks_or_shown_as_a_box(
    text: str, drawn: str
) -> None:
    assert printable(text) == drawn


def golden_grounding(height: int, width: int) -> Grounding:
    """Found, lost, not found, in two scripts, with distance and number, at any size."""

    def box(x: float, y: float, across: float, down: float) -> Box:
        return Box(
            round(x * width), round(y * height), round(across * width), round(down * height)
        )

    cup, plate = box(0.2, 0.45, 0.2, 0.25), box(0.55, 0.6, 0.25, 0.2)
    mask = np.zeros((height, width), np.uint8)
    rows, columns = np.mgrid[:height, :width]
    for number, place in enumerate((cup, plate), start=1):
        across, down = place.width / 2, place.height / 2
        x, y = (columns - place.x - across) / across, (rows - place.y - down) / down
        mask[x**2 + y**2 <= 1] = number
    objects = (
        GroundedObject("red cup", 0.97, 3.5, cup, 0.04, Role.TARGET, 3, position=(0, 0, 0.62)),
        GroundedObject("파란 접시", 0.88, 2.0, plate, 0.04, Role.PLACE, 4),
        GroundedObject("ball", 0.6, 0.4, box(0.05, 0.8, 0.1, 0.12), 0.01, id=6, lost=0.2),
    )
    return Grounding(
        "put the red cup on the 파란 접시",
        1,
        ("red cup", "파란 접시", "ball", "green block"),
        (0.97, 0.88, 0.2, 0.03),
        objects,
        "tabletop",
        mask,
    )


@pytest.mark.parametrize("shape", [(240, 320), (1080, 1920)])
def test_the_overlay_looks_as_it_did(shape: tuple[int, int]) -> None:
    """GOLDENS holds what was looked at; save `canvas` there after a change that is meant."""
    canvas = draw(picture(*shape), golden_grounding(*shape))
    golden = np.asarray(Image.open(GOLDENS / f"overlay_{shape[1]}.png").convert("RGB"), np.int16)
    assert golden.shape == canvas.shape
    # Versions of FreeType set the edges of letters a little differently.
    strays = np.abs(canvas.astype(np.int16) - golden).max(axis=2) > 60
    drawn = (golden != GREY).any(axis=2)
    assert strays.sum() < 0.02 * drawn.sum()
