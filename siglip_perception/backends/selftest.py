"""Whether an engine gives the tokens of PyTorch's float32 pass, before it serves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from siglip_perception.encoders.encoders import Encoders, Features
from siglip_perception.errors import BackendError
from siglip_perception.images.preprocess import EncoderInput, Preprocessor
from siglip_perception.types import Precision, UInt8Array

# Least cosine of a token or a feature with its float32 self. Real bfloat16 passes keep 0.9999
# and more; int8 is held to the user's own frames when it is calibrated, here to no more than that
# the graph is the right one.
LIMITS: dict[Precision, float] = {"fp32": 0.99999, "bf16": 0.999, "fp16": 0.999, "int8": 0.9}


@dataclass(frozen=True)
class Reference:
    """Inputs, and what PyTorch makes of them in float32: tokens, features where they are read."""

    inputs: Mapping[EncoderInput, Tensor]
    features: Features


def frames(number: int) -> list[UInt8Array]:
    """Camera frames uint8 [480, 640, 3] that need no file: noise with structure at every scale."""
    generator = np.random.default_rng(0)
    made = []
    for _ in range(number):
        picture = np.full((480, 640, 3), 127.0)
        for scale in (1, 4, 20, 80):
            coarse = generator.normal(0, 40, (480 // scale, 640 // scale, 3))
            picture += np.kron(coarse, np.ones((scale, scale, 1)))
        made.append(np.clip(picture, 0, 255).astype(np.uint8))
    return made


def reference(encoders: Encoders) -> Reference:
    """PyTorch's own pass over a frame; before prepare()."""
    inputs = Preprocessor(encoders.inputs, torch.device("cpu"))(frames(1))
    return Reference(inputs, run(encoders, inputs))


def run(encoders: Encoders, inputs: Mapping[EncoderInput, Tensor]) -> Features:
    """All that the encoders are asked for, of one image."""
    return encoders(inputs, with_tokens=True, grounded=[0] if encoders.reads else [])


def least_cosine(one: Features, other: Features) -> float:
    """Over all tokens and features; 0 where one is not finite."""
    least = 1.0
    for ours, theirs in zip(_tensors(one), _tensors(other), strict=True):
        if not bool(ours.isfinite().all()):
            return 0.0
        cosine = functional.cosine_similarity(ours.float(), theirs.float(), dim=-1)
        least = min(least, float(cosine.min()))
    return least


def check(encoders: Encoders, expected: Reference, precision: Precision, engine: str) -> float:
    """The least cosine; raises BackendError where it is below the precision's limit."""
    found = least_cosine(run(encoders, expected.inputs), expected.features)
    if found < LIMITS[precision]:
        raise BackendError(
            f"{engine} gives other tokens than PyTorch in {precision} (least cosine {found:.5f},"
            f" limit {LIMITS[precision]:g}): use backend: torch, or another precision."
        )
    return found


def _tensors(features: Features) -> list[Tensor]:
    found = (features.tokens, features.siglip, features.dino)
    return [tensor for tensor in found if tensor is not None]
