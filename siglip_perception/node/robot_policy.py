"""Policy process of `siglip-perception robot`: acts on ~/objects, as your own policy would.

    python -m siglip_perception.node.robot_policy

It gets an order on robot/episode, passes its words on to the node's topic instruction, and sends
the arm from robot/gripper (where it is) to robot/goal and robot/opening. It knows nothing of the
simulator, only the pose of the camera that the driver publishes.
"""

from __future__ import annotations

import json
import sys
import time
from collections import OrderedDict
from dataclasses import asdict
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped, TransformStamped
from rclpy.node import Node
from rclpy.qos import QoSDurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, JointState
from siglip_perception_msgs.msg import GroundedObject, GroundedObjectArray
from std_msgs.msg import Float64, String

from siglip_perception.node.robot_messages import (
    matrix_of,
    pose_from_message,
    pose_message,
)
from siglip_perception.node.ros_process import spin_until_interrupted
from siglip_perception.robot.arm import FINGERS, REST, Pose
from siglip_perception.robot.observe import CameraModel, sighting
from siglip_perception.robot.policy import PickAndPlace, View
from siglip_perception.robot.referee import Status
from siglip_perception.stream.stamp_check import stamp_ns

PERIOD_S = 0.05
_CAPTURES = 50
LATCHED = QoSProfile(depth=1, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)


class RobotPolicy(Node):  # type: ignore[misc]
    """One order at a time; a new one replaces it."""

    def __init__(self) -> None:
        super().__init__("robot_policy")
        self._policy = PickAndPlace()
        self._episode: dict[str, Any] | None = None
        self._view: View | None = None
        self._info: CameraInfo | None = None
        self._camera_pose: TransformStamped | None = None
        self._gripper: Pose = REST
        self._gap: float | None = None
        self._has_both = False
        self._latency_ms: float | None = None
        self._captures: OrderedDict[int, float] = OrderedDict()
        self._since_ns = 0
        self.create_subscription(String, "robot/episode", self._on_episode, LATCHED)
        self.create_subscription(PoseStamped, "robot/gripper", self._on_gripper, 1)
        self.create_subscription(JointState, "joint_states", self._on_joints, 1)
        self.create_subscription(TransformStamped, "robot/camera_pose", self._on_camera, LATCHED)
        self.create_subscription(CameraInfo, "camera_info", self._on_info, 1)
        self.create_subscription(
            GroundedObjectArray, "siglip_perception/objects", self._on_objects, 1
        )
        self._instruction = self.create_publisher(String, "instruction", LATCHED)
        self._goal = self.create_publisher(PoseStamped, "robot/goal", 1)
        self._opening = self.create_publisher(Float64, "robot/opening", 1)
        self._status = self.create_publisher(String, "robot/status", 10)
        self.create_timer(PERIOD_S, self._act)

    def _on_episode(self, message: String) -> None:
        order = json.loads(message.data)
        if not order["instruction"]:
            # Called back: nothing is to be done until the next one.
            self._episode, self._view = None, None
            return
        is_new = self._episode is None or order["number"] != self._episode["number"]
        self._episode = order
        if is_new:
            self._policy = PickAndPlace()
        self._view, self._has_both, self._latency_ms = None, False, None
        self._since_ns = self.get_clock().now().nanoseconds
        self._instruction.publish(String(data=order["instruction"]))

    def _on_gripper(self, message: PoseStamped) -> None:
        self._gripper = pose_from_message(message.pose)

    def _on_joints(self, message: JointState) -> None:
        places = dict(zip(message.name, message.position, strict=True))
        self._gap = sum(places[name] for name in FINGERS)

    def _on_camera(self, message: TransformStamped) -> None:
        self._camera_pose = message

    def _on_info(self, message: CameraInfo) -> None:
        self._info = message
        # It comes with its image: what follows, in real time, is the latency.
        self._captures[stamp_ns(message.header)] = time.monotonic()
        while len(self._captures) > _CAPTURES:
            self._captures.popitem(last=False)

    def _on_objects(self, message: GroundedObjectArray) -> None:
        camera = self._camera()
        captured_ns = stamp_ns(message.header)
        if (
            camera is None
            or self._episode is None
            or message.instruction != self._episode["instruction"]
            or captured_ns < self._since_ns
        ):
            return
        capture = self._captures.get(captured_ns)
        if capture is not None:
            self._latency_ms = (time.monotonic() - capture) * 1000
        mask = np.frombuffer(message.mask.data, np.uint8).reshape(
            message.mask.height, message.mask.width
        )
        sightings = [
            sighting(
                item.phrase,
                item.role == GroundedObject.PLACE,
                item.score,
                (item.position.x, item.position.y, item.position.z),
                (mask == number + 1).astype(np.uint8),
                camera,
            )
            for number, item in enumerate(message.objects)
        ]
        located = tuple(item for item in sightings if item is not None)
        self._has_both |= {item.is_place for item in located} == {True, False}
        self._view = View(message.instruction_id, captured_ns / 1e9, located)

    def _camera(self) -> CameraModel | None:
        if self._info is None or self._camera_pose is None:
            return None
        k, transform = self._info.k, self._camera_pose.transform
        position = transform.translation
        return CameraModel(
            k[0],
            k[4],
            k[2],
            k[5],
            matrix_of(transform.rotation),
            np.array([position.x, position.y, position.z]),
        )

    def _act(self) -> None:
        if self._episode is None:
            return
        now = self.get_clock().now()
        command = self._policy.act(now.nanoseconds / 1e9, self._view, self._gripper, self._gap)
        self._goal.publish(pose_message(command.pose, now.to_msg()))
        self._opening.publish(Float64(data=command.opening))
        status = Status(
            number=self._episode["number"],
            instruction=self._episode["instruction"],
            step=self._policy.step.value,
            has_both=self._has_both,
            captured=None if self._view is None else self._view.stamp,
            latency_ms=self._latency_ms,
        )
        self._latency_ms = None
        self._status.publish(String(data=json.dumps(asdict(status))))


def main() -> int:
    """Run until SIGINT."""
    return spin_until_interrupted(RobotPolicy)


if __name__ == "__main__":
    sys.exit(main())
