"""Parser of English: clauses, noun phrases and prepositional phrases, from left to right.

An order's first word is its verb wherever a noun phrase can follow, known or not, and a word after
a determiner is a noun, whatever else it could be. The lexicon only breaks ties.
"""

from __future__ import annotations

from dataclasses import dataclass

from siglip_perception.language import english_courtesies as courtesies
from siglip_perception.language import english_roles
from siglip_perception.language import english_words as words
from siglip_perception.language.english_clauses import Clause, Kind, Noun, Place
from siglip_perception.language.english_nouns import (
    CLOSED,
    DIGITS,
    OPENERS,
    NounReader,
    is_adverb,
    is_content,
)
from siglip_perception.language.english_tokens import (
    ENDS,
    Token,
    is_gerund,
    tokens,
    unwrap,
    verb_of,
)
from siglip_perception.language.phrase import Reading
from siglip_perception.types import Link

BASES = words.VERBS | {"gimme", "pickup", "dropoff"}
_COMMANDS = (words.PLACING | words.TAKING | words.ACTING | words.WORKING) - words.NOUN_TOO
_PLACES_SAID = {
    "inside": Link.IN,
    "underneath": Link.UNDER,
    "beneath": Link.UNDER,
    "beside": Link.NEXT_TO,
    "nearby": Link.NEAR,
    "behind": Link.BEHIND,
    "therein": Link.IN,
}
_EXCEPTION_PAIRS = {
    ("instead", "of"),
    ("rather", "than"),
    ("other", "than"),
    ("apart", "from"),
    ("aside", "from"),
    ("but", "not"),
}


def is_english(text: str) -> bool:
    """Tell whether the grammar applies: there is an English verb or word, or plain ASCII."""
    vocabulary = {token.word for token in tokens(text)}
    if vocabulary & (words.ENGLISH | (_COMMANDS - words.FOREIGN)):
        return True
    if vocabulary & words.FOREIGN:
        return False
    return text.isascii() or bool(vocabulary & set(words.PREPOSITIONS))


def parse(text: str) -> Reading:
    """Read an English sentence, or a list such as "red cup. plate."."""
    clauses = _Parser(tokens(unwrap(text))).clauses()
    verbs = tuple(dict.fromkeys(clause.surface for clause in clauses if clause.surface))
    return Reading(tuple(english_roles.read(clauses)), verbs)


@dataclass
class _Rest:
    """The words behind a verb while they are read.

    start: index of the first. at: next one to read. predicate, stop_at_predicates: as in _rest().
    is_excluded: what follows is not to be acted on. has_ended: the next clause begins at `at`.
    """

    clause: Clause
    start: int
    at: int
    stop_at_predicates: bool
    predicate: bool
    is_excluded: bool = False
    has_ended: bool = False

    def go_on(self, count: int = 1) -> bool:
        """Step over so many words; return True: they are read."""
        return self.go_to(self.at + count)

    def go_to(self, after: int) -> bool:
        """Go on at a position; return True: all words before it are read."""
        self.at = after
        return True

    def end(self, after: int) -> bool:
        """End here, so that the next clause begins at a position; return True."""
        self.at, self.has_ended = after, True
        return True


class _Parser(NounReader):
    """Reads the clauses of a text, in order."""

    def __init__(self, sentence: list[Token]) -> None:
        super().__init__(sentence)
        self.carries_negation = False  # a negation that goes on after "and": "don't touch or move"
        self.clause_list: list[Clause] = []

    def clauses(self) -> list[Clause]:
        i = 0
        while i < self.count:
            after = self._clause(i)
            i = after if after > i else i + 1
        return self.clause_list

    # Clauses

    def _clause(self, i: int) -> int:
        is_negated, is_request, j = self._opening(i)
        if j >= self.count:
            return j
        word = self.at(j)
        if word in words.LEAVING and self._is_contrast(i, j):
            return self._order(j + 1, "avoid", True, in_lexicon=True, action=False)
        if word in words.NEGATIVE_VERBS:
            return self._avoid(j)
        if word in ENDS:
            self.carries_negation = False
            self.clause_list.append(Clause(Kind.TALK, action=False))  # a boundary
            return j + 1
        if word in words.ASIDES or (word == "in" and self.at(j + 1) in ("order", "case")):
            first = not any(clause.verb for clause in self.clause_list)
            return self._when(j) if first and word != "in" else self._skip_clause(j + 1)
        if word in words.WHEN or (word == "as" and self.at(j + 1) == "soon"):
            return self._when(j)
        if word == "without" or (word in ("by", "while") and is_gerund(self.at(j + 1))):
            is_negated = is_negated or word == "without"
            if not is_gerund(self.at(j + 1)):
                return self._order(j, "", is_negated, in_lexicon=True)
            j, word = j + 1, self.at(j + 1)
            return self._order(
                j + 1, verb_of(word) or word[:-3], is_negated, in_lexicon=True, action=False
            )
        if self._is_verb(j) or (is_request and self._can_be_verb(j)):
            verb = verb_of(word) or word
            return self._order(j + 1, verb, is_negated, in_lexicon=bool(verb_of(word)))
        if is_negated and word not in CLOSED and (is_gerund(word) or not self._is_noun_next(j)):
            verb = verb_of(word) or word
            return self._order(j + 1, verb, is_negated, in_lexicon=bool(verb_of(word)))
        gerund = is_gerund(word) and word != "using" and bool(verb_of(word))
        if gerund and (self.at(j + 1) in OPENERS or self.at(j + 1) in words.NUMBERS):
            return self._order(j + 1, verb_of(word), is_negated, in_lexicon=True)
        if word in words.QUESTIONS:
            return self._question(j)
        there = word == "there" and self.at(j + 1) in words.IS
        if word in words.CONTRACTED or (there and self._leads_to_order(j)):
            return self._talk(j)
        if (
            word in words.AUXILIARIES
            and word not in ("let's", "lets")
            and not (
                word in words.MODALS and is_content(self.at(j + 1)) and self.at(j + 1) != "you"
            )
        ):
            return self._question(j)
        if word in words.SUBJECTS and not (
            word in words.DEMONSTRATIVES
            and is_content(self.at(j + 1))
            and self.at(j + 1) not in words.MOVES
        ):
            return self._talk(j)
        place, after = self.place(j)
        if place is not None:
            return self._lead(j, place, after, is_negated)
        return self._names(j, is_negated)

    def _is_contrast(self, i: int, j: int) -> bool:
        """Tell whether "leave" excludes: "wipe the table but leave the cups"."""
        preceding_words = self.words[max(i - 1, 0) : j]
        return "but" in preceding_words and any(clause.verb for clause in self.clause_list)

    def _is_plan(self, i: int) -> bool:
        """Tell whether the speaker's own plan begins here: "I need to leave. Bring the coat"."""
        return bool(courtesies.length(courtesies.PLAN, self.words, i)) and self._leads_to_order(i)

    def _leads_to_order(self, i: int) -> bool:
        """Tell whether another sentence follows this one, and orders something."""
        end = next((k for k in range(i, self.count) if self.at(k) in ENDS), self.count)
        if end + 1 >= self.count or self.at(end) == "?":
            return False
        k = end + 1
        while self.at(k) in words.FILLERS:
            k += 1
        asks = courtesies.length(courtesies.COURTESY, self.words, k)
        return self._is_verb(k) or (bool(asks) and not self._is_plan(k))

    def _is_result(self, i: int) -> bool:
        """Tell whether "so" gives an order's result: "move the chair so the cart can pass"."""
        clause = self.clause_list[-1] if self.clause_list else None
        if clause is None or clause.kind is not Kind.ORDER:
            return False
        k = i + 1 + (self.at(i + 1) == "that")
        return not (self._is_verb(k) or courtesies.length(courtesies.COURTESY, self.words, k))

    def _opening(self, i: int) -> tuple[bool, bool, int]:
        """Skip fillers, courtesies and negations; return (is_negated, is_request, next word)."""
        is_negated, is_request, fresh = False, False, True
        while i < self.count:
            word = self.at(i)
            if word in (",", ";", ":") or word in ("but", "then", "instead"):
                if word != "then" or not is_negated:
                    self.carries_negation = self.carries_negation and word == "then"
                i += 1
            elif word in ("and", "or", "nor", "&", "plus"):
                i += 1
            elif length := courtesies.length(courtesies.MISSING, self.words, i):
                i, is_request = i + length, True
            elif length := courtesies.length(courtesies.FORBIDDING, self.words, i):
                i, is_negated, is_request = i + length, True, True
            elif self._is_plan(i) or (
                word == "there" and self.at(i + 1) in words.IS and self._leads_to_order(i)
            ):
                break
            elif length := courtesies.length(courtesies.COURTESY, self.words, i):
                i, is_request = i + length, True
            elif word in ("don't", "dont", "never", "not", "no", "neither") and (
                word in ("don't", "dont", "never")
                or self._is_verb(i + 1)
                or self.at(i + 1) == "to"
            ):
                is_negated, is_request = True, True
                i += 1 + (self.at(i + 1) == "to")
            elif word in ("stop", "quit") and (
                is_gerund(self.at(i + 1)) or self.at(i + 1) == "from"
            ):
                is_negated, is_request = True, True
                i += 2 if self.at(i + 1) == "from" else 1
            elif word in words.WHEN and self.at(i + 1) in words.WHEN_DONE:
                i += 2
            elif word in ("a", "every", "each") and self.at(i + 1) in words.TIMES:
                i += 2  # "twice a day"
            elif (
                word in ("go", "come", "run")
                and self.at(i + 1) in BASES - {"left", "right"}
                and (
                    self.at(i + 1) not in words.NOUN_TOO
                    or self.at(i + 2) in OPENERS
                    or self.at(i + 2) in words.PREPOSITIONS
                )
            ):
                i += 1  # "go get the mail"
            elif (
                fresh
                and word in words.BODY | {"end"}
                and any(is_gerund(self.at(k)) and verb_of(self.at(k)) for k in (i + 1, i + 2))
            ):
                i, is_request = (
                    i + 1 + (self.at(i + 1) in words.BODY),
                    True,
                )  # "end effector reaching knife"
            elif fresh and word in words.GREETED and self.at(i + 1) in (",", "please", ""):
                i += 1
            elif word == "so" and (self.at(i + 1) in ("that", "i", "we") or self._is_result(i)):
                break
            elif (word, self.at(i + 1)) == ("next", "to") or (
                word in words.FILLERS & words.VERBS and self.at(i + 1) in OPENERS
            ):
                break  # "next to the lamp", "cool the drinks"
            elif (
                word in words.FILLERS
                and not (
                    word in words.DESCRIBING
                    and word not in ("first", "next", "still", "well")
                    and is_content(self.at(i + 1))
                    and self.at(i + 1) not in BASES
                )
            ) or is_adverb(word):
                i += 1
            else:
                break
            fresh = fresh and word in (",", "hey", "hi", "hello", "ok", "okay")
        if is_negated:
            self.carries_negation = True
        return is_negated or self.carries_negation, is_request, i

    def _order(
        self, i: int, verb: str, is_negated: bool, *, in_lexicon: bool, action: bool = True
    ) -> int:
        clause = Clause(Kind.ORDER, verb, "", in_lexicon, is_negated, action)
        clause.surface = self.surface_forms[i - 1] if verb and i else ""
        k = i + (self.at(i) in words.PARTICLES)
        shares_object = self.at(k) in ("and", "or", "&") and self._second_verb(k + 1)
        if shares_object:
            clause.action = False  # "wash and dry the wok" is one step, and one object
        self.clause_list.append(clause)
        return self._rest(i, clause)

    def _second_verb(self, i: int) -> bool:
        """Tell whether a verb follows that shares its object with the one before."""
        word = self.at(i)
        return bool(word) and verb_of(word) == word and self.at(i + 1) in OPENERS - {"it", "them"}

    def _avoid(self, i: int) -> int:
        """Read "avoid touching the knife", which forbids this object but not those after "and"."""
        j = i + 1 + (self.at(i + 1) == "from")
        if is_gerund(self.at(j)) and not is_content(self.at(j + 1)):
            j += 1
        was_negated, self.carries_negation = self.carries_negation, False
        after = self._order(j, "avoid", True, in_lexicon=True, action=False)
        self.carries_negation = was_negated
        return after

    def _when(self, i: int) -> int:
        """Read a clause of time or condition if the robot acts in it; skip it otherwise."""
        j = i + 1
        if self.at(i) == "if" and self.clause_list and self.clause_list[-1].verb in words.CHECKING:
            return self._question(j)
        if self.at(i) == "as":
            j = i + 3
        while self.at(j) in words.FILLERS:
            j += 1
        if is_gerund(self.at(j)) and verb_of(self.at(j)):
            return self._order(j + 1, verb_of(self.at(j)), False, in_lexicon=True)
        if self.at(j) == "you" and verb_of(self.at(j + 1)) and self.at(j + 1) not in words.COPULAS:
            return self._order(
                j + 2, verb_of(self.at(j + 1)), False, in_lexicon=True, action=False
            )
        if self.at(j) == "you":
            return self._skip_clause(j)
        clause = Clause(Kind.TALK, action=False)
        self.clause_list.append(clause)
        end = self._skip_clause(j)
        noun, _ = self.noun(j, end)
        if noun is not None and not noun.pronoun:
            clause.subject.append(noun)
        return end

    def _skip_clause(self, i: int) -> int:
        """Return the end of a clause that asks for nothing."""
        j = i
        while j < self.count and self.at(j) not in ENDS and self.at(j) != ",":
            if self.at(j) in ("and", "then", "but") and j > i:
                k = j + 1
                while self.at(k) in words.FILLERS or self.at(k) == "then":
                    k += 1
                if self._is_verb(k) or courtesies.length(courtesies.COURTESY, self.words, k):
                    return j
            j += 1
        return j

    def _question(self, i: int) -> int:
        """Read a question as an order to find: "where is the cup", "is there a cup here"."""
        clause = Clause(Kind.QUESTION, "find", action=False)
        self.clause_list.append(clause)
        j = i
        while j < self.count and self.at(j) not in ENDS:
            word = self.at(j)
            if (word in words.QUESTIONS and self.at(j + 1) in words.PROPERTIES) or (
                word == "how" and self.at(j + 1) in ("many", "much")
            ):
                j += 2
            elif word in words.QUESTIONS or word in words.AUXILIARIES or word in words.SUBJECTS:
                j += 1
            else:
                break
        verb = verb_of(self.at(j))
        if (
            verb
            and j > i
            and (self.at(j + 1) in OPENERS or verb in ("have", "get", "see", "borrow"))
        ):
            j += 1  # "where did you put the tape", "could I have the apple"
        return self._rest(j, clause, predicate=True)

    def _talk(self, i: int) -> int:
        """Read a statement with a pronoun before its verb: "I want the cup", "I lost my pen"."""
        j = i + 1
        while (
            self.at(j) in words.AUXILIARIES or self.at(j) in words.FILLERS or is_adverb(self.at(j))
        ):
            j += 1
        verb = verb_of(self.at(j))
        end = next((k for k in range(i, self.count) if self.at(k) in ENDS), self.count)
        so = next((k for k in range(j, end) if self.at(k) == "so"), 0)
        if self._is_plan(i) or (so and self._is_verb(so + 1)):
            self.clause_list.append(Clause(Kind.TALK, action=False))
            return self._skip_clause(j)
        if self.at(i) in ("i", "we", "i'd", "we'd") and verb in words.WISHES:
            return self._order(j + 1, "want", self.carries_negation, in_lexicon=True)
        if self.at(j) in words.MOVES and self.at(i) in words.ANAPHORS:
            return self._order(
                j + 1, "put", self.carries_negation, in_lexicon=True
            )  # "this goes in the bin"
        speaks = bool(verb) or (self.at(i) in words.PERSONS and is_content(self.at(j)))
        clause = Clause(Kind.TALK, verb, action=False)
        self.clause_list.append(clause)
        return self._rest(j + speaks, clause, predicate=True)

    def _lead(self, i: int, place: Place, after: int, is_negated: bool) -> int:
        """Read places before the verb: "on the table pick the cup"."""
        lead = [place]
        j = after
        while True:
            while self.at(j) == "," or self.at(j) in words.FILLERS or is_adverb(self.at(j)):
                j += 1
            further, further_end = self.place(j)
            if further is None:
                break
            lead.append(further)
            j = further_end
        length = courtesies.length(courtesies.COURTESY, self.words, j)
        if length or self._is_verb(j) or self.at(j) in words.NEGATIONS:
            is_negated, _, j = self._opening(j)
            if j >= self.count:
                return j
            verb = verb_of(self.at(j)) or self.at(j)
            clause = Clause(
                Kind.ORDER, verb, self.surface_forms[j], bool(verb_of(verb)), is_negated, lead=lead
            )
            self.clause_list.append(clause)
            return self._rest(j + 1, clause)
        clause = Clause(Kind.NAMES, action=False, is_negated=is_negated, items=[*lead])
        if self.at(j) in ("is", "are", "there"):
            clause.kind, clause.verb = Kind.QUESTION, "find"
        self.clause_list.append(clause)
        return self._rest(j, clause)

    def _names(self, i: int, is_negated: bool) -> int:
        """Read a clause that begins with a noun: a list, or "the ball goes into the box"."""
        clause = Clause(Kind.NAMES, action=False, is_negated=is_negated)
        self.clause_list.append(clause)
        j = self._rest(i, clause, stop_at_predicates=True)
        word = self.at(j)
        if not clause.items:
            return j
        self._tell_apart(clause)
        has_determiner = self.at(i) in words.ARTICLES | words.POSSESSIVES
        if has_determiner and word in ENDS and self._leads_to_order(i):
            clause.kind = Kind.TALK  # "My back hurts. Pick up the sock."
            clause.subject = [item for item in clause.items if isinstance(item, Noun)]
            return j
        modal = word in words.MODALS or word in ("needs", "has", "have")
        if modal:
            k = j + 1
            while self.at(k) in words.FILLERS | {"to", "be", "get"} or self.at(k) == "not":
                clause.is_negated |= self.at(k) == "not"
                k += 1
            verb = verb_of(self.at(k))
            if verb or self.at(k) in words.PREPOSITIONS:
                clause.kind, clause.verb, clause.action = Kind.ORDER, verb or "put", True
                if verb in words.MOVING_ITSELF or not verb:
                    clause.verb = "put"
                return self._rest(k + (1 if verb else 0), clause)
            clause.kind = Kind.TALK
            clause.subject = [item for item in clause.items if isinstance(item, Noun)]
            return self._skip_clause(k)  # "the plant needs water"
        if word in words.MOVES:
            clause.kind, clause.verb, clause.action = Kind.ORDER, "put", True
            return self._rest(j + 1, clause)
        if word in words.COPULAS:
            clause.kind = Kind.TALK
            clause.subject = [item for item in clause.items if isinstance(item, Noun)]
            return self._rest(j + 1, clause, predicate=True)
        return j

    @staticmethod
    def _tell_apart(clause: Clause) -> None:
        """Make places before the verb landmarks: "the cup on the table goes here"."""
        last: Noun | None = None
        for item in clause.items:
            if isinstance(item, Noun):
                last = item
            elif last is not None:
                last.marks.append(item)
        if last is not None:
            clause.items = [item for item in clause.items if isinstance(item, Noun)]

    # Inside a clause

    def _rest(
        self,
        i: int,
        clause: Clause,
        *,
        stop_at_predicates: bool = False,
        predicate: bool = False,
    ) -> int:
        """Read everything that belongs to a verb, up to the next clause.

        stop_at_predicates: end before a predicate of what was read. predicate: the words are one.
        """
        rest = _Rest(clause, i, i, stop_at_predicates, predicate)
        # In this order: each step leaves to the next ones what it does not know.
        steps = (
            self._read_boundary,
            self._read_exception,
            self._read_spared,
            self._read_subordinate,
            self._read_state,
            self._read_next_verb,
            self._read_place,
            self._read_function_word,
            self._read_noun,
        )
        while not rest.has_ended and rest.at < self.count:
            any(step(rest) for step in steps)
        return rest.at

    def _read_boundary(self, rest: _Rest) -> bool:
        """Read what separates clauses and nouns, and amounts."""
        word = self.at(rest.at)
        if word in ENDS or word == ":":
            return rest.end(rest.at)
        if word == "," or word in words.CONJUNCTIONS:
            rest.has_ended, rest.at, rest.is_excluded = self._joint(
                rest.at, rest.clause, rest.is_excluded
            )
            return True
        is_first = rest.at == rest.start
        names_shape = is_first and rest.clause.verb in words.SHAPING and word in words.ARTICLES
        length = 0 if names_shape else self.amount(rest.at)
        return rest.go_on(length) if length else False

    def _read_exception(self, rest: _Rest) -> bool:
        """Read "except", "instead of" or a negation, which excludes what follows."""
        word, clause = self.at(rest.at), rest.clause
        is_pair = (word, self.at(rest.at + 1)) in _EXCEPTION_PAIRS
        if word in words.EXCEPTIONS or is_pair:
            rest.is_excluded = not clause.is_negated
            clause.is_wanted = clause.is_negated
            after = rest.at + 1 + is_pair
            return rest.go_to(after + (self.at(after) in ("for", "from")))
        if word == "not":
            if self._is_verb(rest.at + 1):
                return rest.end(rest.at)
            rest.is_excluded = True
            return rest.go_on()
        if word in words.NEGATIONS and word != "without":
            return rest.end(rest.at)
        return False

    def _read_spared(self, rest: _Rest) -> bool:
        """Read "where it is", "as it is" and "alone": what is to be left as it is."""
        word, following, clause = self.at(rest.at), self.at(rest.at + 1), rest.clause
        if (word == "where" and clause.verb not in words.LOOKING) or (
            word == "as" and following in ("it", "they", "is")
        ):
            clause.is_spared |= clause.verb in ("leave", "keep", "let")
            return rest.go_to(self._skip_clause(rest.at + 1))
        if word == "alone" and clause.verb in ("leave", "let"):
            clause.is_spared = True
            return rest.go_on()
        return False

    def _read_subordinate(self, rest: _Rest) -> bool:
        """Read conjunctions and question words, which begin a clause of their own."""
        word, clause = self.at(rest.at), rest.clause
        if word in words.WHEN and self.at(rest.at + 1) in words.WHEN_DONE:
            return rest.go_on(2)
        if word == "so":
            subject = rest.at + 1 + (self.at(rest.at + 1) == "that")
            if self.at(subject) in ("it", "they") and self.at(subject + 1) in words.IS:
                return rest.go_to(subject + 2)  # "so that it is next to the cup" says where to
            if self.at(subject) in words.SUBJECTS or self._is_result(rest.at):
                return rest.end(rest.at)
        if word in words.ASIDES or (word in words.WHEN and word != "after"):
            return rest.end(rest.at)
        if word == "after" and clause.verb not in ("look", "run", "go", "chase"):
            return rest.end(rest.at)
        if word in words.QUESTIONS and word not in ("which", "who"):
            if clause.kind is Kind.QUESTION or clause.verb in words.LOOKING:
                return rest.end(rest.at)
            return rest.go_to(self._skip_clause(rest.at + 1))
        return False

    def _read_state(self, rest: _Rest) -> bool:
        """Read words that say how something becomes: "slide open", "such that", "let it go"."""
        word, clause = self.at(rest.at), rest.clause
        is_first = rest.at == rest.start and not clause.items
        if word in words.STATES and is_first and clause.verb in words.OPENING:
            clause.verb = "close" if word in ("shut", "closed") else "open"
            return rest.go_on()  # "slide open the door"
        if word == "such" and self.at(rest.at + 1) == "that":
            return rest.end(self._skip_clause(rest.at + 1))
        is_causative = word in BASES - words.NOUN_TOO and clause.verb in words.MAKING
        if is_causative and any(isinstance(item, Noun) for item in clause.items):
            clause.verb = word  # "let it go"
            return rest.go_on()
        return False

    def _read_next_verb(self, rest: _Rest) -> bool:
        """End before a verb of the next clause: "to", "without" or "by" and a verb."""
        word, following = self.at(rest.at), self.at(rest.at + 1)
        if word == "to" and (verb := self._infinitive(rest.at + 1)):
            if verb == "skip":
                return rest.go_to(self._skip_clause(rest.at + 1))
            return rest.end(rest.at + 1)
        if word == "without" and is_gerund(following):
            return rest.end(rest.at)
        if word == "by" and is_adverb(following) and is_gerund(self.at(rest.at + 2)):
            return rest.end(rest.at + 2)
        if word == "by" and is_gerund(following) and verb_of(following):
            return rest.end(rest.at)
        if rest.stop_at_predicates and rest.clause.items and self._predicate(rest.at):
            return rest.end(rest.at)
        return False

    def _read_place(self, rest: _Rest) -> bool:
        """Read a preposition with its nouns, and what comes before one in a question."""
        word, clause = self.at(rest.at), rest.clause
        if clause.kind is Kind.QUESTION and word in words.MOVES and clause.items:
            return rest.go_on()
        if (
            word == "the"
            and self.at(rest.at + 1) in words.COMPARED
            and self.at(rest.at + 2) in ("to", "from")
        ):
            return rest.go_on()  # "which cup is the closest to the plate"
        place, after = self.place(rest.at, clause)
        if place is None:
            return False
        if rest.is_excluded and not self._goes_on(place, clause):
            for place_noun in place.nouns:
                place_noun.is_excluded = True
        if place.nouns or place.side:
            clause.items.append(place)
        return rest.go_to(after)

    def _read_function_word(self, rest: _Rest) -> bool:
        """Skip a filler, an adverb, a particle, a preposition without a noun or an auxiliary."""
        word, clause = self.at(rest.at), rest.clause
        describes = word in words.DESCRIBING and self.at(rest.at - 1) in words.DETERMINERS
        if (word in words.FILLERS and not describes) or is_adverb(word):
            return rest.go_on()
        if self._is_particle(rest.at, clause):
            link = _PLACES_SAID.get(word)
            if link is not None and clause.verb:
                clause.inside = link
            return rest.go_on()
        if word in words.PREPOSITIONS:
            return rest.go_on()
        if word in words.COPULAS or word in words.AUXILIARIES - {"can"}:
            if clause.items and not clause.verb and clause.kind is not Kind.TALK:
                return rest.end(rest.at)
            return rest.go_on()
        return False

    def _read_noun(self, rest: _Rest) -> bool:
        """Read a noun with its modifiers, or skip a word that the grammar does not know."""
        clause = rest.clause
        if clause.items and self._runs_on(rest.at):
            return rest.end(rest.at)
        noun, after = self.noun(rest.at)
        if noun is None:
            clause.unread += self.at(rest.at) not in words.PERSONS
            return rest.go_on()
        last = noun.text.rsplit(" ", 1)[-1].lower()
        if rest.predicate and last in words.PREDICATES:
            return rest.go_to(after)
        if " " in noun.text and (
            # "get the oven hot", "let the dough rest"
            (last in words.RESULTS and clause.verb in words.BECOMING)
            or (last in words.VERBS and clause.verb in ("let", "make"))
        ):
            noun.text = noun.text.rsplit(" ", 1)[0]
        noun.is_object |= clause.verb in words.SHAPING and last in words.SHAPES
        noun.is_excluded, noun.is_wanted = rest.is_excluded, clause.is_wanted
        after = self.read_modifiers(after, noun, clause)
        clause.items.append(noun)
        return rest.go_to(after)

    def _goes_on(self, place: Place, clause: Clause) -> bool:
        """Tell whether a place after an exception is where the rest goes: "except X into Y"."""
        last = clause.items[-1] if clause.items else None
        follows_exception = isinstance(last, Noun) and last.is_excluded and last.pronoun != "one"
        has_place = any(isinstance(item, Place) and item.nouns for item in clause.items)
        return follows_exception and not has_place and (place.goal or clause.verb in words.PLACING)

    def _joint(self, i: int, clause: Clause, is_excluded: bool) -> tuple[bool, int, bool]:
        """Read a comma or conjunction; return (clause ends here, next word, is_excluded)."""
        j = i
        while (
            self.at(j) == ","
            or self.at(j) in words.CONJUNCTIONS
            or (j > i and (self.at(j) in words.FILLERS or is_adverb(self.at(j))))
        ):
            if self.at(j) in (",", "but", "then"):
                is_excluded = False
            if self.at(j) == "but" and self.at(j + 1) not in ("not", "never", "don't"):
                is_universal = any(
                    isinstance(item, Noun) and (item.which == "all" or not item.is_object)
                    for item in clause.items
                )
                is_universal |= self.at(j - 1) in (
                    "anywhere",
                    "everywhere",
                    "anything",
                    "everything",
                )
                if is_universal and not self._starts_clause(j + 1):
                    clause.is_wanted = clause.is_negated or any(
                        isinstance(item, Noun) and item.is_nothing for item in clause.items
                    )
                    return False, j + 1, not clause.is_wanted
                clause_end = self._is_verb(j + 1)
                if clause_end:
                    self.carries_negation = False
            j += 1
        if j >= self.count or self.at(j) in ENDS:
            return False, j, is_excluded
        tail = is_gerund(self.at(j)) and self.at(j) != "using" and self.at(j - 1) == ","
        has_complement = self.at(j + 1) in OPENERS or self.at(j + 1) in words.PREPOSITIONS
        if (
            tail
            and verb_of(self.at(j))
            and (has_complement or verb_of(self.at(j)) in words.MINDING)
        ):
            return False, self._skip_clause(j + 1), is_excluded  # "keeping a gap between them"
        if self._starts_clause(j):
            if any(self.at(k) in (",", "but") for k in range(i, j)):
                self.carries_negation = self.carries_negation and self.at(j - 1) in ("or", "nor")
            return True, j, is_excluded
        if clause.kind is Kind.TALK and any(self.at(k) == "," for k in range(i, j)):
            return True, j, is_excluded
        further, after = self.noun(j)
        if further is None:
            return False, j, is_excluded
        noun = further
        if self.at(after) in ("first", "last", "up", "down") and not is_content(
            self.at(after + 1)
        ):
            return False, after + 1, is_excluded  # "handle first" is how
        noun.is_coordinated = True
        noun.is_excluded, noun.is_wanted = is_excluded, clause.is_wanted
        after = self.read_modifiers(after, noun, clause)
        last = clause.items[-1] if clause.items else None
        if isinstance(last, Noun) and last.has_both:
            last.which, last.has_both = "", False  # "both the cup and the plate"
        follows, _ = self.place(after, clause)
        goes_on = (
            isinstance(last, Place)
            and last.nouns
            and not (
                follows is not None
                and (follows.link not in (None, Link.WITH, Link.FROM) or bool(follows.side))
                and last.word not in ("between", "among")
                and (clause.verb in words.PLACING | words.TAKING or clause.kind is Kind.NAMES)
            )
            and not (last.word in ("between", "among") and len(last.nouns) > 1)
        )
        if (
            goes_on
            and isinstance(last, Place)
            and not (is_excluded and not last.nouns[0].is_excluded)
        ):
            last.nouns.append(noun)
        else:
            clause.items.append(noun)
        return False, after, is_excluded

    def _starts_clause(self, i: int) -> bool:
        """Tell whether a new clause begins after a comma or a conjunction."""
        j = i
        while self.at(j) in words.FILLERS or is_adverb(self.at(j)) or self.at(j) == ",":
            j += 1
        word = self.at(j)
        if courtesies.length(courtesies.COURTESY, self.words, j):
            return True
        if courtesies.length(courtesies.FORBIDDING, self.words, j):
            return True
        if word in ("don't", "dont", "never", "without") or word in words.NEGATIVE_VERBS:
            return True
        if word == "not":
            return self._is_verb(j + 1)
        if word in words.WHEN or word in words.ASIDES:
            return True
        if word in words.QUESTIONS and word not in ("which", "who", "whose"):
            return True
        if word in words.AUXILIARIES and word not in words.MODALS:
            return True
        if word in words.MODALS and (self.at(j + 1) in words.SUBJECTS or self.at(j + 1) == "the"):
            return True
        if word in words.SUBJECTS and not (
            word in words.DEMONSTRATIVES
            and is_content(self.at(j + 1))
            and self.at(j + 1) not in words.MOVES
        ):
            following = self.at(j + 1)
            return (
                following in words.AUXILIARIES or bool(verb_of(following)) or word in ("i", "we")
            )
        return self._is_verb(j, after_noun=True)

    def _runs_on(self, i: int) -> bool:
        """Tell whether an order begins here although no conjunction says so."""
        word = self.at(i)
        return (
            word in BASES
            and (word not in words.NOUN_TOO or self.at(i + 1) in OPENERS)
            and self.at(i + 1) in OPENERS | {"up", "down", "away"}
        )

    def _predicate(self, i: int) -> bool:
        word = self.at(i)
        return word in words.COPULAS | words.MODALS | words.MOVES | {"needs", "has", "have"}

    def _infinitive(self, i: int) -> str:
        """Return the verb after "to": "" if there is none, "skip" if it only gives a purpose."""
        word = self.at(i)
        following = self.at(i + 1)
        if word not in words.VERBS and word != "be" and not self.is_infinitive(i):
            return ""
        goes_on = following in OPENERS or following in words.PARTICLES or is_gerund(following)
        if word in words.NOUN_TOO and not goes_on:
            return ""
        clause = self.clause_list[-1]
        if clause.kind is Kind.TALK:
            return "skip"  # "we're about to eat"
        if clause.verb == "use":
            clause.verb, clause.action = "with", False  # "use the tongs to flip the sausage"
            return word
        if clause.verb in ("want", "need", "try", "come", "go", "help", "like"):
            return word
        if clause.kind is Kind.NAMES or not clause.verb:
            return word
        return "skip"

    # Verbs

    def _is_verb(self, i: int, *, after_noun: bool = False) -> bool:
        """Tell whether an order's verb stands here, at the start of a clause."""
        word, following = self.at(i), self.at(i + 1)
        if not word or not word[0].isalpha() or word == "can":
            return False
        if word in BASES:
            return word not in words.NOUN_TOO or self._is_verb_here(i, after_noun)
        if word in CLOSED or is_adverb(word) or word in words.SELECTORS or word in words.ORDINALS:
            return False
        if word in words.NUMBERS or word in words.BODY:
            return False
        if (following in words.NUMBERS or self.amount(i + 1)) and following != "one":
            return not after_noun and is_content(self.at(i + 2))
        if following in words.SELECTORS and following in words.COLORS:
            return False
        opener = following in OPENERS and not (
            following == "that" and not is_content(self.at(i + 2))
        )
        if opener and following not in ("all", "both", "each"):
            return word not in words.EMPTY_NOUNS
        if word in words.COLORS:
            return False
        if following in words.PARTICLES and following not in ("in", "on", "about", "under", "by"):
            return self.at(i + 2) in words.ARTICLES | words.POSSESSIVES | {"it", "them"}
        if is_adverb(following):
            return self.at(i + 2) in words.ARTICLES | words.POSSESSIVES
        if not is_content(following) or word in words.ADJECTIVES:
            return False
        if word[:2] in ("un", "re") and word.endswith(("ize", "ise", "ify")):
            return True
        if word.endswith(("ize", "ify")) or (bool(verb_of(word)) and word == verb_of(word)):
            return True
        if verb_of(word) and not word.endswith(("ed", "s")) and not is_gerund(word):
            return True
        if after_noun or word.endswith(("s", "ing", "ed")):
            return False
        if following in words.COLORS or following in ("small", "big", "large"):
            return word not in words.NOUN_TOO
        # A bare noun and where it goes: "scrunch paper into ball".
        for k in range(i + 2, min(i + 6, self.count)):
            later = self.at(k)
            if later in ("into", "onto", "over", "around", "off", "against"):
                return True
            if later in ("and", "then") and self.at(k + 1) in BASES and self.at(k + 2) in OPENERS:
                return True
            if not is_content(later):
                return False
        return False

    def _is_verb_here(self, i: int, after_noun: bool) -> bool:
        """Tell whether a word that can be a noun is a verb, at the start of a clause."""
        word, following = self.at(i), self.at(i + 1)
        noun_first = word in words.NOUN_FIRST
        if word == "can" and following in words.SUBJECTS - {"it", "this", "that"}:
            return False
        if (word, following) in words.PHRASAL:
            return True
        if following in OPENERS:
            return word != "can" or following not in ("the", "a", "it", "this", "that")
        if following in words.NUMBERS or DIGITS.fullmatch(following):
            return not noun_first or not after_noun
        if following in ENDS or following in (",", "") or following in words.CONJUNCTIONS:
            if after_noun:
                return word in words.LONELY
            return not noun_first and word in words.VERBS
        if following in words.ALWAYS_PARTICLES or is_adverb(following):
            return True
        if following in words.DIRECTIONS and not is_content(self.at(i + 2)):
            return not noun_first
        if following in words.PREPOSITIONS or following in words.PARTICLES:
            return not noun_first and not (after_noun and word in words.NAMES_TOO)
        if following in words.FILLERS | words.ASIDES | words.WHEN | words.QUESTIONS:
            return not noun_first
        if following in words.SELECTORS or following in words.ORDINALS:
            return not noun_first or following not in ("top", "bottom", "back", "front")
        if not is_content(following):
            return False
        if noun_first:
            return self._is_noun_first_verb(i)
        return True

    def _is_noun_first_verb(self, i: int) -> bool:
        """Tell "water plants" from "water bottle", by what commonly ends such a name."""
        word, following = self.at(i), self.at(i + 1)
        if following in words.COLORS:
            return word not in ("light", "can", "paint", "tin")
        end = i + 1
        while is_content(self.at(end + 1)) and self.at(end + 1) not in words.PREPOSITIONS:
            end += 1
        return following not in words.COMPOUND_HEADS and self.at(end) not in words.COMPOUND_HEADS

    def _can_be_verb(self, i: int) -> bool:
        """Tell whether a word can be a verb, as any may be after "could you" and the like."""
        word = self.at(i)
        return word not in CLOSED and not is_adverb(word) and word[:1].isalpha()

    def _is_noun_next(self, i: int) -> bool:
        return self.at(i) in words.DETERMINERS or not is_content(self.at(i))

    def _is_particle(self, i: int, clause: Clause) -> bool:
        """Tell whether a word is its verb's particle or a direction, not part of a noun phrase."""
        word, following = self.at(i), self.at(i + 1)
        if (
            word not in words.PARTICLES
            and word not in words.DIRECTIONS
            and word not in _PLACES_SAID
        ):
            return word in words.STATES and bool(clause.items) and not is_content(following)
        if word in ("upside-down", "face-up", "face-down", "inside-out"):
            clause.is_turned = True
        if word in (
            "left",
            "right",
            "flat",
            "straight",
            "upright",
            "north",
            "south",
            "east",
            "west",
        ):
            return (not is_content(following) and following != "one") or bool(self.amount(i + 1))
        clause.has_particle |= word in words.PARTICLES
        if word in words.DIRECTIONS - {"back", "over", "around"}:
            return True
        if word == "back":
            return not (is_content(following) and self.at(i - 1) in words.DETERMINERS)
        return True
