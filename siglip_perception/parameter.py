"""One parameter of the node: its type, its range, when it may be set."""

from __future__ import annotations

from collections.abc import Sequence
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
    """A parameter has a value that it cannot take."""


class Change(Enum):
    """When a parameter may be set."""

    ANY_TIME = "any time"
    UNCONFIGURED = "while unconfigured"
    START = "at the start"


@dataclass(frozen=True)
class Parameter:
    """One parameter; its default gives its type, minimum and maximum are inclusive.

    change: ANY_TIME, or only while the node is UNCONFIGURED (it belongs to what `configure`
    loads), or only at the START of the process (read-only to ROS).
    """

    name: str
    default: Value
    description: str
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    change: Change = Change.ANY_TIME

    @property
    def type(self) -> Literal["bool", "int", "double", "string", "string[]"]:
        return _TYPE_NAMES[type(self.default)]

    @property
    def read_only(self) -> bool:
        return self.change is Change.START

    @property
    def constraint(self) -> str:
        """The range or the choices, in words; empty where anything of the type goes."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.minimum is None or self.maximum is None:
            return ""
        return f"{self.minimum:.15g} to {self.maximum:.15g}"

    def check(self, value: Any) -> Value:
        """The value in this parameter's own type; otherwise ConfigError with one sentence."""
        checked = self._typed(value)
        wrong = bool(self.choices) and checked not in self.choices
        if isinstance(checked, (int, float)) and self.minimum is not None:
            wrong = not self.minimum <= checked <= (self.maximum or self.minimum)
        if wrong:
            raise ConfigError(f"{self.name} is {shown(value)}; it must be {self.constraint}.")
        return checked

    def _typed(self, value: Any) -> Value:
        kind = self.type
        if kind == "double" and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if kind == "string[]" and isinstance(value, Sequence) and not isinstance(value, str):
            if all(isinstance(item, str) for item in value):
                return tuple(value)
        elif isinstance(value, (bool, int, float, str)) and type(value) is type(self.default):
            return value
        raise ConfigError(
            f"{self.name} is {shown(value)}; it must be of type {kind}{self._remedy(value)}."
        )

    def _remedy(self, value: Any) -> str:
        """How a value of another type would have to be written, where that can be told."""
        if self.type == "string[]" and isinstance(value, str):
            return f": write [{shown(value)}]"
        if self.type == "string" and isinstance(value, (bool, int, float)):
            return f": write '{value}', in quotes"
        if self.type == "bool":
            return ": write true or false, without quotes"
        if self.type in ("int", "double") and isinstance(value, str):
            return ": write a number, without quotes"
        if self.type == "int" and isinstance(value, float) and value.is_integer():
            return f": write {value:.0f}"
        return ""


def shown(value: Any) -> str:
    """A value as an error names it: ASCII, at most 60 characters."""
    text = ascii(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."
