"""Features and phrases -> regions, probabilities, boxes and masks in camera pixels.

DINOv2 says which patches belong together, SigLIP's pooling head looks at each such region alone
and answers yes or no to each phrase. No softmax anywhere: two red cups are two objects, and
nothing obliges a phrase to be found.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from siglip_perception.checkpoints.grounding_settings import GroundingSettings
from siglip_perception.grounding.components import split_pieces
from siglip_perception.grounding.mask_refinement import MaskRefiner, largest_piece
from siglip_perception.grounding.region_head import RegionHead
from siglip_perception.images.geometry import Geometry, spread
from siglip_perception.types import Box, FloatArray, GroundedObject, Role, UInt8Array
from siglip_perception.util.device import to_host, upload

if TYPE_CHECKING:
    from transformers import SiglipModel

# ProxyCLIP (Lan et al. 2024) keeps the affinities above 1.2 times their mean.
_PROXYCLIP_BETA = 1.2
# Not measured on stock DINOv2: a slope under which a cosine 0.1 past the cut is a clear yes.
_STOCK_SCALE = 20.0
_MAX_REGIONS = 32
# Below one half: a patch that a region half covers, at its edge, must not lead another one.
_CLAIMED = 0.4
# An object this much smaller than a better one that it touches is a part of it.
_PART = 0.5
# Shifts of the cut at which regions are found: where things hang together too much, or too little.
AFFINITY_CUTS = (0.0, 0.5, -0.5)
# A region that shares so much of its union with one before is a copy of it.
_DUPLICATE_IOU = 0.8
# Of the second and third cut's regions, log-odds: whoever asks more often is told yes more often.
EXTRA_CUT_PENALTY = 1.0
# Of two regions of a thing the larger is preferred by so many log-odds for each doubling.
_SIZE_BONUS = 0.5
# Two regions that share so much of the smaller one's patches share half of its pixels, too.
_SAME = 0.8
_NEAR = np.ones((3, 3), np.uint8)


@dataclass(frozen=True)
class Scores:
    """Every region of one frame against every phrase.

    maps: float32 [R, rows, cols] in [0, 1], share of each patch that belongs to the region; R may
        be 0.
    logits: float32 [P, R]. whole: float32 [P], logits of the image as a whole.
    """

    maps: FloatArray
    logits: FloatArray
    whole: FloatArray

    def presence(self) -> FloatArray:
        """For each phrase the probability [P] that it is in view: best region, or the whole."""
        everything = np.concatenate([self.logits, self.whole[:, None]], axis=1)
        best: FloatArray = sigmoid(everything.max(axis=1))
        return best


def _cut(cosine: Tensor, settings: GroundingSettings) -> tuple[float, float]:
    """Scale and bias of the probability that two patches show the same thing."""
    if settings.affinity_scale is None or settings.affinity_bias is None:
        return _STOCK_SCALE, -_STOCK_SCALE * _PROXYCLIP_BETA * float(cosine.mean())
    return settings.affinity_scale, settings.affinity_bias


def cosines(dinov2: Tensor) -> Tensor:
    """Of DINOv2's patches [N, D] with each other: float32 [N, N]."""
    patches = functional.normalize(dinov2, dim=-1)
    return patches @ patches.T


def find_regions(dinov2: Tensor, settings: GroundingSettings) -> Tensor:
    """Soft maps [R, N], on the CPU, of the things that DINOv2's patches [N, D] hold together."""
    return regions_at(cosines(dinov2).cpu(), settings, (0.0,))[0]


def regions_at(
    cosine: Tensor, settings: GroundingSettings, shifts: Sequence[float]
) -> list[Tensor]:
    """find_regions of the patches' cosines [N, N], on the CPU, for each shift of the cut's
    log-odds: below 0 things come apart sooner.

    Greedy: the unclaimed patch with most unclaimed companions leads; its companions' mean
    feature, renewed once, draws the region; what it covers is claimed. Each step waits for the
    one before, so the steps are the CPU's: a GPU would take longer to be told of them.
    """
    scale, middle = _cut(cosine, settings)
    bias = np.array([[middle + shift] for shift in shifts], np.float32)
    affinity = torch.sigmoid(scale * cosine + torch.from_numpy(bias).unsqueeze(-1))
    # Arrays and tensors of one memory: NumPy's steps cost a third of PyTorch's at this size, and
    # PyTorch's products keep to its own threads.
    unclaimed = np.ones((len(shifts), len(cosine)), np.float32)
    weights = np.empty_like(unclaimed)
    free, weighing = torch.from_numpy(unclaimed).unsqueeze(-1), torch.from_numpy(weights)
    rows, links = np.arange(len(shifts)), affinity.numpy()
    found: list[FloatArray] = []
    going: list[Any] = []
    while len(found) < _MAX_REGIONS and (goes := unclaimed.any(axis=1)).any():
        companions = torch.bmm(affinity, free).squeeze(-1).numpy() * unclaimed
        leader = companions.argmax(axis=1)
        np.multiply(links[rows, leader], unclaimed, out=weights)
        region = np.zeros_like(weights)
        for _ in range(2):
            # The weighted sum's products with all patches, and its own length, out of the cosines.
            along = torch.mm(weighing, cosine).numpy()
            squared = np.maximum((weights * along).sum(axis=1, keepdims=True), 1e-12)
            logits = along * (scale / np.sqrt(squared)) + bias
            drawn = torch.from_numpy(logits).sigmoid_().numpy()
            region = np.where(weights.any(axis=1, keepdims=True), drawn, region)
            np.multiply(region * (region > 0.5), unclaimed, out=weights)
        unclaimed *= region <= _CLAIMED
        unclaimed[rows, leader] = 0.0
        found.append(region)
        going.append(goes & (region.max(axis=1) > 0.5))
    maps, kept = torch.from_numpy(np.stack(found, axis=1)), torch.from_numpy(np.stack(going, 1))
    return [one[keep] for one, keep in zip(maps, kept, strict=True)]


def candidates(
    cosine: Tensor, settings: GroundingSettings, grid: tuple[int, int], shifts: Sequence[float]
) -> tuple[Tensor, int]:
    """The separate pieces of all shifts' regions, soft maps [R, N], no two alike.

    cosine: see cosines(), on the CPU. The pieces of the first shift come first; how many
    of the others there are, at the end.
    """
    sets = [split_pieces(one, grid) for one in regions_at(cosine, settings, shifts)]
    maps = torch.cat(sets)
    inside = (maps > 0.5).float()
    shared, sizes = inside @ inside.T, inside.sum(dim=1)
    union = (sizes.unsqueeze(0) + sizes.unsqueeze(1) - shared).clamp_min(1)
    before = (shared / union).tril(diagonal=-1).amax(dim=1) if len(maps) else sizes
    kept = before < _DUPLICATE_IOU
    kept[: len(sets[0])] = True
    return maps[kept], int(kept[len(sets[0]) :].sum())


def led_regions(dinov2: Tensor, dense: Tensor, settings: GroundingSettings) -> Tensor:
    """Soft maps [P, N]: for each phrase, what hangs together with the patch that it fits best.

    dense: [P, N], probability of each phrase at each single patch. A small thing whose patches
    DINOv2 leaves to the table is found where SigLIP sees it. Only the ablation uses it: with the
    embedded model it costs precision and finds nothing more (docs/grounding.md).
    """
    patches = functional.normalize(dinov2, dim=-1)
    cosine = patches @ patches.T
    scale, bias = _cut(cosine, settings)
    weights = torch.sigmoid(scale * cosine[dense.argmax(dim=1)] + bias) * dense
    mean = functional.normalize(weights @ patches, dim=-1)
    return torch.sigmoid(scale * (mean @ patches.T) + bias)


class Grounder:
    """Scores the regions of a frame by SigLIP's pooling head, learned scale and bias.

    dtype: of the head's products.
    """

    def __init__(
        self,
        siglip: SiglipModel,
        grid: tuple[int, int],
        settings: GroundingSettings,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._head = RegionHead(siglip.vision_model.head, dtype)
        self._scale = float(siglip.logit_scale.exp())
        self._bias = float(siglip.logit_bias)
        self._grid = grid
        self._settings = settings

    def score(self, siglip: Tensor, dinov2: Tensor, phrases: Tensor) -> Scores:
        """Features [N, D] of both encoders and unit phrase embeddings [P, D] -> Scores."""
        cosine = cosines(dinov2).cpu()
        return self.score_all([(siglip, cosine, phrases)])[0]

    @torch.inference_mode()
    def score_all(self, asked: Sequence[tuple[Tensor, Tensor, Tensor]]) -> list[Scores]:
        """score() of some frames, on a GPU waited for once.

        asked: of each frame SigLIP's features, cosines() of DINOv2's on the CPU, and embeddings.
        """
        found, logits = [], []
        for siglip, cosine, phrases in asked:
            maps, others = candidates(cosine, self._settings, self._grid, AFFINITY_CUTS)
            whole = maps.new_ones(1, maps.shape[1])  # also where there is no region at all
            weights = upload(torch.cat([(maps > 0.5).float(), whole]).numpy(), siglip.device)
            pooled = functional.normalize(self._head(siglip, weights), dim=-1)
            embeddings = phrases.to(siglip.device)
            found.append((maps, others))
            logits.append(embeddings @ pooled.T * self._scale + self._bias)
        scores = []
        for (maps, others), one in zip(found, to_host(*logits), strict=True):
            values = one.numpy()
            values[:, len(maps) - others : -1] -= EXTRA_CUT_PENALTY
            soft = maps.view(-1, *self._grid).numpy()
            scores.append(Scores(soft, values[:, :-1], values[:, -1]))
        return scores


def sigmoid(logit: FloatArray | float) -> Any:
    """1 / (1 + exp(-logit)), elementwise, without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * np.asarray(logit, dtype=np.float64)))


@dataclass(frozen=True)
class ObjectMask:
    """mask: uint8 [height, width] of 0 and 1 in camera pixels. box: of it. area: its pixels."""

    mask: UInt8Array
    box: Box
    area: int

    @classmethod
    def of(
        cls, soft: FloatArray, geometry: Geometry, patch: int, colors: MaskRefiner | None
    ) -> ObjectMask:
        """A region's map [rows, cols]; the colors, the picture's, sharpen it.

        Of several pieces the largest is kept: what DINOv2 holds together, as two books, comes
        apart in the pixels.
        """
        if colors is None:
            part = largest_piece((spread(soft, geometry, patch) > 0.5).astype(np.uint8))
            left, top = 0, 0
        else:
            # What is faint and further off than the next patch is another thing of a like color.
            near = cv2.dilate((soft > 0.5).astype(np.uint8), _NEAR)
            share = spread(soft * near, geometry, patch, colors.size)
            part, (left, top) = colors.sharpen(share, patch / geometry.size)
        mask = np.zeros((geometry.height, geometry.width), np.uint8)
        mask[top : top + part.shape[0], left : left + part.shape[1]] = part
        x, y, width, height = cv2.boundingRect(part) if part.size else (0, 0, 0, 0)
        return cls(mask, Box(left + x, top + y, width, height), cv2.countNonZero(part))

    def overlap(self, other: ObjectMask) -> float:
        """What two masks share, as a share of the smaller one."""
        left, top = max(self.box.x, other.box.x), max(self.box.y, other.box.y)
        right = min(self.box.x + self.box.width, other.box.x + other.box.width)
        bottom = min(self.box.y + self.box.height, other.box.y + other.box.height)
        if left >= right or top >= bottom:
            return 0.0
        both = np.s_[top:bottom, left:right]
        common = cv2.countNonZero(self.mask[both] & other.mask[both])
        return common / max(min(self.area, other.area), 1)

    def is_part_of(self, better: ObjectMask) -> bool:
        """Whether it is a part of a better one, as a cup's handle is: smaller, and touching it."""
        one, other = self.box, better.box
        apart_x = max(one.x, other.x) - min(one.x + one.width, other.x + other.width)
        apart_y = max(one.y, other.y) - min(one.y + one.height, other.y + other.height)
        return self.area < _PART * better.area and max(apart_x, apart_y) <= 0


def select_objects(
    scores: Scores,
    phrases: tuple[str, ...],
    roles: tuple[Role, ...],
    geometry: Geometry,
    patch: int,
    threshold: float,
    max_objects: int,
    image: UInt8Array | None = None,
) -> tuple[list[GroundedObject], list[UInt8Array]]:
    """The regions that a phrase names with a probability of `threshold` or more, with their masks.

    Best first within a phrase; of two regions that share half of the smaller the better one
    stays, and so it does beside its own parts. image: uint8 [height, width, 3] RGB; its colors
    sharpen the masks.
    """
    colors: MaskRefiner | None = None
    objects: list[GroundedObject] = []
    masks: list[UInt8Array] = []
    every: dict[int, ObjectMask] = {}
    probability = sigmoid(scores.logits)
    inside = (scores.maps > 0.5).reshape(len(scores.maps), math.prod(scores.maps.shape[1:]))
    patches = inside.sum(axis=1)
    sizes = np.log2(np.maximum(patches, 1))
    for number, (phrase, role) in enumerate(zip(phrases, roles, strict=True)):
        kept: list[tuple[int, ObjectMask]] = []
        order = np.argsort(-(scores.logits[number] + _SIZE_BONUS * sizes), kind="stable")
        for region in order[probability[number, order] >= threshold].tolist():
            if len(objects) + len(kept) >= max_objects:
                break
            # Of the same patches as one that is kept: it need not be drawn to be seen as the same.
            if any(
                int((inside[region] & inside[other]).sum())
                > _SAME * min(patches[region], patches[other])
                for other, _ in kept
            ):
                continue
            if region not in every:
                if colors is None and image is not None:
                    colors = MaskRefiner(image)
                every[region] = ObjectMask.of(scores.maps[region], geometry, patch, colors)
            drawn = every[region]
            if not drawn.area or any(
                drawn.is_part_of(better) or drawn.overlap(better) > 0.5 for _, better in kept
            ):
                continue
            kept.append((region, drawn))
        kept.sort(key=lambda one: -scores.logits[number, one[0]])
        for region, drawn in kept:
            masks.append(drawn.mask)
            objects.append(
                GroundedObject(
                    phrase,
                    float(probability[number, region]),
                    float(scores.logits[number, region]),
                    drawn.box,
                    drawn.area / drawn.mask.size,
                    role,
                )
            )
    return objects, masks


def label_mask(masks: list[UInt8Array], width: int, height: int) -> UInt8Array:
    """One image uint8 [height, width]: 0, or the object's index + 1; the first object wins."""
    labels = np.zeros((height, width), dtype=np.uint8)
    for number in range(min(len(masks), 255), 0, -1):
        labels[masks[number - 1] > 0] = number
    return labels
