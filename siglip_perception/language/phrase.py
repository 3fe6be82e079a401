"""Phrases and relations, the common result of the grammars of all languages."""

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
    """One mention of an object, in the words of the sentence, with its role.

    The fields are those of types.Mention.

    of: the phrase that goes to this place or is selected by this landmark.
    antecedent: the phrase that a pronoun stands for, whose text and selectors it has.
    position: index in the sentence.
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
    antecedent: Phrase | None = None
    relations: list[tuple[Where, list[Phrase], int]] = field(default_factory=list)


@dataclass(frozen=True)
class Reading:
    """A grammar's reading of a text. verbs: the words that it read as verbs."""

    phrases: tuple[Phrase, ...]
    verbs: tuple[str, ...] = ()


def relate(phrases: Sequence[Phrase]) -> None:
    """Fill in the relations that select among a phrase's objects: selectors, then landmarks."""
    near = {id(landmark.of) for landmark in phrases if landmark.link in (Link.NEAR, Link.FAR_FROM)}
    for phrase in phrases:
        where = _SELECTS.get(phrase.which)
        if where in (Where.NEAR, Where.FAR) and id(phrase) in near:
            continue  # nearest to the plate, not to the camera
        if where is not None:
            phrase.relations.append((where, [], max(phrase.rank, 1)))
    for landmark in phrases:
        subject = landmark.of
        if subject is None or landmark.role is not Role.UNKNOWN or landmark.link not in _LIES:
            continue
        where = _LIES[landmark.link]
        if where is Where.BETWEEN and subject.relations and subject.relations[-1][0] is where:
            subject.relations[-1][1].append(landmark)
        else:
            subject.relations.append((where, [landmark], 1))
    for phrase in phrases:
        if phrase.antecedent is not None:
            phrase.relations = phrase.antecedent.relations


def relations_of(phrase: Phrase, numbers: dict[int, int]) -> tuple[Relation, ...]:
    """Return a phrase's relations, with landmarks as indices of mentions.

    numbers: id of a phrase -> index of its mention. Relations to other phrases are left out.
    """
    return tuple(
        Relation(where, tuple(numbers[id(mark)] for mark in landmarks), rank)
        for where, landmarks, rank in phrase.relations
        if all(id(mark) in numbers for mark in landmarks)
    )
