"""Rate limit of a camera's grounding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from siglip_perception.stream.rate_limit import RateLimiter


@pytest.mark.parametrize(("frames", "rate", "wanted"), [(30, 10, 10), (30, 7, 7), (29.97, 5, 5)])
def test_the_rate_is_kept_for_a_minute(frames: float, rate: float, wanted: float) -> None:
    pace, rng = RateLimiter(), np.random.default_rng(0)
    times = np.arange(0, 60, 1 / frames)
    stamps = (times + rng.normal(0, 1e-3, len(times))) * 1e9
    due = sum(pace.due(int(stamp), rate) for stamp in stamps)
    assert due == pytest.approx(60 * wanted, abs=2)


def test_a_jump_back_begins_anew() -> None:
    pace = RateLimiter()
    assert pace.due(10_000_000_000, 1.0)
    assert not pace.due(10_500_000_000, 1.0)
    assert pace.due(3_000_000_000, 1.0)
    assert not pace.due(3_500_000_000, 1.0)
    assert pace.due(4_000_000_000, 1.0)


def test_after_a_pause_nothing_is_caught_up() -> None:
    pace = RateLimiter()
    assert pace.due(0, 1.0)
    assert pace.due(60_000_000_000, 1.0)
    assert not pace.due(60_100_000_000, 1.0)


@given(st.lists(st.integers(0, 10**12), max_size=50))
def test_without_a_rate_every_frame_is_due(stamps: list[int]) -> None:
    pace = RateLimiter()
    assert all(pace.due(stamp, 0.0) for stamp in stamps)
