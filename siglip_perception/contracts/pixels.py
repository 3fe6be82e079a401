"""Comparison of a checkpoint's own image processor with a contract's preprocessing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from siglip_perception.contracts.contract import Contract, EncoderSpec, Triple

_TOLERANCE = 1e-6
# OpenVLA publishes its mean and std rounded to bfloat16, 8 significant bits.
_BF16_TOLERANCE = 2.0**-8
_GEOMETRY = (
    *("do_resize", "size", "do_center_crop", "crop_size", "do_pad", "max_num_patches"),
    "resize_strategy",
)
_SCALE: Mapping[str, Any] = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}


@dataclass(frozen=True)
class PixelFacts:
    """Preprocessing of a checkpoint's own processor; None if its file does not tell.

    where: the file, for messages. settings: its settings that affect pixels, unchanged.
    resize: a contract's, such as "squash"; else words for what no contract can state.
    size: side of the square that reaches the encoder, pixels.
    interpolation: Pillow's name of the filter.
    mean, std: per RGB channel, of pixels scaled to [0, 1], whatever scale the file uses.
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
    """A difference between a processor and a contract, with both values.

    grave: the encoder would see values, colors or a size that it was not trained on. Otherwise
    only the crop or the filter differs, as policies do from stock checkpoints by design: two
    encoders share one square, and DINO takes any size.
    values: it is of the values after the resize: scale, mean, std, order of the channels.
    """

    text: str
    grave: bool
    values: bool = False


def pixel_differences(
    contract: Contract, spec: EncoderSpec, facts: PixelFacts
) -> tuple[PixelDifference, ...]:
    """List the differences between processor and contract, in the order of the steps."""
    return tuple(_differences(contract, spec, facts))


def _differences(
    contract: Contract, spec: EncoderSpec, facts: PixelFacts
) -> Iterator[PixelDifference]:
    # Other steps end at the square before the checkpoint's own processor sees the image.
    resize, interpolation = contract.strategy or (facts.resize, facts.interpolation)
    other_resize = facts.resize is not None and facts.resize != resize
    other_size = facts.size is not None and facts.size != spec.image_size
    if other_resize or other_size:
        square = f"{resize or 'its steps'} to {spec.image_size} x {spec.image_size}"
        # SigLIP's positions are for one size.
        yield PixelDifference(
            f"{_format(facts.settings, _GEOMETRY)} (the contract: {square})",
            grave=(spec.name == "siglip" and other_size)
            or facts.settings.get("do_resize") is False,
        )
    if facts.interpolation is not None and facts.interpolation != interpolation:
        text = f"resample {facts.settings.get('resample')!r}, {facts.interpolation}"
        yield PixelDifference(f"{text} (the contract: {interpolation})", grave=False)
    for name, value, contract_value in (
        ("image_mean", facts.mean, spec.mean),
        ("image_std", facts.std, spec.std),
    ):
        by_checkpoint = spec.normalization == "checkpoint"
        if value is None or by_checkpoint or _close(value, contract_value, _TOLERANCE):
            continue
        scales = [key for key, usual in _SCALE.items() if facts.settings.get(key, usual) != usual]
        text = _format(facts.settings, (name, *scales))
        yield PixelDifference(
            f"{text} (the contract: {name} {list(contract_value)} of pixels in [0, 1])",
            grave=not _close(value, contract_value, _BF16_TOLERANCE),
            values=True,
        )
    if facts.settings.get("do_flip_channel_order") is True:
        text = "do_flip_channel_order True (the contract: RGB)"
        yield PixelDifference(text, grave=True, values=True)
    if facts.settings.get("do_convert_rgb") is False:
        yield PixelDifference("do_convert_rgb False (the contract: RGB)", grave=False)


def _close(value: Triple, expected: Triple, tolerance: float) -> bool:
    return all(
        abs(a - b) <= tolerance * max(abs(b), _TOLERANCE)
        for a, b in zip(value, expected, strict=True)
    )


def _format(settings: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    return ", ".join(f"{key} {settings[key]!r}" for key in keys if settings.get(key) is not None)
