"""The overlay picture, checked by its pixels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import ImageFont

from siglip_perception.images.overlay import FONT, PALETTE, draw
from siglip_perception.types import Box, GroundedObject, Grounding, Role, UInt8Array

GREY = 90


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
    plain = draw(picture(), grounding(("cup",), single))
    difference = (canvas != plain).any(axis=2)
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
    # What is lost has a thin frame: the second row of pixels is the dark line within it.
    assert is_color(pictures[0], PALETTE[0])[121, 140]
    assert not is_color(pictures[3], PALETTE[0])[121, 140]
