"""What the grammar of every language gives, and what follows from it for the objects in view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from siglip_perception.types import Link, Relation, Role, Where

_SELECTS = {
    "left": Where.LEFT,
    "right": Where.RIGHT,
    "middle": Where.MIDDLE,
    "front": Where.FRONT,
    "back": Where.BEHIND,
    "top": Where.ABOVE,
    "bottom": Where.BELOW,
    "largest": Where.LARGEST,
    "smallest": Where.SMALLEST,
    "nearest": Where.NEAR,
    "farthest": Where.FAR,
}
_LIES = {
    None: Where.ON,  # Korean 에 says that it is there, not how
    Link.ON: Where.ON,
    Link.IN: Where.IN,
    Link.UNDER: Where.BELOW,
    Link.ABOVE: Where.ABOVE,
    Link.LEFT_OF: Where.LEFT,
    Link.RIGHT_OF: Where.RIGHT,
    Link.IN_FRONT_OF: Where.FRONT,
    Link.BEHIND: Where.BEHIND,
    Link.NEXT_TO: Where.NEAR,
    Link.NEAR: Where.NEAR,
    Link.BETWEEN: Where.BETWEEN,
    Link.AROUND: Where.NEAR,
    Link.AGAINST: Where.NEAR,
    Link.FAR_FROM: Where.FAR,
    Link.FROM: Where.NEAR,
}


@dataclass(eq=False)
class Phrase:
    """One mention of an object, in the words of the sentence, and what the sentence wants of it.

    The fields are those of types.Mention. of: the phrase that goes there or is told apart. same:
    the phrase that it stands for, where it is a pronoun; its text and selectors are those of that.
    position: where it stands in the sentence.
    """

    text: str
    role: Role = Role.UNKNOWN
    position: int = 0
    step: int = 1
    link: Link | None = None
    of: Phrase | None = None
    which: str = ""
    rank: int = 0
    many: bool = False
    confidence: float = 1.0
    same: Phrase | None = None
    relations: list[tuple[Where, list[Phrase], int]] = field(default_factory=list)


@dataclass(frozen=True)
class Reading:
    """What a grammar makes of a text. verbs: the words that it took for verbs."""

    phrases: tuple[Phrase, ...]
    verbs: tuple[str, ...] = ()


def relate(phrases: Sequence[Phrase]) -> None:
    """Fill in the relations that choose among a phrase's objects: selectors, then landmarks."""
    near = {id(landmark.of) for landmark in phrases if landmark.link in (Link.NEAR, Link.FAR_FROM)}
    for phrase in phrases:
        where = _SELECTS.get(phrase.which)
        if where in (Where.NEAR, Where.FAR) and id(phrase) in near:
            continue  # nearest to the plate, not to the camera
        if where is not None:
            phrase.relations.append((where, [], max(phrase.rank, 1)))
    for landmark in phrases:
        told = landmark.of
        if told is None or landmark.role is not Role.UNKNOWN or landmark.link not in _LIES:
            continue
        where = _LIES[landmark.link]
        if where is Where.BETWEEN and told.relations and told.relations[-1][0] is where:
            told.relations[-1][1].append(landmark)
        else:
            told.relations.append((where, [landmark], 1))
    for phrase in phrases:
        if phrase.same is not None:
            phrase.relations = phrase.same.relations


def relations_of(phrase: Phrase, numbers: dict[int, int]) -> tuple[Relation, ...]:
    """The relations of a phrase, their landmarks as indices of mentions.

    numbers: id of a phrase -> index of its mention; a relation to one without an index goes.
    """
    return tuple(
        Relation(where, tuple(numbers[id(mark)] for mark in landmarks), rank)
        for where, landmarks, rank in phrase.relations
        if all(id(mark) in numbers for mark in landmarks)
    )
