"""How much longer a tokenizer.json's normalizer can make a text, from its description alone.

Thirty steps that replace "a" by "aa" make a gigabyte of one letter, so nothing is run before this.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

# SigLIP's and Gemma's own normalizers reach a few hundred at most, by this count.
MAX_GROWTH = 4096
# The longest compatibility decomposition, U+FDFA's, has 18 characters.
_COMPATIBILITY = 18
_TYPES = {
    "NFC": 3,
    "NFD": 4,
    "NFKC": _COMPATIBILITY,
    "NFKD": _COMPATIBILITY,
    "Lowercase": 3,
    "BertNormalizer": 3,
    "ByteLevel": 4,
    "Nmt": 1,
    "Strip": 1,
    "StripAccents": 1,
}


def growth(normalizer: Any) -> float:
    """Bound the factor by which a normalizer, as tokenizer.json has it, can lengthen a text.

    Infinite for a step whose growth is not known, and for an empty pattern, which matches between
    all characters.
    """
    if not isinstance(normalizer, dict):
        return float("inf")
    kind = normalizer.get("type")
    if kind == "Sequence":
        factor = 1.0
        for step in normalizer.get("normalizers", ()):
            factor *= growth(step)
        return factor
    if kind == "Replace":
        return _of_replacement(normalizer)
    if kind == "Prepend":
        return 1 + len(str(normalizer.get("prepend", "")))
    if kind == "Precompiled":
        return _of_charsmap(str(normalizer.get("precompiled_charsmap", "")))
    return _TYPES.get(str(kind), float("inf"))


def _of_replacement(step: dict[str, Any]) -> float:
    content, pattern = str(step.get("content", "")), step.get("pattern")
    text = pattern.get("String") if isinstance(pattern, dict) else None
    if text is None:  # a regular expression may match single characters, and between them
        return 1 + len(content)
    return max(1.0, len(content) / len(text)) if text else float("inf")


def _of_charsmap(text: str) -> float:
    """Measure the longest replacement: they end with NUL, behind the table of their places."""
    try:
        data = base64.b64decode(text)
    except (binascii.Error, ValueError):
        return float("inf")
    replacements = data[4 + int.from_bytes(data[:4], "little") :]
    return max(1, *(len(piece) for piece in replacements.split(b"\0")))
