"""Requests that a page may send."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from siglip_perception.view.requests import (
    Instruct,
    Pin,
    RequestError,
    Seek,
    Show,
    Step,
    parse_request,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda values: (
        st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=8), values, max_size=3)
    ),
    max_leaves=6,
)
KINDS = ("instruct", "threshold", "play", "step", "seek", "choose", "pin", "show", "shown")
KEYS = ("text", "value", "on", "by", "index", "camera", "x", "y", "panels", "frame")


@pytest.mark.parametrize(
    ("text", "request_"),
    [
        ('{"type": "instruct", "text": "빨간 컵"}', Instruct("빨간 컵")),
        (
            '{"type": "instruct", "text": "<script>alert(1)</script>"}',
            Instruct("<script>alert(1)</script>"),
        ),
        ('{"type": "pin", "x": 0, "y": 0.5}', Pin(0.0, 0.5)),
        ('{"type": "step", "by": -1}', Step(-1)),
        ('{"type": "seek", "index": 12}', Seek(12)),
        ('{"type": "show", "panels": ["heat"]}', Show(frozenset({"heat"}))),
        ('{"type": "instruct", "text": "\\ud800"}', Instruct("?")),
    ],
)
def test_a_request_is_read(text: str, request_: object) -> None:
    assert parse_request(text) == request_


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no JSON"),
        ("[" * 10_000, "no JSON"),
        ("7", 'no "type"'),
        ('{"type": "shutdown"}', "instruct, threshold"),
        ('{"type": ["pin"]}', 'no "type"'),
        ('{"type": "pin", "x": 0.5}', "has no 'y'"),
        ('{"type": "pin", "x": 2, "y": 0}', "x of pin is no number from 0 to 1"),
        ('{"type": "pin", "x": NaN, "y": 0}', "x of pin"),
        ('{"type": "play", "on": 1}', "neither true nor false"),
        ('{"type": "seek", "index": 1.5}', "no whole number"),
        ('{"type": "seek", "index": true}', "no whole number"),
        ('{"type": "show", "panels": ["everything"]}', "panels of show"),
        ('{"type": "instruct", "text": null}', "text of instruct is no text"),
    ],
)
def test_anything_else_is_refused_in_a_sentence(text: str, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        parse_request(text)


@settings(max_examples=30)
@given(st.text() | JSON.map(lambda value: json.dumps(value)))
def test_no_text_breaks_the_reader(text: str) -> None:
    _read(text)


@settings(max_examples=30)
@given(st.sampled_from(KINDS), st.dictionaries(st.sampled_from(KEYS), JSON))
@example("show", {"panels": [["heat"]]})
def test_no_value_breaks_the_reader(kind: str, values: dict[str, object]) -> None:
    _read(json.dumps({**values, "type": kind}))


def _read(text: str) -> None:
    with suppress(RequestError):
        parse_request(text)
