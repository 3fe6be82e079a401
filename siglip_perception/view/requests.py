"""Requests of a page: each message of its socket, checked."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from siglip_perception.errors import PerceptionError

# Parts of a page that cost work, so that they are computed only while a page shows them.
PANELS = ("heat", "tokens")


class RequestError(PerceptionError):
    """A page's message that is not understood."""


@dataclass(frozen=True)
class Instruct:
    """Look for what the text names; "" for nothing."""

    text: str


@dataclass(frozen=True)
class SetThreshold:
    """Least score of an object, in [0, 1]."""

    value: float


@dataclass(frozen=True)
class Play:
    """Go on, or pause."""

    on: bool


@dataclass(frozen=True)
class Step:
    """Go by so many frames, back if negative, and pause."""

    by: int


@dataclass(frozen=True)
class Seek:
    """Go to a frame of the recording."""

    index: int


@dataclass(frozen=True)
class Choose:
    """Show this camera."""

    camera: str


@dataclass(frozen=True)
class Pin:
    """Look at the patch at this point, in shares of the picture's width and height."""

    x: float
    y: float


@dataclass(frozen=True)
class Unpin:
    """Look at no patch."""


@dataclass(frozen=True)
class Follow:
    """Take the recording's own instructions again."""


@dataclass(frozen=True)
class Show:
    """The panels that this page shows, of PANELS."""

    panels: frozenset[str]


@dataclass(frozen=True)
class Shown:
    """The page has drawn a frame: it is ready for the next."""

    frame: int


Request: TypeAlias = (
    Instruct | SetThreshold | Play | Step | Seek | Choose | Pin | Unpin | Follow | Show | Shown
)


def parse_request(text: str | bytes) -> Request:
    """Read a page's message, JSON with a "type". RequestError, one sentence, for anything else."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError("The message is no JSON.") from error
    kind = message.get("type") if isinstance(message, dict) else None
    read = _READERS.get(kind) if isinstance(kind, str) else None
    if read is None:
        raise RequestError(f'The message has no "type" that is one of {", ".join(_READERS)}.')
    try:
        return read(message)
    except KeyError as error:
        raise RequestError(f"The message {kind} has no {error}.") from error


def _text(message: Mapping[str, Any], key: str) -> str:
    value = message[key]
    if not isinstance(value, str):
        raise RequestError(f"{key} of {message['type']} is no text.")
    # Half a surrogate pair, which JSON can spell, is no character and cannot be encoded.
    return value.encode("utf-8", "replace").decode()


def _share(message: Mapping[str, Any], key: str) -> float:
    value = message[key]
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value <= 1:
        raise RequestError(f"{key} of {message['type']} is no number from 0 to 1.")
    return float(value)


def _whole(message: Mapping[str, Any], key: str) -> int:
    value = message[key]
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > 2**53:
        raise RequestError(f"{key} of {message['type']} is no whole number.")
    return value


def _flag(message: Mapping[str, Any], key: str) -> bool:
    value = message[key]
    if not isinstance(value, bool):
        raise RequestError(f"{key} of {message['type']} is neither true nor false.")
    return value


def _panels(message: Mapping[str, Any]) -> Show:
    names = message["panels"]
    if not isinstance(names, list) or not all(name in PANELS for name in names):
        raise RequestError(f"panels of show is no list of {', '.join(PANELS)}.")
    return Show(frozenset(names))


_READERS: Mapping[str, Callable[[Mapping[str, Any]], Request]] = {
    "instruct": lambda message: Instruct(_text(message, "text")),
    "threshold": lambda message: SetThreshold(_share(message, "value")),
    "play": lambda message: Play(_flag(message, "on")),
    "step": lambda message: Step(_whole(message, "by")),
    "seek": lambda message: Seek(_whole(message, "index")),
    "choose": lambda message: Choose(_text(message, "camera")),
    "pin": lambda message: Pin(_share(message, "x"), _share(message, "y")),
    "unpin": lambda message: Unpin(),
    "follow": lambda message: Follow(),
    "show": _panels,
    "shown": lambda message: Shown(_whole(message, "frame")),
}
