"""A live node as the page's source, against a stand-in of the node."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from doubles import image_message
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import Image
from siglip_perception_msgs.msg import GroundedObjectArray, TokenSequence
from std_msgs.msg import String

from siglip_perception.messages.wire import objects_message, tokens_message
from siglip_perception.node.conversions import rclpy_types
from siglip_perception.node.qos import image_qos, instruction_qos, output_qos
from siglip_perception.node.view_source import NodeSource
from siglip_perception.types import Box, GroundedObject, Grounding, Role, TokenGrid
from siglip_perception.view.source import LiveSource, RecordedSource, SourceError, SourceFrame

TIMEOUT = 60.0
TOKENS = TokenGrid(np.arange(12, dtype=np.float32).reshape(4, 3), "float32", 2, 2, "fake", "f00d")
MASK = np.array([[0, 0, 1, 1, 0, 0]] * 4, np.uint8)
GROUNDING = Grounding(
    "pick up the red cup",
    3,
    ("red cup",),
    (0.75,),
    (GroundedObject("red cup", 0.75, 1.0986, Box(2, 0, 2, 4), 0.25, Role.TARGET, 7),),
    "fake",
    MASK,
)


class StandIn:
    """Publishes what a perception node would for one image."""

    def __init__(self, domain: int) -> None:
        self.context = Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = Node("eyes", namespace="/robot", context=self.context)
        self.heard: list[str] = []
        self._news = threading.Condition()
        create = self.node.create_publisher
        self.camera = create(Image, "/front/color", image_qos("reliable"))
        self.objects = create(GroundedObjectArray, "~/objects", output_qos())
        self.tokens = create(TokenSequence, "~/tokens", output_qos())
        self.diagnostics = create(DiagnosticArray, "/diagnostics", 10)
        listen = self.node.create_subscription
        listen(Image, "/front/color", lambda _: None, image_qos("best_effort"))
        listen(Image, "/front/depth", lambda _: None, image_qos("best_effort"))
        listen(String, "/robot/words", self._hear, instruction_qos(latched=True))
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.thread = threading.Thread(target=self.executor.spin, daemon=True)
        self.thread.start()

    def _hear(self, message: String) -> None:
        with self._news:
            self.heard.append(message.data)
            self._news.notify_all()

    def wait_heard(self, text: str) -> None:
        with self._news:
            assert self._news.wait_for(lambda: text in self.heard, TIMEOUT)

    def publish(self, stamp: float) -> None:
        """An image, and what was seen in it."""
        types = rclpy_types()
        image = image_message(stamp)
        self.camera.publish(image)
        self.tokens.publish(tokens_message(types, image.header, TOKENS))
        self.objects.publish(objects_message(types, image.header, GROUNDING))
        values = [KeyValue(key="contract", value="fake"), KeyValue(key="state", value="active")]
        status = DiagnosticStatus(
            level=b"\1",
            name="eyes: node",
            message="active",
            hardware_id="/robot/eyes",
            values=values,
        )
        other = DiagnosticStatus(level=b"\0", name="motor", hardware_id="/motor")
        self.diagnostics.publish(DiagnosticArray(status=[status, other]))

    def close(self) -> None:
        self.executor.shutdown()
        self.thread.join(TIMEOUT)
        self.node.destroy_node()
        self.context.try_shutdown()


@pytest.fixture
def domain(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    return random.SystemRandom().randint(1, 100)


@pytest.fixture
def stand_in(domain: int) -> Iterator[StandIn]:
    made = StandIn(domain)
    yield made
    made.close()


@pytest.fixture
def source(domain: int) -> Iterator[NodeSource]:
    made = NodeSource("robot/eyes", domain)
    yield made
    made.close()


def frame_of(
    source: NodeSource, stand_in: StandIn, done: Callable[[SourceFrame], Any]
) -> SourceFrame:
    """The first frame for which `done` is true, while images are published."""
    end = time.monotonic() + TIMEOUT
    stamp = 1.0
    while time.monotonic() < end:
        source.watch(True)
        stand_in.publish(stamp)
        stamp += 1.0
        try:
            frame = source.next(0.2)
        except SourceError:
            continue
        if frame is not None and done(frame):
            return frame
    raise AssertionError("no such frame came")


def test_a_frame_comes_with_what_the_node_found(source: NodeSource, stand_in: StandIn) -> None:
    assert isinstance(source, LiveSource)
    assert not isinstance(source, RecordedSource)
    frame = frame_of(source, stand_in, lambda f: f.answer and f.answer.tokens is not None)
    assert frame.name == "/front/color"  # remapped, and no depth image
    assert frame.decode().pixels.shape == (4, 6, 3)
    assert frame.answer is not None
    grounding = frame.answer.grounding
    assert grounding is not None
    assert grounding.phrases == ("red cup",)
    (item,) = grounding.objects
    assert (item.box, item.role, item.id) == (Box(2, 0, 2, 4), Role.TARGET, 7)
    assert grounding.mask is not None
    np.testing.assert_array_equal(grounding.mask, MASK)
    assert frame.answer.tokens is not None
    np.testing.assert_array_equal(frame.answer.tokens.data, TOKENS.data)
    assert frame.answer.tokens.fingerprint == "f00d"
    (status,) = source.statuses()
    assert (status.name, status.level, dict(status.values)["contract"]) == ("node", 1, "fake")


def test_an_instruction_goes_to_the_topic_that_the_node_hears(
    source: NodeSource, stand_in: StandIn
) -> None:
    frame_of(source, stand_in, lambda f: True)
    assert source.instruct("빨간 컵")
    stand_in.wait_heard("빨간 컵")


def test_while_nobody_looks_nothing_of_the_node_is_listened_to(
    source: NodeSource, stand_in: StandIn
) -> None:
    frame_of(source, stand_in, lambda f: True)
    assert stand_in.objects.get_subscription_count() == 1
    source.watch(None)
    end = time.monotonic() + TIMEOUT
    event = threading.Event()
    while stand_in.objects.get_subscription_count() and time.monotonic() < end:
        event.wait(0.05)
    assert stand_in.objects.get_subscription_count() == 0
    assert stand_in.tokens.get_subscription_count() == 0


def test_a_node_that_is_not_there_is_said(source: NodeSource) -> None:
    source.watch(False)
    with pytest.raises(SourceError, match="no node /robot/eyes: start it"):
        source.next(0.0)
