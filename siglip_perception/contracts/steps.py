"""The steps that turn a camera's image into an encoder's square, in a contract's order.

Every step takes and gives [H, W, 3] RGB with values in [0, 255]: uint8, or float32 after a resize
that does not round. `normalize` of (pixel / 255 - mean) / std follows the last step.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

Filter = Literal["bilinear", "bicubic", "lanczos3", "area"]
Arithmetic = Literal["pillow", "tensorflow", "jax", "torch", "opencv"]
Rounding = Literal["half up", "half even", "down", "tensorflow", "none"]
Target = Literal["square", "short side", "fit", "multiple"]
Place = Literal["center", "symmetric", "top left", "bottom right"]
Chroma = Literal["4:2:0", "4:4:4"]
Fill = tuple[int, int, int]

Resize = Literal["squash", "letterbox", "resize-pad", "resize-crop"]
Interpolation = Literal["bicubic", "bilinear"]


@dataclass(frozen=True)
class Jpeg:
    """Encode the image as JPEG and decode it again with libjpeg-turbo.

    quality: 1 to 100. chroma: subsampling of the colors.
    dct: of the decoder: "fast" is TensorFlow's default, "accurate" Pillow's and OpenCV's; they
        differ by up to 10 levels. All of them encode with the accurate one.
    unless_sized: skip the step if the image has the encoder's size already.
    """

    quality: int = 95
    chroma: Chroma = "4:2:0"
    dct: Literal["fast", "accurate"] = "fast"
    unless_sized: bool = False


@dataclass(frozen=True)
class ResizeStep:
    """Scale the image.

    to: "square": both sides to `size`, whatever their ratio; "short side": the shorter one, the
        other in proportion; "fit": the longer one, the other in proportion; "multiple": each to
        the nearest multiple of `multiple`, so that the encoder's grid is the image's.
    size: pixels; 0: the encoder's image_size.
    filter, antialias: antialiasing widens the filter with the scale when it shrinks an image.
    arithmetic: the library whose results are meant, bit for bit where it rounds.
    rounding: how sums become uint8: "half up", "half even", "down" (truncated), "none" (they stay
        float32, clipped to [0, 255]). Pillow and OpenCV round by themselves, half up. PyTorch sums
        pixels in [0, 1] if they are truncated or not rounded, as policies do.
    sides: of "short side": how the other side becomes whole, "down" or "nearest".
    ratio: of "fit": sides are divided by the camera's over the encoder's, or multiplied by the
        inverse; rounded down, they may differ by a pixel.
    """

    filter: Filter
    arithmetic: Arithmetic = "pillow"
    to: Target = "square"
    size: int = 0
    antialias: bool = True
    rounding: Rounding = "half up"
    ratio: Literal["divide", "multiply"] = "divide"
    sides: Literal["down", "nearest"] = "down"
    multiple: int = 0


@dataclass(frozen=True)
class Pad:
    """Add a border of one color.

    to: "square": to the longer side; "size": to the encoder's image_size.
    place: where the image lies; "symmetric": padded equally on both sides, so that an odd rest
        leaves the square a pixel short.
    fill: RGB in [0, 255]; "mean": the encoder's own mean, int(255 * mean); None: its `fill`.
    """

    to: Literal["square", "size"] = "size"
    place: Place = "center"
    fill: Fill | Literal["mean"] | None = None


@dataclass(frozen=True)
class Crop:
    """Keep the center of the image.

    to: "square": the shorter side; "size": the encoder's image_size; "share": `side` of each side,
        or `area` of the area.
    offset: how a half pixel of the left and top margin is rounded; "half even" as torchvision.
    arithmetic: "pixels": whole pixels are cut out; "tensorflow": tf.image.crop_and_resize, which
        samples the share back to the image's own size, bilinear, without antialiasing.
    rounding: of the samples: "tensorflow" is convert_image_dtype's, int(x * 255.5 / 255).
    """

    to: Literal["square", "size", "share"] = "size"
    side: float = 0.0
    area: float = 0.0
    offset: Literal["half even", "down"] = "half even"
    arithmetic: Literal["pixels", "tensorflow"] = "pixels"
    rounding: Rounding = "tensorflow"

    @property
    def share(self) -> float:
        """Share of each side that is kept, in (0, 1]."""
        return float(self.area**0.5) if self.area else self.side


Step: TypeAlias = Jpeg | ResizeStep | Pad | Crop
Steps: TypeAlias = tuple[Step, ...]


def is_free(steps: Steps) -> bool:
    """Return whether the steps end at a size that the image asks for, not at the square."""
    return bool(steps) and isinstance(steps[-1], ResizeStep) and steps[-1].to == "multiple"


def host_steps(steps: Steps) -> tuple[str, ...]:
    """Name the libraries of steps that run on the host alone, even where a GPU holds the frame."""
    names = []
    for step in steps:
        if isinstance(step, Jpeg):
            names.append("JPEG")
        elif isinstance(step, ResizeStep) and step.arithmetic == "opencv":
            names.append("OpenCV")
    return tuple(dict.fromkeys(names))


@dataclass(frozen=True)
class Placement:
    """Geometry of one step for an image of one size, lengths across and down.

    size: of the result, pixels. A point p of the image, continuous and 0 at the outer corner, lies
    at p * scale + offset of the result.
    """

    size: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0, 0)

    @property
    def start(self) -> tuple[int, int]:
        """Left and top offset of a step that moves whole pixels."""
        return int(self.offset[0]), int(self.offset[1])


def place(step: Step, width: int, height: int, side: int) -> Placement:
    """Compute where a step puts the pixels of an image; `side`: the encoder's image_size.

    The result may be of a size that the step cannot make: padding to less than the image, cropping
    to more.
    """
    if isinstance(step, Jpeg):
        return Placement((width, height))
    if isinstance(step, ResizeStep):
        across, down = _scaled_size(step, width, height, step.size or side)
        return Placement((across, down), (across / width, down / height))
    if isinstance(step, Crop) and step.arithmetic == "tensorflow":
        return _sampled_share(step.share, width, height)
    if isinstance(step, Crop):
        size = _cropped_size(step, width, height, side)
        rests = (size[0] - width, size[1] - height)
        if step.offset == "down":
            return Placement(size, offset=(-(-rests[0] // 2), -(-rests[1] // 2)))
        return Placement(size, offset=(-round(-rests[0] / 2.0), -round(-rests[1] / 2.0)))
    square = max(width, height) if step.to == "square" else side
    rests = square - width, square - height
    if step.place == "symmetric":
        rests = rests[0] // 2 * 2, rests[1] // 2 * 2
    starts = {"top left": (0, 0), "bottom right": rests}
    start = starts.get(step.place, (rests[0] // 2, rests[1] // 2))
    return Placement((width + rests[0], height + rests[1]), offset=start)


def _scaled_size(step: ResizeStep, width: int, height: int, side: int) -> tuple[int, int]:
    if step.to == "square":
        return side, side
    if step.to == "fit" and step.ratio == "multiply":
        ratio = min(side / width, side / height)
        return max(int(width * ratio), 1), max(int(height * ratio), 1)
    if step.to == "fit":
        ratio = max(width / side, height / side)
        return max(int(width / ratio), 1), max(int(height / ratio), 1)
    if step.to == "multiple":
        return _multiples(step.multiple, width, height)
    short = min(width, height)
    if step.sides == "nearest":
        # albumentations' SmallestMaxSize, which rounds halves to even.
        scale = side / short
        return max(round(width * scale), 1), max(round(height * scale), 1)
    # torchvision's Resize(int): the shorter side becomes the size.
    return (
        side if width == short else int(side * width / short),
        side if height == short else int(side * height / short),
    )


def _multiples(factor: int, width: int, height: int) -> tuple[int, int]:
    """Round each side to a multiple, as Qwen2-VL's and Eagle's smart_resize.

    The result has 4 to 4096 squares of `factor`.
    """
    area, least, most = float(factor**2), 4, 4096
    across, down = (max(factor, round(side / factor) * factor) for side in (width, height))
    if across * down > most * area:
        beta = math.sqrt(across * down / (most * area))
        return (
            math.floor(across / beta / factor) * factor,
            math.floor(down / beta / factor) * factor,
        )
    if across * down < least * area:
        beta = math.sqrt(least * area / (width * height))
        return (
            math.ceil(width * beta / factor) * factor,
            math.ceil(height * beta / factor) * factor,
        )
    return across, down


def _cropped_size(step: Crop, width: int, height: int, side: int) -> tuple[int, int]:
    if step.to == "size":
        return side, side
    if step.to == "square":
        return min(width, height), min(width, height)
    return max(int(width * step.share), 1), max(int(height * step.share), 1)


def _sampled_share(share: float, width: int, height: int) -> Placement:
    """Place tf.image.crop_and_resize: the centers of the outermost pixels map to each other."""
    offsets = tuple(0.5 - (0.5 + (1 - share) / 2 * (side - 1)) / share for side in (width, height))
    return Placement((width, height), (1 / share, 1 / share), (offsets[0], offsets[1]))


@dataclass(frozen=True)
class Shuffle:
    """Join each block of `factor` x `factor` patches into one token, without loss.

    order: of the channels: "patch", the block's patches one after the other, row by row: the pixel
        shuffle of Idefics 3, which is SmolVLA's and GR00T N1's; "channel", each channel of all the
        block's patches: PyTorch's pixel_unshuffle, GR00T N1.6's.
    """

    factor: int
    order: Literal["patch", "channel"] = "patch"


@dataclass(frozen=True)
class Pool:
    """Average each block of `size` x `size` patches into one token."""

    size: int


TokenStep: TypeAlias = Shuffle | Pool
TokenSteps: TypeAlias = tuple[TokenStep, ...]


def token_grid(steps: TokenSteps, grid: int) -> int:
    """Return the tokens in a row that the steps leave of `grid` patches."""
    for step in steps:
        grid //= block_side(step)
    return grid


def token_width(steps: TokenSteps) -> int:
    """Return by how much the steps multiply the channels."""
    width = 1
    for step in steps:
        width *= step.factor**2 if isinstance(step, Shuffle) else 1
    return width


def block_side(step: TokenStep) -> int:
    """Return how many patches of a row become one token."""
    return step.factor if isinstance(step, Shuffle) else step.size


@dataclass(frozen=True)
class Crops:
    """Encode overlapping crops of the image after the whole image, each as an image of its own.

    The image is scaled to hold a grid of crops, as many as its size asks for. Neighbors overlap by
    twice `margin`, of which the policy drops one margin from each.

    most: crops. margin: patches at each side of a crop.
    """

    most: int
    margin: int


def tiling(width: int, height: int, window: int, most: int) -> tuple[int, int]:
    """Choose the rows and columns of crops, `window` pixels each without its margins.

    The grid that enlarges the image least, or, if every grid shrinks it, the one that shrinks it
    least; of equal ones the one of fewer crops. In float32, as in Molmo's select_tiling.
    width, height: of the image without the outer margins; 0 or less for a tiny one.
    """
    grids = [
        (rows, cols)
        for rows in range(1, most + 1)
        for cols in range(1, most + 1)
        if rows * cols <= most
    ]
    grids.sort(key=lambda grid: (grid[0] * grid[1], grid[0]))
    sizes = np.array(grids, dtype=np.int32) * window
    with np.errstate(divide="ignore"):
        scales = (sizes.astype(np.float32) / np.array([height, width], np.float32)).min(axis=1)
    if (scales < 1).all():
        return grids[int(scales.argmax())]
    return grids[int(np.where(scales < 1, np.float32(10e9), scales).argmin())]


RESIZES: tuple[Resize, ...] = get_args(Resize)
INTERPOLATIONS: tuple[Interpolation, ...] = get_args(Interpolation)
NAMES: dict[str, type[Any]] = {"jpeg": Jpeg, "resize": ResizeStep, "pad": Pad, "crop": Crop}
TOKEN_NAMES: dict[str, type[Any]] = {"shuffle": Shuffle, "pool": Pool}
"""Names of the steps in a contract's file: of pixels, and from the patches to the tokens."""


# Fields that came after fingerprints were known to policies: left out where they change nothing.
_LATER = {"sides": "down", "multiple": 0, "order": "patch"}


def named_fields(step: Step | TokenStep) -> dict[str, Any]:
    """Return a step as a mapping, with its name."""
    kinds = {kind: name for name, kind in (*NAMES.items(), *TOKEN_NAMES.items())}
    fields = asdict(step)
    for name, default in _LATER.items():
        if fields.get(name) == default:
            del fields[name]
    return {"step": kinds[type(step)], **fields}


def strategy(resize: Resize, interpolation: Interpolation) -> Steps:
    """Return the steps of one of the four strategies that Prismatic and openpi name.

    "squash" scales width and height independently; "letterbox" pads the shorter side, then scales
    (Prismatic); "resize-pad" scales, then pads the shorter side (openpi); "resize-crop" scales the
    shorter side and crops the center. All with Pillow's filter.
    """
    short = (ResizeStep(interpolation, to="short side"), Crop())
    if resize == "squash":
        return (ResizeStep(interpolation),)
    if resize == "resize-pad":
        return (ResizeStep(interpolation, to="fit"), Pad())
    if resize == "letterbox":
        return (Pad("square", "symmetric"), *short)
    return short


SQUASH: Steps = strategy("squash", "bicubic")


def strategy_of(steps: Steps) -> tuple[Resize, Interpolation] | None:
    """Return the strategy and filter that the steps are; None for any other list."""
    for resize in RESIZES:
        for interpolation in INTERPOLATIONS:
            if steps == strategy(resize, interpolation):
                return resize, interpolation
    return None
