"""How often a camera's objects are looked for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from siglip_perception.stream.rate_limit import RateLimiter


@pytest.mark.parametrize(("frames", "rate", "wanted"), [(30, 10, 10), (30, 7, 7), (29.97, 5, 5)])
def test_the_rate_is_kept_for_a_minute(frames: float, rate: float, wanted: float) -> None:
    pace, rng = RateLimiter(lambda: rate), np.random.default_rng(0)
    times = np.arange(0, 60, 1 / frames)
    stamps = (times + rng.normal(0, 1e-3, len(times))) * 1e9
    due = sum(pace.due("", int(stamp)) for stamp in stamps)
    assert due == pytest.approx(60 * wanted, abs=2)


def test_each_camera_has_its_own_pace_and_a_jump_back_begins_anew() -> None:
    pace = RateLimiter(lambda: 1.0)
    assert pace.due("front", 10_000_000_000)
    assert pace.due("wrist", 10_100_000_000)
    assert not pace.due("front", 10_500_000_000)
    assert pace.due("front", 3_000_000_000)
    assert not pace.due("front", 3_500_000_000)
    assert pace.due("front", 4_000_000_000)


def test_after_a_pause_nothing_is_caught_up() -> None:
    pace = RateLimiter(lambda: 1.0)
    assert pace.due("", 0)
    assert pace.due("", 60_000_000_000)
    assert not pace.due("", 60_100_000_000)


@given(st.lists(st.integers(0, 10**12), max_size=50))
def test_without_a_rate_every_frame_is_due(stamps: list[int]) -> None:
    pace = RateLimiter(lambda: 0.0)
    assert all(pace.due("", stamp) for stamp in stamps)
