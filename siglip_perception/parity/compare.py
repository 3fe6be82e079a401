"""Whether the tokens are those that a policy was trained on: ours against the reference's own.

The reference is timm's model, or transformers' where the contract is theirs, fed by Pillow and
plain arithmetic, with the same weights. Random weights prove the plumbing, not any accuracy.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from siglip_perception import contracts
from siglip_perception.errors import PerceptionError
from siglip_perception.parity.reference import reference_of, reference_tokens
from siglip_perception.pipeline import Pipeline, PipelineOptions
from siglip_perception.types import Frame, UInt8Array

# By precision: largest error in units of the tokens' RMS, and least cosine of a token. In fp32
# equal functions differ by some 1e-6, and GELU's two forms, the least slip of all, by more.
LIMITS: dict[str, tuple[float, float]] = {
    "fp32": (1e-4, 0.999999),
    "bf16": (float("inf"), 0.9999),
    "fp16": (float("inf"), 0.9999),
}


@dataclass(frozen=True)
class Comparison:
    """Ours against the reference, over all tokens of all images.

    max_error: largest absolute difference, as a share of the reference tokens' RMS.
    min_cosine: least cosine of a token with the reference's.
    """

    contract: str
    reference: str
    weights: str
    precision: str
    images: int
    tokens: int
    dim: int
    max_error: float
    min_cosine: float
    seconds_ours: float
    seconds_reference: float

    @property
    def equal(self) -> bool:
        """Whether the differences are those of the arithmetic alone."""
        error, cosine = LIMITS[self.precision]
        return self.max_error <= error and self.min_cosine >= cosine


def compare(
    name: str, model: Path, images: list[UInt8Array], precision: str, weights: str
) -> Comparison:
    """Run ours, then the reference, on the same images with the weights in `model`.

    name: of a packaged contract, or the path of a .yaml file.
    Raises PerceptionError where the reference's library is missing.
    """
    contract = contracts.get(name)
    kind = reference_of(contract)
    pipeline = Pipeline.load(
        PipelineOptions(model=str(model), contract=name, device="cpu", precision=precision)
    )
    began = time.perf_counter()
    ours = []
    for image in images:
        grid = pipeline.process(Frame(image), None).tokens
        assert grid is not None
        ours.append(torch.from_numpy(grid.data))
    seconds = time.perf_counter() - began
    del pipeline  # both at once are gigabytes at real size
    began = time.perf_counter()
    theirs = reference_tokens(contract, model, images)
    took = time.perf_counter() - began
    error, cosine = differences(torch.stack(ours), theirs)
    return Comparison(
        contract.name,
        kind,
        weights,
        precision,
        len(images),
        theirs.shape[1],
        theirs.shape[2],
        error,
        cosine,
        seconds,
        took,
    )


def differences(ours: Tensor, theirs: Tensor) -> tuple[float, float]:
    """Largest absolute error over the RMS of `theirs`, and least cosine; both [B, N, D]."""
    if ours.shape != theirs.shape:
        raise PerceptionError(
            f"The tokens are {list(ours.shape)} and the reference's {list(theirs.shape)}:"
            " the contract's grid or channels are not the reference's."
        )
    ours, theirs = ours.double(), theirs.double()
    error = (ours - theirs).abs().max() / theirs.square().mean().sqrt()
    cosine = torch.nn.functional.cosine_similarity(ours, theirs, dim=-1).min()
    return float(error), float(cosine)


def sample_images(seed: int) -> list[UInt8Array]:
    """Camera frames that are hard to resize: fine texture, edges and noise, wide and tall."""
    rng = np.random.default_rng(seed)
    images = []
    for height, width in ((480, 640), (720, 405)):
        ys, xs = np.mgrid[:height, :width]
        waves = 127 + np.stack(
            [60 * np.sin(xs / 7.3) + 60 * np.cos(ys / step) for step in (3.1, 5.7, 11.0)], axis=-1
        )
        noise = rng.normal(0, 20, (height, width, 3))
        image = np.clip(waves + noise, 0, 255).astype(np.uint8)
        image[height // 4 : height // 2, width // 3 : width // 2] = rng.integers(0, 256, 3)
        images.append(image)
    return images
