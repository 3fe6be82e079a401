"""What a checkpoint's own image processor does to a picture, held against a contract's pixels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from siglip_perception.contracts.contract import Contract, EncoderSpec, Triple

# OpenVLA publishes its mean and std rounded to bfloat16, 8 significant bits.
ROUNDED = 2.0**-8
EXACT = 1e-6
_GEOMETRY = (
    *("do_resize", "size", "do_center_crop", "crop_size", "do_pad", "max_num_patches"),
    "resize_strategy",
)
_NEUTRAL: Mapping[str, Any] = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}


@dataclass(frozen=True)
class PixelFacts:
    """How a checkpoint's processor makes an encoder's input; None: its file does not say.

    where: the file, as messages name it. stated: its settings that bear on pixels, as it has them.
    resize: "squash", "resize-crop" or another of a contract's; else words for what no contract can
        state. size: side of the square that reaches the encoder, in pixels.
    interpolation: Pillow's name of the filter.
    mean, std: per RGB channel, of pixels scaled to [0, 1], whatever the file's own scale is.
    """

    where: str
    stated: Mapping[str, Any]
    resize: str | None = None
    size: int | None = None
    interpolation: str | None = None
    mean: Triple | None = None
    std: Triple | None = None


def pixel_differences(
    contract: Contract, spec: EncoderSpec, facts: PixelFacts, tolerance: float
) -> str:
    """The settings in which they differ, with both values; empty where there are none.

    tolerance: relative, of mean and std: EXACT, or ROUNDED for what bfloat16 makes of a number.
    """
    return "; ".join(_differences(contract, spec, facts, tolerance))


def _differences(
    contract: Contract, spec: EncoderSpec, facts: PixelFacts, tolerance: float
) -> Iterator[str]:
    resized = facts.resize is not None and facts.resize != contract.resize
    sized = facts.size is not None and facts.size != spec.image_size
    if resized or sized:
        square = f"{contract.resize} to {spec.image_size} x {spec.image_size}"
        yield f"{_shown(facts.stated, _GEOMETRY)} (the contract: {square})"
    if facts.interpolation is not None and facts.interpolation != contract.interpolation:
        shown = f"resample {facts.stated.get('resample')!r}, {facts.interpolation}"
        yield f"{shown} (the contract: {contract.interpolation})"
    for name, stated, wanted in (
        ("image_mean", facts.mean, spec.mean),
        ("image_std", facts.std, spec.std),
    ):
        if stated is None or _close(stated, wanted, tolerance):
            continue
        scales = [
            key
            for key, neutral in _NEUTRAL.items()
            if key in facts.stated and facts.stated[key] != neutral
        ]
        shown = _shown(facts.stated, (name, *scales)) or f"{name} {list(stated)}"
        yield f"{shown} (the contract: {name} {list(wanted)} of pixels in [0, 1])"
    if facts.stated.get("do_flip_channel_order") is True:
        yield "do_flip_channel_order True (the contract: RGB)"
    if facts.stated.get("do_convert_rgb") is False and tolerance < ROUNDED:
        yield "do_convert_rgb False (the contract: RGB, as all frames are)"


def _close(stated: Triple, wanted: Triple, tolerance: float) -> bool:
    return all(
        abs(a - b) <= tolerance * max(abs(b), EXACT) for a, b in zip(stated, wanted, strict=True)
    )


def _shown(stated: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    return ", ".join(f"{key} {stated[key]!r}" for key in keys if stated.get(key) is not None)
