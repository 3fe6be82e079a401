"""The forms of Korean words: particles taken off nouns, verbs known by their endings."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from functools import lru_cache

from siglip_perception.language import korean_words as words

_HANGUL = re.compile(r"[가-힣]")
_NO_FINAL, _RIEUL = 0, 8
# In syllables. Verbs are joined onto each other in many ways, and each one is tried.
_LONGEST_VERB = 16


def without_possessive(word: str) -> str:
    """A word without 의, other words as they are."""
    noun, particle = split_particle(word)
    return noun if particle == "의" else word


def split_particle(token: str) -> tuple[str, str]:
    """A word without its particle, and the particle ("" where it has none)."""
    if is_protected(token) or token in words.MODIFIERS:
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


def is_joined_form(token: str) -> bool:
    """Whether it ends as a verb does before 서 and 줘: 집어, 헹궈, 펼쳐, 꺼내."""
    last = unicodedata.normalize("NFD", token[-1:])
    return len(last) == 2 and last[1] in "\u1161\u1165\u1162\u1167\u116a\u116f\u116c"


def is_protected(token: str) -> bool:
    """Whether it is a noun that looks like one with a particle, or like a verb."""
    if token in words.PROTECTED:
        return True
    return any(token[-size:] in words.PROTECTED for size in range(2, len(token)))


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
                f"(?:{joined_on}){{0,3}}(?:(?:{alternatives(verbs)})(?:{stem_endings})"
                f"|(?:{alternatives(forms(verbs))})(?:{form_endings})?)"
            ),
        )
        for kind, verbs in (("placing", words.PLACING), ("acting", words.ACTING))
    )


def verb(token: str) -> str | None:
    """ "placing", "acting" or "states" where the word is a form of a listed verb, else None."""
    if token in words.STATES or token.endswith(words.STATE_ENDINGS):
        return "states"
    if len(token) > _LONGEST_VERB:
        return None
    decomposed = _jamo(token)
    for kind, pattern in _verbs():
        if pattern.fullmatch(decomposed):
            return kind
    return None
