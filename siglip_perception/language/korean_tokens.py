"""Korean text -> words: prompts unwrapped, and spaces where people leave them out."""

from __future__ import annotations

import re
from functools import lru_cache

from siglip_perception.language import english_words
from siglip_perception.language import korean_words as words
from siglip_perception.language.english_tokens import unwrap
from siglip_perception.language.korean_forms import (
    Ending,
    is_protected,
    split_particle,
    verb,
)

_SEPARATORS = re.compile(r"(?<=[^\W\d_])\s*[/·ㆍ・]\s*(?=[^\W\d_])")
_ENGLISH_DONE = re.compile(r"([A-Za-z]+)((?:하|해|했|할|한)[가-힣]*)")
_TOKEN = re.compile(r"\d+(?:\.\d+)?(?:[^\W\d_]+)?|[^\W_]+(?:['’\-&][^\W_]+)*|[.,;:!?、。~]")
_QUOTES = re.compile("[\"“”「」『』‘’'`]")  # "컵"을: the particle belongs to the word in quotes
_HANGUL = re.compile(r"[가-힣]")
_LABEL = re.compile(rf"^\W*{words.KOREAN_LABELS}\s*[:：=]\s*")
_SLIPS = (
    (re.compile(r"(?<=[가-힣])구$"), "고"),
    (re.compile(r"(?<=[가-힣])(용|염|욤|여)$"), "요"),
    (re.compile(r"(새|세|쎄|셰)(여|요|용|염|욤)$"), "세요"),
    (re.compile(r"(줘|와|봐|놔|해|어|아|라)(여|용|염|욤)$"), r"\1요"),
    (re.compile(r"^주셈$|주셈$"), "주세요"),
    (re.compile(r"(?<=[가-힣])조$"), "줘"),
    (re.compile(r"^조$"), "줘"),
    (re.compile(r"조(봐|라)$"), r"줘\1"),
)
# A particle by itself goes back to the noun before it: 상자 를.
_LONE = {"을", "를", "에", "에서", "으로", "로", "의", "와", "과", "에다", "에다가"}
_SHORT_VERBS = frozenset(["줘", "놔", "둬", "봐"])
_ENDINGS_ALONE = frozenset(["꺼", "켜", "줘", "놔", "둬", "써", "빼", "펴", "쳐", "떼"])
_COUNTED = re.compile(
    rf"([가-힣]{{1,8}}?)(한|두|세|네|다섯|여섯|열|\d+)"
    rf"((?:{'|'.join(sorted(words.COUNTERS, key=len, reverse=True))}|번|바퀴)(?:만|씩|을|를|이)?)"
)
_SELECTING = re.compile(
    r"(?:첫|두|세|네|다섯)번째|(?:맨)?(?:왼|오른)쪽|맨(?:위|아래)(?=[가-힣]{4})|가운데|반대쪽|양쪽|모든|제일큰|가장큰"
)
_OBJECTS = re.compile(r"(?<=.)(?:을|를)(?=..)")
_INSIDE = re.compile(r"(?<=[가-힣]{2})에(?=[가-힣]{2})")
_PLACES = re.compile(r"(?<=[위안옆밑앞뒤속])(?:에다가|에다|에)(?=..)")


def tokens(text: str) -> list[str]:
    """Split a sentence into words and marks."""
    sentence: list[str] = []
    bare = _QUOTES.sub("", _LABEL.sub("", unwrap(text)))
    for token in _TOKEN.findall(_SEPARATORS.sub(", ", bare)):
        match = _ENGLISH_DONE.fullmatch(token)
        if match and match[1].lower() in english_words.VERBS:
            sentence += [match[1], match[2]]  # open해
            continue
        if (
            token in _LONE
            and sentence
            and _HANGUL.search(sentence[-1])
            and not sentence[-1].endswith(token)
        ):
            particle = split_particle(sentence[-1])[1]
            combined = sentence[-1] + token
            if (
                not particle
                and split_particle(combined)[1] == token
                and verb(sentence[-1]) is None
            ):
                sentence[-1] = combined
                continue
        sentence += _split_words(fix_typo(token))
    return sentence


def fix_typo(token: str) -> str:
    """Correct common misspellings of endings: 주새요, 줘여, 가져다조."""
    for slip, form in _SLIPS:
        shorter = slip.sub(form, token)
        if shorter != token and verb(shorter) is not None:
            return shorter
    return token


@lru_cache(maxsize=2048)
def _split_words(token: str) -> list[str]:
    """Split a token that was typed without spaces: 노란공을집어서바구니에넣어."""
    if len(token) == 2 and token[0] in words.SHORT_NOUNS and token[1] in _ENDINGS_ALONE:
        return [token[0], token[1]]
    match = _COUNTED.fullmatch(token)
    if match and (len(match[1]) > 1 or match[1] in words.SHORT_NOUNS):
        return [match[1], match[2], match[3]]
    if len(token) < 3 or not _HANGUL.search(token) or len(token) > 60:
        return [token]
    safe = token in words.PROTECTED or (len(token) < 5 and is_protected(token))
    if verb(token) is not None or safe or token in words.FILLERS:
        return [token]
    doing = next((d for d in words.DOING if token.endswith(d)), "")
    if doing and len(token) - len(doing) == 2:
        return [token]  # 복사해
    noun, particle = split_particle(token)
    if particle and ((len(noun) < 6 and is_protected(noun)) or len(noun) < 3):
        return [token]
    selecting = _SELECTING.match(token)
    if selecting and len(token) > len(selecting[0]) + 1:
        remainder = token[len(selecting[0]) :]
        if (
            remainder not in words.ANY_PARTICLES
            and split_particle(f"쪽{remainder}")[1] != remainder
        ):
            return [selecting[0], *_split_words(remainder)]  # 첫번째서랍닫아
    # The last verb: the longest end of the word that is one.
    for start in range(1, len(token)):
        tail = token[start:]
        if len(tail) > 10:
            continue
        form = verb(tail)
        if tail in ("하고", "지나", "가지", "이고", "까지"):
            continue
        if particle and len(noun) > 2 and len(tail) == len(particle) + 1:
            continue  # 슬리퍼도
        short = len(tail) < 2 and tail not in _SHORT_VERBS
        if form is None or short or (form.ending in (Ending.NOUN, Ending.NOT) and start < 2):
            continue
        head = token[:start]
        if (len(token) < 6 and is_protected(token)) or not _is_before_verb(
            head, form.ending, tail
        ):
            continue
        return [*_split_words(head), tail]
    # A verb inside it that leads on: 냉장고열고주스.
    for start in range(1, len(token) - 2):
        for end in range(min(len(token) - 1, start + 5), start + 1, -1):
            middle = token[start:end]
            if not middle.endswith(("고", "서", "면", "다음")):
                continue
            if verb(middle) is not None and not is_protected(token[start : end + 1]):
                return [*_split_words(token[:start]), middle, *_split_words(token[end:])]
    # A noun with its particle, and more: 책상위에물병.
    for pattern in (_OBJECTS, _PLACES):
        match = pattern.search(token)
        if match and split_particle(token[: match.end()])[1]:
            remainder = token[match.end() :]
            if remainder not in words.ANY_PARTICLES and not remainder.startswith(
                ("서", "는", "도", "만", "의")
            ):
                return [token[: match.end()], *_split_words(remainder)]
    inside = _INSIDE.search(token)
    if inside and not token[inside.end() :].startswith(("서", "게", "는", "도", "만", "다", "의")):
        return [token[: inside.end()], *_split_words(token[inside.end() :])]
    if "좀" in token[1:-1]:
        head, _, tail = token.partition("좀")
        if verb(tail) is not None:
            return [head, "좀", tail]
    return [token]


def _is_before_verb(head: str, ending: Ending, tail: str) -> bool:
    """Tell whether a noun can end here: it has a particle, or is long enough to be one."""
    noun, particle = split_particle(head)
    if particle in words.OBJECT or particle in words.TO_PLACE or particle in words.TOWARDS:
        return True
    if particle in words.FROM_PLACE or particle in words.TOPIC:
        return len(noun) > 1
    if head.endswith("좀"):
        return True
    if ending in (Ending.BEFORE, Ending.FOR, Ending.NOUN):
        return False
    return len(tail) > 1 or tail in _SHORT_VERBS
