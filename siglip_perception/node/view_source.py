"""A live node as a source of the page: its camera, its answers, its diagnostics."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node, NodeNameNonExistentError
from sensor_msgs.msg import CompressedImage, Image
from siglip_perception_msgs.msg import GroundedObjectArray, TokenSequence
from std_msgs.msg import String

from siglip_perception.client import mentions
from siglip_perception.config import Settings
from siglip_perception.node.conversions import decode_message
from siglip_perception.node.qos import image_qos, instruction_qos, output_qos
from siglip_perception.stream.stamp_check import stamp_ns
from siglip_perception.types import (
    Box,
    GroundedObject,
    Grounding,
    Role,
    TokenDtype,
    TokenGrid,
)
from siglip_perception.view.source import NodeAnswer, SourceError, SourceFrame, Status

DEFAULT_NAME = "/siglip_perception"
# Images that wait for their answers.
_MAX_WAITING = 8
# An image without an answer is shown all the same, so that a node that looks for nothing is seen.
_UNANSWERED_S = 1.0
# How long a node may say nothing before that is said on the page, in seconds.
_SILENT_S = 3.0
_IMAGES = {"sensor_msgs/msg/Image": Image, "sensor_msgs/msg/CompressedImage": CompressedImage}
_DTYPES: tuple[TokenDtype, ...] = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class _Camera:
    """Topics of one camera: what the node listens to and what it publishes."""

    image: str
    kind: type[Any]
    objects: str
    tokens: str


class NodeSource:
    """Listens to a perception node while a page is open, and to nothing of it otherwise.

    name: of the node, with its namespace; "" for /siglip_perception. domain_id: None for
    ROS_DOMAIN_ID's.
    """

    kind = "node"
    notes: Sequence[str] = ()

    def __init__(
        self,
        name: str = "",
        domain_id: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.title = f"/{name.strip('/')}" if name else DEFAULT_NAME
        self.cameras: Sequence[str] = ("",)
        self._clock = clock
        self._condition = threading.Condition()
        self._waiting: OrderedDict[int, Any] = OrderedDict()
        self._tokens: OrderedDict[int, TokenGrid] = OrderedDict()
        self._ready: SourceFrame | None = None
        self._statuses: dict[str, Status] = {}
        self._answered_at = self._came_at = self._told_at = clock()
        self._start = clock()
        self._count = 0
        self._chosen = ""
        self._cameras: dict[str, _Camera] = {}
        self._watched: bool | None = None
        self._subscriptions: list[Any] = []
        self._settings = Settings()
        self._context = Context()
        rclpy.init(context=self._context, domain_id=domain_id)
        self._node = Node(
            "siglip_perception_view", context=self._context, start_parameter_services=False
        )
        self._publishers: dict[str, Any] = {}
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, name="view ROS", daemon=True)
        self._thread.start()

    def choose(self, camera: str) -> None:
        self._chosen = camera
        watched = self._watched
        self.watch(None)
        self.watch(watched)

    def watch(self, tokens: bool | None) -> None:
        if tokens is None:
            self._unsubscribe()
            return
        if tokens == self._watched:
            return
        self._unsubscribe()
        self._look_for_node()
        camera = self._cameras.get(self._chosen)
        if camera is None:
            return
        create = self._node.create_subscription
        self._subscriptions = [
            create(camera.kind, camera.image, self._on_image, image_qos("best_effort")),
            create(GroundedObjectArray, camera.objects, self._on_objects, output_qos()),
            create(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10),
        ]
        if tokens:
            self._subscriptions.append(
                create(TokenSequence, camera.tokens, self._on_tokens, output_qos())
            )
        self._watched = tokens
        self._came_at = self._answered_at = self._told_at = self._clock()

    def next(self, timeout_s: float) -> SourceFrame | None:
        with self._condition:
            self._condition.wait_for(lambda: self._ready is not None, timeout_s)
            frame, self._ready = self._ready, None
        now = self._clock()
        if frame is None and self._watched is None:
            raise SourceError(
                f"There is no node {self.title}: start it, as in `ros2 launch siglip_perception"
                " perception.launch.py`, with the same ROS_DOMAIN_ID. It is looked for all the"
                " time."
            )
        if frame is None and now - self._came_at > _SILENT_S:
            camera = self._cameras[self._chosen]
            if not self._node.get_publishers_info_by_topic(camera.image):
                self._watched = None  # perhaps it is another node by now
                raise SourceError(
                    f"Nobody publishes on {camera.image}, the node's camera: start the driver, or"
                    " remap its topic, as in image:=/camera/color/image_raw."
                )
            raise SourceError(
                f"No image has come on {camera.image} for {now - self._came_at:.0f} s: is the"
                " camera running, and does its QoS match (docs/troubleshooting.md)?"
            )
        return frame

    def instruct(self, text: str) -> bool:
        topic = self._instruction_topic()
        publisher = self._publishers.get(topic)
        if publisher is None:
            # Latched, as a node that starts later asks for what was said before it came.
            publisher = self._node.create_publisher(String, topic, instruction_qos(latched=True))
            self._publishers[topic] = publisher
        publisher.publish(String(data=text))
        return True

    def statuses(self) -> Sequence[Status]:
        with self._condition:
            statuses = [self._statuses[name] for name in sorted(self._statuses)]
            silent = self._clock() - self._told_at
        if statuses and self._watched is not None and silent > _SILENT_S:
            text = f"no diagnostics for {silent:.0f} s: has the node ended?"
            statuses = [replace(status, level=3, message=text) for status in statuses]
        return statuses

    def close(self) -> None:
        self._executor.shutdown(timeout_sec=1.0)
        self._thread.join(timeout=2.0)
        self._node.destroy_node()
        self._context.try_shutdown()

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            return

    def _unsubscribe(self) -> None:
        self._watched = None
        while self._subscriptions:
            self._node.destroy_subscription(self._subscriptions.pop())
        with self._condition:
            self._waiting.clear()
            self._tokens.clear()
            self._ready = None

    def _look_for_node(self) -> None:
        """Find the node's topics in the graph: they may be remapped, and hold several cameras."""
        namespace, _, name = self.title.rpartition("/")
        known = {(n, ns.rstrip("/")) for n, ns in self._node.get_node_names_and_namespaces()}
        if (name, namespace) not in known:
            self._cameras = {}
            return
        where = namespace or "/"
        listens = dict(self._node.get_subscriber_names_and_types_by_node(name, where))
        speaks = dict(self._node.get_publisher_names_and_types_by_node(name, where))
        images = {
            topic: _IMAGES[kind]
            for topic, kinds in listens.items()
            for kind in kinds
            if kind in _IMAGES and "depth" not in topic
        }
        objects = sorted(
            topic
            for topic, kinds in speaks.items()
            if "siglip_perception_msgs/msg/GroundedObjectArray" in kinds
        )
        cameras: dict[str, _Camera] = {}
        for topic in objects:
            base = topic.removesuffix("/objects")
            camera = base.removeprefix(self.title).strip("/")
            image = _image_of(camera, images, alone=len(objects) == 1)
            tokens = f"{base}/tokens" if f"{base}/tokens" in speaks else f"{self.title}/tokens"
            if image is not None:
                cameras[camera] = _Camera(image, images[image], topic, tokens)
        self._cameras = cameras
        if cameras:
            self.cameras = tuple(cameras)
            if self._chosen not in cameras:
                self._chosen = self.cameras[0]

    def _instruction_topic(self) -> str:
        """The topic that the node hears instructions on."""
        namespace, _, name = self.title.rpartition("/")
        try:
            listens = dict(
                self._node.get_subscriber_names_and_types_by_node(name, namespace or "/")
            )
        except NodeNameNonExistentError:
            listens = {}
        texts = [topic for topic, kinds in listens.items() if "std_msgs/msg/String" in kinds]
        return texts[0] if texts else f"{namespace}/instruction"

    def _on_image(self, message: Any) -> None:
        now = self._clock()
        with self._condition:
            self._came_at = now
            self._waiting[stamp_ns(message.header)] = message
            while len(self._waiting) > _MAX_WAITING:
                self._waiting.popitem(last=False)
        if now - self._answered_at > _UNANSWERED_S:
            self._offer(message, None)

    def _on_tokens(self, message: Any) -> None:
        with self._condition:
            self._tokens[stamp_ns(message.header)] = token_grid(message)
            while len(self._tokens) > 2:
                self._tokens.popitem(last=False)

    def _on_objects(self, message: Any) -> None:
        stamp = stamp_ns(message.header)
        with self._condition:
            image = self._waiting.pop(stamp, None)
            for older in [key for key in self._waiting if key < stamp]:
                del self._waiting[older]
        self._answered_at = self._clock()
        if image is not None:
            self._offer(image, message)

    def _offer(self, image: Any, objects: Any | None) -> None:
        stamp = stamp_ns(image.header)
        latency = (int(self._node.get_clock().now().nanoseconds) - stamp) / 1e9
        with self._condition:
            tokens = self._tokens.get(stamp) or next(reversed(self._tokens.values()), None)
            answer = NodeAnswer(
                None if objects is None else grounding_of(objects),
                tokens,
                latency if objects is not None and 0 <= latency < 3600 else None,
            )
            self._ready = SourceFrame(
                self._count,
                self._clock() - self._start,
                self._cameras[self._chosen].image,
                partial(decode_message, image, self._settings),
                answer=answer,
            )
            self._count += 1
            self._condition.notify_all()

    def _on_diagnostics(self, message: Any) -> None:
        for status in message.status:
            if status.hardware_id != self.title:
                continue
            name = status.name.partition(": ")[2] or status.name
            values = tuple((entry.key, entry.value) for entry in status.values)
            level = int.from_bytes(status.level, "little")
            with self._condition:
                self._told_at = self._clock()
                self._statuses[name] = Status(name, level, status.message, values)


def _image_of(camera: str, images: dict[str, type[Any]], *, alone: bool) -> str | None:
    """Choose a camera's image topic among those that the node listens to."""
    if alone and images:
        return sorted(images)[0]
    return next((topic for topic in sorted(images) if f"/{camera}/" in topic), None)


def grounding_of(message: Any) -> Grounding:
    """Read a GroundedObjectArray back; its mask, where it has one, as uint8 [H, W]."""
    mask = None
    if message.mask.data:
        pixels = np.frombuffer(message.mask.data, np.uint8)
        mask = pixels.reshape(message.mask.height, message.mask.step)[:, : message.mask.width]
    return Grounding(
        str(message.instruction),
        int(message.instruction_id),
        tuple(map(str, message.phrases)),
        tuple(map(float, message.presence)),
        tuple(_object_of(item) for item in message.objects),
        str(message.contract),
        mask,
        mentions(message),
        float(message.confidence),
    )


def _object_of(item: Any) -> GroundedObject:
    box, position, extent = item.box, item.position, item.extent
    return GroundedObject(
        str(item.phrase),
        float(item.score),
        float(item.logit),
        Box(box.x_offset, box.y_offset, box.width, box.height),
        float(item.area),
        Role(int(item.role)),
        int(item.id),
        float(item.lost),
        (position.x, position.y, position.z),
        (extent.x, extent.y, extent.z),
        tuple(map(int, item.mentions)),
    )


def token_grid(message: Any) -> TokenGrid:
    """Read a TokenSequence back, in the memory of the message."""
    dtype = _DTYPES[int(message.dtype)]
    element = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}[dtype]
    data = np.frombuffer(message.data, element).reshape(-1, int(message.dim))
    grid = TokenGrid(data, dtype, int(message.rows), int(message.cols), "", "")
    return replace(grid, contract=str(message.contract), fingerprint=str(message.fingerprint))
