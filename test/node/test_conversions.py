"""Messages -> Frame, and what other packages add where they are installed."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from array import array
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
import simplejpeg
from doubles import image_message
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from siglip_perception.config import Settings
from siglip_perception.errors import ImageError
from siglip_perception.node.conversions import (
    cv_bridge,
    detections_message,
    to_frame,
)
from siglip_perception.stream.stamp_check import stamp_ns
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
    with pytest.raises(ImageError) as excinfo:
        to_frame(image_message(), "", Settings(max_pixels=10))
    assert excinfo.value.reason == "too_large"
    png = CompressedImage(format="png")
    png.data.frombytes(cv2.imencode(".png", np.zeros((8, 16, 3), np.uint8))[1].tobytes())
    assert to_frame(png, "", Settings(max_pixels=2 * 8 * 16)).image.shape == (8, 16, 3)
    with pytest.raises(ImageError, match="takes as long to decode"):
        to_frame(png, "", Settings(max_pixels=8 * 16))
    gray = image_message(encoding="mono16", step=18)
    assert to_frame(gray, "", Settings(mono16_white=100)).image.shape == (4, 6, 3)


class FakeBridge:
    """Follows cv_bridge.CvBridge as far as steps go: a narrow one gives fewer columns."""

    error: Exception | None = None

    def imgmsg_to_cv2(self, message: Any, encoding: str) -> Any:
        assert encoding == "rgb8"
        if self.error is not None:
            raise self.error
        rows = np.frombuffer(message.data, np.uint8).reshape(message.height, -1, 2)
        gray = rows[:, : message.width, :1]
        return np.repeat(gray, 3, axis=2)


class CvBridgeError(TypeError):
    """Named as cv_bridge's."""


PARTS = ("cv_bridge", "cv_bridge.boost", "cv_bridge.boost.cv_bridge_boost")


@pytest.fixture
def fresh() -> Iterator[None]:
    cv_bridge.cache_clear()
    yield
    cv_bridge.cache_clear()


@pytest.fixture
def bridge(fresh: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A cv_bridge that works."""
    for name in PARTS:
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)
    package: Any = sys.modules["cv_bridge"]
    monkeypatch.setattr(FakeBridge, "error", None)
    package.CvBridge, package.CvBridgeError = FakeBridge, CvBridgeError
    return package


def two_channels(**changes: Any) -> Image:
    """4 x 6 pixels, each its own value in the first of two channels, with four bytes of padding
    in each row."""
    message = image_message(encoding="8UC2", step=16)
    values = np.zeros((4, 8, 2), np.uint8)
    values[:, :6, 0] = np.arange(24).reshape(4, 6)
    message.data = array("B", values.tobytes())
    for name, value in changes.items():
        setattr(message, name, value)
    return message


def test_other_encodings_are_converted_by_cv_bridge(bridge: Any) -> None:
    frame = to_frame(two_channels(), "", Settings())
    assert frame.image.dtype == np.uint8
    assert frame.image.flags.c_contiguous
    np.testing.assert_array_equal(frame.image[:, :, 1], np.arange(24).reshape(4, 6))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        # Between the width in pixels and the row's bytes: cv_bridge gives fewer columns.
        ({"width": 9}, "step 16 does not take 9 pixels"),
        ({"step": 8}, "64 bytes"),
        ({"height": 3}, "64 bytes"),
    ],
)
def test_what_cv_bridge_would_read_wrongly_is_malformed(
    bridge: Any, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ImageError, match=words) as excinfo:
        to_frame(two_channels(**changes), "", Settings())
    assert excinfo.value.reason == "malformed"


@pytest.mark.parametrize("error", [CvBridgeError("no"), TypeError("no"), ValueError("no")])
def test_what_cv_bridge_refuses_is_an_encoding(
    bridge: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(FakeBridge, "error", error)
    with pytest.raises(ImageError) as excinfo:
        to_frame(two_channels(), "", Settings())
    assert excinfo.value.reason == "encoding"


@pytest.mark.parametrize("failure", [PARTS[0], PARTS[2]])
def test_a_cv_bridge_that_cannot_be_imported_counts_as_none_and_is_told_once(
    bridge: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], failure: str
) -> None:
    real = importlib.import_module

    def built_for_another_numpy(name: str) -> Any:
        if name == failure:
            raise ImportError("numpy.core.multiarray failed to import")
        return real(name)

    monkeypatch.setattr(importlib, "import_module", built_for_another_numpy)
    for _ in range(3):
        with pytest.raises(ImageError) as excinfo:
            to_frame(two_channels(), "", Settings())
        assert excinfo.value.reason == "encoding"
    assert capfd.readouterr().err.count("multiarray failed to import") == 1


def test_other_encodings_are_refused_without_cv_bridge(
    fresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "cv_bridge" else real(name)
    )
    with pytest.raises(ImageError) as excinfo:
        to_frame(two_channels(), "", Settings())
    assert excinfo.value.reason == "encoding"


def test_the_real_cv_bridge_refuses_what_it_does_not_know() -> None:
    """Needs cv_bridge, which comes with a ROS 2 installation and not from PyPI."""
    pytest.importorskip("cv_bridge", reason="cv_bridge comes with ROS 2 only")
    with pytest.raises(ImageError) as excinfo:
        to_frame(image_message(encoding="64FC9", step=5), "", Settings())
    assert excinfo.value.reason in ("malformed", "encoding")


def test_detections() -> None:
    """Needs vision_msgs, which comes with a ROS 2 installation and not from PyPI."""
    pytest.importorskip("vision_msgs", reason="vision_msgs comes with ROS 2 only")
    result = GroundedObject("cup", 0.75, 1.0, Box(10, 20, 30, 40), 0.1)
    grounding = Grounding("cup", 1, ("cup",), (0.75,), (result,), "tabletop")
    (detection,) = detections_message(Header(frame_id="optical"), grounding).detections
    assert detection.results[0].hypothesis.class_id == "cup"
    assert (detection.bbox.center.position.x, detection.bbox.center.position.y) == (25, 40)
    assert (detection.bbox.size_x, detection.bbox.size_y) == (30, 40)
