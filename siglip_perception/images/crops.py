"""The overlapping crops of an image that a contract encodes after the whole image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from siglip_perception.contracts import Contract
from siglip_perception.contracts.steps import Crops, ResizeStep, tiling
from siglip_perception.images.squares import is_sliver, resize
from siglip_perception.types import UInt8Array


@dataclass(frozen=True)
class CropPlan:
    """Cut of an image into crops of the encoder's square, on the host.

    resize: the contract's only pixel step, with which the image is scaled to hold all crops.
    size: side of a crop, pixels. patch: side of a patch, pixels.
    """

    crops: Crops
    resize: ResizeStep
    size: int
    patch: int

    @classmethod
    def of(cls, contract: Contract) -> CropPlan | None:
        """Return the contract's plan; None if it encodes the whole image alone."""
        if contract.crops is None:
            return None
        (step,) = contract.pixels
        assert isinstance(step, ResizeStep)
        spec = contract.encoders[0]
        return cls(contract.crops, step, spec.image_size, spec.patch)

    def views(self, image: UInt8Array) -> list[UInt8Array]:
        """Return the image and its crops, row by row, uint8 [S, S, 3] each.

        A sliver, which no camera makes, has none: scaled to the crops it would fill the memory.
        """
        height, width = image.shape[:2]
        if is_sliver(width, height):
            return [image]
        margin, window = self._lengths()
        rows, cols = self.tiling(width, height)
        size = cols * window + margin, rows * window + margin
        scaled = image if size == (width, height) else resize(self.resize, image, size)
        assert scaled.dtype == np.uint8
        return [
            image,
            *(
                np.ascontiguousarray(
                    scaled[row : row + self.size, col : col + self.size], dtype=np.uint8
                )
                for row in range(0, rows * window, window)
                for col in range(0, cols * window, window)
            ),
        ]

    def tiling(self, width: int, height: int) -> tuple[int, int]:
        """Return the rows and columns of crops for an image of that size."""
        margin, window = self._lengths()
        return tiling(width - margin, height - margin, window, self.crops.most)

    def count(self, image: UInt8Array) -> int:
        """Return how many images views() gives."""
        height, width = image.shape[:2]
        if is_sliver(width, height):
            return 1
        rows, cols = self.tiling(width, height)
        return 1 + rows * cols

    def _lengths(self) -> tuple[int, int]:
        """Return the pixels of both margins, and of the window between them."""
        margin = 2 * self.crops.margin * self.patch
        return margin, self.size - margin
