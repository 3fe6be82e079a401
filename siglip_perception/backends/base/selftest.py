"""Self-test of an engine before it serves: its tokens must be those of PyTorch's float32 pass."""

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

# Least cosine of a token or feature with its float32 value. bfloat16 passes measured here keep
# 0.9999 and more. int8 is judged on the user's own frames when it is calibrated; here the limit
# only shows that the graph is the right one.
LIMITS: dict[Precision, float] = {"fp32": 0.99999, "bf16": 0.999, "fp16": 0.999, "int8": 0.9}


@dataclass(frozen=True)
class Reference:
    """Inputs, and PyTorch's float32 outputs: tokens, and features if the grounding reads them."""

    inputs: Mapping[EncoderInput, Tensor]
    features: Features


def frames(count: int) -> list[UInt8Array]:
    """Generate camera frames uint8 [480, 640, 3]: noise with structure at every scale."""
    generator = np.random.default_rng(0)
    images = []
    for _ in range(count):
        picture = np.full((480, 640, 3), 127.0)
        for scale in (1, 4, 20, 80):
            coarse = generator.normal(0, 40, (480 // scale, 640 // scale, 3))
            picture += np.kron(coarse, np.ones((scale, scale, 1)))
        images.append(np.clip(picture, 0, 255).astype(np.uint8))
    return images


def reference(encoders: Encoders) -> Reference:
    """Run PyTorch's own pass over a frame; call it before prepare()."""
    inputs = Preprocessor(encoders.inputs, torch.device("cpu"))(frames(1))
    return Reference(inputs, run(encoders, inputs))


def run(encoders: Encoders, inputs: Mapping[EncoderInput, Tensor]) -> Features:
    """Compute every output of the encoders for one image."""
    return encoders(
        inputs, with_tokens=True, grounding_rows=[0] if encoders.grounding_keys else []
    )


def least_cosine(features: Features, reference_features: Features) -> float:
    """Return the least cosine over all tokens and features; 0 if an output is not finite."""
    least = 1.0
    for output, expected in zip(_tensors(features), _tensors(reference_features), strict=True):
        if not bool(output.isfinite().all()):
            return 0.0
        cosine = functional.cosine_similarity(output.float(), expected.float(), dim=-1)
        least = min(least, float(cosine.min()))
    return least


def check(encoders: Encoders, expected: Reference, precision: Precision, engine: str) -> float:
    """Return the least cosine; raises BackendError below the precision's limit."""
    cosine = least_cosine(run(encoders, expected.inputs), expected.features)
    if cosine < LIMITS[precision]:
        raise BackendError(
            f"{engine} gives other tokens than PyTorch in {precision} (least cosine {cosine:.5f},"
            f" limit {LIMITS[precision]:g}): use backend: torch, or another precision."
        )
    return cosine


def _tensors(features: Features) -> list[Tensor]:
    outputs = (features.tokens, features.siglip, features.dino)
    return [tensor for tensor in outputs if tensor is not None]
