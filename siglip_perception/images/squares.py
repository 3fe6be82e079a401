"""A contract's pixel steps, run over a frame on the host or on the device that holds it.

On the host each library's own resize runs where its arithmetic is meant: Pillow, OpenCV and
PyTorch; TensorFlow's and jax's are matrix products. On a device all are products or PyTorch's, and
those that need the host (JPEG, OpenCV) make the host compute the whole square.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeGuard

import cv2
import numpy as np
import simplejpeg
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from siglip_perception.contracts import Contract, EncoderSpec
from siglip_perception.contracts.steps import (
    Crop,
    Fill,
    Interpolation,
    Jpeg,
    Pad,
    Placement,
    ResizeStep,
    Rounding,
    Step,
    Steps,
    host_steps,
    is_free,
    strategy,
)
from siglip_perception.images.geometry import Geometry
from siglip_perception.images.matrix_resize import MatrixResize, resize_on_host
from siglip_perception.images.pillow_resize import (
    PillowResize,
    pillow_resize,
    pillow_resize_part,
)
from siglip_perception.types import FloatArray, UInt8Array

Pixels = UInt8Array | FloatArray
"""[H, W, 3] with values in [0, 255]."""

# Ratio of the sides above which an image is a sliver: no camera makes one.
_SLIVER = 16
_CHROMA = {"4:4:4": 0, "4:2:0": 2}  # Pillow's numbers
_OPENCV = {
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
}


@dataclass(frozen=True)
class SquareSpec:
    """Recipe for [size, size, 3] from a frame; equal recipes share the result.

    steps: with the fill of each padding written out.
    """

    steps: Steps
    size: int

    @classmethod
    def of(cls, contract: Contract, spec: EncoderSpec) -> SquareSpec:
        mean: Fill = (int(255 * spec.mean[0]), int(255 * spec.mean[1]), int(255 * spec.mean[2]))
        steps = []
        for step in contract.pixels:
            if isinstance(step, Pad) and not isinstance(step.fill, tuple):
                step = Pad(step.to, step.place, mean if step.fill == "mean" else spec.fill)
            steps.append(step)
        return cls(tuple(steps), spec.image_size)

    @classmethod
    def squash(cls, interpolation: Interpolation, size: int) -> SquareSpec:
        """Return the recipe of a plain resize with Pillow's filter."""
        return cls(strategy("squash", interpolation), size)

    @property
    def is_float(self) -> bool:
        """True if the square is float32; else it is uint8."""
        return any(
            isinstance(step, (ResizeStep, Crop)) and step.rounding == "none" for step in self.steps
        )

    @property
    def on_host(self) -> bool:
        """True if some step runs on the host alone."""
        return bool(host_steps(self.steps))

    @property
    def is_free(self) -> bool:
        """True if the result has the size that the image asks for, not [size, size, 3]."""
        return is_free(self.steps)

    def result_size(self, width: int, height: int) -> tuple[int, int]:
        """Return the width and height of the result for an image of that size."""
        if not self.is_free:
            return self.size, self.size
        return self.geometry(*_shortened(width, height)).placements[-1].size

    @property
    def fill(self) -> Fill:
        """Color of the first padding; black without one."""
        fills = [step.fill for step in self.steps if isinstance(step, Pad)]
        return fills[0] if fills and isinstance(fills[0], tuple) else (0, 0, 0)

    def geometry(self, width: int, height: int) -> Geometry:
        return Geometry.of(self.steps, self.size, width, height)


def to_square(image: UInt8Array, square: SquareSpec) -> Pixels:
    """Turn uint8 [H, W, 3] into [S, S, 3], uint8 or float32 in [0, 255], as the steps say.

    Only an image more than 16 times as long as wide may differ from the reference, at its edges.
    """
    height, width = image.shape[:2]
    if square.is_free and is_sliver(width, height):
        width, height = _shortened(width, height)
        top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
        image = image[top : top + height, left : left + width]
    geometry = square.geometry(width, height)
    if is_sliver(width, height):
        return _sliver_to_square(image, geometry, square)
    pixels: Pixels = image
    for step, placement in zip(square.steps, geometry.placements, strict=True):
        pixels = _run(step, pixels, placement, square.size)
    return pixels.copy() if pixels is image else pixels


def _shortened(width: int, height: int) -> tuple[int, int]:
    """Return the size of a sliver's center, 16 times as long as wide; other sizes as they are."""
    return min(width, _SLIVER * height), min(height, _SLIVER * width)


def to_levels(image: UInt8Array, square: SquareSpec) -> UInt8Array:
    """Do as to_square(), rounded to uint8 where the steps leave float32: what training stores."""
    pixels = to_square(image, square)
    return pixels if _is_bytes(pixels) else np.rint(pixels).astype(np.uint8)


def is_sliver(width: int, height: int) -> bool:
    """Return whether padding or scaling the whole image would take far too much memory."""
    return max(width, height) > _SLIVER * min(width, height)


def jpeg_round_trip(image: UInt8Array, step: Jpeg) -> UInt8Array:
    """Encode with Pillow, as simplejpeg has only the fast DCT there; decode with the step's."""
    stream = io.BytesIO()
    Image.fromarray(image).save(
        stream, "JPEG", quality=step.quality, subsampling=_CHROMA[step.chroma]
    )
    output: UInt8Array = simplejpeg.decode_jpeg(
        stream.getvalue(), colorspace="RGB", fastdct=step.dct == "fast", fastupsample=False
    )
    return output


def _run(step: Step, image: Pixels, placement: Placement, side: int) -> Pixels:
    """Run one step on the host."""
    height, width = image.shape[:2]
    size = placement.size
    if isinstance(step, Jpeg):
        skips = step.unless_sized and (width, height) == (side, side)
        return image if skips else jpeg_round_trip(_bytes(image), step)
    if isinstance(step, ResizeStep):
        if size == (width, height):
            return image if step.rounding != "none" else image.astype(np.float32, copy=False)
        return resize(step, image, size)
    if isinstance(step, Pad):
        return _pad(image, placement, _fill(step))
    if step.arithmetic == "tensorflow":
        return _sample_share(torch.from_numpy(image), step.share, step.rounding).numpy()
    (left, top), (across, down) = placement.start, size
    return image[-top : down - top, -left : across - left]


def _is_bytes(image: Pixels) -> TypeGuard[UInt8Array]:
    return image.dtype == np.uint8


def _bytes(image: Pixels) -> UInt8Array:
    if not _is_bytes(image):
        raise ValueError("the step takes uint8")
    return image


def resize(step: ResizeStep, image: Pixels, size: tuple[int, int]) -> Pixels:
    """Scale [H, W, 3] to a size, (width, height), with the step's filter and arithmetic."""
    if step.arithmetic == "pillow":
        return pillow_resize(_bytes(image), size, step.filter)
    if step.arithmetic == "opencv":
        opencv: Any = cv2.resize(image, size, interpolation=_OPENCV[step.filter])
        return _bytes(opencv)
    values = torch.from_numpy(np.ascontiguousarray(image))
    if step.arithmetic == "torch":
        resized = _torch_resize(values, step, size)
    else:
        resized = resize_on_host(values, size, step.filter, step.antialias)
    return _rounded(resized, step.rounding).numpy()


def _torch_resize(values: Tensor, step: ResizeStep, size: tuple[int, int]) -> Tensor:
    """Run torch.nn.functional.interpolate over float32: [H, W, 3] -> [height, width, 3]."""
    unit = step.rounding in ("none", "down")
    planes = values.permute(2, 0, 1)[None].float()
    if unit:
        planes = planes / torch.tensor(255.0, device=values.device)
    shape = size[1], size[0]
    if step.filter == "area":
        resized = functional.interpolate(planes, shape, mode="area")
    else:
        resized = functional.interpolate(
            planes, shape, mode=step.filter, align_corners=False, antialias=step.antialias
        )
    pixels = resized[0].permute(1, 2, 0)
    return pixels * 255 if unit else pixels


def _sample_share(image: Tensor, share: float, rounding: Rounding) -> Tensor:
    """Run tf.image.crop_and_resize over the center of [H, W, 3]: an image of the same size.

    In float32 and in TensorFlow's order, of pixels in [0, 1], which gives the same bits.
    """
    values = image.float() * float(np.float32(1) / np.float32(255))
    for axis in (1, 0):
        length = image.shape[axis]
        low, high, rest = _samples(length, share)
        near = values.index_select(axis, low.to(image.device))
        far = values.index_select(axis, high.to(image.device))
        shape = [1, 1, 1]
        shape[axis] = length
        values = far.sub_(near).mul_(rest.to(image.device).view(shape)).add_(near)
    values = values.clamp_(0, 1)
    if rounding == "tensorflow":  # tf.image.convert_image_dtype
        return (values * 255.5).to(torch.uint8)
    return _rounded(values * 255, rounding)


@functools.lru_cache(maxsize=64)
def _samples(length: int, share: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the pixels before and after each sample, and its distance from the first."""
    one, kept = np.float32(1), np.sqrt(np.float32(share**2))  # of the area, as its callers do
    start = (one - kept) / np.float32(2)
    last = np.float32(length - 1)
    step = ((start + kept) - start) * last / max(last, one)
    places = start * last + np.arange(length, dtype=np.float32) * step
    low = np.floor(places)
    return (
        torch.from_numpy(low.astype(np.int64)),
        torch.from_numpy(np.ceil(places).astype(np.int64)),
        torch.from_numpy(places - low),
    )


def _rounded(values: Tensor, rounding: Rounding) -> Tensor:
    """Clip float32 to [0, 255] and round it to uint8 as named; "none" leaves it float32."""
    values = values.clamp(0, 255)
    if rounding == "none":
        return values.contiguous()
    if rounding == "half even":
        values = values.round()
    elif rounding == "half up":
        values = (values + 0.5).floor()
    elif rounding == "tensorflow":
        values = (values / 255 * 255.5).floor()
    return values.to(torch.uint8).contiguous()


def _fill(step: Pad) -> Fill:
    if not isinstance(step.fill, tuple):
        raise ValueError("the fill of a padding is the encoder's: use SquareSpec.of")
    return step.fill


def _pad(image: Pixels, placement: Placement, fill: Fill) -> Pixels:
    (across, down), (left, top) = placement.size, placement.start
    height, width = image.shape[:2]
    if (across, down) == (width, height):
        return image
    below, right = down - top - height, across - left - width
    border: Any = cv2.copyMakeBorder(
        image, top, below, left, right, cv2.BORDER_CONSTANT, value=fill
    )
    padded: Pixels = border
    return padded


def _sliver_to_square(image: UInt8Array, geometry: Geometry, square: SquareSpec) -> Pixels:
    """Resize only the part of a sliver that the square shows, with Pillow whatever is meant."""
    left, top, right, bottom = geometry.visible_region()
    corners = (*geometry.to_square(left, top), *geometry.to_square(right, bottom))
    x, y, end_x, end_y = (min(max(round(edge), 0), square.size) for edge in corners)
    x, y = min(x, square.size - 1), min(y, square.size - 1)
    size = max(end_x - x, 1), max(end_y - y, 1)
    filters = [step.filter for step in square.steps if isinstance(step, ResizeStep)]
    visible = pillow_resize_part(image, size, filters[0], (left, top, right, bottom))
    canvas = np.empty((square.size, square.size, 3), dtype=np.uint8)
    canvas[:] = square.fill
    canvas[y : y + size[1], x : x + size[0]] = visible
    return canvas.astype(np.float32) if square.is_float else canvas


DeviceStep = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class DeviceSquare:
    """to_square() for frames of one size on their own device, bit for bit where Pillow's.

    on_host: the host computes it, which synchronizes.
    """

    square: SquareSpec
    on_host: bool
    steps: tuple[DeviceStep, ...]

    @classmethod
    @functools.lru_cache(maxsize=32)
    def of(cls, square: SquareSpec, height: int, width: int, device: torch.device) -> DeviceSquare:
        on_host = square.on_host or is_sliver(width, height)
        steps: list[DeviceStep] = []
        if not on_host:
            size = width, height
            placements = square.geometry(width, height).placements
            for step, placement in zip(square.steps, placements, strict=True):
                steps.append(_device_step(step, size, placement, device))
                size = placement.size
        return cls(square, on_host, tuple(steps))

    def __call__(self, image: Tensor) -> Tensor:
        """Turn uint8 [H, W, 3] into [S, S, 3]."""
        if self.on_host:
            square = to_square(image.cpu().numpy(), self.square)
            return torch.from_numpy(np.ascontiguousarray(square)).to(image.device)
        for step in self.steps:
            image = step(image)
        return image


def _device_step(
    step: Step, size: tuple[int, int], placement: Placement, device: torch.device
) -> DeviceStep:
    """Prepare a step for images of `size` on a device."""
    (width, height), new_size = size, placement.size
    if isinstance(step, ResizeStep):
        if size == new_size:
            return _float if step.rounding == "none" else _same
        if step.arithmetic == "pillow":
            return PillowResize.of(size, new_size, step.filter, device)
        device_resize: DeviceStep
        if step.arithmetic == "torch":
            device_resize = functools.partial(_torch_resize, step=step, size=new_size)
        else:
            device_resize = MatrixResize.of(size, new_size, step.filter, step.antialias, device)
        return lambda image: _rounded(device_resize(image), step.rounding)
    if isinstance(step, Pad):
        (across, down), (left, top) = new_size, placement.start
        if new_size == size:
            return _same
        fill = torch.tensor(_fill(step), dtype=torch.uint8, device=device)

        def pad(image: Tensor) -> Tensor:
            padded = fill.to(image.dtype).expand(down, across, 3).clone()
            padded[top : top + height, left : left + width] = image
            return padded

        return pad
    if isinstance(step, Crop) and step.arithmetic == "tensorflow":
        share, rounding = step.share, step.rounding
        return lambda image: _sample_share(image, share, rounding)
    if isinstance(step, Crop):
        (left, top), (across, down) = placement.start, new_size
        return lambda image: image[-top : down - top, -left : across - left].contiguous()
    raise ValueError(f"{type(step).__name__} runs on the host alone")


def _same(image: Tensor) -> Tensor:
    return image


def _float(image: Tensor) -> Tensor:
    return image.float()
