"""Camera frame to encoder input: Pillow's resize on a CPU, the same arithmetic on a GPU."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from siglip_perception.contracts import Contract, EncoderSpec, Interpolation, Resize, Triple
from siglip_perception.images.geometry import Geometry
from siglip_perception.images.pillow_resize import PillowResize
from siglip_perception.types import FloatArray, UInt8Array
from siglip_perception.util.device import upload

# Ratio of the sides above which an image is a sliver: no camera makes one.
_SLIVER = 16
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True)
class ResizeSpec:
    """Recipe for uint8 [size, size, 3] from a frame; equal recipes share the result."""

    resize: Resize
    interpolation: Interpolation
    size: int
    fill: tuple[int, int, int]

    @classmethod
    def of(cls, contract: Contract, spec: EncoderSpec) -> ResizeSpec:
        padded = contract.resize in ("letterbox", "resize-pad")
        fill = spec.fill if padded else (0, 0, 0)
        return cls(contract.resize, contract.interpolation, spec.image_size, fill)

    def geometry(self, width: int, height: int) -> Geometry:
        return Geometry.of(self.resize, self.size, width, height)


@dataclass(frozen=True)
class EncoderInput:
    """Input of one encoder: the square, normalized per channel with mean and std."""

    square: ResizeSpec
    mean: Triple
    std: Triple

    @classmethod
    def of(cls, contract: Contract, spec: EncoderSpec) -> EncoderInput:
        return cls(ResizeSpec.of(contract, spec), spec.mean, spec.std)


class DeviceFrames(Mapping[EncoderInput, Tensor]):
    """Frames on a device, and the encoders' inputs, computed lazily and without synchronizing.

    An input depends only on `frames` and on constants held by this object and by uncached(), so a
    CUDA graph that recorded it can replay on other frames in the same memory while one of the two
    objects is alive.
    frames: uint8 [H, W, 3] each. on_device: True if nothing is computed on the host.
    """

    def __init__(self, frames: Sequence[Tensor], tables: Mapping[EncoderInput, Tensor]) -> None:
        """tables: for each input float32 [3, 256], each channel's normalized levels."""
        self.frames = tuple(frames)
        self._tables = tables
        self._scalings = {
            encoder_input.square: [
                Scaling.of(encoder_input.square, frame.shape[0], frame.shape[1], frame.device)
                for frame in self.frames
            ]
            for encoder_input in tables
        }
        self._squares: dict[ResizeSpec, Tensor] = {}

    @property
    def on_device(self) -> bool:
        return not any(scaling.sliver for row in self._scalings.values() for scaling in row)

    def with_frames(self, frames: Sequence[Tensor]) -> DeviceFrames:
        """Return the inputs of other frames."""
        return DeviceFrames(frames, self._tables)

    def uncached(self) -> DeviceFrames:
        """Return the inputs of the same frames with nothing computed yet."""
        inputs = copy.copy(self)
        inputs._squares = {}
        return inputs

    def __getitem__(self, encoder_input: EncoderInput) -> Tensor:
        """Compute float32 [B, 3, S, S]; inputs with an equal square share it."""
        if encoder_input.square not in self._squares:
            pairs = zip(self._scalings[encoder_input.square], self.frames, strict=True)
            self._squares[encoder_input.square] = torch.stack(
                [scale(frame) for scale, frame in pairs]
            )
        levels = self._squares[encoder_input.square].permute(0, 3, 1, 2).flatten(2).long()
        table = self._tables[encoder_input].expand(len(levels), -1, -1)
        # By table, as on the CPU: CUDA replaces a division by a product with the reciprocal, which
        # rounds differently.
        size = encoder_input.square.size
        return table.gather(2, levels).view(-1, 3, size, size)

    def __iter__(self) -> Iterator[EncoderInput]:
        return iter(self._tables)

    def __len__(self) -> int:
        return len(self._tables)


class Preprocessor:
    """Converter from frames, uint8 [H, W, 3] RGB of any sizes, to the encoders' inputs."""

    def __init__(self, inputs: Sequence[EncoderInput], device: torch.device) -> None:
        self._device = device
        self._inputs = tuple(dict.fromkeys(inputs))
        self._squares = tuple(
            dict.fromkeys(encoder_input.square for encoder_input in self._inputs)
        )
        # A pixel has 256 values: a table is exact, and far faster than arithmetic.
        levels = np.arange(256, dtype=np.float32) / np.float32(255.0)
        self._tables: dict[EncoderInput, FloatArray] = {
            encoder_input: np.stack(
                [
                    (levels - np.float32(mean)) / np.float32(std)
                    for mean, std in zip(encoder_input.mean, encoder_input.std, strict=True)
                ]
            )
            for encoder_input in self._inputs
        }
        # Uploaded once: an upload per frame would synchronize with the GPU.
        self._uploaded = {
            encoder_input: torch.from_numpy(table).to(device)
            for encoder_input, table in self._tables.items()
        }

    def __call__(self, images: Sequence[UInt8Array]) -> Mapping[EncoderInput, Tensor]:
        """Compute each input, float32 [B, 3, S, S] on the device: (pixel / 255 - mean) / std."""
        for image in images:
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
                raise ValueError(
                    f"expected uint8 [H, W, 3], got {image.dtype} {list(image.shape)}"
                )
        if self._device.type == "cpu":
            squares = {
                square: np.stack([to_square(image, square) for image in images])
                for square in self._squares
            }
            return {
                encoder_input: self._normalize(squares[encoder_input.square], encoder_input)
                for encoder_input in self._inputs
            }
        return self.with_frames([upload(image, self._device) for image in images])

    def with_frames(self, frames: Sequence[Tensor]) -> DeviceFrames:
        """Return the inputs of frames uint8 [H, W, 3] that are on the device already."""
        return DeviceFrames(frames, self._uploaded)

    def _normalize(self, squares: UInt8Array, encoder_input: EncoderInput) -> Tensor:
        planes = np.ascontiguousarray(squares.transpose(3, 0, 1, 2))
        values = np.empty((len(squares), 3, *squares.shape[1:3]), dtype=np.float32)
        for channel in range(3):
            values[:, channel] = self._tables[encoder_input][channel][planes[channel]]
        return torch.from_numpy(values)


def to_square(image: UInt8Array, square: ResizeSpec) -> UInt8Array:
    """Resize uint8 [H, W, 3] to uint8 [S, S, 3], bit for bit as the references do with Pillow.

    Only an image more than 16 times as long as wide may differ, at its edges.
    """
    height, width = image.shape[:2]
    if (height, width) == (square.size, square.size):
        return image.copy()
    geometry = square.geometry(width, height)
    if is_sliver(width, height):
        return _sliver_to_square(image, geometry, square)
    left, top = geometry.padding
    if left or top:
        padded = np.empty((height + 2 * top, width + 2 * left, 3), dtype=np.uint8)
        padded[:] = square.fill
        padded[top : top + height, left : left + width] = image
        image = padded
    resized = np.asarray(pillow_resize(image, geometry.scaled_size, square.interpolation))
    return _place_in_square(resized, geometry, square)


def pillow_resize(
    image: UInt8Array, size: tuple[int, int], interpolation: Interpolation
) -> Image.Image:
    """Resize uint8 [H, W, 3] to (width, height) as Pillow did up to version 12.

    Rows first, then columns, rounded in between. Pillow 13 starts with the columns if the height
    shrinks by more than twice as many pixels as the width, as in a portrait frame; its pixels then
    differ by up to 20 levels in fine texture, and policies were trained on the old ones.
    """
    across = Image.fromarray(image).resize((size[0], image.shape[0]), _FILTERS[interpolation])
    return across.resize(size, _FILTERS[interpolation])


def is_sliver(width: int, height: int) -> bool:
    """Return whether padding or scaling the whole image would take far too much memory."""
    return max(width, height) > _SLIVER * min(width, height)


def _sliver_to_square(image: UInt8Array, geometry: Geometry, square: ResizeSpec) -> UInt8Array:
    """Resize only the part of a sliver that the square shows."""
    left, top, right, bottom = geometry.visible_region()
    corners = (*geometry.to_square(left, top), *geometry.to_square(right, bottom))
    x, y, end_x, end_y = (min(max(round(place), 0), square.size) for place in corners)
    x, y = min(x, square.size - 1), min(y, square.size - 1)
    size = max(end_x - x, 1), max(end_y - y, 1)
    visible = Image.fromarray(image).resize(
        size, _FILTERS[square.interpolation], box=(left, top, right, bottom)
    )
    canvas = np.empty((square.size, square.size, 3), dtype=np.uint8)
    canvas[:] = square.fill
    canvas[y : y + size[1], x : x + size[0]] = np.asarray(visible)
    return canvas


def _place_in_square(resized: UInt8Array, geometry: Geometry, square: ResizeSpec) -> UInt8Array:
    if resized.shape[:2] == (square.size, square.size):
        return resized
    canvas = np.empty((square.size, square.size, 3), dtype=np.uint8)
    canvas[:] = square.fill
    target, source = _overlap(geometry, square.size)
    canvas[target] = resized[source]
    return canvas


def _overlap(geometry: Geometry, size: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return (rows, columns) of the square that the scaled image fills, and its own there."""
    target, source = [], []
    for offset, length in zip(geometry.offset[::-1], geometry.scaled_size[::-1], strict=True):
        start, stop = max(offset, 0), min(offset + length, size)
        target.append(slice(start, stop))
        source.append(slice(start - offset, stop - offset))
    return (target[0], target[1]), (source[0], source[1])


@dataclass(frozen=True)
class Scaling:
    """to_square() for frames of one size on their own device, bit for bit.

    sliver: the host computes it, which synchronizes. fill: uint8 [3] on the device.
    """

    square: ResizeSpec
    geometry: Geometry
    sliver: bool
    matrices: PillowResize
    fill: Tensor

    @classmethod
    @functools.lru_cache(maxsize=32)
    def of(cls, square: ResizeSpec, height: int, width: int, device: torch.device) -> Scaling:
        geometry = square.geometry(width, height)
        left, top = geometry.padding
        sliver, matrices = is_sliver(width, height), PillowResize()
        if not sliver:
            padded = width + 2 * left, height + 2 * top
            matrices = PillowResize.of(padded, geometry.scaled_size, square.interpolation, device)
        fill = torch.tensor(square.fill, dtype=torch.uint8, device=device)
        return cls(square, geometry, sliver, matrices, fill)

    def __call__(self, image: Tensor) -> Tensor:
        """Resize uint8 [H, W, 3] to uint8 [S, S, 3]."""
        height, width = image.shape[:2]
        size = self.square.size
        if (height, width) == (size, size):
            return image
        if self.sliver:
            square = to_square(image.cpu().numpy(), self.square)
            return torch.from_numpy(square).to(image.device)
        left, top = self.geometry.padding
        if left or top:
            padded = self.fill.expand(height + 2 * top, width + 2 * left, 3).clone()
            padded[top : top + height, left : left + width] = image
            image = padded
        resized = self.matrices(image)
        if resized.shape[:2] == (size, size):
            return resized
        canvas = self.fill.expand(size, size, 3).clone()
        target, source = _overlap(self.geometry, size)
        canvas[target] = resized[source]
        return canvas
