"""The picture's own colours sharpen a mask: patches say roughly where, pixels say exactly.

One step of GrabCut's idea (Rother et al. 2004) with a soft start: a region's share of each pixel,
spread from the patches, weighs two colour histograms, the region's and its surroundings'; what a
pixel's colour says for or against the region is added to that share's log-odds.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from siglip_perception.types import FloatArray, UInt8Array

# Of the working copy, pixels: masks gain nothing from more.
_LONGEST = 320
_LEVELS = 12
_BINS = _LEVELS**3
# Log-odds of the start are kept within those of this share and its opposite.
_LEAST = 0.02
# A start whose peak is lower than this is raised to it: small things fill no patch.
_PEAK = 0.6
# Share from which on a pixel may belong to the region.
_MAYBE = 0.25
# Pixels that stand for "nothing known" in each bin.
_PRIOR_COUNT = 0.5
_SMOOTH = 1.0


class Colours:
    """The colours of one picture, uint8 [H, W, 3] RGB; used for any number of its regions."""

    def __init__(self, image: UInt8Array) -> None:
        height, width = image.shape[:2]
        scale = min(1.0, _LONGEST / max(height, width))
        self._size = max(round(width * scale), 1), max(round(height * scale), 1)
        small = cv2.resize(image, self._size, interpolation=cv2.INTER_AREA)
        small = cv2.GaussianBlur(small, (0, 0), 0.8)
        level = (small.astype(np.int32) * _LEVELS) >> 8
        self._bins: npt.NDArray[np.int32] = (
            level[..., 0] * _LEVELS + level[..., 1]
        ) * _LEVELS + level[..., 2]

    def sharpen(self, share: FloatArray, margin: float) -> FloatArray:
        """Share of the region at each pixel, float32 [H, W] in [0, 1] -> the same, sharper.

        margin: how far around the region its surroundings are taken from, as a share of the
        picture's longer side; nothing further away becomes part of it.
        """
        start = cv2.resize(share, self._size, interpolation=cv2.INTER_AREA)
        peak = float(start.max())
        if peak <= 0.0:
            return share
        start = start * max(_PEAK / peak, 1.0)
        reach = round(margin * max(self._size)) + 1
        x, y, across, down = cv2.boundingRect((start > _MAYBE).astype(np.uint8))
        there = np.s_[max(y - reach, 0) : y + down + reach, max(x - reach, 0) : x + across + reach]
        inside = np.clip(start[there], _LEAST, 1 - _LEAST)
        bins = self._bins[there]
        ours, others = (
            _spread_out(np.bincount(bins.ravel(), weights.ravel(), _BINS).astype(np.float64))
            for weights in (inside, 1 - inside)
        )
        # Of the same colours everywhere, the ratio is 1 and the start decides.
        odds_of_any = np.log(inside.sum() / (1 - inside).sum())
        said = np.log((ours + _PRIOR_COUNT) / (others + _PRIOR_COUNT)) - odds_of_any
        odds = np.log(inside / (1 - inside)) + cv2.GaussianBlur(
            said.astype(np.float32)[bins], (0, 0), _SMOOTH
        )
        sharp = np.zeros_like(start)
        sharp[there] = 1 / (1 + np.exp(-odds))
        fine: FloatArray = np.asarray(
            cv2.resize(sharp, share.shape[::-1], interpolation=cv2.INTER_LINEAR), np.float32
        )
        return fine


def _spread_out(counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A colour histogram through (1, 2, 1) / 4 along each channel: noise moves a pixel by one."""
    cube = counts.reshape(_LEVELS, _LEVELS, _LEVELS)
    for axis in range(3):
        first = np.moveaxis(cube, axis, 0)
        low = np.concatenate([first[:1], first[:-1]])
        high = np.concatenate([first[1:], first[-1:]])
        cube = np.moveaxis((low + 2 * first + high) / 4, 0, axis)
    return cube.ravel()
