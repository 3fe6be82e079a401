"""The publishers of every camera's results, behind a gate."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import simplejpeg
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage
from siglip_perception_msgs.msg import GroundedObjectArray, TokenSequence

from siglip_perception.images.overlay import draw
from siglip_perception.messages.wire import as_array, tokens_message
from siglip_perception.node.conversions import detection_type, detections_message, rclpy_types
from siglip_perception.node.qos import QosWatch, output_qos, overridable
from siglip_perception.stream.camera_stream import PendingFrame
from siglip_perception.stream.content import JoinedTokens, published_objects
from siglip_perception.types import Frame, Grounding

if TYPE_CHECKING:
    # It imports PyTorch, which takes seconds.
    from siglip_perception.pipeline import Result


@dataclass(frozen=True)
class _Publishers:
    """tokens: None where the cameras' tokens are joined."""

    tokens: Any | None
    objects: Any
    overlay: Any
    detections: Any | None

    def all(self) -> list[Any]:
        every = (self.tokens, *self.of_objects())
        return [publisher for publisher in every if publisher is not None]

    def of_objects(self) -> list[Any]:
        """Those that publish something of the objects."""
        every = (self.objects, self.overlay, self.detections)
        return [publisher for publisher in every if publisher is not None]


class NodeOutputs:
    """Publishes while the gate is open: a frame's tokens and objects both, or neither."""

    def __init__(self, node: Node, watch: QosWatch) -> None:
        self._node = node
        self._watch = watch
        self._types = rclpy_types()
        self._lock = threading.Lock()
        self._open = False
        self._publishers: dict[str, _Publishers] = {}
        self._joined: Any | None = None

    def create(self, cameras: Sequence[str], joined: bool = False) -> None:
        """Creates ~/tokens and the like, and ~/<camera>/tokens for cameras with a name.

        joined: there is one ~/tokens for all cameras.
        """
        if joined:
            self._joined = self._create(TokenSequence, "~/tokens")
        detections = detection_type()
        for camera in cameras:
            prefix = f"~/{camera}/" if camera else "~/"
            self._publishers[camera] = _Publishers(
                tokens=None if joined else self._create(TokenSequence, f"{prefix}tokens"),
                objects=self._create(GroundedObjectArray, f"{prefix}objects"),
                overlay=self._create(CompressedImage, f"{prefix}overlay/compressed"),
                detections=self._create(detections, f"{prefix}detections") if detections else None,
            )

    def _create(self, kind: Any, topic: str) -> Any:
        return self._node.create_publisher(
            kind,
            topic,
            output_qos(),
            event_callbacks=self._watch.publisher(self._node.resolve_topic_name(topic)),
            qos_overriding_options=overridable(),
        )

    def all(self) -> list[Any]:
        """The publishers that there are."""
        every = [one for publishers in self._publishers.values() for one in publishers.all()]
        return every if self._joined is None else [*every, self._joined]

    def destroy(self) -> None:
        for publisher in self.all():
            self._watch.clear(publisher.topic_name)
            self._node.destroy_publisher(publisher)
        self._publishers.clear()
        self._joined = None

    def open(self) -> None:
        with self._lock:
            self._open = True

    def close(self) -> None:
        """Waits for a frame that is being published; nothing is published afterwards."""
        with self._lock:
            self._open = False

    def wants_mask(self, camera: str) -> bool:
        return bool(self._publishers[camera].overlay.get_subscription_count() > 0)

    def wants_objects(self, camera: str) -> bool:
        return any(
            publisher.get_subscription_count() > 0
            for publisher in self._publishers[camera].of_objects()
        )

    def publish_joined(self, tokens: JoinedTokens) -> bool:
        message = tokens.message(self._types)
        with self._lock:
            if self._open and self._joined is not None:
                self._joined.publish(message)
            return self._open

    def publish(self, pending: PendingFrame, result: Result, publish_mask: bool) -> bool:
        header = pending.message.header
        publishers = self._publishers[pending.camera]
        tokens = None
        if publishers.tokens is not None and result.tokens is not None:
            tokens = tokens_message(self._types, header, result.tokens)
        grounding = result.grounding
        objects = detections = None
        if grounding is not None:
            objects = published_objects(self._types, header, grounding, with_mask=publish_mask)
            if publishers.detections is not None:
                detections = detections_message(header, grounding)
        with self._lock:
            if not self._open:
                return False
            if tokens is not None and publishers.tokens is not None:
                publishers.tokens.publish(tokens)
            if objects is not None:
                publishers.objects.publish(objects)
            if detections is not None and publishers.detections is not None:
                publishers.detections.publish(detections)
        return True

    def publish_overlay(
        self, pending: PendingFrame, frame: Frame, result: Result, quality: int
    ) -> None:
        overlay = self._publishers[pending.camera].overlay
        if overlay.get_subscription_count() == 0:
            return
        contract = result.tokens.contract if result.tokens is not None else ""
        grounding = result.grounding or Grounding("", 0, (), (), (), contract)
        picture = draw(frame.image, grounding)
        data = simplejpeg.encode_jpeg(np.ascontiguousarray(picture), quality=quality)
        message = CompressedImage(
            header=pending.message.header,
            format="jpeg",
            data=as_array(np.frombuffer(data, np.uint8)),
        )
        with self._lock:
            if self._open:
                overlay.publish(message)
