"""The mentions of an instruction as JSON values, for every command that prints them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from siglip_perception.types import Mention


def mentions_as_json(phrases: Sequence[str], mentions: Sequence[Mention]) -> list[dict[str, Any]]:
    """Mentions as JSON values; `of` is the index of the mention that goes there or is told apart,
    `of_phrase` its phrase."""
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
