"""Play a bag of compressed images and instructions into a running node and record its outputs.

    python -m siglip_perception.node.bag_player BAG OUT

The player waits until the node is active and all topics have subscribers, plays the bag in real
time, waits until the node has accounted for every frame, and writes OUT/results.json and
OUT/frames/*.jpg, the pictures from ~/overlay/compressed.

Each image gets the time of its playback as its stamp: with its recorded stamp `max_age` would drop
it, and its latency would mean nothing. The node copies the stamp, which matches a result with its
frame.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import GetState
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSDurabilityPolicy, QoSProfile
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage
from siglip_perception_msgs.msg import GroundedObjectArray, TokenSequence
from std_msgs.msg import String

from siglip_perception.bags.files import reading
from siglip_perception.bags.messages import COMPRESSED, STRING
from siglip_perception.client import tokens_to_numpy
from siglip_perception.errors import PerceptionError
from siglip_perception.node.ros_process import ros_running
from siglip_perception.stream.stamp_check import stamp_ns

READY_S = 120.0
SETTLE_S = 20.0
# A frame reaches the node within this time or not at all.
TRANSIT_NS = 500_000_000
SPIN_S = 0.1
NODE = "siglip_perception"


class PlayerError(PerceptionError):
    """The node did not become active, or did not account for every frame."""


class Recorder:
    """Collects the node's outputs. Frames are numbered in the order of playback."""

    def __init__(self, node: Node, frames: Path) -> None:
        self._frames = frames
        self._numbers: dict[int, int] = {}
        self._send_times_s: dict[int, float] = {}
        self.tokens: list[dict[str, Any]] = []
        self.groundings: list[dict[str, Any]] = []
        self.pictures: list[int] = []
        self.unmatched = 0
        self.statuses: dict[str, dict[str, str]] = {}
        self.node_error = ""
        self.diagnostics_stamp_ns = 0
        node.create_subscription(TokenSequence, f"{NODE}/tokens", self._on_tokens, 10)
        node.create_subscription(GroundedObjectArray, f"{NODE}/objects", self._on_objects, 10)
        node.create_subscription(
            CompressedImage, f"{NODE}/overlay/compressed", self._on_overlay, 10
        )
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 50)

    def note_playback(self, sent_ns: int) -> None:
        self._numbers[sent_ns] = len(self._numbers)
        self._send_times_s[sent_ns] = time.monotonic()

    def _number(self, message: Any) -> int | None:
        number = self._numbers.get(stamp_ns(message.header))
        self.unmatched += number is None
        return number

    def _on_tokens(self, message: TokenSequence) -> None:
        number, received_s = self._number(message), time.monotonic()
        tokens = tokens_to_numpy(message)
        self.tokens.append(
            {
                "frame": number,
                "received_s": received_s,
                "sent_s": self._send_times_s.get(stamp_ns(message.header)),
                "shape": list(tokens.shape),
                "dtype": str(tokens.dtype),
                "contract": message.contract,
                "fingerprint": message.fingerprint,
                "finite": bool(np.isfinite(tokens).all()),
            }
        )

    def _on_objects(self, message: GroundedObjectArray) -> None:
        objects = [
            {
                "phrase": item.phrase,
                "score": item.score,
                "box": [
                    item.box.x_offset,
                    item.box.y_offset,
                    item.box.width,
                    item.box.height,
                ],
            }
            for item in message.objects
        ]
        self.groundings.append(
            {
                "frame": self._number(message),
                "instruction": message.instruction,
                "phrases": list(message.phrases),
                "presence": list(message.presence),
                "objects": objects,
            }
        )

    def _on_overlay(self, message: CompressedImage) -> None:
        number = self._number(message)
        if number is not None:
            (self._frames / f"{number:06d}.jpg").write_bytes(message.data)
            self.pictures.append(number)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            sender, _, name = status.name.partition(": ")
            if sender != NODE:
                continue
            self.statuses[name] = {item.key: item.value for item in status.values}
            if name == "node":
                is_error = status.level == DiagnosticStatus.ERROR
                self.node_error = status.message if is_error else ""
            if name == "camera":
                self.diagnostics_stamp_ns = stamp_ns(message.header)


class Player(Node):  # type: ignore[misc]
    def __init__(self, out: Path) -> None:
        super().__init__("sample_camera")
        self.recorder = Recorder(self, out / "frames")
        self.instructions: list[str] = []
        self.frames = 0
        self.last_stamp_ns = 0
        self._images = self.create_publisher(CompressedImage, "image/compressed", 5)
        # Latched: a subscriber that comes later still gets the current instruction.
        latched_qos = QoSProfile(depth=1, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)
        self._instruction_publisher = self.create_publisher(String, "instruction", latched_qos)
        self._state = self.create_client(GetState, f"{NODE}/get_state")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self)

    def wait_until_ready(self, listeners: int) -> None:
        """Wait until the node is active and subscribes, and its tokens have `listeners`."""
        deadline = time.monotonic() + READY_S
        reply = None
        active = False
        while True:
            if reply is not None and reply.done():
                active = reply.result().current_state.id == State.PRIMARY_STATE_ACTIVE
                reply = None
            if reply is None and self._state.service_is_ready():
                reply = self._state.call_async(GetState.Request())
            is_subscribed = all(
                publisher.get_subscription_count() > 0
                for publisher in (self._images, self._instruction_publisher)
            )
            if active and is_subscribed and self.count_subscribers(f"{NODE}/tokens") >= listeners:
                return
            if self.recorder.node_error:
                raise PlayerError(f"The node cannot start: {self.recorder.node_error}")
            if time.monotonic() > deadline:
                state = "active" if active else "not active"
                raise PlayerError(f"After {READY_S:.0f} s the node is {state}; its log says more.")
            self._executor.spin_once(timeout_sec=SPIN_S)

    def play(self, bag: Path) -> None:
        """Publish the bag's images and instructions at the intervals of the recording."""
        start = time.monotonic()
        first_ns: int | None = None
        for time_ns, message in read_messages(bag):
            first_ns = time_ns if first_ns is None else first_ns
            due = start + (time_ns - first_ns) / 1e9
            while (wait := due - time.monotonic()) > 0:
                self._executor.spin_once(timeout_sec=wait)
            if isinstance(message, String):
                self.instructions.append(message.data)
                self._instruction_publisher.publish(message)
                continue
            now = self.get_clock().now()
            message.header.stamp = now.to_msg()
            self.last_stamp_ns = now.nanoseconds
            self.recorder.note_playback(now.nanoseconds)
            self.frames += 1
            self._images.publish(message)

    def wait_until_settled(self) -> None:
        """Wait until diagnostics sent after the last frame show that none is in flight."""
        deadline = time.monotonic() + SETTLE_S
        arrival_ns = self.last_stamp_ns + TRANSIT_NS
        while time.monotonic() < deadline:
            counts = self.recorder.statuses.get("camera", {})
            is_current = self.recorder.diagnostics_stamp_ns > arrival_ns
            if is_current and counts.get("in_flight") == "0":
                return
            self._executor.spin_once(timeout_sec=SPIN_S)
        raise PlayerError(f"After {SETTLE_S:.0f} s the node still has frames in flight.")

    def results(self) -> dict[str, Any]:
        recorder = self.recorder
        return {
            "played": self.frames,
            "instructions": self.instructions,
            "tokens": recorder.tokens,
            "groundings": recorder.groundings,
            "pictures": sorted(recorder.pictures),
            "unmatched": recorder.unmatched,
            "camera": recorder.statuses.get("camera", {}),
            "node": recorder.statuses.get("node", {}),
        }


def read_messages(bag: Path) -> Iterator[tuple[int, Any]]:
    """Yield a bag's CompressedImage and String messages, each with its time in nanoseconds.

    Raises BagError if the bag cannot be read, PlayerError if it has no compressed images.
    """
    classes = {COMPRESSED: CompressedImage, STRING: String}
    with reading(bag) as recording:
        topics = [t for t in recording.topics if t.type in classes and t.encoding == "cdr"]
        if not any(topic.count for topic in topics if topic.type == COMPRESSED):
            raise PlayerError(f"The bag {bag} has no messages of {COMPRESSED} to play.")
        for topic, time_ns, data in recording.messages(topics):
            yield time_ns, deserialize_message(data, classes[topic.type])


def main() -> int:
    parser = argparse.ArgumentParser(description="Play a bag into a running node.")
    parser.add_argument("bag", type=Path)
    parser.add_argument("out", type=Path, help="an existing folder")
    parser.add_argument(
        "--listeners",
        type=int,
        default=2,
        help="subscribers of ~/tokens to wait for, this process included",
    )
    arguments = parser.parse_args()
    (arguments.out / "frames").mkdir(exist_ok=True)
    try:
        with ros_running():
            player = Player(arguments.out)
            player.wait_until_ready(arguments.listeners)
            print("the node is active; playing", flush=True)
            player.play(arguments.bag)
            player.wait_until_settled()
            (arguments.out / "results.json").write_text(json.dumps(player.results()))
    except PerceptionError as error:
        print(error, file=sys.stderr)
        return 2
    except (KeyboardInterrupt, ExternalShutdownException):
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
