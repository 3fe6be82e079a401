"""Conversion of an instruction's mentions to JSON values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from siglip_perception.types import Mention


def mentions_as_json(phrases: Sequence[str], mentions: Sequence[Mention]) -> list[dict[str, Any]]:
    """Convert mentions to JSON values.

    `of` is the index of the mention that goes to this place or is selected by this landmark,
    `of_phrase` its phrase.
    """
    return [
        {
            "phrase": phrases[mention.phrase],
            "role": mention.role.name.lower(),
            "step": mention.step,
            "relation": None if mention.link is None else mention.link.value,
            "of": mention.of,
            "of_phrase": None if mention.of is None else phrases[mentions[mention.of].phrase],
            "which": mention.which or None,
            "rank": mention.rank or None,
            "many": mention.many,
            "confidence": round(mention.confidence, 3),
        }
        for mention in mentions
    ]
