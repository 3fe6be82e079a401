"""Pictures of what the encoders hold: token colors, similarity maps, the thing under a click."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor

from siglip_perception.contracts import Contract
from siglip_perception.grounding.grounder import Grounder
from siglip_perception.grounding.standing import PhraseSet
from siglip_perception.images.geometry import Geometry
from siglip_perception.language.null_phrases import language_of
from siglip_perception.pipeline import PatchFeatures
from siglip_perception.types import FloatArray, TokenGrid, UInt8Array

# Shares of the values between which a component's colors run: a few outliers would gray the rest.
_QUANTILES = (0.02, 0.98)
# Subspace iterations from the axes of the frame before, which are nearly right already.
_ITERATIONS = 4


@dataclass(frozen=True)
class GridPlace:
    """Where a grid of patches lies on the picture.

    left, top, right, bottom: its edges in shares of the picture's width and height; outside of
    [0, 1] where the square has padding, inside where a border is cut off.
    """

    rows: int
    cols: int
    left: float
    top: float
    right: float
    bottom: float

    @classmethod
    def of(cls, geometry: Geometry, rows: int, cols: int) -> GridPlace:
        left, top = geometry.to_image(0, 0)
        right, bottom = geometry.to_image(geometry.size, geometry.size)
        width, height = geometry.width, geometry.height
        return cls(rows, cols, left / width, top / height, right / width, bottom / height)

    def patch(self, x: float, y: float) -> int | None:
        """Number of the patch at a point, in shares of the picture; None outside of the grid."""
        col = int((x - self.left) / (self.right - self.left) * self.cols // 1)
        row = int((y - self.top) / (self.bottom - self.top) * self.rows // 1)
        if not (0 <= col < self.cols and 0 <= row < self.rows):
            return None
        return row * self.cols + col


class TokenColors:
    """The three main components of tokens [N, D] as red, green and blue.

    Components have no sign, and an order only within one frame; each frame's are turned to agree
    best with those of the frame before, so that colors stay.
    """

    def __init__(self) -> None:
        self._axes: Tensor | None = None

    @torch.inference_mode()
    def __call__(self, tokens: Tensor) -> UInt8Array:
        """Return uint8 [N, 3]; tokens: [N, D] of any floating type, N and D at least 3."""
        values = tokens.float()
        centered = values - values.mean(dim=0)
        previous = self._axes
        if previous is None or len(previous) != values.shape[1]:
            axes = _main_axes(centered)
        else:
            axes = previous
            for _ in range(_ITERATIONS):
                axes = torch.linalg.qr(centered.T @ (centered @ axes)).Q
            # The rotation that brings the axes closest to the previous ones (Schönemann 1966).
            left, _, right = torch.linalg.svd(axes.T @ previous)
            axes = axes @ (left @ right)
        self._axes = axes
        components = centered @ axes
        low, high = torch.quantile(components, torch.tensor(_QUANTILES), dim=0)
        shares = (components - low) / (high - low).clamp_min(1e-12)
        colors: UInt8Array = (shares.clamp(0, 1) * 255).round().byte().numpy()
        return colors


def _main_axes(centered: Tensor) -> Tensor:
    """Three main axes [D, 3] of centered values [N, D], orthonormal, the strongest first."""
    # Of the smaller product: N is hundreds, and D may be thousands.
    _, vectors = torch.linalg.eigh(centered @ centered.T)
    axes: Tensor = torch.linalg.qr(centered.T @ vectors[:, -3:].flip(1)).Q
    return axes


def newest_image(grid: TokenGrid, contract: Contract) -> TokenGrid:
    """Return the tokens of the newest whole image, without its crops or the frames before."""
    rows = grid.rows // contract.history
    first = grid.rows - rows
    if contract.crops is not None:
        rows = contract.rows
    data = grid.data[first * grid.cols : (first + rows) * grid.cols]
    return replace(grid, data=data, rows=rows)


class TokenPictures:
    """Colors of a contract's tokens: "fused", and of each encoder's channels."""

    def __init__(self) -> None:
        self._colors: dict[str, TokenColors] = {}

    def __call__(self, grid: TokenGrid, contract: Contract | None) -> dict[str, UInt8Array]:
        """Map a name to uint8 [N, 3]. contract: None where only the whole tokens are known."""
        tokens = grid.to_torch()
        channels: dict[str, slice] = {"fused": slice(None)}
        # A shuffle repeats the channels for each patch that it joins.
        if contract is not None and not contract.tokens:
            channels.update({str(name): part for name, part in contract.channels.items()})
        if len(channels) == 2:  # one encoder alone is what is fused
            del channels["fused"]
        return {
            name: self._colors.setdefault(name, TokenColors())(tokens[:, part])
            for name, part in channels.items()
        }


@dataclass(frozen=True)
class HeatMaps:
    """Similarity of every patch with every phrase.

    levels: uint8 [P, N], 0 the least and 255 the most similar patch of the phrase. ranges: the
    cosines behind 0 and 255, for each phrase.
    """

    levels: UInt8Array
    ranges: tuple[tuple[float, float], ...]


def heat_maps(grounder: Grounder, features: PatchFeatures, phrases: Tensor) -> HeatMaps:
    """Compare SigLIP's patches, each pooled alone, with phrases' unit embeddings [P, D]."""
    cosines: FloatArray = grounder.similarities(features.siglip, phrases).numpy()
    return HeatMaps(*_levels(cosines))


def _levels(values: FloatArray) -> tuple[UInt8Array, tuple[tuple[float, float], ...]]:
    """Scale each row of [P, N] to 0..255; the ends of each."""
    low, high = values.min(axis=1, keepdims=True), values.max(axis=1, keepdims=True)
    span = np.maximum(high - low, 1e-9)
    levels: UInt8Array = np.rint((values - low) / span * 255).astype(np.uint8)
    return levels, tuple((float(a), float(b)) for a, b in zip(low[:, 0], high[:, 0], strict=True))


@dataclass(frozen=True)
class Probe:
    """Facts of one patch.

    patch: its number. alike: uint8 [N], DINOv2's cosine with every patch, 0 for -1 and 255 for 1.
    thing: bool [N], the patches around it that DINOv2 holds for one thing with it. nearest: the
    phrases that SigLIP finds likeliest for that thing, (phrase, probability), likeliest first.
    """

    patch: int
    alike: UInt8Array
    thing: FloatArray
    nearest: tuple[tuple[str, float], ...]


def probe(
    grounder: Grounder,
    features: PatchFeatures,
    patch: int,
    cols: int,
    phrases: Sequence[str],
    embeddings: Tensor,
    count: int = 5,
) -> Probe:
    """Look at the thing around one patch. embeddings: of the phrases, unit, [P, D]."""
    cosine, same = grounder.same_thing(features.dino, patch)
    grid = same.numpy().reshape(-1, cols).astype(np.uint8)
    _, labels = cv2.connectedComponents(grid, connectivity=4)
    flat = labels.reshape(-1)
    thing = flat == flat[patch]
    if not same[patch]:  # by a calibration that holds a patch unlike itself
        thing = np.arange(len(flat)) == patch
    probabilities = grounder.probabilities(
        features.siglip,
        torch.from_numpy(thing),
        PhraseSet(embeddings, tuple(map(language_of, phrases)), embeddings[:0]),
    ).tolist()
    ranked = sorted(zip(phrases, probabilities, strict=True), key=lambda pair: -pair[1])
    alike: UInt8Array = np.rint((cosine.numpy().clip(-1, 1) + 1) * 127.5).astype(np.uint8)
    return Probe(patch, alike, thing, tuple(ranked[:count]))
