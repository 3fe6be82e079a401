"""Numbers of the grounding that belong to weights: grounding.json of a model folder."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from siglip_perception.errors import CheckpointError


@dataclass(frozen=True)
class GroundingSettings:
    """Numbers that belong to the weights.

    affinity_scale, affinity_bias: sigmoid(scale * cosine + bias) is the probability that two of
        DINOv2's patches show the same thing. None: not known for these weights, so the cut is set
        from each frame's mean affinity.
    """

    affinity_scale: float | None = None
    affinity_bias: float | None = None

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any]) -> GroundingSettings:
        """From grounding.json of a model folder, empty where there is none.

        Raises CheckpointError where a value is no number, or one is given without the other.
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
                    f"{name} in grounding.json is {reprlib.repr(value)} and has to be a number"
                    " between -1e6 and 1e6: get the model folder again."
                )
            numbers.append(float(value))
        return cls(*numbers)
