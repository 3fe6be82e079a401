"""Messages from values, with the classes of rclpy and of rosbags."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from siglip_perception.messages import wire
from siglip_perception.types import (
    Box,
    GroundedObject,
    Grounding,
    Link,
    Mention,
    Role,
    TokenDtype,
    TokenGrid,
)

ROOT = Path(__file__).resolve().parents[2]
HALF = np.array([[0.5, -2.0, 1.0], [3.0, 0.0, -0.25]], np.float16)
GROUNDING = Grounding(
    instruction="집어 red cup",
    instruction_id=7,
    phrases=("red cup", "접시"),
    presence=(0.75, 0.125),
    objects=(
        GroundedObject("red cup", 0.75, 1.25, Box(3, 4, 5, 6), 0.25, Role.TARGET),
        GroundedObject(
            "red cup",
            0.5,
            0.0,
            Box(0, 0, 1, 1),
            0.01,
            Role.UNKNOWN,
            9,
            0.25,
            (1, 2, 3),
            (4, 5, 6),
            mentions=(0, 1),
        ),
    ),
    contract="tabletop",
    mask=np.arange(12, dtype=np.uint8).reshape(3, 4),
    mentions=(
        Mention(0, Role.TARGET, many=True, which="left", rank=2),
        Mention(1, Role.PLACE, step=3, link=Link.LEFT_OF, of=0, confidence=0.75),
    ),
    confidence=0.75,
    uncalibrated=True,
    outside_training=True,
    unfamiliar=(1,),
)


@dataclass(frozen=True)
class Library:
    """A ROS library: its classes, a round trip of a message, and a header."""

    types: wire.MessageTypes
    there_and_back: Callable[[Any], Any]
    header: Any


def rclpy_library() -> Library:
    pytest.importorskip("rclpy", reason="needs ROS 2")
    from builtin_interfaces.msg import Time
    from rclpy.serialization import deserialize_message, serialize_message

    from siglip_perception.node.conversions import rclpy_types

    types = rclpy_types()
    return Library(
        types,
        lambda message: deserialize_message(serialize_message(message), type(message)),
        types.Header(stamp=Time(sec=5, nanosec=6), frame_id="camera"),
    )


def rosbags_library() -> Library:
    store = get_typestore(Stores.ROS2_JAZZY)
    for path in sorted((ROOT / "siglip_perception_msgs" / "msg").glob("*.msg")):
        store.register(
            get_types_from_msg(path.read_text(), f"siglip_perception_msgs/msg/{path.stem}")
        )
    types = wire.rosbags_types(store)

    def there_and_back(message: Any) -> Any:
        name = message.__msgtype__
        return store.deserialize_cdr(store.serialize_cdr(message, name), name)

    stamp = store.types["builtin_interfaces/msg/Time"](sec=5, nanosec=6)
    return Library(types, there_and_back, types.Header(stamp=stamp, frame_id="camera"))


@pytest.fixture(params=[rclpy_library, rosbags_library], ids=["rclpy", "rosbags"])
def library(request: pytest.FixtureRequest) -> Library:
    ros_library: Library = request.param()
    return ros_library


@pytest.mark.parametrize(
    ("data", "dtype", "code"),
    [
        (HALF.astype(np.float32), "float32", 0),
        (HALF, "float16", 1),
        (np.array([[0x3F00, 0xC000, 0x3F80]] * 2, np.uint16), "bfloat16", 2),
        (HALF.astype(">f4"), "float32", 0),
        (np.asfortranarray(HALF), "float16", 1),
    ],
)
def test_tokens(library: Library, data: Any, dtype: TokenDtype, code: int) -> None:
    grid = TokenGrid(data, dtype, rows=1, cols=2, contract="tabletop", fingerprint="ab12")
    message = library.there_and_back(wire.tokens_message(library.types, library.header, grid))
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (5, 6)
    assert message.header.frame_id == "camera"
    assert (message.rows, message.cols, message.dim, message.dtype) == (1, 2, 3, code)
    assert (message.contract, message.fingerprint) == ("tabletop", "ab12")
    little = data.dtype.newbyteorder("<")
    tokens = np.frombuffer(message.data, little).reshape(2, 3)
    assert (tokens == data).all()


def test_objects(library: Library) -> None:
    message = library.there_and_back(
        wire.objects_message(library.types, library.header, GROUNDING)
    )
    assert message.header.frame_id == "camera"
    assert (message.instruction, message.instruction_id) == ("집어 red cup", 7)
    assert message.contract == "tabletop"
    assert list(message.phrases) == ["red cup", "접시"]
    assert list(message.presence) == [0.75, 0.125]
    first, second = message.objects
    assert (first.phrase, first.score, first.logit, first.area) == ("red cup", 0.75, 1.25, 0.25)
    box = first.box
    assert (box.x_offset, box.y_offset, box.width, box.height) == (3, 4, 5, 6)
    assert not box.do_rectify
    assert (first.role, first.id, second.role) == (1, 0, 0)
    assert (list(first.mentions), list(second.mentions)) == ([], [0, 1])
    target, place = message.mentions
    assert (target.phrase, target.role, target.step, target.many) == (0, 1, 1, True)
    assert (target.relation, target.of, target.which, target.rank) == ("", -1, "left", 2)
    assert (place.phrase, place.role, place.step, place.many) == (1, 2, 3, False)
    assert (place.relation, place.of, place.which, place.rank) == ("left of", 0, "", 0)
    assert (target.confidence, place.confidence, message.confidence) == (1.0, 0.75, 0.75)
    assert (message.uncalibrated, message.outside_training) == (True, True)
    assert list(message.unfamiliar) == [1]
    assert math.isnan(first.position.x)
    assert math.isnan(first.extent.z)
    assert (second.id, second.lost) == (9, 0.25)
    assert [getattr(second.position, axis) for axis in "xyz"] == [1, 2, 3]
    assert [getattr(second.extent, axis) for axis in "xyz"] == [4, 5, 6]
    mask = message.mask
    assert (mask.encoding, mask.height, mask.width, mask.step) == ("mono8", 3, 4, 4)
    assert list(mask.data) == list(range(12))


def test_objects_without_a_mask_or_any_object(library: Library) -> None:
    empty = Grounding("", 0, (), (), (), "tabletop")
    message = library.there_and_back(wire.objects_message(library.types, library.header, empty))
    assert len(message.objects) == len(message.presence) == len(message.mask.data) == 0
    assert (message.mask.height, message.mask.width) == (0, 0)


def test_the_constants_are_those_of_the_message() -> None:
    text = (ROOT / "siglip_perception_msgs" / "msg" / "TokenSequence.msg").read_text()
    constants = dict(re.findall(r"^uint8 (\w+) = (\d+)", text, re.M))
    assert {name.upper(): str(code) for name, code in wire.DTYPE_CODES.items()} == constants


def test_a_megabyte_is_handed_over_in_well_under_a_millisecond() -> None:
    """rclpy takes at least 40 ms to check an ndarray."""
    pytest.importorskip("rclpy", reason="needs ROS 2")
    from siglip_perception_msgs.msg import TokenSequence

    tokens = np.ones((256, 2176), np.float16)

    def seconds() -> float:
        start = time.thread_time()
        message = TokenSequence(data=wire.as_array(tokens))
        cpu_seconds = time.thread_time() - start
        assert len(message.data) == tokens.nbytes
        return cpu_seconds

    assert min(seconds() for _ in range(10)) < 0.004
