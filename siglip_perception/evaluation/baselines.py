"""Ways to score regions: this project's, each encoder alone, and others to compare with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from siglip_perception.checkpoints.grounding_settings import GroundingSettings
from siglip_perception.encoders.plan import GroundingModel
from siglip_perception.grounding.components import split_pieces
from siglip_perception.grounding.grounder import (
    AFFINITY_CUTS,
    EXTRA_CUT_PENALTY,
    Scores,
    candidates,
    cosines,
    find_regions,
    led_regions,
)
from siglip_perception.grounding.region_head import head_keys, pool_regions, pool_single
from siglip_perception.types import FloatArray

Method = Callable[[Tensor, Tensor, Tensor], Scores]
"""SigLIP's and DINO's last patches [N, D] and phrase embeddings [P, D] -> Scores."""

# Lan et al. 2024 (ProxyCLIP): entries of gamma (S - beta mean S), the negative ones left out.
BETA, GAMMA = 1.2, 3.0
_NEVER = -50.0  # a logit that no threshold reaches


@dataclass(frozen=True)
class _Base:
    sight: GroundingModel

    @property
    def grid(self) -> tuple[int, int]:
        return self.sight.grid, self.sight.grid

    def logits(self, pooled: Tensor, phrases: Tensor) -> FloatArray:
        """Pooled [R, D] and phrases [P, D] -> [P, R]."""
        siglip = self.sight.siglip
        cosine = phrases.to(pooled.device) @ functional.normalize(pooled, dim=-1).T
        found: FloatArray = (
            (cosine * siglip.logit_scale.exp() + siglip.logit_bias).float().cpu().numpy()
        )
        return found


@dataclass(frozen=True)
class Regions(_Base):
    """Regions that features hold together, pooled by SigLIP's head with its keys masked.

    by_siglip: of SigLIP's own features instead of DINO's. led: each phrase leads a region, too.
    mlp: with the head's MLP. beta: the cut at so many times the mean affinity; None: what belongs
    to the weights. shifts: of the cut, see grounding.regions_at. doubt: log-odds of the regions
    of all but the first shift.
    """

    by_siglip: bool = False
    led: bool = False
    mlp: bool = True
    beta: float | None = None
    shifts: tuple[float, ...] = AFFINITY_CUTS
    doubt: float = EXTRA_CUT_PENALTY

    @torch.inference_mode()
    def __call__(self, siglip: Tensor, dino: Tensor, phrases: Tensor) -> Scores:
        settings = self.sight.settings
        features = siglip if self.by_siglip else dino
        if self.by_siglip:
            settings = replace(settings, affinity_scale=None, affinity_bias=None)
        if self.beta is not None:
            settings = _cut(features, self.beta, settings)
        head = self.sight.siglip.vision_model.head
        keys = head_keys(head, siglip.unsqueeze(0))
        maps, others = candidates(cosines(features).cpu(), settings, self.grid, self.shifts)
        if self.led:
            single = self.logits(pool_single(head, keys.values[0], mlp=self.mlp), phrases)
            dense = torch.from_numpy(single).to(features.device).sigmoid()
            led = led_regions(features, dense, settings).cpu()
            more = split_pieces(led[led.amax(dim=1) > 0.5], self.grid)
            maps, others = torch.cat([maps, more]), others + len(more)
        weights = torch.cat([(maps > 0.5).float(), maps.new_ones(1, maps.shape[1])])
        weights = weights.to(features.device).unsqueeze(0)
        pooled = pool_regions(head, keys, weights, mlp=self.mlp)[0]
        logits = self.logits(pooled, phrases)
        logits[:, len(maps) - others : -1] -= self.doubt
        return Scores(maps.view(-1, *self.grid).numpy(), logits[:, :-1], logits[:, -1])


@dataclass(frozen=True)
class Saliency(_Base):
    """DINO alone: it knows no language, so every phrase gets its most salient regions.

    Salient is what differs from the picture's border: one less the mean affinity with it.
    """

    @torch.inference_mode()
    def __call__(self, siglip: Tensor, dino: Tensor, phrases: Tensor) -> Scores:
        settings = self.sight.settings
        if settings.affinity_scale is None or settings.affinity_bias is None:
            settings = _cut(dino, BETA, settings)
        maps = split_pieces(find_regions(dino, settings), self.grid)
        patches = functional.normalize(dino, dim=-1)
        rows, cols = self.grid
        edge = torch.zeros(rows, cols, dtype=torch.bool, device=dino.device)
        edge[[0, -1]], edge[:, [0, -1]] = True, True
        mean = functional.normalize(maps @ patches, dim=-1)
        cosine = mean @ patches[edge.flatten()].T
        alike = torch.sigmoid(
            float(settings.affinity_scale or 0) * cosine + float(settings.affinity_bias or 0)
        )
        salient = (1 - alike.mean(dim=1)).clamp(1e-4, 1 - 1e-4)
        logits = torch.logit(salient).cpu().numpy()[None].repeat(len(phrases), axis=0)
        best = logits.max(axis=1, initial=_NEVER)
        return Scores(maps.view(-1, *self.grid).cpu().numpy(), logits, best)


@dataclass(frozen=True)
class Dense(_Base):
    """A score for every patch; for each phrase what holds together around the best patch.

    affinity: values averaged by DINO's affinities (ProxyCLIP) before the head's projection;
    without it each patch stands for itself, and the best one is the max-patch baseline.
    """

    affinity: bool = True
    mlp: bool = True
    beta: float = BETA
    gamma: float = GAMMA

    @torch.inference_mode()
    def __call__(self, siglip: Tensor, dino: Tensor, phrases: Tensor) -> Scores:
        head = self.sight.siglip.vision_model.head
        values = head_keys(head, siglip.unsqueeze(0)).values[0]
        if self.affinity:
            patches = functional.normalize(dino, dim=-1)
            cosine = patches @ patches.T
            excess = self.gamma * (cosine - self.beta * cosine.mean())
            weights = excess.masked_fill(excess < 0, float("-inf")).softmax(dim=-1)
            values = torch.einsum("nm,mhd->nhd", weights.nan_to_num(0.0), values)
        logits = self.logits(pool_single(head, values, mlp=self.mlp), phrases)
        maps = 1 / (1 + np.exp(-logits.astype(np.float64)))
        found = np.full((len(logits), len(logits)), _NEVER, dtype=np.float32)
        np.fill_diagonal(found, logits.max(axis=1, initial=_NEVER))
        shaped = maps.reshape(-1, *self.grid).astype(np.float32)
        around = [_around_best(one) for one in shaped]
        return Scores(
            np.stack(around) if around else np.zeros((0, *self.grid), np.float32),
            found,
            logits.max(axis=1, initial=_NEVER),
        )


def compared(sight: GroundingModel) -> Mapping[str, Method]:
    """The methods that this project's own is held against."""
    return {
        "SigLIP alone": Regions(sight, by_siglip=True),
        "DINO alone": Saliency(sight),
        "max patch": Dense(sight, affinity=False),
    }


def ablation(sight: GroundingModel) -> Mapping[str, Method]:
    """Each switch of the grounding turned, one at a time."""
    return {
        "regions of three cuts, head with MLP": Regions(sight),
        "regions of one cut": Regions(sight, shifts=(0.0,)),
        "regions of three cuts, none doubted": Regions(sight, doubt=0.0),
        "regions, each phrase leads one too": Regions(sight, led=True),
        "regions, head without MLP": Regions(sight, mlp=False),
        **{
            f"regions, cut at {beta:g} x mean": Regions(sight, beta=beta)
            for beta in (1.0, 1.2, 1.5)
        },
        "dense, with MLP": Dense(sight),
        "dense, without MLP": Dense(sight, mlp=False),
        **{f"dense, beta {beta:g}": Dense(sight, beta=beta) for beta in (0.8, 1.6)},
        **{f"dense, gamma {gamma:g}": Dense(sight, gamma=gamma) for gamma in (1.0, 10.0)},
        "patches by themselves (max patch)": Dense(sight, affinity=False),
    }


def _cut(features: Tensor, beta: float, settings: GroundingSettings) -> GroundingSettings:
    """Settings that cut at beta times the mean cosine of these features."""
    patches = functional.normalize(features, dim=-1)
    scale = settings.affinity_scale or 20.0
    mean = float((patches @ patches.T).mean())
    return replace(settings, affinity_scale=scale, affinity_bias=-scale * beta * mean)


def _around_best(soft: FloatArray) -> FloatArray:
    """The part of a map over one half that holds its best patch; nothing else."""
    _, labels = cv2.connectedComponents((soft > 0.5).astype(np.uint8), connectivity=8)
    best = np.unravel_index(int(soft.argmax()), soft.shape)
    if soft[best] <= 0.5:
        alone = np.zeros_like(soft)
        alone[best] = 1.0
        return alone
    return np.where(labels == labels[best], soft, 0.0).astype(np.float32)
