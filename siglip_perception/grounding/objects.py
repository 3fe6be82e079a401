"""Turn scored regions into objects: boxes and masks in camera pixels, each thing once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from siglip_perception.grounding.components import largest_component
from siglip_perception.grounding.mask_refinement import MaskRefiner
from siglip_perception.grounding.options import DEFAULT_OPTIONS, GroundingOptions
from siglip_perception.grounding.scores import Scores, sigmoid
from siglip_perception.images.geometry import Geometry, spread
from siglip_perception.types import Box, FloatArray, GroundedObject, Role, UInt8Array

_NEIGHBORHOOD = np.ones((3, 3), np.uint8)


@dataclass(frozen=True)
class ObjectMask:
    """A region in camera pixels.

    mask: uint8 [height, width] of 0 and 1. box: the mask's bounding box. area: its pixels.
    """

    mask: UInt8Array
    box: Box
    area: int

    @classmethod
    def of(
        cls, soft: FloatArray, geometry: Geometry, patch: int, refiner: MaskRefiner | None
    ) -> ObjectMask:
        """Project a region's map [rows, cols] into camera pixels; the refiner sharpens its edges.

        Only the largest component is kept: what DINOv2 holds together, such as two books, may come
        apart in the pixels.
        """
        if refiner is None:
            part = largest_component((spread(soft, geometry, patch) > 0.5).astype(np.uint8))
            x_min, y_min = 0, 0
        else:
            # A faint share beyond the next patch is another thing of a similar color.
            near = cv2.dilate((soft > 0.5).astype(np.uint8), _NEIGHBORHOOD)
            share = spread(soft * near, geometry, patch, refiner.size)
            part, (x_min, y_min) = refiner.sharpen(share, patch / geometry.size)
        mask = np.zeros((geometry.height, geometry.width), np.uint8)
        mask[y_min : y_min + part.shape[0], x_min : x_min + part.shape[1]] = part
        x, y, width, height = cv2.boundingRect(part) if part.size else (0, 0, 0, 0)
        return cls(mask, Box(x_min + x, y_min + y, width, height), cv2.countNonZero(part))

    def overlap(self, other_mask: ObjectMask) -> float:
        """Intersection of two masks, as a share of the smaller one, in [0, 1]."""
        box, other_box = self.box, other_mask.box
        x_min, y_min = max(box.x, other_box.x), max(box.y, other_box.y)
        x_max = min(box.x + box.width, other_box.x + other_box.width)
        y_max = min(box.y + box.height, other_box.y + other_box.height)
        if x_min >= x_max or y_min >= y_max:
            return 0.0
        window = np.s_[y_min:y_max, x_min:x_max]
        intersection = cv2.countNonZero(self.mask[window] & other_mask.mask[window])
        return intersection / max(min(self.area, other_mask.area), 1)

    def is_part_of(self, better: ObjectMask, max_ratio: float) -> bool:
        """True for a mask that touches a better one and has less than `max_ratio` of its area.

        A cup's handle is part of the cup.
        """
        box, better_box = self.box, better.box
        gap_x = max(box.x, better_box.x) - min(box.x + box.width, better_box.x + better_box.width)
        gap_y = max(box.y, better_box.y) - min(
            box.y + box.height, better_box.y + better_box.height
        )
        return self.area < max_ratio * better.area and max(gap_x, gap_y) <= 0


def select_objects(
    scores: Scores,
    phrases: tuple[str, ...],
    roles: tuple[Role, ...],
    geometry: Geometry,
    patch: int,
    threshold: float | Sequence[float],
    max_objects: int,
    image: UInt8Array | None = None,
    options: GroundingOptions = DEFAULT_OPTIONS,
) -> tuple[list[GroundedObject], list[UInt8Array]]:
    """Select the regions that a phrase names with probability `threshold` or more, with masks.

    threshold: of all phrases, or of each.

    Best first within a phrase. Of two regions that share half of the smaller one the better stays;
    parts of a better region go. image: uint8 [height, width, 3] RGB; its colors sharpen the masks.
    """
    refiner: MaskRefiner | None = None
    objects: list[GroundedObject] = []
    masks: list[UInt8Array] = []
    mask_cache: dict[int, ObjectMask] = {}
    probability = sigmoid(scores.logits)
    inside = (scores.maps > 0.5).reshape(len(scores.maps), math.prod(scores.maps.shape[1:]))
    patch_counts = inside.sum(axis=1)
    thresholds = np.broadcast_to(np.asarray(threshold, np.float64), len(phrases))
    log_sizes = np.log2(np.maximum(patch_counts, 1))
    for phrase_index, (phrase, role) in enumerate(zip(phrases, roles, strict=True)):
        selected: list[tuple[int, ObjectMask]] = []
        slope = 1.0 if scores.slopes is None else float(scores.slopes[phrase_index])
        rank = scores.logits[phrase_index] + slope * options.size_bonus * log_sizes
        order = np.argsort(-rank, kind="stable")
        for region in order[probability[phrase_index, order] >= thresholds[phrase_index]].tolist():
            if len(objects) + len(selected) >= max_objects:
                break
            # Drawing a mask is what costs here: regions of the same patches are skipped before it.
            if any(
                int((inside[region] & inside[better_region]).sum())
                > options.same_patch_share * min(patch_counts[region], patch_counts[better_region])
                for better_region, _ in selected
            ):
                continue
            if region not in mask_cache:
                if refiner is None and image is not None:
                    refiner = MaskRefiner(image, options)
                mask_cache[region] = ObjectMask.of(scores.maps[region], geometry, patch, refiner)
            object_mask = mask_cache[region]
            if not object_mask.area or any(
                object_mask.is_part_of(better, options.max_part_ratio)
                or object_mask.overlap(better) > options.same_pixel_share
                for _, better in selected
            ):
                continue
            selected.append((region, object_mask))
        selected.sort(key=lambda item: -scores.logits[phrase_index, item[0]])
        for region, object_mask in selected:
            masks.append(object_mask.mask)
            objects.append(
                GroundedObject(
                    phrase,
                    float(probability[phrase_index, region]),
                    float(scores.logits[phrase_index, region]),
                    object_mask.box,
                    object_mask.area / object_mask.mask.size,
                    role,
                )
            )
    return objects, masks


def label_mask(masks: list[UInt8Array], width: int, height: int) -> UInt8Array:
    """Merge masks into one image, uint8 [height, width]: 0, or the object's index + 1.

    Where masks overlap, the first object wins.
    """
    labels = np.zeros((height, width), dtype=np.uint8)
    for number in range(min(len(masks), 255), 0, -1):
        labels[masks[number - 1] > 0] = number
    return labels
