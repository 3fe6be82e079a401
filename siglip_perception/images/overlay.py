"""The picture that a person looks at: what was asked, what was found, where and how surely."""

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
# One color a phrase, in turn; bright, and apart also to color-blind eyes (after Okabe and Ito).
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
_GREY: _Color = (170, 170, 175)
_ROLES = {Role.UNKNOWN: "", Role.TARGET: "target", Role.PLACE: "place"}


def draw(image: UInt8Array, grounding: Grounding) -> UInt8Array:
    """A copy of the image, uint8 [H, W, 3] RGB, with what was found marked on it.

    Each object gets its box, its outline where the grounding has a mask, and a label with phrase,
    probability, role, number and distance, as far as they are known; what is lost has a thin box.
    A panel at the top, or at the bottom where it hides less, names the instruction and every
    phrase that was not found.
    """
    height, width = image.shape[:2]
    thickness = max(2, round(min(width, height) / 200))
    canvas = np.array(image, dtype=np.uint8, copy=True)
    colors = {phrase: PALETTE[i % len(PALETTE)] for i, phrase in enumerate(grounding.phrases)}
    if grounding.mask is not None:
        _outlines(canvas, grounding, colors, thickness)
    for found in grounding.objects:
        _rectangle(canvas, found.box, colors[found.phrase], 1 if found.lost else thickness)
    picture = Image.fromarray(canvas)
    pen = ImageDraw.Draw(picture)
    font = _font(max(12, round(min(width, height) / 26)))
    taken = [_panel(pen, font, grounding, colors, (width, height))]
    for found in grounding.objects:
        taken.append(_label(pen, font, found, colors[found.phrase], (width, height), taken))
    return np.asarray(picture).copy()


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(FONT), size)


def _outlines(
    canvas: UInt8Array, grounding: Grounding, colors: dict[str, _Color], thickness: int
) -> None:
    if grounding.mask is None:
        return
    for i, found in enumerate(grounding.objects):
        region = (grounding.mask == i + 1).astype(np.uint8)
        contours, _ = cv2.findContours(region, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, contours, -1, colors[found.phrase], thickness)


def _rectangle(canvas: UInt8Array, box: Box, color: _Color, thickness: int) -> None:
    """A frame inside the box, with a dark line within it so that it shows on any ground."""
    right, bottom = box.x + box.width - 1, box.y + box.height - 1
    for inset in range(thickness + 1):
        left, top = box.x + inset, box.y + inset
        if left <= right - inset and top <= bottom - inset:
            shade = color if inset < thickness else _DARK
            cv2.rectangle(canvas, (left, top), (right - inset, bottom - inset), shade, 1)


def _label(
    pen: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont,
    found: GroundedObject,
    color: _Color,
    size: tuple[int, int],
    taken: Sequence[Box],
) -> Box:
    """The object's label, above its box or where it hides the least of the others; its place."""
    width, height = size
    role = f" {_ROLES[found.role]}" if _ROLES[found.role] else ""
    text = _fit(font, f"{found.phrase} {found.score:.2f}{role}{_details(found)}", width)
    line = _line_height(font)
    across = round(font.getlength(text)) + line // 2
    box = found.box
    bottom = box.y + box.height
    left = max(0, min(box.x, width - across))
    right = max(0, min(box.x + box.width - across, width - across))
    places = [
        Box(x, max(0, min(y, height - line)), across, line)
        for y in (box.y - line, bottom, box.y, bottom - line)
        for x in dict.fromkeys((left, right))
    ]
    place = min(places, key=lambda one: sum(_common(one, other) for other in taken))
    x, y = place.x, place.y
    pen.rectangle((x, y, x + across - 1, y + line - 1), fill=color)
    pen.text((x + line // 4, y + line // 2), text, font=font, fill=_DARK, anchor="lm")
    return place


def _common(first: Box, second: Box) -> int:
    """Pixels that two boxes share."""
    across = min(first.x + first.width, second.x + second.width) - max(first.x, second.x)
    down = min(first.y + first.height, second.y + second.height) - max(first.y, second.y)
    return max(across, 0) * max(down, 0)


def _details(found: GroundedObject) -> str:
    """Number, distance and loss, where they are known."""
    number = f" #{found.id}" if found.id else ""
    distance = f" {found.position[2]:.2f} m" if np.isfinite(found.position[2]) else ""
    return number + distance + (f" lost {found.lost:.1f} s" if found.lost else "")


def _panel(
    pen: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont,
    grounding: Grounding,
    colors: dict[str, _Color],
    size: tuple[int, int],
) -> Box:
    """Instruction and missing phrases, in a corner on the left; its place."""
    width, height = size
    lines = [(grounding.instruction or ", ".join(grounding.phrases), _LIGHT)]
    named = {found.phrase for found in grounding.objects}
    for phrase, presence in zip(grounding.phrases, grounding.presence, strict=True):
        if phrase not in named:
            lines.append((f"not found: {phrase} (in view {presence:.2f})", colors[phrase]))
    if not grounding.phrases:
        lines.append(("nothing to look for", _GREY))
    line = _line_height(font)
    shown = [(_fit(font, text, width - line // 2), color) for text, color in lines if text]
    across = min(max(round(font.getlength(text)) for text, _ in shown) + line // 2, width)
    down = line * len(shown)
    top, bottom = (Box(0, y, max(across, 1), down) for y in (0, max(height - down, 0)))

    def hides(place: Box) -> int:
        return sum(_common(place, found.box) for found in grounding.objects)

    place = bottom if hides(bottom) < hides(top) else top
    pen.rectangle((0, place.y, across - 1, place.y + down - 1), fill=_DARK)
    for i, (text, color) in enumerate(shown):
        middle = place.y + line * i + line // 2
        pen.text((line // 4, middle), text, font=font, fill=color, anchor="lm")
    return place


def _line_height(font: ImageFont.FreeTypeFont) -> int:
    return round(font.size * 1.35)


def _fit(font: ImageFont.FreeTypeFont, text: str, width: int) -> str:
    """The text, shortened to the width in pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"
