"""The publishers: a gate, both products or neither, and the overlay only while subscribed."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rclpy
from doubles import camera_stream, image_message, pending_frame
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image
from siglip_perception_msgs.msg import GroundedObjectArray, TokenSequence
from visualization_msgs.msg import Marker, MarkerArray

from siglip_perception.node import outputs as module
from siglip_perception.node.outputs import NodeOutputs
from siglip_perception.node.qos import QosWatch
from siglip_perception.pipeline import Result
from siglip_perception.stream.camera_stream import PendingFrame
from siglip_perception.types import Box, Frame, GroundedObject, Grounding, TokenGrid

TIMEOUT = 30.0
FRAME = Frame(np.zeros((4, 6, 3), np.uint8))
MASK = np.ones((4, 6), np.uint8)
TOKENS = TokenGrid(np.zeros((4, 3), np.float32), "float32", 2, 2, "fake", "f00d")
RESULT = Result(TOKENS, Grounding("cup", 1, ("cup",), (0.5,), (), "fake", MASK), {})


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    context = Context()
    rclpy.init(context=context, domain_id=random.SystemRandom().randint(1, 100))
    made = Node("outputs", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(made)
    yield made
    executor.shutdown()
    made.destroy_node()
    context.try_shutdown()


@pytest.fixture
def outputs(node: Node) -> Iterator[NodeOutputs]:
    made = NodeOutputs(node, QosWatch(node))
    made.create(["", "wrist"])
    yield made
    made.destroy()


class Ear:
    """Hears a topic until a test has what it waits for."""

    def __init__(self, node: Node, kind: Any, topic: str) -> None:
        self._executor = node.executor
        self.heard: list[Any] = []
        self._subscription = node.create_subscription(kind, topic, self.heard.append, 10)

    def until(self, found: Callable[[], Any]) -> Any:
        for _ in range(int(TIMEOUT * 10)):
            if result := found():
                return result
            self._executor.spin_once(timeout_sec=0.1)
        return pytest.fail("nothing was heard")

    def wait(self) -> Any:
        return self.until(lambda: self.heard)[-1]


def item(camera: str = "") -> PendingFrame:
    return pending_frame(camera_stream(camera), image_message(stamp=3.0))


@pytest.mark.parametrize(("camera", "prefix"), [("", "outputs/"), ("wrist", "outputs/wrist/")])
def test_both_products_on_the_camera_s_own_topics(
    node: Node, outputs: NodeOutputs, camera: str, prefix: str
) -> None:
    tokens = Ear(node, TokenSequence, f"{prefix}tokens")
    objects = Ear(node, GroundedObjectArray, f"{prefix}objects")
    outputs.open()
    assert outputs.publish(item(camera), RESULT, publish_mask=True)
    assert tokens.wait().header.frame_id == "optical"
    assert list(objects.wait().mask.data) == [1] * 24


def test_the_mask_is_left_out_unless_asked_for(node: Node, outputs: NodeOutputs) -> None:
    objects = Ear(node, GroundedObjectArray, "outputs/objects")
    outputs.open()
    outputs.publish(item(), RESULT, publish_mask=False)
    assert len(objects.wait().mask.data) == 0


def test_nothing_passes_a_closed_gate(node: Node, outputs: NodeOutputs) -> None:
    assert not outputs.publish(item(), RESULT, publish_mask=False)
    outputs.open()
    assert outputs.publish(item(), RESULT, publish_mask=False)
    outputs.close()
    assert not outputs.publish(item(), RESULT, publish_mask=False)


def test_close_waits_for_the_pair_that_is_being_published(
    outputs: NodeOutputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs.open()
    half, go_on, closed = threading.Event(), threading.Event(), threading.Event()
    published: list[str] = []
    publishers = outputs._publishers[""]

    def tokens(message: Any) -> None:
        half.set()
        go_on.wait(TIMEOUT)
        published.append("tokens")

    fake = (
        SimpleNamespace(publish=tokens),
        SimpleNamespace(publish=lambda message: published.append("objects")),
    )
    silent = replace(publishers, tokens=fake[0], objects=fake[1])
    monkeypatch.setitem(outputs._publishers, "", silent)
    worker = threading.Thread(target=outputs.publish, args=(item(), RESULT, False))
    worker.start()
    assert half.wait(TIMEOUT)

    def close() -> None:
        outputs.close()
        closed.set()

    closer = threading.Thread(target=close)
    closer.start()
    assert not closed.wait(0.05)
    go_on.set()
    assert closed.wait(TIMEOUT)
    worker.join(TIMEOUT)
    closer.join(TIMEOUT)
    assert published == ["tokens", "objects"]
    monkeypatch.undo()


def test_the_overlay_is_drawn_only_while_someone_looks(
    node: Node, outputs: NodeOutputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Grounding] = []

    def draw(image: Any, grounding: Grounding) -> Any:
        drawn.append(grounding)
        return image

    monkeypatch.setattr(module, "draw", draw)
    outputs.open()
    assert not outputs.wants_mask("")
    outputs.publish_views(item(), FRAME, RESULT, 80)
    assert drawn == []
    ear = Ear(node, CompressedImage, "outputs/overlay/compressed")
    ear.until(lambda: outputs.wants_mask(""))
    outputs.publish_views(item(), FRAME, RESULT, 80)
    overlay = ear.wait()
    assert overlay.format == "jpeg"
    assert bytes(overlay.data[:3]) == b"\xff\xd8\xff"
    assert drawn == [RESULT.grounding]
    empty = Result(TOKENS, None, {})
    outputs.publish_views(item(), FRAME, empty, 80)
    assert drawn[-1].phrases == ()


def test_the_raw_overlay_is_the_picture_and_is_made_only_while_someone_looks(
    node: Node, outputs: NodeOutputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
    monkeypatch.setattr(module, "draw", lambda image, grounding: drawn)
    outputs.open()
    outputs.publish_views(item(), FRAME, RESULT, 80)
    ear = Ear(node, Image, "outputs/overlay")
    ear.until(lambda: outputs.wants_mask(""))
    outputs.publish_views(item(), FRAME, RESULT, 80)
    message = ear.wait()
    assert (message.encoding, message.step, message.header.frame_id) == ("rgb8", 18, "optical")
    np.testing.assert_array_equal(np.asarray(message.data).reshape(4, 6, 3), drawn)


def test_markers_are_made_only_while_someone_looks_and_go_with_the_instruction(
    node: Node, outputs: NodeOutputs
) -> None:
    assert not outputs.wants_objects("")
    ear = Ear(node, MarkerArray, "outputs/markers")
    ear.until(lambda: outputs.wants_objects(""))
    assert not outputs.wants_mask("")
    outputs.open()
    cup = GroundedObject(
        "cup", 0.9, 2.2, Box(0, 0, 2, 2), 0.1, position=(0.0, 0.0, 1.0), extent=(0.1, 0.1, 0.1)
    )
    seen = Result(TOKENS, Grounding("cup", 1, ("cup",), (0.9,), (cup,), "fake"), {})
    outputs.publish_views(item(), FRAME, seen, 80)
    assert [marker.action for marker in ear.wait().markers] == [Marker.ADD] * 2
    ear.heard.clear()
    outputs.publish_views(item(), FRAME, Result(TOKENS, None, {}), 80)
    assert [marker.action for marker in ear.wait().markers] == [Marker.DELETE] * 2
