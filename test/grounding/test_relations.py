"""Selection among several objects on drawn layouts: relations, missing landmarks, roles."""

from __future__ import annotations

import math

import pytest

from siglip_perception.grounding.relations import Meaning, assign, with_roles
from siglip_perception.language.instruction import parse
from siglip_perception.types import Box, GroundedObject, Role

WIDTH, HEIGHT = 640, 480


def make_object(
    phrase: str, x: int, y: int, size: int = 60, z: float = math.nan
) -> GroundedObject:
    """An object whose box has its center at (x, y)."""
    box = Box(x - size // 2, y - size // 2, size, size)
    return GroundedObject(phrase, 0.9, 2.2, box, 0.01, position=(0.0, 0.0, z))


def select(sentence: str, *objects: GroundedObject) -> list[tuple[int, str]]:
    """(center's x, role) of what the sentence means."""
    instruction = parse(sentence)
    meanings = assign(objects, instruction.phrases, instruction.mentions, WIDTH, HEIGHT)
    return [
        (actual.box.x + actual.box.width // 2, actual.role.name[0])
        for actual in with_roles(objects, meanings)
    ]


CUPS = (
    make_object("red cup", 100, 300),
    make_object("red cup", 500, 200),
    make_object("red cup", 320, 400),
)
BOWL = make_object("bowl", 330, 250)


@pytest.mark.parametrize(
    ("sentence", "x"),
    [
        ("pick up the left red cup", 100),
        ("pick up the rightmost red cup", 500),
        ("pick up the second red cup from the left", 320),
        ("pick up the red cup in the middle", 320),
        ("pick up the nearest red cup", 320),
        ("pick up the farthest red cup", 500),
        ("pick up the red cup left of the bowl", 100),
        ("pick up the red cup to the right of the bowl", 500),
        ("pick up the red cup in front of the bowl", 320),
        ("pick up the red cup behind the bowl", 500),
        ("pick up the red cup below the bowl", 320),
        ("pick up the red cup closest to the bowl", 320),
        ("pick up the red cup next to the bowl", 320),
    ],
)
def test_one_of_three(sentence: str, x: int) -> None:
    actual = dict(select(sentence, *CUPS, BOWL))
    actual.pop(330, None)
    assert actual == {x: "T"}


def test_without_a_relation_all_are_meant() -> None:
    assert select("pick up the red cup", *CUPS) == [(100, "T"), (500, "T"), (320, "T")]


def test_the_other_language() -> None:
    cups = [make_object("빨간 컵", 100, 300), make_object("빨간 컵", 500, 200)]
    assert select("왼쪽 빨간 컵을 집어", *cups) == [(100, "T")]
    bowl = make_object("그릇", 300, 300)
    assert select("그릇 오른쪽에 있는 빨간 컵을 집어", *cups, bowl) == [(500, "T"), (300, "U")]


def test_the_only_one_is_never_taken_away() -> None:
    assert select("pick up the red cup left of the bowl", CUPS[1], BOWL) == [
        (500, "T"),
        (330, "U"),
    ]


def test_a_landmark_that_is_not_in_view_tells_nothing() -> None:
    assert len(select("pick up the red cup left of the bowl", *CUPS)) == 3


def test_where_none_keeps_the_relation_all_stay() -> None:
    second = [make_object("red cup", 500, 200), make_object("red cup", 600, 200)]
    assert len(select("pick up the red cup left of the bowl", *second, BOWL)) == 3


def test_each_that_keeps_it_where_more_are_meant() -> None:
    cups = [make_object("red cups", x, 260) for x in (100, 200, 500)]
    actual = select("pick up the red cups left of the bowl", *cups, BOWL)
    assert actual == [(100, "T"), (200, "T"), (330, "U")]


def test_on_between_and_inside() -> None:
    cups = (
        make_object("cup", 100, 200),
        make_object("cup", 300, 210),
        make_object("cup", 520, 230),
    )
    plates = (make_object("plate", 100, 260, 120), make_object("bowl", 500, 230, 140))
    assert select("take the cup on the plate", *cups, *plates)[0] == (100, "T")
    assert select("take the cup out of the bowl", *cups, *plates)[0] == (520, "T")
    between = select("take the cup between the plate and the bowl", *cups, *plates)
    assert between[0] == (300, "T")


def test_one_phrase_can_be_target_and_place() -> None:
    blocks = [make_object("red block", 100, 300), make_object("red block", 500, 300)]
    actual = select("stack the left red block on the right red block", *blocks)
    assert actual == [(100, "T"), (500, "P")]


def test_what_a_sentence_spares_is_no_target() -> None:
    blocks = [make_object("block", 100, 300), make_object("block", 500, 300)]
    assert select("take the left block, not the right block", *blocks) == [(100, "T"), (500, "U")]


def test_a_landmark_can_be_told_apart_itself() -> None:
    cups = [make_object("cup", 100, 300), make_object("cup", 400, 300)]
    bowls = [make_object("bowl", 180, 300), make_object("bowl", 480, 300)]
    actual = select("pick up the cup next to the right bowl", *cups, *bowls)
    assert actual == [(400, "T"), (480, "U")]


def test_with_depth_near_is_near() -> None:
    far, near = make_object("cup", 100, 400, z=1.5), make_object("cup", 500, 200, z=0.5)
    assert select("pick up the nearest cup", far, near) == [(500, "T")]
    bowl = make_object("bowl", 300, 300, z=1.0)
    assert select("pick up the cup behind the bowl", far, near, bowl)[0] == (100, "T")


def test_largest_and_smallest() -> None:
    cups = [make_object("cup", 100, 300, 40), make_object("cup", 300, 300, 90)]
    assert select("pick up the biggest cup", *cups) == [(300, "T")]
    unknown = Meaning(Role.UNKNOWN)
    assert assign(cups, ("cup",), (), WIDTH, HEIGHT) == {0: unknown, 1: unknown}


def test_an_object_tells_which_mentions_mean_it() -> None:
    """The drawer is opened first, and is where the bowl goes then: two mentions of one object."""
    drawers = [make_object("drawer", 100, 300), make_object("drawer", 400, 300)]
    instruction = parse("open the left drawer and put the bowl in it")
    objects = [*drawers, make_object("bowl", 500, 300)]
    meanings = assign(objects, instruction.phrases, instruction.mentions, WIDTH, HEIGHT)
    actual = with_roles(objects, meanings)
    assert [(item.phrase, item.role, item.mentions) for item in actual] == [
        ("drawer", Role.TARGET, (0, 2)),
        ("bowl", Role.TARGET, (1,)),
    ]
    steps = [[instruction.mentions[number].step for number in item.mentions] for item in actual]
    assert steps == [[1, 2], [2]]
