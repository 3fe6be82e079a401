"""What the rules of every language give."""

from __future__ import annotations

from typing import NamedTuple

from siglip_perception.types import Role


class Phrase(NamedTuple):
    """One named object, in the words of the sentence, and what the sentence wants of it."""

    text: str
    role: Role
