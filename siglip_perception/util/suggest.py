"""The name that a mistyped one was probably meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# Of the letters, so many have to be alike: "openvla-22" is openvla-224, "fly" is no "fetch".
_LIKENESS = 0.7


def closest(word: str, names: Iterable[str]) -> str:
    """The name nearest to the word in its letters, in any case; empty where none is near."""
    by_case = {name.lower(): name for name in names}
    near = difflib.get_close_matches(word[:200].lower(), by_case, n=1, cutoff=_LIKENESS)
    return by_case[near[0]] if near else ""


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """` (did you mean NAME?)`, to follow the word in a sentence; empty where no name is near."""
    name = closest(word, names)
    return f" (did you mean {name}?)" if name else ""
