"""Roles, steps, relations and pronouns of the nouns of English clauses."""

from __future__ import annotations

from collections.abc import Sequence

from siglip_perception.language import english_words as words
from siglip_perception.language.english_clauses import Clause, Kind, Noun, Place
from siglip_perception.language.phrase import Phrase, relate
from siglip_perception.types import Link, Role

_GUESS = 0.4
_LIKELY = 0.7


def read(clauses: Sequence[Clause]) -> list[Phrase]:
    """Return the phrases of all clauses, in the order of the sentence."""
    reader = _Reader()
    orders = [clause for clause in clauses if clause.kind is Kind.ORDER and clause.verb]
    for clause in orders:
        has_others = any(order.action for order in orders if order is not clause)
        stays = (
            has_others
            and all(isinstance(item, Noun) for item in clause.items)
            and clause.inside is None
        )
        if clause.verb in words.LEAVING and clause.items and stays:
            clause.is_negated, clause.action = (
                True,
                False,
            )  # "leave the red one and move the other"
    for clause in clauses:
        reader.clause(clause)
    if not reader.phrases and reader.topic:
        for number, phrase in enumerate(reader.topic):
            phrase.role = Role.UNKNOWN if number else Role.TARGET
            phrase.confidence = _GUESS
        reader.phrases = reader.topic
    phrases = sorted(reader.phrases, key=lambda phrase: phrase.position)
    relate(phrases)
    return phrases


class _Reader:
    def __init__(self) -> None:
        self.phrases: list[Phrase] = []
        self.step = 0
        self.target: Phrase | None = None  # what "it" stands for
        self.history: list[Phrase] = []  # all of them: "in it" is in another than what goes there
        self.fronted_phrase: Phrase | None = (
            None  # before any order: "the blue pen, hand it to me"
        )
        self.container: Phrase | None = None  # what something was put in: "and close it"
        self.topic: list[Phrase] = []  # what a statement named, and no order yet

    def clause(self, clause: Clause) -> None:
        if clause.kind is Kind.TALK:
            self._talk(clause)
            return
        if (
            clause.action
            and clause.verb
            and not (clause.is_negated or clause.verb in words.WISHES)
        ):
            self.step += 1
        if clause.kind is Kind.NAMES:
            self._names(clause)
            return
        _Order(self, clause).read()
        if clause.items or clause.lead:
            self.topic = []

    def _talk(self, clause: Clause) -> None:
        """Keep the nouns of a statement, in case an order refers to them."""
        if not (clause.items or clause.subject):
            return
        nouns = clause.subject or [item for item in clause.items if isinstance(item, Noun)]
        phrases = [self._phrase(noun, clause) for noun in nouns if noun.is_object]
        for item in clause.items:
            if isinstance(item, Place) and item.link is not None and phrases:
                for noun in item.nouns:
                    if noun.is_object:
                        mark = self._phrase(noun, clause)
                        mark.link, mark.of = item.link, phrases[-1]
                        phrases.append(mark)
        self.topic = phrases

    def _names(self, clause: Clause) -> None:
        """Read a list, or a single noun phrase, with its landmarks."""
        last: Phrase | None = None
        for item in clause.items:
            if isinstance(item, Noun):
                phrase = self.noun(item, Role.UNKNOWN, clause)
                last = phrase or last
                self.fronted_phrase = self.fronted_phrase or phrase
            else:
                self.place(item, Role.UNKNOWN, last, clause)

    def _phrase(self, noun: Noun, clause: Clause) -> Phrase:
        return Phrase(
            noun.text,
            position=noun.at,
            step=max(self.step, 1),
            which=noun.which,
            rank=noun.rank,
            many=noun.many,
            confidence=_confidence(clause),
        )

    def refer(self, noun: Noun, clause: Clause, to: Phrase | None) -> Phrase | None:
        """Return a phrase for a pronoun, with the text of its antecedent."""
        if to is None:
            return None
        phrase = self._phrase(noun, clause)
        phrase.text = to.text
        if noun.pronoun == "one":
            if not (noun.which or noun.rank):
                phrase.which = ""
            return phrase
        phrase.which, phrase.rank, phrase.many, phrase.antecedent = to.which, to.rank, to.many, to
        return phrase

    def noun(self, noun: Noun, role: Role, clause: Clause) -> Phrase | None:
        """Add a noun and its landmarks."""
        if noun.pronoun:
            to = self.target
            if noun.pronoun == "one":
                to = self.phrases[-1] if self.phrases else None
                phrase = self.refer(noun, clause, to)
            elif self.topic:
                first = self.topic[0]
                for phrase in self.topic:
                    phrase.role = Role.UNKNOWN
                    self.phrases.append(phrase)
                first.role = role
                first.step = max(self.step, 1)
                for phrase in self.topic[1:]:
                    phrase.step = first.step
                self.topic = []
                return first
            else:
                if clause.verb in words.CLOSING and self.container is not None:
                    to = self.container
                phrase = self.refer(noun, clause, to or self.fronted_phrase)
            if phrase is None:
                self._marks(noun, None, clause)
                return None
        elif not noun.is_object or not noun.text:
            self._marks(noun, None, clause)
            return None
        else:
            phrase = self._phrase(noun, clause)
        forbidden = noun.is_excluded or (clause.is_negated and not noun.is_wanted)
        phrase.role = Role.UNKNOWN if forbidden else role
        self.phrases.append(phrase)
        self._marks(noun, phrase, clause)
        return phrase

    def _marks(self, noun: Noun, phrase: Phrase | None, clause: Clause) -> None:
        for mark in noun.marks:
            if mark.side and phrase is not None:
                phrase.which = "" if mark.side == "side" else mark.side
            self.place(mark, Role.UNKNOWN, phrase, clause)

    def place(self, place: Place, role: Role, of: Phrase | None, clause: Clause) -> list[Phrase]:
        """Add a place's nouns. of: the phrase that goes there or is selected by them."""
        phrases = []
        if place.side and not place.nouns:
            if of is not None and place.side != "side":
                of.which = place.side if of.which in ("", "all") else of.which
                of.rank = of.rank or place.rank
            return []
        for noun in place.nouns:
            phrase = self._place_noun(noun, role, of, clause)
            if phrase is not None:
                phrase.link = place.link
                phrase.of = of
                phrases.append(phrase)
        if place.word in ("nearest", "farthest") and of is not None:
            of.which = of.which or place.word
        return phrases

    def _place_noun(
        self, noun: Noun, role: Role, of: Phrase | None, clause: Clause
    ) -> Phrase | None:
        if noun.pronoun and noun.pronoun != "one":
            if self.topic:
                return self.noun(noun, role, clause)
            goes = "" if of is None else of.text
            to = next(
                (earlier for earlier in reversed(self.history) if earlier.text != goes), None
            )
            phrase = self.refer(noun, clause, to)
            if phrase is not None:
                phrase.role = Role.UNKNOWN if clause.is_negated else role
                self.phrases.append(phrase)
            return phrase
        return self.noun(noun, role, clause)


class _Order:
    """Decides the roles in one order: targets, goals and landmarks."""

    def __init__(self, reader: _Reader, clause: Clause) -> None:
        self.reader = reader
        self.clause = clause
        self.verb = clause.verb
        self.objects: list[Phrase] = []
        self.object: Phrase | None = None
        self.has_object = False  # an object was named, be it by a pronoun
        self.goals: list[Phrase] = []  # where it goes
        self.locative: list[Phrase] = []  # goals that a later "into" takes over from
        self.last: Phrase | None = None
        self.has_pronoun = False
        self.recipients: list[Phrase] = []

    def read(self) -> None:
        clause, reader = self.clause, self.reader
        leading = [self._lead(place) for place in clause.lead]
        items = clause.items
        if self.verb == "with":
            for item in items:
                if isinstance(item, Noun):
                    phrase = reader.noun(item, Role.UNKNOWN, clause)
                    if phrase is not None:
                        phrase.link, phrase.step = Link.WITH, reader.step + 1
                else:
                    reader.place(item, Role.UNKNOWN, None, clause)
            return
        if (
            self.verb == "use"
            and len(items) == 1
            and isinstance(items[0], Noun)
            and not (clause.is_negated)
        ):
            phrase = reader.noun(items[0], Role.TARGET, clause)
            if phrase is not None:
                self.object = self.last = phrase
                self.objects.append(phrase)
            self._finish(leading)
            return
        for number, item in enumerate(items):
            if isinstance(item, Noun):
                self._noun(item, number)
            else:
                self._place(item, number)
        if clause.inside is not None and not self.goals and (self.has_object or self.objects):
            self._inside(clause.inside)
        self._finish(leading)

    def _finish(self, leading: list[list[Phrase]]) -> None:
        clause, reader = self.clause, self.reader
        for places in leading:
            for phrase in places:
                phrase.of = self.object
        alone = self.verb == "leave" and self.has_object and not self.goals
        if clause.is_spared or (alone and self.has_pronoun):
            for phrase in self.objects:
                phrase.role = Role.UNKNOWN
        if self.objects and not clause.is_negated:
            targets = [phrase for phrase in self.objects if phrase.role is Role.TARGET]
            if targets:
                reader.target = targets[-1]
                reader.history += targets
        inside = [goal for goal in self.goals if goal.link is Link.IN]
        reader.container = inside[-1].antecedent or inside[-1] if inside else None
        if self.goals and not self.objects and not self.has_object:
            reader.target = reader.target or self.goals[-1]
            if self.verb in words.GOING:
                reader.target = self.goals[-1]

    def _lead(self, place: Place) -> list[Phrase]:
        role = Role.UNKNOWN
        if (place.link is None or place.side) and not place.nouns:
            return []
        if (
            place.link not in (None, Link.FROM, Link.WITH)
            and self.verb in (words.PLACING | words.WORKING) - words.TOUCHING
            and not self.clause.is_negated
        ):
            role = Role.PLACE
        phrases = self.reader.place(place, role, None, self.clause)
        if role is Role.PLACE:
            self.goals += phrases
        return phrases

    def _noun(self, noun: Noun, number: int) -> None:
        clause, reader = self.clause, self.reader
        if self._is_light(noun, number):
            return
        if noun.pronoun and noun.pronoun not in ("one",):
            self.has_object = self.has_pronoun = True
            phrase = reader.noun(noun, Role.TARGET, clause)
            if phrase is not None:
                self.objects.append(phrase)
                self.object = self.last = phrase
            return
        if self._only_person(noun):
            return
        if noun.is_coordinated and (self.goals or self.locative):
            # "the cup on the table and the plate in the sink"
            self.goals, self.locative = [], []
        is_walk = clause.has_particle and self.verb in words.GOING & words.WALKING
        role = Role.PLACE if is_walk else Role.TARGET
        gets = self.verb in words.GIVING and self._is_given(number)
        if gets:
            role = Role.PLACE
        phrase = reader.noun(noun, role, clause)
        self.has_object = True
        if phrase is None:
            if noun.is_object or noun.which or not noun.text:
                self.object = self.last = None
            return
        if gets:
            phrase.link = Link.TO
            self.recipients.append(phrase)
            return
        for recipient in self.recipients:
            recipient.of = recipient.of or phrase
        if noun.is_excluded:
            return
        self.objects.append(phrase)
        self.object = self.last = phrase

    def _is_given(self, number: int) -> bool:
        """Tell whether a second noun follows at once: "give the dog a bone"."""
        items = self.clause.items
        following = items[number + 1] if number + 1 < len(items) else None
        return (
            isinstance(following, Noun)
            and not (following.is_coordinated or following.is_excluded)
            and bool(following.text)
            and not self.objects
            and not self._is_light(following, number + 1)
        )

    def _only_person(self, noun: Noun) -> bool:
        return not noun.is_object and not noun.text and not noun.pronoun

    def _is_light(self, noun: Noun, number: int) -> bool:
        """Tell whether a noun is the action itself: "give it a shake"."""
        if self.verb not in words.LIGHT or number == 0 or not noun.text or noun.is_coordinated:
            return False
        before = self.clause.items[number - 1]
        if not isinstance(before, Noun) or self._only_person(before):
            return False
        return noun.text.rsplit(" ", 1)[-1].lower() in words.VERBS

    def _place(self, place: Place, number: int) -> None:
        clause, reader = self.clause, self.reader
        if place.side and not place.nouns:
            self._side(place, number)
            return
        if not place.nouns:
            return
        role, of = self._role(place, number)
        phrases = reader.place(place, role, of, clause)
        if not phrases:
            return
        if role is Role.TARGET:
            for phrase in phrases:
                phrase.link = phrase.of = None
            self.objects += phrases
            self.object = self.last = phrases[-1]
            return
        if role is Role.PLACE:
            if place.goal and self.locative:
                # "the cup on the table into the box": only the box is where it goes.
                for phrase in self.locative:
                    phrase.role = Role.UNKNOWN
                    phrase.of = phrase.of or self.object
                self.locative = []
                self.goals = []
            aims = [phrase for phrase in phrases if phrase.role is Role.PLACE]
            self.goals += aims
            if not place.goal:
                self.locative += aims
        if place.link not in (Link.FROM, Link.WITH):
            self.last = phrases[-1]
        elif role is Role.UNKNOWN and place.link is Link.FROM:
            for phrase in phrases:
                phrase.of = self.object
            self.last = phrases[-1]

    def _side(self, place: Place, number: int) -> None:
        """Read "on the left" as a selector, unless it is a goal."""
        later = any(isinstance(item, Place) and item.nouns for item in self.clause.items[number:])
        may_select = self.verb in words.PLACING - words.TAKING and not (self.goals or later)
        if place.word in ("to", "toward", "towards", "into", "onto"):
            return
        if place.word == "from":
            if self.last is not None and self.last.rank:
                self.last.which = place.side
            return
        if may_select and self.has_object and self.verb in words.SETTING:
            return
        target = self.last
        if target is not None and place.side != "side" and target.which in ("", "all"):
            target.which = place.side

    def _role(self, place: Place, number: int) -> tuple[Role, Phrase | None]:
        """Return the role of a place's nouns, and the phrase that they belong to."""
        verb, link, word = self.verb, place.link, place.word
        asking = self.clause.kind is Kind.QUESTION
        of = self.object
        if self.clause.is_negated or any(noun.is_excluded for noun in place.nouns):
            is_excluded = all(noun.is_excluded for noun in place.nouns)
            if is_excluded and word in words.GOAL:
                return Role.UNKNOWN, of
            if self.clause.is_negated:
                return Role.UNKNOWN, of
        if link is Link.WITH:
            return Role.UNKNOWN, None
        if link is Link.FROM:
            return Role.UNKNOWN, None
        if word == "by" and verb not in words.PLACING and _head(place) in words.PARTS:
            place.link = Link.WITH  # "by the handle"
            return Role.UNKNOWN, None
        of_source = self.last is not None and self.last.link is Link.FROM
        if of_source and link is not None and not place.goal and word != "at":
            return Role.UNKNOWN, self.last  # "off the hook on the wall"
        if word == "for":
            seeking = verb in words.SEEKING or verb in words.LOOKING
            return (Role.TARGET if seeking else Role.UNKNOWN), None
        if word == "like" and not self.objects:
            return Role.TARGET, None
        if word in words.PATHS:
            if verb in words.PLACING and self.has_object:
                place.link = Link.TO
                return Role.PLACE, of
            return Role.UNKNOWN, None
        if link is None:
            return Role.UNKNOWN, None
        if asking or verb in words.LOOKING - words.WORKING:
            if (
                verb in words.TO_TARGET
                and word in ("to", "at", "toward", "towards")
                and not self.has_object
            ):
                return Role.TARGET, None
            if not self.objects and word in ("at", "to") and verb in ("look", "see"):
                return Role.TARGET, None
            return Role.UNKNOWN, self.last if self.last in self.objects else of
        if verb in words.TO_TARGET and not self.has_object:
            return Role.TARGET, None
        if verb in words.GOING and not self.objects:
            if word in ("by", "around", "over"):
                return Role.UNKNOWN, None
            if self.goals and not place.goal:
                return Role.UNKNOWN, self.goals[-1]
            return Role.PLACE, None
        if verb in words.TAKING and link in _SIDES:
            return Role.UNKNOWN, of
        if place.goal or word == "at":
            if (place.goal and self.has_object) or verb in words.PLACING:
                return Role.PLACE, of
            if not self.has_object:
                if verb in words.HOVERING and word == "at":
                    return Role.PLACE, None  # "wait at the front desk"
                if word in ("to", "toward", "towards", "into", "onto") and verb not in words.AIMED:
                    return Role.PLACE, None
                return Role.TARGET, None
            return Role.UNKNOWN, of
        if word == "away" and (verb in words.PLACING or verb in words.GOING):
            return Role.PLACE, of
        if word in ("nearest", "farthest"):
            return Role.UNKNOWN, self.last or of
        if verb == "put" and word == "on" and not self.has_object and _head(place) in words.WORN:
            return Role.TARGET, None
        placing = (verb in words.PLACING and verb not in words.TAKING) or self.clause.is_turned
        if placing and self.object is not None:
            is_fixed = self.object.text.rsplit(" ", 1)[-1].lower() in words.FIXED
            placing = not (is_fixed and verb in ("push", "pull", "turn", "flip", "press"))
        if placing and not self.goals:
            return Role.PLACE, of
        if self.goals:
            return Role.UNKNOWN, self.goals[-1] if self.last in self.goals else self.last
        if not self.has_object and not self.objects:
            if verb in words.HOVERING:
                return Role.PLACE, None
            if verb in words.WORKING | words.ACTING or not self.clause.in_lexicon:
                return Role.TARGET, None
            return Role.UNKNOWN, None
        is_held = self.has_pronoun and self.object is self.last  # a place cannot tell "it" apart
        if (is_held or self._is_worked_at(link)) and verb not in words.TAKING:
            return Role.PLACE, of
        if (link in (Link.AROUND, Link.AGAINST) or word == "over") and verb not in words.TAKING:
            return Role.PLACE, of  # what goes over, around or against something goes there
        return Role.UNKNOWN, self.last or of

    def _is_worked_at(self, link: Link | None) -> bool:
        """Tell whether the verb says what is done there: "warm the bread in the oven"."""
        if link not in (Link.ON, Link.IN, Link.UNDER, Link.ABOVE):
            return False
        if self.verb == "wash" and link is Link.ON:
            return False
        return self.verb in words.WORKED_AT or not self.clause.in_lexicon

    def _inside(self, link: Link) -> None:
        """Make an earlier step's target the goal: "and put the bowl inside"."""
        goes = "" if self.object is None else self.object.text
        into = next(
            (earlier for earlier in reversed(self.reader.history) if earlier.text != goes), None
        )
        if into is None or self.verb not in words.PLACING:
            return
        at = self.object.position + 1 if self.object is not None else into.position
        phrase = self.reader.refer(Noun("", at, is_object=False, pronoun="it"), self.clause, into)
        if phrase is None:
            return
        phrase.role = Role.UNKNOWN if self.clause.is_negated else Role.PLACE
        phrase.link, phrase.of = link, self.object
        self.reader.phrases.append(phrase)
        self.goals.append(phrase)


_SIDES = (Link.LEFT_OF, Link.RIGHT_OF, Link.IN_FRONT_OF, Link.BEHIND)


def _head(place: Place) -> str:
    return place.nouns[0].text.rsplit(" ", 1)[-1].lower() if place.nouns else ""


def _confidence(clause: Clause) -> float:
    """Return a confidence that falls with skipped words and with a guessed verb."""
    sure = 1.0 if clause.in_lexicon else _LIKELY
    return max(round(sure - 0.3 * clause.unread, 2), 0.1)
