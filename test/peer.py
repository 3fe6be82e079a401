"""The other side of the node: a camera, a person who speaks, and someone who listens to it."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import pytest
import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import CompressedImage, Image
from siglip_perception_msgs.msg import GroundedObjectArray, TokenSequence
from siglip_perception_msgs.srv import Ground
from std_msgs.msg import Header, String
from watching import Process

TIMEOUT = 60.0
NODE = "/siglip_perception"
LATCHED = QoSProfile(depth=1, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)


def stamp_of(message: Any) -> float:
    return float(message.header.stamp.sec + message.header.stamp.nanosec / 1e9)


def header(stamp: float, frame_id: str = "optical") -> Header:
    nanoseconds = round(stamp * 1e9)
    stamped = Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)
    return Header(stamp=stamped, frame_id=frame_id)


def raw_image(pixels: np.ndarray[Any, Any], stamp: float = 0.0, **changes: Any) -> Image:
    """uint8 [height, width, 3] RGB as an rgb8 message."""
    height, width = pixels.shape[:2]
    message = Image(
        header=header(stamp), height=height, width=width, encoding="rgb8", step=3 * width
    )
    message.data.frombytes(pixels.tobytes())
    for name, value in changes.items():
        setattr(message, name, value)
    return message


def compressed_image(
    data: bytes, stamp: float = 0.0, format_name: str = "jpeg"
) -> CompressedImage:
    message = CompressedImage(header=header(stamp), format=format_name)
    message.data.frombytes(data)
    return message


class Peer:
    """A node of this process in the domain of the node under test, spinning on its own thread."""

    def __init__(self, domain: int) -> None:
        self.context = Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = rclpy.create_node("peer", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.news = threading.Condition()
        self.heard: defaultdict[str, list[Any]] = defaultdict(list)
        self.statuses: dict[str, DiagnosticStatus] = {}
        self._publishers: dict[tuple[str, int], Any] = {}
        self._spinner = threading.Thread(target=self.executor.spin, daemon=True)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._diagnostics, 50)
        self.listen(TokenSequence, f"{NODE}/tokens")
        self.listen(GroundedObjectArray, f"{NODE}/objects")
        self._spinner.start()

    def close(self) -> None:
        self.executor.shutdown()
        self._spinner.join(TIMEOUT)
        self.node.destroy_node()
        self.context.try_shutdown()

    def _diagnostics(self, message: DiagnosticArray) -> None:
        with self.news:
            for status in message.status:
                self.statuses[status.name.partition(": ")[2]] = status
            self.news.notify_all()

    def listen(self, kind: Any, topic: str, qos: Any = 50) -> Any:
        def hear(message: Any) -> None:
            with self.news:
                self.heard[topic].append(message)
                self.news.notify_all()

        return self.node.create_subscription(kind, topic, hear, qos)

    def wait(
        self,
        found: Callable[[], Any],
        what: str,
        meanwhile: Callable[[], None] = lambda: None,
        timeout: float = TIMEOUT,
    ) -> Any:
        """Wait for `found` to return something true; call `meanwhile` ten times a second."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            meanwhile()
            with self.news:
                result = self.news.wait_for(found, 0.1)
            if result:
                return result
        return pytest.fail(f"no {what} in {timeout} s; /diagnostics: {self.report()}")

    def report(self) -> str:
        with self.news:
            return "; ".join(f"{name}: {s.message}" for name, s in self.statuses.items())

    def publish(self, topic: str, message: Any, qos: Any = None) -> None:
        """Publishes it once somebody listens."""
        publisher = self.publisher(topic, type(message), qos)
        self.wait(lambda: publisher.get_subscription_count() > 0, f"subscription on {topic}")
        publisher.publish(message)

    def publisher(self, topic: str, kind: Any, qos: Any = None) -> Any:
        mark = (topic, id(qos))
        if mark not in self._publishers:
            profile = qos_profile_sensor_data if kind in (Image, CompressedImage) else 10
            self._publishers[mark] = self.node.create_publisher(kind, topic, qos or profile)
        return self._publishers[mark]

    def silence(self, topic: str) -> None:
        """Takes this peer's publishers off a topic."""
        for mark in [mark for mark in self._publishers if mark[0] == topic]:
            self.node.destroy_publisher(self._publishers.pop(mark))

    def frame(
        self,
        message: Any,
        topic: str = "image",
        output: str = f"{NODE}/tokens",
    ) -> Any:
        """Sends an image until an output with its stamp comes; that output."""
        with self.news:
            seen = len(self.heard[output])

        def answered() -> Any:
            answers = self.heard[output][seen:]
            return next((a for a in answers if a.header.stamp == message.header.stamp), None)

        return self.wait(answered, output, lambda: self.publish(topic, message))

    def say(self, text: str) -> None:
        """An instruction, up to the moment when the node has dealt with it."""
        before = self.values("instruction")
        self.publish("instruction", String(data=text))
        self.wait(lambda: self.values("instruction") != before, f"sign of {text[:20]!r}")

    def values(self, status: str) -> Mapping[str, str]:
        """The values of a status of the node; none where it was not heard yet."""
        result = self.statuses.get(status)
        return {} if result is None else {item.key: item.value for item in result.values}

    def wait_status(
        self,
        name: str,
        level: bytes,
        words: str = "",
        meanwhile: Callable[[], None] = lambda: None,
    ) -> DiagnosticStatus:
        def found() -> DiagnosticStatus | None:
            status = self.statuses.get(name)
            fits = status is not None and status.level == level and words in status.message
            return status if fits else None

        return self.wait(found, f"status {name} of level {level!r} with {words!r}", meanwhile)

    def call(self, kind: Any, service: str, request: Any) -> Any:
        client = self.node.create_client(kind, service)
        try:
            self.wait(client.service_is_ready, service)
            future = client.call_async(request)
            future.add_done_callback(lambda _: self._tell())
            self.wait(future.done, f"answer of {service}")
            return future.result()
        finally:
            self.node.destroy_client(client)

    def _tell(self) -> None:
        with self.news:
            self.news.notify_all()

    def ground(self, phrases: list[str], image: Image | None = None, **more: Any) -> Any:
        request = Ground.Request(phrases=phrases, image=image or Image(), **more)
        return self.call(Ground, f"{NODE}/ground", request)

    def state(self) -> str:
        answer = self.call(GetState, f"{NODE}/get_state", GetState.Request())
        return str(answer.current_state.label)

    def change(self, transition: int) -> bool:
        request = ChangeState.Request(transition=Transition(id=transition))
        return bool(self.call(ChangeState, f"{NODE}/change_state", request).success)

    def set(self, **values: Any) -> Any:
        """Sets parameters, all or none; the result."""
        request = SetParametersAtomically.Request(
            parameters=[
                Parameter(name.replace("__", "."), value=value).to_parameter_msg()
                for name, value in values.items()
            ]
        )
        service = f"{NODE}/set_parameters_atomically"
        return self.call(SetParametersAtomically, service, request).result


# Starts the node's process with these parameters; what it is, and a peer of it.
Start = Callable[..., AbstractContextManager[tuple[Process, Peer]]]


@contextmanager
def peer_of(environment: Mapping[str, str]) -> Iterator[Peer]:
    """A peer for a process that runs in this environment."""
    with pytest.MonkeyPatch.context() as patch:
        name = "ROS_AUTOMATIC_DISCOVERY_RANGE"
        patch.setenv(name, environment[name])
        peer = Peer(int(environment["ROS_DOMAIN_ID"]))
        try:
            yield peer
        finally:
            peer.close()
