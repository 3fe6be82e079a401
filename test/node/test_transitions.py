"""The node in this process, its model a stand-in: transitions under fire and at length."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from doubles import FakePipeline, image_message
from lifecycle_msgs.msg import Transition
from peer import NODE, TIMEOUT, Peer, peer_of
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from std_msgs.msg import String
from watching import isolated

from siglip_perception.node.executor import NodeExecutor
from siglip_perception.node.node import PerceptionNode

CONFIGURE = Transition.TRANSITION_CONFIGURE
CYCLE = (
    CONFIGURE,
    Transition.TRANSITION_ACTIVATE,
    Transition.TRANSITION_DEACTIVATE,
    Transition.TRANSITION_CLEANUP,
)
Running = Callable[[Callable[[Any], Any]], Any]


@pytest.fixture
def running(tmp_path: Any) -> Running:
    """Runs a node that loads its model so, until the end of the block; gives a peer of it."""

    @contextmanager
    def run(load: Callable[[Any], Any]) -> Iterator[Peer]:
        environment = isolated(tmp_path)
        with peer_of(environment) as peer:
            context = Context()
            rclpy.init(context=context, domain_id=int(environment["ROS_DOMAIN_ID"]))
            ends: list[str] = []
            node = PerceptionNode(
                ends.append,
                load,
                context=context,
                parameter_overrides=[Parameter("autostart", value=False)],
            )
            executor = NodeExecutor(context=context)
            executor.add_node(node)
            spinner = threading.Thread(target=executor.spin)
            spinner.start()
            try:
                yield peer
                assert spinner.is_alive()
            finally:
                node.stop(TIMEOUT)
                assert executor.shutdown(TIMEOUT)
                spinner.join(TIMEOUT)
                node.destroy_node()
                context.try_shutdown()
            assert ends == []

    return run


@pytest.mark.slow
def test_many_cycles_while_frames_and_instructions_come(running: Running) -> None:
    with running(lambda settings: FakePipeline()) as peer:
        images = peer.publisher("image", type(image_message()))
        texts = peer.publisher("instruction", String)
        stop = threading.Event()

        def fire() -> None:
            number = 0
            while not stop.wait(0.001):
                number += 1
                images.publish(image_message(stamp=0.0))
                texts.publish(String(data=f"find cup {number}."))

        camera = threading.Thread(target=fire)
        camera.start()
        try:
            done = [peer.change(transition) for _ in range(40) for transition in CYCLE]
        finally:
            stop.set()
            camera.join(TIMEOUT)
        assert all(done)
        assert peer.state() == "unconfigured"
        peer.wait(lambda: peer.values("camera").get("in_flight") == "0", "end of all frames")
        values = peer.values("camera")
        assert int(values["received"]) == int(values["published"]) + int(values["dropped"])
        assert int(values["published"]) > 0


def test_the_node_answers_while_a_model_is_being_loaded(running: Running) -> None:
    started, go_on = threading.Event(), threading.Event()

    def load(settings: Any) -> FakePipeline:
        started.set()
        assert go_on.wait(TIMEOUT)
        return FakePipeline()

    with running(load) as peer:
        answers: list[bool] = []
        other = threading.Thread(target=lambda: answers.append(peer.change(CONFIGURE)))
        other.start()
        try:
            assert started.wait(TIMEOUT)
            assert peer.state() == "configuring"
            peer.wait_status("node", DiagnosticStatus.WARN, "loading")
            assert not peer.change(CONFIGURE)
            refused = peer.set(model="other")
            assert not refused.successful
            assert not peer.ground(["cup"], image_message()).success
        finally:
            go_on.set()
            other.join(TIMEOUT)
        assert answers == [True]
        assert peer.state() == "inactive"


def test_the_end_waits_until_what_was_published_has_arrived(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived: dict[str, bool] = {}
    wait_for_all_acked = Publisher.wait_for_all_acked

    def wait(publisher: Publisher, timeout: Any) -> bool:
        arrived[publisher.topic_name] = wait_for_all_acked(publisher, timeout)
        return arrived[publisher.topic_name]

    monkeypatch.setattr(Publisher, "wait_for_all_acked", wait)
    with running(lambda settings: FakePipeline()) as peer:
        assert all(peer.change(transition) for transition in CYCLE[:2])
        assert not arrived
    assert all(arrived.values())
    assert {f"{NODE}/tokens", f"{NODE}/objects", "/diagnostics"} <= set(arrived)


def test_an_unexpected_error_leaves_the_node_unconfigured_and_able(running: Running) -> None:
    errors = [KeyError("bug")]

    def load(settings: Any) -> FakePipeline:
        if errors:
            raise errors.pop()
        return FakePipeline()

    with running(load) as peer:
        assert not peer.change(CONFIGURE)
        peer.wait_status("node", DiagnosticStatus.ERROR, "KeyError")
        assert peer.state() == "unconfigured"
        assert all(peer.change(transition) for transition in CYCLE)
        peer.wait_status("node", DiagnosticStatus.OK, "unconfigured")


def test_a_model_that_never_loads_ends_configure_with_the_step(running: Running) -> None:
    go_on = threading.Event()

    def load(settings: Any) -> FakePipeline:
        go_on.wait(TIMEOUT)
        return FakePipeline()

    with running(load) as peer:
        try:
            assert peer.set(load_timeout=0.2).successful
            assert not peer.change(CONFIGURE)
            assert peer.state() == "unconfigured"
            status = peer.wait_status("node", DiagnosticStatus.ERROR, "configure_failed")
            assert "took longer than 0.2 s, while" in status.message
        finally:
            go_on.set()


def test_another_node_of_the_same_name_is_warned_of(running: Running) -> None:
    with running(lambda settings: FakePipeline()) as peer:
        twin = Node("siglip_perception", context=peer.node.context, enable_rosout=False)
        peer.wait_status("node", DiagnosticStatus.WARN, "name_taken: 1 more node(s)")
        twin.destroy_node()
        peer.wait_status("node", DiagnosticStatus.OK)
