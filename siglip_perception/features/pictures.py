"""Pictures to look at: a contact sheet of hits, and a map of a whole corpus."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from siglip_perception.images.overlay import FONT
from siglip_perception.types import FloatArray, UInt8Array

_TILE, _CAPTION, _GAP = (320, 240), 44, 8
_PAPER, _INK, _FAINT = (250, 250, 248), (30, 30, 34), (120, 120, 126)
_MAP = (1400, 1000)
_MARGIN, _HEAD = 60, 44
_THUMBNAIL = (88, 66)
_GOLDEN = 0.618


def contact_sheet(
    title: str, images: Sequence[UInt8Array | None], captions: Sequence[tuple[str, str]]
) -> UInt8Array:
    """Draw pictures in rows of four with two lines below each; uint8 [H, W, 3] RGB."""
    columns = min(4, max(1, len(images)))
    rows = math.ceil(len(images) / columns)
    cell = _TILE[0] + _GAP, _TILE[1] + _CAPTION + _GAP
    head = 48
    width = max(columns * cell[0] + _GAP, 480)
    sheet = Image.new("RGB", (width, head + rows * cell[1]), _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((_GAP, 10), _fit(title, _font(24), width - 2 * _GAP), _INK, _font(24))
    for number, (image, lines) in enumerate(zip(images, captions, strict=True)):
        x = _GAP + number % columns * cell[0]
        y = head + number // columns * cell[1]
        sheet.paste(_tile(image, _TILE), (x, y))
        for line, (text, ink) in enumerate(zip(lines, (_INK, _FAINT), strict=True)):
            font = _font(15)
            pen.text((x, y + _TILE[1] + 3 + 19 * line), _fit(text, font, _TILE[0]), ink, font)
    return np.asarray(sheet)


def corpus_map(
    title: str,
    points: FloatArray,
    groups: Sequence[str],
    images: Callable[[Sequence[int]], Iterator[UInt8Array | None]],
) -> UInt8Array:
    """Draw all frames as dots, and some as thumbnails where there is room; uint8 [H, W, 3] RGB.

    points: [rows, 2] in [0, 1]. groups: of each row, which gives its color, such as its source.
    """
    sheet = Image.new("RGB", _MAP, _PAPER)
    pen = ImageDraw.Draw(sheet)
    room = np.array([_MAP[0] - 2 * _MARGIN, _MAP[1] - 2 * _MARGIN - _HEAD])
    places = np.rint(points * room + (_MARGIN, _MARGIN + _HEAD)).astype(int)
    names = list(dict.fromkeys(groups))
    colors = {name: _color(number) for number, name in enumerate(names)}
    for (x, y), group in zip(places.tolist(), groups, strict=True):
        pen.ellipse((x - 2, y - 2, x + 2, y + 2), colors[group])
    # One thumbnail at most in each cell of a grid, so that none covers another: of the frame
    # that is nearest to its middle. None in a cell beside such a one: dots stay in view there.
    cell = np.array([_THUMBNAIL[0] + 10, _THUMBNAIL[1] + 10])
    cells, off_middle = np.divmod(places - (0, _HEAD), cell)
    distance = np.abs(off_middle - cell / 2).sum(axis=1)
    nearest: dict[tuple[int, int], int] = {}
    for row in np.argsort(distance, kind="stable").tolist():
        nearest.setdefault((int(cells[row, 0]), int(cells[row, 1])), row)
    pictured: dict[tuple[int, int], int] = {}
    for column, line in sorted(nearest, key=lambda place: (sum(place) % 2, place)):
        beside = ((column - 1, line), (column + 1, line), (column, line - 1), (column, line + 1))
        if not any(place in pictured for place in beside):
            pictured[column, line] = nearest[column, line]
    chosen = list(pictured.values())
    for (column, line), row, image in zip(pictured, chosen, images(chosen), strict=True):
        if image is None:
            continue
        x, y = column * int(cell[0]) + 5, line * int(cell[1]) + 5 + _HEAD
        frame = (x - 2, y - 2, x + _THUMBNAIL[0] + 1, y + _THUMBNAIL[1] + 1)
        pen.rectangle(frame, colors[groups[row]])
        sheet.paste(_tile(image, _THUMBNAIL), (x, y))
    pen.rectangle((0, 0, _MAP[0], _HEAD), _PAPER)
    pen.text((12, 8), _fit(title, _font(24), _MAP[0] // 2), _INK, _font(24))
    x = _MAP[0] // 2 + 24
    for name in names[:6]:
        pen.ellipse((x, 17, x + 10, 27), colors[name])
        text = _fit(name, _font(15), 150)
        pen.text((x + 16, 12), text, _INK, _font(15))
        x += 32 + round(_font(15).getlength(text))
    return np.asarray(sheet)


def _tile(image: UInt8Array | None, size: tuple[int, int]) -> Image.Image:
    """A picture in the middle of a gray tile; a tile that says so where there is none."""
    tile = Image.new("RGB", size, (214, 214, 216))
    if image is None:
        font = _font(max(10, size[1] // 12))
        pen = ImageDraw.Draw(tile)
        pen.text((size[0] // 2, size[1] // 2), "source missing", _FAINT, font, anchor="mm")
        return tile
    picture = Image.fromarray(image)
    scale = min(size[0] / picture.width, size[1] / picture.height)
    picture = picture.resize(
        (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    )
    tile.paste(picture, ((size[0] - picture.width) // 2, (size[1] - picture.height) // 2))
    return tile


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(FONT), size)


def _fit(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Cut a text to a width in pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..."


def _color(number: int) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(number * _GOLDEN % 1, 0.7, 0.8)
    return round(red * 255), round(green * 255), round(blue * 255)
