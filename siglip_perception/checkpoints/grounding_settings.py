"""Calibration of the grounding for one set of weights: grounding.json of a model folder."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from siglip_perception.errors import CheckpointError


@dataclass(frozen=True)
class GroundingSettings:
    """Calibration for one set of weights.

    affinity_scale, affinity_bias: sigmoid(scale * cosine + bias) is the probability that two
        DINOv2 patches show the same thing. None: not measured for these weights, so each frame's
        mean affinity sets the cut.
    """

    affinity_scale: float | None = None
    affinity_bias: float | None = None

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any]) -> GroundingSettings:
        """Check the content of grounding.json; empty without one.

        Raises CheckpointError if a value is not a number, or one is there without the other.
        """
        names = ("affinity_scale", "affinity_bias")
        if all(content.get(name) is None for name in names):
            return cls()
        numbers: list[float] = []
        for name in names:
            value = content.get(name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if value is None or not number or not -1e6 <= value <= 1e6:
                raise CheckpointError(
                    f"{name} in grounding.json is {reprlib.repr(value)} and must be a number"
                    " between -1e6 and 1e6: get a fresh copy of the model folder."
                )
            numbers.append(float(value))
        return cls(*numbers)
