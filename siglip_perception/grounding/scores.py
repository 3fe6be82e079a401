"""Scores of every region of one frame against every phrase."""

from __future__ import annotations

from dataclasses import dataclass
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

    def presence(self) -> FloatArray:
        """Probability [P] that each phrase is in view: its best region's, or the whole image's."""
        all_logits = np.concatenate([self.logits, self.image_logits[:, None]], axis=1)
        best: FloatArray = sigmoid(all_logits.max(axis=1))
        return best


def sigmoid(logit: FloatArray | float) -> Any:
    """1 / (1 + exp(-logit)), elementwise, without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * np.asarray(logit, dtype=np.float64)))
