"""Choose how regions are pooled on weights that nobody measured: with the head's MLP or without.

SigLIP was trained to look at whole pictures. A crop of a region is a whole picture, so its vector
is what the weights themselves say of the region. The pooling whose vectors, of the same regions in
the uncut picture, agree best with those is taken.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from siglip_perception.grounding.grounder import Grounder
from siglip_perception.grounding.regions import candidates, cosines
from siglip_perception.types import BoolArray, UInt8Array

_MOST_CROPS = 8
_MARGIN = 0.1


@torch.inference_mode()
def choose_head(
    grounder: Grounder,
    image: UInt8Array,
    features: Callable[[list[UInt8Array]], tuple[Tensor, Tensor]],
) -> bool:
    """Return True where pooling with the MLP agrees with crops at least as well as without.

    image: uint8 [H, W, 3], a picture of several things. features: pictures -> SigLIP's and DINO's
    last patches, [B, N, D] each.
    """
    siglip, dino = features([image])
    maps, _ = candidates(
        cosines(dino[0]).cpu(), grounder.settings, grounder.grid, (0.0,), grounder.options
    )
    inside = (maps > 0.5).float()
    inside = inside[inside.sum(dim=1).argsort(descending=True, stable=True)[:_MOST_CROPS]]
    if len(inside) < 2:
        return True
    boxes = [
        crop_region(image, region.view(*grounder.grid).numpy() > 0, _MARGIN) for region in inside
    ]
    crops, _ = features(boxes)
    whole = inside.new_ones(1, inside.shape[1]).to(crops.device)
    bank = next(iter(grounder.bank.values()))
    agreements = {}
    for with_mlp in (True, False):
        grounder.head.with_mlp = True
        # A whole picture's vector is the head's own, with its MLP.
        truth = torch.cat([grounder.head(crop, whole) for crop in crops])
        grounder.head.with_mlp = with_mlp
        regions = grounder.head(siglip[0], inside.to(siglip.device))
        agreements[with_mlp] = agreement(regions, truth, bank)
    return agreements[True] >= agreements[False]


def agreement(regions: Tensor, crops: Tensor, bank: Tensor) -> float:
    """Mean correlation, in [-1, 1], of what both say of the bank's phrases.

    regions, crops: [R, D], of the same R regions. What all regions share is taken out first.
    """
    profiles = []
    for vectors in (regions, crops):
        profile = functional.normalize(vectors.float(), dim=-1) @ bank.to(vectors.device).T
        profile = profile - profile.mean(dim=0)
        profiles.append(functional.normalize(profile - profile.mean(dim=1, keepdim=True), dim=1))
    return float((profiles[0] * profiles[1]).sum(dim=1).mean())


def crop_region(image: UInt8Array, region: BoolArray, margin: float) -> UInt8Array:
    """Cut a region of the grid, bool [rows, cols], out of an image uint8 [H, W, 3].

    margin: how much more on each side, as a share of the region's own sides.
    """
    sides = []
    shadows: tuple[BoolArray, BoolArray] = np.any(region, axis=1), np.any(region, axis=0)
    for length, inside in zip(image.shape[:2], shadows, strict=True):
        places = np.flatnonzero(inside)
        low, high = (edge * length / len(inside) for edge in (places[0], places[-1] + 1))
        more = margin * (high - low)
        sides.append(slice(max(int(low - more), 0), min(int(high + more) + 1, length)))
    return np.ascontiguousarray(image[sides[0], sides[1]])
