"""The forms of Korean words: particles taken off nouns, verbs known by stem and ending."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from siglip_perception.language import korean_words as words

_HANGUL = re.compile(r"[가-힣]")
_NO_FINAL, _RIEUL = 0, 8
# Longest verb, in syllables: verbs combine in many ways, and every combination is tried.
_MAX_VERB_SYLLABLES = 12


class Ending(Enum):
    """Function of a verb's ending in the sentence."""

    FINAL = "final"  # 집어줘, 놓으세요
    AND = "and"  # 집어서, 놓고; and 집어, which can also be final
    NOUN = "noun"  # describes the noun after it: 있는, 놓인
    IF = "if"
    BECAUSE = "because"
    FOR = "for"  # what for: 먹게, 마시려고
    BEFORE = "before"  # 먹기 전에
    WHETHER = "whether"  # 잠겼는지
    NOT = "not"  # 건드리지 (마)


@dataclass(frozen=True)
class Verb:
    """A form of a verb. stems: 밀 and 넣 of the combined 밀어넣. past: 쏟았어."""

    stems: tuple[str, ...]
    ending: Ending
    past: bool = False
    bare: bool = False  # 집어, without any ending: a verb can follow


def without_possessive(word: str) -> str:
    """Remove 의 from a word that ends in it."""
    noun, particle = split_particle(word)
    return noun if particle == "의" else word


@lru_cache(maxsize=4096)
def split_particle(token: str) -> tuple[str, str]:
    """Split a word into the noun and its particle, "" if it has none."""
    if is_protected(token) or token in words.MODIFIERS:
        return token, ""
    for size in range(min(5, len(token) - 1), 0, -1):
        noun, particle = token[:-size], token[-size:]
        if _fits(noun, particle):
            if particle.startswith("들"):
                if f"{noun}들" in words.NAMED_WITH_PLURAL or (
                    particle == "들" and not _is_whole(noun)
                ):
                    continue
            elif particle in words.AMBIGUOUS and not _is_whole(noun):
                continue
            return noun, particle
    return token, ""


def _is_whole(noun: str) -> bool:
    """Tell whether it can stand alone: 핸들 is no plural of 핸, 복도 is not 복 with 도."""
    is_known = noun in words.SHORT_NOUNS or noun in words.THINGS or noun in words.COUNTERS
    is_known |= noun in words.UNITS or noun in words.BODY
    return len(noun) > 1 or is_known or not _HANGUL.match(noun)


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
    """Tell whether it ends as a verb does before 서 and 줘: 집어, 헹궈, 펼쳐, 꺼내."""
    last = unicodedata.normalize("NFD", token[-1:])
    return len(last) == 2 and last[1] in "\u1161\u1165\u1162\u1167\u116a\u116f\u116c"


def ends_in(token: str, endings: tuple[str, ...]) -> bool:
    """Tell whether a word ends so, also inside its last syllable: 시린데 in ᆫ데."""
    return _jamo(token).endswith(tuple(map(_jamo, endings)))


def is_adnominal(token: str) -> bool:
    """Tell whether it can end as a verb does before a noun: 날, 꺼낸, 굴러다니는, 걸린."""
    last = unicodedata.normalize("NFD", token[-1:])
    return len(last) == 3 and last[2] in "\u11ab\u11af"


@lru_cache(maxsize=4096)
def is_protected(token: str) -> bool:
    """Tell whether it is a noun that looks like one with a particle, or like a verb."""
    if token in words.PROTECTED:
        return True
    if token in words.NAMED_WITH_PARTICLE:
        return True
    return any(
        token[-size:] in words.PROTECTED and token[-size:] not in words.WHOLE_ONLY
        for size in range(2, len(token))
    )


def _jamo(text: str) -> str:
    return unicodedata.normalize("NFD", text)


_FINAL_SS = "\u11bb"
_FINAL_L, _FINAL_B, _FINAL_S = "\u11af", "\u11b8", "\u11ba"
_AFTER_DROPPED_L = (
    "ᆫ",
    "는",
    "ᆯ",
    "ᆸ니다",
    "세요",
    "십시오",
    "니까",
    "네",
    "네요",
    "니",
    "시면",
    "신",
    "ᆯ래",
    "ᆯ까",
    "ᆯ게",
    "는데",
    "ᆫ데",
    "ᆫ지",
    "는지",
)
_AFTER_U = ("ᆫ", "ᆯ", "면", "니까", "세요", "십시오", "ᆫ데", "ᆯ래", "ᆯ까", "시면", "며", "ᆸ니다")


@lru_cache(maxsize=1)
def _tables() -> tuple[
    dict[str, str], dict[str, str], dict[str, str], frozenset[str], frozenset[str]
]:
    """Return tables from jamo to stem, of stems, forms and irregular forms, and the endings."""
    stems: dict[str, str] = {}
    forms: dict[str, str] = {}
    irregular: dict[str, str] = {}
    for verbs in (words.PLACING, words.ACTING):
        for stem, entries in verbs.items():
            stems.setdefault(_jamo(stem), stem)
            for form in entries:
                forms.setdefault(_jamo(form), stem)
            stem_jamo = _jamo(stem)
            last, base = stem_jamo[-1], stem_jamo[:-1]
            if last == _FINAL_L:
                short = len(stem) < 2  # 머신 is no form of 멀다
                irregular |= {
                    base + _jamo(e): stem for e in _AFTER_DROPPED_L if not (short and e == "신")
                }
            elif last == _FINAL_B and any(f.endswith(("워", "와")) for f in entries):
                irregular |= {base + _jamo("우") + _jamo(e): stem for e in _AFTER_U}
            elif last == _FINAL_S and any(
                _jamo(f)[: len(base)] == base and len(_jamo(f)) == len(base) + 2 for f in entries
            ):
                irregular |= {base + _jamo("으") + _jamo(e): stem for e in _AFTER_U}
    stem_endings = frozenset(map(_jamo, words.STEM_ENDINGS + words.STEM_FINAL_ENDINGS))
    form_endings = frozenset(map(_jamo, words.FORM_ENDINGS + words.FORM_FINAL_ENDINGS)) | {""}
    return stems, forms, irregular, stem_endings, form_endings


@lru_cache(maxsize=4096)
def verb(token: str) -> Verb | None:
    """Analyze a word as a form of a listed verb; None if it is none."""
    if token in words.STATES:
        return Verb((words.STATES[token],), Ending.NOUN)
    if len(token) > _MAX_VERB_SYLLABLES or not _HANGUL.match(token):
        return None
    match = _match(_jamo(token.replace("하여", "해")), 3)
    if match is None:
        return None
    stems, ending = match
    return Verb(stems, _kind(ending, token), ending.startswith("\u11bb"), ending == "")


def _match(text: str, depth: int) -> tuple[tuple[str, ...], str] | None:
    """Match stems and an ending, in jamo; 다 ends a statement only after a stem."""
    stems, forms, irregular, stem_endings, form_endings = _tables()
    for size in range(len(text), 0, -1):
        head, tail = text[:size], text[size:]
        if head in stems and (tail in stem_endings or _is_polite(tail, stem_endings)):
            return (stems[head],), tail if tail != _jamo("다") else _jamo("는다")
        if head in forms and (tail in form_endings or _is_past(tail, stem_endings)):
            return (forms[head],), tail
    if text in irregular:
        return (irregular[text],), text[-1] if text[-1] in "\u11ab\u11af" else "\0"
    if depth:
        for size in range(len(text) - 1, 1, -1):
            head = text[:size]
            if head in forms:
                remainder = _match(text[size:], depth - 1)
                if remainder is not None:
                    return (forms[head], *remainder[0]), remainder[1]
    return None


def _is_polite(tail: str, stem_endings: frozenset[str]) -> bool:
    """Tell whether an ending follows honorific 시: 오시니까, 놓으시면."""
    for honorific in (_jamo("시"), _jamo("으시")):
        if tail.startswith(honorific) and tail[len(honorific) :] in stem_endings:
            return True
    return tail in (_jamo("셔서"), _jamo("으셔서"), _jamo("셔"), _jamo("으셔"))


def _is_past(tail: str, stem_endings: frozenset[str]) -> bool:
    return tail[:1] == _FINAL_SS and (not tail[1:] or tail[1:] in stem_endings)


_NOUN_ENDINGS = frozenset(
    map(
        _jamo,
        (
            "는",
            "은",
            "ᆫ",
            "ᆯ",
            "을",
            "던",
            "있는",
            "있던",
            "진",
            "고있는",
            "둔",
            "놓은",
            "시는",
            "으시는",
            "으신",
        ),
    )
)
_FOR_ENDINGS = frozenset(map(_jamo, ("게", "도록", "려고", "으려고", "러", "으러", "려", "으려")))
_AND_ENDINGS = frozenset(
    map(
        _jamo,
        (
            "",
            "고",
            "고서",
            "고나서",
            "서",
            "며",
            "으며",
            "면서",
            "으면서",
            "다",
            "다가",
            "거나",
            "아",
            "어",
            "놓고",
            "두고",
            "주고",
        ),
    )
)


def _kind(ending: str, token: str) -> Ending:
    plain = ending
    if plain in _FOR_ENDINGS:
        return Ending.FOR
    if plain == "\0" and token.endswith("는"):
        return Ending.NOUN
    if plain in _NOUN_ENDINGS or (plain.startswith("\u11bb") and token.endswith("던")):
        return Ending.NOUN
    if token.endswith(("지", "지는", "지도", "지를")) and plain in map(
        _jamo, ("지", "지는", "지도")
    ):
        return Ending.NOT
    return kind_of(token) if plain not in _AND_ENDINGS else Ending.AND


def kind_of(token: str) -> Ending:
    """Classify a verb's ending by the end of the word alone."""
    if token.endswith(("면", "거든")):
        return Ending.IF
    if token.endswith(
        ("니까", "는데", "은데", "데", "지만", "므로", "길래", "니깐", "라서", "해서요")
    ):
        return Ending.BECAUSE
    if token.endswith(("도록", "려고", "으러", "러")) and not token.endswith(
        ("빌러", "눌러", "둘러", "찔러", "골라", "불러", "질러", "굴러", "걸러", "문질러", "잘라")
    ):
        return Ending.FOR
    if token.endswith(("는지", "은지", "ㄴ지")):
        return Ending.WHETHER
    if token.endswith("기"):
        return Ending.BEFORE
    if token.endswith(("고", "서", "며", "면서", "다가", "거나", "고서", "고나서")):
        return Ending.AND
    return Ending.FINAL
