"""Korean: particles are taken off nouns; verbs, sides and fillers end a phrase.

What a noun's role is shows in its particle and in the next verb: 컵을 (target), 접시에 (place,
where the verb puts something somewhere).
"""

from __future__ import annotations

import re

from siglip_perception.language import english_words
from siglip_perception.language import korean_words as words
from siglip_perception.language.korean_forms import (
    is_joined_form,
    is_protected,
    split_particle,
    verb,
)
from siglip_perception.language.korean_roles import Reader
from siglip_perception.language.phrase import Phrase
from siglip_perception.types import Relation, Where

_HANGUL = re.compile(r"[가-힣]")
_TOKEN = re.compile(r"[^\W_]+(?:['’\-&][^\W_]+)*|[.,;:!?、。]")
_COUNT = rf"(?:\d+|몇)(?:{'|'.join(words.COUNTERS)})(?:야|이야|씩)?"
_QUOTES = re.compile('["“”「」『』]')  # "컵"을: the particle belongs to the word in quotes
_BREAKS = frozenset(".,;:!?、。")


def is_korean(text: str) -> bool:
    """Whether there is any Hangul in the text."""
    return _HANGUL.search(text) is not None


def parse(text: str) -> list[Phrase]:
    """The phrases of a Korean sentence, or of a list such as "빨간 컵. 접시."."""
    tokens = _TOKEN.findall(_QUOTES.sub("", text))
    reader = Reader()
    after_numeral = False
    for i, token in enumerate(tokens):
        following = next((t for t in tokens[i + 1 :] if t not in _BREAKS), "")
        counted, after_numeral = after_numeral, False
        if token in _BREAKS:
            if token in ".;!?。":
                reader.end()
            else:
                reader.close(",")
            continue
        noun, particle = split_particle(token)
        if re.fullmatch(_COUNT, noun):
            reader.many = not noun.startswith("1")
            reader.close(particle.removesuffix("야"))
        elif token in words.ORDINALS or (token in words.NUMERALS and following.startswith("번째")):
            reader.close()
            reader.rank(words.ORDINALS.get(token, words.COUNTING.get(token, 1)))
        elif counted and noun in words.COUNTERS:
            reader.close(particle)
        elif noun in words.NUMERALS and (
            _counts(split_particle(following)[0], reader) or (noun == "하나" and reader.chunk)
        ):
            reader.many = noun not in words.SINGLE
            reader.close(particle)
            after_numeral = True
        else:
            _read(reader, token, noun, particle, tokens[max(i - 1, 0) : i], tokens[i + 1 : i + 4])
    reader.end()
    return reader.found


def _counts(word: str, reader: Reader) -> bool:
    """Whether a word counts here: "물 한 컵" does, "두 컵 사이" does not."""
    return word in words.COUNTERS and (
        bool(reader.chunk) or reader.marked or word not in words.CONTAINERS
    )


def _read(
    reader: Reader, token: str, noun: str, particle: str, previous: list[str], after: list[str]
) -> None:
    following = after[0] if after else ""
    if _excludes(reader, token, after):
        reader.exclude()
        return
    thing = words.THINGS.get(noun, words.THINGS.get(token))
    if thing is not None and reader.chunk:
        reader.chunk.append(thing)
        reader.close(particle or ("을" if token == "걸" else ""))
        return
    if token in words.NEARNESS and (token in words.MODIFIERS or _is_state(following)):
        reader.near(words.NEARNESS[token])
        return
    if _is_dropped(token, noun, following):
        reader.close("의" if following and _side(following) else "")
        return
    if token in words.PRONOUNS or noun in words.PRONOUNS:
        reader.close()
        if noun in words.ALL and reader.waiting:
            reader.waiting[-1].many = True
        if token.startswith(("어디", "어딨")):
            reader.verb(placing=False, states=False)
        return
    side = _side(token)
    if side is not None:
        joined, where, particle = side
        if not joined and previous and previous[0] in words.POINTING:
            reader.there = True
            return
        if joined:
            reader.chunk.append(joined)
        reader.side(particle, where, described=_is_state(following))
        return
    if token in words.SIZES and previous and previous[0] in words.MOST:
        reader.pending.append(Relation(words.SIZES[token]))
    if token in words.MODIFIERS:
        reader.chunk.append(token)
        return
    if token in words.LEFT_AS_IS and not (reader.waiting or reader.chunk):
        reader.spare()
        return
    kind = _verb_kind(reader, token, noun, particle, after)
    if kind is not None:
        reader.close()
        placing = kind == "placing" or _gives_place(reader, kind, token)
        if token.startswith(words.COVERING) and reader.waiting:
            reader.tools()
        negated = _is_negated(token, after)
        if negated and reader.either:  # "들거나 옮기지 마": neither
            reader.spare()
        reader.verb(placing=placing, states=kind == "states" or negated)
        reader.either = token.endswith("거나")
        return
    if token.isascii() and _is_english_filler(token):
        reader.close()
        return
    if particle == "의" and noun.endswith("색"):
        reader.chunk.append(noun)
    elif particle == "의":
        reader.chunk.append(token)
    else:
        place = particle in words.TO_PLACE and noun in words.OPEN_CONTAINERS
        if place and reader.chunk and reader.chunk[-1] in words.SMALL_THINGS:
            reader.close()
        reader.chunk.append(noun)
        if particle:
            reader.close(particle)


def _is_state(word: str) -> bool:
    return word in words.STATES or word.endswith(words.STATE_ENDINGS)


def _excludes(reader: Reader, token: str, after: list[str]) -> bool:
    if not reader.chunk and not reader.waiting:
        return False
    if token == words.EXCEPT:
        return bool(reader.chunk) or bool(set(after) & set(words.REST))
    if token == "그대로":
        return bool(after) and after[0].startswith(words.LEAVING)
    return token in words.EXCLUDING


def _is_negated(verb: str, after: list[str]) -> bool:
    """Whether a verb forbids: by its own ending, or by the words after it."""
    following = after[0] if after else ""
    if following.startswith(words.ASKING):  # 집어 주지 않을래? asks for it
        return False
    if verb.startswith(words.NEGATIVE_VERBS) or re.search(words.NEGATED_VERB_ENDING, verb):
        return True
    if verb.endswith(("지", "지는", "지도")):
        return following.startswith(words.NOT_AFTER_JI)
    if verb.endswith("면"):
        return " ".join(after).startswith(words.NOT_ALLOWED)
    return following in ("대신", "대신에")


def _side(token: str) -> tuple[str, Where | None, str] | None:
    """(noun before it, what it says, particle) of a side, alone or joined onto a noun."""
    if is_protected(token):
        return None
    for particle in (*words.SIDE_PARTICLES, ""):
        if not token.endswith(particle):
            continue
        rest = token[: len(token) - len(particle)]
        if rest in words.SIDES:
            return "", words.SIDES[rest], particle
        if particle not in words.TO_PLACE and not particle.startswith("에"):
            continue
        for side, where in words.SIDES.items():
            fused = rest.endswith(side) and side not in words.NEVER_FUSED
            if fused and len(rest) > len(side) and not is_protected(rest):
                return rest[: -len(side)], where, particle
    return None


def _verb_kind(
    reader: Reader, token: str, noun: str, particle: str, after: list[str]
) -> str | None:
    """As forms.verb(); also for a word that no list knows where only a verb can stand."""
    following = after[0] if after else ""
    forbidding = token.endswith("지") and following.startswith(words.NOT_AFTER_JI)
    if forbidding and (reader.marked or not following.startswith("말")):
        return verb(token) or "acting"
    if token.endswith(words.PARTICIPLES) and following in words.AFTERWARDS:
        return verb(token) or "acting"
    if not is_protected(token) and not (particle and is_protected(noun)):
        known = verb(token)
        if known is not None:
            return known
    if token.endswith(words.DOING) and len(token) > 2 and not is_protected(token):
        return "acting"
    if not reader.marked or is_protected(token) or particle in (*words.OBJECT, *words.TO_PLACE):
        return None
    if not following or following in _BREAKS:
        fits = token.endswith(words.LAST_ENDINGS) or is_joined_form(token)
    elif following.startswith(words.AUXILIARIES):
        forbids = following.startswith(words.NOT_AFTER_JI)
        fits = token.endswith("지") or (
            not forbids and (token.endswith("고") or is_joined_form(token))
        )
    else:
        joined = token.endswith("서") and is_joined_form(token[:-1])
        fits = joined or token.endswith(words.CONNECTING_ENDINGS)
    return "acting" if len(token) > 1 and fits else None


def _gives_place(reader: Reader, kind: str, token: str) -> bool:
    """Whether a verb that need not move anything does so here: 화분에 물을 줘."""
    particles = [noun.particle for noun in reader.waiting]
    return (
        kind == "acting"
        and not token.startswith(words.LOOKING)
        and any(particle in words.OBJECT for particle in particles)
        and any(
            noun.particle in (words.TO_PLACE if noun.side else words.ONTO)
            for noun in reader.waiting
        )
    )


def _is_dropped(token: str, noun: str, following: str) -> bool:
    dropped = (*words.DETERMINERS, *words.NUMERALS, *words.FILLERS)
    if token in dropped or (noun in words.FILLERS and not is_protected(token)):
        return True
    if noun in words.TURNS and following.startswith("방향"):
        return True
    return token.endswith(words.ADVERB_ENDINGS) and token not in words.PROTECTED


def _is_english_filler(token: str) -> bool:
    word = token.lower()
    return (
        word in english_words.DETERMINERS
        or word in english_words.RELATIONS
        or word in english_words.FILLERS
        or word in english_words.PRONOUNS
        or word in english_words.CONJUNCTIONS
        or word in ("pick", "put", "grab", "find", "up")
    )
