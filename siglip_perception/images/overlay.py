"""The overlay picture: the instruction, and each object with its place and probability."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from siglip_perception.types import Box, GroundedObject, Grounding, Role, UInt8Array

FONT = Path(__file__).parent.parent / "fonts" / "PerceptionSansKR-Bold.ttf"
_Color = tuple[int, int, int]
# One color per phrase, in turn: bright, and distinct to color-blind eyes (after Okabe and Ito).
PALETTE: tuple[_Color, ...] = (
    (255, 196, 0),
    (0, 200, 255),
    (255, 110, 199),
    (0, 220, 130),
    (255, 127, 42),
    (150, 140, 255),
)
_DARK: _Color = (16, 16, 20)
_LIGHT: _Color = (245, 245, 245)
_GRAY: _Color = (170, 170, 175)
_ROLES = {Role.UNKNOWN: "", Role.TARGET: "target", Role.PLACE: "place"}


def draw(image: UInt8Array, grounding: Grounding) -> UInt8Array:
    """Draw the objects on a copy of the image, uint8 [H, W, 3] RGB.

    Each object gets a box, an outline if the grounding has a mask, and a label with its phrase,
    probability, role, number and distance, as far as they are known. A lost object has a thin
    box. A panel at the top, or at the bottom if it hides less there, shows the instruction and
    every phrase that was not found.
    """
    height, width = image.shape[:2]
    thickness = max(2, round(min(width, height) / 200))
    canvas = np.array(image, dtype=np.uint8, copy=True)
    colors = {phrase: PALETTE[i % len(PALETTE)] for i, phrase in enumerate(grounding.phrases)}
    if grounding.mask is not None:
        _outlines(canvas, grounding, colors, thickness)
    for item in grounding.objects:
        _rectangle(canvas, item.box, colors[item.phrase], 1 if item.lost else thickness)
    picture = Image.fromarray(canvas)
    pen = ImageDraw.Draw(picture)
    font = _font(max(12, round(min(width, height) / 26)))
    obstacles = [_panel(pen, font, grounding, colors, (width, height))]
    for item in grounding.objects:
        obstacles.append(_label(pen, font, item, colors[item.phrase], (width, height), obstacles))
    return np.asarray(picture).copy()


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(FONT), size)


def _outlines(
    canvas: UInt8Array, grounding: Grounding, colors: dict[str, _Color], thickness: int
) -> None:
    if grounding.mask is None:
        return
    for i, item in enumerate(grounding.objects):
        region = (grounding.mask == i + 1).astype(np.uint8)
        contours, _ = cv2.findContours(region, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, contours, -1, colors[item.phrase], thickness)


def _rectangle(canvas: UInt8Array, box: Box, color: _Color, thickness: int) -> None:
    """Draw a frame inside the box, with a dark inner line so that it shows on any background."""
    right, bottom = box.x + box.width - 1, box.y + box.height - 1
    for inset in range(thickness + 1):
        left, top = box.x + inset, box.y + inset
        if left <= right - inset and top <= bottom - inset:
            shade = color if inset < thickness else _DARK
            cv2.rectangle(canvas, (left, top), (right - inset, bottom - inset), shade, 1)


def _label(
    pen: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont,
    item: GroundedObject,
    color: _Color,
    size: tuple[int, int],
    obstacles: Sequence[Box],
) -> Box:
    """Draw the label above the box, or where it overlaps the obstacles least; return its place."""
    width, height = size
    role = f" {_ROLES[item.role]}" if _ROLES[item.role] else ""
    text = _fit(font, f"{item.phrase} {item.score:.2f}{role}{_details(item)}", width)
    line = _line_height(font)
    across = round(font.getlength(text)) + line // 2
    box = item.box
    bottom = box.y + box.height
    left = max(0, min(box.x, width - across))
    right = max(0, min(box.x + box.width - across, width - across))
    places = [
        Box(x, max(0, min(y, height - line)), across, line)
        for y in (box.y - line, bottom, box.y, bottom - line)
        for x in dict.fromkeys((left, right))
    ]
    place = min(
        places,
        key=lambda candidate: sum(_shared_pixels(candidate, obstacle) for obstacle in obstacles),
    )
    x, y = place.x, place.y
    pen.rectangle((x, y, x + across - 1, y + line - 1), fill=color)
    pen.text((x + line // 4, y + line // 2), text, font=font, fill=_DARK, anchor="lm")
    return place


def _shared_pixels(first: Box, second: Box) -> int:
    """Count the pixels that two boxes share."""
    across = min(first.x + first.width, second.x + second.width) - max(first.x, second.x)
    down = min(first.y + first.height, second.y + second.height) - max(first.y, second.y)
    return max(across, 0) * max(down, 0)


def _details(item: GroundedObject) -> str:
    """Format the number, the distance and the time since loss, as far as they are known."""
    number = f" #{item.id}" if item.id else ""
    distance = f" {item.position[2]:.2f} m" if np.isfinite(item.position[2]) else ""
    return number + distance + (f" lost {item.lost:.1f} s" if item.lost else "")


def _panel(
    pen: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont,
    grounding: Grounding,
    colors: dict[str, _Color],
    size: tuple[int, int],
) -> Box:
    """Draw the instruction and the missing phrases in a left corner; return the panel's place."""
    width, height = size
    lines = [(grounding.instruction or ", ".join(grounding.phrases), _LIGHT)]
    phrases_in_view = {item.phrase for item in grounding.objects}
    for phrase, presence in zip(grounding.phrases, grounding.presence, strict=True):
        if phrase not in phrases_in_view:
            lines.append((f"not found: {phrase} (in view {presence:.2f})", colors[phrase]))
    if not grounding.phrases:
        lines.append(("nothing to look for", _GRAY))
    line = _line_height(font)
    rows = [(_fit(font, text, width - line // 2), color) for text, color in lines if text]
    across = min(max(round(font.getlength(text)) for text, _ in rows) + line // 2, width)
    down = line * len(rows)
    top, bottom = (Box(0, y, max(across, 1), down) for y in (0, max(height - down, 0)))

    def hides(place: Box) -> int:
        return sum(_shared_pixels(place, item.box) for item in grounding.objects)

    place = bottom if hides(bottom) < hides(top) else top
    pen.rectangle((0, place.y, across - 1, place.y + down - 1), fill=_DARK)
    for i, (text, color) in enumerate(rows):
        middle = place.y + line * i + line // 2
        pen.text((line // 4, middle), text, font=font, fill=color, anchor="lm")
    return place


def _line_height(font: ImageFont.FreeTypeFont) -> int:
    return round(font.size * 1.35)


def _fit(font: ImageFont.FreeTypeFont, text: str, width: int) -> str:
    """Shorten the text to a width in pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"
