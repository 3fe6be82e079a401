"""Markers and 3-D detections: places, frames and stamps, and what is deleted when."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from builtin_interfaces.msg import Time
from std_msgs.msg import Header
from visualization_msgs.msg import Marker

from siglip_perception.grounding.depth import locate
from siglip_perception.images.overlay import PALETTE
from siglip_perception.node.conversions import detections3d_message
from siglip_perception.node.markers import Markers
from siglip_perception.types import Box, Depth, GroundedObject, Grounding

HEADER = Header(stamp=Time(sec=7, nanosec=5), frame_id="camera_color_optical_frame")
CUP = GroundedObject(
    "red cup", 0.91, 2.3, Box(0, 0, 9, 9), 0.1, id=4, position=(0.1, 0.2, 0.8), extent=(0.1,) * 3
)
PLATE = replace(CUP, phrase="plate", id=9, position=(0.3, 0.2, 0.9), extent=(0.2, 0.3, 0.0))


def grounding(*objects: GroundedObject) -> Grounding:
    return Grounding("go", 1, ("red cup", "plate"), (0.9, 0.9), objects, "tabletop")


def test_each_object_has_a_box_and_a_label_of_the_images_frame_and_stamp() -> None:
    markers = Markers().message(HEADER, grounding(CUP, PLATE)).markers
    assert [(m.ns, m.id) for m in markers] == [
        ("boxes", 4),
        ("labels", 4),
        ("boxes", 9),
        ("labels", 9),
    ]
    for marker in markers:
        assert marker.header == HEADER
        assert marker.action == Marker.ADD
        assert marker.lifetime.sec >= 1  # rviz drops what a node that ended has left
        assert marker.pose.orientation.w == 1.0
    box, label = markers[:2]
    assert (box.type, label.type) == (Marker.CUBE, Marker.TEXT_VIEW_FACING)
    assert (box.pose.position.x, box.pose.position.y, box.pose.position.z) == (0.1, 0.2, 0.8)
    assert (box.scale.x, box.scale.y, box.scale.z) == (0.1, 0.1, 0.1)
    assert label.text == "red cup 0.91 #4"
    assert label.pose.position.y < 0.2 - 0.05  # y points down (REP 103): above the box
    assert [markers[2].color.r * 255, markers[2].color.g * 255] == pytest.approx(PALETTE[1][:2])
    assert markers[2].scale.z > 0  # rviz refuses a box that is flat


def test_a_marker_goes_when_its_object_does() -> None:
    camera = Markers()
    camera.message(HEADER, grounding(CUP, PLATE))
    changed = camera.message(HEADER, grounding(CUP)).markers
    deleted = [(m.ns, m.id) for m in changed if m.action == Marker.DELETE]
    assert deleted == [("boxes", 9), ("labels", 9)]
    assert [m.id for m in changed if m.action == Marker.ADD] == [4, 4]
    assert [m.action for m in camera.message(HEADER, None).markers] == [Marker.DELETE] * 2
    assert camera.message(HEADER, None).markers == []


def test_what_has_no_place_in_space_has_no_marker() -> None:
    nowhere = (math.nan,) * 3
    lost = replace(PLATE, lost=0.2, position=nowhere, extent=nowhere)
    markers = Markers().message(HEADER, grounding(CUP, lost)).markers
    assert {m.id for m in markers} == {4}


def test_without_tracking_objects_are_numbered_by_their_place() -> None:
    first, second = replace(CUP, id=0), replace(PLATE, id=0)
    markers = Markers().message(HEADER, grounding(first, second)).markers
    assert [m.id for m in markers] == [1, 1, 2, 2]


def rotation(roll: float, pitch: float, yaw: float) -> npt.NDArray[np.float64]:
    """Fixed axes x, y, z, as tf2's setRPY and URDF have them."""
    (cr, cp, cy), (sr, sp, sy) = (
        [function(angle) for angle in (roll, pitch, yaw)] for function in (math.cos, math.sin)
    )
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )


# REP 103: from a camera's body (x forward, y left, z up) to its optical frame.
OPTICAL = rotation(-math.pi / 2, 0.0, -math.pi / 2)


@pytest.mark.parametrize(
    ("yaw", "expected"),
    [
        # Ahead of a camera 0.5 m above the base: 2 m forward, 0.4 m to the left, 0.2 m up.
        (0.0, (2.0, 0.4, 0.7)),
        # The same seen by a camera that looks to the left.
        (math.pi / 2, (-0.4, 2.0, 0.7)),
    ],
)
def test_a_thing_stands_where_it_is_in_the_robots_frame(
    yaw: float, expected: tuple[float, float, float]
) -> None:
    """A patch of depth -> position -> marker -> the robot's frame, by hand."""
    meters = np.full((100, 200), np.nan, np.float32)
    mask = np.zeros((100, 200), np.uint8)
    # With f = 100 and the center at (100, 50), 0.4 m to the left at 2 m is column 80, and 0.2 m
    # up is row 40.
    meters[36:45, 76:85] = 2.0
    mask[36:45, 76:85] = 1
    depth = Depth(meters, 100.0, 100.0, 100.0, 50.0)
    seen = replace(CUP, box=Box(76, 36, 9, 9), position=(math.nan,) * 3, extent=(math.nan,) * 3)
    (located,) = locate([seen], [mask], depth)
    (box, _) = Markers().message(HEADER, grounding(located)).markers
    point = box.pose.position
    in_camera = OPTICAL @ np.array([point.x, point.y, point.z])
    in_base = rotation(0.0, 0.0, yaw) @ in_camera + (0.0, 0.0, 0.5)
    np.testing.assert_allclose(in_base, expected, atol=0.02)


def test_tf2_agrees() -> None:
    """Needs tf2_geometry_msgs, which comes with a ROS 2 installation and not from PyPI."""
    reason = "tf2_geometry_msgs comes with ROS 2 only"
    tf2: Any = pytest.importorskip("tf2_geometry_msgs", reason=reason)
    from geometry_msgs.msg import TransformStamped

    transform = TransformStamped()
    transform.transform.translation.z = 0.5
    # The quaternion of roll -90, pitch 0, yaw -90 degrees.
    for axis, value in zip("xyzw", (-0.5, 0.5, -0.5, 0.5), strict=True):
        setattr(transform.transform.rotation, axis, value)
    (box, _) = Markers().message(HEADER, grounding(CUP)).markers
    moved = tf2.do_transform_pose(box.pose, transform)
    x, y, z = moved.position.x, moved.position.y, moved.position.z
    expected = OPTICAL @ np.array(CUP.position) + (0, 0, 0.5)
    np.testing.assert_allclose((x, y, z), expected, atol=1e-6)


def test_detections_in_space() -> None:
    """Needs vision_msgs, which comes with a ROS 2 installation and not from PyPI."""
    pytest.importorskip("vision_msgs", reason="vision_msgs comes with ROS 2 only")
    nowhere = replace(PLATE, position=(math.nan,) * 3, extent=(math.nan,) * 3)
    message = detections3d_message(HEADER, grounding(CUP, nowhere))
    (detection,) = message.detections
    assert message.header == detection.header == HEADER
    assert detection.id == "4"
    center, size = detection.bbox.center, detection.bbox.size
    assert (center.position.x, center.position.y, center.position.z) == (0.1, 0.2, 0.8)
    assert (center.orientation.x, center.orientation.w) == (0.0, 1.0)
    assert (size.x, size.y, size.z) == (0.1, 0.1, 0.1)
    (result,) = detection.results
    assert (result.hypothesis.class_id, result.hypothesis.score) == ("red cup", 0.91)
    assert result.pose.pose == center
