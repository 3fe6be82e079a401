"""English: words are told apart by lists; what no list knows is content, and its runs are phrases.

Ambiguous words ("can", "place", "light") are content after a determiner or another content word.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from siglip_perception.phrases import english_words as words
from siglip_perception.phrases.phrase import Phrase
from siglip_perception.types import Role

_TOKEN = re.compile(r"[^\W_]+(?:['’\-&][^\W_]+)*|[.,;:!?]")
_SENTENCE_ENDS = frozenset(".;:!?")
_BEFORE_GERUNDS = words.NEGATIVE_VERBS | {"without"}
_COMMANDS = (words.PLACING | words.ACTING) - words.AMBIGUOUS


def is_english(text: str) -> bool:
    """Whether the English rules apply: an English function word or verb, or plain ASCII text."""
    tokens = {token.lower() for token in _TOKEN.findall(text)}
    if tokens & ((_COMMANDS | {"the"}) - words.FOREIGN):
        return True
    if tokens & words.FOREIGN:
        return False
    return text.isascii() or bool(tokens & words.RELATIONS)


@dataclass
class _Clause:
    """What has been read since the last verb; indices point into `_Reader.found`."""

    verb: str = ""
    placing: bool = False
    relation: str = ""
    named: int = 0
    named_before_relation: int = 0
    places: list[int] = field(default_factory=list)
    goal: bool = False
    describing: bool = False
    joined: int = -1
    negated: bool = False  # the verb: "don't touch"
    excluding: bool = False  # what comes up to a comma or "but": "not the cup"
    every: bool = False
    nothing: bool = False


@dataclass
class _Reader:
    found: list[Phrase] = field(default_factory=list)
    chunk: list[str] = field(default_factory=list)
    clause: _Clause = field(default_factory=_Clause)
    joining: bool = False
    paused_by: str = ""  # the comma, conjunction or filler that came last
    negation: str = ""  # waits for its verb: "verb", or "noun" where there may be none

    def close(self, *, joining: bool = False) -> None:
        """End the running phrase, if there is one; joining: "and" or a comma follows it."""
        while self.chunk and self.chunk[-1].lower() == "of":
            self.chunk.pop()
        if self.chunk:
            self._add(" ".join(self.chunk))
            self.chunk.clear()
        self.joining = joining

    def verb(self, word: str) -> None:
        self.close()
        if word in words.COPULAS and self.clause.verb and self.clause.named:
            self.clause.describing = True  # "the cup, which is on the table, ..."
            return
        last = self.clause
        if last.relation == "without" and last.named == last.named_before_relation:
            return  # "without moving the cup": it stays what the first verb spares
        # "don't touch or move the knife", "don't pick up and move the knife"
        goes_on = self.paused_by in ("or", "nor") or not (last.named or self.paused_by == ",")
        negated = bool(self.negation) or (last.negated and goes_on)
        negated |= word in words.NEGATIVE_VERBS
        self.clause = _Clause(verb=word, placing=word in words.PLACING, negated=negated)
        self.negation = ""

    def negate(self, kind: str) -> None:
        """A negation: of the next verb, or of the phrases up to a comma, "but" or verb."""
        self.close()
        self.negation = kind
        self.clause.excluding = True

    def pause(self, word: str) -> None:
        """A comma, a conjunction or a filler: what of a negation goes on after it."""
        clause = self.clause
        if word == ",":
            clause.excluding = False
            if self.negation == "noun":
                self.negation = ""
        elif word == "but" and (clause.excluding or clause.negated):
            clause.excluding = clause.negated = False
            self.negation = ""
        elif word in words.EXCEPTIONS or (word == "but" and clause.every):
            # "don't touch anything except the cup" asks for the cup.
            clause.excluding = not (clause.negated or clause.nothing)
            clause.negated = False
        elif word == "alone" and clause.verb == "leave":
            for index in range(len(self.found) - clause.named, len(self.found)):
                self._set_role(index, Role.UNKNOWN)
        self.paused_by = word

    def relation(self, word: str) -> None:
        self.close()
        clause = self.clause
        if clause.joined == len(self.found) - 1 >= 0 and clause.relation != "between":
            # "... on the table and the plate in the sink": the plate was a target after all.
            self._set_role(clause.joined, Role.TARGET if clause.verb else Role.UNKNOWN)
            clause.places.clear()
            clause.goal = False
        elif clause.relation and clause.named == clause.named_before_relation:
            return  # only the first of a run counts: "to the left of", "out of"
        clause.relation = word
        clause.named_before_relation = clause.named

    def sentence(self) -> None:
        self.close()
        self.clause = _Clause()
        self.negation = ""

    def _add(self, text: str) -> None:
        clause = self.clause
        role = self._role()
        if role is Role.PLACE:
            if clause.relation in words.GOAL and not clause.goal:
                # "the cup on the table into the box": only the box is where it goes.
                for index in clause.places:
                    self._set_role(index, Role.UNKNOWN)
                clause.places.clear()
                clause.goal = True
            clause.places.append(len(self.found))
        spared = clause.negated or clause.excluding
        joined = self.joining and clause.relation and not spared
        clause.joined = len(self.found) if joined else -1
        self.found.append(Phrase(text, role))
        self.negation = ""
        clause.named += 1

    def _set_role(self, index: int, role: Role) -> None:
        self.found[index] = self.found[index]._replace(role=role)

    def _role(self) -> Role:
        clause = self.clause
        if not clause.verb or clause.relation in words.FROM:
            return Role.UNKNOWN
        if clause.negated or clause.excluding:
            return Role.UNKNOWN
        if not clause.relation:
            return Role.TARGET
        if not clause.placing:
            aimed = clause.named == 0 and clause.relation in words.AIM
            return Role.TARGET if aimed else Role.UNKNOWN
        if clause.relation in words.GOAL:
            return Role.PLACE
        if clause.describing:
            return Role.UNKNOWN
        # "on the plate next to the bowl": the first relation says where, the next one which.
        further = bool(clause.places) and clause.named == clause.named_before_relation
        return Role.UNKNOWN if clause.goal or further else Role.PLACE


def parse(text: str) -> list[Phrase]:
    """The phrases of an English sentence, or of a list such as "red cup. plate."."""
    tokens = [token.replace("’", "'") for token in _TOKEN.findall(text)]
    lower = [token.lower() for token in tokens]
    reader = _Reader()
    after_determiner = False
    for i, (token, word) in enumerate(zip(tokens, lower, strict=True)):
        following = lower[i + 1] if i + 1 < len(lower) else ""
        previous = lower[i - 1] if i else ""
        content_here = after_determiner or bool(reader.chunk)
        kind = _kind(word, previous, following, content_here, bool(reader.chunk))
        negation = _negation(word, previous, following)
        if kind == "content" and not content_here and _is_unknown_verb(word, previous, reader):
            kind = "break" if word.endswith("ly") or previous in _BEFORE_GERUNDS else "verb"
        after_determiner = False
        reader.clause.every |= word in words.EVERY
        reader.clause.nothing |= word in words.NOTHING
        if negation:
            reader.negate(negation)
        elif word in words.REVERSING and reader.negation:
            reader.negation = ""
            reader.clause.excluding = False
        elif kind == "content":
            reader.chunk.append(token)
        elif kind == "determiner":
            if reader.chunk and reader.chunk[-1].lower() != "of":
                reader.close()
            after_determiner = True
        elif kind == "verb":
            reader.verb(word)
        elif kind == "relation":
            reader.relation(word)
        elif kind == "sentence":
            reader.sentence()
        else:
            reader.close(joining=word in (",", "and"))
            reader.pause(word)
            reader.clause.describing &= word != ","
    reader.close()
    return reader.found


def _negation(word: str, previous: str, following: str) -> str:
    """ "verb" or "noun", by what it waits for, where the word is a negation, otherwise ""."""
    if word in ("can't", "cannot"):
        return "verb" if previous == "you" else ""  # "I can't find the cup" looks for it
    if word == "circumstances" and previous == "no":
        return "verb"
    if word == "instead" and following == "of":
        return "noun"
    if word not in words.NEGATIONS or previous == "why" or following in ("only", "just"):
        return ""
    of_verb = word in words.VERB_NEGATIONS or previous in words.AUXILIARIES
    return "verb" if of_verb or following == "to" else "noun"


def _is_unknown_verb(word: str, previous: str, reader: _Reader) -> bool:
    """Whether a word that no list knows has to be a verb: "don't spill", "without touching"."""
    if previous in _BEFORE_GERUNDS or (previous == "of" and reader.negation):
        return word.endswith("ing")
    return reader.negation == "verb"


def _kind(word: str, previous: str, following: str, content_here: bool, in_phrase: bool) -> str:
    if word in _SENTENCE_ENDS:
        return "sentence"
    if word == ",":
        return "break"
    if word == "of":
        return "content" if in_phrase else "break"
    if word in words.BEFORE_TO and following == "to":
        return "relation"
    if word in words.PARTICLES and _belongs_to_verb(word, previous):
        return "break"
    if word in words.SIDES:
        describes = word in words.DESCRIPTIVE_SIDES and _is_content(following)
        if describes and content_here:
            return "content"
        return "relation" if following == "of" or not content_here else "break"
    if word in words.AMBIGUOUS and content_here:
        return "content"
    if word in words.RELATIONS:
        return "relation"
    if word in words.DETERMINERS:
        return "content" if word == "one" and in_phrase else "determiner"
    if word in words.PRONOUNS or word in words.CONJUNCTIONS:
        return "break"
    if word in words.FILLERS or word in words.NEGATIONS or word in words.EXCEPTIONS:
        return "break"
    if word == "alone":
        return "break"
    if word in words.PLACING or word in words.ACTING:
        return "verb"
    return "content"


def _belongs_to_verb(word: str, previous: str) -> bool:
    if word in words.ALWAYS_PARTICLES:
        return True
    if word in ("on", "over", "around"):
        return previous in ("turn", "switch", "knock", "hand")
    return previous in words.PARTICLE_VERBS


def _is_content(word: str) -> bool:
    """Whether a word, taken by itself, can go on with a phrase."""
    return (
        bool(word)
        and word.isascii()
        and word[0].isalnum()
        and not (
            word in words.RELATIONS
            or word in words.DETERMINERS
            or word in words.PRONOUNS
            or word in words.CONJUNCTIONS
            or word in words.FILLERS
            or word in words.NEGATIONS
            or word in words.EXCEPTIONS
            or word in words.SIDES
            or (word in words.PLACING | words.ACTING and word not in words.AMBIGUOUS)
            or word == "of"
        )
    )
