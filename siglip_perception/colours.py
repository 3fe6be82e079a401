"""The picture's own colours sharpen a mask: patches say roughly where, pixels say exactly.

One step of GrabCut's idea (Rother et al. 2004) with a soft start: a region's share of each pixel,
spread from the patches, weighs two colour histograms, the region's and its surroundings'; what a
pixel's colour says for or against the region is added to that share's log-odds.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from siglip_perception.types import FloatArray, UInt8Array

# Of the working copy, pixels: masks gain nothing from more.
_LONGEST = 320
_LEVELS = 12
_BINS = _LEVELS**3
# Log-odds of the start are kept within those of this share and its opposite.
_LEAST = 0.005
# A start whose peak is lower than this is raised to it: small things fill no patch.
_PEAK = 0.6
# Share from which on a pixel may belong to the region.
_MAYBE = 0.15
# Pixels that stand for "nothing known" in each bin.
_PRIOR_COUNT = 0.5
_SMOOTH = 0.6
_TABLE = ((np.arange(256) * _LEVELS) >> 8).astype(np.uint8)
_INDEX = np.array([[_LEVELS**2, _LEVELS, 1]], np.float32)


class Colours:
    """The colours of one picture, uint8 [H, W, 3] RGB; used for any number of its regions.

    size: width and height of the working copy, in whose pixels regions are sharpened.
    """

    def __init__(self, image: UInt8Array) -> None:
        height, width = image.shape[:2]
        scale = min(1.0, _LONGEST / max(height, width))
        self.size = max(round(width * scale), 1), max(round(height * scale), 1)
        self._whole = width, height
        small = cv2.resize(image, self.size, interpolation=cv2.INTER_AREA)
        levels = cv2.LUT(cv2.GaussianBlur(small, (0, 0), 0.8), _TABLE)
        self._bins = cv2.transform(levels.astype(np.uint16), _INDEX).reshape(small.shape[:2])

    def sharpen(self, share: FloatArray, margin: float) -> tuple[UInt8Array, tuple[int, int]]:
        """Share of the region at each pixel of the working copy, float32 [h, w] in [0, 1] -> its
        mask uint8 of 0 and 1 in a part of the picture, and that part's corner x, y in it.

        margin: how far around the region its surroundings are taken from, as a share of the
        picture's longer side; nothing further away becomes part of it.
        """
        peak = float(share.max())
        if peak <= 0.0:
            return np.zeros((0, 0), np.uint8), (0, 0)
        start = share * max(_PEAK / peak, 1.0)
        reach = round(margin * max(self.size)) + 1
        x, y, across, down = cv2.boundingRect((start > _MAYBE).astype(np.uint8))
        left, top = max(x - reach, 0), max(y - reach, 0)
        there = np.s_[top : y + down + reach, left : x + across + reach]
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
        return self._enlarged(1 / (1 + np.exp(-odds)), left, top)

    def _enlarged(
        self, sharp: FloatArray, left: int, top: int
    ) -> tuple[UInt8Array, tuple[int, int]]:
        """Where a part of the working copy is over one half, in the picture's own pixels."""
        corner, ends, scales = [], [], []
        for axis, (start, length) in enumerate(((left, sharp.shape[1]), (top, sharp.shape[0]))):
            scale = self._whole[axis] / self.size[axis]
            corner.append(math.floor(start * scale))
            ends.append(min(math.ceil((start + length) * scale), self._whole[axis]))
            scales.append(1 / scale)
        back = np.array(
            [
                [scales[0], 0, (corner[0] + 0.5) * scales[0] - 0.5 - left],
                [0, scales[1], (corner[1] + 0.5) * scales[1] - 0.5 - top],
            ]
        )
        fine = cv2.warpAffine(
            sharp,
            back,
            (ends[0] - corner[0], ends[1] - corner[1]),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        )
        return (fine > 0.5).astype(np.uint8), (corner[0], corner[1])


def _spread_out(counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A colour histogram through (1, 2, 1) / 4 along each channel: noise moves a pixel by one."""
    cube = counts.reshape(_LEVELS, _LEVELS, _LEVELS)
    for axis in range(3):
        first = np.moveaxis(cube, axis, 0)
        low = np.concatenate([first[:1], first[:-1]])
        high = np.concatenate([first[1:], first[-1:]])
        cube = np.moveaxis((low + 2 * first + high) / 4, 0, axis)
    return cube.ravel()
