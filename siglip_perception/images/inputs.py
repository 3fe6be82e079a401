"""Images as Python callers have them: arrays, tensors, Pillow images, paths, a file's bytes."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard, Union

import numpy as np
import numpy.typing as npt
from PIL import Image

from siglip_perception.config import Settings
from siglip_perception.errors import ImageError
from siglip_perception.images.checks import check_size, orientation_of, upright
from siglip_perception.images.files import Picture, decode_file, read_image
from siglip_perception.images.pillow_files import to_rgb

if TYPE_CHECKING:
    from torch import Tensor

ImageInput: TypeAlias = Union[
    npt.NDArray[np.uint8],
    Image.Image,
    str,
    "os.PathLike[str]",
    bytes,
    bytearray,
    memoryview,
    Picture,
    "Tensor",
]
"""Input of to_picture()."""

_ORIENTATION = 274


def to_picture(
    image: ImageInput,
    *,
    name: str = "the image",
    max_pixels: int = Settings.max_pixels,
    mono16_white: int = 0,
) -> Picture:
    """Read an image of any of these kinds.

    - numpy array, uint8 [H, W, 3] RGB. A C-contiguous one is not copied.
    - torch tensor, uint8 [H, W, 3] or [3, H, W] RGB. A contiguous [H, W, 3] on the CPU is not
      copied; [3, H, W] is, and so is a tensor on a GPU. With both the first and the last axis
      3 long, nothing tells the two layouts apart, and the tensor is refused.
    - Pillow image, of any mode that a file may have; turned upright as its EXIF says.
    - str or path: an image file, as read_image() takes it.
    - bytes, bytearray or memoryview: an image file's content, as decode_file() takes it.
    - Picture: as it is.

    What is not copied shares its memory with the Picture: do not write to it in between.
    name: what errors call an image that has no file name. mono16_white: the 16-bit gray value
    that is white, for files and Pillow images; 0: they are refused.

    Raises ImageError or PerceptionError, one sentence.
    """
    if isinstance(image, Picture):
        return image
    if isinstance(image, (str, os.PathLike)):
        path = Path(image).expanduser()
        return read_image(path, max_pixels=max_pixels, mono16_white=mono16_white)
    if isinstance(image, (bytes, bytearray, memoryview)):
        return decode_file(image, name, max_pixels=max_pixels, mono16_white=mono16_white)
    try:
        if isinstance(image, Image.Image):
            return _from_pillow(image, max_pixels, mono16_white)
        array = _tensor_to_array(image) if _is_tensor(image) else _checked_array(image)
        check_size(array.shape[0], array.shape[1], max_pixels)
    except ImageError as error:
        raise ImageError(error.reason, f"{name}: {error}") from error
    return Picture(np.ascontiguousarray(array), 1, "array")


def _is_tensor(image: object) -> TypeGuard[Tensor]:
    torch = sys.modules.get("torch")  # whoever has a tensor has imported it
    return torch is not None and isinstance(image, torch.Tensor)


def _checked_array(image: Any) -> npt.NDArray[np.uint8]:
    """An array as it is, if it is uint8 [H, W, 3]."""
    if not isinstance(image, np.ndarray):
        kind = type(image).__name__
        remedy = "give a numpy array, a torch tensor, a Pillow image, a path or a file's bytes"
        if isinstance(image, (list, tuple)):
            remedy = "give several images to look_all(), or one as a numpy array"
        elif hasattr(image, "__array__"):
            remedy = "give numpy.asarray(image)"
        elif hasattr(image, "read"):
            remedy = "give its bytes: image.read()"
        raise ImageError("encoding", f"it is of type {kind}: {remedy}.")
    shape = list(image.shape)
    if image.dtype != np.uint8:
        raise ImageError("encoding", _wrong_type("array", image.dtype.name))
    if image.ndim == 3 and image.shape[2] == 3:
        return image
    raise ImageError("malformed", f"the array is uint8 {shape}: {_array_remedy(shape)}.")


def _array_remedy(shape: list[int]) -> str:
    if len(shape) == 2 or (len(shape) == 3 and shape[2] == 1):
        return "repeat its gray channel three times, to [height, width, 3]"
    if len(shape) == 3 and shape[2] == 4:
        return "drop its fourth channel with image[:, :, :3]"
    if len(shape) == 3 and shape[0] == 3:
        return "turn it to [height, width, 3] with image.transpose(1, 2, 0)"
    if len(shape) == 4:
        return "give a batch to look_all(), and one image as [height, width, 3]"
    return "an image is [height, width, 3] RGB"


def _tensor_to_array(tensor: Tensor) -> npt.NDArray[np.uint8]:
    """uint8 [H, W, 3]; it shares a CPU tensor's memory."""
    shape = list(tensor.shape)
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype != "uint8":
        raise ImageError("encoding", _wrong_type("tensor", dtype))
    if len(shape) == 4:
        remedy = (
            "give a batch to look_all(), and one image as [height, width, 3] or [3, height, width]"
        )
        raise ImageError("malformed", f"the tensor is uint8 {shape}: {remedy}.")
    if len(shape) != 3 or 3 not in (shape[0], shape[2]):
        remedy = "an image is [height, width, 3] or [3, height, width] RGB"
        raise ImageError("malformed", f"the tensor is uint8 {shape}: {remedy}.")
    if shape[0] == shape[2] == 3:
        remedy = "give it as a numpy array, which is always [height, width, 3]"
        raise ImageError(
            "malformed",
            f"the tensor is uint8 {shape}, which may be [height, width, 3] or [3, height, width]:"
            f" {remedy}.",
        )
    on_host = tensor.detach().cpu()
    array: npt.NDArray[np.uint8] = (on_host if shape[2] == 3 else on_host.permute(1, 2, 0)).numpy()
    return array


def _wrong_type(kind: str, dtype: str) -> str:
    remedy = "give uint8 in [0, 255]"
    if dtype.startswith(("float", "bfloat")):
        remedy += ", as (image * 255).round() does of values in [0, 1]"
    return f"the {kind} is {dtype}: {remedy}."


def _from_pillow(image: Image.Image, max_pixels: int, mono16_white: int) -> Picture:
    check_size(image.height, image.width, max_pixels)
    try:
        pixels = to_rgb(image, "Pillow image", mono16_white)
        # After the pixels: Pillow turns a TIFF by itself while it loads it, and forgets the turn.
        number = image.getexif().get(_ORIENTATION)
    except (AssertionError, AttributeError) as error:
        # What Pillow raises once the file that it was to read the pixels from is closed.
        raise ImageError(
            "corrupt", "the Pillow image's file is closed: call its load() while it is open."
        ) from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise ImageError("corrupt", f"the Pillow image cannot be decoded: {error}.") from error
    orientation = orientation_of({_ORIENTATION: number if isinstance(number, int) else 1})
    return Picture(upright(pixels, orientation), orientation, image.format or "Pillow")
