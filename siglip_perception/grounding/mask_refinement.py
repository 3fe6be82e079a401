"""Sharpen masks by the image's own colors: patches say roughly where, pixels say exactly.

One step of GrabCut's idea (Rother et al. 2004) with a soft start. The region's share of each
pixel, spread from the patches, is the prior. It weights two color histograms, the object's and its
background's. A pixel's color adds its log-likelihood ratio to the prior's log-odds.
"""

from __future__ import annotations

import functools

import cv2
import numpy as np
import numpy.typing as npt

from siglip_perception.grounding.components import largest_component
from siglip_perception.grounding.options import DEFAULT_OPTIONS, GroundingOptions
from siglip_perception.types import FloatArray, UInt8Array


class MaskRefiner:
    """Color bins of one image, uint8 [H, W, 3] RGB, for any number of its regions.

    size: width and height of the working copy, in whose pixels regions are sharpened.
    """

    def __init__(self, image: UInt8Array, options: GroundingOptions = DEFAULT_OPTIONS) -> None:
        self._options = options
        height, width = image.shape[:2]
        scale = min(1.0, options.refinement_side / max(height, width))
        self.size = max(round(width * scale), 1), max(round(height * scale), 1)
        self._image_size = width, height
        small = cv2.resize(image, self.size, interpolation=cv2.INTER_AREA)
        levels = options.color_levels
        level_of_value = ((np.arange(256) * levels) >> 8).astype(np.uint8)
        image_levels = cv2.LUT(cv2.GaussianBlur(small, (0, 0), options.color_blur), level_of_value)
        strides = np.array([[levels**2, levels, 1]], np.float32)
        self._bins = (
            cv2.transform(image_levels.astype(np.uint16), strides)
            .reshape(small.shape[:2])
            .astype(np.intp)
        )

    def sharpen(self, share: FloatArray, margin: float) -> tuple[UInt8Array, tuple[int, int]]:
        """Sharpen one region: share of it at each pixel of the working copy, float32 [h, w] in
        [0, 1] -> its mask, uint8 of 0 and 1, in one component, and that mask's x, y in the image.

        margin: how far around the region its background is taken from, as a share of the image's
        longer side; nothing further away becomes part of it.
        """
        options = self._options
        peak = float(share.max())
        if peak <= 0.0:
            return np.zeros((0, 0), np.uint8), (0, 0)
        raised = share * max(options.min_peak / peak, 1.0)
        reach = round(margin * max(self.size)) + 1
        x, y, width, height = cv2.boundingRect((raised > options.candidate_share).astype(np.uint8))
        x_min, y_min = max(x - reach, 0), max(y - reach, 0)
        window = np.s_[y_min : y + height + reach, x_min : x + width + reach]
        prior = np.clip(raised[window], options.min_share, 1 - options.min_share)
        bins = self._bins[window]
        flat = bins.ravel()
        bin_count = options.color_levels**3
        object_counts = np.bincount(flat, prior.ravel(), bin_count)
        background_counts = np.bincount(flat, minlength=bin_count) - object_counts
        object_histogram, background_histogram = _blur_histograms(
            np.stack([object_counts, background_counts]), options.color_levels
        )
        # If both have the same colors everywhere, the ratio is 1 and the prior decides.
        base_odds = np.log(object_counts.sum() / background_counts.sum())
        evidence = (
            np.log(
                (object_histogram + options.prior_count)
                / (background_histogram + options.prior_count)
            )
            - base_odds
        )
        odds = np.log(prior / (1 - prior)) + cv2.GaussianBlur(
            evidence.astype(np.float32).take(bins), (0, 0), options.evidence_blur
        )
        binary = (odds > 0).astype(np.uint8)
        component = largest_component(binary)
        if component is not binary:
            odds[component != binary] = -np.inf
        return self._enlarge(1 / (1 + np.exp(-odds)), x_min, y_min)

    def _enlarge(
        self, probability: FloatArray, x_min: int, y_min: int
    ) -> tuple[UInt8Array, tuple[int, int]]:
        """Threshold a window of the working copy at one half, in the image's own pixels.

        The window's edges go to the nearest pixel. The error is half a pixel at most, and none
        where the scale is a whole number, as it is for 640x480.
        """
        (x, x_max), (y, y_max) = (
            tuple(
                round(edge * self._image_size[axis] / self.size[axis])
                for edge in (start, start + length)
            )
            for axis, (start, length) in enumerate(
                ((x_min, probability.shape[1]), (y_min, probability.shape[0]))
            )
        )
        fine = cv2.resize(probability, (x_max - x, y_max - y), interpolation=cv2.INTER_LINEAR)
        return (fine > 0.5).astype(np.uint8), (x, y)


@functools.cache
def _blur_matrix(levels: int) -> npt.NDArray[np.float64]:
    """(1, 2, 1) / 4 along one channel [levels, levels]; the outermost bins repeat."""
    matrix = 0.5 * np.eye(levels) + 0.25 * np.eye(levels, k=1) + 0.25 * np.eye(levels, k=-1)
    matrix[0, 0] = matrix[-1, -1] = 0.75
    return matrix


def _blur_histograms(counts: npt.NDArray[np.float64], levels: int) -> npt.NDArray[np.float64]:
    """Blur color histograms [K, bins] along each channel: noise moves a pixel by one level."""
    blur = _blur_matrix(levels)
    cubes = counts.reshape(-1, levels, levels)
    cubes = (blur @ cubes @ blur).reshape(len(counts), levels, -1)
    return (blur @ cubes).reshape(counts.shape)
