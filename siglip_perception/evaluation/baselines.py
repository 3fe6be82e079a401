"""Methods to score regions: this project's, each encoder alone, and other baselines."""

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
from siglip_perception.grounding.components import split_components
from siglip_perception.grounding.head_choice import crop_region
from siglip_perception.grounding.options import DEFAULT_OPTIONS
from siglip_perception.grounding.region_head import head_keys, pool_regions, pool_single
from siglip_perception.grounding.regions import affinity_sigmoid, candidates, cosines, find_regions
from siglip_perception.grounding.scores import Scores, sigmoid
from siglip_perception.grounding.standing import PhraseSet, log_odds, texts_of
from siglip_perception.types import FloatArray, UInt8Array

Method = Callable[[Tensor, Tensor, PhraseSet | Tensor], Scores]
"""SigLIP's and DINO's last patches [N, D] and phrases (see Grounder.score) -> Scores."""

# Lan et al. 2024 (ProxyCLIP): attention from gamma (S - beta mean S), negative entries masked.
BETA, GAMMA = 1.2, 3.0
_CROP_BATCH = 8
_NEVER = -50.0  # a logit below every threshold


@dataclass(frozen=True)
class _Base:
    sight: GroundingModel

    @property
    def grid(self) -> tuple[int, int]:
        return self.sight.grid, self.sight.grid

    def logits(
        self, features: Tensor, phrases: PhraseSet, penalties: FloatArray | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Score pooled features [R, D] by their standing, see log_odds(): [P, R], slopes [P]."""
        texts = texts_of(phrases, self.sight.bank, features.device)
        cosine = (texts @ functional.normalize(features, dim=-1).T).float().cpu().numpy()
        return log_odds(
            cosine, phrases, self.sight.bank, self.sight.settings.calibration, penalties=penalties
        )

    def dense(self, patches: Tensor, phrases: PhraseSet) -> Scores:
        """Score patches [N, D]; a phrase's region is the component around its best patch."""
        logits, slopes = self.logits(patches, phrases)
        maps = sigmoid(logits)
        scores = np.full((len(logits), len(logits)), _NEVER, dtype=np.float32)
        best = logits.max(axis=1, initial=_NEVER)
        np.fill_diagonal(scores, best)
        regions = [_around_best(grid) for grid in maps.reshape(-1, *self.grid).astype(np.float32)]
        return Scores(
            np.stack(regions) if regions else np.zeros((0, *self.grid), np.float32),
            scores,
            best,
            slopes,
        )


def _phrase_set(phrases: PhraseSet | Tensor) -> PhraseSet:
    return PhraseSet.plain(phrases) if isinstance(phrases, Tensor) else phrases


@dataclass(frozen=True)
class Regions(_Base):
    """Regions of similar patches, pooled by SigLIP's head with its keys masked.

    by_siglip: group SigLIP's own features instead of DINO's. phrase_regions: add a region per
    phrase, grown from the patches that match it. mlp: use the head's MLP; None: as the model does.
    beta: cut at this multiple of the mean affinity; None takes the model's settings. cuts: offsets
    of the cut.
    extra_cut_penalty: standing subtracted from regions of all but the first cut.
    """

    by_siglip: bool = False
    phrase_regions: bool = False
    mlp: bool | None = None
    beta: float | None = None
    cuts: tuple[float, ...] = DEFAULT_OPTIONS.affinity_cuts
    extra_cut_penalty: float = DEFAULT_OPTIONS.extra_cut_penalty

    @torch.inference_mode()
    def __call__(self, siglip: Tensor, dino: Tensor, phrases: PhraseSet | Tensor) -> Scores:
        phrases = _phrase_set(phrases)
        settings = self.sight.settings
        features = siglip if self.by_siglip else dino
        if self.by_siglip:
            settings = replace(settings, affinity_scale=None, affinity_bias=None)
        if self.beta is not None:
            settings = _cut(features, self.beta, settings)
        head = self.sight.siglip.vision_model.head
        keys = head_keys(head, siglip.unsqueeze(0))
        mlp = settings.head_mlp is not False if self.mlp is None else self.mlp
        maps, extra_count = candidates(cosines(features).cpu(), settings, self.grid, self.cuts)
        if self.phrase_regions:
            single, _ = self.logits(pool_single(head, keys.values[0], mlp=mlp), phrases)
            dense = torch.from_numpy(single).to(features.device).sigmoid()
            phrase_regions = led_regions(features, dense, settings).cpu()
            extra_maps = split_components(
                phrase_regions[phrase_regions.amax(dim=1) > 0.5], self.grid
            )
            maps, extra_count = torch.cat([maps, extra_maps]), extra_count + len(extra_maps)
        weights = torch.cat([(maps > 0.5).float(), maps.new_ones(1, maps.shape[1])])
        weights = weights.to(features.device).unsqueeze(0)
        region_features = pool_regions(head, keys, weights, mlp=mlp)[0]
        penalties = np.zeros(len(maps) + 1, np.float32)
        penalties[len(maps) - extra_count : -1] = self.extra_cut_penalty
        logits, slopes = self.logits(region_features, phrases, penalties)
        return Scores(maps.view(-1, *self.grid).numpy(), logits[:, :-1], logits[:, -1], slopes)


@dataclass(frozen=True)
class Saliency(_Base):
    """DINO alone: it has no language, so every phrase gets the most salient regions.

    Saliency is 1 minus the mean affinity with the image border.
    """

    @torch.inference_mode()
    def __call__(self, siglip: Tensor, dino: Tensor, phrases: PhraseSet | Tensor) -> Scores:
        phrases = _phrase_set(phrases)
        settings = self.sight.settings
        if settings.affinity_scale is None or settings.affinity_bias is None:
            settings = _cut(dino, BETA, settings)
        maps = split_components(find_regions(dino, settings), self.grid)
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
        logits = torch.logit(salient).cpu().numpy()[None].repeat(len(phrases.embeddings), axis=0)
        best = logits.max(axis=1, initial=_NEVER)
        return Scores(maps.view(-1, *self.grid).cpu().numpy(), logits, best)


@dataclass(frozen=True)
class Dense(_Base):
    """A score per patch; a phrase's region is the component around its best patch.

    affinity: average values by DINO's affinities (ProxyCLIP) before the head's projection. Without
    it every patch stands alone, which is the max-patch baseline.
    """

    affinity: bool = True
    mlp: bool = True
    beta: float = BETA
    gamma: float = GAMMA

    @torch.inference_mode()
    def __call__(self, siglip: Tensor, dino: Tensor, phrases: PhraseSet | Tensor) -> Scores:
        phrases = _phrase_set(phrases)
        head = self.sight.siglip.vision_model.head
        values = head_keys(head, siglip.unsqueeze(0)).values[0]
        if self.affinity:
            weights = correlation_attention(cosines(dino), self.gamma, self.beta)
            values = torch.einsum("nm,mhd->nhd", weights, values)
        return self.dense(pool_single(head, values, mlp=self.mlp), phrases)


@dataclass(frozen=True)
class ValuePath(_Base):
    """MaskCLIP's value path (Zhou et al. 2022): each patch's value through the projection alone.

    No attention, no MLP: `out_proj(v_i)` is classified as it is. Its class map is cut where the
    phrase beats all of the bank's, which stands for the paper's argmax over the classes.
    """

    @torch.inference_mode()
    def __call__(self, siglip: Tensor, dino: Tensor, phrases: PhraseSet | Tensor) -> Scores:
        head = self.sight.siglip.vision_model.head
        values = head_keys(head, siglip.unsqueeze(0)).values[0]
        return self.dense(pool_single(head, values, mlp=False), _phrase_set(phrases))


@dataclass(frozen=True)
class SelfCorrelation(_Base):
    """RADSeg's self-correlating recursive attention (Alama et al. 2025), on SigLIP's last tokens.

    Attention among patches is softmax(scale (S - mean S)) with negative entries masked, S the
    cosine of the same features; the values that it averages are those of the pooling head.
    """

    scale: float = 10.0

    @torch.inference_mode()
    def __call__(self, siglip: Tensor, dino: Tensor, phrases: PhraseSet | Tensor) -> Scores:
        head = self.sight.siglip.vision_model.head
        values = head_keys(head, siglip.unsqueeze(0)).values[0]
        weights = correlation_attention(cosines(siglip), self.scale, 1.0)
        averaged = torch.einsum("nm,mhd->nhd", weights, values)
        return self.dense(pool_single(head, averaged, mlp=False), _phrase_set(phrases))


def correlation_attention(similarity: Tensor, scale: float, beta: float) -> Tensor:
    """Attention of patches by similarity [N, N]: softmax(scale (S - beta mean S)), over rows.

    Entries below 0 before the softmax are left out; a row without another has 0 everywhere.
    """
    excess = scale * (similarity - beta * similarity.mean())
    weights = excess.masked_fill(excess < 0, float("-inf")).softmax(dim=-1)
    return weights.nan_to_num(0.0)


@dataclass(frozen=True)
class Crops(_Base):
    """Each region's crop through the whole encoder: what the weights themselves say of it.

    An image of its own for each region, so this is a ceiling and no way to run a camera. image:
    uint8 [H, W, 3]. encode: pictures -> SigLIP's and DINO's last patches. margin: of the crop, as
    a share of the region's own sides.
    """

    image: UInt8Array
    encode: Callable[[list[UInt8Array]], tuple[Tensor, Tensor]]
    margin: float = 0.1

    @torch.inference_mode()
    def __call__(self, siglip: Tensor, dino: Tensor, phrases: PhraseSet | Tensor) -> Scores:
        phrases = _phrase_set(phrases)
        settings = self.sight.settings
        maps, extra_count = candidates(
            cosines(dino).cpu(), settings, self.grid, DEFAULT_OPTIONS.affinity_cuts
        )
        head = self.sight.siglip.vision_model.head
        pictures = [
            crop_region(self.image, region > 0.5, self.margin)
            for region in maps.view(-1, *self.grid).numpy()
        ]
        pictures.append(self.image)
        vectors = []
        for start in range(0, len(pictures), _CROP_BATCH):
            features, _ = self.encode(pictures[start : start + _CROP_BATCH])
            whole = features.new_ones(len(features), 1, features.shape[1])
            vectors.append(pool_regions(head, head_keys(head, features), whole)[:, 0])
        penalties = np.zeros(len(maps) + 1, np.float32)
        penalties[len(maps) - extra_count : -1] = DEFAULT_OPTIONS.extra_cut_penalty
        logits, slopes = self.logits(torch.cat(vectors), phrases, penalties)
        soft = maps.view(-1, *self.grid).numpy()
        return Scores(soft, logits[:, :-1], logits[:, -1], slopes)


def baselines(sight: GroundingModel) -> Mapping[str, Method]:
    """Baselines to compare this project's method with."""
    return {
        "SigLIP alone": Regions(sight, by_siglip=True),
        "DINO alone": Saliency(sight),
        "max patch": Dense(sight, affinity=False),
        "value path (MaskCLIP)": ValuePath(sight),
        "ProxyCLIP": Dense(sight, mlp=False),
        "self-correlation (RADSeg)": SelfCorrelation(sight),
    }


def ablation(sight: GroundingModel) -> Mapping[str, Method]:
    """Variants of the grounding with one switch changed at a time."""
    return {
        "regions of three cuts, head with MLP": Regions(sight),
        "regions of one cut": Regions(sight, cuts=(0.0,)),
        "regions of three cuts, none doubted": Regions(sight, extra_cut_penalty=0.0),
        "regions, each phrase leads one too": Regions(sight, phrase_regions=True),
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
    """Return settings that cut at beta times the mean cosine of these features."""
    patches = functional.normalize(features, dim=-1)
    scale = settings.affinity_scale or 20.0
    mean = float((patches @ patches.T).mean())
    return replace(settings, affinity_scale=scale, affinity_bias=-scale * beta * mean)


def _around_best(soft: FloatArray) -> FloatArray:
    """Keep only the component of a map, above one half, that contains its best patch."""
    _, labels = cv2.connectedComponents((soft > 0.5).astype(np.uint8), connectivity=8)
    best = np.unravel_index(int(soft.argmax()), soft.shape)
    if soft[best] <= 0.5:
        single = np.zeros_like(soft)
        single[best] = 1.0
        return single
    return np.where(labels == labels[best], soft, 0.0).astype(np.float32)


def led_regions(dinov2: Tensor, dense: Tensor, settings: GroundingSettings) -> Tensor:
    """Grow a region around the patch that fits each phrase best: soft maps [P, N].

    dense: [P, N], probability of each phrase at each single patch. SigLIP then finds a small thing
    whose patches DINOv2 gives to the table. With the embedded model it costs
    precision and finds nothing more (docs/grounding.md).
    """
    patches = functional.normalize(dinov2, dim=-1)
    cosine = patches @ patches.T
    scale, bias = affinity_sigmoid(cosine, settings, DEFAULT_OPTIONS)
    weights = torch.sigmoid(scale * cosine[dense.argmax(dim=1)] + bias) * dense
    mean = functional.normalize(weights @ patches, dim=-1)
    return torch.sigmoid(scale * (mean @ patches.T) + bias)
