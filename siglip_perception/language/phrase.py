"""What the rules of every language give."""

from __future__ import annotations

from typing import NamedTuple

from siglip_perception.types import Relation, Role


class Phrase(NamedTuple):
    """One named object, in the words of the sentence, and what the sentence wants of it.

    relations: which of several is meant; their landmarks are indices into the list of phrases.
    many: more than one is meant ("the left cups").
    """

    text: str
    role: Role
    relations: tuple[Relation, ...] = ()
    many: bool = False
