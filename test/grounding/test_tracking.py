"""Ids that stay, scores that do not flicker; what is lost is gone in time. Hand-made frames."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siglip_perception.grounding.tracking import Tracker, TrackingOptions
from siglip_perception.types import Box, GroundedObject, Grounding

SECOND = 1_000_000_000
FRAME = SECOND // 20
SIZE = (640, 480)
OPTIONS = TrackingOptions(max_lost=0.3, smoothing=0.2)


def make_object(
    x: float, y: float = 240, phrase: str = "cup", logit: float = 3.0
) -> GroundedObject:
    box = Box(round(x) - 30, round(y) - 30, 60, 60)
    return GroundedObject(phrase, 1 / (1 + math.exp(-logit)), logit, box, 0.01)


def make_grounding(*objects: GroundedObject, number: int = 1, **options: Any) -> Grounding:
    return Grounding("find it", number, ("cup", "plate"), (0.9, 0.9), objects, "test", **options)


class Run:
    """A tracker and the time."""

    def __init__(self) -> None:
        self.tracker = Tracker()
        self.now = 100 * SECOND

    def frame(self, *objects: GroundedObject, step: int = FRAME, **options: Any) -> Grounding:
        self.now += step
        return self.tracker.update(make_grounding(*objects, **options), self.now, SIZE, OPTIONS)


def test_an_id_stays_while_a_thing_moves() -> None:
    run = Run()
    ids = [
        run.frame(make_object(100 + 12 * i), make_object(500 - 9 * i)).objects for i in range(30)
    ]
    first, second = ids[0][0].id, ids[0][1].id
    assert first != second
    for i, objects in enumerate(ids):
        by_place = sorted(objects, key=lambda item: item.box.x)
        expected = [first, second] if 100 + 12 * i < 500 - 9 * i else [second, first]
        assert [item.id for item in by_place] == expected


def test_the_speed_carries_it_over_a_gap() -> None:
    run = Run()
    for i in range(10):
        number = run.frame(make_object(100 + 20 * i)).objects[0].id
    for i in range(3):
        (track,) = run.frame().objects
        assert track.id == number
        assert track.lost == pytest.approx(0.05 * (i + 1))
        assert abs(track.box.x + 30 - (280 + 20 * (i + 1))) < 15
        assert math.isnan(track.position[0])
    (item,) = run.frame(make_object(100 + 20 * 13)).objects
    assert (item.id, item.lost) == (number, 0.0)


def test_what_is_gone_is_gone_after_max_lost() -> None:
    run = Run()
    run.frame(make_object(300))
    counts = [len(run.frame().objects) for _ in range(10)]
    assert counts == [1] * 6 + [0] * 4  # 0.3 s at 20 frames a second
    assert run.frame(make_object(300)).objects[0].id == 2


def test_a_slow_camera_keeps_its_ids_and_hides_nothing() -> None:
    run = Run()
    assert run.frame(make_object(300)).objects[0].id == 1
    assert run.frame(make_object(305), step=SECOND).objects[0].id == 1
    assert run.frame(step=SECOND).objects == ()


def test_scores_are_averaged_over_time() -> None:
    run = Run()
    run.frame(make_object(300, logit=4.0))
    (item,) = run.frame(make_object(300, logit=0.0), step=SECOND // 5).objects
    assert item.logit == pytest.approx(4.0 * math.exp(-1))  # one time constant later
    assert item.score == pytest.approx(1 / (1 + math.exp(-item.logit)))


def test_phrases_are_followed_apart() -> None:
    run = Run()
    cup, plate = run.frame(make_object(300), make_object(300, phrase="plate")).objects
    assert cup.id != plate.id
    assert [item.id for item in run.frame(make_object(300, phrase="plate")).objects] == [1, 2]
    # The cup is lost and comes first, as its phrase does.
    assert [item.lost > 0 for item in run.frame(make_object(300, phrase="plate")).objects] == [
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("step", "number"),
    [(FRAME, 2), (-FRAME, 1), (-SECOND, 1), (3 * SECOND, 1)],
    ids=["instruction", "back", "far back", "gap"],
)
def test_it_begins_anew(step: int, number: int) -> None:
    run = Run()
    assert run.frame(make_object(300)).objects[0].id == 1
    (item,) = run.frame(make_object(300, logit=0.0), step=step, number=number).objects
    assert (item.id, item.logit) == (2, 0.0)


def test_the_mask_keeps_up_with_the_order() -> None:
    run = Run()
    run.frame(make_object(100, logit=2.0), make_object(400, logit=1.0))
    mask = np.zeros((480, 640), dtype=np.uint8)
    mask[:, :200], mask[:, 300:] = 2, 1
    # The right one overtakes the left one only slowly: smoothed, it still comes second.
    result = run.frame(make_object(400, logit=2.5), make_object(100, logit=2.0), mask=mask)
    assert [item.box.x for item in result.objects] == [70, 370]
    assert result.mask is not None
    assert (result.mask[240, 100], result.mask[240, 250], result.mask[240, 400]) == (1, 0, 2)


def test_what_is_lost_takes_no_place_of_what_is_seen() -> None:
    tracker = Tracker()
    tracker.update(make_grounding(make_object(100), make_object(300)), SECOND, SIZE, OPTIONS)
    result = tracker.update(
        make_grounding(make_object(100)), SECOND + FRAME, SIZE, OPTIONS, max_objects=1
    )
    assert [item.lost for item in result.objects] == [0.0]


def test_what_leaves_the_picture_is_not_kept() -> None:
    run = Run()
    for i in range(8):
        run.frame(make_object(560 + 8 * i))
    run.frame()
    assert run.frame(step=4 * FRAME).objects == ()


def test_a_second_frame_of_the_same_moment_loses_nothing_and_shows_only_what_it_has() -> None:
    run = Run()
    run.frame(make_object(300))
    assert run.frame(step=0).objects == ()
    assert [item.id for item in run.frame(make_object(300)).objects] == [1]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(-FRAME, 3 * SECOND),
            st.lists(st.tuples(st.integers(30, 610), st.integers(30, 450)), max_size=5),
        ),
        max_size=12,
    )
)
def test_any_history(history: list[tuple[int, list[tuple[int, int]]]]) -> None:
    run, again = Run(), Run()
    for step, places in history:
        objects = [make_object(x, y) for x, y in places]
        result = run.frame(*objects, step=step)
        assert result == again.frame(*objects, step=step)
        now = [item for item in result.objects if not item.lost]
        assert len(now) == len(objects)
        assert len({item.id for item in result.objects}) == len(result.objects)
        assert all(0 < item.lost <= OPTIONS.max_lost for item in result.objects if item.lost)
        for item in result.objects:
            assert 0 <= item.box.x < item.box.x + item.box.width <= SIZE[0]
            assert 0 <= item.box.y < item.box.y + item.box.height <= SIZE[1]
