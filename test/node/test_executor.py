"""Threads of the executor's callbacks, and their exceptions."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import rclpy
from peer import TIMEOUT
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.context import Context
from rclpy.node import Node
from rclpy.qos import QoSProfile
from std_msgs.msg import String
from watching import isolated

from siglip_perception.node.executor import NodeExecutor
from siglip_perception.node.paced_group import PacedGroup


@pytest.fixture
def node(tmp_path: Any) -> Iterator[Node]:
    environment = isolated(tmp_path)
    context = Context()
    rclpy.init(context=context, domain_id=int(environment["ROS_DOMAIN_ID"]))
    node = Node("spun", context=context)
    yield node
    node.destroy_node()
    context.try_shutdown()


def spun(node: Node) -> NodeExecutor:
    executor = NodeExecutor(context=node.context)
    executor.add_node(node)
    return executor


def test_the_default_group_goes_on_while_another_groups_callback_takes_long(node: Node) -> None:
    executor = spun(node)
    slow, end = threading.Event(), threading.Event()
    threads: dict[str, int] = {}
    beats: list[bool] = []

    def take_long() -> None:
        threads["slow"] = threading.get_ident()
        slow.set()
        end.wait(TIMEOUT)

    def beat() -> None:
        threads["quick"] = threading.get_ident()
        beats.append(slow.is_set() and not end.is_set())

    node.create_timer(0.0, take_long, callback_group=MutuallyExclusiveCallbackGroup())
    node.create_timer(0.001, beat)
    while sum(beats) < 10:
        executor.spin_once(timeout_sec=TIMEOUT)
    end.set()
    assert threads["quick"] == threading.get_ident() != threads["slow"]
    executor.shutdown()


def test_a_callback_that_waits_is_begun_once(node: Node) -> None:
    executor = spun(node)
    start_calls: list[int] = []
    limit_reached = threading.Event()

    def wait() -> None:
        start_calls.append(1)
        limit_reached.wait(TIMEOUT)

    node.create_timer(0.0, wait, callback_group=MutuallyExclusiveCallbackGroup())
    node.create_timer(0.001, lambda: None)
    before = threading.active_count()
    for _ in range(50):
        executor.spin_once(timeout_sec=TIMEOUT)
    assert len(start_calls) == 1
    assert threading.active_count() <= before + 1
    limit_reached.set()
    executor.shutdown()


@pytest.mark.parametrize("slow", [False, True])
def test_what_a_callback_raises_ends_the_spin(node: Node, slow: bool) -> None:
    executor = spun(node)

    def fail() -> None:
        once.cancel()
        raise ZeroDivisionError("on purpose")

    group = MutuallyExclusiveCallbackGroup() if slow else None
    once = node.create_timer(0.01, fail, callback_group=group)
    with pytest.raises(ZeroDivisionError, match="on purpose"):
        executor.spin()
    executor.shutdown()


def test_a_shutdown_from_another_thread_waits_for_the_spin(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = spun(node)
    node.create_timer(0.0, lambda: None)
    returns: list[bool] = []
    ender = threading.Thread(target=lambda: returns.append(executor.shutdown(TIMEOUT)))
    able = executor.can_execute

    def while_it_lists_what_it_waits_for(entity: Any) -> bool:
        if not ender.ident:
            ender.start()
            ender.join(0.2)  # it cannot end before this thread has; rclpy's does
        return bool(able(entity))

    monkeypatch.setattr(executor, "can_execute", while_it_lists_what_it_waits_for)
    executor.spin()
    ender.join(TIMEOUT)
    assert returns == [True]


def test_a_shutdown_gives_up_on_a_callback_that_does_not_end(node: Node) -> None:
    executor = spun(node)
    start_calls, over = threading.Event(), threading.Event()

    def hang() -> None:
        start_calls.set()
        over.wait(TIMEOUT)

    node.create_timer(0.0, hang)
    spinner = threading.Thread(target=executor.spin)
    spinner.start()
    assert start_calls.wait(TIMEOUT)
    assert not executor.shutdown(0)
    over.set()
    spinner.join(TIMEOUT)
    assert executor.shutdown(TIMEOUT)


def test_a_paced_group_leaves_what_floods_it_in_the_middleware(node: Node) -> None:
    executor = spun(node)
    texts: list[str] = []
    group = PacedGroup(3600.0)
    subscription = node.create_subscription(
        String,
        "flood",
        lambda message: texts.append(message.data),
        QoSProfile(depth=1),
        callback_group=group,
    )
    publisher = node.create_publisher(String, "flood", QoSProfile(depth=100))
    deadline = time.monotonic() + TIMEOUT
    while not publisher.get_subscription_count() and time.monotonic() < deadline:
        executor.spin_once(timeout_sec=0.01)
    publisher.publish(String(data="first"))
    while not texts and time.monotonic() < deadline:
        executor.spin_once(timeout_sec=0.01)
    assert texts == ["first"]
    for number in range(50):
        publisher.publish(String(data=f"text {number}"))
    assert publisher.wait_for_all_acked()
    for _ in range(20):
        executor.spin_once(timeout_sec=0.0)
    assert texts == ["first"]
    group.allow()
    while len(texts) < 2 and time.monotonic() < deadline:
        executor.spin_once(timeout_sec=0.01)
    assert texts == ["first", "text 49"]
    assert subscription.callback_group is group
    executor.shutdown()


def test_a_paced_group_lets_its_entity_run_once_a_period_and_when_allowed() -> None:
    now = [10.0]
    group = PacedGroup(0.5, lambda: now[0])
    assert group.beginning_execution(None)
    assert not group.can_execute(None)
    assert not group.beginning_execution(None)
    now[0] = 10.5
    assert group.can_execute(None)
    assert group.beginning_execution(None)
    group.allow()
    assert group.beginning_execution(None)
    assert not group.can_execute(None)
