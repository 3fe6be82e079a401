"""Split a region into its connected components: two red cups are two objects."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from siglip_perception.grounding.options import DEFAULT_OPTIONS, GroundingOptions
from siglip_perception.types import UInt8Array


def split_components(
    maps: Tensor, grid: tuple[int, int], options: GroundingOptions = DEFAULT_OPTIONS
) -> Tensor:
    """Split soft maps [R, N] over a grid into maps [S, N] of their components, in their order.

    A component keeps its own patches above one half, and every value up to one half. A region
    whose components are all noise stays as it is.
    """
    if not len(maps):
        return maps
    soft = maps.detach().view(-1, *grid).cpu().numpy()
    bridge = np.ones((options.component_bridge, options.component_bridge), np.uint8)
    components: list[Tensor] = []
    for index, region in enumerate(soft):
        inside = region > 0.5
        # Labels are taken after dilation and sizes before it: the bridge's patches do not count.
        count, labels = cv2.connectedComponents(
            cv2.dilate(inside.astype(np.uint8), bridge), connectivity=8
        )
        sizes = np.bincount(labels[inside], minlength=count)
        valid_labels = [
            label for label in range(1, count) if sizes[label] >= options.min_component_patches
        ]
        is_single = len(valid_labels) == 1 and sizes[valid_labels[0]] == inside.sum()
        if is_single or not valid_labels:
            components.append(maps[index])
            continue
        for label in valid_labels:
            outside = torch.from_numpy((inside & (labels != label)).ravel()).to(maps.device)
            components.append(maps[index].masked_fill(outside, 0.0))
    return torch.stack(components)


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
