"""The robot's loop over ROS 2: simulator and policy, with a perception that sees colors alone."""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rclpy
from peer import LATCHED, raw_image
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from sensor_msgs.msg import CameraInfo, Image
from siglip_perception_msgs.msg import GroundedObject, GroundedObjectArray
from std_msgs.msg import String
from watching import isolated, running

from siglip_perception.grounding.depth import depth_of, locate
from siglip_perception.language.instruction import parse
from siglip_perception.node.robot_messages import matrix_of, pose_message, quaternion_of
from siglip_perception.robot.arm import Pose
from siglip_perception.robot.world import optical_frame
from siglip_perception.scenes.vocabulary import COLORS
from siglip_perception.types import Box
from siglip_perception.types import GroundedObject as Found


def test_a_pose_comes_through_a_message_unchanged() -> None:
    pose = Pose(0.1, -0.2, 0.3, 2.5)
    back = pose_from(pose)
    assert [back.x, back.y, back.z, back.yaw] == pytest.approx([0.1, -0.2, 0.3, 2.5])
    rotation, _ = optical_frame()
    assert np.allclose(matrix_of(quaternion_of(rotation)), rotation)


def pose_from(pose: Pose) -> Pose:
    from siglip_perception.node.robot_messages import pose_from_message

    return pose_from_message(pose_message(pose, rclpy.time.Time().to_msg()).pose)


class ColorFinder:
    """Publishes what the node would: each phrase's thing is the largest patch of its color."""

    def __init__(self, node: Any) -> None:
        self._instruction = ""
        self._depths: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self._info: Any = None
        node.create_subscription(String, "instruction", self._on_instruction, LATCHED)
        node.create_subscription(Image, "depth", self._on_depth, 2)
        node.create_subscription(CameraInfo, "camera_info", self._on_info, 2)
        node.create_subscription(Image, "image", self._on_image, 2)
        self._objects = node.create_publisher(GroundedObjectArray, "siglip_perception/objects", 2)

    def _on_instruction(self, message: String) -> None:
        self._instruction = message.data

    def _on_info(self, message: CameraInfo) -> None:
        self._info = message

    def _on_depth(self, message: Image) -> None:
        self._depths[message.header.stamp.sec, message.header.stamp.nanosec] = message
        while len(self._depths) > 5:
            self._depths.popitem(last=False)

    def _on_image(self, message: Image) -> None:
        depth = self._depths.get((message.header.stamp.sec, message.header.stamp.nanosec))
        if depth is None or self._info is None or not self._instruction:
            return
        pixels = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)
        meters = depth_of(depth, self._info, message.width, message.height)
        output = GroundedObjectArray(instruction=self._instruction, instruction_id=1)
        output.header = message.header
        combined = np.zeros(pixels.shape[:2], np.uint8)
        order = parse(self._instruction)
        for phrase, role in zip(order.phrases, order.roles, strict=True):
            mask = self._largest(pixels, np.array(COLORS[phrase.split()[0]][0]))
            box = Box(*cv2.boundingRect(mask))
            found = Found(phrase, 0.9, 2.2, box, float(mask.mean()))
            (found,) = locate([found], [mask], meters)
            item = GroundedObject(phrase=phrase, score=0.9, role=int(role))
            item.position.x, item.position.y, item.position.z = found.position
            output.objects.append(item)
            combined[mask > 0] = len(output.objects)
        output.mask = raw_image(np.repeat(combined[..., None], 3, axis=2))
        output.mask.encoding, output.mask.step = "mono8", message.width
        output.mask.data = combined.tobytes()
        self._objects.publish(output)

    @staticmethod
    def _largest(pixels: np.ndarray, color: np.ndarray) -> Any:
        """The largest connected patch whose chromaticity is the color's."""
        values = pixels.astype(np.float32) + 1
        chroma = values / values.sum(axis=2, keepdims=True)
        distance = np.abs(chroma - color / color.sum()).sum(axis=2)
        near = (distance < 0.25).astype(np.uint8)
        _, labels, stats, _ = cv2.connectedComponentsWithStats(near)
        best = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax()) if len(stats) > 1 else 0
        return (labels == best).astype(np.uint8)


@contextmanager
def color_finder(domain: int) -> Iterator[None]:
    context = Context()
    rclpy.init(context=context, domain_id=domain)
    node = rclpy.create_node("color_finder", context=context)
    ColorFinder(node)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)

    def spin() -> None:
        try:
            executor.spin()
        except ExternalShutdownException:
            """The test is over."""

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    try:
        yield
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown(context=context)
        thread.join(timeout=10)


@pytest.mark.slow
def test_the_arm_lifts_and_places_what_a_perception_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec("mujoco") is None:
        pytest.skip("MuJoCo (extra robot) is not installed")
    environment = isolated(tmp_path) | {"MUJOCO_GL": "egl", "LP_NUM_THREADS": "1"}
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    policy = [sys.executable, "-m", "siglip_perception.node.robot_policy"]
    policy += ["--ros-args", "-p", "use_sim_time:=true"]
    # Episode 0 of this seed: "put the green block on the blue plate".
    simulator = [sys.executable, "-m", "siglip_perception.node.robot_simulator", str(tmp_path)]
    simulator += ["--episodes", "1", "--seed", "11"]
    root = Path(__file__).parents[2]
    with (
        color_finder(int(environment["ROS_DOMAIN_ID"])),
        running(policy, environment, root),
        running(simulator, environment, root) as process,
    ):
        code = process.popen.wait(timeout=180)
        if code == 2 and "cannot draw here" in (line := process.rest()):
            pytest.skip(f"this machine has no EGL: {line}")
        assert code == 0
    content = json.loads((tmp_path / "results.json").read_text())
    (episode,) = content["episodes"]
    assert episode["instruction"] == "put the green block on the blue plate"
    assert episode["found"]
    assert episode["lifted"]
    assert episode["placed"]
    assert not episode["disturbed"]
    assert episode["right"]
    film = cv2.VideoCapture(str(tmp_path / "film.mp4"))
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) > 10
