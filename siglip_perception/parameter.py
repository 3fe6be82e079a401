"""A parameter of the node: its type, its range, and when it may be set."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

from siglip_perception.errors import PerceptionError

Value = bool | int | float | str | tuple[str, ...]

_TYPE_NAMES: dict[type, Literal["bool", "int", "double", "string", "string[]"]] = {
    bool: "bool",
    int: "int",
    float: "double",
    str: "string",
    tuple: "string[]",
}


class ConfigError(PerceptionError):
    """A parameter has an invalid value."""


class Change(Enum):
    """Time at which a parameter may be set."""

    ANY_TIME = "any time"
    UNCONFIGURED = "while unconfigured"
    START = "at the start"


@dataclass(frozen=True)
class Parameter:
    """A parameter. Its default gives its type; minimum and maximum are inclusive.

    max_bytes, max_items: limits of a text, or of all texts of a list together.
    special: a value outside of the range that stands for something else, as the description says.
    change: ANY_TIME; only while the node is UNCONFIGURED, because `configure` uses it; or only at
    the START of the process (read-only in ROS).
    """

    name: str
    default: Value
    description: str
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    special: float | None = None
    choices: tuple[str, ...] = ()
    change: Change = Change.ANY_TIME
    max_bytes: int = 4096
    max_items: int = 1024

    @property
    def type(self) -> Literal["bool", "int", "double", "string", "string[]"]:
        return _TYPE_NAMES[type(self.default)]

    @property
    def read_only(self) -> bool:
        return self.change is Change.START

    @property
    def constraint(self) -> str:
        """The range or the choices, in words; empty if any value of the type is allowed."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.minimum is None or self.maximum is None:
            return ""
        special = "" if self.special is None else f", or {self.special:.15g}"
        return f"{self.minimum:.15g} to {self.maximum:.15g}{special}"

    def check(self, value: Any) -> Value:
        """Convert a value to the parameter's type; raise ConfigError if it is invalid."""
        converted = self._convert(value)
        outside = bool(self.choices) and converted not in self.choices
        if isinstance(converted, (int, float)) and self.minimum is not None:
            is_inside = self.minimum <= converted <= (self.maximum or self.minimum)
            outside = not is_inside and converted != self.special
        self._check_length(converted)
        if outside:
            raise ConfigError(
                f"{self.name} is {format_value(value)}; it must be {self.constraint}."
            )
        return converted

    def _check_length(self, value: Value) -> None:
        items = value if isinstance(value, tuple) else (value,)
        texts = [item for item in items if isinstance(item, str)]
        if len(texts) > self.max_items:
            raise ConfigError(
                f"{self.name} has {len(texts)} values; it must have at most {self.max_items}."
            )
        size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
        if size > self.max_bytes:
            raise ConfigError(
                f"{self.name} is {size} bytes long; it must have at most {self.max_bytes}."
            )

    def from_text(self, text: str) -> Value:
        """Read a value from a command line's text; a list is front,wrist or [front, wrist].

        Raises ConfigError, as check() does, for a text that is no such value.
        """
        value: Any = text
        if self.type == "string[]":
            items = text.strip().removeprefix("[").removesuffix("]").split(",")
            value = [item.strip().strip("'\"") for item in items]
        elif self.type == "bool":
            value = {"true": True, "false": False}.get(text.strip().lower(), text)
        elif self.type in ("int", "double"):
            with suppress(ValueError):
                value = int(text) if self.type == "int" else float(text)
        return self.check(value)

    def _convert(self, value: Any) -> Value:
        kind = self.type
        if kind == "double" and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if kind == "string[]" and isinstance(value, Sequence) and not isinstance(value, str):
            if all(isinstance(item, str) for item in value):
                return tuple(value)
        elif isinstance(value, (bool, int, float, str)) and type(value) is type(self.default):
            return value
        raise ConfigError(
            f"{self.name} is {format_value(value)}; it must be of type"
            f" {kind}{self._remedy(value)}."
        )

    def _remedy(self, value: Any) -> str:
        """Suggest how to write a value of the wrong type; empty without a suggestion."""
        if self.type == "string[]" and isinstance(value, str):
            return f": write [{format_value(value)}]"
        if self.type == "string" and isinstance(value, (bool, int, float)):
            return f": write '{value}', in quotes"
        if self.type == "bool":
            return ": write true or false, without quotes"
        if self.type in ("int", "double") and isinstance(value, str):
            return ": write a number, without quotes"
        if self.type == "int" and isinstance(value, float) and value.is_integer():
            return f": write {value:.0f}"
        return ""


def format_value(value: Any) -> str:
    """Format a value for an error: ASCII, at most 60 characters."""
    text = ascii(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."
