"""Korean: particles are taken off nouns; verbs, sides and fillers end a phrase.

What a noun's role is shows in its particle and in the next verb: 컵을 (target), 접시에 (place,
where the verb puts something somewhere).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from siglip_perception.phrases import english_words
from siglip_perception.phrases import korean_words as words
from siglip_perception.phrases.phrase import Phrase
from siglip_perception.types import Role

_HANGUL = re.compile(r"[가-힣]")
_TOKEN = re.compile(r"[^\W_]+(?:['’\-&][^\W_]+)*|[.,;:!?、。]")
_QUOTES = re.compile('["“”「」『』]')  # "컵"을: the particle belongs to the word in quotes
_BREAKS = frozenset(".,;:!?、。")
_NO_FINAL, _RIEUL = 0, 8


def is_korean(text: str) -> bool:
    """Whether there is any Hangul in the text."""
    return _HANGUL.search(text) is not None


@dataclass
class _Noun:
    """A phrase that waits for the verb which decides its role."""

    words: list[str]
    particle: str = ""
    side: bool = False


@dataclass
class _Reader:
    found: list[Phrase] = field(default_factory=list)
    waiting: list[_Noun] = field(default_factory=list)
    chunk: list[str] = field(default_factory=list)

    def close(self, particle: str = "") -> None:
        """End the running phrase with the particle that followed it."""
        if self.chunk:
            self.chunk[-1] = _without_possessive(self.chunk[-1])
            self.waiting.append(_Noun(list(self.chunk), particle))
            self.chunk.clear()

    def side(self, particle: str) -> None:
        """A side such as 위에: it makes a place of the noun before it."""
        self.close("의")
        if self.waiting and self.waiting[-1].particle in ("의", *words.JOINING):
            self.waiting[-1].side = True
            self.waiting[-1].particle = particle
            # "접시와 그릇 사이에": what is joined shares the place.
            for noun in reversed(self.waiting[:-1]):
                if noun.particle not in words.JOINING:
                    break
                noun.side, noun.particle = True, particle

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
        for i, noun in enumerate(self.waiting):
            particle = noun.particle
            if particle in words.JOINING:
                particle = next(
                    (n.particle for n in self.waiting[i + 1 :] if n.particle not in words.JOINING),
                    "",
                )
            self.found.append(Phrase(" ".join(noun.words), _role(noun, particle, placing, states)))
        self.waiting.clear()

    def end(self) -> None:
        """No verb came: the phrases stand for themselves."""
        self.close()
        self.found += [Phrase(" ".join(noun.words), Role.UNKNOWN) for noun in self.waiting]
        self.waiting.clear()


def _role(noun: _Noun, particle: str, placing: bool, states: bool) -> Role:
    if noun.side or particle in words.TO_PLACE:
        to_place = particle in words.TO_PLACE
        return Role.PLACE if placing and to_place and not states else Role.UNKNOWN
    if states:
        return Role.UNKNOWN
    if particle in words.OBJECT or particle in words.SUBJECT or not particle:
        return Role.TARGET
    return Role.UNKNOWN


def parse(text: str) -> list[Phrase]:
    """The phrases of a Korean sentence, or of a list such as "빨간 컵. 접시."."""
    tokens = _TOKEN.findall(_QUOTES.sub("", text))
    reader = _Reader()
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
        if counted and noun in words.COUNTERS:
            reader.close(particle)
        elif noun in words.NUMERALS and (
            split_particle(following)[0] in words.COUNTERS or (noun == "하나" and reader.chunk)
        ):
            reader.close(particle)
            after_numeral = True
        else:
            _read(reader, token, noun, particle, tokens[i + 1 : i + 3])
    reader.end()
    return reader.found


def _read(reader: _Reader, token: str, noun: str, particle: str, after: list[str]) -> None:
    if _excludes(reader, token, after):
        reader.exclude()
        return
    thing = words.THINGS.get(noun, words.THINGS.get(token))
    if thing is not None and reader.chunk:
        reader.chunk.append(thing)
        reader.close(particle or ("을" if token == "걸" else ""))
        return
    dropped = (*words.DETERMINERS, *words.NUMERALS, *words.FILLERS)
    if token in dropped or _is_adverb(token):
        if reader.chunk:
            reader.close()
        return
    if token in words.PRONOUNS or noun in words.PRONOUNS:
        reader.close()
        if token.startswith(("어디", "어딨")):
            reader.verb(placing=False, states=False)
        return
    side = _side(token)
    if side is not None:
        before, particle = side
        if before:
            reader.chunk.append(before)
        reader.side(particle)
        return
    if token in words.MODIFIERS:
        reader.chunk.append(token)
        return
    if not _is_protected(token) and not (particle and _is_protected(noun)):
        verb = _verb(token)
        if verb is not None:
            states = verb == "states" or _is_negated(token, after)
            reader.verb(placing=verb == "placing", states=states)
            return
    if token.isascii() and _is_english_filler(token):
        reader.close()
        return
    if particle == "의" and noun.endswith("색"):
        reader.chunk.append(noun)
    elif particle == "의":
        reader.chunk.append(token)
    else:
        reader.chunk.append(noun)
        if particle:
            reader.close(particle)


def _excludes(reader: _Reader, token: str, after: list[str]) -> bool:
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


def _without_possessive(word: str) -> str:
    noun, particle = split_particle(word)
    return noun if particle == "의" else word


def split_particle(token: str) -> tuple[str, str]:
    """A word without its particle, and the particle ("" where it has none)."""
    if _is_protected(token) or token in words.MODIFIERS:
        return token, ""
    for size in range(min(5, len(token) - 1), 0, -1):
        noun, particle = token[:-size], token[-size:]
        if _fits(noun, particle):
            return noun, particle
    return token, ""


def _fits(noun: str, particle: str) -> bool:
    if particle in words.ANY_PARTICLES:
        return True
    last = noun[-1]
    if not _HANGUL.match(last):
        return particle in words.AFTER_CONSONANT or particle in words.AFTER_VOWEL
    final = (ord(last) - 0xAC00) % 28
    if final == _NO_FINAL or (final == _RIEUL and particle in words.AFTER_RIEUL):
        return particle in words.AFTER_VOWEL
    return particle in words.AFTER_CONSONANT


def _is_protected(token: str) -> bool:
    if token in words.PROTECTED:
        return True
    return any(token[-size:] in words.PROTECTED for size in range(2, len(token)))


def _side(token: str) -> tuple[str, str] | None:
    """(noun before it, particle) where the word is a side, alone or joined onto a noun."""
    if _is_protected(token):
        return None
    for particle in (*words.SIDE_PARTICLES, ""):
        if not token.endswith(particle):
            continue
        rest = token[: len(token) - len(particle)]
        if rest in words.SIDES:
            return "", particle
        if particle not in words.TO_PLACE and not particle.startswith("에"):
            continue
        for side in words.SIDES:
            fused = rest.endswith(side) and side not in words.NEVER_FUSED
            if fused and len(rest) > len(side) and not _is_protected(rest):
                return rest[: -len(side)], particle
    return None


def _is_adverb(token: str) -> bool:
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


def _jamo(text: str) -> str:
    return unicodedata.normalize("NFD", text)


@lru_cache(maxsize=1)
def _verbs() -> tuple[tuple[str, re.Pattern[str]], ...]:
    """Patterns over decomposed syllables, so that endings may change a stem's last syllable."""

    def alternatives(parts: Iterable[str]) -> str:
        return "|".join(re.escape(_jamo(p)) for p in sorted(parts, key=len, reverse=True))

    def forms(verbs: Mapping[str, tuple[str, ...]]) -> list[str]:
        return [form for entry in verbs.values() for form in entry]

    joined_on = alternatives(forms(words.PLACING) + forms(words.ACTING))
    stem_endings = alternatives(words.STEM_ENDINGS + words.STEM_FINAL_ENDINGS)
    form_endings = alternatives(words.FORM_ENDINGS + words.FORM_FINAL_ENDINGS)
    return tuple(
        (
            kind,
            re.compile(
                f"(?:{joined_on})*(?:(?:{alternatives(verbs)})(?:{stem_endings})"
                f"|(?:{alternatives(forms(verbs))})(?:{form_endings})?)"
            ),
        )
        for kind, verbs in (("placing", words.PLACING), ("acting", words.ACTING))
    )


def _verb(token: str) -> str | None:
    """ "placing", "acting" or "states" where the word is a form of a listed verb, else None."""
    if token in words.STATES or token.endswith(words.STATE_ENDINGS):
        return "states"
    decomposed = _jamo(token)
    for kind, pattern in _verbs():
        if pattern.fullmatch(decomposed):
            return kind
    return None
