"""Decode COCO segmentations with faster-coco-eval, after the checks that it does not make."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np

from siglip_perception.types import UInt8Array
from siglip_perception.util import requirements


class SegmentationError(Exception):
    """An unusable segmentation; it is counted under `reason`."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}{f' ({detail})' if detail else ''}")
        self.reason = reason
        self.detail = detail


@cache
def evaluation_library() -> Any:
    """Import faster_coco_eval; raise PerceptionError if it is not installed."""
    requirements.load("evaluate --coco", "faster_coco_eval.core.mask")
    return requirements.load("evaluate --coco", "faster_coco_eval")


def mask_library() -> Any:
    """Import faster_coco_eval's mask functions; raise PerceptionError if not installed."""
    return evaluation_library().core.mask


def decode_segmentation(segmentation: Any, width: int, height: int) -> UInt8Array | None:
    """Decode to uint8 [height, width] of 0 and 1, not all 0; None if there is no segmentation.

    segmentation: a list of polygons [x, y, x, y, ...], a single such polygon, a polygon as points
    [x, y], or run lengths, plain or compressed. Raises SegmentationError for anything else, a size
    other than the image's, or an empty mask.
    """
    if segmentation is None or segmentation == []:
        return None
    if isinstance(segmentation, dict):
        mask = _from_run_lengths(segmentation, width, height)
    elif isinstance(segmentation, list):
        mask = _from_polygons(_polygons(segmentation), width, height)
    else:
        raise SegmentationError("segmentation is neither polygons nor run lengths")
    if not mask.any():
        raise SegmentationError("segmentation covers no pixel of the picture")
    return mask


def _polygons(segmentation: list[Any]) -> list[list[float]]:
    if all(_is_number(value) for value in segmentation):
        return [_check_polygon(segmentation)]
    if not all(isinstance(polygon, list) for polygon in segmentation):
        raise SegmentationError("segmentation is not numbers")
    if len(segmentation) > 2 and all(_is_point(entry) for entry in segmentation):
        return [_check_polygon([number for point in segmentation for number in point])]
    return [
        _check_polygon([number for point in polygon for number in point])
        if polygon and all(_is_point(entry) for entry in polygon)
        else _check_polygon(polygon)
        for polygon in segmentation
    ]


def _check_polygon(polygon: list[Any]) -> list[float]:
    if not all(_is_number(value) for value in polygon):
        raise SegmentationError("segmentation is not numbers")
    if len(polygon) % 2:
        raise SegmentationError("segmentation has an odd number of numbers", str(len(polygon)))
    # The library would take four numbers for a box.
    if len(polygon) < 6:
        points = f"{len(polygon) // 2}"
        raise SegmentationError("segmentation has a polygon of fewer than three points", points)
    try:
        numbers = [float(value) for value in polygon]
    except OverflowError:
        numbers = [math.inf]
    if not all(map(math.isfinite, numbers)):
        raise SegmentationError("segmentation is not finite")
    return numbers


def _from_polygons(polygons: list[list[float]], width: int, height: int) -> UInt8Array:
    for polygon in polygons:
        for numbers, size in ((polygon[::2], width), (polygon[1::2], height)):
            # The library walks outlines pixel by pixel, outside the image too: far points take
            # hours.
            if min(numbers) < -size or max(numbers) > 2 * size:
                raise SegmentationError("segmentation lies far outside of the picture")
    library = mask_library()
    run_lengths = library.merge(library.frPyObjects(polygons, height, width))
    return np.asarray(library.decode(run_lengths), np.uint8)


def _from_run_lengths(segmentation: dict[str, Any], width: int, height: int) -> UInt8Array:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not all(map(_is_whole, size)):
        raise SegmentationError("segmentation's size is not [height, width]", str(size)[:60])
    if [int(number) for number in size] != [height, width]:
        raise SegmentationError(
            "segmentation's size is not the picture's", f"{size}, not [{height}, {width}]"
        )
    library = mask_library()
    if isinstance(counts, list):
        if not all(_is_whole(count) and count >= 0 for count in counts):
            raise SegmentationError("segmentation's counts are not whole numbers of 0 or more")
        total = sum(map(int, counts))
        if total != width * height:
            raise SegmentationError(
                "segmentation's counts do not add up to the picture",
                f"{total}, not {width * height}",
            )
        plain = {"size": [height, width], "counts": [int(count) for count in counts]}
        return np.asarray(library.decode(library.frPyObjects(plain, height, width)), np.uint8)
    if isinstance(counts, str) and counts.isascii():
        counts = counts.encode()
    if not isinstance(counts, bytes):
        raise SegmentationError("segmentation's counts are neither numbers nor packed")
    try:
        mask = library.decode({"size": [height, width], "counts": counts})
    except (RuntimeError, ValueError) as error:
        raise SegmentationError("segmentation's packed counts are broken", str(error)) from error
    return np.asarray(mask, np.uint8)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, int) and not isinstance(value, bool)


def _is_point(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_number, value))
