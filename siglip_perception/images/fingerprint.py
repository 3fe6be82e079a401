"""A short fingerprint of one frame's pixels: what tells a policy's training pictures from others.

Numbers of the camera's own pixels, before any contract's step, each cheap to compute and each
moved by one kind of fault: exposure, channel order, a resize or a blur, padding, a squash, JPEG.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from siglip_perception.types import FloatArray, UInt8Array

FIELDS = (
    *("brightness", "red_blue", "green"),
    *("red", "yellow", "green_hue", "cyan", "blue", "magenta"),
    *("sharpness_across", "sharpness_down", "blocks_across", "blocks_down"),
    *("band_top", "band_bottom", "band_left", "band_right", "band_level", "aspect"),
)
"""Names of a fingerprint's numbers, in the order of the message's field.

brightness: log2 of the mean linear luminance, in stops; 0 is white.
red_blue: log2 of mean linear red over blue. green: log2 of green over the mean of red and blue.
red to magenta: shares of the color, by six sectors of hue: their sum is 1, or 0 in a gray image.
sharpness_across, sharpness_down: log2 of the energy of differences one pixel apart over that of
    two pixels apart: -1 is a sharp edge, -2 a smooth one, above -1 noise or aliases.
blocks_across, blocks_down: log2 of the differences at every eighth pixel's boundary over those
    within the blocks; 0 without JPEG's blocks.
band_top to band_right: share of the side in rows or columns of one color at the border.
band_level: the bands' mean value in [0, 1]; 0 without one.
aspect: log2 of width over height.
"""

_GRID = 64  # samples along a side, of what needs no neighbors
_LINES = 24  # rows and columns of which differences are taken
_BAND_RANGE = 10  # values; JPEG ripples in a band of one color
_EPSILON = 1e-4
# sRGB's curve: uint8 -> linear light in [0, 1].
_LINEAR = np.where(
    np.arange(256) <= 10,
    np.arange(256) / 255 / 12.92,
    ((np.arange(256) / 255 + 0.055) / 1.055) ** 2.4,
).astype(np.float32)


def pixel_fingerprint(pixels: UInt8Array) -> FloatArray:
    """Compute the FIELDS of a frame, uint8 [H, W, 3] RGB, as float32.

    The pixels of a band of one color at the border count for nothing but the band.
    """
    height, width = pixels.shape[:2]
    bands = _bands(pixels)
    top, bottom, left, right = bands
    inner = pixels
    if any(bands) and top + bottom < height and left + right < width:
        inner = pixels[top : height - bottom, left : width - right]
    level = _band_level(pixels, bands) if any(bands) else 0.0
    step_down, step_across = (max(side // _GRID, 1) for side in inner.shape[:2])
    sample = np.ascontiguousarray(
        inner[step_down // 2 :: step_down, step_across // 2 :: step_across]
    )
    numbers = [
        *_color(sample),
        *_hues(sample[::2, ::2]),
        *_edges(inner, left, top),
        top / height,
        bottom / height,
        left / width,
        right / width,
        level,
        math.log2(width / height),
    ]
    return np.array(numbers, np.float32)


def _color(sample: UInt8Array) -> tuple[float, float, float]:
    red, green, blue = (
        float(_LINEAR[sample[..., channel]].mean()) + _EPSILON for channel in range(3)
    )
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return (
        math.log2(luminance),
        math.log2(red / blue),
        math.log2(green / (0.5 * (red + blue))),
    )


def _hues(sample: UInt8Array) -> FloatArray:
    """Shares of color in six sectors of hue, red's first: each pixel counts by its chroma."""
    values = sample.reshape(-1, 3).astype(np.int32)
    red, green, blue = values[:, 0], values[:, 1], values[:, 2]
    high, low = values.max(axis=1), values.min(axis=1)
    chroma = high - low
    # The sector by which channel is highest and which lowest: each pair is 60 degrees wide, and
    # the six are centered on the primary and secondary colors by comparing the middle channel.
    middle = red + green + blue - high - low
    primary = 2 * middle < high + low
    first = np.where(high == red, 0, np.where(high == green, 2, 4))
    missing = np.where(low == blue, 1, np.where(low == red, 3, 5))
    weights = np.where(chroma > 8, chroma, 0)
    shares = np.bincount(np.where(primary, first, missing), weights, 6).astype(np.float32)
    total = float(shares.sum())
    return shares / total if total > len(values) else np.zeros(6, np.float32)


def _edges(inner: UInt8Array, left: int, top: int) -> tuple[float, float, float, float]:
    """Sharpness across and down, then blocks across and down, of some rows and columns' green."""
    height, width = inner.shape[:2]
    rows = np.linspace(0, height - 1, min(_LINES, height)).astype(int)
    columns = np.linspace(0, width - 1, min(_LINES, width)).astype(int)
    lines = [inner[rows, :, 1].astype(np.int16), inner[:, columns, 1].T.astype(np.int16)]
    sharpness, blocks = [], []
    for line, start in zip(lines, (left, top), strict=True):
        if line.shape[1] < 24:
            sharpness.append(-1.0)
            blocks.append(0.0)
            continue
        near = np.diff(line)
        far = line[:, 2:] - line[:, :-2]
        energy = (_energy(near), _energy(far))
        # A flat image has no edges to be sharp.
        sharpness.append(math.log2((energy[0] + 0.05) / (energy[1] + 0.1)))
        sizes = np.minimum(np.abs(near), 16).sum(axis=0, dtype=np.int32)
        phase = (np.arange(sizes.size) + 1 + start) % 8
        at, beside = (
            sizes[phase == 0].mean(),
            sizes[(phase == 4) | (phase == 2) | (phase == 6)].mean(),
        )
        floor = 0.25 * len(line)
        blocks.append(math.log2((at + floor) / (beside + floor)))
    return sharpness[0], sharpness[1], blocks[0], blocks[1]


def _energy(differences: npt.NDArray[np.signedinteger[Any]]) -> float:
    values = differences.astype(np.float32)
    return float(np.vdot(values, values)) / values.size


def _bands(pixels: UInt8Array) -> tuple[int, int, int, int]:
    """Count the rows and columns of one color at the top, bottom, left and right border."""
    height, width = pixels.shape[:2]
    across, down = max(width // _GRID, 1), max(height // _GRID, 1)
    top = _band(pixels[:, ::across])
    bottom = _band(pixels[::-1, ::across]) if top < height else 0
    left = _band(pixels[::down].transpose(1, 0, 2))
    right = _band(pixels[::down, ::-1].transpose(1, 0, 2)) if left < width else 0
    return top, bottom, left, right


def _band(lines: UInt8Array) -> int:
    """Count the first lines that have the border's one color; uint8 [lines, samples, 3]."""
    color = lines[0].mean(axis=0)
    if _spread(lines[0]) > _BAND_RANGE:
        return 0
    count = 1
    block = 16
    while count < len(lines):
        part = lines[count : count + block]
        same = (np.abs(part - color) <= _BAND_RANGE).all(axis=(1, 2))
        if not same.all():
            return count + int(same.argmin())
        count += len(part)
        block *= 2
    return count


def _spread(line: UInt8Array) -> int:
    return int((line.max(axis=0).astype(int) - line.min(axis=0)).max())


def _band_level(pixels: UInt8Array, bands: tuple[int, int, int, int]) -> float:
    top, bottom, left, right = bands
    lines = [line for count, line in ((top, pixels[0]), (bottom, pixels[-1])) if count]
    lines += [line for count, line in ((left, pixels[:, 0]), (right, pixels[:, -1])) if count]
    return float(np.mean([line.mean() for line in lines])) / 255
