"""Reader of English noun phrases, their modifiers and the prepositions before them."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field

from siglip_perception.language import english_words as words
from siglip_perception.language.english_clauses import Clause, Kind, Noun, Place
from siglip_perception.language.english_tokens import ENDS, Token, is_gerund, verb_of
from siglip_perception.types import Link

DIGITS = re.compile(r"\d+(?:\.\d+)?")
_GLUED_UNIT = re.compile(
    r"\d+(?:\.\d+)?(?:°|%|x|deg|degrees?|cm|mm|m|km|inch|inches|ft|s|sec|secs|ms|min|mins|hz|rad)"
)
_GLUED_MEASURE = re.compile(r"\d+(?:\.\d+)?(?:ml|l|g|kg|oz|lbs?)")
_LISTS = (
    words.DETERMINERS,
    frozenset(words.PREPOSITIONS),
    words.PERSONS,
    words.ANAPHORS,
    words.CONJUNCTIONS,
    words.NEGATIONS,
    words.EXCEPTIONS,
    words.AUXILIARIES,
    words.ASIDES,
    words.WHEN,
    words.QUESTIONS,
    words.FILLERS,
)
# "can" is closed only where a subject follows.
CLOSED = frozenset().union(*_LISTS) - {"can"}
# They come before a noun phrase: an unknown first word before one of them is a verb.
OPENERS = (words.ARTICLES | words.DEMONSTRATIVES | words.POSSESSIVES | words.QUANTIFIERS) | {
    "me",
    "him",
    "us",
    "them",
    "it",
}
_WAYS = words.DIRECTIONS | words.PARTICLES
_PLAIN_DIRECTIONS = words.DIRECTIONS - {"left", "right", "flat", "straight"}
_ONE = ("one", "ones")
_JOINTS = ("and", ",", "or", "&")
_AMOUNTS_OF = ("some", "rest", "remainder", "one", "each", "half", "third")
# Of these relations one word or several, the longest first.
_PHRASES: dict[tuple[str, ...], tuple[str, Link | None]] = {
    tuple(text.split()): (word, link)
    for text, word, link in (
        ("next to", "next", Link.NEXT_TO),
        ("adjacent to", "next", Link.NEXT_TO),
        ("by the side of", "next", Link.NEXT_TO),
        ("side by side with", "next", Link.NEXT_TO),
        ("in line with", "next", Link.NEXT_TO),
        ("on either side of", "next", Link.NEXT_TO),
        ("close to", "near", Link.NEAR),
        ("closer to", "closer", Link.NEAR),
        ("near to", "near", Link.NEAR),
        ("nearer to", "closer", Link.NEAR),
        ("nearer", "closer", Link.NEAR),
        ("nearest to", "nearest", Link.NEAR),
        ("closest to", "nearest", Link.NEAR),
        ("nearest", "nearest", Link.NEAR),
        ("closest", "nearest", Link.NEAR),
        ("in the vicinity of", "near", Link.NEAR),
        ("in the direction of", "to", Link.TO),
        ("far from", "away", Link.FAR_FROM),
        ("far away from", "away", Link.FAR_FROM),
        ("farther from", "away", Link.FAR_FROM),
        ("further from", "away", Link.FAR_FROM),
        ("farther away from", "away", Link.FAR_FROM),
        ("further away from", "away", Link.FAR_FROM),
        ("farthest from", "farthest", Link.FAR_FROM),
        ("farthest away from", "farthest", Link.FAR_FROM),
        ("furthest from", "farthest", Link.FAR_FROM),
        ("furthest away from", "farthest", Link.FAR_FROM),
        ("away from", "away", Link.FAR_FROM),
        ("clear of", "away", Link.FAR_FROM),
        ("in front of", "front", Link.IN_FRONT_OF),
        ("on top of", "on", Link.ON),
        ("out of", "out", Link.FROM),
        ("out from", "out", Link.FROM),
        ("from inside", "out", Link.FROM),
        ("from within", "out", Link.FROM),
        ("from under", "out", Link.FROM),
        ("from underneath", "out", Link.FROM),
        ("from behind", "out", Link.FROM),
        ("from beneath", "out", Link.FROM),
        ("from between", "out", Link.FROM),
        ("from on top of", "out", Link.FROM),
        ("from out of", "out", Link.FROM),
        ("off of", "off", Link.FROM),
        ("off from", "off", Link.FROM),
        ("inside of", "in", Link.IN),
        ("outside of", "to", Link.TO),
        ("in between", "between", Link.BETWEEN),
        ("in the middle of", "in", Link.IN),
        ("across from", "to", Link.TO),
        ("opposite to", "to", Link.TO),
        ("with the help of", "with", Link.WITH),
        ("with the use of", "with", Link.WITH),
        ("by means of", "with", Link.WITH),
        ("with respect to", "to", None),
        ("relative to", "to", None),
        ("due to", "because", None),
        ("because of", "because", None),
        ("according to", "because", None),
        ("as far as", "to", Link.TO),
        ("back to back with", "next", Link.NEXT_TO),
        ("up to", "to", Link.TO),
        ("back to", "to", Link.TO),
        ("over by", "next", Link.NEXT_TO),
    )
}
_STARTS = {phrase[0] for phrase in _PHRASES}


def is_adverb(word: str) -> bool:
    return word.endswith("ly") and len(word) > 4 and word not in words.NO_ADVERBS


def is_content(word: str) -> bool:
    """Tell whether a word, taken by itself, can be part of a noun's name."""
    return bool(word) and word[0].isalnum() and word not in CLOSED and not is_adverb(word)


def _is_name(word: str) -> bool:
    """Tell whether a word can be part of a noun's name, and is not a direction."""
    return is_content(word) and word not in _PLAIN_DIRECTIONS


@dataclass
class _Phrase:
    """A noun phrase while it is read.

    start, end: its first word, and the index at which it has to end, as noun() was given it.
    limit: `end`, or the sentence's length. at: next word to read. parts: words of the name.
    result: the noun and the next position, once both are known.
    """

    start: int
    end: int | None
    limit: int
    at: int
    which: str = ""
    rank: int = 0
    many: bool = False
    has_both: bool = False
    has_determiner: bool = False
    parts: list[int] = field(default_factory=list)
    text: str = ""
    result: tuple[Noun, int] | None = None

    def take(self) -> bool:
        """Take the word into the name; return True, as the phrase goes on."""
        self.parts.append(self.at)
        self.at += 1
        return True

    def skip(self) -> bool:
        """Leave the word out of the name; return True, as the phrase goes on."""
        self.at += 1
        return True

    def end_as_one(self, which: str, after: int) -> bool:
        """End the phrase as the pronoun "one", as in "the left one"; return False."""
        noun = Noun("", self.start, which, self.rank, self.many, is_object=False, pronoun="one")
        self.result = noun, after
        return False


class NounReader:
    """Reads noun phrases and places; methods take a position and return the next one."""

    def __init__(self, sentence: list[Token]) -> None:
        self.surface_forms = [token.surface for token in sentence]
        self.words = [token.word for token in sentence]
        self.count = len(sentence)

    def at(self, i: int) -> str:
        return self.words[i] if 0 <= i < self.count else ""

    # Amounts

    def amount(self, i: int) -> int:
        """Return the number of words of an amount: "10 cm", "three times", "a bit"."""
        j = i
        word = self.at(j)
        if word == "all" and self.at(j + 1) == "the" and self.at(j + 2) == "way":
            return 3
        if (word, self.at(j + 1)) in _IDIOMS:
            return 2
        if _GLUED_UNIT.fullmatch(word):
            return 1
        if _GLUED_MEASURE.fullmatch(word):
            return 1 + (self.at(j + 1) == "of")
        if word in (
            "about",
            "around",
            "approximately",
            "roughly",
            "another",
            "exactly",
            "by",
            "for",
        ):
            if self.at(j + 1) in words.NUMBERS or DIGITS.fullmatch(self.at(j + 1)):
                remainder = self.amount(j + 1)
                return remainder + 1 if remainder else 0
            if word != "another":
                return 0
        start = j
        while (
            (j > start and tuple(self.words[j : j + 3]) == ("and", "a", "half"))
            or self.at(j) in words.NUMBERS
            or DIGITS.fullmatch(self.at(j))
            or self.at(j) in ("half", "few", "several", "couple", "quarter", "another")
            or (self.at(j) in ("a", "an", "the") and j == start)
            or (self.at(j) == "of" and self.at(j - 1) in ("couple", "quarter", "half"))
            or (self.at(j) == "full" and j > start)
            or (self.at(j) == "-" and j > start)
            or (self.at(j) == "more" and j > start and self.at(j - 1) not in ("a", "the"))
            or (self.at(j) in ("a", "an") and self.at(j - 1) in ("half", "of"))
        ):
            j += 2 * (self.at(j) == "and")
            j += 1
        if j == start:
            return 0
        unit = self.at(j)
        only_article = j == start + 1 and self.at(start) in ("a", "an", "the")
        if only_article:
            if self.at(start) == "the" or unit not in words.SINGLE_UNITS:
                return 0
            if unit in ("little", "second", "minute") and _is_name(self.at(j + 1)):
                return 0
            if unit in ("bit", "little") and self.at(j + 1) == "bit":
                j += 1
            if self.at(j + 1) == "of":
                return 0
            j += 1 + (self.at(j + 1) in ("more", "further", "longer"))
            return j - start
        if unit in words.UNITS and unit not in ("in", "more", "little"):
            if unit == "circles" and self.at(j + 1) == "":
                return 0
            return j + 1 - start + (self.at(j + 1) == "more")
        if unit in words.MEASURES:
            return j + 1 - start + (self.at(j + 1) == "of")
        return 0

    # Noun phrases

    def noun(self, i: int, end: int | None = None) -> tuple[Noun | None, int]:
        """Read the noun phrase that begins here, without the modifiers after it.

        end: index at which it has to end; None: the sentence's end.
        """
        pronoun = self._pronoun(i)
        if pronoun is not None:
            return pronoun
        phrase = _Phrase(i, end, self.count if end is None else end, i)
        while phrase.at < phrase.limit and self._read_determiner(phrase):
            phrase.at += 1
        if phrase.has_determiner and self._is_pair(phrase.at, ("inside", "outside"), ("of",)):
            return self.noun(phrase.at + 2, end)
        while phrase.at < phrase.limit and self._read_part(phrase):
            pass
        return phrase.result or self._complete(phrase)

    def _is_pair(self, i: int, first: Collection[str], second: Collection[str]) -> bool:
        return self.at(i) in first and self.at(i + 1) in second

    def _pronoun(self, i: int) -> tuple[Noun, int] | None:
        """Read a person or a pronoun; return None if neither is here."""
        word, following = self.at(i), self.at(i + 1)
        if (word, following) in (("one", "another"), ("each", "other")):
            return Noun("", i, is_object=False), i + 2
        if word in words.PERSONS and not (word == "her" and is_content(following)):
            return Noun("", i, is_object=False), i + 1
        if word in ("it", "them", "they", "itself", "themselves"):
            pronoun = "them" if word in ("them", "they") else "it"
            return Noun("", i, is_object=False, pronoun=pronoun), i + 1
        determines = (
            is_content(following)
            or following in words.NUMBERS
            or following in words.QUANTIFIERS
            or following in ("one", "ones", "last")
        )
        if word in words.DEMONSTRATIVES and not determines:
            return Noun("", i, is_object=False, pronoun="this"), i + 1
        return None

    def _read_determiner(self, phrase: _Phrase) -> bool:
        """Read an article, quantifier, ordinal or number before the name, up to its last word.

        Return False if none of them is here.
        """
        j = phrase.at
        word, following = self.at(j), self.at(j + 1)
        if word in words.ARTICLES or word in words.DEMONSTRATIVES or word in words.POSSESSIVES:
            phrase.has_determiner = True
            phrase.many |= word in ("these", "those")
        elif word in words.QUANTIFIERS or (word in words.LOTS and following == "of"):
            phrase.has_determiner = True
            phrase.many |= word in words.SEVERAL
            if word in ("all", "every", "each", "both"):
                phrase.which, phrase.has_both = "all", word == "both"
        elif word in words.ORDINALS and (following, self.at(j + 2)) == ("to", "last"):
            phrase.which, phrase.rank, phrase.has_determiner = "last", words.ORDINALS[word], True
            phrase.at += 2
        elif word == "last" and (following, self.at(j + 2)) == ("but", "one"):
            phrase.which, phrase.rank, phrase.has_determiner = "last", 2, True
            phrase.at += 2
        elif word in words.ORDINALS and (word, following) != ("first", "aid"):
            if not (
                phrase.has_determiner or is_content(following) or following in ("one", "from")
            ):
                return False
            phrase.rank = words.ORDINALS[word]
        elif word in ("next", "very", "same", "only") and phrase.has_determiner:
            pass
        elif word == "of" and j > phrase.start:
            phrase.has_determiner = True
        elif word in words.NUMBERS or DIGITS.fullmatch(word):
            counts = is_content(following) or following in words.SELECTORS or following == "of"
            if word == "one" and not counts:
                return False
            phrase.many |= word not in ("one", "1")
            phrase.has_determiner = True
        else:
            return False
        return True

    def _read_part(self, phrase: _Phrase) -> bool:
        """Read a word of the name, or what selects the object; return False at the phrase's end.

        Sets phrase.result where the rest of the phrase is read, too.
        """
        word, following = self.at(phrase.at), self.at(phrase.at + 1)
        if word in ("top", "bottom") and following in _ONE and not phrase.parts:
            return phrase.end_as_one(word, phrase.at + 2)
        if word in words.SELECTORS or word in words.KEPT_SELECTORS:
            return self._read_selector(phrase)
        if self._is_second_ordinal(phrase):
            phrase.rank = words.ORDINALS[word]
            return phrase.skip()
        if phrase.parts and self.amount(phrase.at):
            return False
        if word in _ONE:
            return self._read_one(phrase)
        if word in words.NUMBERS and not phrase.parts:
            phrase.many |= word != "one"
            return phrase.skip()
        if word in ("most", "more", "less") or (word in words.DEGREES and is_content(following)):
            return phrase.skip()
        if word in _JOINTS and phrase.parts and self._joins_adjectives(phrase.at):
            return phrase.take()
        if self._is_way(phrase) or (phrase.parts and self._describes_after(phrase.at)):
            return False
        if self._is_adjective(phrase):
            return phrase.take()
        if not is_content(word) and not self._is_name_part(phrase):
            return False
        if phrase.parts and self._is_verb_after(phrase.at):
            return False
        if self.amount(phrase.at) and not (DIGITS.fullmatch(word) and not phrase.parts):
            return False
        return phrase.take()

    def _read_selector(self, phrase: _Phrase) -> bool:
        """Read a word such as "left" or "largest": it selects, or it belongs to the name.

        Return False at the phrase's end.
        """
        word, following = self.at(phrase.at), self.at(phrase.at + 1)
        describes = (
            (is_content(following) and following not in _PLAIN_DIRECTIONS)
            or following in _ONE
            or following in words.NUMBERS
        )
        if describes and word in words.KEPT_SELECTORS and following not in _ONE:
            phrase.take()
            if following in words.SELECTORS and following not in words.KEPT_SELECTORS:
                phrase.which = phrase.which or words.SELECTORS[following]
                phrase.skip()
            return True
        if describes and word in ("front", "back", "rear") and following in words.BUILT:
            return phrase.take()
        is_selector = word in words.SELECTORS
        if describes and is_selector and (not phrase.parts or word in words.AFTER_NAMES):
            if not (word in ("far", "near") and following in words.SELECTORS):
                phrase.which = words.SELECTORS[word]
            return phrase.skip()
        if following == "of" and word in words.COMPARED:
            phrase.which = words.SELECTORS[word]
            return self._read_compared(phrase)
        if phrase.has_determiner and not phrase.parts and is_selector and following != "of":
            return phrase.end_as_one(words.SELECTORS[word], phrase.at + 1)
        if not phrase.parts and (phrase.has_determiner or following == "of"):
            phrase.take()  # "the front of the shelf"
        return False

    def _read_compared(self, phrase: _Phrase) -> bool:
        """Read what "the largest of" chooses from; return False, as the phrase ends with it."""
        inner, after = self.noun(phrase.at + 2, phrase.end)
        if inner is not None and inner.text:
            inner.which, inner.rank = phrase.which, phrase.rank
            phrase.result = inner, after
        else:
            inner = Noun(
                "", phrase.start, phrase.which, phrase.rank, is_object=False, pronoun="one"
            )
            phrase.result = inner, after
        return False

    def _read_one(self, phrase: _Phrase) -> bool:
        """Read "one" as the name's last word or as a pronoun; return False, the phrase's end."""
        is_selected = phrase.which or phrase.rank or phrase.has_determiner
        following = self.at(phrase.at + 1)
        if phrase.parts:
            phrase.take()
        elif is_selected or following in words.PREPOSITIONS or following == "that":
            phrase.end_as_one(phrase.which, phrase.at + 1)
        return False

    def _is_second_ordinal(self, phrase: _Phrase) -> bool:
        """Tell whether an ordinal after a selector is here: "the left second cup"."""
        word, following = self.at(phrase.at), self.at(phrase.at + 1)
        return (
            word in words.ORDINALS
            and not phrase.parts
            and is_content(following)
            and (word, following) != ("first", "aid")
        )

    def _is_way(self, phrase: _Phrase) -> bool:
        """Tell whether a direction is here that is not part of a name, such as "flat box"."""
        word, following = self.at(phrase.at), self.at(phrase.at + 1)
        begins_name = (
            _is_name(following)
            and following not in OPENERS
            and (phrase.has_determiner or bool(phrase.parts))
            and not (phrase.parts and word not in ("flat", "straight", "home"))
        )
        return word in _WAYS and not begins_name

    def _is_adjective(self, phrase: _Phrase) -> bool:
        """Tell whether a word that is no name by itself describes the word after it."""
        word, following = self.at(phrase.at), self.at(phrase.at + 1)
        if is_adverb(word) and _is_name(following) and not phrase.parts:
            return True
        return word in words.DESCRIBING and phrase.has_determiner and is_content(following)

    def _is_name_part(self, phrase: _Phrase) -> bool:
        """Tell whether a function word belongs to a name here: "first aid kit", "vitamin A"."""
        word, following = self.at(phrase.at), self.at(phrase.at + 1)
        has_parts = bool(phrase.parts)
        return (
            (word, following) == ("first", "aid")
            or (
                word in words.FILLERS
                and phrase.has_determiner
                and not has_parts
                and not is_content(following)
            )
            or (word in ("half", "whole") and has_parts)
            or (
                word == "well"
                and is_content(following)
                and self.at(phrase.at - 1) in words.PREPOSITIONS
            )
            or (self.surface_forms[phrase.at] == "A" and has_parts and not is_content(following))
        )

    def _is_verb_after(self, i: int) -> bool:
        """Tell whether a word after a name is a verb, which ends the phrase."""
        word, following = self.at(i), self.at(i + 1)
        if word in words.MOVING_FORMS or (word in words.VERBS and self._verb_after_noun(i)):
            return True
        return word in words.VERBS - words.NOUN_TOO and following in ("up", "down", "away")

    def _complete(self, phrase: _Phrase) -> tuple[Noun | None, int]:
        """Make the noun of the words read, with what follows it after "of"."""
        parts = phrase.parts
        while len(parts) > 1 and (
            self.at(parts[-1]) in words.STATES or self.at(parts[-1]) in _JOINTS
        ):
            parts.pop()
        if not parts:
            return self._without_name(phrase)
        is_time = phrase.which == "all" and self.at(parts[0]) in words.TIMES
        if is_time or all(self.at(k) in words.DAYS for k in parts):
            return Noun("", phrase.start, is_object=False), phrase.at
        phrase.text = self._text(parts)
        if self.at(phrase.at) == "of" and phrase.at < phrase.limit:
            whole = self._read_whole(phrase)
            if whole is not None:
                return whole
        head = self.at(parts[-1])
        if head in words.NEVER_THINGS and self._is_pair(phrase.at, ("to",), words.VERBS):
            phrase.at += 2  # "something to drink"
        return Noun(
            phrase.text,
            phrase.start,
            phrase.which,
            phrase.rank,
            phrase.many or (head.endswith("s") and not head.endswith(words.SINGULAR_S)),
            self._is_object(parts),
            is_nothing=head == "nothing",
            has_both=phrase.has_both,
        ), phrase.at

    @staticmethod
    def _without_name(phrase: _Phrase) -> tuple[Noun | None, int]:
        """Make a pronoun of determiners alone, "the second"; None without any."""
        has_words = phrase.has_determiner and phrase.at > phrase.start
        if not (phrase.which or phrase.rank or has_words):
            return None, phrase.start
        return Noun(
            "",
            phrase.start,
            phrase.which,
            phrase.rank,
            phrase.many,
            is_object=False,
            pronoun="one" if phrase.rank else "them",
        ), phrase.at

    def _read_whole(self, phrase: _Phrase) -> tuple[Noun, int] | None:
        """Read the noun after "of": it is the object, or it extends the phrase's text.

        Return the object in "the top of the box" or "two of the cups", else None.
        """
        head = self.at(phrase.parts[-1])
        inner, after = self.noun(phrase.at + 1, phrase.end)
        is_part = len(phrase.parts) == 1 and head in words.PARTS_SAID
        if is_part and inner is not None and inner.text:
            return inner, after
        if head in words.LOTS or head in _AMOUNTS_OF:
            if inner is None:
                return Noun("", phrase.start, is_object=False), phrase.at
            inner.many = True
            if head in ("rest", "remainder") and not inner.which:
                inner.which = "other"
            return inner, after
        if inner is not None and (inner.text or inner.pronoun):
            if inner.text:
                of_text = " ".join(self.surface_forms[phrase.at : after])
                phrase.text = f"{phrase.text} {of_text}"
            phrase.at = after
        return None

    def _is_object(self, parts: list[int]) -> bool:
        """Tell whether a name is an object's: not "something", the gripper or a body's part."""
        head = self.at(parts[-1])
        if head in words.EMPTY_NOUNS and (len(parts) == 1 or head in words.NEVER_THINGS):
            return False
        names = [self.at(k) for k in parts]
        is_body = any(name in words.BODY for name in names) and all(
            name in words.BODY or name in words.BODY_WORDS for name in names
        )
        return head not in ("gripper", "grippers") and not is_body

    def _text(self, parts: list[int]) -> str:
        return " ".join(self.surface_forms[k] for k in parts).replace(" ,", "")

    def _joins_adjectives(self, i: int) -> bool:
        """Tell whether adjectives are joined: "the yellow and white mug", "the small, red cup"."""
        before, after, last = self.at(i - 1), self.at(i + 1), self.at(i + 2)
        if self.at(i) == ",":
            return (
                before in words.ADJECTIVES - words.COLORS
                and after in words.ADJECTIVES
                and is_content(last)
            )
        if before in words.COLORS and after in words.COLORS and is_content(last):
            return last not in words.VERBS or last in words.NOUN_TOO
        return False

    def _verb_after_noun(self, i: int) -> bool:
        """Tell whether an order begins without a conjunction: "take the cup put it there"."""
        return self.at(i + 1) in words.ARTICLES | words.POSSESSIVES | {"it", "them"}

    def _describes_after(self, i: int) -> bool:
        """Tell whether a participle begins here that says more of the noun before it."""
        word, following = self.at(i), self.at(i + 1)
        if word in words.NAMING and word not in ("made", "full"):
            return True
        if word in ("made", "full") and following in ("of", "from", "with"):
            return True
        if word in words.PURPOSES and following in ("for", "to", "in", "as", "by"):
            return True
        if is_gerund(word) or word.endswith("ed") or word in words.PARTICIPLES:
            is_participle = verb_of(word) or word in (
                "lying",
                "containing",
                "wearing",
                "facing",
                "touching",
            )
            return (
                bool(is_participle)
                and word not in ("left", "using", "set", "cut", "shut", "lit", "put")
                and word not in words.VERBS
                and not _is_name(following)
            )
        return False

    def read_modifiers(self, i: int, noun: Noun, clause: Clause) -> int:
        """Read the modifiers after a noun: relative clauses, participles, attributes."""
        j = i
        while j < self.count:
            word, following = self.at(j), self.at(j + 1)
            if word == "," and following in ("which", "who", "that's"):
                j += 1
                continue
            if word in ("that", "which", "who", "that's", "whose") and not (
                word == "that" and noun.text == "" and not noun.pronoun
            ):
                j = self._relative(j, noun, clause)
            elif noun.is_object and self._describes_after(j):
                j = self._participle(j, noun, clause)
            elif word in ("with", "without") and noun.is_object:
                after = self._attribute(j, noun, clause)
                if after == j:
                    return j
                j = after
            elif noun.text and not noun.is_object and word in words.CONTRACTED:
                j = self._relative(j - 1, noun, clause)  # "whatever you're holding"
            elif (
                word in ("i", "you", "we", "he", "she") and verb_of(following) and not noun.pronoun
            ):
                j = self._relative(j - 1, noun, clause)  # "the cup you see on the table"
            else:
                return j
        return j

    def _relative(self, i: int, noun: Noun, clause: Clause) -> int:
        j = i + 1
        if self.at(j) in words.SUBJECTS | words.CONTRACTED | {"the", "a", "robot"} and self.at(
            j
        ) not in (
            "that",
            "this",
        ):
            # "that I gave you", "that the robot holds"
            while (
                self.at(j)
                and self.at(j) not in ENDS
                and self.at(j) not in (",", "and", "or", "but")
            ):
                place, after = self.place(j, clause)
                if place is not None:
                    if self.at(j) in ("to", "into", "onto", "toward"):
                        break
                    if place.nouns:
                        noun.marks.append(place)
                        j = after
                        continue
                j += 1
            return j
        while (
            self.at(j) in words.AUXILIARIES - {"has", "had"}
            or self.at(j) in (words.FILLERS | {"not", "currently"}) - {"next"}
            or is_adverb(self.at(j))
        ):
            j += 1
        if self.at(j) in ("has", "have", "had", "contains", "holds"):
            inner, after = self.noun(j + 1)
            if inner is not None:
                if self.at(after) in ("on", "in") and self.at(after + 1) == "it":
                    after += 2
                noun.text += f" {' '.join(self.surface_forms[i:after])}"
                return after
            return j + 1
        if not noun.is_object and noun.text and self.at(j) in words.ADJECTIVES:
            noun.text += f" {' '.join(self.surface_forms[i : j + 1])}"  # "anything that is green"
            noun.is_object = True
            return j + 1
        return self._landmarks(j, noun, clause)

    def _landmarks(self, i: int, noun: Noun, clause: Clause) -> int:
        """Read places that select a noun, after "that is" or a participle, without adjectives."""
        j = i
        while j < self.count:
            place, after = self.place(j, clause, describing=True)
            if place is not None:
                if place.goal and noun.marks:
                    return j
                noun.marks.append(place)
                return after
            word = self.at(j)
            if word in ENDS or word in (",", "and", "but", "or", "then") or word in words.ANAPHORS:
                return j
            if word in words.WHEN or word in words.ASIDES or word in words.ARTICLES:
                return j
            j += 1
        return j

    def _participle(self, i: int, noun: Noun, clause: Clause) -> int:
        word = self.at(i)
        if word in words.PURPOSES and self.at(i + 1) in ("for", "to", "in", "as"):
            j = i + 2
            if is_gerund(self.at(j)) or word != "made":
                j += 1
            inner, after = self.noun(j)
            return after if inner is not None else j
        if word in words.NAMING:
            j = i + 1
            while self.at(j) in ("as", "with", "of", "from"):
                j += 1
            inner, after = self.noun(j)
            if inner is not None:
                noun.text += f" {' '.join(self.surface_forms[i:after])}"
                return after
            return j
        if word == "facing":
            j = i + 1
            while self.at(j) in words.DIRECTIONS:
                j += 1
            return j
        place, after = self.place(i + 1, clause, describing=True)
        if place is not None:
            noun.marks.append(place)
            return after
        inner, after = self.noun(i + 1)
        if inner is not None:
            if inner.is_object:
                link = {"touching": Link.AGAINST, "containing": None, "holding": None}.get(word)
                noun.marks.append(Place(word, link, i, [inner]))
            return after
        return self._landmarks(i + 1, noun, clause)

    def _attribute(self, i: int, noun: Noun, clause: Clause) -> int:
        """Read "with a blue lid" after a noun; return `i` if it is an instrument instead."""
        inner, after = self.noun(i + 1)
        if inner is None:
            return i
        word = self.at(after)
        if word in ("on", "in", "inside") and self.at(after + 1) in ("it", "them"):
            noun.text += f" {' '.join(self.surface_forms[i : after + 2])}"
            return after + 2  # "the box with the star on it"
        absolute = (
            is_gerund(word)
            or (word in words.STATES | words.DIRECTIONS | {"up", "down", "on", "off", "side"})
            or (word in words.PARTICLES and not self.noun(after + 1)[0])
            or self._describes_after(after)
        )
        if self.at(i) == "with" and self.at(after - 1) in words.STATES and after - i > 2:
            return after
        if absolute and self.at(i) == "with":
            # "with the label facing up" is how it lies
            j = after + 1
            while self.at(j) in words.DIRECTIONS | words.PARTICLES:
                j += 1
            place, end = self.place(j, clause)
            return end if place is not None and is_gerund(word) else j
        head = inner.text.rsplit(" ", 1)[-1].lower()
        if (
            head in words.PARTS - words.TOOLS
            and " " in inner.text
            and clause.verb not in words.FILLING
        ):
            noun.text += f" {' '.join(self.surface_forms[i:after])}"
            return after
        if not inner.is_object:
            return after if inner.text or not inner.pronoun else i
        determiner = self.at(i + 1)
        if self.at(i) == "without":
            if (determiner in words.ARTICLES and determiner != "the") or head in words.PARTS:
                noun.text += f" {' '.join(self.surface_forms[i:after])}"
                return after
            return i
        definite = determiner in ("the", "your", "that", "this")
        if head in words.TOOLS and (clause.verb in words.WORKING or definite):
            return i
        part = head in words.PARTS and (
            determiner in ("a", "an") or (not definite and clause.verb in words.TURNING)
        )
        if clause.verb in words.WORKING - words.PLACING - words.HOLDING and not part:
            return i
        if not clause.in_lexicon and definite and head not in words.PARTS:
            return i
        if clause.verb in words.WORKING and definite and head not in words.PARTS:
            return i
        if clause.verb in words.FILLING:
            return i
        acts_on_whole = clause.verb in words.AS_IS | (words.PLACING - words.WITH_MATERIAL)
        if clause.kind is Kind.ORDER and clause.verb and not (acts_on_whole or part):
            return i
        if clause.verb in words.PLACING and definite and head not in words.PARTS:
            return i
        if self.at(after) in ("on", "in") and self.at(after + 1) in ("it", "them"):
            after += 2
        noun.text += f" {' '.join(self.surface_forms[i:after])}"
        return after

    # Places

    def place(
        self, i: int, clause: Clause | None = None, *, describing: bool = False
    ) -> tuple[Place | None, int]:
        """Read the preposition that begins here, with its nouns or its side."""
        start = i
        word = self.at(i)
        if not word or (
            word not in words.PREPOSITIONS
            and word not in words.GRADES
            and word not in words.SIDES
            and word not in _STARTS
            and not is_adverb(word)
        ):
            return None, i
        verb = clause.verb if clause is not None else ""
        fresh = clause is not None and not clause.items and not describing
        if fresh and verb and (verb, word) in words.PHRASAL and self._takes_object(i, verb):
            return None, i
        j = self._past_grades(i)
        word = self.at(j)
        relation = self._phrase(j)
        if relation is not None:
            size, word, link = relation
            if link is None:
                inner, after = self.noun(j + size)
                return (Place(word, None, start), after) if inner is not None else (None, i)
            if size == 1 and not (
                self.at(j + 1) in words.DETERMINERS and (describing or not fresh)
            ):
                return None, i
            return self._with_nouns(start, word, link, j + size, clause)
        if word in ("left", "right") and self.at(j + 1) in ("of", "from"):
            return self._with_nouns(start, word, words.SIDES[word], j + 2, clause)
        if word not in words.PREPOSITIONS or word == "of":
            return None, i
        if word in ("out", "off") and fresh and self.at(j + 1) != "of":
            return None, i
        if word == "out":
            return None, i
        link = words.PREPOSITIONS[word]
        if word in words.BEFORE_SIDES:
            side = self._side(start, j, word, clause)
            if side is not None:
                return side
        if word in ("for", "about", "per", "during", "despite", "as", "than", "like"):
            return self._other_preposition(start, j, word, clause)
        if length := self.amount(j + 1):
            return Place(word, None, start), j + 1 + length
        if word == "with" and self.at(j + 1) in words.NEGATIONS:
            return None, i
        if word == "to" and self.is_infinitive(j + 1):
            return None, i
        return self._with_nouns(start, word, link, j + 1, clause)

    def is_infinitive(self, i: int) -> bool:
        """Tell whether a verb follows "to": before a determiner there is no noun."""
        word, following = self.at(i), self.at(i + 1)
        if not is_content(word) or following not in OPENERS:
            return False
        return following not in ("that", "all", "both", "each") or word in words.VERBS

    def _takes_object(self, i: int, verb: str) -> bool:
        """Tell "put on the hat", a verb with its particle, from "put in the box", a goal."""
        return (verb, self.at(i)) not in words.NOT_BEFORE_PLACES and self.at(i + 1) not in (
            "to",
            "of",
        )

    def _past_grades(self, i: int) -> int:
        j = i
        while True:
            if self.at(j) == "all" and self.at(j + 1) == "the" and self.at(j + 2) == "way":
                j += 3
            elif self.at(j) in words.GRADES or is_adverb(self.at(j)):
                j += 1
            else:
                break
        while j > i and not (
            (
                self.at(j) in words.PREPOSITIONS
                and self.at(j) not in ("of", "for", "than", "as", "like")
            )
            or self._phrase(j)
        ):
            j -= 1
        if j > i and self._phrase(i):
            return i
        return j

    def _phrase(self, i: int) -> tuple[int, str, Link | None] | None:
        if self.at(i) not in _STARTS:
            return None
        for size in (4, 3, 2, 1):
            relation = _PHRASES.get(tuple(self.words[i : i + size]))
            if relation is not None and len(self.words[i : i + size]) == size:
                return size, *relation
        return None

    def _side(
        self, start: int, i: int, word: str, clause: Clause | None
    ) -> tuple[Place | None, int] | None:
        """Read a side: "to the left of the bowl", "on the left", "at the edge of the table"."""
        j = i + 1
        has_possessive = self.at(j) in ("its", "their")
        if self.at(j) in words.ARTICLES | words.POSSESSIVES | {"that", "this"}:
            j += 1
        while (
            self.at(j) in words.SIDE_MODIFIERS
            and (self.at(j + 1) in words.SIDES or self.at(j + 1) in words.SIDE_NOUNS)
            and self.at(j) not in ("left", "right", "front", "back", "top", "bottom")
        ):
            j += 1
        side = self.at(j)
        if side not in words.SIDES:
            return None
        k = j + 1
        corner, is_corner = "", side in words.CORNERS
        while self.at(k) in words.SIDES and self.at(k) not in ("of",) and self.at(k) != side:
            corner = corner or self.at(k)  # "the top left corner"
            is_corner |= self.at(k) in words.CORNERS
            k += 1
        while self.at(k) in words.SIDE_NOUNS:
            is_corner |= self.at(k) in words.CORNERS
            k += 1
        which = words.SELECTORS.get(side, side if side in ("top", "bottom") else "")
        if corner in words.SELECTORS and side in ("top", "bottom", "upper", "lower"):
            which = words.SELECTORS[corner]
        if self.at(k) == "of" or (self.at(k) == "from" and side in ("left", "right")):
            fixes = clause is not None and clause.verb in words.FIXING
            if self._is_part("on" if fixes else word, side) and not corner:
                return None  # "the edge of the table" is where it goes
            link = _side_link(word, side)
            if is_corner:
                link = words.PREPOSITIONS[word]
            elif corner in ("left", "right"):
                link = words.SIDES[corner]  # "to the top left of the cube"
            return self._with_nouns(
                start, word if word in ("to", "from") else side, link, k + 1, clause
            )
        if (
            is_content(self.at(k))
            and self.at(k) not in _WAYS
            and not (self.amount(k) or self.at(k) in ("side",))
        ):
            return None
        if self.at(k) in ("one", "ones"):
            return None
        if not which and not corner and side in words.PART_SIDES:
            return None
        if has_possessive:
            possessor = Noun("", j, is_object=False, pronoun="it")
            return Place(word, _side_link(word, side), start, [possessor]), k
        return Place(word, None, start, side=which or "side", goal=word in words.GOAL), k

    @staticmethod
    def _is_part(word: str, side: str) -> bool:
        """Tell whether a side is named as a part of a thing, and not as what lies beside it."""
        if side in words.SIDE_PARTS:
            return True
        return side in words.FACES and word not in ("to", "toward", "towards", "by")

    def _other_preposition(
        self, start: int, i: int, word: str, clause: Clause | None
    ) -> tuple[Place | None, int]:
        """Read prepositions of no place: "for breakfast", "for the keys", "like the banana"."""
        j = i + 1
        if length := self.amount(j):
            return Place(word, None, start), j + length
        if is_gerund(self.at(j)) and verb_of(self.at(j)):
            inner, after = self.noun(j + 1)
            return Place(word, None, start), after if inner is not None else j + 1
        inner, after = self.noun(j)
        if inner is None:
            return Place(word, None, start), j
        inner_head = inner.text.rsplit(" ", 1)[-1].lower()
        place = Place(word, None, start)
        seeking = clause is not None and clause.verb in words.SEEKING
        bare = not seeking and word == "for"
        if (
            inner.is_object
            and not bare
            and inner_head not in words.TIMES
            and word in words.NAMING_PREPOSITIONS
        ):
            if clause is not None:
                after = self.read_modifiers(after, inner, clause)
            place.nouns.append(inner)
        return place, after

    def _with_nouns(
        self, start: int, word: str, link: Link | None, i: int, clause: Clause | None
    ) -> tuple[Place | None, int]:
        place = Place(word, link, start, goal=word in words.GOAL or word in ("closer",))
        if length := self.amount(i):
            return place, i + length
        noun, j = self.noun(i)
        gerund = is_gerund(self.at(i)) and bool(verb_of(self.at(i)))
        if noun is not None and gerund and noun.text == self.surface_forms[i]:
            return place, j  # "from tumbling"
        if noun is None:
            return None, start
        if noun.text.lower() in words.RESULTS | words.STATES and word == "to":
            return place, j  # "turn the faucet to hot"
        head = noun.text.rsplit(" ", 1)[-1].lower()
        if (
            head in words.TIMES
            and word in ("in", "at", "by", "on", "to", "within", "from")
            and (" " not in noun.text)
        ):
            return place, j
        if (
            " of " in noun.text
            and noun.text.split(" ", 1)[0].lower() in words.MANNERS
            and word == "in"
        ):
            return place, j  # "in the shape of a pyramid"
        is_formation = head in words.SHAPES and self.at(i) in words.DEFINITE  # "in the stack"
        manner = head in words.MANNERS and (" " not in noun.text or head in words.ALWAYS_MANNERS)
        if manner and not is_formation and word in words.BEFORE_MANNERS:
            return place, j
        if noun.pronoun == "one" and not noun.rank and word == "from":
            place.side = noun.which
            return place, j
        if clause is not None:
            j = self.read_modifiers(j, noun, clause)
        place.nouns.append(noun)
        if word in ("between", "among", "amid"):
            while self.at(j) in ("and", ","):
                next_noun, k = self.noun(j + 1)
                if next_noun is None or (self.at(j) == "," and not next_noun.is_object):
                    break
                if self._clause_word(j + 1):
                    break
                if clause is not None:
                    k = self.read_modifiers(k, next_noun, clause)
                next_noun.is_coordinated = True
                place.nouns.append(next_noun)
                j = k
        return place, j

    def _clause_word(self, i: int) -> bool:
        return self.at(i) in words.VERBS and self.at(i + 1) in OPENERS | frozenset(
            words.PREPOSITIONS
        )


def _side_link(word: str, side: str) -> Link | None:
    """Return the link of a preposition and a side together: "in the back of" is in it."""
    if side in ("back", "rear", "bottom", "front") and word in ("in", "into") and side != "front":
        return Link.IN
    if side == "bottom":
        return Link.IN if word == "at" else Link.UNDER
    if side in ("middle", "center", "centre"):
        return Link.IN if word in ("in", "into") else Link.ON
    if side in ("side", "sides", "edge", "edges", "corner", "corners", "end", "ends", "rim"):
        return words.PREPOSITIONS.get(word) or Link.NEXT_TO
    return words.SIDES[side]


_IDIOMS = {
    ("once", "more"),
    ("half", "way"),
    ("half", "full"),
    ("half", "open"),
    ("one", "by"),
    ("a", "lot"),
    ("so", "far"),
    ("by", "one"),
    ("little", "bit"),
}
