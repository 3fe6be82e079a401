"""Camera frame -> encoder input: Pillow's own resize on a CPU, the same arithmetic on a GPU."""

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

# An image so many times longer than wide is no camera's.
_SLIVER = 16
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True)
class ResizeSpec:
    """How a frame becomes uint8 [size, size, 3]; encoders with an equal one share the work."""

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
    """What one encoder is fed: the square, normalized by channel with mean and std."""

    square: ResizeSpec
    mean: Triple
    std: Triple

    @classmethod
    def of(cls, contract: Contract, spec: EncoderSpec) -> EncoderInput:
        return cls(ResizeSpec.of(contract, spec), spec.mean, spec.std)


class DeviceFrames(Mapping[EncoderInput, Tensor]):
    """Frames on a device, and the encoders' inputs of them, each computed when it is asked for.

    Nothing is waited for on the way. An input depends on `frames` and on constants that this
    object and again() hold: a CUDA graph that recorded it may run over other frames in the same
    memory as long as one of them is kept.
    frames: uint8 [H, W, 3] each. steady: whether all is computed on the device.
    """

    def __init__(self, frames: Sequence[Tensor], tables: Mapping[EncoderInput, Tensor]) -> None:
        """tables: of each input float32 [3, 256], each channel's value of each level."""
        self.frames = tuple(frames)
        self._tables = tables
        self._scalings = {
            one.square: [
                Scaling.of(one.square, frame.shape[0], frame.shape[1], frame.device)
                for frame in self.frames
            ]
            for one in tables
        }
        self._squares: dict[ResizeSpec, Tensor] = {}

    @property
    def steady(self) -> bool:
        return not any(one.sliver for row in self._scalings.values() for one in row)

    def over(self, frames: Sequence[Tensor]) -> DeviceFrames:
        """The inputs of other frames."""
        return DeviceFrames(frames, self._tables)

    def again(self) -> DeviceFrames:
        """The inputs of the same frames, of which nothing has been computed yet."""
        other = copy.copy(self)
        other._squares = {}
        return other

    def __getitem__(self, one: EncoderInput) -> Tensor:
        """float32 [B, 3, S, S]; inputs of an equal square share its computation."""
        if one.square not in self._squares:
            scaled = zip(self._scalings[one.square], self.frames, strict=True)
            self._squares[one.square] = torch.stack([scale(frame) for scale, frame in scaled])
        levels = self._squares[one.square].permute(0, 3, 1, 2).flatten(2).long()
        table = self._tables[one].expand(len(levels), -1, -1)
        # A table, as on the CPU: CUDA divides by a number as it multiplies by its reciprocal.
        size = one.square.size
        return table.gather(2, levels).view(-1, 3, size, size)

    def __iter__(self) -> Iterator[EncoderInput]:
        return iter(self._tables)

    def __len__(self) -> int:
        return len(self._tables)


class Preprocessor:
    """Frames uint8 [H, W, 3] RGB, of any sizes, values in [0, 255] -> the encoders' inputs."""

    def __init__(self, inputs: Sequence[EncoderInput], device: torch.device) -> None:
        self._device = device
        self._inputs = tuple(dict.fromkeys(inputs))
        self._squares = tuple(dict.fromkeys(one.square for one in self._inputs))
        # A pixel has 256 values: normalizing by table is exact, and far faster than arithmetic.
        levels = np.arange(256, dtype=np.float32) / np.float32(255.0)
        self._tables: dict[EncoderInput, FloatArray] = {
            one: np.stack(
                [
                    (levels - np.float32(mean)) / np.float32(std)
                    for mean, std in zip(one.mean, one.std, strict=True)
                ]
            )
            for one in self._inputs
        }
        # On the device once: to make them anew for each frame would wait for the GPU.
        self._uploaded = {
            one: torch.from_numpy(table).to(device) for one, table in self._tables.items()
        }

    def __call__(self, images: Sequence[UInt8Array]) -> Mapping[EncoderInput, Tensor]:
        """For each input float32 [B, 3, S, S] on the device, (pixel / 255 - mean) / std."""
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
            return {one: self._look_up(squares[one.square], one) for one in self._inputs}
        return self.over([upload(image, self._device) for image in images])

    def over(self, frames: Sequence[Tensor]) -> DeviceFrames:
        """The inputs of frames uint8 [H, W, 3] that are on the device, as it computes them."""
        return DeviceFrames(frames, self._uploaded)

    def _look_up(self, squares: UInt8Array, one: EncoderInput) -> Tensor:
        planes = np.ascontiguousarray(squares.transpose(3, 0, 1, 2))
        normalized = np.empty((len(squares), 3, *squares.shape[1:3]), dtype=np.float32)
        for channel in range(3):
            normalized[:, channel] = self._tables[one][channel][planes[channel]]
        return torch.from_numpy(normalized)


def to_square(image: UInt8Array, square: ResizeSpec) -> UInt8Array:
    """uint8 [H, W, 3] -> uint8 [S, S, 3], bit for bit as the references give it with Pillow.

    Only an image more than 16 times as long as wide may differ at its edges.
    """
    height, width = image.shape[:2]
    if (height, width) == (square.size, square.size):
        return image.copy()
    geometry = square.geometry(width, height)
    if is_sliver(width, height):
        return _sliver_to_square(image, geometry, square)
    left, top = geometry.before
    if left or top:
        padded = np.empty((height + 2 * top, width + 2 * left, 3), dtype=np.uint8)
        padded[:] = square.fill
        padded[top : top + height, left : left + width] = image
        image = padded
    scaled = np.asarray(pillow_resize(image, geometry.scaled, square.interpolation))
    return _place_array(scaled, geometry, square)


def pillow_resize(
    image: UInt8Array, size: tuple[int, int], interpolation: Interpolation
) -> Image.Image:
    """Pillow's resize of uint8 [H, W, 3] to (width, height) as it was until Pillow 12.

    Across, then down, with a rounding in between. Pillow 13 begins with the columns where the
    height shrinks by more than twice as many pixels as the width, as a portrait frame's does, and
    gives other pixels then, by up to 20 levels in fine texture. Policies were trained before that.
    """
    across = Image.fromarray(image).resize((size[0], image.shape[0]), _FILTERS[interpolation])
    return across.resize(size, _FILTERS[interpolation])


def is_sliver(width: int, height: int) -> bool:
    """Whether padding or scaling the whole image would take memory out of all proportion."""
    return max(width, height) > _SLIVER * min(width, height)


def _sliver_to_square(image: UInt8Array, geometry: Geometry, square: ResizeSpec) -> UInt8Array:
    """What the square shows of a sliver, and nothing of the rest is made on the way."""
    left, top, right, bottom = geometry.seen()
    corners = (*geometry.to_square(left, top), *geometry.to_square(right, bottom))
    x, y, end_x, end_y = (min(max(round(place), 0), square.size) for place in corners)
    x, y = min(x, square.size - 1), min(y, square.size - 1)
    size = max(end_x - x, 1), max(end_y - y, 1)
    shown = Image.fromarray(image).resize(
        size, _FILTERS[square.interpolation], box=(left, top, right, bottom)
    )
    placed = np.empty((square.size, square.size, 3), dtype=np.uint8)
    placed[:] = square.fill
    placed[y : y + size[1], x : x + size[0]] = np.asarray(shown)
    return placed


def _place_array(scaled: UInt8Array, geometry: Geometry, square: ResizeSpec) -> UInt8Array:
    if scaled.shape[:2] == (square.size, square.size):
        return scaled
    placed = np.empty((square.size, square.size, 3), dtype=np.uint8)
    placed[:] = square.fill
    into, out = _overlap(geometry, square.size)
    placed[into] = scaled[out]
    return placed


def _overlap(geometry: Geometry, size: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where the scaled image lies in the square, and which part of it that is: rows, columns."""
    into, out = [], []
    for offset, length in zip(geometry.offset[::-1], geometry.scaled[::-1], strict=True):
        start, stop = max(offset, 0), min(offset + length, size)
        into.append(slice(start, stop))
        out.append(slice(start - offset, stop - offset))
    return (into[0], into[1]), (out[0], out[1])


@dataclass(frozen=True)
class Scaling:
    """to_square for frames of one size on their own device, bit for bit.

    sliver: the host does it, and is waited for. fill: uint8 [3] on the device.
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
        left, top = geometry.before
        sliver, matrices = is_sliver(width, height), PillowResize()
        if not sliver:
            padded = width + 2 * left, height + 2 * top
            matrices = PillowResize.of(padded, geometry.scaled, square.interpolation, device)
        fill = torch.tensor(square.fill, dtype=torch.uint8, device=device)
        return cls(square, geometry, sliver, matrices, fill)

    def __call__(self, image: Tensor) -> Tensor:
        """uint8 [H, W, 3] -> uint8 [S, S, 3]."""
        height, width = image.shape[:2]
        size = self.square.size
        if (height, width) == (size, size):
            return image
        if self.sliver:
            square = to_square(image.cpu().numpy(), self.square)
            return torch.from_numpy(square).to(image.device)
        left, top = self.geometry.before
        if left or top:
            padded = self.fill.expand(height + 2 * top, width + 2 * left, 3).clone()
            padded[top : top + height, left : left + width] = image
            image = padded
        scaled = self.matrices(image)
        if scaled.shape[:2] == (size, size):
            return scaled
        placed = self.fill.expand(size, size, 3).clone()
        into, out = _overlap(self.geometry, size)
        placed[into] = scaled[out]
        return placed
