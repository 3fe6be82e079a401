"""Deserialization of a bag's messages, with one canonical name for each type.

An image becomes a sensor_msgs/Image or CompressedImage of ROS 2, whether it is stored as that, as
a ROS 1 message, or as one of Foxglove's in CDR, Protobuf or JSON.
"""

from __future__ import annotations

import base64
import json
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from siglip_perception.config import Settings
from siglip_perception.errors import ImageError
from siglip_perception.images.decode import convert, decode_compressed
from siglip_perception.images.files import Picture

MESSAGES = Path(__file__).parent.parent / "messages"
PACKAGE = "siglip_perception_msgs/msg"
RAW = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
STRING = "std_msgs/msg/String"
_FOXGLOVE_RAW = "foxglove_msgs/msg/RawImage"
_FOXGLOVE_COMPRESSED = "foxglove_msgs/msg/CompressedImage"
_FOXGLOVE_DEFINITIONS = {
    _FOXGLOVE_COMPRESSED: "builtin_interfaces/Time timestamp\nstring frame_id\nuint8[] data\n"
    "string format\n",
    _FOXGLOVE_RAW: "builtin_interfaces/Time timestamp\nstring frame_id\nuint32 width\n"
    "uint32 height\nstring encoding\nuint32 step\nuint8[] data\n",
}
# Field numbers in foxglove/CompressedImage.proto and RawImage.proto.
_PROTOBUF_FIELDS = {
    _FOXGLOVE_COMPRESSED: {"timestamp": 1, "data": 2, "format": 3, "frame_id": 4},
    _FOXGLOVE_RAW: {
        "timestamp": 1,
        "width": 2,
        "height": 3,
        "encoding": 4,
        "step": 5,
        "data": 6,
        "frame_id": 7,
    },
}
# Types of video streams, whose packets cannot be decoded one by one, with a description.
VIDEO = {
    "ffmpeg_image_transport_msgs/msg/FFMPEGPacket": "video packets of ffmpeg_image_transport",
    "foxglove_msgs/msg/CompressedVideo": "video packets",
    "theora_image_transport/msg/Packet": "video packets of theora_image_transport",
}


@dataclass(frozen=True)
class BagTopic:
    """A topic of a bag, with one type.

    type: the canonical name (see canonical_type). stored_type: the name in the bag.
    encoding: of the messages, "cdr" in nearly all bags.
    definition: the type's definition in the bag, "" without one.
    count: number of messages in the bag's files.
    listed_count: number of messages by metadata.yaml, None if it does not list the topic.
    """

    name: str
    type: str
    stored_type: str
    encoding: str
    definition: str
    count: int
    listed_count: int | None = None


def typestore() -> Typestore:
    """Return a store of ROS 2 Jazzy's standard messages and this project's own."""
    store = get_typestore(Stores.ROS2_JAZZY)
    types: dict[str, Any] = {}
    for path in sorted(MESSAGES.glob("*.msg")):
        types.update(get_types_from_msg(path.read_text(), f"{PACKAGE}/{path.stem}"))
    store.register(types)
    return store


def canonical_type(name: str) -> str:
    """Return package/msg/Type for every spelling of a type; names of another form unchanged.

    sensor_msgs/Image, sensor_msgs/msg/Image, sensor_msgs::msg::dds_::Image_ and
    sensor_msgs.msg.Image are one type; foxglove.CompressedImage is
    foxglove_msgs/msg/CompressedImage.
    """
    parts = [part for part in re.split(r"/|::|\.", name.strip()) if part not in ("msg", "dds_")]
    if len(parts) != 2 or not all(parts):
        return name
    package, kind = parts
    if package == "foxglove":
        package = "foxglove_msgs"
    return f"{package}/msg/{kind.removesuffix('_')}"


def image_type(topic: BagTopic) -> str:
    """Return the type that an image topic is read as, RAW or COMPRESSED; "" for other topics."""
    return {
        RAW: RAW,
        COMPRESSED: COMPRESSED,
        _FOXGLOVE_RAW: RAW,
        _FOXGLOVE_COMPRESSED: COMPRESSED,
    }.get(topic.type, "")


def readable(topic: BagTopic) -> bool:
    """Return True if messages in the topic's encoding can be read."""
    return _reader(topic) is not None


def deserialize(store: Typestore, topic: BagTopic, data: bytes) -> Any:
    """Deserialize a message to the types of `store`; see the module.

    Raises ImageError `malformed` if the bytes are not such a message.
    """
    reader = _reader(topic)
    if reader is None:
        raise ImageError(
            "malformed", f"messages encoded as {topic.encoding!a} cannot be read; record CDR."
        )
    try:
        return reader(store, topic, data)
    except Exception as error:  # rosbags raises many kinds of errors for broken bytes
        raise ImageError("malformed", "the message's bytes cannot be read.") from error


def decode_image(
    message: Any, message_type: str, max_pixels: int, mono16_white: int = Settings.mono16_white
) -> Picture:
    """Decode a sensor_msgs/Image or CompressedImage; raises ImageError."""
    if message_type == COMPRESSED:
        return decode_compressed(
            message.format, message.data, max_pixels=max_pixels, mono16_white=mono16_white
        )
    pixels = convert(
        message.encoding,
        message.height,
        message.width,
        message.step,
        bool(message.is_bigendian),
        message.data,
        max_pixels=max_pixels,
        mono16_white=mono16_white,
    )
    return Picture(pixels, 1, message.encoding)


_Reader = Callable[[Typestore, BagTopic, bytes], Any]


def _reader(topic: BagTopic) -> _Reader | None:
    encoding = topic.encoding.lower()
    if topic.type in _PROTOBUF_FIELDS:
        return {"cdr": _foxglove_cdr, "protobuf": _protobuf, "json": _json}.get(encoding)
    return {"cdr": _cdr, "ros1": _ros1}.get(encoding)


def _cdr(store: Typestore, topic: BagTopic, data: bytes) -> Any:
    return store.deserialize_cdr(data, topic.type)


def _ros1(store: Typestore, topic: BagTopic, data: bytes) -> Any:
    """Deserialize a ROS 1 message, as in MCAP files that were converted from ROS 1 bags."""
    message = _ros1_store().deserialize_ros1(data, topic.type)
    return _convert_ros1(store, message)


@lru_cache(maxsize=1)
def _ros1_store() -> Typestore:
    return get_typestore(Stores.ROS1_NOETIC)


def _convert_ros1(store: Typestore, message: Any) -> Any:
    """Convert to the type of the same name in `store`, without fields that only ROS 1 has."""
    kind: Any = store.types.get(getattr(message, "__msgtype__", ""))
    if kind is None:
        return message
    # ROS 1 writes CameraInfo's matrices with capitals.
    return kind(
        **{
            name: _convert_ros1(
                store, getattr(message, name, getattr(message, name.upper(), None))
            )
            for name in kind.__dataclass_fields__
            if not name.startswith("__")
        }
    )


def _foxglove_cdr(store: Typestore, topic: BagTopic, data: bytes) -> Any:
    foxglove_store = _foxglove_store(topic.type, topic.definition)
    message: Any = foxglove_store.deserialize_cdr(data, topic.type)
    stamp = message.timestamp
    fields = {name: getattr(message, name, "") for name in _PROTOBUF_FIELDS[topic.type]}
    return _foxglove_image(store, topic.type, {**fields, "timestamp": (stamp.sec, stamp.nanosec)})


@lru_cache(maxsize=4)
def _foxglove_store(kind: str, definition: str) -> Typestore:
    """Return a store with a Foxglove type, by the bag's definition: old ones lack frame_id."""
    store = get_typestore(Stores.ROS2_JAZZY)
    types = get_types_from_msg(definition or _FOXGLOVE_DEFINITIONS[kind], kind)
    store.register({name: fields for name, fields in types.items() if name == kind})
    return store


def _protobuf(store: Typestore, topic: BagTopic, data: bytes) -> Any:
    values = _protobuf_fields(data)
    fields: dict[str, Any] = {
        name: values.get(number) for name, number in _PROTOBUF_FIELDS[topic.type].items()
    }
    stamp = _protobuf_fields(fields["timestamp"] or b"")
    fields["timestamp"] = (stamp.get(1, 0), stamp.get(2, 0))
    for name in ("format", "encoding", "frame_id"):
        fields[name] = (fields.get(name) or b"").decode()
    return _foxglove_image(store, topic.type, fields)


def _protobuf_fields(data: bytes) -> dict[int, Any]:
    """Return field number -> value: an int, or the bytes of a string or message.

    The last value of a repeated number counts. See protobuf.dev/programming-guides/encoding.
    Raises ValueError or struct.error.
    """
    fields: dict[int, Any] = {}
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
            if shift > 63:
                raise ValueError("a varint is longer than 10 bytes")

    while position < len(data):
        key = varint()
        number, kind = key >> 3, key & 7
        if kind == 0:
            fields[number] = varint()
        elif kind == 2:
            length = varint()
            if position + length > len(data):
                raise ValueError("a field is cut off")
            fields[number] = data[position : position + length]
            position += length
        elif kind in (1, 5):
            layout = "<Q" if kind == 1 else "<I"
            (fields[number],) = struct.unpack_from(layout, data, position)
            position += struct.calcsize(layout)
        else:
            raise ValueError(f"there is no wire type {kind}")
    return fields


def _json(store: Typestore, topic: BagTopic, data: bytes) -> Any:
    fields = json.loads(data)
    stamp = fields.get("timestamp") or {}
    fields["timestamp"] = (stamp.get("sec", 0), stamp.get("nsec", 0))
    fields["data"] = base64.b64decode(fields.get("data", ""), validate=True)
    return _foxglove_image(store, topic.type, fields)


def _foxglove_image(store: Typestore, kind: str, fields: Mapping[str, Any]) -> Any:
    types = store.types
    seconds, nanoseconds = fields["timestamp"]
    stamp = types["builtin_interfaces/msg/Time"](sec=int(seconds), nanosec=int(nanoseconds))
    header = types["std_msgs/msg/Header"](stamp=stamp, frame_id=str(fields.get("frame_id") or ""))
    pixels = fields["data"]
    pixels = pixels if isinstance(pixels, np.ndarray) else np.frombuffer(pixels or b"", np.uint8)
    if kind == _FOXGLOVE_COMPRESSED:
        return types[COMPRESSED](header=header, format=str(fields["format"]), data=pixels)
    return types[RAW](
        header=header,
        height=int(fields["height"] or 0),
        width=int(fields["width"] or 0),
        encoding=str(fields["encoding"]),
        is_bigendian=0,
        step=int(fields["step"] or 0),
        data=pixels,
    )
