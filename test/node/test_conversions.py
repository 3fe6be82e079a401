"""Messages -> Frame, and what other packages add where they are installed."""

from __future__ import annotations

import numpy as np
import pytest
import simplejpeg
from doubles import image_message
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header

from siglip_perception.config import Settings
from siglip_perception.errors import ImageError
from siglip_perception.node.conversions import (
    cv_bridge_installed,
    detections_message,
    stamp_ns,
    to_frame,
)
from siglip_perception.types import Box, GroundedObject, Grounding


def test_a_raw_image() -> None:
    frame = to_frame(image_message(stamp=3.25), "wrist", Settings())
    assert (frame.height, frame.width, frame.camera) == (4, 6, "wrist")
    assert (frame.stamp_ns, frame.frame_id) == (3_250_000_000, "optical")


def test_a_compressed_image() -> None:
    message = CompressedImage(header=Header(frame_id="optical"), format="jpeg")
    message.data.frombytes(simplejpeg.encode_jpeg(np.full((8, 16, 3), 90, np.uint8)))
    frame = to_frame(message, "", Settings())
    assert frame.image.shape == (8, 16, 3)
    assert abs(int(frame.image[4, 4, 0]) - 90) <= 2
    assert stamp_ns(message.header) == 0


def test_limits_come_from_the_settings() -> None:
    with pytest.raises(ImageError) as caught:
        to_frame(image_message(), "", Settings(max_pixels=10))
    assert caught.value.reason == "too_large"
    grey = image_message(encoding="mono16", step=18)
    assert to_frame(grey, "", Settings(mono16_white=100)).image.shape == (4, 6, 3)


@pytest.mark.skipif(cv_bridge_installed(), reason="cv_bridge takes it")
def test_other_encodings_are_refused_without_cv_bridge() -> None:
    with pytest.raises(ImageError) as caught:
        to_frame(image_message(encoding="8UC2"), "", Settings())
    assert caught.value.reason == "encoding"


def test_other_encodings_go_through_cv_bridge() -> None:
    """Needs cv_bridge, which comes with a ROS 2 installation and not from PyPI."""
    pytest.importorskip("cv_bridge", reason="cv_bridge comes with ROS 2 only")
    with pytest.raises(ImageError) as caught:
        to_frame(image_message(encoding="64FC9", step=5), "", Settings())
    assert caught.value.reason in ("malformed", "encoding")


def test_detections() -> None:
    """Needs vision_msgs, which comes with a ROS 2 installation and not from PyPI."""
    pytest.importorskip("vision_msgs", reason="vision_msgs comes with ROS 2 only")
    found = GroundedObject("cup", 0.75, 1.0, Box(10, 20, 30, 40), 0.1)
    grounding = Grounding("cup", 1, ("cup",), (0.75,), (found,), "tabletop")
    (detection,) = detections_message(Header(frame_id="optical"), grounding).detections
    assert detection.results[0].hypothesis.class_id == "cup"
    assert (detection.bbox.center.position.x, detection.bbox.center.position.y) == (25, 40)
    assert (detection.bbox.size_x, detection.bbox.size_y) == (30, 40)
