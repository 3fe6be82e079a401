"""Perception process of `siglip-perception robot --perception truth`: one that is never wrong.

    python -m siglip_perception.node.robot_truth --ros-args -p use_sim_time:=true

Publishes what the perception node would if it made no mistake: the true outlines and positions of
the things that the instruction names, from the simulator's robot/truth. What goes wrong with it is
not the perception's fault.
"""

from __future__ import annotations

import json
import sys

import cv2
import numpy as np
from geometry_msgs.msg import TransformStamped
from rclpy.node import Node
from rclpy.qos import QoSDurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo
from siglip_perception_msgs.msg import GroundedObject, GroundedObjectArray
from std_msgs.msg import String

from siglip_perception.language.instruction import Instruction, parse
from siglip_perception.node.robot_messages import CAMERA_FRAME, matrix_of
from siglip_perception.node.ros_process import spin_until_interrupted
from siglip_perception.robot.orders import class_of

LATCHED = QoSProfile(depth=1, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)


class TruePerception(Node):  # type: ignore[misc]
    """Takes the node's name and its topics."""

    def __init__(self) -> None:
        super().__init__("siglip_perception")
        self._instruction: Instruction | None = None
        self._number = 0
        self._info: CameraInfo | None = None
        self._camera_pose: TransformStamped | None = None
        self.create_subscription(String, "instruction", self._on_instruction, LATCHED)
        self.create_subscription(CameraInfo, "camera_info", self._on_info, 2)
        self.create_subscription(TransformStamped, "robot/camera_pose", self._on_camera, LATCHED)
        self.create_subscription(String, "robot/truth", self._on_truth, 2)
        self._objects = self.create_publisher(GroundedObjectArray, "~/objects", 2)

    def _on_instruction(self, message: String) -> None:
        self._instruction = parse(message.data)
        self._number += 1

    def _on_info(self, message: CameraInfo) -> None:
        self._info = message

    def _on_camera(self, message: TransformStamped) -> None:
        self._camera_pose = message

    def _on_truth(self, message: String) -> None:
        order, info, pose = self._instruction, self._info, self._camera_pose
        if order is None or info is None or pose is None:
            return
        content = json.loads(message.data)
        output = GroundedObjectArray(
            instruction=order.text, instruction_id=self._number, phrases=order.phrases
        )
        output.header.stamp.sec, output.header.stamp.nanosec = content["stamp"]
        output.header.frame_id = CAMERA_FRAME
        translation = pose.transform.translation
        origin = np.array([translation.x, translation.y, translation.z])
        rotation = matrix_of(pose.transform.rotation)
        mask = np.zeros((info.height, info.width), np.uint8)
        for phrase, role in zip(order.phrases, order.roles, strict=True):
            phrase_class = class_of(phrase)
            for thing in content["things"]:
                if phrase_class is None or not phrase_class.matches(thing["color"], thing["kind"]):
                    continue
                item = GroundedObject(phrase=phrase, score=0.99, role=int(role))
                center = (np.array(thing["center"]) - origin) @ rotation
                item.position.x, item.position.y, item.position.z = (float(v) for v in center)
                item.surface = item.position
                outline = np.array(thing["outline"], np.int32)
                x, y, width, height = cv2.boundingRect(outline)
                box = item.box
                box.x_offset, box.y_offset = max(x, 0), max(y, 0)
                box.width, box.height = max(width, 0), max(height, 0)
                output.objects.append(item)
                cv2.fillPoly(mask, [outline], len(output.objects))
        image = output.mask
        image.header, image.encoding = output.header, "mono8"
        image.height, image.width, image.step = info.height, info.width, info.width
        image.data.frombytes(mask.tobytes())
        self._objects.publish(output)


def main() -> int:
    """Run until SIGINT."""
    return spin_until_interrupted(TruePerception)


if __name__ == "__main__":
    sys.exit(main())
