"""Frozen phrases that scores are compared with, and how a phrase is turned into its own negatives.

A logit of SigLIP says little by itself: its scale, its bias and its level in each language belong
to the weights. Its standing among the logits of other phrases on the same picture says the same on
any weights. The words here are everyday ones of any robot's world, and belong to no model.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Literal

BankLanguage = Literal["en", "ko"]
BANK_LANGUAGES: tuple[BankLanguage, ...] = ("en", "ko")

# English color, its other words; the Korean word that stands before a noun, its other forms.
_COLORS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("red",), ("빨간", "빨간색", "빨강", "붉은")),
    (("orange",), ("주황색", "주황")),
    (("yellow",), ("노란", "노란색", "노랑")),
    (("green",), ("초록색", "초록", "녹색")),
    (("blue",), ("파란", "파란색", "파랑", "푸른")),
    (("purple", "violet"), ("보라색", "보라")),
    (("pink",), ("분홍색", "분홍", "핑크색")),
    (("brown",), ("갈색", "고동색", "밤색")),
    (("black",), ("검은", "검은색", "검정", "검정색", "까만")),
    (("white",), ("하얀", "하얀색", "흰", "흰색")),
    (("gray", "grey"), ("회색",)),
)
# English noun, its other words; the same in Korean.
_NOUNS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("cup", "mug"), ("컵", "머그컵", "머그")),
    (("bowl",), ("그릇", "사발")),
    (("plate", "dish"), ("접시",)),
    (("bottle",), ("병", "물병")),
    (("ball",), ("공",)),
    (("block", "cube", "brick"), ("블록", "큐브")),
    (("box",), ("상자", "박스")),
    (("book",), ("책",)),
    (("car", "toy car"), ("자동차", "장난감 자동차", "차")),
    (("hammer",), ("망치",)),
    (("teapot", "kettle"), ("주전자", "찻주전자")),
    (("apple",), ("사과",)),
    (("banana",), ("바나나",)),
    (("spoon",), ("숟가락",)),
    (("knife",), ("칼",)),
    (("pen", "pencil"), ("펜", "연필")),
    (("phone",), ("전화기", "휴대폰")),
    (("chair",), ("의자",)),
    (("shoe",), ("신발",)),
    (("lamp",), ("램프", "전등")),
    (("clock",), ("시계",)),
    (("flower",), ("꽃",)),
    (("towel", "cloth"), ("수건", "천")),
    (("dog",), ("개", "강아지")),
)
# Things without a color of their own: what is behind objects, and what is never on a table.
_OTHERS: tuple[tuple[str, str], ...] = (
    ("table", "탁자"),
    ("wall", "벽"),
    ("floor", "바닥"),
    ("shadow", "그림자"),
    ("background", "배경"),
    ("person", "사람"),
    ("hand", "손"),
    ("cat", "고양이"),
    ("tree", "나무"),
    ("sky", "하늘"),
    ("street", "거리"),
    ("building", "건물"),
    ("bird", "새"),
    ("bridge", "다리"),
    ("water", "물"),
    ("window", "창문"),
)
_ARTICLES = frozenset(("a", "an", "the"))
_PUNCTUATION = " .,!?"
_HANGUL = re.compile("[\u1100-\u11ff\u3130-\u318f\uac00-\ud7a3]")


def language_of(phrase: str) -> BankLanguage:
    """Language whose bank a phrase is compared with: Korean if it has Hangul, else English."""
    return "ko" if _HANGUL.search(phrase) else "en"


def _bank(language: BankLanguage) -> tuple[str, ...]:
    column = BANK_LANGUAGES.index(language)
    colors = [forms[column][0] for forms in _COLORS]
    phrases: list[str] = []
    for number, forms in enumerate(_NOUNS):
        noun = forms[column][0]
        phrases.append(noun)
        # Six of the eleven colors, others for each noun: every color has its share of the bank.
        phrases += [f"{colors[(number + 2 * k) % len(colors)]} {noun}" for k in range(6)]
    phrases += [others[column] for others in _OTHERS]
    return tuple(phrases)


BANKS: Mapping[BankLanguage, tuple[str, ...]] = {
    language: _bank(language) for language in BANK_LANGUAGES
}


def bank_places(phrase: str) -> tuple[int, ...]:
    """Places in the bank of the phrase's language that mean the same as the phrase.

    "The grey mugs" has the place of "gray cup": a phrase that is compared with itself would have
    less standing the better it fits.
    """
    language = language_of(phrase)
    key = _canonical(phrase, language)
    return tuple(place for place, other in enumerate(_canonical_bank(language)) if other == key)


@functools.cache
def _canonical_bank(language: BankLanguage) -> tuple[str, ...]:
    return tuple(_canonical(phrase, language) for phrase in BANKS[language])


def _canonical(phrase: str, language: BankLanguage) -> str:
    """The phrase with its color and its noun in the first of their words, without an article."""
    words = phrase.casefold().strip(_PUNCTUATION).split()
    if language == "en" and len(words) > 1 and words[0] in _ARTICLES:
        del words[0]
    colors, nouns = _first_words(language)
    # The last word is the noun: "orange" alone is a fruit.
    color = colors.get(words[0], "") if len(words) > 1 else ""
    noun = " ".join(words[1:] if color else words)
    return f"{color} {nouns.get(noun, noun)}".strip()


@functools.cache
def _first_words(language: BankLanguage) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Word -> the first of those that mean the same: of colors, and of nouns with plurals."""
    column = BANK_LANGUAGES.index(language)
    colors = {word: forms[column][0] for forms in _COLORS for word in forms[column]}
    nouns = {word: forms[column][0] for forms in _NOUNS for word in forms[column]}
    nouns |= {forms[column]: forms[column] for forms in _OTHERS}
    if language == "en":
        nouns |= {plural: noun for word, noun in nouns.items() for plural in _plurals(word)}
    return colors, nouns


def _plurals(noun: str) -> tuple[str, ...]:
    if noun.endswith("fe"):
        return (f"{noun[:-2]}ves",)
    return f"{noun}s", f"{noun}es"


def recolored(phrase: str) -> tuple[str, ...]:
    """The phrase in every other color of the list; none for a phrase without a color."""
    column = BANK_LANGUAGES.index(language_of(phrase))
    words = phrase.casefold().split()
    for number, forms in enumerate(_COLORS):
        # The last word is the noun: "orange" alone is a fruit.
        place = next((i for i, word in enumerate(words[:-1]) if word in forms[column]), None)
        if place is not None:
            return tuple(
                " ".join([*words[:place], others[column][0], *words[place + 1 :]])
                for other, others in enumerate(_COLORS)
                if other != number
            )
    return ()
