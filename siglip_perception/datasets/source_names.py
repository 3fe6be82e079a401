"""Names of sources as people type them, with braces and wildcards that no shell has expanded."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from siglip_perception.errors import DatasetError

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,9})\.\.(\d{1,9})")


def expand_name(name: str) -> Iterator[str]:
    """Expand braces and wildcards as a shell does; a path that exists and a URL stay as they are.

    Raises DatasetError for a wildcard that matches nothing.
    """
    path = Path(name).expanduser()
    if exists(path) or "://" in name:
        yield name
        return
    for pattern in dict.fromkeys(_without_braces(name)):  # nested braces can repeat a name
        path = Path(pattern).expanduser()
        if not exists(path) and any(character in pattern for character in "*?["):
            matches = sorted(path.parent.glob(path.name)) if exists(path.parent) else []
            if not matches:
                raise DatasetError(f"No file matches {pattern}.")
            yield from map(str, matches)
        else:
            yield pattern


def _without_braces(name: str) -> Iterator[str]:
    """Expand {a,b} and {00..12}; numbers are zero-padded where either end of the range is."""
    braces = next((m for m in _BRACES.finditer(name) if _choices(m[1])), None)
    if braces is None:
        yield name
        return
    for choice in _choices(braces[1]):
        yield from _without_braces(name[: braces.start()] + choice + name[braces.end() :])


def _choices(text: str) -> list[str]:
    ends = _RANGE.fullmatch(text)
    if ends is None:
        return text.split(",") if "," in text else []
    first, last = int(ends[1]), int(ends[2])
    zeros = any(end.startswith("0") and len(end) > 1 for end in ends.groups())
    width = max(map(len, ends.groups())) if zeros else 0
    step = 1 if first <= last else -1
    numbers = itertools.islice(range(first, last + step, step), 1_000_000)
    return [f"{number:0{width}d}" if width else str(number) for number in numbers]


def exists(path: Path) -> bool:
    """Return whether there is such a file or folder; False for a name that no file can have."""
    try:
        return path.exists()
    except (OSError, ValueError):  # the name is too long or contains a NUL
        return False
