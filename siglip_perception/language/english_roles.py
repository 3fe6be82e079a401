"""What an English sentence says of the phrases that its words make: roles and relations."""

from __future__ import annotations

from dataclasses import dataclass, field

from siglip_perception.language import english_words as words
from siglip_perception.language.phrase import Phrase
from siglip_perception.types import Relation, Role, Where


@dataclass
class _Run:
    """Prepositions and sides in a row: "to the left of", "on top of", "closest to".

    after: index of the phrase before it. settled: a phrase has come, or the run has ended.
    """

    words: list[str] = field(default_factory=list)
    after: int = -1
    settled: bool = True

    @property
    def where(self) -> Where | None:
        """The side if there is one, otherwise what the last preposition says."""
        sides = [words.WHERE_SIDE[w] for w in self.words if w in words.WHERE_SIDE]
        others = [words.WHERE[w] for w in self.words if w in words.WHERE]
        return next(iter(sides or others[::-1]), None)

    @property
    def has_side(self) -> bool:
        return any(word in words.WHERE_SIDE for word in self.words)


@dataclass
class _Clause:
    """What has been read since the last verb; indices point into `Reader.found`."""

    verb: str = ""
    subject: bool = False  # a phrase stood before the verb
    topic: int = -1  # the first of them, until a pronoun has stood for it
    placing: bool = False
    relation: str = ""
    named: int = 0
    named_before_relation: int = 0
    places: list[int] = field(default_factory=list)
    last_place: int = -1
    goal: bool = False
    describing: bool = False
    joined: int = -1
    negated: bool = False  # the verb: "don't touch"
    avoiding: bool = False  # negated by a verb such as "avoid", which does not go on after "and"
    excluding: bool = False  # what comes up to a comma or "but": "not the cup"
    every: bool = False
    nothing: bool = False
    sides: list[tuple[int, Relation]] = field(default_factory=list)  # "the cup on the left"


@dataclass
class Reader:
    """Takes a sentence word by word, as `english.parse` has told the words apart."""

    found: list[Phrase] = field(default_factory=list)
    chunk: list[str] = field(default_factory=list)
    clause: _Clause = field(default_factory=_Clause)
    run: _Run = field(default_factory=_Run)
    joining: bool = False
    paused_by: str = ""  # the comma, conjunction or filler that came last
    negation: str = ""  # waits for its verb: "verb", or "noun" where there may be none
    which: list[Relation] = field(default_factory=list)  # "the left ...": of the next phrase
    rank: int = 1  # "the second ..."
    ranked: int = -1
    many: bool = False  # "both ...", "all the ..."
    links: list[tuple[int, Where, list[int]]] = field(default_factory=list)

    def close(self, *, joining: bool = False) -> None:
        """End the running phrase, if there is one; joining: "and" or a comma follows it."""
        while self.chunk and self.chunk[-1].lower() in ("of", *words.ARTICLES):
            self.chunk.pop()
        if self.chunk:
            self._add(" ".join(self.chunk))
            self.chunk.clear()
        self.joining = joining

    def verb(self, word: str) -> None:
        """A verb: a clause begins."""
        self.close()
        self._end_run()
        if word in words.COPULAS and self.clause.verb and (self.clause.named or self.clause.every):
            self.clause.describing = True  # "the cup, which is on the table, ..."
            return
        last = self.clause
        if word == "where" and last.verb in ("leave", "keep"):  # "leave the cup where it is"
            self.spare()
            return
        sparing = last.relation == "without" and last.named == last.named_before_relation
        if sparing and self.paused_by != ",":
            return  # "without moving the cup": it stays what the first verb spares
        # "don't touch or move the knife", "don't pick up and move the knife"
        ended = last.named or self.paused_by == ","
        goes_on = self.paused_by in ("or", "nor") or not ended
        goes_on |= self.paused_by == "and" and not last.avoiding
        negated = bool(self.negation) or (last.negated and goes_on)
        if word in words.MOVING_ITSELF and not last.verb:
            # "the banana goes into the bowl"
            for index in range(len(self.found) - last.named, len(self.found)):
                if not last.excluding:
                    self._set_role(index, Role.UNKNOWN if negated else Role.TARGET)
        self._end_clause()
        avoiding = word in words.NEGATIVE_VERBS
        topic = len(self.found) - last.named if last.named and not last.verb else -1
        self.clause = _Clause(
            verb=word,
            subject=last.named > 0 and not last.verb,
            topic=last.topic if last.verb in words.COPULAS else topic,
            placing=word in words.PLACING or word in words.MOVING_ITSELF,
            negated=negated or avoiding,
            avoiding=avoiding or (negated and last.avoiding and not self.negation),
        )
        self.negation = ""

    def negate(self, kind: str) -> None:
        """A negation: of the next verb, or of the phrases up to a comma, "but" or verb."""
        self.close()
        self._end_run()
        self.negation = kind
        self.clause.excluding = True

    def pause(self, word: str) -> None:
        """A comma, a conjunction or a filler: what of a negation goes on after it."""
        self._end_run()
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
            self.spare()
        self.paused_by = word

    def spare(self) -> None:
        """What the clause names stays as it is: "leave the knife alone"."""
        for index in range(len(self.found) - self.clause.named, len(self.found)):
            self._set_role(index, Role.UNKNOWN)

    def pronoun(self) -> None:
        """ "the pen near the book, hand it to me": the pen is what to act on."""
        clause = self.clause
        acts = clause.verb and clause.verb not in ("leave", *words.LOOKING)
        if clause.topic >= 0 and acts and not (clause.named or clause.negated or self.chunk):
            self._set_role(clause.topic, Role.TARGET)
            clause.topic = -1

    def relation(self, word: str) -> None:
        """A preposition, or a side that acts as one: "left of"."""
        self.close()
        clause, run = self.clause, self.run
        if run.settled or (run.has_side and word in words.RELATIONS - words.BEFORE_TO - {"to"}):
            self._end_run()
            self.run = _Run([word], len(self.found) - 1, settled=False)
        else:
            run.words.append(word)
        if clause.joined == len(self.found) - 1 >= 0 and clause.relation != "between":
            # "... on the table and the plate in the sink": the plate was a target after all.
            self._set_role(clause.joined, Role.TARGET if clause.verb else Role.UNKNOWN)
            clause.places.clear()
            clause.goal = False
        elif clause.relation and clause.named == clause.named_before_relation:
            return  # only the first of a run counts: "to the left of", "out of"
        clause.relation = word
        clause.named_before_relation = clause.named

    def side(self, word: str, *, describes: bool) -> None:
        """A side; describes: it stands before what it tells apart, "the left cup"."""
        if describes:
            self.which.append(Relation(words.WHERE_SIDE.get(word, Where.NEAR)))
            return
        self.close()
        if not self.run.settled:
            self.run.words.append(word)

    def predicate(self) -> None:
        """Before a pause: what a noun is said to be is no thing, "the knife is dangerous"."""
        clause = self.clause
        if clause.verb not in words.COPULAS or not self.chunk:
            return
        bare = len(self.chunk) == 1 and not (clause.named or clause.relation)
        if bare and (clause.subject or self.chunk[0].lower() in words.PREDICATES):
            self.chunk.clear()
        elif len(self.chunk) > 1 and self.chunk[-1].lower() in words.PREDICATES:
            self.chunk.pop()

    def again(self) -> None:
        """ "the one": the last phrase once more, another of its objects."""
        self.close()
        if self.found:
            self._add(self.found[-1].text)

    def sentence(self) -> None:
        self.close()
        self._end_run()
        self._end_clause()
        self.clause = _Clause()
        self.negation = ""

    def end(self) -> list[Phrase]:
        """The phrases, with the relations that no goal has turned out to be."""
        self.sentence()
        for subject, where, landmarks in self.links:
            if all(self.found[i].role is not Role.PLACE for i in landmarks):
                self._relate(subject, Relation(where, tuple(landmarks)))
        return self.found

    def _end_run(self) -> None:
        """A run that led to no phrase: "the cup on the left"."""
        run = self.run
        if not run.settled and run.has_side and run.where is not None and run.after >= 0:
            rank = self.rank if self.ranked == run.after else 1
            self.clause.sides.append((run.after, Relation(run.where, rank=rank)))
        self.run = _Run()

    def _end_clause(self) -> None:
        clause = self.clause
        for subject, relation in clause.sides:
            # "put the cup on the left" says where to, unless a place is named.
            goes = clause.placing and clause.verb not in words.TAKING
            if not goes or clause.last_place >= subject:
                self._relate(subject, relation)
        self.which.clear()
        self.rank, self.ranked, self.many = 1, -1, False

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
            clause.last_place = len(self.found)
        spared = clause.negated or clause.excluding
        joined = self.joining and clause.relation and not spared
        clause.joined = len(self.found) if joined else -1
        self._link()
        last = text.rsplit(" ", 1)[-1].lower()
        plural = last.endswith("s") and not last.endswith(words.SINGULAR_S)
        self.found.append(Phrase(text, role, tuple(self.which), self.many or plural))
        if self.rank > 1:
            self.ranked = len(self.found) - 1
        self.which.clear()
        self.many = False
        self.negation = ""
        clause.named += 1

    def _link(self) -> None:
        """The phrase that comes is a landmark of the one before the run, or one more of it."""
        run, coming = self.run, len(self.found)
        if not run.settled:
            run.settled = True
            if run.where is not None and run.after >= 0 and self.clause.named_before_relation:
                self.links.append((run.after, run.where, [coming]))
        elif self.joining and self.links and self.links[-1][1:] == (Where.BETWEEN, [coming - 1]):
            self.links[-1][2].append(coming)

    def _relate(self, subject: int, relation: Relation) -> None:
        phrase = self.found[subject]
        self.found[subject] = phrase._replace(relations=(*phrase.relations, relation))

    def _set_role(self, index: int, role: Role) -> None:
        self.found[index] = self.found[index]._replace(role=role)

    def _role(self) -> Role:
        clause = self.clause
        if not clause.verb or clause.relation in words.FROM:
            return Role.UNKNOWN
        if clause.excluding and clause.placing and not clause.negated:
            # "move everything except the phone to the box"
            return Role.PLACE if clause.relation in words.GOAL else Role.UNKNOWN
        if clause.negated or clause.excluding:
            return Role.UNKNOWN
        if not clause.relation:
            return Role.TARGET
        if not clause.placing:
            # "touch the top of the bottle", "look at the ball", "sweep the crumbs into the pan"
            aimed = clause.named == 0 and clause.relation in words.AIM | words.PARTS
            moved = clause.named and clause.verb not in words.LOOKING
            if clause.relation == "for" and clause.verb in words.SEEKING:
                return Role.TARGET
            if moved and clause.relation in words.GOAL and not self.run.has_side:
                return Role.PLACE
            aimed |= (
                clause.named == 0 and clause.relation == "on" and clause.verb not in words.LOOKING
            )
            return Role.TARGET if aimed else Role.UNKNOWN
        if clause.verb in words.TAKING and clause.relation not in words.GOAL:
            return Role.UNKNOWN
        if clause.relation in words.GOAL:
            return Role.PLACE
        if clause.describing:
            return Role.UNKNOWN
        # "on the plate next to the bowl": the first relation says where, the next one which.
        further = bool(clause.places) and clause.named == clause.named_before_relation
        return Role.UNKNOWN if clause.goal or further else Role.PLACE
