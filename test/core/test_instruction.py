"""Sentences -> phrases, on sentences written by hand; what is refused and what is stripped."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siglip_perception.errors import InstructionError
from siglip_perception.instruction import (
    MAX_PHRASE_CHARS,
    MAX_PHRASES,
    Instruction,
    from_phrases,
    parse,
    sanitise,
)
from siglip_perception.types import Role

ROLES = {"T": Role.TARGET, "P": Role.PLACE, "U": Role.UNKNOWN}


def written(language: str) -> list[tuple[str, list[tuple[str, Role]]]]:
    """Sentences and what they name, out of instructions_<language>.txt."""
    cases = []
    text = (Path(__file__).parent / f"instructions_{language}.txt").read_text(encoding="utf-8")
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        sentence, *named = (part.strip() for part in line.split("|"))
        entries = [entry.split(" ", 1) for entry in named if entry]
        cases.append((sentence, [(phrase, ROLES[role]) for role, phrase in entries]))
    return cases


@pytest.mark.parametrize("language", ["en", "ko"])
def test_there_are_sixty_sentences_a_language(language: str) -> None:
    assert len({sentence for sentence, _ in written(language)}) >= 60


@pytest.mark.parametrize(
    ("sentence", "expected"), [*written("en"), *written("ko")], ids=lambda value: str(value)[:50]
)
def test_sentences(sentence: str, expected: list[tuple[str, Role]]) -> None:
    found = parse(sentence)
    assert list(zip(found.phrases, found.roles, strict=True)) == expected


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
    found = parse("red cup. put the Red Cup on the plate.")
    assert found == Instruction(
        "red cup. put the Red Cup on the plate.", ("red cup", "plate"), (Role.TARGET, Role.PLACE)
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
    assert sanitise(text).text == clean
    assert sanitise(text).changed
    assert parse(text).changed


def test_normalising_and_white_space_are_no_change_worth_a_warning() -> None:
    decomposed = "\u1108\u1161\u11af\u1100\u1161\u11ab  \n컵"  # 빨간, as some systems type it
    assert sanitise(decomposed).text == "빨간 컵"
    assert not sanitise(decomposed).changed


@pytest.mark.parametrize("text", ["a" * 1025, "가" * 342, "\ufdfa" * 100])
def test_over_one_kibibyte_is_refused(text: str) -> None:
    with pytest.raises(InstructionError, match="1024 bytes"):
        sanitise(text)


def test_one_kibibyte_is_taken() -> None:
    assert sanitise("a" * 1024).text == "a" * 1024


def test_a_megabyte_is_refused_at_once() -> None:
    text = "cup " * 250_000
    began = time.process_time()
    with pytest.raises(InstructionError):
        parse(text)
    assert time.process_time() - began < 0.005


def test_too_many_and_too_long_phrases_are_cut_and_it_shows() -> None:
    many = parse(", ".join(f"cup {i}" for i in range(MAX_PHRASES + 5)))
    assert len(many.phrases) == MAX_PHRASES
    assert many.changed
    long = parse("pick up the " + "big " * 60 + "cup")
    assert len(long.phrases[0]) <= MAX_PHRASE_CHARS
    assert long.changed


def test_phrases_of_a_service_call_are_taken_as_they_are() -> None:
    found = from_phrases(["the red cup left of it", "", " 접시 ", "접시", "<s>"])
    assert found.phrases == ("the red cup left of it", "접시")
    assert found.roles == (Role.UNKNOWN, Role.UNKNOWN)
    assert found.text == "the red cup left of it. 접시"
    assert found.changed


def test_too_many_phrases_of_a_service_call_are_refused() -> None:
    with pytest.raises(InstructionError, match="at most 32"):
        from_phrases([f"cup {i}" for i in range(MAX_PHRASES + 1)])


@settings(max_examples=300, deadline=None)
@given(
    st.text(max_size=400) | st.text(alphabet="가위을를이 에서 컵놓아라<>[]/sCLS.,", max_size=80)
)
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        found = parse(text)
    except InstructionError:
        return
    assert len(found.phrases) == len(found.roles) <= MAX_PHRASES
    assert len(set(found.phrases)) == len(found.phrases)
    assert all(0 < len(phrase) <= MAX_PHRASE_CHARS for phrase in found.phrases)
    assert sanitise(found.text) == type(sanitise("x"))(found.text, False)
