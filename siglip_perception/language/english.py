"""English: words are told apart by lists; what no list knows is content, and its runs are phrases.

Ambiguous words ("can", "place", "light") are content after a determiner or another content word;
a word that no list knows is a verb where a clause begins and a determiner follows ("scoop the
rice").
"""

from __future__ import annotations

import re

from siglip_perception.language import english_words as words
from siglip_perception.language.english_roles import Reader
from siglip_perception.language.phrase import Phrase
from siglip_perception.types import Relation

_TOKEN = re.compile(r"[^\W_]+(?:['’\-&][^\W_]+)*|[.,;:!?]")
_SENTENCE_ENDS = frozenset(".;:!?")
_BEFORE_GERUNDS = words.NEGATIVE_VERBS | {"without"}
_COMMANDS = (words.PLACING | words.ACTING) - words.AMBIGUOUS
_TAKES_OBJECT = (words.PLACING | words.ACTING) - words.BEFORE_VERBS - words.COPULAS
_BEFORE_CLAUSES = words.CONJUNCTIONS | words.SUBJECTS | {"", ",", "to", "please", "just", "not"}


def is_english(text: str) -> bool:
    """Whether the English rules apply: an English function word or verb, or plain ASCII text."""
    tokens = {token.lower() for token in _TOKEN.findall(text)}
    if tokens & ((_COMMANDS | {"the"}) - words.FOREIGN):
        return True
    if tokens & words.FOREIGN:
        return False
    return text.isascii() or bool(tokens & words.RELATIONS)


def parse(text: str) -> list[Phrase]:
    """The phrases of an English sentence, or of a list such as "red cup. plate."."""
    tokens = [token.replace("’", "'") for token in _TOKEN.findall(text)]
    lower = _plain([token.lower() for token in tokens])
    reader = Reader()
    after_determiner = False
    for i, (token, word) in enumerate(zip(tokens, lower, strict=True)):
        following = lower[i + 1] if i + 1 < len(lower) else ""
        previous = lower[i - 1] if i else ""
        content_here = after_determiner or bool(reader.chunk)
        kind = _kind(word, previous, following, content_here, bool(reader.chunk))
        negation = _negation(word, previous, following)
        if reader.chunk and _joins_colors(lower, i):
            kind = "content"
        if kind == "content" and not content_here:
            if _is_unknown_verb(word, previous, reader):
                kind = "break" if word.endswith("ly") or previous in _BEFORE_GERUNDS else "verb"
            elif _starts_clause(previous) and following in words.BEFORE_NOUNS:
                kind = "verb"
        elif kind == "determiner" and word == "one" and _stands_for_noun(reader, following):
            kind = "again"
        after_determiner = False
        reader.clause.every |= word in words.EVERY
        reader.clause.nothing |= word in words.NOTHING
        if negation:
            reader.negate(negation)
        elif word in words.REVERSING and reader.negation:
            reader.negation = ""
            reader.clause.excluding = False
        elif kind == "content":
            _content(reader, token, word, following)
        elif kind == "determiner":
            _determiner(reader, token, word)
            after_determiner = True
        elif kind == "verb":
            reader.verb(word)
        elif kind == "relation":
            reader.relation(word)
        elif kind in ("which", "side"):
            reader.side(word, describes=kind == "which")
            after_determiner = kind == "which"
        elif kind == "again":
            reader.again()
        elif kind == "sentence":
            reader.predicate()
            reader.sentence()
        elif word != "of":
            if word in ("it", "them"):
                reader.pronoun()
            if word in (",", "and", "but", "so"):
                reader.predicate()
            reader.close(joining=word in (",", "and"))
            reader.pause(word)
            reader.clause.describing &= word != ","
        else:
            reader.close()
    reader.predicate()
    return reader.end()


def _plain(lower: list[str]) -> list[str]:
    """Verbs of several words as one: "stop touching", "watch out for", "could I have"."""
    for i, word in enumerate(lower[:-1]):
        after = lower[i + 1 : i + 3]
        if word in words.STOPPING and (after[0].endswith("ing") or after[0] == "from"):
            lower[i] = "avoid"
            if after[0] == "from":
                lower[i + 1] = "avoid"
        elif (word in ("watch", "look") and after == ["out", "for"]) or (
            word == "stay" and after == ["away", "from"]
        ):
            lower[i] = "avoid"
        elif after == ["a", "look"]:
            lower[i] = "look"
        elif word == "have" and lower[max(i - 2, 0) : i] in (["can", "i"], ["could", "i"]):
            lower[i] = "get"
    return lower


def _content(reader: Reader, token: str, word: str, following: str) -> None:
    where = words.SIZES.get(word) or words.WHERE_SIDE.get(word)
    if where is not None:
        reader.which.append(Relation(where))
        if following == "of":  # "the bigger of the two bowls"
            return
    reader.chunk.append(token)


def _determiner(reader: Reader, token: str, word: str) -> None:
    if reader.chunk and reader.chunk[-1].lower() == "of":
        if word in words.ARTICLES:  # "the cap of the bottle"
            reader.chunk.append(token)
    elif reader.chunk:
        reader.close()
    reader.many |= word in words.SEVERAL or (word.isdigit() and word != "1")
    reader.rank = words.ORDINALS.get(word, reader.rank)


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


def _joins_colors(lower: list[str], i: int) -> bool:
    """Whether this is the "and" of "the yellow and white mug"."""
    return (
        lower[i] == "and"
        and lower[i - 1] in words.COLORS
        and i + 2 < len(lower)
        and lower[i + 1] in words.COLORS
        and _is_content(lower[i + 2])
    )


def _starts_clause(previous: str) -> bool:
    return previous in _BEFORE_CLAUSES or previous in _SENTENCE_ENDS


def _stands_for_noun(reader: Reader, following: str) -> bool:
    """Whether "one" stands for the phrase before it: "the one on the left", "the left one"."""
    return bool(reader.which) or following in words.RELATIONS | words.SIDES | {"that", "that's"}


def _is_unknown_verb(word: str, previous: str, reader: Reader) -> bool:
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
    if word == "flat" and following in words.RELATIONS:
        return "break"
    if (word, following) == ("first", "aid"):
        return "content"
    if (previous, word) in words.AMOUNTS or (word, following) == ("face", "down"):
        return "break"
    if not content_here and _is_gerund(word, previous, following):
        return "verb"
    if word in words.REMAINDERS and previous == "the" and not _is_content(following):
        return "content" if following == "of" else "break"
    if word in words.OWN_HANDS and previous in words.YOURS:
        return "break"
    if word in words.AMBIGUOUS and previous in _TAKES_OBJECT and _is_content(following):
        return "content"
    if word in ("near", "far") and content_here and not in_phrase and _is_content(following):
        return "which"
    if word in words.PARTICLES and _belongs_to_verb(word, previous, following):
        return "break"
    if word in words.SIDES:
        return _side_kind(word, following, content_here)
    if word in words.MOVING_ITSELF and following in words.RELATIONS | words.PARTICLES:
        return "verb"
    if word in words.AMBIGUOUS and content_here:
        first = previous in words.ORDINALS and following in words.BEFORE_NOUNS
        return "verb" if first and not in_phrase else "content"  # "first open the door"
    if word.isdigit() and not in_phrase:
        return "determiner"
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


def _is_gerund(word: str, previous: str, following: str) -> bool:
    """Whether it is a listed verb's gerund and acts as a verb, unlike that of "cutting board"."""
    if not word.endswith("ing") or previous in words.NEGATIVE_VERBS:
        return False
    stem = word[:-3]
    known = words.PLACING | words.ACTING
    listed = (
        stem in known or f"{stem}e" in known or (stem[-1:] == stem[-2:-1] and stem[:-1] in known)
    )
    verbal = previous in words.BEFORE_LISTED_GERUNDS or following in words.BEFORE_NOUNS
    return listed and verbal and previous != "without"


def _side_kind(word: str, following: str, content_here: bool) -> str:
    describes = _is_content(following)
    if describes and word in words.DESCRIPTIVE_SIDES:
        return "content"
    if following in ("of", "from"):
        return "relation"
    if (describes or following == "one") and word in words.WHERE_SIDE:
        return "which"
    return "side" if content_here else "relation"


def _belongs_to_verb(word: str, previous: str, following: str) -> bool:
    if word in words.ALWAYS_PARTICLES:
        return True
    if word in words.LOOSE_PARTICLES and previous in words.PLACING | words.ACTING:
        return following != "of"
    if word == "in" and previous in ("plug", "plugging"):
        return following in words.ARTICLES
    if word in ("on", "over", "around"):
        return previous in words.OVER_VERBS
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
