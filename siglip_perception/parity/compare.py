"""Compare the pipeline's tokens with the reference implementation that a policy was trained on.

The reference is timm's model, or transformers' if the contract is theirs, on images resized by
Pillow, with the same weights. Random weights verify the plumbing, not accuracy.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from siglip_perception.config import ModelSelection
from siglip_perception.errors import PerceptionError
from siglip_perception.parity.reference import reference_of, reference_tokens
from siglip_perception.pipeline import Pipeline
from siglip_perception.types import Frame, UInt8Array

# By precision: maximum error relative to the tokens' RMS, and minimum cosine of a token. In fp32
# equal functions differ by about 1e-6; the smallest possible slip, GELU's tanh form, by more.
LIMITS: dict[str, tuple[float, float]] = {
    "fp32": (1e-4, 0.999999),
    "bf16": (float("inf"), 0.9999),
    "fp16": (float("inf"), 0.9999),
}


@dataclass(frozen=True)
class Comparison:
    """The pipeline against the reference, over all tokens of all images.

    max_error: maximum absolute difference, relative to the RMS of the reference tokens.
    min_cosine: minimum cosine of a token with the reference's.
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
        """True if the differences are small enough to be rounding alone."""
        error, cosine = LIMITS[self.precision]
        return self.max_error <= error and self.min_cosine >= cosine


def compare(
    name: str, model: Path, images: list[UInt8Array], precision: str, weights: str
) -> Comparison:
    """Run the pipeline and then the reference on the same images, with the weights in `model`.

    name: a packaged contract, or the path of a .yaml file.
    Raises PerceptionError if the reference's library is not installed.
    """
    pipeline = Pipeline.load(
        ModelSelection(str(model), contract=name, device="cpu", precision=precision)
    )
    contract = pipeline.contract  # normalizing as the checkpoint does, where it says so
    kind = reference_of(contract)
    start = time.perf_counter()
    pipeline_output = []
    for image in images:
        tokens = pipeline.process(Frame(image), None).tokens
        assert tokens is not None
        pipeline_output.append(torch.from_numpy(tokens.data))
    pipeline_seconds = time.perf_counter() - start
    del pipeline  # at real size both at once take gigabytes
    start = time.perf_counter()
    if contract.has_free_grid:  # each image has a number of tokens of its own
        each = [reference_tokens(contract, model, [image])[0] for image in images]
        reference_output = torch.cat(each)[None]
    else:
        reference_output = reference_tokens(contract, model, images)
    reference_seconds = time.perf_counter() - start
    # An image's crops are rows of its tokens here, and images of their own there.
    actual = torch.cat(pipeline_output).reshape(reference_output.shape)
    error, cosine = differences(actual, reference_output)
    return Comparison(
        contract.name,
        kind,
        weights,
        precision,
        len(images),
        reference_output.shape[1],
        reference_output.shape[2],
        error,
        cosine,
        pipeline_seconds,
        reference_seconds,
    )


def differences(actual: Tensor, expected: Tensor) -> tuple[float, float]:
    """Maximum absolute error relative to the RMS of `expected`, and minimum token cosine.

    actual, expected: [B, N, D].
    """
    if actual.shape != expected.shape:
        raise PerceptionError(
            f"The tokens are {list(actual.shape)} but the reference's are {list(expected.shape)}:"
            " correct the contract's grid or channels."
        )
    actual, expected = actual.double(), expected.double()
    error = (actual - expected).abs().max() / expected.square().mean().sqrt()
    cosine = torch.nn.functional.cosine_similarity(actual, expected, dim=-1).min()
    return float(error), float(cosine)


def sample_images(seed: int) -> list[UInt8Array]:
    """Make images that are hard to resize: fine texture, edges and noise; wide and tall."""
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
