"""Score the regions of a frame against phrases.

DINOv2 says which patches belong together; SigLIP's pooling head looks at each such region alone
and answers yes or no to each phrase. There is no softmax anywhere: two red cups are two objects,
and a phrase may be nowhere in view.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from siglip_perception.checkpoints.grounding_settings import GroundingSettings
from siglip_perception.grounding.options import DEFAULT_OPTIONS, GroundingOptions
from siglip_perception.grounding.region_head import RegionHead
from siglip_perception.grounding.regions import affinity_sigmoid, candidates, cosines
from siglip_perception.grounding.scores import Scores
from siglip_perception.util.device import to_host, upload

if TYPE_CHECKING:
    from siglip_perception.checkpoints.networks import Siglip


class Grounder:
    """Scores regions by SigLIP's pooling head with its learned scale and bias.

    dtype: of the head's products.
    """

    def __init__(
        self,
        siglip: Siglip,
        grid: tuple[int, int],
        settings: GroundingSettings,
        dtype: torch.dtype = torch.float32,
        options: GroundingOptions = DEFAULT_OPTIONS,
    ) -> None:
        self.options = options
        self._head = RegionHead(siglip.vision_model.head, dtype)
        self._scale = float(siglip.logit_scale.exp())
        self._bias = float(siglip.logit_bias)
        self._grid = grid
        self._settings = settings

    def score(self, siglip: Tensor, dinov2: Tensor, phrases: Tensor) -> Scores:
        """Score one frame: features [N, D] of both encoders, unit phrase embeddings [P, D]."""
        cosine = cosines(dinov2).cpu()
        return self.score_all([(siglip, cosine, phrases)])[0]

    @torch.inference_mode()
    def pool(self, siglip: Tensor) -> Tensor:
        """Embed whole images as SigLIP does: features [B, N, D] -> float32 [B, D], unit length."""
        return functional.normalize(self._head.whole_images(siglip), dim=-1)

    @torch.inference_mode()
    def score_all(self, frames: Sequence[tuple[Tensor, Tensor, Tensor]]) -> list[Scores]:
        """Score several frames and wait for a GPU only once.

        frames: for each, SigLIP's features [N, D], cosines() of DINOv2's on the CPU, and unit
        phrase embeddings [P, D].
        """
        regions, logits = [], []
        for siglip, cosine, phrases in frames:
            maps, extra_count = candidates(
                cosine, self._settings, self._grid, self.options.affinity_cuts, self.options
            )
            # The whole image is pooled along with them, also where there is no region at all.
            whole_image = maps.new_ones(1, maps.shape[1])
            weights = upload(torch.cat([(maps > 0.5).float(), whole_image]).numpy(), siglip.device)
            pooled = functional.normalize(self._head(siglip, weights), dim=-1)
            embeddings = phrases.to(siglip.device)
            regions.append((maps, extra_count))
            logits.append(embeddings @ pooled.T * self._scale + self._bias)
        scores = []
        for (maps, extra_count), host_logits in zip(regions, to_host(*logits), strict=True):
            values = host_logits.numpy()
            values[:, len(maps) - extra_count : -1] -= self.options.extra_cut_penalty
            soft = maps.view(-1, *self._grid).numpy()
            scores.append(Scores(soft, values[:, :-1], values[:, -1]))
        return scores

    @torch.inference_mode()
    def similarities(self, siglip: Tensor, phrases: Tensor) -> Tensor:
        """Cosine of every patch, pooled alone, with every phrase: float32 [P, N] on the CPU.

        siglip: features [N, D] of one frame. phrases: unit embeddings [P, D].
        """
        patches = functional.normalize(self._head.pool_each(siglip), dim=-1)
        return to_host(phrases.to(siglip.device) @ patches.T)[0]

    @torch.inference_mode()
    def probabilities(self, siglip: Tensor, region: Tensor, phrases: Tensor) -> Tensor:
        """Probability of every phrase for one region, bool [N] of the patches: [P] on the CPU."""
        weights = region.float().unsqueeze(0).to(siglip.device)
        pooled = functional.normalize(self._head(siglip, weights), dim=-1)
        logits = phrases.to(siglip.device) @ pooled.T * self._scale + self._bias
        return torch.sigmoid(to_host(logits)[0].squeeze(-1))

    @torch.inference_mode()
    def same_thing(self, dinov2: Tensor, patch: int) -> tuple[Tensor, Tensor]:
        """Compare one patch with all: cosines float32 [N], and bool [N] of those of its thing.

        dinov2: features [N, D] of one frame. A patch is of the same thing if the model's
        calibration holds that likelier than not. Both on the CPU.
        """
        cosine = to_host(cosines(dinov2))[0]
        scale, bias = affinity_sigmoid(cosine, self._settings, self.options)
        return cosine[patch], scale * cosine[patch] + bias > 0
