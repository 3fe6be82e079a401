"""Poses of the simulated arm as ROS messages, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from geometry_msgs.msg import Pose as PoseMessage
from geometry_msgs.msg import PoseStamped, Quaternion

from siglip_perception.robot.arm import Pose

FRAME = "robot"
CAMERA_FRAME = "camera_optical"


def pose_message(pose: Pose, stamp: Any) -> PoseStamped:
    """Make a PoseStamped of the fingertips: the yaw is about z, the gripper points down."""
    message = PoseStamped()
    message.header.frame_id, message.header.stamp = FRAME, stamp
    position, rotation = message.pose.position, message.pose.orientation
    position.x, position.y, position.z = pose.x, pose.y, pose.z
    rotation.z, rotation.w = float(np.sin(pose.yaw / 2)), float(np.cos(pose.yaw / 2))
    return message


def pose_from_message(message: PoseMessage) -> Pose:
    """Read what pose_message() wrote."""
    position, rotation = message.position, message.orientation
    return Pose(position.x, position.y, position.z, 2 * float(np.arctan2(rotation.z, rotation.w)))


def matrix_of(rotation: Quaternion) -> np.ndarray:
    """Convert a unit quaternion to a rotation matrix [3, 3]."""
    w, x, y, z = rotation.w, rotation.x, rotation.y, rotation.z
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def quaternion_of(matrix: np.ndarray) -> Quaternion:
    """Convert a rotation matrix [3, 3] to a unit quaternion."""
    # The eigenvector of the largest eigenvalue (Bar-Itzhack 2000): no case is singular.
    m = matrix
    k = np.array(
        [
            [m[0, 0] - m[1, 1] - m[2, 2], 0, 0, 0],
            [m[0, 1] + m[1, 0], m[1, 1] - m[0, 0] - m[2, 2], 0, 0],
            [m[0, 2] + m[2, 0], m[1, 2] + m[2, 1], m[2, 2] - m[0, 0] - m[1, 1], 0],
            [
                m[2, 1] - m[1, 2],
                m[0, 2] - m[2, 0],
                m[1, 0] - m[0, 1],
                m[0, 0] + m[1, 1] + m[2, 2],
            ],
        ]
    )
    x, y, z, w = np.linalg.eigh(k)[1][:, -1]
    return Quaternion(x=float(x), y=float(y), z=float(z), w=float(w))
