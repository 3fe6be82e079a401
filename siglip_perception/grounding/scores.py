"""Scores of every region of one frame against every phrase."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from siglip_perception.types import FloatArray


@dataclass(frozen=True)
class Scores:
    """Regions and their logits.

    maps: float32 [R, rows, cols] in [0, 1], the share of each patch that belongs to the region; R
        may be 0.
    logits: float32 [P, R], calibrated log-odds.
    image_logits: float32 [P], of the whole image.
    slopes: float32 [P], log-odds for each unit of standing; None: 1.
    outside_training, unfamiliar: see Grounding.
    """

    maps: FloatArray
    logits: FloatArray
    image_logits: FloatArray
    slopes: FloatArray | None = None
    outside_training: bool = False
    unfamiliar: tuple[int, ...] = ()

    def with_presence_of(self, image_shares: FloatArray) -> Scores:
        """Take the presence of phrases apart from where they are.

        image_shares: of each phrase, float [P], see Calibration. The best region of a phrase gets
        the presence, and the others what they lack to the best one less. A share of 0 changes
        nothing.
        """
        apart = image_shares > 0
        if not apart.any() or not self.logits.shape[1]:
            return self
        best = self.logits.max(axis=1)
        shift = (image_shares * (self.image_logits - best)).astype(np.float32)
        image_logits = np.where(apart, best + shift, self.image_logits)
        return replace(self, logits=self.logits + shift[:, None], image_logits=image_logits)

    def presence(self) -> FloatArray:
        """Probability [P] that each phrase is in view: its best region's, or the whole image's."""
        all_logits = np.concatenate([self.logits, self.image_logits[:, None]], axis=1)
        best: FloatArray = sigmoid(all_logits.max(axis=1))
        return best


def sigmoid(logit: FloatArray | float) -> Any:
    """1 / (1 + exp(-logit)), elementwise, without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * np.asarray(logit, dtype=np.float64)))
