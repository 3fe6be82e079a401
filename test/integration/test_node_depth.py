"""Depth and tracking in the real node: positions beside the color image, ids across frames."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from peer import NODE, Peer, Start, header, raw_image
from sensor_msgs.msg import CameraInfo, Image

Picture = np.ndarray[Any, np.dtype[np.uint8]]
LENS = [150.0, 0.0, 80.0, 0.0, 150.0, 60.0, 0.0, 0.0, 1.0]


@pytest.fixture(scope="module")
def peer(start: Start) -> Iterator[Peer]:
    with start(depth__enabled=True, tracking__enabled=True, threshold=0.0) as (_, peer):
        peer.wait_status("node", DiagnosticStatus.OK, "active")
        peer.say("find the red cup")
        yield peer


def depth_image(stamp: float, meters: float, height: int = 120, **changes: Any) -> Image:
    pixels = np.full((height, 160), meters, dtype=np.float32)
    message = Image(header=header(stamp), height=height, width=160, encoding="32FC1", step=640)
    message.data.frombytes(pixels.tobytes())
    for name, value in changes.items():
        setattr(message, name, value)
    return message


def ask(peer: Peer, picture: Picture, depth: Image, stamp: float) -> Any:
    """The objects of a frame that comes after its depth image."""
    lens = CameraInfo(header=header(stamp), height=120, width=160, k=LENS)
    peer.publish("camera_info", lens)
    peer.publish("depth", depth)
    return peer.frame(raw_image(picture, stamp), output=f"{NODE}/objects")


def count_of(peer: Peer, name: str) -> int:
    return int(peer.values("camera").get(f"depth.{name}", "0"))


def test_objects_have_a_position_and_keep_their_ids(peer: Peer, picture: Picture) -> None:
    now = round(time.time(), 3)
    # A depth image can be lost on its way or come after the model was through with its frame.
    for attempt in range(20):
        stamp = now + 0.05 * attempt
        first = ask(peer, picture, depth_image(stamp + 0.01, 0.8), stamp)
        if first.objects and not math.isnan(first.objects[0].position.z):
            break
    assert first.objects
    for item in first.objects:
        box, place = item.box, item.position
        assert place.z == pytest.approx(0.8)
        assert 0 < item.extent.x <= box.width * 0.8 / 150
        # Inside what its box spans at that distance.
        assert box.x_offset <= place.x / 0.8 * 150 + 80 <= box.x_offset + box.width
        assert box.y_offset <= place.y / 0.8 * 150 + 60 <= box.y_offset + box.height
    second = ask(peer, picture, depth_image(stamp + 0.05, 0.8), stamp + 0.05)
    ids = {item.id for item in first.objects}
    assert min(ids) > 0
    assert {item.id for item in second.objects} == ids
    peer.say("find the blue plate")
    third = ask(peer, picture, depth_image(stamp + 0.1, 0.8), stamp + 0.1)
    assert third.objects
    assert min(item.id for item in third.objects) > max(ids)


@pytest.mark.parametrize(
    ("depth", "reason"),
    [
        ({"meters": math.nan}, "empty"),
        ({"meters": 1.0, "height": 60}, "size"),
        ({"meters": 1.0, "encoding": "bgr8"}, "encoding"),
        ({"meters": 1.0, "step": 7}, "malformed"),
    ],
)
def test_bad_depth_is_told_and_objects_go_out_without_positions(
    peer: Peer, picture: Picture, depth: dict[str, Any], reason: str
) -> None:
    before = count_of(peer, reason)
    step = iter(range(1_000_000))
    start_time = round(time.time(), 3)

    def again() -> None:
        stamp = start_time + 0.02 * next(step)
        messages_sent = ask(peer, picture, depth_image(stamp, **depth), stamp)
        assert all(math.isnan(item.position.z) for item in messages_sent.objects)

    peer.wait(lambda: count_of(peer, reason) > before, f"depth.{reason}", again)
    peer.wait_status("camera", DiagnosticStatus.WARN, f"depth_{reason}", again)
