"""Phrases of the null bank that mean the same as one that is asked for."""

from __future__ import annotations

import pytest

from siglip_perception.language.null_phrases import BANKS, bank_places, language_of


@pytest.mark.parametrize(
    ("phrase", "same"),
    [
        ("cup", ["cup"]),
        ("Red cup", ["red cup"]),
        ("the grey mugs", ["gray cup"]),
        ("knives", ["knife"]),
        ("dishes", ["plate"]),
        ("person", ["person"]),
        ("컵", ["컵"]),
        ("빨간색 머그컵", ["빨간 컵"]),
        ("장난감 자동차", ["자동차"]),
        ("orange", []),  # the fruit
        ("purple cup", []),  # a color that the bank has no cup of
        ("zebra", []),
    ],
)
def test_synonyms_have_the_place_of_the_banks_phrase(phrase: str, same: list[str]) -> None:
    bank = BANKS[language_of(phrase)]
    assert [bank[place] for place in bank_places(phrase)] == same


def test_every_phrase_of_the_bank_is_its_own_place() -> None:
    for bank in BANKS.values():
        for place, phrase in enumerate(bank):
            assert bank_places(phrase) == (place,)
