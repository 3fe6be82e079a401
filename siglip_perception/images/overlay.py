"""The overlay picture: the instruction, and each object with its place and probability."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from siglip_perception.types import Box, GroundedObject, Grounding, Role, UInt8Array

FONT = Path(__file__).parent.parent / "fonts" / "PerceptionSansKR-Bold.ttf"
_Color = tuple[int, int, int]
# Color of each phrase, in turn. Any two are at least 25 apart in CIELAB to normal, protan, deutan
# and tritan eyes (Machado et al. 2009), and dark text on each has a contrast of at least 4.5.
PALETTE: tuple[_Color, ...] = (
    (255, 196, 0),
    (0, 200, 255),
    (255, 45, 105),
    (150, 135, 15),
    (180, 90, 255),
    (225, 75, 180),
)
_DARK: _Color = (16, 16, 20)
_LIGHT: _Color = (245, 245, 245)
_GRAY: _Color = (170, 170, 175)
# Height of the smallest text, in pixels: Korean syllables are read down to this.
_SMALLEST_TEXT = 13
# A lost object is a present one, of the same phrase, that covers so much of its box.
_TWIN = 0.5
# Boxes that overlap so much are drawn as one.
_SAME = 0.8
# Outlines as polygons stray at most so far from the mask's own border, in pixels.
_OUTLINE_TOLERANCE = 1.0
_ROLES = {Role.UNKNOWN: "", Role.TARGET: "target", Role.PLACE: "place"}


def draw(image: UInt8Array, grounding: Grounding) -> UInt8Array:
    """Draw the objects on a copy of the image, uint8 [H, W, 3] RGB.

    Each object gets the outline of its mask, or a box without one, and a label with its phrase,
    probability, role, number and distance, as far as they are known. A lost object gets a dashed
    box and a dark label, unless another object of its phrase is there. A panel at the top, or at
    the bottom if it hides less there, shows the instruction and every phrase that was not found.
    """
    height, width = image.shape[:2]
    thickness = max(2, round(min(width, height) / 200))
    canvas = np.array(image, dtype=np.uint8, copy=True)
    colors = {phrase: PALETTE[i % len(PALETTE)] for i, phrase in enumerate(grounding.phrases)}
    items = drawable(grounding.objects)
    _shapes(canvas, grounding, items, colors, thickness)
    picture = Image.fromarray(canvas)
    pen = ImageDraw.Draw(picture)
    font = _font(max(_SMALLEST_TEXT, round(min(width, height) / 26)))
    obstacles = [_panel(pen, font, grounding, colors, (width, height))]
    for item in items:
        obstacles.append(_label(pen, font, item, colors[item.phrase], (width, height), obstacles))
    return np.asarray(picture).copy()


def drawable(objects: Sequence[GroundedObject]) -> list[GroundedObject]:
    """Put lost ones last, without those where the frame shows an object of the same phrase."""
    present = [item for item in objects if not item.lost]
    return present + [
        item
        for item in objects
        if item.lost
        and not any(
            item.phrase == other.phrase and _overlap(item.box, other.box) > _TWIN
            for other in present
        )
    ]


def _overlap(first: Box, second: Box) -> float:
    """Compute the share of the smaller box that the other one covers, in [0, 1]."""
    smaller = min(first.width * first.height, second.width * second.height)
    return _shared_pixels(first, second) / smaller


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(FONT), size)


def _shapes(
    canvas: UInt8Array,
    grounding: Grounding,
    items: Sequence[GroundedObject],
    colors: dict[str, _Color],
    thickness: int,
) -> None:
    """Draw where each object is, once: two phrases may mean one thing, with one outline."""
    outlined: list[Box] = []
    for item in items:
        color = colors[item.phrase]
        if item.lost:
            _dashes(canvas, item.box, color, thickness)
            continue
        contours = _contours(grounding, item)
        if contours:
            outlined.append(item.box)
            cv2.drawContours(canvas, contours, -1, _DARK, thickness + 2)
            cv2.drawContours(canvas, contours, -1, color, thickness)
        elif all(item.box.iou(box) < _SAME for box in outlined):
            outlined.append(item.box)
            _rectangle(canvas, item.box, color, thickness)


def _contours(grounding: Grounding, item: GroundedObject) -> Sequence[Any]:
    """Trace the object's part of the mask; empty without any."""
    if grounding.mask is None:
        return ()
    number = grounding.objects.index(item) + 1
    region = (grounding.mask == number).astype(np.uint8)
    contours, _ = cv2.findContours(region, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return list(contours)


def outlines(grounding: Grounding) -> list[list[list[int]]]:
    """Outline each object's mask: for each object its polygons, each [x0, y0, x1, y1, ...].

    Empty lists without a mask.
    """
    polygons: list[list[list[int]]] = []
    for number, item in enumerate(grounding.objects, start=1):
        if grounding.mask is None:
            polygons.append([])
            continue
        box = item.box
        # A border of the box more: smoothed masks may reach a pixel beyond.
        top, left = max(box.y - 2, 0), max(box.x - 2, 0)
        part = grounding.mask[top : box.y + box.height + 2, left : box.x + box.width + 2]
        region = (part == number).astype(np.uint8)
        contours, _ = cv2.findContours(
            region, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=(left, top)
        )
        rough = [cv2.approxPolyDP(contour, _OUTLINE_TOLERANCE, True) for contour in contours]
        polygons.append([contour.reshape(-1).tolist() for contour in rough if len(contour) > 2])
    return polygons


def _dashes(canvas: UInt8Array, box: Box, color: _Color, thickness: int) -> None:
    """Draw a dashed frame inside the box, the gaps dark."""
    inset = thickness // 2
    left, top = box.x + inset, box.y + inset
    right, bottom = box.x + box.width - 1 - inset, box.y + box.height - 1 - inset
    if left > right or top > bottom:
        return
    cv2.rectangle(canvas, (left, top), (right, bottom), _DARK, 1)
    dash = 4 * thickness
    for x in range(left, right + 1, 2 * dash):
        for y in (top, bottom):
            cv2.line(canvas, (x, y), (min(x + dash, right), y), color, thickness)
    for y in range(top, bottom + 1, 2 * dash):
        for x in (left, right):
            cv2.line(canvas, (x, y), (x, min(y + dash, bottom)), color, thickness)


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
    line = _line_height(font)
    details = f" {item.score:.2f}{role}{_details(item)}"
    # The phrase is cut first: what is known of the object matters more.
    room = width - line // 2
    phrase = _fit(font, printable(item.phrase), max(room - round(font.getlength(details)), 0))
    text = _fit(font, phrase + details, room)
    across = min(round(font.getlength(text)) + line // 2, width)
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
    plate, ink = (_DARK, color) if item.lost else (color, _DARK)
    pen.rectangle((x, y, x + across - 1, y + line - 1), fill=plate)
    pen.text((x + line // 4, y + line // 2), text, font=font, fill=ink, anchor="lm")
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
    phrases_in_view = {item.phrase for item in grounding.objects if not item.lost}
    for phrase, presence in zip(grounding.phrases, grounding.presence, strict=True):
        if phrase not in phrases_in_view:
            lines.append((f"not found: {phrase} (in view {presence:.2f})", colors[phrase]))
    if not grounding.phrases:
        lines.append(("nothing to look for", _GRAY))
    line = _line_height(font)
    rows = [
        (_fit(font, printable(text), width - line // 2), color) for text, color in lines if text
    ]
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


def printable(text: str) -> str:
    """Spell a text in the font's own characters: é as e, and what it lacks as □."""
    return "".join(map(_spelled, text))


@lru_cache(maxsize=4096)
def _spelled(character: str) -> str:
    if _has_glyph(character):
        return character
    parts = unicodedata.normalize("NFKD", character)
    base = "".join(part for part in parts if not unicodedata.combining(part))
    # A Korean syllable that the font lacks would come apart into letters.
    if len(base) == 1 and base != character and _has_glyph(base):
        return base
    return "□"


def _has_glyph(character: str) -> bool:
    """Tell whether the font draws the character otherwise than one that it lacks."""
    font = _font(16)
    try:
        glyph = bytes(font.getmask(character))
    except RuntimeError:  # a character that no text is laid out with alone
        return False
    return character == " " or (bool(glyph) and glyph != bytes(font.getmask("\U0001f600")))


def _fit(font: ImageFont.FreeTypeFont, text: str, width: int) -> str:
    """Shorten the text to a width in pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"
