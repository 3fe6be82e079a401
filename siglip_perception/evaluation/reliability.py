"""Reliability diagram: how often what was given a probability was true, before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from siglip_perception.evaluation.metrics import calibration_error
from siglip_perception.images.overlay import FONT
from siglip_perception.types import UInt8Array

_BINS = 10
_SIDE, _LEFT, _TOP, _GAP, _BELOW = 420, 70, 92, 60, 60
_INK, _LIGHT, _BAR, _LINE = (30, 30, 34), (225, 225, 230), (150, 180, 225), (200, 60, 50)


@dataclass(frozen=True)
class Panel:
    """One diagram. probabilities, truths: [N], in [0, 1]."""

    title: str
    probabilities: Sequence[float]
    truths: Sequence[bool]


def reliability_picture(panels: Sequence[Panel]) -> UInt8Array:
    """Draw panels side by side, uint8 [H, W, 3] RGB: share of true answers by their probability.

    A bar for each tenth that has answers, its width by their number; on the diagonal both agree.
    """
    width = _LEFT + len(panels) * (_SIDE + _GAP)
    picture = Image.new("RGB", (width, _TOP + _SIDE + _BELOW), (255, 255, 255))
    pen = ImageDraw.Draw(picture)
    fonts = [ImageFont.truetype(str(FONT), size) for size in (20, 14)]
    for number, panel in enumerate(panels):
        _draw(pen, fonts, panel, _LEFT + number * (_SIDE + _GAP))
    return np.asarray(picture).copy()


def _draw(
    pen: ImageDraw.ImageDraw, fonts: list[ImageFont.FreeTypeFont], panel: Panel, left: int
) -> None:
    large, small = fonts
    bottom = _TOP + _SIDE
    error = calibration_error(list(panel.probabilities), list(panel.truths))
    pen.text((left, 12), panel.title, _INK, large)
    pen.text((left, 40), f"ECE {error:.3f}, {len(panel.truths)} answers", _INK, small)
    for tenth in range(0, 11, 2):
        place = round(tenth / 10 * _SIDE)
        pen.line((left, bottom - place, left + _SIDE, bottom - place), _LIGHT)
        pen.line((left + place, _TOP, left + place, bottom), _LIGHT)
        pen.text((left + place, bottom + 6), f"{tenth / 10:.1f}", _INK, small, anchor="ma")
        pen.text((left - 8, bottom - place), f"{tenth / 10:.1f}", _INK, small, anchor="rm")
    pen.text((left + _SIDE / 2, bottom + 28), "probability given", _INK, small, anchor="ma")
    pen.text((left, _TOP - 8), "share that was true", _INK, small, anchor="ls")
    values, truths = np.array(panel.probabilities), np.array(panel.truths, np.float64)
    bins = np.minimum((values * _BINS).astype(int), _BINS - 1)
    counts = np.bincount(bins, minlength=_BINS)
    cell = _SIDE / _BINS
    for number in np.flatnonzero(counts):
        inside = bins == number
        share, mean = float(truths[inside].mean()), float(values[inside].mean())
        half = max(cell * 0.45 * np.sqrt(counts[number] / counts.max()), 3)
        middle = left + (number + 0.5) * cell
        top = bottom - share * _SIDE
        pen.rectangle((middle - half, top, middle + half, bottom), _BAR)
        pen.text((middle, max(top - 4, _TOP + 12)), str(counts[number]), _INK, small, anchor="ms")
        x, y = left + mean * _SIDE, bottom - share * _SIDE
        pen.ellipse((x - 4, y - 4, x + 4, y + 4), _LINE)
    pen.line((left, bottom, left + _SIDE, _TOP), _INK, 2)
    pen.rectangle((left, _TOP, left + _SIDE, bottom), outline=_INK)
