"""Quotes of another library's error."""

from __future__ import annotations

from siglip_perception.errors import first_line


def test_the_first_line_is_quoted_without_its_end() -> None:
    assert first_line(ValueError("\n bad value. \nmore")) == "bad value"
    assert first_line(KeyError()) == "KeyError"
    assert first_line("") == "no reason given"
    assert len(first_line("x" * 1000)) == 160
