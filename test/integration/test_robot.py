"""The robot over ROS 2: simulator and policy, with a perception that is perfect, and killed."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import rclpy
from watching import isolated, running

from siglip_perception.node.robot_messages import (
    matrix_of,
    pose_from_message,
    pose_message,
    quaternion_of,
)
from siglip_perception.robot.arm import Pose
from siglip_perception.robot.world import optical_frame


def test_a_pose_comes_through_a_message_unchanged() -> None:
    pose = Pose(0.1, -0.2, 0.3, 2.5)
    back = pose_from_message(pose_message(pose, rclpy.time.Time().to_msg()).pose)
    assert [back.x, back.y, back.z, back.yaw] == pytest.approx([0.1, -0.2, 0.3, 2.5])
    rotation, _ = optical_frame()
    assert np.allclose(matrix_of(quaternion_of(rotation)), rotation)


def child(pid: int, module: str) -> int:
    """The child of a process that runs a module of the package."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            command = (stat.parent / "cmdline").read_bytes().split(b"\0")
        except (OSError, IndexError):
            continue
        if parent == pid and f"siglip_perception.{module}".encode() in command:
            return int(stat.parent.name)
    raise AssertionError(f"no child of {pid} runs {module}")


@pytest.mark.slow
def test_a_perception_that_is_killed_costs_one_episode_and_the_next_begins(tmp_path: Path) -> None:
    if importlib.util.find_spec("mujoco") is None:
        pytest.skip("MuJoCo (extra robot) is not installed")
    command = [sys.executable, "-m", "siglip_perception.commands.main", "robot"]
    command += ["--perception", "truth", "--out", str(tmp_path), "--episodes", "2"]
    command += ["--instruction", "put the green block on the blue plate"]
    root = Path(__file__).parents[2]
    with running(command, isolated(tmp_path) | {"MUJOCO_GL": "egl"}, root) as process:
        line = process.wait_for_line("1 of 2 put the green block|cannot draw here")[0]
        if "cannot draw" in line:
            pytest.skip("this machine has no EGL")
        os.kill(child(process.popen.pid, "node.robot_truth"), signal.SIGKILL)
        simulator = child(process.popen.pid, "node.robot_simulator")
        process.wait_for_line(r"1 of 2 lost \(perception\)", timeout_s=180)
        process.wait_for_line("2 of 2 right", timeout_s=300)
        assert process.popen.wait(timeout=60) == 0
        assert not Path("/proc", str(simulator)).exists()
    content = json.loads((tmp_path / "results.json").read_text())
    first, second = content["episodes"]
    assert (first["lost"], first["lost_by"]) == (True, "perception")
    assert first["waited"]  # the arm stood still
    assert second["found"]
    assert second["lifted"]
    assert second["placed"]
    assert not second["disturbed"]
    assert second["right"]
    assert content["cases"]["none"]["lost"] == 1
    assert content["latency"]["frames"] > 5
    film = cv2.VideoCapture(str(tmp_path / "film.mp4"))
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) > 10
