"""Names of classes, and the class that a caption names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from siglip_perception.datasets.texts import decode_text
from siglip_perception.errors import PerceptionError
from siglip_perception.util.files import read_regular


def read_classes(path: Path) -> tuple[str, ...]:
    """Read class names, one per line; raise PerceptionError for fewer than two."""
    try:
        lines = decode_text(read_regular(path, 1 << 24)).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PerceptionError(f"The classes in {path} cannot be read ({error}).") from error
    names = tuple(dict.fromkeys(" ".join(line.split()) for line in lines if line.strip()))
    if len(names) < 2:
        raise PerceptionError(f"{path} has to list two or more classes, one per line.")
    return names


def labels_of(captions: Sequence[str], classes: Sequence[str]) -> list[int | None]:
    """Label each caption with the class that it names; None if it names none or several.

    A class inside a longer class name does not count: "cup" in "paper cup".
    """
    longest = sorted(classes, key=len, reverse=True)
    # No letter may precede a name; what follows may be a plural ending or a Korean particle.
    pattern = re.compile("|".join(rf"(?<!\w){re.escape(name.casefold())}" for name in longest))
    number = {name.casefold(): n for n, name in enumerate(classes)}
    names_by_caption = [set(pattern.findall(caption.casefold())) for caption in captions]
    return [number[next(iter(names))] if len(names) == 1 else None for names in names_by_caption]
