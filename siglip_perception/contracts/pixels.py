"""What a checkpoint's own image processor does to a picture, held against a contract's pixels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from siglip_perception.contracts.contract import Contract, EncoderSpec, Triple

_EXACT = 1e-6
# OpenVLA publishes its mean and std rounded to bfloat16, 8 significant bits.
_ROUNDED = 2.0**-8
_GEOMETRY = (
    *("do_resize", "size", "do_center_crop", "crop_size", "do_pad", "max_num_patches"),
    "resize_strategy",
)
_SCALE: Mapping[str, Any] = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}


@dataclass(frozen=True)
class PixelFacts:
    """How a checkpoint's processor makes an encoder's input; None: its file does not say.

    where: the file, as messages name it. settings: those that bear on pixels, as it has them.
    resize: "squash", "resize-crop" or another of a contract's; else words for what no contract can
        state. size: side of the square that reaches the encoder, in pixels.
    interpolation: Pillow's name of the filter.
    mean, std: per RGB channel, of pixels scaled to [0, 1], whatever the file's own scale is.
    """

    where: str
    settings: Mapping[str, Any]
    resize: str | None = None
    size: int | None = None
    interpolation: str | None = None
    mean: Triple | None = None
    std: Triple | None = None


@dataclass(frozen=True)
class PixelDifference:
    """Settings in which a processor and a contract differ, with both values.

    grave: the encoder would see values, colors or a size that it was not trained on. Otherwise it
    is how the square is cut and filtered, in which policies differ from stock checkpoints by
    design: two encoders share one square, and DINO takes any size.
    """

    text: str
    grave: bool


def pixel_differences(
    contract: Contract, spec: EncoderSpec, facts: PixelFacts
) -> tuple[PixelDifference, ...]:
    """All in which the processor differs from the contract, in the order of its steps."""
    return tuple(_differences(contract, spec, facts))


def _differences(
    contract: Contract, spec: EncoderSpec, facts: PixelFacts
) -> Iterator[PixelDifference]:
    resized = facts.resize is not None and facts.resize != contract.resize
    sized = facts.size is not None and facts.size != spec.image_size
    if resized or sized:
        square = f"{contract.resize} to {spec.image_size} x {spec.image_size}"
        # SigLIP's positions are for one size.
        yield PixelDifference(
            f"{_shown(facts.settings, _GEOMETRY)} (the contract: {square})",
            grave=(spec.name == "siglip" and sized) or facts.settings.get("do_resize") is False,
        )
    if facts.interpolation is not None and facts.interpolation != contract.interpolation:
        shown = f"resample {facts.settings.get('resample')!r}, {facts.interpolation}"
        yield PixelDifference(f"{shown} (the contract: {contract.interpolation})", grave=False)
    for name, value, expected in (
        ("image_mean", facts.mean, spec.mean),
        ("image_std", facts.std, spec.std),
    ):
        if value is None or _close(value, expected, _EXACT):
            continue
        scales = [key for key, usual in _SCALE.items() if facts.settings.get(key, usual) != usual]
        shown = _shown(facts.settings, (name, *scales))
        yield PixelDifference(
            f"{shown} (the contract: {name} {list(expected)} of pixels in [0, 1])",
            grave=not _close(value, expected, _ROUNDED),
        )
    if facts.settings.get("do_flip_channel_order") is True:
        yield PixelDifference("do_flip_channel_order True (the contract: RGB)", grave=True)
    if facts.settings.get("do_convert_rgb") is False:
        yield PixelDifference("do_convert_rgb False (the contract: RGB)", grave=False)


def _close(value: Triple, expected: Triple, tolerance: float) -> bool:
    return all(
        abs(a - b) <= tolerance * max(abs(b), _EXACT) for a, b in zip(value, expected, strict=True)
    )


def _shown(settings: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    return ", ".join(f"{key} {settings[key]!r}" for key in keys if settings.get(key) is not None)
