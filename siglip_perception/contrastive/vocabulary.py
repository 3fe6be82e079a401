"""What the generated scenes can show, and how English and Korean name it.

A class is a question that can be asked of a region: "red cup" (colour and kind), "cup" (kind
alone) or "red object" (colour alone). One object answers three of them with yes, which is what a
sigmoid loss, a yes or no for each pair, can be trained on and a softmax cannot.
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
}
_ANYTHING: dict[Language, tuple[str, ...]] = {
    "en": ("object", "thing"),
    "ko": ("물건", "것"),
}


@dataclass(frozen=True)
class PhraseClass:
    """A question about a region; `color` or `kind` is None where the phrase leaves it open."""

    color: str | None
    kind: str | None

    def matches(self, color: str, kind: str) -> bool:
        """Whether an object of that colour and kind answers this phrase."""
        return self.color in (None, color) and self.kind in (None, kind)

    def forms(self, language: Language) -> tuple[str, ...]:
        """Every way to say it, the plainest first."""
        column = LANGUAGES.index(language)
        colors = COLORS[self.color][1 + column] if self.color else ("",)
        kinds = KINDS[self.kind][column] if self.kind else _ANYTHING[language]
        return tuple(f"{color} {kind}".strip() for kind in kinds for color in colors)


PHRASE_CLASSES: tuple[PhraseClass, ...] = (
    *(PhraseClass(color, kind) for color in COLORS for kind in KINDS),
    *(PhraseClass(None, kind) for kind in KINDS),
    *(PhraseClass(color, None) for color in COLORS),
)


def sample_phrase(phrase: PhraseClass, language: Language, rng: np.random.Generator) -> str:
    """One way to say the phrase; the plain form half the time, in English at times an article."""
    forms = phrase.forms(language)
    text = forms[0] if rng.random() < 0.5 else forms[int(rng.integers(len(forms)))]
    if language == "en" and rng.random() < 0.3:
        text = f"{'the' if rng.random() < 0.5 else 'a'} {text}"
    return text


def sample_caption(
    objects: list[tuple[str, str]], language: Language, rng: np.random.Generator
) -> str:
    """A sentence that names every (colour, kind) of a scene, in a random order."""
    order = rng.permutation(len(objects))
    named = [sample_phrase(PhraseClass(*objects[i]), language, rng) for i in order]
    if language == "ko":
        return f"{', '.join(named)}이 있는 탁자" if rng.random() < 0.3 else ", ".join(named)
    head = "" if rng.random() < 0.5 else "a table with "
    if len(named) == 1:
        return head + named[0]
    return f"{head}{', '.join(named[:-1])} and {named[-1]}"
