"""Parts of a replayed bag to look at: its pictures, overlays, and annotations of them.

Foxglove draws foxglove_msgs/ImageAnnotations over the picture whose stamp they have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import simplejpeg
from rosbags.interfaces import Connection
from rosbags.rosbag2 import Writer
from rosbags.typesys import get_types_from_msg
from rosbags.typesys.store import Typestore

from siglip_perception.bags.messages import COMPRESSED
from siglip_perception.bags.topics import under
from siglip_perception.images.overlay import PALETTE, draw, drawable, outlines
from siglip_perception.stream.camera_stream import PendingFrame
from siglip_perception.types import Frame, GroundedObject, Grounding

_FOXGLOVE = "foxglove_msgs/msg"
ANNOTATIONS = f"{_FOXGLOVE}/ImageAnnotations"
# The fields of Foxglove's schemas of these names, for ROS 2.
_DEFINITIONS = {
    "Point2": "float64 x\nfloat64 y\n",
    "Color": "float64 r\nfloat64 g\nfloat64 b\nfloat64 a\n",
    "CircleAnnotation": "builtin_interfaces/Time timestamp\nfoxglove_msgs/Point2 position\n"
    "float64 diameter\nfloat64 thickness\nfoxglove_msgs/Color fill_color\n"
    "foxglove_msgs/Color outline_color\n",
    "PointsAnnotation": "builtin_interfaces/Time timestamp\nuint8 UNKNOWN=0\nuint8 POINTS=1\n"
    "uint8 LINE_LOOP=2\nuint8 LINE_STRIP=3\nuint8 LINE_LIST=4\nuint8 type\n"
    "foxglove_msgs/Point2[] points\nfoxglove_msgs/Color outline_color\n"
    "foxglove_msgs/Color[] outline_colors\nfoxglove_msgs/Color fill_color\nfloat64 thickness\n",
    "TextAnnotation": "builtin_interfaces/Time timestamp\nfoxglove_msgs/Point2 position\n"
    "string text\nfloat64 font_size\nfoxglove_msgs/Color text_color\n"
    "foxglove_msgs/Color background_color\n",
    "ImageAnnotations": "builtin_interfaces/Time timestamp\n"
    "foxglove_msgs/CircleAnnotation[] circles\nfoxglove_msgs/PointsAnnotation[] points\n"
    "foxglove_msgs/TextAnnotation[] texts\n",
}
_LINE_LOOP = 2
_JPEG_QUALITY = 80
# What is lost is drawn fainter.
_LOST_ALPHA = 0.4


class BagPictures:
    """Writes the pictures that were taken, and for grounded ones an overlay and annotations.

    cameras: the camera's name for each image topic. The picture's topic keeps its name; its type
    is ROS 2's, whatever it was stored as.
    """

    def __init__(self, store: Typestore, writer: Writer, cameras: Mapping[str, str]) -> None:
        types: dict[str, Any] = {}
        for name, definition in _DEFINITIONS.items():
            types.update(get_types_from_msg(definition, f"{_FOXGLOVE}/{name}"))
        store.register(types)
        self._store = store
        self._writer = writer
        self._pictures: dict[tuple[str, str], Connection] = {}
        self._overlays: dict[str, Connection] = {}
        self._annotations: dict[str, Connection] = {}
        for camera in cameras.values():
            self._overlays[camera] = self._connect(under(camera, "overlay/compressed"), COMPRESSED)
            self._annotations[camera] = self._connect(under(camera, "annotations"), ANNOTATIONS)

    def write_picture(self, pending: PendingFrame) -> None:
        """Write the image's own message."""
        topic, kind = pending.stream.topic, str(pending.message.__msgtype__)
        if (topic, kind) not in self._pictures:
            self._pictures[topic, kind] = self._connect(topic, kind)
        self._write(self._pictures[topic, kind], pending, pending.message)

    def write_views(self, pending: PendingFrame, frame: Frame, grounding: Grounding) -> None:
        """Write the overlay and the annotations; the grounding has a mask."""
        types = self._store.types
        jpeg = simplejpeg.encode_jpeg(
            np.ascontiguousarray(draw(frame.image, grounding)), quality=_JPEG_QUALITY
        )
        overlay = types[COMPRESSED](
            header=pending.message.header, format="jpeg", data=np.frombuffer(jpeg, np.uint8)
        )
        self._write(self._overlays[pending.camera], pending, overlay)
        annotations = self._annotations_of(pending.message.header.stamp, frame, grounding)
        self._write(self._annotations[pending.camera], pending, annotations)

    def _annotations_of(self, stamp: Any, frame: Frame, grounding: Grounding) -> Any:
        shapes = outlines(grounding)
        numbers = {id(item): number for number, item in enumerate(grounding.objects)}
        points, texts = [], []
        for item in drawable(grounding.objects):
            color = PALETTE[grounding.phrases.index(item.phrase) % len(PALETTE)]
            for polygon in shapes[numbers[id(item)]] or [_corners(item)]:
                points.append(self._loop(stamp, frame, polygon, color, item))
            texts.append(self._text(stamp, frame, color, item))
        make = self._store.types[ANNOTATIONS]
        return make(timestamp=stamp, circles=[], points=points, texts=texts)

    def _loop(
        self,
        stamp: Any,
        frame: Frame,
        polygon: Sequence[int],
        color: tuple[int, int, int],
        item: GroundedObject,
    ) -> Any:
        types = self._store.types
        point = types[f"{_FOXGLOVE}/Point2"]
        corners = [
            point(x=x + 0.5, y=y + 0.5) for x, y in zip(polygon[::2], polygon[1::2], strict=True)
        ]
        return types[f"{_FOXGLOVE}/PointsAnnotation"](
            timestamp=stamp,
            type=_LINE_LOOP,
            points=corners,
            outline_color=self._color(color, _LOST_ALPHA if item.lost else 1.0),
            outline_colors=[],
            fill_color=self._color(color, 0.0),
            thickness=max(2.0, min(frame.width, frame.height) / 200),
        )

    def _text(
        self, stamp: Any, frame: Frame, color: tuple[int, int, int], item: GroundedObject
    ) -> Any:
        types = self._store.types
        number = f" #{item.id}" if item.id else ""
        lost = f" lost {item.lost:.1f} s" if item.lost else ""
        return types[f"{_FOXGLOVE}/TextAnnotation"](
            timestamp=stamp,
            position=types[f"{_FOXGLOVE}/Point2"](x=float(item.box.x), y=float(item.box.y)),
            text=f"{item.phrase} {item.score:.2f}{number}{lost}",
            font_size=max(12.0, min(frame.width, frame.height) / 30),
            text_color=self._color((16, 16, 20), 1.0),
            background_color=self._color(color, _LOST_ALPHA if item.lost else 1.0),
        )

    def _color(self, color: tuple[int, int, int], alpha: float) -> Any:
        red, green, blue = (value / 255 for value in color)
        return self._store.types[f"{_FOXGLOVE}/Color"](r=red, g=green, b=blue, a=alpha)

    def _connect(self, topic: str, kind: str) -> Connection:
        return self._writer.add_connection(topic, kind, typestore=self._store)

    def _write(self, connection: Connection, pending: PendingFrame, message: Any) -> None:
        data = self._store.serialize_cdr(message, connection.msgtype)
        self._writer.write(connection, pending.received_ns, data)


def _corners(item: GroundedObject) -> list[int]:
    box = item.box
    right, bottom = box.x + box.width - 1, box.y + box.height - 1
    return [box.x, box.y, right, box.y, right, bottom, box.x, bottom]
