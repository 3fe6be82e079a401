"""What the English grammar finds: clauses of a verb, its nouns and its prepositional phrases."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from siglip_perception.types import Link


class Kind(Enum):
    """What a clause does with what it names."""

    ORDER = "order"
    QUESTION = "question"
    TALK = "talk"  # around the order: "I'm making coffee"
    NAMES = "names"  # no verb: "red cup. plate."


@dataclass
class Noun:
    """A noun phrase. it: a pronoun or "one" that stands for a phrase before it.

    thing: it names something; people, amounts and "something" do not. marks: what it is told
    apart by, "the cup on the plate". joined: "and" stands before it.
    """

    text: str
    at: int
    which: str = ""
    rank: int = 0
    many: bool = False
    thing: bool = True
    it: str = ""
    marks: list[Place] = field(default_factory=list)
    joined: bool = False
    excluded: bool = False
    asked: bool = False
    nothing: bool = False
    both: bool = False


@dataclass
class Place:
    """A preposition with its nouns. side: it names only a side, of the noun before or of a motion.

    word: the preposition itself.
    """

    word: str
    link: Link | None
    at: int
    nouns: list[Noun] = field(default_factory=list)
    side: str = ""
    rank: int = 0
    goal: bool = False


@dataclass
class Clause:
    """A verb and what belongs to it, in the order of the words.

    said: the verb as it is said. known: the lexicon has it. unread: how many words the grammar
    left out.
    """

    kind: Kind
    verb: str = ""
    said: str = ""
    known: bool = True
    negated: bool = False
    action: bool = True
    items: list[Noun | Place] = field(default_factory=list)
    subject: list[Noun] = field(default_factory=list)
    lead: list[Place] = field(default_factory=list)
    unread: int = 0
    spared: bool = False
    inside: Link | None = None
    turned: bool = False
    asked: bool = False
    led: bool = False
