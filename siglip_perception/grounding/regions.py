"""Group DINOv2's patches into regions: soft maps over the grid, one for each thing in view."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from siglip_perception.checkpoints.grounding_settings import GroundingSettings
from siglip_perception.grounding.components import split_components
from siglip_perception.grounding.options import DEFAULT_OPTIONS, GroundingOptions
from siglip_perception.types import FloatArray

_OTSU_BINS = 256
_LEAST_SPREAD = 1e-6


def cosines(dinov2: Tensor) -> Tensor:
    """Cosine of every patch with every other: DINOv2's [N, D] -> float32 [N, N]."""
    patches = functional.normalize(dinov2, dim=-1)
    return patches @ patches.T


def find_regions(
    dinov2: Tensor, settings: GroundingSettings, options: GroundingOptions = DEFAULT_OPTIONS
) -> Tensor:
    """Group DINOv2's patches [N, D] at the model's own cut: soft maps [R, N], on the CPU."""
    return regions_at_cuts(cosines(dinov2).cpu(), settings, (0.0,), options)[0]


def regions_at_cuts(
    cosine: Tensor,
    settings: GroundingSettings,
    cuts: Sequence[float],
    options: GroundingOptions = DEFAULT_OPTIONS,
) -> list[Tensor]:
    """Group patches of cosines [N, N], on the CPU, once for each cut: soft maps [R, N] for each.

    cuts: offsets of the affinity, in standard deviations of the frame's; below 0 things come apart
        sooner.

    Greedy: the unclaimed patch with the most unclaimed companions leads; the mean feature of its
    companions, computed twice, draws the region; the patches that it covers are claimed. Each step
    depends on the one before, so this runs on the CPU: on a GPU, launching the steps would take
    longer than the steps.
    """
    scale, offset = affinity_sigmoid(cosine, settings, options)
    spread = scale * float(cosine.std()) if any(cuts) else 0.0
    bias = np.array([[offset + cut * spread] for cut in cuts], np.float32)
    affinity = torch.sigmoid(scale * cosine + torch.from_numpy(bias).unsqueeze(-1))
    # Arrays and tensors share their memory: NumPy's elementwise steps cost a third of PyTorch's at
    # this size, and PyTorch's products keep to its own threads.
    unclaimed_mask = np.ones((len(cuts), len(cosine)), np.float32)
    weights = np.empty_like(unclaimed_mask)
    unclaimed_column, weights_tensor = (
        torch.from_numpy(unclaimed_mask).unsqueeze(-1),
        torch.from_numpy(weights),
    )
    cut_index, links = np.arange(len(cuts)), affinity.numpy()
    regions: list[FloatArray] = []
    validity: list[Any] = []
    # All cuts advance together; a cut that has claimed its patches gives regions marked invalid.
    while (
        len(regions) < options.max_regions and (has_unclaimed := unclaimed_mask.any(axis=1)).any()
    ):
        companions = torch.bmm(affinity, unclaimed_column).squeeze(-1).numpy() * unclaimed_mask
        leader = companions.argmax(axis=1)
        np.multiply(links[cut_index, leader], unclaimed_mask, out=weights)
        region = np.zeros_like(weights)
        for _ in range(2):
            # The weighted mean's product with every patch, and its own length, both from cosines.
            projections = torch.mm(weights_tensor, cosine).numpy()
            squared = np.maximum((weights * projections).sum(axis=1, keepdims=True), 1e-12)
            logits = projections * (scale / np.sqrt(squared)) + bias
            probability = torch.from_numpy(logits).sigmoid_().numpy()
            region = np.where(weights.any(axis=1, keepdims=True), probability, region)
            np.multiply(region * (region > 0.5), unclaimed_mask, out=weights)
        unclaimed_mask *= region <= options.claim_share
        unclaimed_mask[cut_index, leader] = (
            0.0  # also if its own region leaves it out: else no end
        )
        regions.append(region)
        validity.append(has_unclaimed & (region.max(axis=1) > 0.5))
    maps = torch.from_numpy(np.stack(regions, axis=1))
    is_valid = torch.from_numpy(np.stack(validity, 1))
    return [cut_maps[valid] for cut_maps, valid in zip(maps, is_valid, strict=True)]


def candidates(
    cosine: Tensor,
    settings: GroundingSettings,
    grid: tuple[int, int],
    cuts: Sequence[float],
    options: GroundingOptions = DEFAULT_OPTIONS,
) -> tuple[Tensor, int]:
    """Find the components of every cut's regions: soft maps [R, N] without duplicates.

    cosine: see cosines(), on the CPU. Also returns how many of the maps come from the cuts after
    the first; those are the last ones.
    """
    sets = [
        split_components(maps, grid, options)
        for maps in regions_at_cuts(cosine, settings, cuts, options)
    ]
    maps = torch.cat(sets)
    inside = (maps > 0.5).float()
    intersection, sizes = inside @ inside.T, inside.sum(dim=1)
    union = (sizes.unsqueeze(0) + sizes.unsqueeze(1) - intersection).clamp_min(1)
    earlier_iou = (intersection / union).tril(diagonal=-1).amax(dim=1) if len(maps) else sizes
    is_new = earlier_iou < options.duplicate_iou
    is_new[: len(sets[0])] = True
    return maps[is_new], int(is_new[len(sets[0]) :].sum())


def affinity_sigmoid(
    cosine: Tensor, settings: GroundingSettings, options: GroundingOptions
) -> tuple[float, float]:
    """Scale and bias of sigmoid(scale * cosine + bias), the chance that patches are one thing."""
    if settings.affinity_scale is None or settings.affinity_bias is None:
        scale = options.stock_affinity_slope / max(float(cosine.std()), _LEAST_SPREAD)
        return scale, -scale * otsu_threshold(cosine)
    return settings.affinity_scale, settings.affinity_bias


def otsu_threshold(values: Tensor) -> float:
    """Split values, float [...], where the variance between both parts is greatest (Otsu 1979).

    Between the bins of a histogram of 256; the value itself where all are equal.
    """
    low, high = float(values.min()), float(values.max())
    if high - low < _LEAST_SPREAD:
        return low
    counts = torch.histc(values.float(), _OTSU_BINS, low, high).double()
    width = (high - low) / _OTSU_BINS
    centers = low + width * (torch.arange(_OTSU_BINS, dtype=torch.float64) + 0.5)
    weight, moment = counts.cumsum(0), (counts * centers).cumsum(0)
    rest = weight[-1] - weight
    between = (moment[-1] * weight / weight[-1] - moment) ** 2 / (weight * rest).clamp_min(1e-12)
    # Where a gap separates both parts every split in it is as good: the middle of them.
    best = torch.nonzero(between[:-1] >= between[:-1].max() * (1 - 1e-9)).flatten()
    return low + width * (float(best.double().mean()) + 1)
