"""Settings of a checkpoint's own image processor, from any of the files that hold them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from siglip_perception.checkpoints.folder import Folder
from siglip_perception.contracts import EncoderName, PixelFacts, Triple
from siglip_perception.contracts.check import STRATEGIES
from siglip_perception.errors import CheckpointError

_NESTED, _PLAIN = "processor_config.json", "preprocessor_config.json"
_FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # Pillow's numbers
# Lists of openvla's processor, by encoder: timm's data configuration, and torchvision's parameters
# by the settings that they stand for.
_PRISMATIC = ("means", "tvf_normalize_params", "tvf_resize_params", "image_resize_strategy")
_TVF: Mapping[str, Mapping[str, str]] = {
    "tvf_normalize_params": {"mean": "image_mean", "std": "image_std"},
    "tvf_resize_params": {"interpolation": "resample", "size": "tvf_size"},
    "tvf_crop_params": {"output_size": "tvf_crop"},
}
_FLAGS = (
    *("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_pad", "do_convert_rgb"),
    "do_flip_channel_order",
)
_SETTINGS = (
    *(*_FLAGS, "size", "crop_size", "max_num_patches", "resample"),
    *("rescale_factor", "image_mean", "image_std"),
)


def pixel_facts(folder: Folder, part: str, name: EncoderName) -> PixelFacts | None:
    """Read how the folder's processor makes an encoder's input; None without a processor.

    As in transformers, `image_processor` in processor_config.json comes before
    preprocessor_config.json. Raises CheckpointError for a setting of the wrong type, and if the
    two files contradict each other.
    """
    contents: dict[str, Mapping[str, Any]] = {}
    if folder.has(f"{part}{_NESTED}"):
        nested = folder.read_json(f"{part}{_NESTED}").get("image_processor")
        if nested is not None and not isinstance(nested, dict):
            raise _setting_error(
                f"{folder.path / part / _NESTED}", "image_processor", nested, "an object"
            )
        if nested:
            contents[_NESTED] = nested
    if folder.has(f"{part}{_PLAIN}"):
        contents[_PLAIN] = folder.read_json(f"{part}{_PLAIN}")
    all_facts = [
        _facts(f"{part}{file}", str(folder.path / part / file), content, name)
        for file, content in contents.items()
    ]
    if len(all_facts) == 2:
        _compare(all_facts[0], all_facts[1], str(folder.path / part))
    return all_facts[0] if all_facts else None


def timm_facts(where: str, config: Mapping[str, Any]) -> PixelFacts | None:
    """Read mean and std from timm's config.json.

    Its size and filter are those of timm's evaluation; every policy uses others.
    """
    inner = config.get("pretrained_cfg", config if "architecture" in config else None)
    if not isinstance(inner, dict):
        return None
    settings = {f"image_{key}": inner[key] for key in ("mean", "std") if key in inner}
    return _facts(where, where, settings, "siglip") if settings else None


def _facts(where: str, path: str, content: Mapping[str, Any], name: EncoderName) -> PixelFacts:
    if any(key in content for key in _PRISMATIC):
        content = _of_prismatic(content, path, name)
    settings = {key: content[key] for key in _SETTINGS if content.get(key) is not None}
    for key in _FLAGS:
        if key in settings and not isinstance(settings[key], bool):
            raise _setting_error(path, key, settings[key], "true or false")
    resize, size = _geometry(settings, path, name)
    strategy = content.get("resize_strategy")
    if strategy is not None:
        strategy = str(strategy)
        settings["resize_strategy"], resize = strategy, STRATEGIES.get(strategy, strategy)
    if content.get("do_image_splitting") is True or "max_dynamic_tiles" in content:
        # SmolVLM's and Eagle's, whose do_resize is of the tiles.
        settings.pop("do_resize", None)
        resize, size = "a cut into tiles", None
    mean, std = _normalization(settings, path)
    interpolation = _filter(settings, path)
    if interpolation and content.get("antialias") is False:
        interpolation += " without antialias"
    return PixelFacts(where, settings, resize, size, interpolation, mean, std)


def _of_prismatic(content: Mapping[str, Any], path: str, name: EncoderName) -> dict[str, Any]:
    """Pick one encoder's entries of PrismaticImageProcessor's lists, in which DINOv2 is first.

    Its constructor makes the tvf_* lists of the others and then overwrites them with the file's,
    by which pictures are made (openvla/openvla: prismatic/extern/hf/processing_prismatic.py).
    """
    lists = [content[key] for key in _PRISMATIC if isinstance(content.get(key), list)]
    number = 1 if name == "siglip" and any(len(values) > 1 for values in lists) else 0
    share: dict[str, Any] = {"resize_strategy": content.get("image_resize_strategy")}
    for prismatic_key, key in (
        ("means", "image_mean"),
        ("stds", "image_std"),
        ("interpolations", "resample"),
        ("input_sizes", "size"),
    ):
        values = content.get(prismatic_key)
        if values is None:
            continue
        if not isinstance(values, list) or len(values) <= number:
            raise _setting_error(
                path, prismatic_key, values, "a list of one value for each encoder"
            )
        share[key] = values[number]
    size = share.get("size")
    if isinstance(size, list) and len(size) == 3:
        share["size"] = {"height": size[1], "width": size[2]}
    for tvf_key, names in _TVF.items():
        values = content.get(tvf_key)
        if values is None:
            continue
        entries = values if isinstance(values, list) else []
        if len(entries) <= number or not isinstance(entries[number], dict):
            raise _setting_error(path, tvf_key, values, "a list of one object for each encoder")
        for tvf_name, key in names.items():
            label, value = f"{tvf_key}[{number}].{tvf_name}", entries[number].get(tvf_name)
            if value is None:
                raise CheckpointError(f"{label} is missing in {path}: add it, or remove the list.")
            if tvf_name in ("mean", "std"):
                _triple({label: value}, label, path)
            share[key] = value
        if entries[number].get("antialias") is False:
            share["antialias"] = False
    letterbox = content.get("tvf_do_letterbox")
    if isinstance(letterbox, list):
        letterbox = letterbox[number] if len(letterbox) > number else None
    if letterbox is not None and not isinstance(letterbox, bool):
        raise _setting_error(path, "tvf_do_letterbox", letterbox, "true or false")
    if letterbox is not None and letterbox != (share["resize_strategy"] == "letterbox"):
        raise CheckpointError(
            f"tvf_do_letterbox {letterbox} and image_resize_strategy {share['resize_strategy']!r}"
            f" in {path} contradict each other: correct one of them."
        )
    _check_tvf_geometry(share, path)
    return share


def _check_tvf_geometry(share: Mapping[str, Any], path: str) -> None:
    """Refuse a resize or a crop in the tvf_* lists that its strategy does not make."""
    if "tvf_size" not in share:
        return
    size, crop = share["tvf_size"], share.get("tvf_crop", share["tvf_size"])
    shapes = [size] if share["resize_strategy"] != "resize-crop" else []
    for value in (*shapes, crop):
        height, width = value if isinstance(value, list) and len(value) == 2 else (value, None)
        expected = share.get("size")
        sides = expected.values() if isinstance(expected, dict) else ()
        if width is None or any(side not in (height, width) for side in sides):
            raise CheckpointError(
                f"tvf_resize_params or tvf_crop_params in {path} end at {value!r}, and"
                f" input_sizes at {expected!r}: correct one of them."
            )


def _geometry(
    settings: Mapping[str, Any], path: str, name: EncoderName
) -> tuple[str | None, int | None]:
    """Derive the resize and the side of the square; words for what no contract can state."""
    if settings.get("do_resize") is False:
        return "no resize", None
    if settings.get("do_pad") is True:
        return "a padding", None
    if "max_num_patches" in settings:
        return "a grid that changes with the picture", None
    crop = None
    if settings.get("do_center_crop") is True and "crop_size" in settings:
        crop = _sides(settings, "crop_size", path, square=True)
    if "size" not in settings:
        return None, crop[1] if crop is not None and crop[0] == "square" else None
    kind, side = _sides(settings, "size", path, square=name != "dinov2")
    if crop is not None and crop[0] != "square":
        return f"a crop to {settings['crop_size']}", None
    if kind == "square":
        is_exact = crop is None or crop[1] == side
        return "squash" if is_exact else f"squash to {side}, then a crop", crop[
            1
        ] if crop else side
    if kind == "shortest" and crop is not None:
        is_exact = crop[1] == side
        return "resize-crop" if is_exact else f"shorter edge to {side}, then a crop", crop[1]
    return f"{kind} edge to {side}", None


def _sides(settings: Mapping[str, Any], key: str, path: str, *, square: bool) -> tuple[str, int]:
    """Classify a size of transformers: "square", "shortest", "longest" or "other", and a length.

    square: True if the processor reads a single number as a square, not as the shorter edge.
    """
    value = settings[key]
    error = _setting_error(
        path, key, value, 'a number of pixels, or {"height": ..., "width": ...}'
    )
    if isinstance(value, list) and len(value) == 2:
        value = {"height": value[0], "width": value[1]}
    if not isinstance(value, dict):
        value = {"height": value, "width": value} if square else {"shortest_edge": value}
    lengths = list(value.values())
    if not lengths or not all(
        isinstance(length, int) and not isinstance(length, bool) and length > 0
        for length in lengths
    ):
        raise error
    if set(value) == {"height", "width"}:
        return ("square" if lengths[0] == lengths[1] else "other"), lengths[0]
    if set(value) == {"shortest_edge"}:
        return "shortest", lengths[0]
    if "longest_edge" in value:
        return "longest", int(value["longest_edge"])
    return "other", lengths[0]


def _filter(settings: Mapping[str, Any], path: str) -> str | None:
    value = settings.get("resample")
    if value is None:
        return None
    if isinstance(value, str) and value.lower() in _FILTERS:
        return value.lower()
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(_FILTERS):
        return _FILTERS[value]
    raise _setting_error(
        path, "resample", value, "a number from 0 to 5, Pillow's, such as 3 for bicubic"
    )


def _normalization(settings: Mapping[str, Any], path: str) -> tuple[Triple | None, Triple | None]:
    """Convert the file's scale, mean and std to mean and std of pixels in [0, 1].

    (x f - m) / s = (x / 255 - M) / S with M = m / (255 f) and S = s / (255 f).
    """
    factor = (
        1.0 if settings.get("do_rescale") is False else settings.get("rescale_factor", 1 / 255)
    )
    if not _is_number(factor) or factor <= 0:
        raise _setting_error(path, "rescale_factor", factor, "a number above 0")
    span = 255.0 * factor
    span = 1.0 if abs(span - 1) < 5e-4 else span  # 1/255 in a few digits
    if settings.get("do_normalize") is False:
        return (0.0, 0.0, 0.0), (1 / span, 1 / span, 1 / span)
    mean, std = (_triple(settings, key, path) for key in ("image_mean", "image_std"))
    if std is not None and min(std) <= 0:
        raise _setting_error(path, "image_std", settings["image_std"], "above 0")
    return _divide(mean, span), _divide(std, span)


def _triple(settings: Mapping[str, Any], key: str, path: str) -> Triple | None:
    value = settings.get(key)
    if value is None:
        return None
    values = [value] * 3 if _is_number(value) else value
    if not isinstance(values, list) or len(values) != 3 or not all(map(_is_number, values)):
        raise _setting_error(path, key, value, "three numbers, for red, green and blue")
    return float(values[0]), float(values[1]), float(values[2])


def _divide(values: Triple | None, span: float) -> Triple | None:
    return None if values is None else (values[0] / span, values[1] / span, values[2] / span)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _compare(nested: PixelFacts, plain: PixelFacts, folder: str) -> None:
    for key in ("resize", "size", "interpolation", "mean", "std"):
        first, second = getattr(nested, key), getattr(plain, key)
        if first is not None and second is not None and first != second:
            raise CheckpointError(
                f"{_NESTED} and {_PLAIN} in {folder} contradict each other ({key}: {first!r} and"
                f" {second!r}): correct or remove one of them."
            )


def _setting_error(path: str, key: str, value: object, requirement: str) -> CheckpointError:
    return CheckpointError(
        f"{key} in {path} is {value!r} and must be {requirement}: correct it, or remove the file."
    )
