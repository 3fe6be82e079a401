"""Camera frame -> encoder input."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from PIL import Image

from siglip_perception.contracts import Contract, EncoderName
from siglip_perception.types import FloatArray, UInt8Array


class Preprocessor:
    """Input: uint8 [H, W, 3] RGB, any size, values in [0, 255]. S: the contract's image_size."""

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        # A pixel has 256 values: normalising by table is exact, and far faster than arithmetic.
        levels = np.arange(256, dtype=np.float32) / np.float32(255.0)
        self._tables: dict[EncoderName, FloatArray] = {
            encoder.name: np.stack(
                [
                    (levels - np.float32(mean)) / np.float32(std)
                    for mean, std in zip(encoder.mean, encoder.std, strict=True)
                ]
            )
            for encoder in contract.encoders
        }

    def __call__(self, image: UInt8Array) -> UInt8Array:
        """Squash to uint8 [S, S, 3] by Pillow's bicubic with antialias."""
        size = self.contract.image_size
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ValueError(f"expected uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
        if image.shape[:2] == (size, size):
            return image.copy()
        resized = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)
        return np.array(resized)

    def normalise(self, square: UInt8Array) -> Mapping[EncoderName, torch.Tensor]:
        """uint8 [S, S, 3] -> for each encoder float32 [1, 3, S, S], (pixel / 255 - mean) / std."""
        planes = np.ascontiguousarray(square.transpose(2, 0, 1))
        inputs: dict[EncoderName, torch.Tensor] = {}
        for name, table in self._tables.items():
            normalised = np.empty((1, *planes.shape), dtype=np.float32)
            for channel in range(3):
                np.take(table[channel], planes[channel], out=normalised[0, channel])
            inputs[name] = torch.from_numpy(normalised)
        return inputs
