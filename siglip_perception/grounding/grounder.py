"""Score the regions of a frame against phrases.

DINOv2 says which patches belong together; SigLIP's pooling head looks at each such region alone,
and each phrase gets a yes or no from its standing among the null bank's phrases there
(standing.py). There is no softmax anywhere: two red cups are two objects, and a phrase may be
nowhere in view.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from siglip_perception.checkpoints.grounding_settings import GroundingSettings
from siglip_perception.grounding.options import DEFAULT_OPTIONS, GroundingOptions
from siglip_perception.grounding.region_head import RegionHead
from siglip_perception.grounding.regions import affinity_sigmoid, candidates, cosines
from siglip_perception.grounding.scores import Scores
from siglip_perception.grounding.standing import PhraseSet, lines_of, log_odds, texts_of
from siglip_perception.grounding.training_domain import TrainingDomain
from siglip_perception.util.device import to_host, upload

if TYPE_CHECKING:
    from siglip_perception.checkpoints.networks import Siglip


class Grounder:
    """Scores regions by SigLIP's pooling head: a phrase's standing among the bank's phrases.

    domain: what the model was trained on; None where nobody measured it. grid: rows and columns of
    patches. dtype: of the head's products. bank: language -> unit
    embeddings float32 [K, D] of the null bank, on the device of the features.
    """

    def __init__(
        self,
        siglip: Siglip,
        grid: tuple[int, int],
        settings: GroundingSettings,
        bank: Mapping[str, Tensor],
        dtype: torch.dtype = torch.float32,
        options: GroundingOptions = DEFAULT_OPTIONS,
    ) -> None:
        self.options = options
        self.settings = settings
        self.bank = dict(bank)
        self.head = RegionHead(siglip.vision_model.head, dtype)
        self.head.with_mlp = settings.head_mlp is not False
        self.domain: TrainingDomain | None = None
        self.grid = grid

    def score(self, siglip: Tensor, dinov2: Tensor, phrases: PhraseSet | Tensor) -> Scores:
        """Score one frame: features [N, D] of both encoders, and phrases.

        A tensor of unit embeddings [P, D] stands for English phrases without negatives.
        """
        if isinstance(phrases, Tensor):
            phrases = PhraseSet.plain(phrases)
        cosine = cosines(dinov2).cpu()
        return self.score_all([(siglip, cosine, phrases)])[0]

    @torch.inference_mode()
    def pool(self, siglip: Tensor) -> Tensor:
        """Embed whole images as SigLIP does: features [B, N, D] -> float32 [B, D], unit length."""
        return functional.normalize(self.head.whole_images(siglip), dim=-1)

    @torch.inference_mode()
    def score_all(self, frames: Sequence[tuple[Tensor, Tensor, PhraseSet]]) -> list[Scores]:
        """Score several frames and wait for a GPU only once.

        frames: for each, SigLIP's features [N, D], cosines() of DINOv2's on the CPU, and phrases.
        """
        regions, products, distances = [], [], []
        for siglip, cosine, phrases in frames:
            maps, extra_count = candidates(
                cosine, self.settings, self.grid, self.options.affinity_cuts, self.options
            )
            # The whole image is pooled along with them, also where there is no region at all.
            whole_image = maps.new_ones(1, maps.shape[1])
            weights = upload(torch.cat([(maps > 0.5).float(), whole_image]).numpy(), siglip.device)
            pooled = functional.normalize(self.head(siglip, weights), dim=-1)
            regions.append((maps, extra_count, phrases))
            if self.domain is not None:
                distances.append(self.domain.distances(siglip))
            products.append(texts_of(phrases, self.bank, siglip.device) @ pooled.T)
        scores = []
        host_values = to_host(*products, *distances)
        for place, (maps, extra_count, phrases) in enumerate(regions):
            is_outside = self.domain is not None and self.domain.is_outside(
                host_values[len(regions) + place]
            )
            penalties = np.zeros(len(maps) + 1, np.float32)
            penalties[len(maps) - extra_count : -1] = self.options.extra_cut_penalty
            logits, slopes = log_odds(
                host_values[place].numpy(),
                phrases,
                self.bank,
                self.settings.calibration,
                self.options,
                penalties,
                is_outside,
            )
            soft = maps.view(-1, *self.grid).numpy()
            regions_scores = Scores(
                soft, logits[:, :-1], logits[:, -1], slopes, is_outside, phrases.unfamiliar
            )
            lines = lines_of(phrases, self.settings.calibration, self.options, is_outside)
            shares = np.array([line.image_share for line in lines], np.float32)
            scores.append(regions_scores.with_presence_of(shares))
        return scores

    @torch.inference_mode()
    def similarities(self, siglip: Tensor, phrases: Tensor) -> Tensor:
        """Cosine of every patch, pooled alone, with every phrase: float32 [P, N] on the CPU.

        siglip: features [N, D] of one frame. phrases: unit embeddings [P, D].
        """
        patches = functional.normalize(self.head.pool_each(siglip), dim=-1)
        return to_host(phrases.to(siglip.device) @ patches.T)[0]

    @torch.inference_mode()
    def probabilities(self, siglip: Tensor, region: Tensor, phrases: PhraseSet | Tensor) -> Tensor:
        """Probability of every phrase for one region, bool [N] of the patches: [P] on the CPU.

        The frame's level is that of the region and of the whole image: no other region is known.
        """
        if isinstance(phrases, Tensor):
            phrases = PhraseSet.plain(phrases)
        weights = torch.stack([region.float(), torch.ones_like(region, dtype=torch.float32)])
        pooled = functional.normalize(self.head(siglip, weights.to(siglip.device)), dim=-1)
        products = to_host(texts_of(phrases, self.bank, siglip.device) @ pooled.T)[0]
        calibration = self.settings.calibration
        logits, _ = log_odds(products.numpy(), phrases, self.bank, calibration, self.options)
        return torch.sigmoid(torch.from_numpy(logits[:, 0]))

    @torch.inference_mode()
    def same_thing(self, dinov2: Tensor, patch: int) -> tuple[Tensor, Tensor]:
        """Compare one patch with all: cosines float32 [N], and bool [N] of those of its thing.

        dinov2: features [N, D] of one frame. A patch is of the same thing if the model's
        calibration holds that likelier than not. Both on the CPU.
        """
        cosine = to_host(cosines(dinov2))[0]
        scale, bias = affinity_sigmoid(cosine, self.settings, self.options)
        return cosine[patch], scale * cosine[patch] + bias > 0
