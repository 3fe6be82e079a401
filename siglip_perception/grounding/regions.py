"""Group DINOv2's patches into regions: soft maps over the grid, one for each thing in view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from siglip_perception.checkpoints.grounding_settings import GroundingSettings
from siglip_perception.grounding.components import split_components
from siglip_perception.grounding.options import DEFAULT_OPTIONS, GroundingOptions
from siglip_perception.types import FloatArray
from siglip_perception.util.device import one_thread

_OTSU_BINS = 256
_LEAST_SPREAD = 1e-6
# Share of the patches that the search reads below which it drops those that are claimed.
_COMPACT_SHARE = 0.75


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
    longer than the steps. And on one thread, as two take half as long again.
    """
    with one_thread():
        return _search(cosine, settings, cuts, options)


def _search(
    cosine: Tensor,
    settings: GroundingSettings,
    cuts: Sequence[float],
    options: GroundingOptions,
) -> list[Tensor]:
    scale, offset = affinity_sigmoid(cosine, settings, options)
    spread = scale * float(cosine.std()) if any(cuts) else 0.0
    bias = np.array([[offset + cut * spread] for cut in cuts], np.float32)
    cut_index = np.arange(len(cuts))
    # Arrays and tensors share their memory: NumPy's elementwise steps cost a third of PyTorch's at
    # this size, and PyTorch's products keep to its own threads.
    search = _Unclaimed.of(
        cosine, torch.sigmoid(scale * cosine + torch.from_numpy(bias)[:, :, None])
    )
    regions: list[FloatArray] = []
    validity: list[Any] = []
    # All cuts advance together; a cut that has claimed its patches gives regions marked invalid.
    while len(regions) < options.max_regions and (has_unclaimed := search.mask.any(axis=1)).any():
        search = search.compact()
        mask, places = search.mask, search.places
        leader = search.companions().argmax(axis=1)
        led = search.affinity.numpy()[cut_index, leader] * mask
        # Of the first mean only those companions count that are unclaimed, so no other patch's
        # probability is computed.
        inside = _probability(led, _product(led, search.square), None, scale, bias)
        core = inside * (inside > 0.5) * mask
        weights = np.where(core.any(axis=1, keepdims=True), core, led)
        region = _probability(weights, _product(weights, search.rows), places, scale, bias)
        mask *= region[:, places] <= options.claim_share
        mask[cut_index, leader] = 0.0  # also if its own region leaves it out: else no end
        regions.append(region)
        validity.append(has_unclaimed & (region.max(axis=1) > 0.5))
    maps = torch.from_numpy(np.stack(regions, axis=1))
    is_valid = torch.from_numpy(np.stack(validity, 1))
    return [cut_maps[valid] for cut_maps, valid in zip(maps, is_valid, strict=True)]


@dataclass(frozen=True)
class _Unclaimed:
    """The patches that may still be unclaimed, R of all N, and what the search reads of them.

    places: int [R], ascending. mask: float32 [C, R], 1 where a cut has not claimed the patch.
    affinity: [C, R, R]. rows: [R, N] of the cosines. square: [R, R] of them.
    """

    places: Any
    mask: FloatArray
    affinity: Tensor
    rows: Tensor
    square: Tensor

    @classmethod
    def of(cls, cosine: Tensor, affinity: Tensor) -> _Unclaimed:
        """All patches, unclaimed, of cosines [N, N] and affinities [C, N, N]."""
        count = len(cosine)
        mask = np.ones((len(affinity), count), np.float32)
        return cls(np.arange(count), mask, affinity, cosine, cosine)

    def compact(self) -> _Unclaimed:
        """Leave out the patches that every cut has claimed, once these are a quarter.

        What is left out is multiplied by zero everywhere: sums keep their terms, and their order.
        """
        kept = np.flatnonzero(self.mask.any(axis=0))
        if len(kept) > _COMPACT_SHARE * len(self.places):
            return self
        index = torch.from_numpy(kept)
        rows = self.rows.index_select(0, index)
        places = self.places[kept]
        return _Unclaimed(
            places,
            self.mask[:, kept],
            self.affinity.index_select(1, index).index_select(2, index),
            rows,
            self.square.index_select(0, index).index_select(1, index),
        )

    def companions(self) -> FloatArray:
        """Sum of each unclaimed patch's affinities with unclaimed ones: [C, R]; 0 for others."""
        column = torch.from_numpy(self.mask).unsqueeze(-1)
        sums: FloatArray = torch.bmm(self.affinity, column).squeeze(-1).numpy() * self.mask
        return sums


def _product(weights: FloatArray, cosine: Tensor) -> FloatArray:
    product: FloatArray = torch.mm(torch.from_numpy(weights), cosine).numpy()
    return product


def _probability(
    weights: FloatArray, projections: FloatArray, places: Any, scale: float, bias: FloatArray
) -> FloatArray:
    """Probability that each patch belongs to a thing, from the weighted mean feature of some.

    weights: [C, R]. projections: [C, N] of the mean on every patch, from cosines; places: those of
    the R among the N; None: they are the same. The mean's own length comes from cosines, too.
    """
    own = projections if places is None else projections[:, places]
    squared = np.maximum((weights * own).sum(axis=1, keepdims=True), 1e-12)
    logits = projections * (scale / np.sqrt(squared)) + bias
    probability: FloatArray = torch.from_numpy(logits).sigmoid_().numpy()
    return probability


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
    inside = (maps.numpy() > 0.5).astype(np.float32)
    patches = torch.from_numpy(inside)
    intersection, sizes = (patches @ patches.T).numpy(), inside.sum(axis=1)
    union = np.maximum(sizes[:, None] + sizes - intersection, 1)
    earlier_iou = np.tril(intersection / union, k=-1).max(axis=1, initial=0.0)
    is_new = earlier_iou < options.duplicate_iou
    is_new[: len(sets[0])] = True
    return maps[torch.from_numpy(is_new)], int(is_new[len(sets[0]) :].sum())


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
