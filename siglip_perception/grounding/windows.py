"""Overlapping windows: parts of an image through the encoders on their own, for small things.

A window has the encoders' whole grid, so that a thing covers four times as many patches as in the
image. A thing on a window's inner edge is cut there; what the image or another window has whole
goes before its parts, and two parts that agree where both windows see them are joined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from siglip_perception.grounding.options import DEFAULT_OPTIONS, GroundingOptions
from siglip_perception.grounding.scores import Scores
from siglip_perception.types import Box, FloatArray, GroundedObject, UInt8Array


@dataclass(frozen=True)
class WindowScores:
    """Scores of the regions of one window. box: its place in the image, pixels."""

    box: Box
    scores: Scores


@dataclass(frozen=True)
class Candidate:
    """An object that was found in one window, or in the whole image.

    item, mask: in the image's pixels; mask uint8 [height, width] of 0 and 1. window: where it was
    found. is_cut: it reaches an edge of its window that is none of the image's.
    """

    item: GroundedObject
    mask: UInt8Array
    window: Box
    is_cut: bool


def penalized(scores: Scores, options: GroundingOptions = DEFAULT_OPTIONS) -> Scores:
    """Take the penalty of windows from the log-odds of one."""
    slopes = np.ones(len(scores.logits), np.float32) if scores.slopes is None else scores.slopes
    loss = (options.window_penalty * slopes).astype(np.float32)
    return replace(
        scores, logits=scores.logits - loss[:, None], image_logits=scores.image_logits - loss
    )


def presence_of(scores: Scores, windows: Sequence[WindowScores]) -> FloatArray:
    """Probability [P] that each phrase is in view: the highest of the image and its windows."""
    parts = [scores.presence(), *(window.scores.presence() for window in windows)]
    highest: FloatArray = np.max(parts, axis=0)
    return highest


def window_boxes(
    width: int, height: int, count: int, options: GroundingOptions = DEFAULT_OPTIONS
) -> list[Box]:
    """Place count x count windows, row by row, that cover an image; none for a count of 1."""
    if count == 1:
        return []
    columns = _edges(width, count, options.window_overlap)
    return [
        Box(left, top, right - left, bottom - top)
        for top, bottom in _edges(height, count, options.window_overlap)
        for left, right in columns
    ]


def _edges(length: int, count: int, overlap: float) -> list[tuple[int, int]]:
    """Start and end of each window along one side."""
    side = length / (count - (count - 1) * overlap)
    starts = [index * (length - side) / (count - 1) for index in range(count)]
    return [(int(start), min(int(np.ceil(start + side)), length)) for start in starts]


def place_candidates(
    objects: Sequence[GroundedObject],
    masks: Sequence[UInt8Array],
    window: Box,
    width: int,
    height: int,
    options: GroundingOptions = DEFAULT_OPTIONS,
) -> list[Candidate]:
    """Move objects and masks from a window's pixels to those of its image, width x height."""
    candidates = []
    for item, mask in zip(objects, masks, strict=True):
        box = Box(item.box.x + window.x, item.box.y + window.y, item.box.width, item.box.height)
        whole = np.zeros((height, width), np.uint8)
        whole[window.y : window.y + window.height, window.x : window.x + window.width] = mask
        is_cut = any(
            edge not in (0, length) and abs(edge - side) <= options.window_edge * size
            for start, size, low, extent, length in (
                (window.x, window.width, box.x, box.width, width),
                (window.y, window.height, box.y, box.height, height),
            )
            for edge, side in ((start, low), (start + size, low + extent))
        )
        area = int(np.count_nonzero(mask)) / whole.size
        candidates.append(Candidate(replace(item, box=box, area=area), whole, window, is_cut))
    return candidates


def merge_candidates(
    candidates: Sequence[Candidate], options: GroundingOptions = DEFAULT_OPTIONS
) -> list[Candidate]:
    """Keep each thing of one phrase once, best first: whole ones before cut ones."""
    kept: list[Candidate] = []
    whole = [candidate for candidate in candidates if not candidate.is_cut]
    cut = _joined([candidate for candidate in candidates if candidate.is_cut], options)
    for group in (whole, cut):
        for candidate in sorted(group, key=lambda entry: -entry.item.logit):
            if not any(_overlap(candidate, other) > options.same_pixel_share for other in kept):
                kept.append(candidate)
    return sorted(kept, key=lambda entry: -entry.item.logit)


def _joined(parts: list[Candidate], options: GroundingOptions) -> list[Candidate]:
    """Join parts of different windows that agree on what both windows see."""
    joined: list[Candidate] = []
    for part in sorted(parts, key=lambda entry: -entry.item.logit):
        for place, other in enumerate(joined):
            if _agree(part, other) > options.same_pixel_share:
                joined[place] = _union(other, part)
                break
        else:
            joined.append(part)
    return joined


def _agree(first: Candidate, second: Candidate) -> float:
    """IoU of two masks in the part of the image that is in both of their windows, in [0, 1]."""
    a, b = first.window, second.window
    rows = slice(max(a.y, b.y), min(a.y + a.height, b.y + b.height))
    columns = slice(max(a.x, b.x), min(a.x + a.width, b.x + b.width))
    if a == b or rows.start >= rows.stop or columns.start >= columns.stop:
        return 0.0
    inside = first.mask[rows, columns], second.mask[rows, columns]
    union = cv2.countNonZero(inside[0] | inside[1])
    return cv2.countNonZero(inside[0] & inside[1]) / union if union else 0.0


def _union(first: Candidate, second: Candidate) -> Candidate:
    """One candidate of two parts; its window is the smallest box around both windows."""
    mask: UInt8Array = first.mask | second.mask
    a, b = first.window, second.window
    x, y = min(a.x, b.x), min(a.y, b.y)
    window = Box(
        x, y, max(a.x + a.width, b.x + b.width) - x, max(a.y + a.height, b.y + b.height) - y
    )
    box = Box(*cv2.boundingRect(mask))
    item = replace(first.item, box=box, area=cv2.countNonZero(mask) / mask.size)
    return Candidate(item, mask, window, is_cut=True)


def _overlap(first: Candidate, second: Candidate) -> float:
    """Intersection of two masks, as a share of the smaller one, in [0, 1]."""
    smaller = min(cv2.countNonZero(first.mask), cv2.countNonZero(second.mask))
    return cv2.countNonZero(first.mask & second.mask) / max(smaller, 1)
