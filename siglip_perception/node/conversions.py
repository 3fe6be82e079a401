"""Conversion of ROS messages to frames, and the message classes of the installed ROS 2."""

from __future__ import annotations

import importlib
import importlib.util
from functools import lru_cache
from typing import Any

import numpy as np
from geometry_msgs.msg import Point, Vector3
from rclpy.logging import get_logger
from sensor_msgs.msg import CompressedImage, Image, RegionOfInterest
from siglip_perception_msgs.msg import (
    GroundedObject,
    GroundedObjectArray,
    Mention,
    TokenSequence,
)
from std_msgs.msg import Header

from siglip_perception.config import Settings
from siglip_perception.errors import ImageError
from siglip_perception.images.checks import check_size
from siglip_perception.images.decode import convert, decode_compressed
from siglip_perception.images.encodings import ENCODINGS, refused_encoding
from siglip_perception.images.files import Picture
from siglip_perception.messages.wire import MessageTypes, as_array, as_float_array, as_uint_array
from siglip_perception.node.markers import box_pose
from siglip_perception.stream.stamp_check import stamp_ns
from siglip_perception.types import Frame, Grounding, UInt8Array


def rclpy_types() -> MessageTypes:
    """Return rclpy's classes for the messages that wire.py fills."""
    return MessageTypes(
        Header=Header,
        Image=Image,
        RegionOfInterest=RegionOfInterest,
        Point=Point,
        Vector3=Vector3,
        TokenSequence=TokenSequence,
        GroundedObject=GroundedObject,
        GroundedObjectArray=GroundedObjectArray,
        Mention=Mention,
        uint8_array=as_array,
        float32_array=as_float_array,
        uint32_array=as_uint_array,
    )


def decode_message(message: Any, settings: Settings) -> Picture:
    """Decode a sensor_msgs/Image or CompressedImage; raises ImageError."""
    if isinstance(message, CompressedImage):
        return decode_compressed(
            message.format,
            message.data,
            max_pixels=settings.max_pixels,
            mono16_white=settings.mono16_white,
            max_work=settings.max_pixels,
        )
    return Picture(_raw(message, settings), 1, message.encoding)


def to_frame(message: Any, camera: str, settings: Settings) -> Frame:
    """Convert an Image or CompressedImage that comes from no stream; raises ImageError."""
    picture = decode_message(message, settings)
    return Frame(
        picture.pixels,
        stamp_ns(message.header),
        message.header.frame_id,
        camera,
        repairs=picture.repairs,
    )


def _raw(message: Image, settings: Settings) -> UInt8Array:
    if message.encoding not in ENCODINGS and (bridge := cv_bridge()) is not None:
        return _by_cv_bridge(bridge, message, settings)
    return convert(
        message.encoding,
        message.height,
        message.width,
        message.step,
        bool(message.is_bigendian),
        message.data,
        max_pixels=settings.max_pixels,
        mono16_white=settings.mono16_white,
    )


@lru_cache(maxsize=1)
def cv_bridge() -> Any | None:
    """Import cv_bridge; None if it is not installed or (logged once) does not work."""
    if importlib.util.find_spec("cv_bridge") is None:
        return None
    try:
        module = importlib.import_module("cv_bridge")
        # A compiled part built for another numpy would fail only on the first image: try it now.
        importlib.import_module("cv_bridge.boost.cv_bridge_boost")
    except Exception as error:  # noqa: BLE001 - treat a broken cv_bridge like a missing one
        lines = str(error).strip().splitlines() or [""]
        get_logger("siglip_perception").warning(
            "cv_bridge is installed but cannot be imported, so images that need it are refused "
            f"({type(error).__name__}: {lines[0][:200]})"
        )
        return None
    return module


def _by_cv_bridge(bridge: Any, message: Image, settings: Settings) -> UInt8Array:
    """Convert an encoding that convert() does not know; raises ImageError."""
    check_size(message.height, message.width, settings.max_pixels)
    # cv_bridge's Python side does not check the step and returns garbage for a wrong one.
    if message.step * message.height != len(message.data):
        raise ImageError(
            "malformed",
            f"the image's data have {len(message.data)} bytes, which {message.height} rows of "
            f"step {message.step} do not take.",
        )
    try:
        pixels = bridge.CvBridge().imgmsg_to_cv2(message, "rgb8")
    except (bridge.CvBridgeError, TypeError, ValueError) as error:
        raise refused_encoding(message.encoding) from error
    if pixels.shape != (message.height, message.width, 3):
        raise ImageError(
            "malformed",
            f"the image's step {message.step} does not take {message.width} pixels of its "
            "encoding.",
        )
    return np.ascontiguousarray(pixels, np.uint8)


@lru_cache(maxsize=1)
def detection_types() -> tuple[Any, Any] | tuple[None, None]:
    """Return vision_msgs' Detection2DArray and Detection3DArray; None if it is not installed."""
    if importlib.util.find_spec("vision_msgs") is None:
        return None, None
    from vision_msgs.msg import Detection2DArray, Detection3DArray

    return Detection2DArray, Detection3DArray


def detections_message(header: Any, grounding: Grounding) -> Any:
    """Fill a vision_msgs/Detection2DArray.

    class_id is the phrase, the box is given by center and size, and id is the tracked object's,
    empty without tracking.
    """
    from vision_msgs.msg import (
        BoundingBox2D,
        Detection2D,
        Detection2DArray,
        ObjectHypothesis,
        ObjectHypothesisWithPose,
    )

    result = Detection2DArray(header=header)
    for item in grounding.objects:
        box = BoundingBox2D(size_x=float(item.box.width), size_y=float(item.box.height))
        box.center.position.x = item.box.x + item.box.width / 2
        box.center.position.y = item.box.y + item.box.height / 2
        hypothesis = ObjectHypothesis(class_id=item.phrase, score=float(item.score))
        result.detections.append(
            Detection2D(
                header=header,
                id=str(item.id) if item.id else "",
                results=[ObjectHypothesisWithPose(hypothesis=hypothesis)],
                bbox=box,
            )
        )
    return result


def detections3d_message(header: Any, grounding: Grounding) -> Any:
    """Fill a vision_msgs/Detection3DArray with the objects that have a position.

    class_id is the phrase, and id the tracked object's, empty without tracking. The box's axes are
    those of the image's frame, a camera's optical one (REP 103): its orientation is the identity.
    """
    from vision_msgs.msg import (
        BoundingBox3D,
        Detection3D,
        Detection3DArray,
        ObjectHypothesis,
        ObjectHypothesisWithPose,
    )

    result = Detection3DArray(header=header)
    for item in grounding.objects:
        if not np.isfinite((*item.position, *item.extent)).all():
            continue
        size = Vector3(**dict(zip("xyz", map(float, item.extent), strict=True)))
        hypothesis = ObjectHypothesisWithPose(
            hypothesis=ObjectHypothesis(class_id=item.phrase, score=float(item.score))
        )
        hypothesis.pose.pose = box_pose(item)
        result.detections.append(
            Detection3D(
                header=header,
                id=str(item.id) if item.id else "",
                results=[hypothesis],
                bbox=BoundingBox3D(center=box_pose(item), size=size),
            )
        )
    return result
