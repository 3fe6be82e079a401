"""Parsing of a contract's YAML text, with a check of every field."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from siglip_perception.contracts.contract import (
    ENCODERS,
    HISTORY_STARTS,
    NORMALIZATIONS,
    Contract,
    EncoderSpec,
)
from siglip_perception.contracts.parse_steps import (
    grid_fault,
    pixel_steps,
    size_fault,
    token_steps,
)
from siglip_perception.contracts.readers import (
    FieldError,
    build,
    flag,
    integer,
    matches,
    number,
    one_of,
    text,
    triple,
)
from siglip_perception.contracts.steps import (
    INTERPOLATIONS,
    RESIZES,
    Crops,
    ResizeStep,
    block_side,
    strategy,
)
from siglip_perception.errors import ContractError
from siglip_perception.util import bounded_yaml

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_REPOSITORY = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*)?")
_ACTIVATIONS = ("", "gelu", "gelu_pytorch_tanh")


_repository = matches(_REPOSITORY, "a repository's name, as in google/siglip-base-patch16-224")


def _more_taps(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= 8:
        raise FieldError("a list of 1 to 8 blocks, each a whole number from -256 to -1")
    return tuple(integer(-256, -1)(tap) for tap in value)


_ENCODER: Mapping[str, Callable[[Any], Any]] = {
    "name": one_of(ENCODERS),
    "image_size": integer(1, 4096),
    "patch": integer(1, 4096),
    "dim": integer(1, 65536),
    "mean": triple(number(-10, 10)),
    "std": triple(number(1e-6, 10)),
    "tap": integer(-256, -1),
    "more_taps": _more_taps,
    "norm": flag,
    "normalization": one_of(NORMALIZATIONS),
    "fill": triple(integer(0, 255)),
    "registers": integer(0, 64),
    "layers": integer(0, 256),
    "heads": integer(0, 256),
    "hidden_act": one_of(_ACTIVATIONS),
    "layer_norm_eps": number(1e-12, 1e-2),
    "weights": _repository,
    "timm": matches(re.compile(r"[a-z0-9_]*"), "the name of a timm model, or empty"),
}


def _encoders(value: Any) -> tuple[EncoderSpec, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= 2:
        raise FieldError("a list of one encoder or two")
    specs = []
    for index, entry in enumerate(value):
        specs.append(build(EncoderSpec, _ENCODER, entry, f"encoders[{index}]"))
    if len({spec.name == "siglip" for spec in specs}) < len(specs):
        raise FieldError("one siglip and one dinov2 or dinov3, where there are two")
    for spec in specs:
        if spec.patch > spec.image_size:
            raise FieldError("encoders whose patch is no larger than their image_size")
        if len(set(spec.taps)) < len(spec.taps):
            raise FieldError(
                f"encoders with each block tapped once, and {spec.name} has one twice"
            )
        if spec.layers and -min(spec.taps) > spec.layers:
            raise FieldError(f"encoders with a block for their tap, and {spec.name} has too few")
        if spec.grid != specs[0].grid:
            raise FieldError(
                f"encoders of one grid, and these have {specs[0].grid} and {spec.grid}"
                " patches in a row (image_size // patch)"
            )
    return tuple(specs)


def _crops(value: Any) -> Crops:
    readers = {"most": integer(1, 64), "margin": integer(0, 64)}
    crops: Crops = build(Crops, readers, value, "crops")
    return crops


_CONTRACT: Mapping[str, Callable[[Any], Any]] = {
    "name": matches(_NAME, "lower-case letters, digits, dots and dashes, at most 64"),
    "description": text,
    "source": text,
    "encoders": _encoders,
    "pixels": pixel_steps,
    "crops": _crops,
    "tokens": token_steps,
    "history": integer(1, 16),
    "history_start": one_of(HISTORY_STARTS),
    "join_cameras": flag,
    "policy": _repository,
}
# Reader and default of the fields of a strategy.
_STRATEGY: Mapping[str, tuple[Callable[[Any], Any], str]] = {
    "resize": (one_of(RESIZES), "squash"),
    "interpolation": (one_of(INTERPOLATIONS), "bicubic"),
}
# Fields that repeat, for the reader, what follows from the encoders; checked against them.
_DERIVED = ("grid", "dim")


def parse(text: str, file: str) -> Contract:
    """Parse a contract; `file` is its name in errors.

    Raises ContractError, one sentence, naming the first invalid field.
    """
    try:
        content = bounded_yaml.load(text, aliases=True)
    except yaml.YAMLError as error:
        reason = " ".join(str(getattr(error, "problem", None) or "not YAML").split())
        raise ContractError(
            f"The contract {file} is not valid YAML ({reason}): correct its syntax."
        ) from error
    try:
        derived = {}
        if isinstance(content, dict):
            derived = {key: content.pop(key) for key in _DERIVED if key in content}
            content = _without_strategy(content)
        contract: Contract = build(Contract, _CONTRACT, content, "")
        for spec in contract.encoders:
            fault = size_fault(contract.pixels, spec.image_size)
            if fault:
                raise FieldError(f"pixels that end at {spec.name}'s {fault}")
        fault = grid_fault(contract.tokens, contract.encoders[0].grid)
        if fault:
            raise FieldError(fault)
        fault = _crops_fault(contract) or _free_grid_fault(contract)
        if fault:
            raise FieldError(fault)
        grid = [contract.rows, contract.cols]
        for key, value in (("grid", grid), ("dim", contract.dim)):
            if key in derived and derived[key] != value:
                raise FieldError(f"{key}: {value}, which follows from the encoders")
    except FieldError as error:
        raise ContractError(f"The contract {file} is wrong: it needs {error}.") from None
    return contract


def _crops_fault(contract: Contract) -> str:
    """Say what a contract with crops lacks; empty if it lacks nothing or has no crops."""
    if contract.crops is None:
        return ""
    step = contract.pixels[0]
    is_resize = isinstance(step, ResizeStep) and step.to == "square" and step.rounding != "none"
    if len(contract.pixels) != 1 or not is_resize:
        return "pixels of one resize to the square that rounds, where there are crops"
    if contract.history > 1:
        return "history: 1 where there are crops, whose number depends on the image"
    spec = contract.encoders[0]
    if len({other.image_size for other in contract.encoders}) > 1:
        return "encoders of one image_size where there are crops"
    if spec.image_size % spec.patch:
        return (
            f"an image_size of whole patches where there are crops, and {spec.image_size} is not"
        )
    if 2 * contract.crops.margin >= spec.grid:
        return (
            f"crops.margin to be less than half of the {spec.grid} patches in a row, and"
            f" {contract.crops.margin} is not"
        )
    return ""


def _free_grid_fault(contract: Contract) -> str:
    """Say what a contract whose grid is the image's lacks; empty if nothing, or if it has one."""
    step = contract.pixels[-1]
    if not contract.has_free_grid or not isinstance(step, ResizeStep):
        return ""
    spec = contract.encoders[0]
    unit = spec.patch * math.prod(map(block_side, contract.tokens))
    if len(contract.encoders) > 1 or spec.name != "siglip":
        return "one siglip where the grid is the image's, as no other has such positions"
    if contract.history > 1:
        return "history: 1 where the grid is the image's"
    if step.multiple % unit:
        return f"a multiple of {unit} pixels, a token's, and {step.multiple} is none"
    if step.rounding == "none":
        return "a resize to a multiple that rounds"
    return ""


def _without_strategy(content: dict[Any, Any]) -> dict[Any, Any]:
    """Replace `resize` and `interpolation`, a strategy's short form, by its steps."""
    short = {key: content[key] for key in _STRATEGY if key in content}
    if not short:
        return content
    if "pixels" in content:
        raise FieldError(f"pixels or {next(iter(short))}, which is their short form, and not both")
    values = {}
    for key, (reader, default) in _STRATEGY.items():
        try:
            values[key] = reader(short.get(key, default))
        except FieldError as error:
            raise FieldError(f"{key} to be {error}") from None
    steps = strategy(values["resize"], values["interpolation"])
    return {**{key: content[key] for key in content if key not in short}, "pixels": steps}
