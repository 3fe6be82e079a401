"""Readers of the values in a contract's file: each checks one and says what it must be."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any

from siglip_perception.util.suggest import did_you_mean


class FieldError(Exception):
    """A field is invalid; the text says what it must be."""


def integer(low: int, high: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise FieldError(f"a whole number from {low} to {high}")
        return value

    return read


def number(low: float, high: float) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        if isinstance(value, str):  # YAML 1.1 reads 1e-6 as text, because it has no dot
            try:
                value = float(value)
            except ValueError:
                value = None
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or not low <= value <= high:
            raise FieldError(f"a number from {low:g} to {high:g}")
        return float(value)

    return read


def triple(item: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, Any, Any]]:
    def read(value: Any) -> tuple[Any, Any, Any]:
        try:
            if isinstance(value, list) and len(value) == 3:
                return item(value[0]), item(value[1]), item(value[2])
        except FieldError as error:
            raise FieldError(f"a list of three, each {error}") from None
        raise FieldError("a list of three numbers, for red, green and blue")

    return read


def one_of(choices: tuple[str, ...]) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in choices:
            raise FieldError(
                "one of "
                + ", ".join(choice or '""' for choice in choices)
                + (did_you_mean(value, choices) if isinstance(value, str) else "")
            )
        return str(value)

    return read


def matches(pattern: re.Pattern[str], requirement: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise FieldError(requirement)
        return value

    return read


def text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise FieldError("a text")
    return " ".join(value.split())


def flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise FieldError("true or false")
    return value


# Lists whose readers name the entry that is wrong.
_NAME_THEMSELVES = ("encoders", "pixels", "tokens", "crops")


def build(
    kind: type[Any], readers: Mapping[str, Callable[[Any], Any]], content: Any, where: str
) -> Any:
    """Make an instance of a dataclass from a mapping of its fields."""
    if not isinstance(content, dict):
        raise FieldError(f"a mapping of fields{f' in {where}' if where else ''}")
    prefix = f"{where}." if where else ""
    unknown = sorted((ascii(key)[:60], key) for key in content if key not in readers)
    if unknown:
        name, key = unknown[0]
        raise FieldError(
            f"only the fields {', '.join(readers)}, and {prefix}{name} is none"
            + did_you_mean(str(key), readers)
        )
    values = {}
    for entry in fields(kind):
        if entry.name in content:
            try:
                values[entry.name] = readers[entry.name](content[entry.name])
            except FieldError as error:
                if entry.name in _NAME_THEMSELVES:
                    raise
                raise FieldError(f"{prefix}{entry.name} to be {error}") from None
        elif entry.default is MISSING:
            raise FieldError(f"the field {prefix}{entry.name}")
    return kind(**values)
