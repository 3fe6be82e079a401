"""Parts of an English sentence: clauses of a verb, its nouns and its prepositional phrases."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from siglip_perception.types import Link


class Kind(Enum):
    """Function of a clause."""

    ORDER = "order"
    QUESTION = "question"
    TALK = "talk"  # around the order: "I'm making coffee"
    NAMES = "names"  # no verb: "red cup. plate."


@dataclass
class Noun:
    """A noun phrase.

    at: index of its first word.
    is_object: it names an object; people, amounts and "something" do not.
    pronoun: a pronoun or "one" that stands for a phrase before it.
    marks: landmarks that select it, as in "the cup on the plate".
    is_coordinated: "and" stands before it.
    is_wanted: "don't touch anything but the cup" excludes it from what is forbidden.
    is_nothing: it is "nothing". has_both: "both" stands before it.
    """

    text: str
    at: int
    which: str = ""
    rank: int = 0
    many: bool = False
    is_object: bool = True
    pronoun: str = ""
    marks: list[Place] = field(default_factory=list)
    is_coordinated: bool = False
    is_excluded: bool = False
    is_wanted: bool = False
    is_nothing: bool = False
    has_both: bool = False


@dataclass
class Place:
    """A preposition with its nouns.

    word: the preposition. side: for a place of only a side, of the noun before or of a motion.
    goal: the preposition says where something goes.
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
    """A verb with its nouns and places, in the order of the words.

    surface: the verb as written. in_lexicon: the lexicon has the verb.
    lead: places before the verb. unread: number of words that the grammar skipped.
    is_spared: "leave the cup alone". inside: link of "put the bowl inside".
    is_turned: "upside down" and the like. has_particle: a particle follows the verb.
    """

    kind: Kind
    verb: str = ""
    surface: str = ""
    in_lexicon: bool = True
    is_negated: bool = False
    action: bool = True
    items: list[Noun | Place] = field(default_factory=list)
    subject: list[Noun] = field(default_factory=list)
    lead: list[Place] = field(default_factory=list)
    unread: int = 0
    is_spared: bool = False
    inside: Link | None = None
    is_turned: bool = False
    is_wanted: bool = False
    has_particle: bool = False
