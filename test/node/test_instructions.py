"""The instruction's slot: the newest is kept, ten a second at most, doubles are left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from doubles import ManualClock

from siglip_perception.node.instruction_topic import InstructionTopic
from siglip_perception.node.qos import QosWatch

Made = tuple[InstructionTopic, list[str], ManualClock]


class FakeNode:
    """Follows rclpy.node.Node, as far as subscriptions go; a test offers what comes itself."""

    def resolve_topic_name(self, name: str) -> str:
        return f"/{name}"

    def create_subscription(self, *arguments: Any, **options: Any) -> object:
        return object()


@pytest.fixture
def topic_setup() -> Made:
    texts: list[str] = []
    clock, node = ManualClock(), FakeNode()
    topic = InstructionTopic(node, QosWatch(node), texts.append, lambda: None, clock)
    topic.open()
    return topic, texts, clock


def serve(slot: InstructionTopic) -> None:
    while slot.delay() == 0.0:
        slot.run()


def test_of_a_flood_the_newest_is_kept_ten_times_a_second(topic_setup: Made) -> None:
    slot, texts, clock = topic_setup
    for number in range(1000):
        slot.offer(f"text {number}")
        serve(slot)
        clock.now += 0.001
    clock.now += 0.1
    serve(slot)
    assert 10 <= len(texts) <= 11
    assert texts[-1] == "text 999"
    assert slot.superseded == 1000 - len(texts)


def test_an_instruction_waits_for_its_turn(topic_setup: Made) -> None:
    slot, texts, clock = topic_setup
    assert slot.delay() is None
    slot.offer("one")
    assert slot.delay() == 0.0
    serve(slot)
    slot.offer("two")
    assert slot.delay() == pytest.approx(0.1)
    clock.now += 0.1
    serve(slot)
    assert texts == ["one", "two"]


def test_what_comes_while_closed_is_kept(topic_setup: Made) -> None:
    slot, texts, _ = topic_setup
    slot.close()
    slot.offer("one")
    slot.offer("two")
    assert slot.delay() is None
    slot.open()
    serve(slot)
    assert texts == ["two"]


@pytest.mark.parametrize(
    "deliver",
    [
        lambda slot: [slot.offer(text, at) for text, at in [("a", 1), ("a", 1), ("b", 2)]],
        lambda slot: [slot.offer(text, at) for text, at in [("a", 1), ("b", 2), ("a", 1)]],
        lambda slot: [slot.offer(text, at) for text, at in [("a", 1), ("b", 2)] * 2],
    ],
)
def test_a_latched_publisher_is_heard_twice_and_taken_once(
    topic_setup: Made, deliver: Callable[[InstructionTopic], object]
) -> None:
    slot, texts, _ = topic_setup
    deliver(slot)
    serve(slot)
    assert texts == ["b"]
    assert slot.superseded == 1


def test_the_same_text_sent_again_is_no_double(topic_setup: Made) -> None:
    slot, texts, clock = topic_setup
    slot.offer("a", 1)
    serve(slot)
    clock.now += 1
    slot.offer("a", 2)
    serve(slot)
    assert texts == ["a", "a"]


def test_a_stored_instruction_does_not_replace_a_newer_one(topic_setup: Made) -> None:
    slot, texts, clock = topic_setup
    for text, at, latched, expected in [
        ("blue", 2, False, "blue"),
        ("red", 1, True, "blue"),
        ("green", 3, True, "green"),
        ("white", 0, True, "white"),
    ]:
        slot.offer(text, at, latched)
        serve(slot)
        clock.now += 1
        assert texts[-1] == expected
    assert slot.superseded == 0


@pytest.mark.parametrize("first", [False, True])
def test_a_spoken_instruction_counts_even_where_its_machine_s_clock_lags(
    topic_setup: Made, first: bool
) -> None:
    slot, texts, clock = topic_setup
    slot.offer("blue", 2)
    serve(slot)
    clock.now += 1
    # From a latched publisher, so that both subscriptions hear it, either of them first.
    slot.offer("red", 1, latched=first)
    slot.offer("red", 1, latched=not first)
    serve(slot)
    assert texts == ["blue", "red"]
    assert slot.superseded == 0


def test_what_the_middleware_replaced_is_counted(topic_setup: Made) -> None:
    slot, texts, _ = topic_setup
    slot.offer("a", 1)
    slot.offer("b", 2, replaced=90)
    serve(slot)
    assert texts == ["b"]
    assert slot.superseded == 91
