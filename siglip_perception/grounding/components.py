"""Split a region into its connected components: two red cups are two objects."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from siglip_perception.grounding.options import DEFAULT_OPTIONS, GroundingOptions
from siglip_perception.types import BoolArray, UInt8Array


def split_components(
    maps: Tensor, grid: tuple[int, int], options: GroundingOptions = DEFAULT_OPTIONS
) -> Tensor:
    """Split soft maps [R, N] over a grid into maps [S, N] of their components, in their order.

    A component keeps its own patches above one half, and every value up to one half. A region
    whose components are all noise stays as it is.
    """
    if not len(maps):
        return maps
    soft = maps.detach().cpu().numpy().reshape(-1, *grid)
    inside = soft > 0.5
    labels, owners, sizes = _label(inside, options.component_bridge)
    is_valid = sizes >= options.min_component_patches
    is_split = np.bincount(owners[is_valid], minlength=len(soft)) > 0
    # A region of one component, all of it, or of noise alone stays whole.
    is_split[owners[is_valid & (sizes == inside.sum(axis=(1, 2))[owners])]] = False
    rows: list[int] = []
    outside: list[tuple[int, BoolArray]] = []
    for region, split in enumerate(is_split.tolist()):
        if not split:
            rows.append(region)
            continue
        for label in np.flatnonzero(is_valid & (owners == region)).tolist():
            outside.append((len(rows), inside[region] & (labels[region] != label)))
            rows.append(region)
    components = maps[rows]
    for row, others in outside:
        components[row, torch.from_numpy(others.ravel()).to(maps.device)] = 0.0
    return components


def _label(inside: BoolArray, bridge: int) -> tuple[Any, Any, Any]:
    """Label the components of regions, bool [R, rows, cols], after a dilation by a square.

    Returns labels [R, rows, cols], the region of each label, and its patches before the dilation:
    the bridges do not count. Labels ascend within a region from the top; 0 is what is outside.
    """
    # All regions stand below each other in one picture, with empty rows between, at a pitch of an
    # even number of rows: labels are given by pairs of rows, and are to ascend as they do alone.
    count, rows, cols = inside.shape
    pitch = rows + 2 * bridge
    pitch += pitch % 2
    picture = np.zeros((count, pitch, cols), np.uint8)
    picture[:, :rows] = inside
    dilated = cv2.dilate(picture.reshape(-1, cols), np.ones((bridge, bridge), np.uint8))
    dilated.reshape(count, pitch, cols)[:, rows:] = 0
    label_count, flat = cv2.connectedComponents(dilated, connectivity=8)
    labels = flat.reshape(count, pitch, cols)[:, :rows]
    region, *place = np.nonzero(inside)
    own_labels = labels[(region, *place)]
    owners = np.zeros(label_count, np.intp)
    owners[own_labels] = region
    return labels, owners, np.bincount(own_labels, minlength=label_count)


def largest_component(mask: UInt8Array) -> UInt8Array:
    """Return only the largest connected component of a mask, uint8 [h, w] of 0 and 1.

    The mask itself if it has one component at most.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats(
        mask, connectivity=8, ltype=cv2.CV_16U
    )
    if count <= 2:  # the background is one of them
        return mask
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    component: UInt8Array = (labels == largest).astype(np.uint8)
    return component
