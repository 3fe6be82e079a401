"""Sentences -> phrases, on sentences written by hand; what is refused and what is stripped."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siglip_perception.errors import InstructionError
from siglip_perception.language.instruction import (
    MAX_PHRASE_CHARS,
    MAX_PHRASES,
    Instruction,
    from_phrases,
    parse,
    sanitize,
)
from siglip_perception.types import Link, Mention, Role, Where

_SPATIAL = [
    *("the", "left", "right", "of", "to", "cup", "bowl", "on", "between", "and", "put", "pick"),
    *(
        "second",
        "from",
        "it",
        "one",
        "closest",
        "not",
        "but",
        ",",
        "왼쪽",
        "왼쪽에",
        "있는",
        "컵을",
    ),
    *(
        "그릇",
        "그릇에",
        "사이에",
        "놓아",
        "두",
        "번째",
        "가까운",
        "말고",
        "마",
        "위",
        "의",
        "컵과",
    ),
]
ROLES = {"T": Role.TARGET, "P": Role.PLACE, "U": Role.UNKNOWN}


def read_sentences(language: str) -> list[tuple[str, list[tuple[str, Role]]]]:
    """Sentences and what they name, out of instructions_<language>.txt."""
    cases = []
    text = (Path(__file__).parent / f"instructions_{language}.txt").read_text(encoding="utf-8")
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        sentence, *objects = (part.strip() for part in line.split("|"))
        entries = [entry.split(" ", 1) for entry in objects if entry]
        cases.append((sentence, [(phrase, ROLES[role]) for role, phrase in entries]))
    return cases


@pytest.mark.parametrize("language", ["en", "ko"])
def test_sentences(language: str) -> None:
    cases = read_sentences(language)
    assert len({sentence for sentence, _ in cases}) >= 150
    wrong_phrases, wrong_roles = [], []
    for sentence, expected in cases:
        instruction = parse(sentence)
        if set(instruction.phrases) != {phrase for phrase, _ in expected}:
            wrong_phrases.append(f"{sentence}: {instruction.phrases}")
        elif list(zip(instruction.phrases, instruction.roles, strict=True)) != expected:
            wrong_roles.append(
                f"{sentence}: {[*zip(instruction.phrases, instruction.roles, strict=True)]}"
            )
    assert len(wrong_phrases) <= 0.01 * len(cases), "\n".join(wrong_phrases)
    assert len(wrong_phrases) + len(wrong_roles) <= 0.03 * len(cases), "\n".join(
        wrong_phrases + wrong_roles
    )


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("pick up the red cup and put it on the plate", [("red cup", "T"), ("plate", "P")]),
        ("빨간 컵을 집어서 접시 위에 놓아라", [("빨간 컵", "T"), ("접시", "P")]),
        ("put the red cup left of the bowl", [("red cup", "T"), ("bowl", "P")]),
        ("red cup. plate.", [("red cup", "U"), ("plate", "U")]),
        # What must not be touched is no target, whatever else is misread.
        ("don't open the drawer and touch the knife", [("drawer", "U"), ("knife", "U")]),
        ("don't touch the red cup", [("red cup", "U")]),
        ("서랍을 열지 말고 칼도 만지지 마", [("서랍", "U"), ("칼", "U")]),
        ("그릇을 들거나 접시를 옮기지 마세요", [("그릇", "U"), ("접시", "U")]),
    ],
)
def test_these_sentences_are_read_right(sentence: str, expected: list[tuple[str, str]]) -> None:
    instruction = parse(sentence)
    assert list(zip(instruction.phrases, instruction.roles, strict=True)) == [
        (phrase, ROLES[role]) for phrase, role in expected
    ]


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("pick up the left red cup", [("red cup", Where.LEFT, (), 1)]),
        ("the red cup left of the bowl", [("red cup", Where.LEFT, ("bowl",), 1)]),
        ("pick up the red cup to the right of the bowl", [("red cup", Where.RIGHT, ("bowl",), 1)]),
        ("grab the second cup from the left", [("cup", Where.LEFT, (), 2)]),
        ("find the block on the right", [("block", Where.RIGHT, (), 1)]),
        ("get the nearest bottle", [("bottle", Where.NEAR, (), 1)]),
        ("the cup between the plate and the bowl", [("cup", Where.BETWEEN, ("plate", "bowl"), 1)]),
        ("put the cup that is on the book into the box", [("cup", Where.ON, ("book",), 1)]),
        ("give me the biggest cup", [("cup", Where.LARGEST, (), 1)]),
        (
            "stack the left block on the right block",
            [("block", Where.LEFT, (), 1), ("block", Where.RIGHT, (), 1)],
        ),
        # Where something goes tells nothing apart.
        ("put the red cup left of the bowl", []),
        ("put the red cup on the left", []),
        ("move the cup to the left", []),
        ("컵을 그릇 왼쪽에 놓아", []),
        ("컵을 왼쪽으로 옮겨", []),
        ("왼쪽 빨간 컵을 집어", [("빨간 컵", Where.LEFT, (), 1)]),
        ("맨 오른쪽에 있는 컵을 집어", [("컵", Where.RIGHT, (), 1)]),
        ("그릇 왼쪽에 있는 빨간 컵을 집어", [("빨간 컵", Where.LEFT, ("그릇",), 1)]),
        ("왼쪽에서 두 번째 컵을 줘", [("컵", Where.LEFT, (), 2)]),
        ("가장 가까운 병을 가져와", [("병", Where.NEAR, (), 1)]),
        ("접시에 가장 가까운 컵을 집어", [("컵", Where.NEAR, ("접시",), 1)]),
        ("접시와 책 사이에 있는 컵을 집어", [("컵", Where.BETWEEN, ("접시", "책"), 1)]),
        ("책상 위의 노란 책을 집어", [("노란 책", Where.ON, ("책상",), 1)]),
    ],
)
def test_spatial_words_tell_one_of_several(
    sentence: str, expected: list[tuple[str, Where, tuple[str, ...], int]]
) -> None:
    instruction = parse(sentence)

    def name(mention: int) -> str:
        return instruction.phrases[instruction.mentions[mention].phrase]

    text = [
        (name(i), relation.where, tuple(name(n) for n in relation.landmarks), relation.rank)
        for i, mention in enumerate(instruction.mentions)
        for relation in mention.relations
    ]
    assert text == expected


def test_more_than_one_can_be_meant() -> None:
    assert parse("the red cups left of the bowl").mentions[0].many
    assert parse("그릇 왼쪽에 있는 컵들을 집어").mentions[1].many
    assert not parse("the glass left of the bowl").mentions[0].many


@pytest.mark.parametrize(
    "sentence", ["赤いカップを取って", "prends la tasse rouge", "nimm die rote Tasse"]
)
def test_another_language_is_one_phrase(sentence: str) -> None:
    assert parse(sentence).phrases == (sentence,)


def test_a_list_in_another_language() -> None:
    assert parse("tasse rouge. plat à fruits.").phrases == ("tasse rouge", "plat à fruits")


@pytest.mark.parametrize("text", ["", "   ", "\n\t", "...", "?!"])
def test_nothing_names_nothing(text: str) -> None:
    assert parse(text).phrases == ()


def test_phrases_are_named_once_and_a_known_role_wins() -> None:
    instruction = parse("red cup. put the Red Cup on the plate.")
    assert instruction == Instruction(
        "red cup. put the Red Cup on the plate.",
        ("red cup", "plate"),
        (Role.TARGET, Role.PLACE),
        mentions=(
            Mention(0),
            Mention(0, Role.TARGET),
            Mention(1, Role.PLACE, link=Link.ON, of=1),
        ),
        verbs=("put",),
    )


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("red\x00 cup\x07", "red cup"),
        ("red \u202ecup\u202c", "red cup"),
        ("\u2066red cup\u2069", "red cup"),
        ("red\u200b cup", "red cup"),
        ("<s>red cup</s>", "red cup"),
        ("<|endoftext|>red cup<start_of_turn>", "red cup"),
        ("<<s>s>red cup", "red cup"),
        ("[CLS] red cup [SEP]", "red cup"),
        ("[INST]red cup[/INST]", "red cup"),
        ("\uff1cs\uff1ered cup", "red cup"),
        ("red \ud800cup", "red cup"),
    ],
)
def test_what_is_not_language_is_stripped(text: str, clean: str) -> None:
    assert sanitize(text).text == clean
    assert sanitize(text).changed
    assert parse(text).changed


def test_normalizing_and_white_space_are_no_change_worth_a_warning() -> None:
    decomposed = "\u1108\u1161\u11af\u1100\u1161\u11ab  \n컵"  # 빨간, as some systems type it
    assert sanitize(decomposed).text == "빨간 컵"
    assert not sanitize(decomposed).changed


@pytest.mark.parametrize("text", ["a" * 1025, "가" * 342, "\ufdfa" * 100])
def test_over_one_kibibyte_is_refused(text: str) -> None:
    with pytest.raises(InstructionError, match="1024 bytes"):
        sanitize(text)


def test_one_kibibyte_is_taken() -> None:
    assert sanitize("a" * 1024).text == "a" * 1024


def test_a_megabyte_is_refused_at_once() -> None:
    text = "cup " * 250_000
    began = time.process_time()
    with pytest.raises(InstructionError):
        parse(text)
    assert time.process_time() - began < 0.1  # to read it takes seconds


@pytest.mark.parametrize(
    "text", ["놓아놓아놔둬집어" * 40 + "x", "놔" * 341, "the cup left of " * 64]
)
def test_no_sentence_takes_long(text: str) -> None:
    began = time.process_time()
    parse(text)
    assert time.process_time() - began < 1.0  # one read by trying all ways would take years


def test_too_many_and_too_long_phrases_are_cut_and_it_shows() -> None:
    instruction = parse(", ".join(f"cup {i}" for i in range(MAX_PHRASES + 5)))
    assert len(instruction.phrases) == MAX_PHRASES
    assert instruction.changed
    long = parse("pick up the " + "big " * 60 + "cup")
    assert len(long.phrases[0]) <= MAX_PHRASE_CHARS
    assert long.changed


def test_phrases_of_a_service_call_are_taken_as_they_are() -> None:
    instruction = from_phrases(["the red cup left of it", "", " 접시 ", "접시", "<s>"])
    assert instruction.phrases == ("the red cup left of it", "접시")
    assert instruction.roles == (Role.UNKNOWN, Role.UNKNOWN)
    assert instruction.text == "the red cup left of it. 접시"
    assert instruction.changed


def test_too_many_phrases_of_a_service_call_are_refused() -> None:
    with pytest.raises(InstructionError, match="at most 32"):
        from_phrases([f"cup {i}" for i in range(MAX_PHRASES + 1)])


@settings(max_examples=300, deadline=None)
@given(
    st.text(max_size=400)
    | st.text(alphabet="가위을를이 에서 컵놓아라<>[]/sCLS.,", max_size=80)
    | st.lists(st.sampled_from(_SPATIAL), max_size=14).map(" ".join)
)
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        instruction = parse(text)
    except InstructionError:
        return
    assert len(instruction.phrases) == len(instruction.roles) <= MAX_PHRASES
    assert len(set(instruction.phrases)) == len(instruction.phrases)
    assert all(mention.phrase < len(instruction.phrases) for mention in instruction.mentions)
    relations = [relation for mention in instruction.mentions for relation in mention.relations]
    assert all(i < len(instruction.mentions) for relation in relations for i in relation.landmarks)
    assert all(0 < len(phrase) <= MAX_PHRASE_CHARS for phrase in instruction.phrases)
    assert sanitize(instruction.text) == type(sanitize("x"))(instruction.text, False)
