"""Colors and kinds of the generated scenes, with their English and Korean names.

A phrase class is a question about a region: "red cup" (color and kind), "cup" (kind only) or "red
object" (color only). Every object matches three classes. A sigmoid loss can train on that, because
it decides each pair separately; a softmax cannot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Language = Literal["en", "ko"]
LANGUAGES: tuple[Language, ...] = ("en", "ko")

# English name -> base RGB, English words, Korean words (all of them attributive forms).
COLORS: dict[str, tuple[tuple[int, int, int], tuple[str, ...], tuple[str, ...]]] = {
    "red": ((200, 35, 40), ("red",), ("빨간", "빨간색", "붉은")),
    "orange": ((240, 125, 20), ("orange",), ("주황", "주황색")),
    "yellow": ((238, 208, 45), ("yellow",), ("노란", "노란색")),
    "green": ((45, 145, 60), ("green",), ("초록", "초록색", "녹색")),
    "blue": ((35, 85, 200), ("blue",), ("파란", "파란색", "푸른")),
    "purple": ((125, 55, 165), ("purple", "violet"), ("보라", "보라색")),
    "white": ((238, 238, 235), ("white",), ("하얀", "흰", "흰색")),
    "black": ((35, 35, 38), ("black",), ("검은", "검정", "검은색")),
    "pink": ((245, 140, 185), ("pink",), ("분홍", "분홍색", "핑크색")),
    "brown": ((105, 58, 28), ("brown",), ("갈색", "고동색", "밤색")),
}
KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "cup": (("cup", "mug"), ("컵", "머그컵")),
    "bowl": (("bowl",), ("그릇", "사발")),
    "plate": (("plate", "dish"), ("접시",)),
    "bottle": (("bottle",), ("병",)),
    "ball": (("ball",), ("공",)),
    "block": (("block", "cube"), ("블록", "상자")),
    "banana": (("banana",), ("바나나",)),
    "book": (("book",), ("책",)),
    "car": (("car", "toy car"), ("자동차", "장난감 자동차")),
    "hammer": (("hammer",), ("망치",)),
    "apple": (("apple",), ("사과",)),
    "teapot": (("teapot", "kettle"), ("주전자", "찻주전자")),
}
_GENERIC_NOUNS: dict[Language, tuple[str, ...]] = {
    "en": ("object", "thing", "one"),
    "ko": ("물건", "것", "물체"),
}
_DETERMINERS: dict[Language, tuple[str, ...]] = {
    "en": ("the", "a", "that", "this", "my"),
    "ko": ("그", "이", "저", "내"),
}
# A size is relative to something unsaid, so these words do not make a phrase true or false.
_SIZES: dict[Language, tuple[str, ...]] = {
    "en": ("small", "little", "big", "large"),
    "ko": ("작은", "조그만", "큰", "커다란"),
}


@dataclass(frozen=True)
class PhraseClass:
    """A question about a region; `color` or `kind` is None if the phrase does not name it."""

    color: str | None
    kind: str | None

    def matches(self, color: str, kind: str) -> bool:
        """Tell whether a thing of that color and kind matches this phrase."""
        return self.color in (None, color) and self.kind in (None, kind)

    def forms(self, language: Language) -> tuple[str, ...]:
        """List all wordings, the plainest first."""
        column = LANGUAGES.index(language)
        colors = COLORS[self.color][1 + column] if self.color else ("",)
        kinds = KINDS[self.kind][column] if self.kind else _GENERIC_NOUNS[language]
        return tuple(f"{color} {kind}".strip() for kind in kinds for color in colors)


PHRASE_CLASSES: tuple[PhraseClass, ...] = (
    *(PhraseClass(color, kind) for color in COLORS for kind in KINDS),
    *(PhraseClass(None, kind) for kind in KINDS),
    *(PhraseClass(color, None) for color in COLORS),
)


def sample_phrase(phrase: PhraseClass, language: Language, rng: np.random.Generator) -> str:
    """Sample a wording: the plain one half the time, sometimes with a size or a determiner."""
    forms = phrase.forms(language)
    text = forms[0] if rng.random() < 0.5 else forms[int(rng.integers(len(forms)))]
    for words, share in ((_SIZES, 0.08), (_DETERMINERS, 0.25)):
        if rng.random() < share:
            text = f"{words[language][int(rng.integers(len(words[language])))]} {text}"
    return text


def sample_caption(
    objects: list[tuple[str, str]], language: Language, rng: np.random.Generator
) -> str:
    """Sample a sentence that names every (color, kind) of a scene, in random order."""
    order = rng.permutation(len(objects))
    phrases = [sample_phrase(PhraseClass(*objects[i]), language, rng) for i in order]
    if language == "ko":
        return f"{', '.join(phrases)}이 있는 탁자" if rng.random() < 0.3 else ", ".join(phrases)
    head = "" if rng.random() < 0.5 else "a table with "
    if len(phrases) == 1:
        return head + phrases[0]
    return f"{head}{', '.join(phrases[:-1])} and {phrases[-1]}"
