"""The picture's own colors sharpen a mask: patches say roughly where, pixels say exactly.

One step of GrabCut's idea (Rother et al. 2004) with a soft start: a region's share of each pixel,
spread from the patches, weighs two color histograms, the region's and its surroundings'; what a
pixel's color says for or against the region is added to that share's log-odds.
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


class MaskRefiner:
    """The colors of one picture, uint8 [H, W, 3] RGB; used for any number of its regions.

    size: width and height of the working copy, in whose pixels regions are sharpened.
    """

    def __init__(self, image: UInt8Array) -> None:
        height, width = image.shape[:2]
        scale = min(1.0, _LONGEST / max(height, width))
        self.size = max(round(width * scale), 1), max(round(height * scale), 1)
        self._whole = width, height
        small = cv2.resize(image, self.size, interpolation=cv2.INTER_AREA)
        levels = cv2.LUT(cv2.GaussianBlur(small, (0, 0), 0.8), _TABLE)
        self._bins = (
            cv2.transform(levels.astype(np.uint16), _INDEX)
            .reshape(small.shape[:2])
            .astype(np.intp)
        )

    def sharpen(self, share: FloatArray, margin: float) -> tuple[UInt8Array, tuple[int, int]]:
        """Share of the region at each pixel of the working copy, float32 [h, w] in [0, 1] -> its
        mask uint8 of 0 and 1, in one piece, in a part of the picture, and that part's corner x, y.

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
        flat = bins.ravel()
        ours = np.bincount(flat, inside.ravel(), _BINS)
        others = np.bincount(flat, minlength=_BINS) - ours
        ours_wide, others_wide = _spread_out(np.stack([ours, others]))
        # Of the same colors everywhere, the ratio is 1 and the start decides.
        odds_of_any = np.log(ours.sum() / others.sum())
        said = np.log((ours_wide + _PRIOR_COUNT) / (others_wide + _PRIOR_COUNT)) - odds_of_any
        odds = np.log(inside / (1 - inside)) + cv2.GaussianBlur(
            said.astype(np.float32).take(bins), (0, 0), _SMOOTH
        )
        binary = (odds > 0).astype(np.uint8)
        piece = largest_piece(binary)
        if piece is not binary:
            odds[piece != binary] = -np.inf
        return self._enlarged(1 / (1 + np.exp(-odds)), left, top)

    def _enlarged(
        self, sharp: FloatArray, left: int, top: int
    ) -> tuple[UInt8Array, tuple[int, int]]:
        """Where a part of the working copy is over one half, in the picture's own pixels.

        The part's edges go to the nearest pixel: half of one at most, and none where the working
        copy is the picture or a whole part of it, as of 640x480.
        """
        (x, right), (y, bottom) = (
            tuple(
                round(at * self._whole[axis] / self.size[axis]) for at in (start, start + length)
            )
            for axis, (start, length) in enumerate(((left, sharp.shape[1]), (top, sharp.shape[0])))
        )
        fine = cv2.resize(sharp, (right - x, bottom - y), interpolation=cv2.INTER_LINEAR)
        return (fine > 0.5).astype(np.uint8), (x, y)


def largest_piece(mask: UInt8Array) -> UInt8Array:
    """Of the pieces of a mask uint8 [h, w] of 0 and 1 the largest one alone."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(
        mask, connectivity=8, ltype=cv2.CV_16U
    )
    if count <= 2:
        return mask
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    piece: UInt8Array = (labels == largest).astype(np.uint8)
    return piece


# (1, 2, 1) / 4 along a channel, whose ends go on.
_BLUR = 0.5 * np.eye(_LEVELS) + 0.25 * np.eye(_LEVELS, k=1) + 0.25 * np.eye(_LEVELS, k=-1)
_BLUR[0, 0] = _BLUR[-1, -1] = 0.75


def _spread_out(counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Color histograms [K, bins], blurred along each channel: noise moves a pixel by one."""
    cubes = counts.reshape(-1, _LEVELS, _LEVELS)
    cubes = (_BLUR @ cubes @ _BLUR).reshape(len(counts), _LEVELS, -1)
    return (_BLUR @ cubes).reshape(counts.shape)
