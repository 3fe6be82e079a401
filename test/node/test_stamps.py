"""Stamps: too old, in the future, out of order, a jump back; and those that say nothing."""

from __future__ import annotations

import pytest

from siglip_perception.stream.accounting import Level
from siglip_perception.stream.stamp_check import StampCheck, too_old

S = 1_000_000_000
MS = 1_000_000


def reason(check: StampCheck, stamp_ns: int, now_ns: int = 100 * S, max_age: float = 0.0) -> str:
    verdict = check.check(stamp_ns, now_ns, max_age)
    return verdict.reason if verdict else ""


@pytest.mark.parametrize(
    ("age_ms", "expected"), [(0, ""), (-49, ""), (-51, "future"), (199, ""), (201, "too_old")]
)
def test_age(age_ms: int, expected: str) -> None:
    assert reason(StampCheck(), 100 * S - age_ms * MS, max_age=0.2) == expected


def test_past_a_second_too_old_is_an_error() -> None:
    within, past = too_old(99 * S + 1, 100 * S, 0.2), too_old(98 * S, 100 * S, 0.2)
    assert within is not None
    assert past is not None
    assert (within.level, past.level) == (Level.WARN, Level.ERROR)
    assert "max_age 0.2 s" in past.text


def test_without_max_age_nothing_is_too_old() -> None:
    assert reason(StampCheck(), 1) == ""


@pytest.mark.parametrize(("stamp_ns", "now_ns"), [(0, 100 * S), (100 * S, 0)])
def test_without_stamp_or_clock_nothing_is_said_about_age(stamp_ns: int, now_ns: int) -> None:
    assert reason(StampCheck(), stamp_ns, now_ns, max_age=0.1) == ""


def test_a_frame_that_was_overtaken_is_out_of_order() -> None:
    check = StampCheck()
    assert reason(check, 90 * S) == ""
    assert reason(check, 90 * S) == ""
    assert reason(check, 90 * S - 100 * MS) == "out_of_order"
    assert not check.is_jump(90 * S - 100 * MS)
    assert reason(check, 91 * S) == ""


def test_a_jump_back_begins_anew() -> None:
    check = StampCheck()
    assert not check.is_jump(5 * S)
    assert reason(check, 90 * S) == ""
    assert check.is_jump(5 * S)
    check.forget()
    assert reason(check, 5 * S) == ""
    assert reason(check, 6 * S) == ""
    assert not check.is_jump(6 * S)


def test_a_stamp_from_the_future_does_not_make_the_next_ones_old() -> None:
    check = StampCheck()
    assert reason(check, 500 * S) == "future"
    assert not check.is_jump(99 * S)
    assert reason(check, 99 * S) == ""


def test_a_short_bag_that_loops_is_not_out_of_order() -> None:
    check = StampCheck()
    stamps = [90 * S + n * 100 * MS for n in range(4)]
    for _ in range(3):
        assert check.is_jump(stamps[0]) == (check._newest > 0)
        check.forget()
        assert [reason(check, stamp) for stamp in stamps] == [""] * 4
    assert not check.is_jump(stamps[3])
    assert reason(check, stamps[2] + 1) == "out_of_order"
