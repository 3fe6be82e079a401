"""What a Korean sentence says of its nouns: roles by particles and verbs, relations by sides."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from siglip_perception.language import korean_words as words
from siglip_perception.language.korean_forms import without_possessive
from siglip_perception.language.phrase import Phrase
from siglip_perception.types import Relation, Role, Where


@dataclass
class _Noun:
    """A phrase that waits for the verb which decides its role.

    side: a side such as 위 follows it, so that it says where something is. tells: it tells the
    next noun apart, as 접시 does in "접시 위의 컵".
    """

    text: str
    particle: str = ""
    side: bool = False
    where: Where | None = None
    tells: bool = False
    relations: tuple[Relation, ...] = ()
    many: bool = False


@dataclass
class Reader:
    """Takes a sentence word by word, as `korean.parse` has told the words apart."""

    found: list[Phrase] = field(default_factory=list)
    waiting: list[_Noun] = field(default_factory=list)
    chunk: list[str] = field(default_factory=list)
    pending: list[Relation] = field(default_factory=list)  # of the next noun: 왼쪽 컵
    many: bool = False
    clause: int = 0  # index of the first phrase that the last verb settled
    either: bool = False  # the last verb was one of two: 들거나
    there: bool = False  # "그 옆에": beside what has been named before

    def close(self, particle: str = "") -> None:
        """End the running phrase with the particle that followed it."""
        if self.chunk:
            owner = without_possessive(self.chunk[-1])
            if owner != self.chunk[-1] and not particle:
                particle = "의"
            self.chunk[-1] = owner
            many = self.many or particle.startswith("들")
            relations = tuple(self.pending)
            self.waiting.append(
                _Noun(" ".join(self.chunk), particle, relations=relations, many=many)
            )
            self.chunk.clear()
            self.pending.clear()
            self.many = False

    @property
    def marked(self) -> bool:
        """Whether a noun waits whose particle leads to a verb: 컵을, 접시에."""
        leading = (*words.OBJECT, *words.SUBJECT, *words.TO_PLACE, *words.FROM_PLACE)
        return not self.chunk and bool(self.waiting) and self.waiting[-1].particle in leading

    def side(self, particle: str, where: Where | None, *, described: bool) -> None:
        """A side such as 위에: it makes a place of the noun before it.

        described: a word such as 있는 or a noun follows, so that it tells that noun apart.
        """
        self.close("의")
        joined = ("의", *words.JOINING)
        if self.waiting and self.waiting[-1].side and self.waiting[-1].particle in ("", "의"):
            last = self.waiting[-1]  # one side more: "매트 왼쪽 끝에"
            last.tells, last.particle = particle in ("", "의"), particle
            return
        if not self.waiting or self.waiting[-1].particle not in joined:
            if where is not None and (described or particle not in words.TO_PLACE):
                self.pending.append(Relation(where))
            return
        last = self.waiting[-1]
        last.side, last.where = True, where
        last.tells = particle in ("", "의") or particle in words.FROM_PLACE
        last.particle = particle
        # "접시와 그릇 사이에": what is joined shares the place.
        for noun in reversed(self.waiting[:-1]):
            if noun.particle not in words.JOINING:
                break
            noun.side, noun.particle = True, particle

    def near(self, where: Where) -> None:
        """가까운, 먼: tells the next noun apart, by the noun before if that is marked."""
        self.close()
        if self.waiting and self.waiting[-1].particle in words.BEFORE_NEAR:
            last = self.waiting[-1]
            last.side, last.where, last.tells, last.particle = True, where, True, "의"
        else:
            self.pending.append(Relation(where))

    def tools(self) -> None:
        """The verb takes what it works with, not where to: 뚜껑으로 덮어."""
        for noun in self.waiting:
            if noun.particle in ("로", "으로") and not noun.side:
                noun.particle = "로써"

    def spare(self) -> None:
        """What the last verb named stays as it is: "칼은 위험하니까 두고"."""
        for i in range(self.clause, len(self.found)):
            self.found[i] = self.found[i]._replace(role=Role.UNKNOWN)

    def exclude(self) -> None:
        """말고, 대신, 아니라: the noun before is not the one that is meant."""
        self.close("말고")
        if self.waiting:
            self.waiting[-1].particle = "말고"

    def verb(self, *, placing: bool, states: bool) -> None:
        """A verb settles every noun that waits.

        states: it describes (있는, 놓인) or is negated, so that no noun is what to act on.
        """
        self.close()
        if states and self.there:
            self.there = False
            return
        first = len(self.found)
        if self.waiting:
            self.clause = first
        telling = self._telling(states)
        for i, noun in enumerate(self.waiting):
            particle = noun.particle
            if particle in words.JOINING:
                particle = next(
                    (n.particle for n in self.waiting[i + 1 :] if n.particle not in words.JOINING),
                    "",
                )
            told = tuple(
                Relation(where, tuple(first + n for n in landmarks))
                for of, where, landmarks in telling
                if of == i
            )
            self.found.append(
                Phrase(
                    noun.text,
                    _role(noun, particle, placing, states),
                    (*noun.relations, *told),
                    noun.many,
                )
            )
        if not states:
            self.pending.clear()
        self.pending += [
            Relation(where, tuple(first + n for n in landmarks))
            for of, where, landmarks in telling
            if of == len(self.waiting)
        ]
        self.waiting.clear()

    def _telling(self, states: bool) -> list[tuple[int, Where, list[int]]]:
        """(number of the noun told apart, how, by which nouns); past the last one: the next."""
        telling = []
        for i, noun in enumerate(self.waiting):
            last = i + 1 == len(self.waiting)
            described = states and last and (noun.side or noun.particle in words.TO_PLACE)
            source = not noun.side and noun.particle in words.FROM_PLACE and not last
            if not (described or source or noun.tells):
                continue
            where = noun.where if noun.side else Where.ON
            if where is not None:
                landmarks = [i]
                if where is Where.BETWEEN and i and self.waiting[i - 1].side:
                    landmarks.insert(0, i - 1)
                telling.append((i + 1, where, landmarks))
        return telling

    def rank(self, rank: int) -> None:
        """왼쪽에서 두 번째: of the side that has just been read."""
        if self.pending and not self.pending[-1].landmarks:
            self.pending[-1] = replace(self.pending[-1], rank=rank)

    def end(self) -> None:
        """No verb came: the phrases stand for themselves."""
        first = len(self.found)
        self.verb(placing=False, states=False)
        for i in range(first, len(self.found)):
            self.found[i] = self.found[i]._replace(role=Role.UNKNOWN)
        self.pending.clear()


def _role(noun: _Noun, particle: str, placing: bool, states: bool) -> Role:
    if noun.side or particle in words.TO_PLACE:
        to_place = particle in words.TO_PLACE
        return Role.PLACE if placing and to_place and not states else Role.UNKNOWN
    if states:
        return Role.UNKNOWN
    if particle in words.OBJECT or particle in words.SUBJECT or not particle:
        return Role.TARGET
    return Role.UNKNOWN
