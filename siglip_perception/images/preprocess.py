"""Camera frame to encoder input: a contract's pixel steps, then the normalization."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from siglip_perception.contracts import Contract, EncoderSpec, Triple
from siglip_perception.images.squares import DeviceSquare, Pixels, SquareSpec, to_square
from siglip_perception.types import FloatArray, UInt8Array
from siglip_perception.util.device import upload


@dataclass(frozen=True)
class EncoderInput:
    """Input of one encoder: the square, normalized per channel with mean and std."""

    square: SquareSpec
    mean: Triple
    std: Triple

    @classmethod
    def of(cls, contract: Contract, spec: EncoderSpec) -> EncoderInput:
        return cls(SquareSpec.of(contract, spec), spec.mean, spec.std)


class DeviceFrames(Mapping[EncoderInput, Tensor]):
    """Frames on a device, and the encoders' inputs, computed lazily and without synchronizing.

    An input depends only on `frames` and on constants held by this object and by uncached(), so a
    CUDA graph that recorded it can replay on other frames in the same memory while one of the two
    objects is alive.
    frames: uint8 [H, W, 3] each. on_device: True if nothing is computed on the host.
    """

    def __init__(
        self, frames: Sequence[Tensor], normalizers: Mapping[EncoderInput, Normalizer]
    ) -> None:
        """normalizers: one for each input, on the frames' device."""
        self.frames = tuple(frames)
        self._normalizers = normalizers
        self._device_squares = {
            encoder_input.square: [
                DeviceSquare.of(encoder_input.square, frame.shape[0], frame.shape[1], frame.device)
                for frame in self.frames
            ]
            for encoder_input in normalizers
        }
        self._squares: dict[SquareSpec, Tensor] = {}

    @property
    def on_device(self) -> bool:
        return not any(square.on_host for row in self._device_squares.values() for square in row)

    def with_frames(self, frames: Sequence[Tensor]) -> DeviceFrames:
        """Return the inputs of other frames."""
        return DeviceFrames(frames, self._normalizers)

    def uncached(self) -> DeviceFrames:
        """Return the inputs of the same frames with nothing computed yet."""
        inputs = copy.copy(self)
        inputs._squares = {}
        return inputs

    def __getitem__(self, encoder_input: EncoderInput) -> Tensor:
        """Compute float32 [B, 3, S, S]; inputs with an equal square share it."""
        if encoder_input.square not in self._squares:
            pairs = zip(self._device_squares[encoder_input.square], self.frames, strict=True)
            self._squares[encoder_input.square] = torch.stack(
                [square(frame) for square, frame in pairs]
            )
        return self._normalizers[encoder_input](self._squares[encoder_input.square])

    def __iter__(self) -> Iterator[EncoderInput]:
        return iter(self._normalizers)

    def __len__(self) -> int:
        return len(self._normalizers)


class Preprocessor:
    """Converter from frames, uint8 [H, W, 3] RGB of any sizes, to the encoders' inputs."""

    def __init__(self, inputs: Sequence[EncoderInput], device: torch.device) -> None:
        self._device = device
        self._inputs = tuple(dict.fromkeys(inputs))
        self._squares = tuple(
            dict.fromkeys(encoder_input.square for encoder_input in self._inputs)
        )
        self._host = {
            encoder_input: Normalizer.of(encoder_input, torch.device("cpu"))
            for encoder_input in self._inputs
        }
        # Uploaded once: an upload per frame would synchronize with the GPU.
        self._uploaded = {
            encoder_input: Normalizer.of(encoder_input, device) for encoder_input in self._inputs
        }

    def __call__(self, images: Sequence[UInt8Array]) -> Mapping[EncoderInput, Tensor]:
        """Compute each input, float32 [B, 3, S, S] on the device: (pixel / 255 - mean) / std."""
        for image in images:
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
                raise ValueError(
                    f"expected uint8 [H, W, 3], got {image.dtype} {list(image.shape)}"
                )
        on_cpu = self._device.type == "cpu"
        # A step that needs the host needs the frame there: no upload, no graph.
        if on_cpu or any(square.on_host for square in self._squares):
            squares: dict[SquareSpec, Any] = {
                square: np.stack([to_square(image, square) for image in images])
                for square in self._squares
            }
            inputs = {
                encoder_input: self._host[encoder_input].on_host(squares[encoder_input.square])
                for encoder_input in self._inputs
            }
            if on_cpu:
                return inputs
            return {key: upload(values.numpy(), self._device) for key, values in inputs.items()}
        return self.with_frames([upload(image, self._device) for image in images])

    def with_frames(self, frames: Sequence[Tensor]) -> DeviceFrames:
        """Return the inputs of frames uint8 [H, W, 3] that are on the device already."""
        return DeviceFrames(frames, self._uploaded)


@dataclass(frozen=True)
class Normalizer:
    """(pixel / 255 - mean) / std of squares on one device.

    table: float32 [3, 256], each channel's normalized levels: a pixel has 256 values, so a table
        is exact, and far faster than arithmetic.
    scale, mean, std: float32 [3, 1, 1], for squares of float32. Tensors, as CUDA turns a division
        by a number into a product with the reciprocal, which rounds differently.
    """

    table: Tensor
    scale: Tensor
    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, encoder_input: EncoderInput, device: torch.device) -> Normalizer:
        levels = np.arange(256, dtype=np.float32) / np.float32(255.0)
        table: FloatArray = np.stack(
            [
                (levels - np.float32(mean)) / np.float32(std)
                for mean, std in zip(encoder_input.mean, encoder_input.std, strict=True)
            ]
        )
        mean, std = (
            torch.tensor(values, dtype=torch.float32, device=device).view(3, 1, 1)
            for values in (encoder_input.mean, encoder_input.std)
        )
        scale = torch.full((3, 1, 1), 255.0, device=device)
        return cls(torch.from_numpy(table).to(device), scale, mean, std)

    def __call__(self, squares: Tensor) -> Tensor:
        """Normalize [B, S, S, 3]: float32 [B, 3, S, S]."""
        planes = squares.permute(0, 3, 1, 2)
        if squares.is_floating_point():
            return (planes / self.scale - self.mean).div(self.std).contiguous()
        levels = planes.flatten(2).long()
        table = self.table.expand(len(levels), -1, -1)
        return table.gather(2, levels).view(planes.shape)

    def on_host(self, squares: Pixels) -> Tensor:
        """Normalize squares of the host: there OpenCV reads a table five times as fast."""
        values = np.empty((len(squares), 3, *squares.shape[1:3]), dtype=np.float32)
        if squares.dtype != np.uint8:
            np.copyto(values, squares.transpose(0, 3, 1, 2))
            normalized = torch.from_numpy(values)
            return normalized.div_(self.scale).sub_(self.mean).div_(self.std)
        levels = self.table.numpy()
        for square, planes in zip(squares, values, strict=True):
            for plane, table, result in zip(cv2.split(square), levels, planes, strict=True):
                cv2.LUT(plane, table, result)
        return torch.from_numpy(values)
