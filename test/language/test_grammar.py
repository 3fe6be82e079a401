"""Sentences made by a grammar are read back as they were made; any text is read in short time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scoring import Item, items

from siglip_perception.errors import InstructionError
from siglip_perception.language.instruction import parse
from siglip_perception.types import Role

# Verbs that the lexicon has, and that it has not, before a determiner.
ACTING = ["pick up", "grab", "lift", "open", "wipe", "squeeze", "plonk", "flarn", "wring out"]
PLACING = ["put", "place", "move", "drop", "stack", "set"]
COLORS = ["", "red ", "light blue ", "big ", "wooden "]
THINGS = ["cup", "drink", "water bottle", "can", "grill", "soup ladle", "glorp", "stack", "light"]
LINKS = {
    "on": "on",
    "in": "in",
    "into": "in",
    "under": "under",
    "next to": "next to",
    "near": "near",
    "behind": "behind",
    "in front of": "in front of",
    "to the left of": "left of",
    "on top of": "on",
}
SELECTORS = {"": "", "left ": "left", "second ": "2", "biggest ": "largest", "middle ": "middle"}
OPENINGS = ["", "please ", "could you ", "now ", "robot, "]


@dataclass(frozen=True)
class Made:
    """A sentence, and what it names."""

    text: str
    items: tuple[Item, ...]


@st.composite
def english(draw: st.DrawFn) -> Made:
    """One or two orders, each with things of its own, joined by "and", "then" or a full stop."""
    names = draw(st.lists(st.sampled_from(THINGS), min_size=4, max_size=4, unique=True))
    words, expected_objects = [draw(st.sampled_from(OPENINGS))], []
    for step in range(1, draw(st.integers(1, 2)) + 1):
        if step == 2:
            words.append(draw(st.sampled_from([" and ", ", then ", ". "])))
        noun = draw(st.sampled_from(COLORS)) + names.pop()
        selector = draw(st.sampled_from(sorted(SELECTORS)))
        target = Item(noun, Role.TARGET, step=step, which=SELECTORS[selector])
        expected_objects.append(target)
        if draw(st.booleans()):
            words.append(f"{draw(st.sampled_from(ACTING))} the {selector}{noun}")
            continue
        link = draw(st.sampled_from(sorted(LINKS)))
        place = draw(st.sampled_from(COLORS)) + names.pop()
        words.append(f"{draw(st.sampled_from(PLACING))} the {selector}{noun} {link} the {place}")
        expected_objects.append(Item(place, Role.PLACE, LINKS[link], step, of=noun))
    return Made("".join(words), tuple(expected_objects))


NOUNS = ["컵", "빨간 접시", "사과", "가위", "핸들", "의자", "작은 상자", "손잡이", "포도", "물병"]
ENDINGS = {"on": ["놓아", "올려 줘", "놔 주세요"], "in": ["넣어", "담아 줘", "넣으세요"]}
SIDES = {"위에": "on", "왼쪽에": "left of", "옆에": "next to", "밑에": "under", "뒤에": "behind"}


def object_of(noun: str) -> str:
    """The noun with 을 or 를, as its last syllable wants it."""
    return noun + ("을" if (ord(noun[-1]) - 0xAC00) % 28 else "를")


@st.composite
def korean(draw: st.DrawFn) -> Made:
    """컵을 접시에 놓아, with or without a side, in either order."""
    noun, place = draw(st.lists(st.sampled_from(NOUNS), min_size=2, max_size=2, unique=True))
    rel = draw(st.sampled_from(sorted(ENDINGS)))
    side = draw(st.sampled_from(["", *sorted(SIDES)]))
    goal_words = f"{place} {side}" if side else f"{place}에"
    parts = [object_of(noun), goal_words]
    target = Item(noun, Role.TARGET)
    goal = Item(place, Role.PLACE, SIDES[side] if side else rel, of=noun)
    expected_objects = (target, goal)
    if draw(st.booleans()):
        parts.reverse()
        expected_objects = (goal, target)
    return Made(f"{' '.join(parts)} {draw(st.sampled_from(ENDINGS[rel]))}", expected_objects)


@settings(max_examples=200, deadline=None)
@given(english() | korean())
def test_what_was_made_is_read_back(sentence_parts: Made) -> None:
    read = items(parse(sentence_parts.text))
    assert [str(item) for item in read] == [str(item) for item in sentence_parts.items], (
        sentence_parts.text
    )


# Loose words of both grammars, marks, and what is of neither.
WORDS = (
    *("the", "a", "put", "cup", "it", "and", "then", "with", "that", "is", "on", "to", "of"),
    *("not", "don't", "until", "if", "you", "one", "all", "except", "10", "cm", ",", ".", ":"),
    *("using", "by", "half", "second", "in front of", "could you", "left", "?", "컵을", "접시에"),
    *("위에", "있는", "놓고", "놔", "말고", "두", "번째", "때", "에서", "로", "의", "하고"),
    *("😀", "Ж", "杯", "\x07"),
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(WORDS), max_size=60).map(" ".join)
    | st.text(max_size=300)
    | st.text(alphabet="가을를에놓고서집어 컵의", max_size=120)
)
def test_no_text_breaks_the_reading(text: str) -> None:
    try:
        read = parse(text)
    except InstructionError:
        return
    count = len(read.mentions)
    for mention in read.mentions:
        assert mention.of is None or 0 <= mention.of < count
        assert 1 <= mention.step <= 60
        assert 0 <= mention.confidence <= 1
    assert bool(read.explanation) == (not read.phrases or read.confidence < 0.5)


@pytest.mark.parametrize("language", ["en", "ko"])
def test_no_sentence_without_its_first_or_last_word_breaks_the_reading(language: str) -> None:
    lines = (Path(__file__).parent / f"sentences_{language}.txt").read_text().splitlines()
    for line in lines:
        words = line.split(" | ")[0].split()
        if line.startswith("#") or len(words) < 2:
            continue
        for part in (words[1:], words[:-1], ["?", *words[1:]]):
            parse(" ".join(part))


def test_a_way_past_nothing_is_none() -> None:
    assert parse("위를 지나 컵을 옮겨").phrases == ("컵",)


@pytest.mark.parametrize(
    "text",
    [
        "pick up the cup and " * 50,
        "the cup left of the " * 50,
        "to the left of " * 65,
        "of " * 340,
        "between the a and " * 55,
        "by " * 340,
        "컵을집어서접시에넣어" * 30,
        "놓아놓아놔둬집어" * 40,
        "가나다라마바사아자차카타파하" * 24,
        "\U0001f600" * 250,
    ],
)
def test_the_longest_text_takes_no_more_than_many_short_ones(text: str) -> None:
    """Time grows with the length, not faster: 1 KiB takes what 200 short sentences take."""

    def seconds(read: str, times: int) -> float:
        began = time.process_time()
        for _ in range(times):
            parse(read)
        return time.process_time() - began

    seconds("pick up the cup", 5)
    short = seconds("pick up the cup and put it on the plate", 200)
    assert min(seconds(text[:1000] if text.isascii() else text[:250], 1) for _ in range(3)) < short
