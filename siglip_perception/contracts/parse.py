"""Parsing of a contract's YAML text, with a check of every field."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from typing import Any

import yaml

from siglip_perception.contracts.contract import (
    ENCODERS,
    INTERPOLATIONS,
    RESIZES,
    Contract,
    EncoderSpec,
)
from siglip_perception.errors import ContractError
from siglip_perception.util import bounded_yaml

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_REPOSITORY = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*)?")
_ACTIVATIONS = ("", "gelu", "gelu_pytorch_tanh")


class _FieldError(Exception):
    """A field is invalid; the text says what it must be."""


def _integer(low: int, high: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise _FieldError(f"a whole number from {low} to {high}")
        return value

    return read


def _number(low: float, high: float) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        if isinstance(value, str):  # YAML 1.1 reads 1e-6 as text, because it has no dot
            try:
                value = float(value)
            except ValueError:
                value = None
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or not low <= value <= high:
            raise _FieldError(f"a number from {low:g} to {high:g}")
        return float(value)

    return read


def _triple(item: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, Any, Any]]:
    def read(value: Any) -> tuple[Any, Any, Any]:
        try:
            if isinstance(value, list) and len(value) == 3:
                return item(value[0]), item(value[1]), item(value[2])
        except _FieldError as error:
            raise _FieldError(f"a list of three, each {error}") from None
        raise _FieldError("a list of three numbers, for red, green and blue")

    return read


def _one_of(choices: tuple[str, ...]) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in choices:
            raise _FieldError("one of " + ", ".join(choice or '""' for choice in choices))
        return str(value)

    return read


def _matches(pattern: re.Pattern[str], requirement: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise _FieldError(requirement)
        return value

    return read


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _FieldError("a text")
    return " ".join(value.split())


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _FieldError("true or false")
    return value


_repository = _matches(_REPOSITORY, "a repository's name, as in google/siglip-base-patch16-224")
_ENCODER: Mapping[str, Callable[[Any], Any]] = {
    "name": _one_of(ENCODERS),
    "image_size": _integer(1, 4096),
    "patch": _integer(1, 4096),
    "dim": _integer(1, 65536),
    "mean": _triple(_number(-10, 10)),
    "std": _triple(_number(1e-6, 10)),
    "tap": _integer(-256, -1),
    "norm": _flag,
    "fill": _triple(_integer(0, 255)),
    "registers": _integer(0, 64),
    "layers": _integer(0, 256),
    "heads": _integer(0, 256),
    "hidden_act": _one_of(_ACTIVATIONS),
    "layer_norm_eps": _number(1e-12, 1e-2),
    "weights": _repository,
    "timm": _matches(re.compile(r"[a-z0-9_]*"), "the name of a timm model, or empty"),
}


def _encoders(value: Any) -> tuple[EncoderSpec, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= 2:
        raise _FieldError("a list of one encoder or two")
    specs = []
    for number, entry in enumerate(value):
        specs.append(_object(EncoderSpec, _ENCODER, entry, f"encoders[{number}]"))
    if len({spec.name == "siglip" for spec in specs}) < len(specs):
        raise _FieldError("one siglip and one dinov2 or dinov3, where there are two")
    for spec in specs:
        if spec.patch > spec.image_size:
            raise _FieldError("encoders whose patch is no larger than their image_size")
        if spec.layers and -spec.tap > spec.layers:
            raise _FieldError(f"encoders with a block for their tap, and {spec.name} has too few")
        if spec.grid != specs[0].grid:
            raise _FieldError(
                f"encoders of one grid, and these have {specs[0].grid} and {spec.grid}"
                " patches in a row (image_size // patch)"
            )
    return tuple(specs)


_CONTRACT: Mapping[str, Callable[[Any], Any]] = {
    "name": _matches(_NAME, "lower-case letters, digits, dots and dashes, at most 64"),
    "description": _text,
    "source": _text,
    "encoders": _encoders,
    "resize": _one_of(RESIZES),
    "interpolation": _one_of(INTERPOLATIONS),
    "join_cameras": _flag,
    "policy": _repository,
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
        contract: Contract = _object(Contract, _CONTRACT, content, "")
        grid = [contract.rows, contract.cols]
        for key, value in (("grid", grid), ("dim", contract.dim)):
            if key in derived and derived[key] != value:
                raise _FieldError(f"{key}: {value}, which follows from the encoders")
    except _FieldError as error:
        raise ContractError(f"The contract {file} is wrong: it needs {error}.") from None
    return contract


def _object(
    kind: type[Any], readers: Mapping[str, Callable[[Any], Any]], content: Any, where: str
) -> Any:
    """Make an instance of a dataclass from a mapping of its fields."""
    if not isinstance(content, dict):
        raise _FieldError(f"a mapping of fields{f' in {where}' if where else ''}")
    prefix = f"{where}." if where else ""
    unknown = sorted(ascii(key)[:60] for key in content if key not in readers)
    if unknown:
        raise _FieldError(
            f"only the fields {', '.join(readers)}, and {prefix or ''}{unknown[0]} is none"
        )
    values = {}
    for entry in fields(kind):
        if entry.name in content:
            try:
                values[entry.name] = readers[entry.name](content[entry.name])
            except _FieldError as error:
                if entry.name == "encoders":
                    raise
                raise _FieldError(f"{prefix}{entry.name} to be {error}") from None
        elif _required(entry):
            raise _FieldError(f"the field {prefix}{entry.name}")
    return kind(**values)


def _required(entry: Field[Any]) -> bool:
    return entry.default is MISSING
