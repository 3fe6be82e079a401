"""Publishers of every camera's results, behind a gate."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import simplejpeg
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image
from siglip_perception_msgs.msg import GroundedObjectArray, TokenSequence
from visualization_msgs.msg import MarkerArray

from siglip_perception.images.overlay import draw
from siglip_perception.messages.wire import as_array, tokens_message
from siglip_perception.node.conversions import (
    detection_types,
    detections3d_message,
    detections_message,
    rclpy_types,
)
from siglip_perception.node.markers import Markers
from siglip_perception.node.qos import QosWatch, output_qos, overridable
from siglip_perception.stream.camera_stream import PendingFrame
from siglip_perception.stream.content import JoinedTokens, published_objects
from siglip_perception.types import Frame, Grounding, UInt8Array

if TYPE_CHECKING:
    # Imports PyTorch, which takes seconds.
    from siglip_perception.pipeline import Result


@dataclass(frozen=True)
class _Publishers:
    """Publishers of one camera. tokens: None if the cameras' tokens are joined."""

    tokens: Any | None
    objects: Any
    overlay: Any
    raw_overlay: Any
    markers: Any
    detections: Any | None
    detections3d: Any | None

    def all(self) -> list[Any]:
        publishers = (self.tokens, *self.for_objects())
        return [publisher for publisher in publishers if publisher is not None]

    def for_objects(self) -> list[Any]:
        """Return the publishers that need the frame's objects."""
        publishers = (
            *(self.objects, self.overlay, self.raw_overlay, self.markers),
            *(self.detections, self.detections3d),
        )
        return [publisher for publisher in publishers if publisher is not None]


class NodeOutputs:
    """Publishes while the gate is open: a frame's tokens and objects, both or neither."""

    def __init__(self, node: Node, watch: QosWatch) -> None:
        self._node = node
        self._watch = watch
        self._types = rclpy_types()
        self._lock = threading.Lock()
        self._open = False
        self._publishers: dict[str, _Publishers] = {}
        self._joined_tokens: Any | None = None
        self._markers: dict[str, Markers] = {}

    def create(self, cameras: Sequence[str], joins_tokens: bool = False) -> None:
        """Create ~/tokens and the like; ~/<camera>/tokens and the like for named cameras.

        joins_tokens: all cameras share one ~/tokens.
        """
        if joins_tokens:
            self._joined_tokens = self._create(TokenSequence, "~/tokens")
        detections, detections3d = detection_types()
        for camera in cameras:
            prefix = f"~/{camera}/" if camera else "~/"
            self._publishers[camera] = _Publishers(
                tokens=None if joins_tokens else self._create(TokenSequence, f"{prefix}tokens"),
                objects=self._create(GroundedObjectArray, f"{prefix}objects"),
                overlay=self._create(CompressedImage, f"{prefix}overlay/compressed"),
                raw_overlay=self._create(Image, f"{prefix}overlay"),
                markers=self._create(MarkerArray, f"{prefix}markers"),
                detections=self._create(detections, f"{prefix}detections") if detections else None,
                detections3d=self._create(detections3d, f"{prefix}detections3d")
                if detections3d
                else None,
            )
            self._markers[camera] = Markers()

    def _create(self, kind: Any, topic: str) -> Any:
        return self._node.create_publisher(
            kind,
            topic,
            output_qos(),
            event_callbacks=self._watch.publisher(self._node.resolve_topic_name(topic)),
            qos_overriding_options=overridable(),
        )

    def all(self) -> list[Any]:
        """Return every publisher."""
        publishers = [
            publisher for camera in self._publishers.values() for publisher in camera.all()
        ]
        if self._joined_tokens is not None:
            publishers.append(self._joined_tokens)
        return publishers

    def destroy(self) -> None:
        for publisher in self.all():
            self._watch.clear(publisher.topic_name)
            self._node.destroy_publisher(publisher)
        self._publishers.clear()
        self._markers.clear()
        self._joined_tokens = None

    def open(self) -> None:
        with self._lock:
            self._open = True

    def close(self) -> None:
        """Wait for the frame being published, then publish nothing until open()."""
        with self._lock:
            self._open = False

    def wants_mask(self, camera: str) -> bool:
        publishers = self._publishers[camera]
        return _has_subscriber(publishers.overlay) or _has_subscriber(publishers.raw_overlay)

    def wants_objects(self, camera: str) -> bool:
        return any(map(_has_subscriber, self._publishers[camera].for_objects()))

    def publish_joined(self, tokens: JoinedTokens) -> bool:
        message = tokens.message(self._types)
        with self._lock:
            if self._open and self._joined_tokens is not None:
                self._joined_tokens.publish(message)
            return self._open

    def publish(self, pending: PendingFrame, result: Result, publish_mask: bool) -> bool:
        header = pending.message.header
        publishers = self._publishers[pending.camera]
        tokens = None
        if publishers.tokens is not None and result.tokens is not None:
            tokens = tokens_message(self._types, header, result.tokens)
        grounding = result.grounding
        messages: list[tuple[Any, Any]] = []
        if publishers.tokens is not None and tokens is not None:
            messages.append((publishers.tokens, tokens))
        if grounding is not None:
            objects = published_objects(self._types, header, grounding, with_mask=publish_mask)
            messages.append((publishers.objects, objects))
            if _has_subscriber(publishers.detections):
                messages.append((publishers.detections, detections_message(header, grounding)))
            if _has_subscriber(publishers.detections3d):
                messages.append((publishers.detections3d, detections3d_message(header, grounding)))
        with self._lock:
            if not self._open:
                return False
            for publisher, message in messages:
                publisher.publish(message)
        return True

    def publish_views(
        self, pending: PendingFrame, frame: Frame, result: Result, quality: int
    ) -> None:
        """Publish what people look at: overlay and markers, each only if it has a subscriber.

        quality: of the overlay's JPEG, 1 to 100. A frame without objects has an overlay, too, and
        deletes the markers.
        """
        publishers = self._publishers[pending.camera]
        header = pending.message.header
        messages: list[tuple[Any, Any]] = []
        if self.wants_mask(pending.camera):
            contract = result.tokens.contract if result.tokens is not None else ""
            grounding = result.grounding or Grounding("", 0, (), (), (), contract)
            picture = np.ascontiguousarray(draw(frame.image, grounding))
            if _has_subscriber(publishers.overlay):
                message = _jpeg_message(header, picture, quality)
                messages.append((publishers.overlay, message))
            if _has_subscriber(publishers.raw_overlay):
                messages.append((publishers.raw_overlay, _image_message(header, picture)))
        if _has_subscriber(publishers.markers):
            markers = self._markers[pending.camera].message(header, result.grounding)
            messages.append((publishers.markers, markers))
        with self._lock:
            if self._open:
                for publisher, message in messages:
                    publisher.publish(message)


def _has_subscriber(publisher: Any | None) -> bool:
    return publisher is not None and bool(publisher.get_subscription_count() > 0)


def _jpeg_message(header: Any, picture: UInt8Array, quality: int) -> CompressedImage:
    data = np.frombuffer(simplejpeg.encode_jpeg(picture, quality=quality), np.uint8)
    return CompressedImage(header=header, format="jpeg", data=as_array(data))


def _image_message(header: Any, picture: UInt8Array) -> Image:
    height, width = picture.shape[:2]
    return Image(
        header=header,
        height=height,
        width=width,
        encoding="rgb8",
        step=3 * width,
        data=as_array(picture),
    )
